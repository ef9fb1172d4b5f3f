"""The migration of the database of jobs: `ingest migrate`, several processes at once, a process that ends half-way."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from ingestion_engine.domain.errors import DatabaseUnavailable, FatalError
from ingestion_engine.runtime.settings import DatabaseSettings
from ingestion_engine.services import job_schema
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import jobs
from ingestion_engine.services.job_schema import migrate_schema, newest_version
from ingestion_engine.services.job_states import JobPhase, find_phase
from ingestion_engine.services.job_store import JobFilter, JobStore
from support.control import queued
from support.waiting import eventually

COMMAND = [sys.executable, "-m", "ingestion_engine.cli", "migrate"]


def start_migration(url: str, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "INGEST_DATABASE_URL": url}
    return subprocess.Popen([*COMMAND, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_migrates_once_and_says_so(tmp_path: Path) -> None:
    """The first one of three at once; all succeed, and name the versions."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    processes = [start_migration(url, "--json") for _ in range(3)]
    ended = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * 3, ended
    answers = [json.loads(out) for (out, _), _ in ended]
    assert sorted(str(answer["from"]) for answer in answers) == [newest_version()] * 2 + ["None"]
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


async def test_a_service_that_may_not_migrate_says_what_to_run(database_url: str) -> None:
    """It starts as soon as somebody else has migrated."""
    settings = DatabaseSettings(migrate=False)
    with pytest.raises(FatalError, match=f"has version none; this service requires {newest_version()}") as refused:
        await JobStore.open(database_url, settings=settings)
    assert refused.value.code == "database_older"
    assert "ingest migrate" in refused.value.hint
    await (await JobStore.open(database_url)).close()
    await (await JobStore.open(database_url, settings=settings)).close()


@pytest.mark.parametrize("migrate", [True, False])
async def test_a_release_runs_on_the_schema_of_a_later_one_that_says_so(
    database_url: str, migrate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """So an upgrade can be taken back, and an old copy that restarts while the new ones start does not fail."""
    settings = DatabaseSettings(migrate=migrate)
    store = await JobStore.open(database_url)
    await _execute(store, "UPDATE alembic_version SET version_num = '9999'")
    await store.insert(queued(1, "c"))
    await store.close()
    store = await JobStore.open(database_url, settings=settings)
    assert [job.id for job in await store.list_active()] == ["job-1"]
    assert "the database is of a later version, which this one can use" in caplog.messages
    for change in ("UPDATE schema_readers SET oldest = '9998'", "DROP TABLE schema_readers"):
        await _execute(store, change)
        with pytest.raises(FatalError, match="9999") as refused:
            await JobStore.open(database_url, settings=settings)
        assert refused.value.code == "database_newer"
    await store.close()


FORMER_COLUMNS = (
    *("id", "engine", "collection", "state", "attempt", "owner", "request", "retry_of", "only_keys_path", "spec"),
    *("parallelism", "idempotency_key", "body_hash", "progress", "counts", "timings", "error", "note", "created_at"),
    *("admitted_at", "submitted_at", "attempt_started_at", "started_at", "finished_at", "next_look_at"),
    *("cancel_requested_at", "abort_written_at", "revision", "deadline_at", "put_backs"),
)
"""Columns of the schema 0003, which the release before this one uses."""


async def test_copies_of_the_former_release_go_on_while_three_copies_migrate(database_url: str) -> None:
    """With jobs in every phase: each statement of theirs works before, during and after, and no job changes."""
    former = sa.Table("jobs", sa.MetaData(), *(sa.Column(name, jobs.c[name].type) for name in FORMER_COLUMNS))
    database = Database.open(database_url)
    async with database.writing() as connection:
        await connection.run_sync(_make_former_schema)
        rows = [{name: _row(number, phase)[name] for name in FORMER_COLUMNS} for number, phase in enumerate(JobPhase)]
        await connection.execute(sa.insert(former), rows)

    async def work(number: int) -> None:
        async with database.changing() as connection:
            job = _row(number, JobPhase.WAITING)
            await connection.execute(sa.insert(former).values({name: job[name] for name in FORMER_COLUMNS}))
            change = sa.update(former).where(former.c.id == job["id"], former.c.revision == 0).values(revision=1)
            assert (await connection.execute(change.returning(former))).mappings().one()["revision"] == 1
            lease = "UPDATE dispatchers SET holder = 'former', term = term + 1 WHERE name = 'jobs'"
            await connection.execute(sa.text(lease))
            await connection.execute(sa.select(former).where(former.c.state.not_in(["failed"])))

    await work(100)
    migrations = [asyncio.create_task(migrate_schema(database_url)) for _ in range(3)]
    number = 100
    while not all(migration.done() for migration in migrations):
        number += 1
        await work(number)
    changes = await asyncio.gather(*migrations)
    assert sorted(change.before or "" for change in changes) == ["0003", *[newest_version()] * 2]
    await work(number + 1)
    await database.close()
    store = await JobStore.open(database_url)
    found = {job.id: job for job in (await store.list_page(JobFilter(), limit=1000, cursor=None))[0]}
    assert len(found) == len(JobPhase) + number - 100 + 2
    for number, phase in enumerate(JobPhase):
        assert find_phase(found[f"job-{number}"]) is phase
    await store.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_migration_behind_a_long_transaction_blocks_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup reads the table for hours: the migration waits for its end, and others for one of its tries at most."""
    monkeypatch.setattr(job_schema, "LOCK_TIMEOUT_S", 0.2)
    database = Database.open(database_url)
    async with database.writing() as connection:
        await connection.run_sync(_make_former_schema)
    async with database.reading() as backup:
        await backup.execute(sa.text("SELECT count(*) FROM jobs"))
        migration = asyncio.create_task(migrate_schema(database_url))
        await eventually(lambda: "migration waits for other transactions" in caplog.messages)
        async with asyncio.timeout(5), database.reading() as connection:
            await connection.execute(sa.text("SELECT count(*) FROM jobs"))
        monkeypatch.setattr(job_schema, "WAIT_S", 0.0)
        with pytest.raises(DatabaseUnavailable, match="other transactions have locked its tables"):
            await migrate_schema(database_url)
        await backup.rollback()
    assert (await migration).before == "0003"
    await database.close()


def _make_former_schema(connection: sa.Connection) -> None:
    config = job_schema._config()
    config.attributes["connection"] = connection
    command.upgrade(config, "0003")
    connection.execute(sa.text("INSERT INTO dispatchers VALUES ('jobs', 'former', CURRENT_TIMESTAMP, 1)"))


def _row(number: int, phase: JobPhase) -> dict[str, Any]:
    job = queued(number, "c", state=phase.state)
    column = phase.column
    return {**job.values(), **({column: job.created_at} if column is not None and phase.is_set else {})}


async def _execute(store: JobStore, statement: str) -> None:
    async with store.database.writing() as connection:
        await connection.execute(sa.text(statement))
