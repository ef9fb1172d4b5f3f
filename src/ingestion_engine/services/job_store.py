"""All reads and writes of the jobs table. Asynchronous SQLAlchemy; SQLite by default, PostgreSQL by URL.

Every change of a job's state is an event of ``job_states`` and conditional on the phase of the row, so that a cancel
request and the dispatcher cannot overwrite each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.runtime.timestamps import Moment, parse_timestamp, utc_now
from ingestion_engine.services.job_records import (
    JobRecord,
    dispatchers,
    jobs,
)
from ingestion_engine.services.job_states import (
    PHASE_COLUMNS,
    IllegalTransition,
    JobEvent,
    JobPhase,
    check_values,
    find_phase,
    sources,
    target,
    target_states,
)
from ingestion_engine.state.cursors import bad_cursor, decode_cursor, encode_cursor

MIGRATIONS: Final = Path(__file__).parent / "migrations"

BUSY_TIMEOUT_MS: Final = 5_000
"""Time that SQLite waits for another writer; the longest transaction here takes milliseconds."""

READ_ROWS: Final = 500
"""Maximum number of ids per query; SQLite accepts 32,766 parameters, asyncpg 32,767."""

_MIGRATION_LOCK: Final = 7_241_609_332
"""Number of the PostgreSQL advisory lock that serialises migrations of several copies of the service; an arbitrary
constant."""

_ASYNC_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}


def with_async_driver(url: str) -> str:
    """Return a database URL with an asynchronous driver, unless it names one already. Pure."""
    scheme, separator, rest = url.partition("://")
    return f"{_ASYNC_DRIVERS.get(scheme, scheme)}{separator}{rest}"


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Conditions on listed jobs; None means any value."""

    engine: EngineName | None = None
    states: tuple[JobState, ...] | None = None
    collection: str | None = None
    owner: str | None = None


class IdempotencyTaken(Exception):
    """The idempotency key was used before; ``first`` is the job that was created with it."""

    def __init__(self, first: JobRecord) -> None:
        super().__init__(first.id)
        self.first = first


