"""``ingest upload`` against a real S3 server."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.listing import list_pages
from ingestion_engine.adapters.s3.upload import KEY_MAX_BYTES, find_files
from ingestion_engine.cli import app as command
from ingestion_engine.cli.output import ExitCode, run_app
from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.runtime.settings import S3Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with plain, hidden and linked files."""
    root = tmp_path / "handbook"
    for name in ("a.txt", "it/b & c.md", "it/deep/ü.txt", ".hidden", ".git/config", "it/.cache/x"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    (root / "linked.txt").symlink_to(root / "a.txt")
    (root / "loop").symlink_to(root)
    (root / "broken").symlink_to(root / "nowhere")
    return root


@pytest.fixture(autouse=True)
def configured(s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3_settings.endpoint_url
    assert s3_settings.access_key_id
    assert s3_settings.secret_access_key
    monkeypatch.setenv("INGEST_S3__ENDPOINT_URL", s3_settings.endpoint_url)
    monkeypatch.setenv("INGEST_S3__ACCESS_KEY_ID", s3_settings.access_key_id.get_secret_value())
    monkeypatch.setenv("INGEST_S3__SECRET_ACCESS_KEY", s3_settings.secret_access_key.get_secret_value())


def read_all(settings: S3Settings, bucket: str) -> dict[str, str]:
    client = make_client(settings)
    keys = [entry.key for page in list_pages(client, bucket, "") for entry in page]
    found = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys}
    client.close()
    return found


def test_a_directory_is_uploaded_below_the_prefix(
    folder: Path, s3_settings: S3Settings, s3_bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys are relative to the directory; hidden files and linked directories are left out; repeating replaces."""
    expected = {
        "docs/a.txt": "a.txt",
        "docs/it/b & c.md": "it/b & c.md",
        "docs/it/deep/ü.txt": "it/deep/ü.txt",
        "docs/linked.txt": "a.txt",
    }
    total = sum(len(text.encode()) for text in expected.values())
    for target in ("docs", "docs/"):
        assert run_app(command, ["upload", str(folder), f"s3://{s3_bucket}/{target}"]) == 0
        assert f"4 files, {total} bytes" in capsys.readouterr().out
        assert read_all(s3_settings, s3_bucket) == expected


def test_a_file_is_uploaded_under_its_name(
    folder: Path, s3_settings: S3Settings, s3_bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a prefix the name alone is the key; ``--json`` reports the numbers."""
    assert run_app(command, ["upload", str(folder / "a.txt"), f"s3://{s3_bucket}", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out) == {"bucket": s3_bucket, "prefix": "", "files": 1, "bytes": 5}
    assert read_all(s3_settings, s3_bucket) == {"a.txt": "a.txt"}


def test_a_missing_bucket_has_a_hint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One error, before any file is read."""
    assert run_app(command, ["upload", str(folder), "s3://no-such-bucket-here"]) == ExitCode.UNEXPECTED
    shown = capsys.readouterr().err
    assert "no-such-bucket-here" in shown
    assert "create the bucket" in shown


def test_wrong_credentials_have_a_hint(
    folder: Path, s3_bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable to check."""
    monkeypatch.setenv("INGEST_S3__SECRET_ACCESS_KEY", "another")
    assert run_app(command, ["upload", str(folder), f"s3://{s3_bucket}"]) == ExitCode.UNEXPECTED
    assert "INGEST_S3__ACCESS_KEY_ID" in capsys.readouterr().err


def test_an_unreachable_server_has_a_hint(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable to check."""
    monkeypatch.setenv("INGEST_S3__ENDPOINT_URL", "http://127.0.0.1:9")
    assert run_app(command, ["upload", str(folder), "s3://docs"]) == ExitCode.UNEXPECTED
    assert "INGEST_S3__ENDPOINT_URL" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["./docs/a", "s3://", "file:///tmp"])
def test_a_target_that_is_no_s3_uri_is_refused(folder: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2; the message shows the form."""
    assert run_app(command, ["upload", str(folder), target]) == ExitCode.USAGE
    assert "s3://bucket/prefix" in capsys.readouterr().err


def test_a_missing_or_empty_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 for both."""
    assert run_app(command, ["upload", str(tmp_path / "none"), "s3://docs"]) == ExitCode.USAGE
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / ".hidden").touch()
    assert run_app(command, ["upload", str(tmp_path), "s3://docs"]) == ExitCode.USAGE
    assert "no files" in capsys.readouterr().err


def test_names_that_s3_does_not_accept_are_refused(tmp_path: Path) -> None:
    """Before the first request; the file is named."""
    (tmp_path / "a").touch()
    with pytest.raises(ObjectError, match="1025 bytes"):
        find_files(tmp_path, "p" * (KEY_MAX_BYTES - 1))
    (tmp_path / os.fsdecode(b"\xff")).touch()
    with pytest.raises(ObjectError, match="UTF-8"):
        find_files(tmp_path, "")
