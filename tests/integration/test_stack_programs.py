"""The embedded stack with programs of the machine in place of its own servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ingestion_devstack.stack.credentials import load_or_make_credentials
from ingestion_devstack.stack.programs import Program, Programs, find_programs
from ingestion_devstack.stack.real_servers import plan_minio, plan_weaviate_server
from ingestion_devstack.stack.service import Home, StackError
from ingestion_devstack.stack.stack import Stack
from ingestion_devstack.stack.up import render_table
from ingestion_engine.runtime.settings import Settings
from support.answering import serving
from support.scripted_programs import install_program

LEAKING = {
    "QDRANT__SERVICE__HOST": "0.0.0.0",
    "QDRANT__CLUSTER__ENABLED": "true",
    "AUTHENTICATION_OIDC_ENABLED": "true",
    "CLUSTER_JOIN": "other:7946",
}
"""Variables of a shell that would open the servers, or make them part of a cluster."""


class FixedPorts:
    """Gives every name the same port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def take(self, name: str, preferred: int = 0, *, grpc_twin: bool = False) -> int:
        return self.port


def make_home(folder: Path, port: int) -> Home:
    ports: Any = FixedPorts(port)
    return Home(folder, ports, load_or_make_credentials(folder / "credentials.json"))


def cells(stack: Stack) -> dict[str, str]:
    """The last column of the table of systems, by the first."""
    table = render_table(stack)
    first, _, last = ([str(cell) for cell in column.cells] for column in table.columns)
    return dict(zip(first, last, strict=True))


def test_programs_take_the_place_of_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They get their ports, keys and directories, nothing of the shell, and the product reaches them."""
    paths = {name: install_program(tmp_path / "bin", name) for name in ("ollama", "qdrant", "weaviate")}
    named = {f"INGEST_STACK__{name.upper()}": str(path) for name, path in paths.items()}
    programs = find_programs({**named, "INGEST_STACK__MINIO": "off", "PATH": ""}, "hash-384")
    for name, value in {**LEAKING, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    data = tmp_path / "data"
    with Stack(Settings(data_dir=data), only=paths, with_api=False, programs=programs) as stack:
        shown = cells(stack)
        assert shown["Qdrant"] == f"real server, version 1.19.0: {paths['qdrant']}"
        assert shown["Weaviate"].startswith(f"real server: {paths['weaviate']}; gRPC on port ")
        assert f"OLLAMA_HOST=127.0.0.1:{stack.services['ollama'].url.rpartition(':')[2]} " in shown["Ollama"]
        assert shown["Ollama"].endswith(" pull all-minilm")
        settings = stack.settings
        assert settings.qdrant.url is not None
        assert settings.qdrant.api_key is not None
        key = settings.qdrant.api_key.get_secret_value()
        url = f"{settings.qdrant.url}/collections"
        assert httpx.get(url, headers={"api-key": key}).status_code == 200
        assert httpx.get(url).status_code in {401, 403}
    made = {path.name for path in data.iterdir()}
    assert {"qdrant-server", "weaviate-server"} <= made
    assert not {"qdrant", "weaviate"} & made
    assert (data / "qdrant-server" / "initialized").exists()


def test_data_of_program_and_stand_in_are_apart(tmp_path: Path) -> None:
    """Switching to and fro changes no data of either."""
    path = install_program(tmp_path / "bin", "qdrant")
    real = Programs({"qdrant": Program(path, "1.19.0", is_named=True)}, {})
    names = []
    for number, programs in enumerate((real, Programs({}, {"qdrant": "not it: old"}), real)):
        with Stack(Settings(data_dir=tmp_path / "data"), only={"qdrant"}, with_api=False, programs=programs) as stack:
            key = stack.env["INGEST_QDRANT__API_KEY"]
            with httpx.Client(base_url=stack.env["INGEST_QDRANT__URL"], headers={"api-key": key}) as http:
                body = {"vectors": {"size": 2, "distance": "Dot"}}
                assert http.put(f"/collections/c{number}", json=body).status_code == 200
                found = http.get("/collections").json()["result"]["collections"]
            names.append({each["name"] for each in found})
            assert ("not it: old" in cells(stack)["Qdrant"]) is (number == 1)
    assert names == [{"c0"}, {"c1"}, {"c0", "c2"}]


def test_a_program_that_refuses_to_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    path = install_program(tmp_path / "bin", "qdrant")
    path.write_text("#!/bin/sh\necho 'this CPU is not supported'; exit 3\n")
    programs = Programs({"qdrant": Program(path, "1.19.0", is_named=True)}, {})
    stack = Stack(Settings(data_dir=tmp_path / "data"), only={"qdrant"}, with_api=False, programs=programs)
    with pytest.raises(StackError, match=r"(?s)Qdrant ended with exit code 3\..*this CPU is not supported"), stack:
        pass


@pytest.mark.parametrize(("version", "refused"), [("1.28.4", True), ("1.29.0", False), ("1.34.0", False)])
def test_weaviate_says_its_version_when_it_runs(tmp_path: Path, version: str, refused: bool) -> None:
    answers = {
        "/v1/.well-known/ready": lambda _body: (200, {}),
        "/v1/meta": lambda _body: (200, {"version": version}),
    }
    with serving(answers) as url:
        home = make_home(tmp_path, int(url.rpartition(":")[2]))
        plan = plan_weaviate_server(home, Program(Path("/opt/weaviate"), "", is_named=True))
        if refused:
            with pytest.raises(
                StackError, match=r"/opt/weaviate cannot be used: .*1\.28\.4.*INGEST_STACK__WEAVIATE=off"
            ):
                plan.is_ready()
        else:
            assert plan.is_ready()


def test_how_minio_is_started(tmp_path: Path) -> None:
    """On loopback, without a console, with a directory and certificates of its own; no secret on the command line."""
    home = make_home(tmp_path, 9000)
    plan = plan_minio(home, Program(Path("/opt/minio"), "2025-09-07", is_named=True), ("docs",))
    folder = tmp_path / "minio"
    assert plan.command == (
        *("/opt/minio", "server", "--quiet", "--address", "127.0.0.1:9000"),
        *("--certs-dir", str(folder / "certs"), str(folder / "data")),
    )
    assert plan.env["MINIO_ROOT_PASSWORD"] == home.credentials.s3_secret_access_key
    assert plan.env["MINIO_BROWSER"] == "off"
    assert not set(plan.env.values()) & set(plan.command)
    assert plan.variables["INGEST_S3__ENDPOINT_URL"] == "http://127.0.0.1:9000"