class JobStore:
    """The jobs table. Safe to share by tasks of one event loop."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # SQLite's own wait for the single writer is neither fair nor unlimited: under fifty submissions per second some
        # found the database locked after five seconds. So writers of this process take turns.
        self._new: list[tuple[JobRecord, asyncio.Future[None]]] = []
        self._storing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()

    @classmethod
    async def open(cls, url: str) -> JobStore:
        """Connect and migrate the schema to the newest version; creates the directory of a SQLite file.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database is unavailable or denies access.
        """
        url = with_async_driver(url)
        parsed = sa.engine.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_async_engine(url)
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        else:
            engine = create_async_engine(url, pool_pre_ping=True)
        async with engine.begin() as connection:
            await connection.run_sync(_migrate)
        return cls(engine)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def ping(self) -> None:
        """Return when the database responds. One query."""
        async with self._engine.connect() as connection:
            await connection.execute(sa.select(1))

    async def insert(self, record: JobRecord) -> None:
        """Store a new job; durable when this returns. Jobs that arrive together share one transaction.

        Raises:
            IdempotencyTaken: the owner has used the idempotency key before; nothing was stored.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._new.append((record, stored))
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_new())
        await stored

    async def _store_new(self) -> None:
        """Store all waiting jobs in one transaction; the next batch collects while the commit waits for the disk."""
        while self._new:
            batch, self._new = self._new, []
            try:
                async with self._writing() as connection:
                    await connection.execute(sa.insert(jobs), [record.values() for record, _ in batch])
            except Exception:  # of one job, or of the database: every caller receives its own
                for record, stored in batch:
                    await self._store_alone(record, stored)
            else:
                for _, stored in batch:
                    if not stored.done():  # else its caller was canceled
                        stored.set_result(None)

    async def _store_alone(self, record: JobRecord, stored: asyncio.Future[None]) -> None:
        error: Exception | None = None
        try:
            async with self._writing() as connection:
                await connection.execute(sa.insert(jobs).values(record.values()))
        except IntegrityError as violated:
            first = await self.find_by_key(record.owner, record.idempotency_key)
            error = violated if first is None else IdempotencyTaken(first)
        except Exception as other:  # raised in the task of the caller, which waits for it
            error = other
        if stored.done():
            return
        if error is None:
            stored.set_result(None)
        else:
            stored.set_exception(error)

    async def find_by_key(self, owner: str, idempotency_key: str | None) -> JobRecord | None:
        """Return the job that an owner created under an idempotency key, or None."""
        if idempotency_key is None:
            return None
        found = await self._select(
            sa.select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == idempotency_key)
        )
        return found[0] if found else None

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job, or None."""
        found = await self._select(sa.select(jobs).where(jobs.c.id == job_id))
        return found[0] if found else None

    async def list_page(
        self, where: JobFilter, *, limit: int, cursor: str | None
    ) -> tuple[list[JobRecord], str | None]:
        """Return up to ``limit`` jobs, newest first, and the cursor of the next page (None at the end).

        The order is (created_at, id), so pages neither skip nor repeat jobs while new ones arrive.

        Raises:
            SubmissionError: "validation_error": the cursor was not made by this method.
        """
        query = sa.select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit + 1)
        if where.engine is not None:
            query = query.where(jobs.c.engine == where.engine.value)
        if where.states is not None:
            query = query.where(jobs.c.state.in_([state.value for state in where.states]))
        if where.collection is not None:
            query = query.where(jobs.c.collection == where.collection)
        if where.owner is not None:
            query = query.where(jobs.c.owner == where.owner)
        if cursor is not None:
            moment, job_id = _parse_cursor(cursor)
            older = sa.and_(jobs.c.created_at == moment, jobs.c.id < job_id)
            query = query.where(sa.or_(jobs.c.created_at < moment, older))
        found = await self._select(query)
        if len(found) <= limit:
            return found, None
        last = found[limit - 1]
        return found[:limit], encode_cursor(f"{last.created_at.isoformat()} {last.id}")

    async def list_active(self) -> list[JobRecord]:
        """Return every job that has not ended, oldest first."""
        return await self._select(_select_active(jobs))

    async def list_revisions(self) -> list[tuple[str, int]]:
        """Return id and revision of every job that has not ended, oldest first."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_select_active(jobs.c.id, jobs.c.revision))).all()
        return [(job_id, number) for job_id, number in rows]

    async def get_many(self, ids: Sequence[str]) -> list[JobRecord]:
        """Return the jobs with these ids that exist, in no particular order. One query per ``READ_ROWS`` ids."""
        found = []
        for start in range(0, len(ids), READ_ROWS):
            found += await self._select(sa.select(jobs).where(jobs.c.id.in_(ids[start : start + READ_ROWS])))
        return found

    async def change(self, job: JobRecord, event: JobEvent, **values: Any) -> bool:
        """Apply an event to a job and set columns with it; return False when its row is in no phase for it any more.

        Args:
            job: The job as the caller knows it. Its row may have changed since: what counts is the row.
            event: What happens; decides the new state.
            values: Columns to set with the state.

        Raises:
            IllegalTransition: the table of transitions has no such event for ``job``, or ``values`` contradict it.
        """
        target(event, find_phase(job))
        check_values(event, values)
        states = {before.value: after.value for before, after in target_states(event).items()}
        change = sa.update(jobs).where(jobs.c.id == job.id, sa.or_(*(_is_in(phase) for phase in sources(event))))
        if event is JobEvent.RESTART:  # another copy of the service may have started a later attempt
            change = change.where(jobs.c.attempt == job.attempt)
        state = sa.case(states, value=jobs.c.state)
        return await self._update(change.values(revision=jobs.c.revision + 1, state=state, **values))

    async def update(self, job_id: str, states: Collection[JobState], **values: Any) -> bool:
        """Set columns that do not decide the phase of a job, if its state is one of ``states``; return whether it was.

        Raises:
            IllegalTransition: one of the columns decides the phase: that takes an event and ``change``.
        """
        if deciding := PHASE_COLUMNS.intersection(values):
            raise IllegalTransition(f"Only an event changes {', '.join(sorted(deciding))}.")
        change = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.state.in_([state.value for state in states]))
        return await self._update(change.values(revision=jobs.c.revision + 1, **values))

    async def _update(self, change: sa.Update) -> bool:
        async with self._writing() as connection:
            return (await connection.execute(change)).rowcount > 0

    async def note_waiting(self, notes: Mapping[str, str | None]) -> None:
        """Set the notes of those jobs, by id, that still wait for admission; one transaction for all."""
        ids: dict[str | None, list[str]] = {}
        for job_id, note in notes.items():
            ids.setdefault(note, []).append(job_id)
        async with self._writing() as connection:
            for note, members in ids.items():
                for start in range(0, len(members), READ_ROWS):
                    change = sa.update(jobs).where(
                        _is_in(JobPhase.WAITING), jobs.c.id.in_(members[start : start + READ_ROWS])
                    )
                    await connection.execute(change.values(revision=jobs.c.revision + 1, note=note))

    async def count_by_state(self) -> dict[tuple[str, str], int]:
        """Return the number of jobs for each (engine, state)."""
        query = sa.select(jobs.c.engine, jobs.c.state, sa.func.count()).group_by(jobs.c.engine, jobs.c.state)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        return {(engine, state): number for engine, state, number in rows}

    async def hold_dispatch(self, holder: str, ttl_s: float) -> bool:
        """Acquire or renew the right to dispatch for ``ttl_s`` seconds; False while another copy has it."""
        now = utc_now()
        values = {"holder": holder, "expires_at": now + dt.timedelta(seconds=ttl_s)}
        free = sa.or_(dispatchers.c.holder == holder, dispatchers.c.expires_at < now)
        async with self._writing() as connection:
            taken = await connection.execute(
                sa.update(dispatchers).where(dispatchers.c.name == "jobs", free).values(**values)
            )
        if taken.rowcount:
            return True
        try:
            async with self._writing() as connection:
                await connection.execute(sa.insert(dispatchers).values(name="jobs", **values))
        except IntegrityError:
            return False
        return True

    async def release_dispatch(self, holder: str) -> None:
        """Release the right to dispatch, so that a successor does not have to wait."""
        async with self._writing() as connection:
            await connection.execute(sa.delete(dispatchers).where(dispatchers.c.holder == holder))

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction for writing; durable at the end of the context."""
        async with self._turn, self._engine.begin() as connection:
            yield connection

    async def _select(self, query: sa.Select[Any]) -> list[JobRecord]:
        async with self._engine.connect() as connection:
            rows: Sequence[Any] = (await connection.execute(query)).mappings().all()
        return [JobRecord.from_row(row) for row in rows]


def _select_active(*what: Any) -> sa.Select[Any]:
    final = [state.value for state in FINAL_STATES]
    return sa.select(*what).where(jobs.c.state.not_in(final)).order_by(jobs.c.created_at, jobs.c.id)


def _is_in(phase: JobPhase) -> sa.ColumnElement[bool]:
    """Return the condition that a row is in a phase. Pure."""
    state = jobs.c.state == phase.state.value
    if phase.column is None:
        return state
    column = jobs.c[phase.column]
    return sa.and_(state, column.is_not(None) if phase.is_set else column.is_(None))


def _parse_cursor(cursor: str) -> tuple[Moment, str]:
    """Return creation time and id of the last job of the previous page. Pure. Raises SubmissionError."""
    moment, _, job_id = decode_cursor(cursor).partition(" ")
    try:
        return parse_timestamp(moment), job_id
    except ValueError:
        raise bad_cursor(cursor) from None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Allow reads during a write (WAL), and let writers wait for each other."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _migrate(connection: sa.Connection) -> None:
    """Run all pending migrations on an open connection, in its transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
