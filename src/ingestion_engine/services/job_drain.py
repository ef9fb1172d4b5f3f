"""Draining: no waiting job is admitted, so that an operator can stop or upgrade what jobs run on.

One row in the database, which every copy of the service obeys at once: the statement that admits a job requires that it
does not exist. Jobs that are under way go on, also with a next driver; new ones are accepted and wait, or are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ingestion_engine.domain.errors import DatabaseUnavailable, SubmissionError
from ingestion_engine.domain.states import FINAL_STATES
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment, format_seconds
from ingestion_engine.services.audit.change import begin_change
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import drains, jobs
from ingestion_engine.services.job_states import JobPhase
from ingestion_engine.services.job_store import JobStore, is_in

NAMED_JOBS: Final = 100
"""Maximum number of jobs under way that a status names; it counts all."""

PEEK_S: Final = 0.3
"""Time that a probe waits for the database; it is answered with what was known before."""

KNOWN_S: Final = 1.0
"""Age up to which a probe is answered without a query."""

_NAME: Final = "jobs"
"""Name of the only row of the table of drains."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Drain:
    """An order to drain."""

    since: Moment
    """When it was given, by the database's clock."""
    refuses: bool
    """True when new jobs are refused instead of accepted to wait."""
    requested_by: str
    """Name of the API key that gave it; empty without authentication."""
    reason: str | None = None

    @property
    def note(self) -> str:
        """Why a job waits, for humans."""
        why = f" ({self.reason.rstrip('.')})" if self.reason else ""
        return f"Draining since {format_seconds(self.since)}{why}: no job starts until `ingest drain --off`."


@dataclass(frozen=True, slots=True)
class JobUnderWay:
    """A job that has been admitted and has not ended."""

    job_id: str
    engine: str
    collection: str
    state: str


@dataclass(frozen=True, slots=True)
class DrainStatus:
    """Whether the service is drained, and how far it is."""

    drain: Drain | None
    under_way: int
    """Number of jobs that have been admitted and have not ended."""
    waiting: int
    """Number of jobs that wait for admission."""
    jobs: tuple[JobUnderWay, ...]
    """The oldest ``NAMED_JOBS`` of the jobs under way."""


class DrainSwitch:
    """The order to drain, as all copies of the service share it. For one event loop.

    Every method but ``peek`` raises DatabaseUnavailable while the database does not respond.

    Args:
        store: The jobs table.
        wake: Called when jobs may start again.
        clock: Monotonic seconds.
    """

    def __init__(
        self, store: JobStore, *, wake: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._database: Database = store.database
        self._wake = wake
        self._clock = clock
        self._known: Drain | None = None
        self._known_at: float | None = None
        self._reading: asyncio.Task[Drain | None] | None = None

    async def read(self) -> Drain | None:
        """Return the order, or None when the service is not drained. One query."""
        query = sa.select(drains.c.since, drains.c.refuses, drains.c.requested_by, drains.c.reason)
        async with self._database.reading() as connection:
            row = (await connection.execute(query.where(drains.c.name == _NAME))).first()
        self._known, self._known_at = None if row is None else Drain(*row), self._clock()
        return self._known

    async def peek(self) -> Drain | None:
        """Return the order as far as it is known within ``PEEK_S``; for probes, which must not wait. Never raises."""
        if self._known_at is None or self._clock() - self._known_at >= KNOWN_S:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read_quietly())
            await asyncio.wait([self._reading], timeout=PEEK_S)
        return self._known

    async def _read_quietly(self) -> Drain | None:
        try:
            return await self.read()
        except DatabaseUnavailable:
            return None  # the database has logged the beginning of its outage

    async def set(self, *, refuses: bool = False, reason: str | None = None, requested_by: str = "") -> Drain:
        """Drain the service, or change the order; its time stays. Idempotent. One transaction."""
        values = {"refuses": refuses, "reason": reason, "requested_by": requested_by}
        await begin_change(refuses=refuses)
        while True:
            async with self._database.changing() as connection:
                changed = await connection.execute(sa.update(drains).where(drains.c.name == _NAME).values(values))
            if changed.rowcount == 0:
                try:
                    async with self._database.changing() as connection:
                        await connection.execute(
                            sa.insert(drains).values(name=_NAME, since=self._store.now(), **values)
                        )
                except IntegrityError:
                    continue  # another request was the first
            if (drain := await self.read()) is not None:
                _log.info("draining", extra={"refuses": refuses, "reason": reason, "by": requested_by or None})
                return drain

    async def clear(self) -> None:
        """Let jobs start again. Idempotent. One transaction."""
        await begin_change()
        async with self._database.changing() as connection:
            changed = await connection.execute(sa.delete(drains).where(drains.c.name == _NAME))
        self._known, self._known_at = None, self._clock()
        if changed.rowcount:
            _log.info("draining ended")
        self._wake()

    async def check(self) -> DrainStatus:
        """Return the order, and which jobs are under way. Four queries."""
        drain = await self.read()
        active = jobs.c.state.not_in([state.value for state in FINAL_STATES])
        is_waiting = is_in(JobPhase.WAITING)
        is_under_way = sa.and_(active, sa.not_(is_waiting))
        named = sa.select(jobs.c.id, jobs.c.engine, jobs.c.collection, jobs.c.state).where(is_under_way)
        async with self._database.reading() as connection:
            counts = [
                (await connection.execute(sa.select(sa.func.count()).select_from(jobs).where(where))).scalar_one()
                for where in (is_under_way, is_waiting)
            ]
            rows = (await connection.execute(named.order_by(jobs.c.created_at, jobs.c.id).limit(NAMED_JOBS))).all()
        under_way, waiting = counts
        return DrainStatus(drain, under_way=under_way, waiting=waiting, jobs=tuple(JobUnderWay(*row) for row in rows))

    async def require_open(self) -> None:
        """Return when new jobs are accepted. One query. Raises SubmissionError "draining" (503)."""
        drain = await self.read()
        if drain is not None and drain.refuses:
            raise SubmissionError(
                "draining",
                f"The service accepts no new jobs since {format_seconds(drain.since)}: it is being drained.",
                hint="Submit the job again later; GET /readyz shows when the service is not drained any more.",
                status=503,
            )
