"""Two releases on one database, as during a rolling upgrade, and the way back.

While new copies of the service start, copies of the former release are still at work on the schema that the first new
one has migrated. They name the columns that they know, in every statement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_drain import DrainSwitch
from ingestion_engine.services.job_schema import MIGRATIONS, newest_version, revert_schema
from ingestion_engine.services.job_states import JobEvent, JobPhase, find_phase
from ingestion_engine.services.job_store import JobFilter, JobStore

FORMER = "0003"
"""Schema of the former release, 0.1.0."""

PHASES: dict[JobPhase, dict[str, Any]] = {
    JobPhase.WAITING: {"state": "queued"},
    JobPhase.ADMITTED: {"state": "queued", "admitted_at": True},
    JobPhase.SUBMITTED: {"state": "submitted", "admitted_at": True, "attempt_started_at": True},
    JobPhase.RESUBMITTING: {"state": "submitted", "admitted_at": True},
    JobPhase.RUNNING: {"state": "running", "admitted_at": True, "attempt_started_at": True, "started_at": True},
    JobPhase.RESTARTING: {"state": "running", "admitted_at": True, "started_at": True},
    JobPhase.CANCELING: {"state": "canceling", "cancel_requested_at": True},
    JobPhase.ABORTING: {"state": "canceling", "cancel_requested_at": True, "abort_written_at": True},
    JobPhase.SUCCEEDED: {"state": "succeeded", "finished_at": True},
    JobPhase.PARTIALLY_SUCCEEDED: {"state": "partially_succeeded", "finished_at": True},
    JobPhase.FAILED: {"state": "failed", "finished_at": True, "error": {"code": "driver_died", "message": "It died."}},
    JobPhase.CANCELED: {"state": "canceled", "finished_at": True},
}


async def migrate(database: Database, version: str) -> None:
    """Bring the schema to a version."""

    def run(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, version)

    async with database.writing() as connection:
        await connection.run_sync(run)


async def reflect(database: Database) -> dict[str, dict[str, Any]]:
    """Return type, nullability and default of every column, by table and name."""

    def read(connection: sa.Connection) -> dict[str, dict[str, Any]]:
        inspector = sa.inspect(connection)
        names = [name for name in inspector.get_table_names() if name != "alembic_version"]
        return {
            name: {
                column["name"]: (str(column["type"]), column["nullable"], column["default"] is not None)
                for column in inspector.get_columns(name)
            }
            for name in names
        }

    async with database.reading() as connection:
        return await connection.run_sync(read)


def former_table(columns: dict[str, Any]) -> sa.TableClause:
    """Return the table of jobs with the columns that the former release names."""
    return sa.table("jobs", *(sa.column(name) for name in columns))


def former_row(job_id: str, moment: Any, **given: Any) -> dict[str, Any]:
    """Return the values that the former release inserts for a job."""
    request = {"source": {"bucket": "docs"}, "collection": "notes"}
    values = {
        "id": job_id,
        "engine": "ray",
        "collection": "notes",
        "attempt": 1,
        "owner": "",
        "request": request,
        "body_hash": "0" * 64,
        "created_at": moment,
        **{name: moment if value is True else value for name, value in given.items()},
    }
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}


def typed(values: dict[str, Any], *, sqlite: bool) -> sa.TextClause:
    """Return the former release's statement that inserts a row, as text with bound parameters."""
    names = ", ".join(values)
    casts = {"request": "json", "error": "json"}
    marks = ", ".join(
        f"CAST(:{name} AS {casts[name]})" if name in casts and not sqlite else f":{name}" for name in values
    )
    return sa.text(f"INSERT INTO jobs ({names}) VALUES ({marks})")


@pytest.mark.parametrize("step", [*zip(["0001", "0002", FORMER], ["0002", FORMER, newest_version()], strict=True)])
async def test_migrations_only_add_what_the_former_release_need_not_know(
    database_url: str, step: tuple[str, str]
) -> None:
    """No column is removed, renamed or tightened; a new one may stay empty or has a default of the database."""
    database = Database.open(database_url)
    await migrate(database, step[0])
    before = await reflect(database)
    await migrate(database, step[1])
    after = await reflect(database)
    for table, columns in before.items():
        assert columns.items() <= after[table].items()
        for name in after[table].keys() - columns.keys():
            _, nullable, has_default = after[table][name]
            assert nullable or has_default, f"{table}.{name} would refuse the rows of the former release"
    await database.close()


