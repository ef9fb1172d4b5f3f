"""The processes of the chart start with the settings that their pods have: names, values, and what differs by role."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.runtime.settings import Settings, load_settings
from support.authority import PrivateAuthority
from support.charts.manifests import Pod, find_pods
from support.charts.rendering import EXAMPLES, Object, read_values, render

SECRETS = {
    "INGEST_DATABASE_URL": "postgresql://ingest:password@postgres/ingest",
    "INGEST_S3__ACCESS_KEY_ID": "key",
    "INGEST_S3__SECRET_ACCESS_KEY": "secret",
    "INGEST_RAY__AUTH_TOKEN": "token",
}
"""What a user puts into the Secret."""


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(read_values(request.param))


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A directory as the kubelet makes it of a Secret: hidden directories, and links to the files in them."""
    directory, current = tmp_path / "secrets", tmp_path / "secrets" / "..2026_11_28_16_00_00.1"
    current.mkdir(parents=True)
    (directory / "..data").symlink_to(current.name)
    for name, value in SECRETS.items():
        (current / name).write_text(value, encoding="utf-8")
        (directory / name).symlink_to(f"..data/{name}")
    return directory


def _variables(pod: Pod, objects: list[Object]) -> dict[str, str]:
    """The variables of a pod's container, as Kubernetes makes them."""
    container = pod.spec["containers"][0]
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    return found | {entry["name"]: entry["value"] for entry in container["env"]}


def _pods(objects: list[Object]) -> Iterator[tuple[str, Pod]]:
    """The pods with the component whose settings they have: that of a check is the one that it checks."""
    for pod in find_pods(objects):
        checks_gateway = pod.spec["containers"][0].get("command", [""])[-1] == "gateway"
        yield "gateway" if checks_gateway else pod.labels["app.kubernetes.io/component"], pod


def _load(variables: Mapping[str, str], secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if "INGEST_SECRETS_DIR" in variables:
        monkeypatch.setenv("INGEST_SECRETS_DIR", str(secrets))
    if "INGEST_TLS__CA_FILE" in variables:
        monkeypatch.setenv("INGEST_TLS__CA_FILE", str(PrivateAuthority(tmp_path).file))
    return load_settings()


def test_every_process_accepts_its_settings(
    objects: list[Object],
    secrets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No unknown name, no invalid value; the roles differ as they should, and only those with secrets have any."""
    seen = set()
    for component, pod in _pods(objects):
        settings = _load(_variables(pod, objects), secrets, tmp_path, monkeypatch)
        seen.add(component)
        if component in {"api", "dispatcher", "doctor"}:
            assert settings.dispatch.enabled is (component != "api")
            assert settings.api.host == "0.0.0.0"
            assert settings.data_dir == Path("/var/lib/ingest")
            assert not settings.database.migrate
            assert settings.state_url is not None
            assert settings.database_url == SECRETS["INGEST_DATABASE_URL"]
        elif component == "gateway":
            assert settings.gateway.host == "0.0.0.0"
            assert all(url.startswith("dns+http://") for url in settings.gateway.url)
            assert settings.database_url is None
            assert settings.s3.secret_access_key is None
        elif component == "migrations":
            assert settings.database_url == SECRETS["INGEST_DATABASE_URL"]
        if component == "api" and settings.spark.namespace is not None:
            account = {"name": settings.spark.service_account, "namespace": settings.spark.namespace}
            accounts = [each["metadata"] for each in objects if each["kind"] == "ServiceAccount"]
            assert [each["name"] for each in accounts if account.items() <= each.items()]
    assert seen >= {"api", "dispatcher", "migrations"}
    assert [record.message for record in caplog.records if "not a setting" in record.message] == []


def test_gateways_listen_where_their_clients_look(objects: list[Object]) -> None:
    """The URL of the gateways names their Service, its port and its namespace."""
    services = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Service"}
    for component, pod in _pods(objects):
        url: Any = _variables(pod, objects).get("INGEST_GATEWAY__URL") if component == "api" else None
        if url is not None:
            name, namespace, _ = url.removeprefix("dns+http://").split(".")
            assert services[name]["metadata"]["namespace"] == namespace
            assert services[name]["spec"]["ports"][0]["port"] == int(url.rsplit(":", 1)[1])
            assert services[name]["spec"]["clusterIP"] == "None"
