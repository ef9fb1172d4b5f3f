"""Settings from the environment and from files."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from ingestion_engine.runtime.settings import Settings, SettingsError, _list_names, load_settings


def test_files_of_the_secrets_directory_are_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment overrides them, line ends are dropped, and files of other programs are not read."""
    names = ("INGEST_S3__SECRET_ACCESS_KEY", "INGEST_QDRANT__API_KEY", "INGEST_S3__REGION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
        (tmp_path / name).write_text(f"file of {name}\n", encoding="utf-8")
    (tmp_path / "keystore").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("INGEST_S3__REGION", "eu-west-1")
    settings = load_settings()
    assert settings.s3.secret_access_key is not None
    assert settings.s3.secret_access_key.get_secret_value() == "file of INGEST_S3__SECRET_ACCESS_KEY"
    assert settings.qdrant.api_key is not None
    assert settings.qdrant.api_key.get_secret_value() == "file of INGEST_QDRANT__API_KEY"
    assert settings.s3.region == "eu-west-1"
    assert not {"INGEST_S3__SECRET_ACCESS_KEY", "INGEST_QDRANT__API_KEY"} & os.environ.keys(), "children inherit them"


def test_a_directory_of_secrets_that_is_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that is not mounted must not look like a service without credentials."""
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"INGEST_SECRETS_DIR: .*No such file"):
        load_settings()
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=r"INGEST_SECRETS_DIR: .*Not a directory"):
        load_settings()
    (tmp_path / "INGEST_STATE_URL").write_bytes(b"\xff")
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=r"INGEST_SECRETS_DIR: .*not UTF-8"):
        load_settings()


def test_an_empty_value_of_what_may_be_unset_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files write `NAME=` for what is not set; an empty image or token fails far away, with another message."""
    for name in ("INGEST_SPARK__IMAGE", "INGEST_RAY__AUTH_TOKEN", "INGEST_TLS__CA_FILE", "INGEST_QDRANT__SHARDS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("INGEST_API__KEYS_FILE", "")
    (tmp_path / "INGEST_STATE_URL").write_text("\n", encoding="utf-8")
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(tmp_path))
    settings = load_settings()
    assert settings.spark.image is settings.ray.auth_token is settings.tls.ca_file is settings.qdrant.shards is None
    assert settings.state_url is None
    assert settings.api.keys_file is not None, "a name that was lost on the way does not open the API"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("INGEST_STATEURL", "INGEST_STATE_URL"),
        ("INGEST_API_PORT", "INGEST_API__PORT"),
        ("INGEST_QDRNT__URL", "INGEST_QDRANT__URL"),
        ("INGEST_S3__ENDPOINT", "INGEST_S3__ENDPOINT_URL"),
        ("INGEST_LOGLEVEL", "INGEST_LOG_LEVEL"),
        ("INGEST_SECRET_DIR", "INGEST_SECRETS_DIR"),
    ],
)
def test_a_misspelt_variable_is_an_error(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignored in silence, it costs an hour."""
    monkeypatch.setenv(name, "8080")
    with pytest.raises(SettingsError, match=f"{name}: no such setting; did you mean {meant}"):
        load_settings()


def test_a_misspelt_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of files are names of variables."""
    (tmp_path / "INGEST_S3__SECRET_KEY_ACCESS").write_text("x", encoding="utf-8")
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="INGEST_S3__SECRET_ACCESS_KEY"):
        load_settings()


