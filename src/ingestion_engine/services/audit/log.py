"""The table of the audit log: entries are added and read; old ones are removed. There is no statement that changes one.

::

    intent of a change (durable) ─► the change ─► its outcome (durable) ─► answer to the caller

So a change without a record is impossible: without the database, it is not made. When the database fails between the
two entries, the answer does not wait: the outcome is kept in memory, stored as soon as the database responds again, and
is in the JSON lines at once; should the process end before, the intent says what has been tried. Refusals change
nothing and are stored in the background ([decision 53](docs/decisions/0053-a-change-is-recorded-before-it-is-made.md)).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ingestion_engine.domain.audit import Outcome
from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.runtime.telemetry import context_without_fields, get_logger
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.audit.entries import (
    AuditEntry,
    Redactor,
    first_id,
    id_moment,
    new_entry_id,
)
from ingestion_engine.services.audit.lines import AuditLines
from ingestion_engine.services.audit.refusals import Refusals
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import audit_log
from ingestion_engine.services.job_store import DispatchLease, is_current
from ingestion_engine.state.cursors import bad_cursor, decode_cursor, encode_cursor

KEPT_MAX: Final = 10_000
"""Entries that wait in memory for the database: about 10 MB. Beyond it, the oldest are only in the JSON lines."""

BATCH: Final = 200
"""Entries stored by one statement."""

FLUSH_S: Final = 1.0
"""Pause between two attempts to store what waits."""

REMOVED_AT_ONCE: Final = 5_000
"""Entries removed by one statement; it takes tens of milliseconds."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Conditions on entries; None means any value."""

    who: str | None = None
    operation: str | None = None
    outcome: Outcome | None = None
    subject: str | None = None
    job_id: str | None = None
    after: Moment | None = None
    """Only entries of this moment or later."""
    before: Moment | None = None
    """Only entries before this moment."""


