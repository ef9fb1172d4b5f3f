"""All reads and writes of the jobs table. Asynchronous SQLAlchemy; SQLite by default, PostgreSQL by URL.

Every change of a job's state is an event of ``job_states``. It is applied to the row exactly as the caller has read it
(compare-and-set on ``revision``), and the dispatcher's changes also only while its lease is the current one: so a
cancel request and the dispatcher, or two dispatchers, cannot overwrite each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ingestion_engine.domain.errors import DatabaseUnavailable, SubmissionError
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.runtime.settings import DatabaseSettings
from ingestion_engine.runtime.telemetry import context_without_fields, get_logger
from ingestion_engine.runtime.timestamps import Moment, parse_timestamp, utc_now
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_counters import JobCounters
from ingestion_engine.services.job_records import JobRecord, UtcMoment, dispatchers, drains, jobs
from ingestion_engine.services.job_schema import check_schema, migrate_schema
from ingestion_engine.services.job_states import (
    PHASE_COLUMNS,
    IllegalTransition,
    JobEvent,
    JobPhase,
    check_values,
    find_phase,
    target,
)
from ingestion_engine.services.job_traces import record_change
from ingestion_engine.state.cursors import bad_cursor, decode_cursor, encode_cursor

READ_ROWS: Final = 500
"""Maximum number of ids per query; SQLite accepts 32,766 parameters, asyncpg 32,767."""

TURN_IDLE_MS: Final = 5_000
"""Time after which PostgreSQL ends the transaction of a copy of the service that stands still while others wait for
their turn, with a job of the same owner or with a log-in: less than ``STATEMENT_TIMEOUT_S``, after which they give
up."""

_DISPATCH: Final = "jobs"
"""Name of the only row of the table of dispatchers."""

_IS_KEPT: Final = jobs.c.removing_at.is_(None)
"""Condition that a job is not being removed (``retention``)."""

_IS_KEPT_WITHOUT_INDEX: Final = sa.literal_column("+jobs.removing_at").is_(None)
"""The same for SQLite, which would otherwise find all jobs by this condition and then sort them; the sign keeps it from
using the index (https://sqlite.org/optoverview.html, "Disqualifying WHERE clause terms"). Of 100,000 jobs, the newest
50 took 0.8 s that way, and take 2 ms by the index of their order."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DispatchLease:
    """The right to dispatch, as stored: the holder may change jobs while this is the current one."""

    holder: str
    """Name of a copy of the service; empty when the last one has released it."""
    term: int
    """Number that grows with every change of the holder."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Conditions on listed jobs; None means any value."""

    engine: EngineName | None = None
    states: tuple[JobState, ...] | None = None
    collection: str | None = None
    owner: str | None = None
    created_after: Moment | None = None
    """Only jobs created at this moment or later."""
    created_before: Moment | None = None
    """Only jobs created before this moment."""
    seen_by: str | None = None
    """Owner to whose jobs the caller is limited."""


@dataclass(frozen=True, slots=True)
class CollectionUse:
    """An unfinished job that uses a collection."""

    job_id: str
    collection: str
    state: str


class IdempotencyTaken(Exception):
    """The idempotency key was used before; ``first`` is the job that was created with it."""

    def __init__(self, first: JobRecord) -> None:
        super().__init__(first.id)
        self.first = first


class TooManyWaiting(Exception):
    """As many jobs of the owner wait for admission as it may have; ``waiting`` is their number."""

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting)
        self.waiting = waiting