def test_variables_of_others_do_no_harm(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Kubernetes describes a service "ingest" or "ingest-api" in variables; what is unlike any setting is logged."""
    links = {
        "INGEST_SERVICE_HOST": "10.0.0.7",
        "INGEST_SERVICE_PORT": "80",
        "INGEST_SERVICE_PORT_HTTP": "80",
        "INGEST_PORT": "tcp://10.0.0.7:80",
        "INGEST_API_PORT": "tcp://10.0.0.7:80",
        "INGEST_API_PORT_80_TCP": "tcp://10.0.0.7:80",
        "INGEST_API_PORT_80_TCP_PORT": "80",
        "INGEST_API_PORT_80_TCP_ADDR": "10.0.0.7",
    }
    for name, value in {**links, "INGEST_API_URL": "http://x", "INGEST_PLANTED_BY_OTHERS": "secret"}.items():
        monkeypatch.setenv(name, value)
    load_settings()
    load_settings()
    assert [record.getMessage() for record in caplog.records] == [
        "INGEST_PLANTED_BY_OTHERS is not a setting and is ignored"
    ]


def test_every_unrelated_pair_of_names_stays_apart() -> None:
    """The threshold for typing errors is far from the similarity of a wrong name to another setting."""
    for foreign in ("HOME", "TOKEN", "CONFIG", "ENV", "VERSION", "BUILD_ID", "DEBUG", "HOST", "TENANT", "CLUSTER"):
        short = [name.removeprefix("INGEST_") for name in _list_names()]
        assert not difflib.get_close_matches(foreign, short, n=1, cutoff=0.75), foreign


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), ("", "no certificate"), ("not PEM", "no certificate")]
)
def test_a_file_of_authorities_is_checked_at_once(
    content: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the first request, hours later."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    monkeypatch.setenv("INGEST_TLS__CA_FILE", str(file))
    with pytest.raises(SettingsError, match=f"INGEST_TLS__CA_FILE: .*{reason}"):
        load_settings()


@pytest.mark.parametrize("value", ["1g", "512m", "2048", "1GB", "470M", "0.5g", "lots", "0g", "1 g", "-1g", ""])
def test_an_amount_of_memory_is_one_that_spark_reads(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark refuses others when a job is submitted; the service says so at its start, and names the variable."""
    monkeypatch.setenv("INGEST_SPARK__DRIVER_MEMORY", value)
    if value in {"1g", "512m", "2048", "1GB", "470M"}:
        assert load_settings().spark.driver_memory == value
        return
    with pytest.raises(SettingsError, match=r"INGEST_SPARK__DRIVER_MEMORY: .*for example 512m"):
        load_settings()


def test_labels_are_a_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes refuses every application with a label of another form, so the service does not start with one."""
    monkeypatch.setenv("INGEST_SPARK__LABELS", "kueue.x-k8s.io/queue-name=batch, team=,")
    assert load_settings().spark.labels == ("kueue.x-k8s.io/queue-name=batch", "team=")
    for wrong in ("queue", "=batch", "a=b c", "Kueue.io/x=y", f"a={'x' * 64}"):
        monkeypatch.setenv("INGEST_SPARK__LABELS", wrong)
        with pytest.raises(SettingsError, match="INGEST_SPARK__LABELS"):
            load_settings()


@pytest.mark.parametrize("value", ["hunter2", '{"secret_access_key": "hunter2",}', ""])
def test_a_group_that_is_no_json_is_an_error_without_its_value(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended every command with a traceback."""
    monkeypatch.setenv("INGEST_S3", value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith("INGEST_S3: ")
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_spec_has_no_password_of_a_url_and_every_process_uses_its_own() -> None:
    """Whatever server it is of; a spec of a former release keeps the one that it has."""
    settings = Settings(
        s3={"endpoint_url": "http://s3-user:pass-1@s3:9000"},
        ollama={"urls": ["http://user:pass-2@one:11434#8", "http://two:11434"]},
        gateway={"url": ["https://user:pass-3@gateway/"]},
        qdrant={"url": "http://user:pass-4@qdrant:6333"},
        weaviate={"url": "http://user:pass-5@weaviate", "grpc_url": "http://user:pass-6@weaviate:50051"},
    )
    endpoints = settings.endpoints()
    assert "pass-" not in repr(endpoints)
    assert endpoints["qdrant"]["url"] == "http://qdrant:6333"
    assert Settings().with_endpoints(endpoints).ollama.urls == ("https://gateway/",)
    restored = settings.with_endpoints(endpoints)
    assert restored.gateway.url == ("https://user:pass-3@gateway/",)
    assert restored.s3.endpoint_url == "http://s3-user:pass-1@s3:9000"
    assert (restored.weaviate.url, restored.weaviate.grpc_url) == (settings.weaviate.url, settings.weaviate.grpc_url)
    worker = Settings(ollama={"urls": ["http://user:pass-7@one:11434"]})
    direct = settings.model_copy(update={"gateway": Settings().gateway})
    assert worker.with_endpoints(direct.endpoints()).ollama.urls == (
        "http://user:pass-7@one:11434#8",
        "http://two:11434",
    )
    former = {"ollama": {"urls": ["http://user:old@one:11434"]}}
    assert worker.with_endpoints(former).ollama.urls == ("http://user:old@one:11434",)
