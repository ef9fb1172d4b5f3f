"""`ingest doctor` on the command line: settings that cannot be read, exit codes, wrong names."""

from __future__ import annotations

import json
import os

import pytest

from ingestion_engine.cli import app
from ingestion_engine.cli.output import run_app
from support.servers import free_port


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell of a developer may have settings."""
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("INGEST_STATE_URI", "s3://state", "did you mean INGEST_STATE_URL?"),
        ("INGEST_TLS__CA_FILE", "/no/such.pem", "INGEST_TLS__CA_FILE"),
        ("INGEST_SECRETS_DIR", "/no/such/directory", "INGEST_SECRETS_DIR: the directory cannot be read"),
        ("INGEST_QDRANT__API_KEYS", "the-secret", "did you mean INGEST_QDRANT__API_KEY?"),
    ],
)
def test_settings_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, words: str
) -> None:
    """They are a result as any other, also in JSON, and the value is not shown."""
    monkeypatch.setenv(name, value)
    assert run_app(app, ["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (found,) = report["checks"]
    assert (report["ok"], found["name"], found["state"], found["code"]) == (False, "settings", "failed", "settings")
    assert words in found["detail"]
    assert found["hint"].startswith("Correct the variables named")
    assert "the-secret" not in json.dumps(report)


def test_warnings_fail_only_when_they_are_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--strict`` is for installations that are to be perfect."""
    monkeypatch.setenv("INGEST_API__HOST", "0.0.0.0")
    monkeypatch.setenv("INGEST_API__ALLOW_ANONYMOUS", "true")
    assert run_app(app, ["doctor", "--only", "api-keys"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["warning", "->", "ok:"]
    assert run_app(app, ["doctor", "--only", "api-keys", "--strict"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "not ok: 1 warning"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Add --bucket NAME"),
        (["--bucket", "docs", "--read-only"], "cannot be combined with --read-only"),
        (["--bucket", "docs", "--role", "worker"], "cannot be combined with --role worker"),
        (["--bucket", "docs", "--engine", "local"], "'local' is no engine"),
    ],
)
def test_a_job_is_submitted_only_with_all_it_needs(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """A wrong command line, before anything is checked."""
    assert run_app(app, ["doctor", "--submit", *arguments]) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_job_without_a_service_names_what_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checks of systems need no service; this one does."""
    monkeypatch.setenv("INGEST_API_KEY", "made-up-secret")
    url = f"http://127.0.0.1:{free_port()}"
    assert run_app(app, ["doctor", "--only", "tls", "--submit", "--bucket", "docs", "--url", url, "--json"]) == 1
    shown = capsys.readouterr().out
    found = json.loads(shown)["checks"][-1]
    assert (found["name"], found["state"], found["code"]) == ("job", "failed", "api_unreachable")
    assert found["hint"].startswith("Start")
    assert "made-up-secret" not in shown


def test_a_check_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line, with the names that there are."""
    assert run_app(app, ["doctor", "--only", "qdrnt"]) == 2
    assert "settings" in capsys.readouterr().err