async def test_rows_of_the_former_release_in_every_phase_continue(database_url: str) -> None:
    """They are read as what they were, and one that waits is admitted."""
    database = Database.open(database_url)
    await migrate(database, FORMER)
    moment = utc_now() if not database.is_sqlite else utc_now().strftime("%Y-%m-%d %H:%M:%S.%f")
    for phase, given in PHASES.items():
        values = former_row(f"job-{phase.name.lower()}", moment, **given)
        async with database.writing() as connection:
            await connection.execute(typed(values, sqlite=database.is_sqlite), values)
    store = await JobStore.open(database_url)
    found = {job.id: job for job in (await store.list_page(JobFilter(), limit=50, cursor=None))[0]}
    assert {name: find_phase(job) for name, job in found.items()} == {f"job-{p.name.lower()}": p for p in PHASES}
    assert store.unreadable == {}
    lead = await store.hold_dispatch("new", 60)
    waiting = found["job-waiting"]
    admitted = await store.change(waiting, JobEvent.ADMIT, lead=lead, admitted_at=utc_now(), attempt=1)
    assert admitted is not None
    assert admitted.removing_at is None
    await store.close()
    await database.close()


async def test_the_former_release_goes_on_working_on_the_new_schema(database_url: str) -> None:
    """It inserts, reads and changes by the names that it knows, beside a copy of this release that drains."""
    database = Database.open(database_url)
    await migrate(database, FORMER)
    former = former_table((await reflect(database))["jobs"])
    store = await JobStore.open(database_url)
    moment = utc_now() if not database.is_sqlite else utc_now().strftime("%Y-%m-%d %H:%M:%S.%f")
    values = former_row("job-former", moment, state="queued")
    async with database.writing() as connection:
        await connection.execute(typed(values, sqlite=database.is_sqlite), values)
        change = sa.update(former).where(former.c.id == "job-former", former.c.revision == 0)
        changed = await connection.execute(change.values(note="waits", revision=1).returning(*former.c))
        row = changed.mappings().one()
        assert (row["note"], set(row)) == ("waits", set(former.c.keys()))
    switch = DrainSwitch(store)
    await switch.set()
    job = await store.get("job-former")
    assert job is not None
    assert (job.state, job.note, job.revision) == (JobState.QUEUED, "waits", 1)
    assert (await switch.check()).waiting == 1
    await store.close()
    await database.close()


async def test_the_way_back_keeps_the_jobs(database_url: str) -> None:
    """The schema of the former release, made from this one's: nothing that it knows is lost."""
    database = Database.open(database_url)
    await migrate(database, FORMER)
    before = await reflect(database)
    moment = utc_now() if not database.is_sqlite else utc_now().strftime("%Y-%m-%d %H:%M:%S.%f")
    values = former_row("job-1", moment, state="running", admitted_at=True)
    async with database.writing() as connection:
        await connection.execute(typed(values, sqlite=database.is_sqlite), values)
    await migrate(database, newest_version())
    for wrong in ("0000", "9999", "head"):
        with pytest.raises(FatalError, match="no former one"):
            await revert_schema(database_url, wrong)
    change = await revert_schema(database_url, FORMER)
    assert (change.before, change.after) == (newest_version(), FORMER)
    assert await reflect(database) == before
    former = former_table(before["jobs"])
    async with database.reading() as connection:
        rows = (await connection.execute(sa.select(former.c.id, former.c.state))).all()
    assert [tuple(row) for row in rows] == [("job-1", "running")]
    await database.close()


async def test_a_former_release_does_not_show_jobs_that_were_being_removed(database_url: str) -> None:
    """Their ledgers may be gone by half: a retry would find only some of their failed objects."""
    database = Database.open(database_url)
    await migrate(database, newest_version())
    moment = utc_now() if not database.is_sqlite else utc_now().strftime("%Y-%m-%d %H:%M:%S.%f")
    async with database.writing() as connection:
        for job_id, marked in (("job-1", False), ("job-2", True)):
            values = former_row(job_id, moment, state="succeeded")
            await connection.execute(typed(values, sqlite=database.is_sqlite), values)
            if marked:
                await connection.execute(sa.text("UPDATE jobs SET removing_at = created_at WHERE id = 'job-2'"))
    await revert_schema(database_url, FORMER)
    async with database.reading() as connection:
        assert (await connection.execute(sa.text("SELECT id FROM jobs"))).scalars().all() == ["job-1"]
    await database.close()


def test_versions_of_the_schema_are_one_line() -> None:
    """Two migrations with one parent would make the result depend on who was first."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [newest_version()]
    assert len(list(scripts.walk_revisions())) == len(list(Path(MIGRATIONS, "versions").glob("0*.py")))
