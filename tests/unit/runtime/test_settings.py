"""Settings from the environment and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_engine.runtime.settings import SettingsError, load_settings


def test_files_of_the_secrets_directory_are_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment overrides them, line ends are dropped, and files of other programs are not read."""
    names = ("INGEST_S3__SECRET_ACCESS_KEY", "INGEST_QDRANT__API_KEY", "INGEST_S3__REGION")
    for name in names:
        # Set and removed, so that what is loaded is removed after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
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
