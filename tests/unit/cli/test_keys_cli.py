"""The commands that make and end API keys."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.access.keys.file import KeyRing
from ingestion_engine.access.keys.form import hash_key, read_key_id
from ingestion_engine.cli import app
from ingestion_engine.cli.output import run_app


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INGEST_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


class Result:
    def __init__(self, code: int, out: str, errors: str) -> None:
        self.code, self.out, self.errors = code, out, errors

    @property
    def json(self) -> Any:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def ingest(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Result:
        code = run_app(app, ["keys", *arguments])
        found = capsys.readouterr()
        return Result(code, found.out, found.err)

    return run


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        monkeypatch.setenv("INGEST_API__KEYS_FILE", str(folder / "keys.json"))
    else:
        monkeypatch.setenv("INGEST_API__DATABASE_KEYS", "true")
    return str(request.param)


def test_a_key_is_shown_once_and_nowhere_else(ingest: Any, place: str, folder: Path) -> None:
    """Alone on standard output, for a pipe; what is stored and listed has no secret."""
    made = ingest("create", "team", "--scope", "search,read", "--scope", "submit", "--bucket", "docs-*")
    assert made.code == 0
    key = made.out.strip()
    assert isinstance(read_key_id(key), str)
    assert key not in made.errors
    assert "search,read,submit" in made.errors
    listed = ingest("list", "--json")
    (entry,) = listed.json
    assert (entry["name"], entry["state"], entry["scopes"]) == ("team", "valid", ["search", "read", "submit"])
    assert (entry["buckets"], entry["collections"], entry["expires_at"]) == (["docs-*"], ["*"], None)
    secret = key.rpartition("_")[2]
    shown = listed.out + ingest("list").out
    assert hash_key(key) not in shown
    stored = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert secret.encode() not in stored
    assert secret not in shown


def test_changes_of_keys_are_lines_of_the_audit_log(
    ingest: Any, place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the keys are; without secrets and hashes. Lists are no changes, and a full disk takes no key away."""
    monkeypatch.setenv("INGEST_AUDIT__FILE", str(folder / "log" / "audit.jsonl"))
    keys = [ingest("create", "team", "--bucket", "docs-*").out, ingest("rotate", "team").out]
    ingest("list")
    assert ingest("revoke", "team").code == 0
    text = (folder / "log" / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["operation"] for line in lines] == ["keys.create", "keys.rotate", "keys.revoke"]
    assert {(line["subject"], line["kind"], line["outcome"]) for line in lines} == {("team", "command", "done")}
    assert lines[0]["details"] == {"scopes": "read, search", "buckets": "docs-*"}
    for key in keys:
        assert key.strip().rpartition("_")[2] not in text
        assert hash_key(key.strip()) not in text
    monkeypatch.setenv("INGEST_AUDIT__FILE", str(folder / "log" / "audit.jsonl" / "below"))
    made = ingest("create", "other")
    assert (made.code, "is not recorded there" in made.errors) == (0, True)
    assert made.out


def test_a_key_is_rotated_and_revoked(ingest: Any, place: str) -> None:
    """By name or by id; the list says so."""
    first = ingest("create", "team", "--expires", "90d", "--json").json[0]
    assert first["expires_at"] is not None
    second = ingest("rotate", "team", "--json").json[0]
    assert (second["id"], second["state"]) == (first["id"], "rotating")
    assert second["key"] != first["key"]
    assert "counts until" in ingest("rotate", "team").errors
    assert ingest("rotate", first["id"], "--overlap", "0s", "--json").json[0]["state"] == "valid"
    assert ingest("revoke", "team").code == 0
    assert ingest("list", "--json").json[0]["state"] == "revoked"
    refused = ingest("rotate", "team")
    assert (refused.code, "was revoked" in refused.errors) == (5, True)
    refused = ingest("create", "team")
    assert (refused.code, "There is a key 'team' already." in refused.errors) == (5, True)
    refused = ingest("revoke", "nobody")
    assert (refused.code, "There is no key 'nobody'" in refused.errors) == (5, True)


def test_the_service_accepts_what_the_command_has_made(ingest: Any, folder: Path) -> None:
    """A file that did not exist before."""
    path = folder / "new.json"
    key = ingest("create", "team", "--file", str(path)).out.strip()
    found = asyncio.run(KeyRing(path).find(key))
    assert found is not None
    assert found.name == "team"


def test_a_name_is_used_in_one_place_only(ingest: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys of one name would own each other's jobs."""
    monkeypatch.setenv("INGEST_API__KEYS_FILE", str(folder / "keys.json"))
    monkeypatch.setenv("INGEST_API__DATABASE_KEYS", "true")
    unclear = ingest("create", "team")
    assert (unclear.code, "--file PATH or --database" in unclear.errors) == (2, True)
    assert ingest("create", "team", "--database").code == 0
    refused = ingest("create", "team", "--file", str(folder / "keys.json"))
    assert (refused.code, "There is a key 'team' already." in refused.errors) == (5, True)
    assert ingest("create", "other", "--file", str(folder / "keys.json")).code == 0
    assert ingest("create", "other", "--database").code == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "team"],
        ["create", "team", "--file", "k", "--database"],
        ["create", "team", "--file", "k", "--scope", "root"],
        ["create", "team", "--file", "k", "--expires", "soon"],
        ["create", "team", "--file", "k", "--expires", "2020-01-01T00:00:00Z"],
        ["rotate", "team", "--file", "k", "--overlap", "-1h"],
    ],
)
def test_a_wrong_command_line_changes_nothing(ingest: Any, folder: Path, arguments: list[str]) -> None:
    """The message names the option."""
    wrong = ingest(*arguments)
    assert wrong.code == 2
    assert arguments[-2] in wrong.errors or "--file" in wrong.errors
    assert list(folder.iterdir()) == []


def test_an_unusable_place_is_a_sentence(ingest: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that does not exist, a file that is none of keys, a database that is away."""
    missing = ingest("create", "team", "--file", str(folder / "none" / "keys.json"))
    assert (missing.code, "none" in missing.errors) == (1, True)
    broken = folder / "broken.json"
    broken.write_text("{}")
    assert "INGEST_API__KEYS_FILE" in ingest("list", "--file", str(broken)).errors
    monkeypatch.setenv("INGEST_DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")
    away = ingest("create", "team", "--database")
    assert (away.code, "hidden" in away.errors) == (7, False)