class JobStore:
    """The jobs table. Safe to share by tasks of one event loop.

    Every method raises ``DatabaseUnavailable`` while the database does not respond.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.unreadable: dict[str, str] = {}
        """Rows that this version of the service cannot read, by id, with the reason; known from reads so far."""
        self.counters = JobCounters()
        """What the changes of rows that this copy of the service has made tell of jobs."""
        self._clock_offset = dt.timedelta()
        self._new: list[tuple[JobRecord, asyncio.Future[None]]] = []
        self._storing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, *, ca_file: Path | None = None, settings: DatabaseSettings | None = None) -> JobStore:
        """Connect, and migrate the schema to the newest version; creates the directory of a SQLite file.

        Args:
            url: SQLAlchemy URL.
            ca_file: As for ``parse_database_url``.
            settings: Connections, and whether the schema is migrated; None means the defaults.

        Raises:
            DatabaseUnavailable: the database does not respond or denies access.
            FatalError: "database_url_invalid"; "database_newer": a later version of the service has migrated it;
                "database_older": it has to be migrated, and the settings leave that to somebody else.
        """
        settings = settings or DatabaseSettings()
        if settings.migrate:
            await migrate_schema(url, ca_file=ca_file, settings=settings)
        store = cls(Database.open(url, ca_file=ca_file, settings=settings))
        if not settings.migrate:
            async with contextlib.AsyncExitStack() as undo:
                undo.push_async_callback(store.close)
                await check_schema(store.database)
                undo.pop_all()
        return store

    async def close(self) -> None:
        """Close all connections."""
        await self.database.close()

    def now(self) -> Moment:
        """Return the time of the database's clock, as of the last claim to dispatch; no query.

        Every copy of the service goes by it, so that a deadline that one has set is the same moment for all.
        """
        return utc_now() + self._clock_offset

    async def ping(self) -> None:
        """Return when the database responds. One query."""
        await self.database.ping()

    async def insert(self, record: JobRecord) -> None:
        """Store a new job; durable when this returns. Jobs that arrive together share one transaction.

        Raises:
            IdempotencyTaken: the owner has used the idempotency key before; nothing was stored.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._new.append((record, stored))
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_new(), context=context_without_fields())
        await stored

    async def insert_within(self, record: JobRecord, most: int) -> None:
        """Store a new job when fewer than ``most`` of its owner wait for admission, over all copies of the service.

        Insertions for one owner take turns: on PostgreSQL by an advisory lock until the end of the transaction, on
        SQLite because it has one writer. A waiting one has a connection, so a copy should make one at a time for each
        owner.

        Raises:
            TooManyWaiting: nothing was stored.
            IdempotencyTaken: as ``insert``.
        """
        try:
            async with self.database.writing(idle_ms=TURN_IDLE_MS) as connection:
                if not self.database.is_sqlite:
                    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_turn_of(record.owner))))
                # First the job, then the number: the insertion makes this transaction SQLite's writer.
                await connection.execute(sa.insert(jobs).values(record.values()))
                waiting = (await connection.execute(_select_waiting(record.owner))).scalar_one()
                if waiting > most:
                    raise TooManyWaiting(waiting - 1)
        except IntegrityError:
            first = await self.find_by_key(record.owner, record.idempotency_key)
            if first is None:
                raise
            raise IdempotencyTaken(first) from None

    async def _store_new(self) -> None:
        """Store all waiting jobs in one transaction; the next batch collects while the commit waits for the disk."""
        while self._new:
            batch, self._new = self._new, []
            try:
                async with self.database.changing() as connection:
                    await connection.execute(sa.insert(jobs), [record.values() for record, _ in batch])
            except DatabaseUnavailable as error:  # one connection time-out for all, not one each
                for _, stored in batch:
                    if not stored.done():
                        stored.set_exception(error)
            except Exception:  # of one job: every caller receives its own
                for record, stored in batch:
                    await self._store_alone(record, stored)
            else:
                for _, stored in batch:
                    if not stored.done():  # else its caller was canceled
                        stored.set_result(None)

    async def _store_alone(self, record: JobRecord, stored: asyncio.Future[None]) -> None:
        error: Exception | None = None
        try:
            async with self.database.changing() as connection:
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
        """Return a job, or None.

        Raises:
            SubmissionError: "job_unreadable" (500): its row was damaged, or written by a later version.
        """
        found = await self._select(sa.select(jobs).where(jobs.c.id == job_id, _IS_KEPT))
        if not found and job_id in self.unreadable:
            raise SubmissionError(
                "job_unreadable",
                f"The row of job {job_id!r} cannot be read: {self.unreadable[job_id]}.",
                hint="Upgrade this copy of the service, or correct the row in the table `jobs`.",
                status=500,
            )
        return found[0] if found else None

    async def list_page(
        self, where: JobFilter, *, limit: int, cursor: str | None
    ) -> tuple[list[JobRecord], str | None]:
        """Return up to ``limit`` jobs, newest first, and the cursor of the next page (None at the end).

        The order is (created_at, id), so pages neither skip nor repeat jobs while new ones arrive. Rows that cannot be
        read are left out and counted in ``unreadable``.

        Raises:
            SubmissionError: "validation_error": the cursor was not made by this method.
        """
        is_kept = _IS_KEPT_WITHOUT_INDEX if self.database.is_sqlite else _IS_KEPT
        query = sa.select(jobs).where(is_kept).order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
        if where.engine is not None:
            query = query.where(jobs.c.engine == where.engine.value)
        if where.states is not None:
            query = query.where(jobs.c.state.in_([state.value for state in where.states]))
        if where.collection is not None:
            query = query.where(jobs.c.collection == where.collection)
        for owner in (where.owner, where.seen_by):
            if owner is not None:
                query = query.where(jobs.c.owner == owner)
        if where.created_after is not None:
            query = query.where(jobs.c.created_at >= where.created_after)
        if where.created_before is not None:
            query = query.where(jobs.c.created_at < where.created_before)
        if cursor is not None:
            moment, job_id = _parse_cursor(cursor)
            older = sa.and_(jobs.c.created_at == moment, jobs.c.id < job_id)
            query = query.where(sa.or_(jobs.c.created_at < moment, older))
        size = limit
        while True:
            rows = await self._select_rows(query.limit(size + 1))
            found = [job for _, job in rows[:size] if job is not None]
            if found or len(rows) <= size:
                break
            size *= 2  # nothing of this page can be read
        page = found[:limit]
        if not page or (len(rows) <= size and len(found) <= limit):
            return page, None
        # An unreadable row at the end is read again by the next page: its moment may be what cannot be read.
        last = page[-1]
        return page, encode_cursor(f"{last.created_at.isoformat()} {last.id}")

    async def list_active(self) -> list[JobRecord]:
        """Return every job that has not ended, oldest first."""
        return await self._select(_select_active(jobs))

    async def list_uses(self) -> list[CollectionUse]:
        """Return the collection of every job that has not ended, oldest first; also of rows that cannot be read."""
        async with self.database.reading() as connection:
            rows = (await connection.execute(_select_active(jobs.c.id, jobs.c.collection, jobs.c.state))).all()
        return [CollectionUse(*row) for row in rows]

    async def list_revisions(self) -> list[tuple[str, int]]:
        """Return id and revision of every job that has not ended, oldest first."""
        async with self.database.reading() as connection:
            rows = (await connection.execute(_select_active(jobs.c.id, jobs.c.revision))).all()
        return [(job_id, number) for job_id, number in rows]

    async def get_many(self, ids: Sequence[str]) -> list[JobRecord]:
        """Return the jobs with these ids that exist, in no particular order. One query per ``READ_ROWS`` ids."""
        found = []
        for start in range(0, len(ids), READ_ROWS):
            found += await self._select(sa.select(jobs).where(jobs.c.id.in_(ids[start : start + READ_ROWS])))
        return found

    async def change(
        self, job: JobRecord, event: JobEvent, *, lead: DispatchLease | None = None, **values: Any
    ) -> JobRecord | None:
        """Apply an event to a job and set columns with it; return the new row.

        Args:
            job: The job as last read. When its row has changed since, nothing is changed.
            event: What happens; decides the new state. While the service is drained, no job is admitted.
            lead: The lease of a dispatcher. When another one is stored, nothing is changed. None means a client's wish.
            values: Columns to set with the state.

        Returns:
            The new row; None when nothing was changed.

        Raises:
            IllegalTransition: the table of transitions has no such event for ``job``, or ``values`` contradict it.
        """
        after = target(event, find_phase(job))
        check_values(event, values)
        changed = await self._update(job, lead, {**values, "state": after.state.value}, event=event)
        if changed is not None:
            record_change(event, changed)
        return changed

    async def update(self, job: JobRecord, *, lead: DispatchLease | None = None, **values: Any) -> JobRecord | None:
        """Set columns that do not decide the phase of a job; arguments and result are those of ``change``.

        Raises:
            IllegalTransition: one of the columns decides the phase: that takes an event and ``change``.
        """
        if deciding := PHASE_COLUMNS.intersection(values):
            raise IllegalTransition(f"Only an event changes {', '.join(sorted(deciding))}.")
        return await self._update(job, lead, values)

    async def _update(
        self, job: JobRecord, lead: DispatchLease | None, values: Mapping[str, Any], *, event: JobEvent | None = None
    ) -> JobRecord | None:
        change = sa.update(jobs).where(jobs.c.id == job.id, jobs.c.revision == job.revision)
        if lead is not None:
            change = change.where(is_current(lead))
        if event is JobEvent.ADMIT:
            change = change.where(~sa.exists(sa.select(drains.c.name)))
        async with self.database.changing() as connection:
            changed = await connection.execute(change.values(revision=job.revision + 1, **values).returning(jobs))
            row = changed.mappings().first()
        if row is None:
            return None
        after = JobRecord.from_row(row)
        self.counters.note_change(job, after, event)  # the row was as ``job``: its revision is
        return after

    async def note_waiting(
        self,
        notes: Mapping[str, str | None],
        *,
        reasons: Mapping[str, str] = MappingProxyType({}),
        lead: DispatchLease | None = None,
    ) -> None:
        """Set the notes, and the codes of the reasons, of those jobs, by id, that still wait for admission.

        One statement for equal notes.
        """
        ids: dict[tuple[str | None, str | None], list[str]] = {}
        for job_id, note in notes.items():
            ids.setdefault((note, reasons.get(job_id)), []).append(job_id)
        async with self.database.changing() as connection:
            for (note, reason), members in ids.items():
                for start in range(0, len(members), READ_ROWS):
                    change = sa.update(jobs).where(
                        is_in(JobPhase.WAITING), jobs.c.id.in_(members[start : start + READ_ROWS])
                    )
                    if lead is not None:
                        change = change.where(is_current(lead))
                    await connection.execute(change.values(revision=jobs.c.revision + 1, note=note, waits_for=reason))

    async def count_waiting(self, owner: str) -> int:
        """Return the number of jobs of an owner that wait for admission. One query."""
        async with self.database.reading() as connection:
            return (await connection.execute(_select_waiting(owner))).scalar_one()

    async def count_by_state(self) -> dict[tuple[str, str], int]:
        """Return the number of jobs for each (engine, state)."""
        counted = sa.select(jobs.c.engine, jobs.c.state, sa.func.count()).where(_IS_KEPT)
        query = counted.group_by(jobs.c.engine, jobs.c.state)
        async with self.database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return {(engine, state): number for engine, state, number in rows}

    async def find_oldest_active(self) -> dict[tuple[str, str], Moment]:
        """Return when the oldest job of each (engine, state) was submitted, of jobs that have not ended.

        Jobs whose moment cannot be read are left out.

        Cost: one query over the index of states; reads no row of a job that has ended. When a moment cannot be read, as
        ``list_active``.
        """
        query = (
            sa.select(jobs.c.engine, jobs.c.state, sa.func.min(jobs.c.created_at, type_=UtcMoment))
            .where(jobs.c.state.in_([state.value for state in JobState if not state.is_final]))
            .group_by(jobs.c.engine, jobs.c.state)
        )
        try:
            async with self.database.reading() as connection:
                rows = (await connection.execute(query)).all()
        except (TypeError, ValueError):  # one damaged row hides no other
            newest_first = reversed(await self.list_active())
            return {(job.engine.value, job.state.value): job.created_at for job in newest_first}
        return {(engine, state): oldest for engine, state, oldest in rows}

    async def hold_dispatch(self, holder: str, ttl_s: float) -> DispatchLease:
        """Acquire or renew the right to dispatch for ``ttl_s`` seconds of the database's clock; return what is stored.

        The caller has it when the result's holder is its own name: it was free, had expired, or was its own.
        """
        now = self.database.now()
        values = {"holder": holder, "expires_at": self.database.now(ttl_s)}
        next_term = sa.case((dispatchers.c.holder == holder, dispatchers.c.term), else_=dispatchers.c.term + 1)
        row = dispatchers.c.name == _DISPATCH
        free = sa.or_(dispatchers.c.holder == holder, dispatchers.c.expires_at < now)
        columns = dispatchers.c.holder, dispatchers.c.term, sa.type_coerce(now, UtcMoment)
        take = sa.update(dispatchers).where(row, free).values(term=next_term, **values).returning(*columns)
        while True:
            async with self.database.changing() as connection:
                asked_at = utc_now()
                stored = (await connection.execute(take)).first()
                if stored is None:
                    asked_at = utc_now()
                    stored = (await connection.execute(sa.select(*columns).where(row))).first()
                answered_at = utc_now()
            if stored is not None:
                current, term, moment = stored
                self._note_clock(moment, asked_at, answered_at)
                return DispatchLease(current, term)
            try:
                async with self.database.changing() as connection:
                    await connection.execute(sa.insert(dispatchers).values(name=_DISPATCH, term=1, **values))
            except IntegrityError:
                continue  # another copy was the first
            return DispatchLease(holder, 1)

    async def read_dispatch(self) -> DispatchLease:
        """Return who has the right to dispatch now, by the database's clock; an empty name when nobody has."""
        now = self.database.now()
        holds = dispatchers.c.expires_at >= now
        moment = sa.type_coerce(now, UtcMoment)
        held = sa.select(dispatchers.c.holder, dispatchers.c.term, holds).where(dispatchers.c.name == _DISPATCH)
        async with self.database.reading() as connection:
            asked_at = utc_now()
            self._note_clock((await connection.execute(sa.select(moment))).scalar_one(), asked_at, utc_now())
            row = (await connection.execute(held)).first()
        if row is None:
            return DispatchLease("", 0)
        holder, term, is_valid = row
        return DispatchLease(holder if is_valid else "", term)

    def _note_clock(self, moment: Moment, asked_at: Moment, answered_at: Moment) -> None:
        """Note the database's clock, as read between two moments of this process's own clock."""
        self._clock_offset = moment - (asked_at + (answered_at - asked_at) / 2)

    async def release_dispatch(self, holder: str) -> None:
        """Release the right to dispatch, so that a successor does not have to wait; its number stays."""
        async with self.database.changing() as connection:
            await connection.execute(
                sa.update(dispatchers)
                .where(dispatchers.c.holder == holder)
                .values(holder="", expires_at=self.database.now(-1.0))
            )

    async def _select(self, query: sa.Select[Any]) -> list[JobRecord]:
        return [job for _, job in await self._select_rows(query) if job is not None]

    async def _select_rows(self, query: sa.Select[Any]) -> list[tuple[str, JobRecord | None]]:
        """Return id and job of every row of a query; None for rows that cannot be read, which are logged once.

        Cost: one query; when a row cannot be read, one more and one for each row.
        """
        async with self.database.reading() as connection:
            try:
                rows: Sequence[Any] = (await connection.execute(query)).mappings().all()
                found: list[tuple[str, JobRecord | None]] = [(row["id"], JobRecord.from_row(row)) for row in rows]
            except (LookupError, TypeError, ValueError):
                ids = (await connection.execute(query.with_only_columns(jobs.c.id))).scalars().all()
                return [(job_id, await self._read_alone(connection, job_id)) for job_id in ids]
        for job_id, _ in found if self.unreadable else ():
            self.unreadable.pop(job_id, None)
        return found

    async def _read_alone(self, connection: Any, job_id: str) -> JobRecord | None:
        try:
            row = (await connection.execute(sa.select(jobs).where(jobs.c.id == job_id))).mappings().first()
            job = None if row is None else JobRecord.from_row(row)
        except (LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200].rstrip(".")
            if self.unreadable.get(job_id) != reason:
                _log.error("row of a job not readable", extra={"job_id": job_id, "error": reason})
                self.unreadable[job_id] = reason
            return None
        self.unreadable.pop(job_id, None)
        return job


