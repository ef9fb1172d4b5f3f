"""The migration of the database of jobs: `ingest migrate`, several processes at once, a process that ends half-way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.runtime.settings import DatabaseSettings
from ingestion_engine.services.job_schema import newest_version
from ingestion_engine.services.job_store import JobStore

COMMAND = [sys.executable, "-m", "ingestion_engine.cli", "migrate"]


def start_migration(url: str, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "INGEST_DATABASE_URL": url}
    return subprocess.Popen([*COMMAND, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_migrates_once_and_says_so(tmp_path: Path) -> None:
    """The first one of four at once; all succeed, and name the versions."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    processes = [start_migration(url, "--json") for _ in range(4)]
    ended = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * 4, ended
    answers = [json.loads(out) for (out, _), _ in ended]
    assert sorted(str(answer["from"]) for answer in answers) == [newest_version()] * 3 + ["None"]
    assert {answer["to"] for answer in answers} == {newest_version()}
    process = start_migration(url)
    assert process.communicate(timeout=60)[0] == f"The schema of the database has version {newest_version()} already.\n"


def test_the_command_brings_the_schema_back_for_a_former_release(tmp_path: Path) -> None:
    """And names what there is when it is asked for another one."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    assert start_migration(url).wait(60) == 0
    out, _ = start_migration(url, "--back-to", "0003").communicate(timeout=60)
    assert out == f"The schema of the database was migrated from version {newest_version()} to 0003.\n"
    process = start_migration(url, "--back-to", "0004")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "has version 0003; '0004' is no former one" in errors


def test_the_log_of_the_command_has_the_format_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON in images, as the log of the service."""
    monkeypatch.setenv("INGEST_LOG_FORMAT", "json")
    _, log = start_migration(f"sqlite:///{tmp_path}/jobs.db").communicate(timeout=60)
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["database migrated"]


def test_a_database_that_is_unavailable_ends_the_command_with_7() -> None:
    """With one sentence, after the time to wait."""
    process = start_migration("postgresql://u:hidden@127.0.0.1:1/d", "--wait-s", "0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "The database of jobs at 127.0.0.1:1 is unavailable: Connection refused." in errors
    assert "hidden" not in errors
    assert "Traceback" not in errors


async def test_a_service_that_may_not_migrate_says_what_to_run(tmp_path: Path) -> None:
    """It starts as soon as somebody else has migrated."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    settings = DatabaseSettings(migrate=False)
    with pytest.raises(FatalError, match=f"has version none; this service requires {newest_version()}") as refused:
        await JobStore.open(url, settings=settings)
    assert refused.value.code == "database_older"
    assert "ingest migrate" in refused.value.hint
    await (await JobStore.open(url)).close()
    store = await JobStore.open(url, settings=settings)
    async with store.database.writing() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await store.close()
    with pytest.raises(FatalError, match="9999") as refused:
        await JobStore.open(url, settings=settings)
    assert refused.value.code == "database_newer"
