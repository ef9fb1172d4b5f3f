"""This process's own checks, each thing broken in turn: the line that helps."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingestion_engine.doctor.context import Role
from ingestion_engine.doctor.findings import State
from ingestion_engine.runtime.settings import Settings
from support.doctoring import diagnose, worst


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell of a developer may have settings."""
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        monkeypatch.delenv(name)


async def test_where_the_settings_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names only; what is no setting, and no variable that Kubernetes makes for a service, is a warning."""
    (tmp_path / "INGEST_S3__SECRET_ACCESS_KEY").write_text("of-the-file")
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("INGEST_STATE_URL", "s3://state")
    monkeypatch.setenv("INGEST_API_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("INGEST_WHATEVER", "x")
    good, unknown = await diagnose(Settings(), "settings")
    assert good.facts["files"] == ["INGEST_S3__SECRET_ACCESS_KEY"]
    assert good.facts["environment"] == ["INGEST_SECRETS_DIR", "INGEST_STATE_URL", "INGEST_WHATEVER"]
    assert (unknown.state, unknown.detail) == (State.WARNING, "No such settings, ignored: INGEST_WHATEVER.")


async def test_authorities_that_expire(tmp_path: Path) -> None:
    """One that has expired fails, one that expires soon warns, and each is named."""
    file = tmp_path / "authorities.pem"
    now = datetime.now(UTC)
    ends = {"Good": now + timedelta(days=900), "Soon": now + timedelta(days=9), "Gone": now - timedelta(days=1)}
    file.write_bytes(b"".join(make_authority(name, end) for name, end in ends.items()))
    found = await diagnose(Settings(tls={"ca_file": file}), "tls")
    assert [(one.state, one.target) for one in found] == [
        (State.OK, ""),
        (State.FAILED, "Gone"),
        (State.WARNING, "Soon"),
    ]
    assert found[0].facts == {"authorities": 3}


def make_authority(name: str, end: datetime) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


async def test_a_directory_for_temporary_files_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with a read-only root file system and no volume."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    (found,) = await diagnose(Settings(), "temp")
    assert (found.state, found.code) == (State.FAILED, "temp_files_failed")
    assert found.hint.startswith("Set TMPDIR to a directory that this user can write")


async def test_too_little_space_for_large_objects() -> None:
    """Only workers need it."""
    settings = Settings(worker={"decompressed_max_bytes": 2**60})
    assert worst(await diagnose(settings, "temp")).state is State.OK
    found = worst(await diagnose(settings, "temp", role=Role.WORKER))
    assert (found.state, found.hint.split(",")[0]) == (State.WARNING, "Set TMPDIR to a larger disk")


async def test_api_keys(tmp_path: Path) -> None:
    """A broken file fails; no file is fine on loopback only."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([{"name": "all", "key_sha256": "0" * 64}]))
    (found,) = await diagnose(Settings(api={"keys_file": file}), "api-keys")
    assert (found.state, found.facts["keys"]) == (State.OK, 1)
    file.write_text(json.dumps([{"name": "old", "key_sha256": "0" * 64, "expires_at": "2020-01-01T00:00:00Z"}]))
    (found,) = await diagnose(Settings(api={"keys_file": file}), "api-keys")
    assert (found.state, found.facts) == (State.WARNING, {"keys": 0, "ended": 1})
    tomorrow = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).isoformat()
    file.write_text(json.dumps([{"name": "soon", "key_sha256": "0" * 64, "expires_at": tomorrow}]))
    (found,) = await diagnose(Settings(api={"keys_file": file}), "api-keys")
    assert (found.state, "14 days: soon" in found.detail) == (State.WARNING, True)
    (found,) = await diagnose(Settings(api={"database_keys": True, "host": "0.0.0.0"}), "api-keys")
    assert found.state is State.OK
    file.write_text("[{}]")
    (found,) = await diagnose(Settings(api={"keys_file": file}), "api-keys")
    assert (found.state, found.code) == (State.FAILED, "settings")
    assert (await diagnose(Settings(), "api-keys"))[0].state is State.NOT_CONFIGURED
    (found,) = await diagnose(Settings(api={"host": "0.0.0.0"}), "api-keys")
    assert (found.state, found.code) == (State.FAILED, "settings")
    assert "ALLOW_ANONYMOUS" in found.hint
    (found,) = await diagnose(Settings(api={"host": "0.0.0.0", "allow_anonymous": True}), "api-keys")
    assert found.state is State.WARNING


async def test_tesseract_is_needed_only_where_it_is_switched_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Absent, without a language, and whole; the hint names Debian's packages."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = await diagnose(Settings(), "ocr")
    assert found.state is State.NOT_CONFIGURED
    settings = Settings(ocr={"enabled": True, "languages": "eng+deu"})
    (found,) = await diagnose(settings, "ocr")
    assert (found.state, found.code) == (State.FAILED, "ocr_unavailable")
    assert "tesseract-ocr tesseract-ocr-eng tesseract-ocr-deu" in found.hint
    program = tmp_path / "tesseract"
    program.write_text("#!/bin/sh\necho 'tesseract 5.3.4\neng'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (found,) = await diagnose(settings, "ocr")
    assert found.detail == "tesseract lacks the languages deu."
    program.write_text("#!/bin/sh\necho 'tesseract 5.3.4\neng\ndeu'\n")
    (found,) = await diagnose(settings, "ocr")
    assert (found.state, found.detail) == (State.OK, "tesseract 5.3.4, languages eng+deu")


async def test_a_parser_process_starts() -> None:
    """The worker's own way of reading documents."""
    (found,) = await diagnose(Settings(), "parsers", role=Role.WORKER)
    assert found.state is State.OK