def is_current(lead: DispatchLease) -> sa.ColumnElement[bool]:
    """Return the condition that a lease is the stored one. Pure."""
    held = sa.select(dispatchers.c.name).where(
        dispatchers.c.name == _DISPATCH, dispatchers.c.holder == lead.holder, dispatchers.c.term == lead.term
    )
    return held.exists()


def _select_active(*what: Any) -> sa.Select[Any]:
    final = [state.value for state in FINAL_STATES]
    return sa.select(*what).where(jobs.c.state.not_in(final)).order_by(jobs.c.created_at, jobs.c.id)


def _select_waiting(owner: str) -> sa.Select[int]:
    """Return the query for the number of jobs of an owner that wait for admission. Pure."""
    return sa.select(sa.func.count()).where(jobs.c.owner == owner, is_in(JobPhase.WAITING))


def _turn_of(owner: str) -> int:
    """Return the number of the advisory lock of an owner, the same in every copy and release. Pure.

    When two owners have the same one, their insertions take turns, and nothing else happens.
    """
    digest = hashlib.sha256(b"waiting jobs of " + owner.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def is_in(phase: JobPhase) -> sa.ColumnElement[bool]:
    """Return the condition that a row is in a phase. Pure."""
    state = jobs.c.state == phase.state.value
    if phase.column is None:
        return state
    column = jobs.c[phase.column]
    return sa.and_(state, column.is_not(None) if phase.is_set else column.is_(None))


def _parse_cursor(cursor: str) -> tuple[Moment, str]:
    """Return creation time and id of the last job of the previous page. Pure. Raises SubmissionError."""
    moment, _, job_id = decode_cursor(cursor).partition(" ")
    if not (job_id.isascii() and job_id.isprintable()):  # PostgreSQL refuses U+0000 in a query
        raise bad_cursor(cursor)
    try:
        return parse_timestamp(moment), job_id
    except ValueError:
        raise bad_cursor(cursor) from None