class AuditLog:
    """The audit log. Safe to share by tasks of one event loop.

    Args:
        database: The database of jobs.
        lines: The JSON lines.
        redactor: Removes secrets.
        now: Returns the current time.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        lines: AuditLines,
        redactor: Redactor | None = None,
        *,
        now: Callable[[], Moment] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._lines = lines
        self._redactor = redactor or Redactor()
        self._now = now
        self._refusals = Refusals(clock)
        self._new: list[tuple[AuditEntry, asyncio.Future[None]]] = []
        self._storing: asyncio.Task[None] | None = None
        self._kept: deque[AuditEntry] = deque()
        self.entries: Counter[str] = Counter()
        """Number of entries by outcome, since the start."""
        self.lost = 0
        """Number of entries that are only in the JSON lines, because the database was unavailable for too long."""

    @property
    def waiting(self) -> int:
        """Number of entries in memory that are not in the database yet."""
        return len(self._kept)

    @property
    def lines_lost(self) -> int:
        """Number of JSON lines that could not be written."""
        return self._lines.lost

    async def begin(self, entry: AuditEntry, own: tuple[str, ...] = ()) -> AuditEntry:
        """Store the intent of a change; durable when this returns. Intents that arrive together share a transaction.

        Args:
            entry: The entry.
            own: Credentials of the request, which must not be in it.

        Raises:
            DatabaseUnavailable: nothing was stored; the change must not be made.
        """
        entry = self._note(entry, own)
        await self._store(entry)
        return entry

    async def end(self, entry: AuditEntry, own: tuple[str, ...] = ()) -> None:
        """Store the outcome of a change, durable when this returns; kept for later while the database is unavailable.

        Args:
            entry: As for ``begin``.
            own: As for ``begin``.
        """
        entry = self._note(entry, own)
        if self._database.is_down:  # another request has found it: no caller waits for a second time-out
            self._keep(entry)
            return
        try:
            await self._store(entry)
        except DatabaseUnavailable:
            self._keep(entry)

    def refuse(self, entry: AuditEntry, own: tuple[str, ...] = ()) -> None:
        """Record a refusal, soon; equal ones within a minute become one entry with their number."""
        if self._refusals.take(entry):
            self._keep(self._note(entry, own))

    async def run(self) -> None:
        """Store regularly what waits in memory, until canceled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except Exception:  # the top of a service loop: what was not stored is tried again
                _log.exception("audit entries not stored")

    async def flush(self, *, whole: bool = False) -> None:
        """Store what waits in memory; with ``whole``, also refusals that are still being counted."""
        for entry in self._refusals.collect(whole=whole):
            self._keep(self._note(entry))
        while self._kept:
            batch = [self._kept.popleft() for _ in range(min(BATCH, len(self._kept)))]
            try:
                await self._insert(batch)
            except DatabaseUnavailable:
                self._kept.extendleft(reversed(batch))
                return  # logged by the database
            except BaseException:
                self._kept.extendleft(reversed(batch))
                raise

    async def close(self) -> None:
        """Store what waits, as far as the database responds, and close the file of lines."""
        with contextlib.suppress(Exception):  # what is not stored is in the lines
            await self.flush(whole=True)
        self._lines.close()

    async def list_page(
        self, where: AuditFilter, *, limit: int, cursor: str | None
    ) -> tuple[list[AuditEntry], str | None]:
        """Return up to ``limit`` entries, newest first, and the cursor of the next page (None at the end).

        The entry of a beginning is left out when that of the end is there.

        Raises:
            SubmissionError: "validation_error": the cursor was not made by this method.
            DatabaseUnavailable: the database does not respond.
        """
        ends = audit_log.alias("ends")
        has_end = sa.exists(sa.select(ends.c.id).where(ends.c.begun == audit_log.c.id))
        query = sa.select(audit_log).where(sa.or_(audit_log.c.outcome != Outcome.BEGUN.value, ~has_end))
        for column, value in (
            (audit_log.c.who, where.who),
            (audit_log.c.operation, where.operation),
            (audit_log.c.outcome, None if where.outcome is None else where.outcome.value),
            (audit_log.c.subject, where.subject),
            (audit_log.c.job_id, where.job_id),
        ):
            if value is not None:
                query = query.where(column == value)
        if where.after is not None:
            query = query.where(audit_log.c.id >= first_id(where.after))
        if where.before is not None:
            query = query.where(audit_log.c.id < first_id(where.before))
        if cursor is not None:
            query = query.where(audit_log.c.id < _parse_cursor(cursor))
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.order_by(audit_log.c.id.desc()).limit(limit + 1))).mappings().all()
        found = [AuditEntry.from_row(dict(row)) for row in rows[:limit]]
        return found, encode_cursor(found[-1].id) if len(rows) > limit else None

    async def remove_before(self, moment: Moment, *, lead: DispatchLease) -> int:
        """Remove entries that are older than a moment, and add one that says so; return their number.

        Nothing is removed when another copy of the service dispatches now. One statement per ``REMOVED_AT_ONCE``.
        """
        removed = 0
        limit = first_id(moment)
        oldest = sa.select(audit_log.c.id).where(audit_log.c.id < limit).order_by(audit_log.c.id)
        while True:
            chosen = oldest.limit(REMOVED_AT_ONCE).scalar_subquery()
            removal = sa.delete(audit_log).where(audit_log.c.id.in_(chosen), is_current(lead))
            async with self._database.changing() as connection:
                number = (await connection.execute(removal)).rowcount
            removed += number
            if number < REMOVED_AT_ONCE:
                break
        if removed:
            entry = AuditEntry(
                id=new_entry_id(),
                at=self._now(),
                outcome=Outcome.DONE,
                operation="audit.remove",
                kind="service",
                details={"before": moment.isoformat(), "entries": removed},
            )
            await self.end(entry)
        return removed

    def _note(self, entry: AuditEntry, own: tuple[str, ...] = ()) -> AuditEntry:
        """Return the entry as it is recorded; its line is written, and counted."""
        entry = self._redactor.clean(entry, own)
        self._lines.write(entry.line())
        self.entries[entry.outcome.value] += entry.number
        return entry

    def _keep(self, entry: AuditEntry) -> None:
        if len(self._kept) >= KEPT_MAX:
            self._kept.popleft()
            if not self.lost:
                _log.error("audit entries are only in the lines", extra={"waiting": KEPT_MAX})
            self.lost += 1
        self._kept.append(entry)

    async def _store(self, entry: AuditEntry) -> None:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._new.append((entry, stored))
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_new(), context=context_without_fields())
        await stored

    async def _store_new(self) -> None:
        """Store all waiting entries in one transaction; the next batch collects while the commit waits for the disk."""
        while self._new:
            batch, self._new = self._new[:BATCH], self._new[BATCH:]
            error: Exception | None = None
            try:
                await self._insert([entry for entry, _ in batch])
            except Exception as failure:  # raised in the tasks that wait
                error = failure
            for _, stored in batch:
                if stored.done():  # its caller was canceled
                    continue
                if error is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(error)

    async def _insert(self, entries: list[AuditEntry]) -> None:
        try:
            async with self._database.changing() as connection:
                await connection.execute(sa.insert(audit_log), [entry.values() for entry in entries])
        except IntegrityError:  # the answer to an earlier commit was lost: some are there
            known = sa.select(audit_log.c.id).where(audit_log.c.id.in_([entry.id for entry in entries]))
            async with self._database.reading() as connection:
                there = set((await connection.execute(known)).scalars())
            missing = [entry for entry in entries if entry.id not in there]
            if len(missing) == len(entries):
                raise
            if missing:
                async with self._database.changing() as connection:
                    await connection.execute(sa.insert(audit_log), [entry.values() for entry in missing])


def insert_entry(entry: AuditEntry) -> sa.Insert:
    """Return the statement that adds an entry, for a transaction that makes the change itself. Pure."""
    return sa.insert(audit_log).values(Redactor().clean(entry).values())


def floor_day(moment: Moment) -> Moment:
    """Return the beginning of a moment's day. Pure."""
    return moment.astimezone(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _parse_cursor(cursor: str) -> str:
    """Return the id of the last entry of the previous page. Pure. Raises SubmissionError."""
    entry_id = decode_cursor(cursor)
    if id_moment(entry_id) is None:
        raise bad_cursor(cursor)
    return entry_id
