"""Removes jobs that ended long ago: their ledger in the state store, then their row.

::

    row marked (callers do not see the job any more) ─► a minute ─► ledger deleted ─► row deleted

After a crash between two of these steps, the next sweep goes on from the mark. Only the copy of the service that
dispatches sweeps; each of its steps requires the lease. Nothing is removed that a later job or a retry needs
(``state.retention``). Ledgers without a row, of a lost database, of ``ingest worker run``, or of a driver that wrote
after its job was removed, are found by a listing once a day, and removed by the age that they show themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from ingestion_engine.domain.errors import DatabaseUnavailable, FatalError, TransientError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.believed_clock import BelievedClock
from ingestion_engine.services.job_expiry import EndedRows
from ingestion_engine.services.job_ids import read_creation
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.leadership import Leadership, NotLeading
from ingestion_engine.state.collections import iter_open_jobs
from ingestion_engine.state.retention import (
    LEDGERS,
    delete_ledger,
    find_last_sign,
    find_need,
    read_collection,
)

JOBS_PER_SWEEP: Final = 200
"""Jobs that one sweep marks, and removes: at ten requests of 10 ms each, a sweep takes 20 s at most."""

MARKED_S: Final = 60.0
"""Time between mark and removal, in which requests that were reading the job end."""

NEEDED_AGAIN_S: Final = 3_600.0
"""Time after which a job whose ledger was still needed, or could not be removed, is examined again."""

SCAN_S: Final = 86_400.0
"""Time between two searches for ledgers without a row; one costs a request per 1,000 values of all ledgers."""

FIRST_SCAN_S: Final = 600.0
"""Time from the start of the service to the first search, so that restarts in a row list nothing."""

LISTED_AT_ONCE: Final = 5_000
"""Paths read by one call in a thread, so that the end of the service does not wait for a long listing."""

_log = get_logger(__name__)

Removed = Literal["jobs", "ledgers"]
"""What was removed: a job with its ledger, or a ledger without a row."""


class Retention:
    """Removes what is older than the time that jobs are kept. For one event loop.

    Args:
        store: The jobs table.
        state: The state store.
        leadership: The right of this copy of the service to dispatch.
        days: How long ended jobs are kept; 0 means for ever.
        now: Returns the current time.
        on_removed: Called with each kind and number of what a sweep has removed.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: JobStore,
        state: StateStore,
        leadership: Leadership,
        *,
        days: float,
        now: Callable[[], Moment],
        on_removed: Callable[[Removed, int], None] = lambda _what, _number: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = EndedRows(store.database)
        self._state = state
        self._leadership = leadership
        self._kept = dt.timedelta(days=days)
        self._believed = BelievedClock(now, clock)
        self._on_removed = on_removed
        self._clock = clock
        self._after = ""
        self._needed: dict[str, float] = {}
        self._aside: dict[str, float] = {}
        self._orphans: deque[str] = deque()
        self._scan_at = clock() + FIRST_SCAN_S
        self._due = 0
        self._removed: Counter[Removed] = Counter()

    @property
    def backlog(self) -> int:
        """Number of jobs and ledgers that are old enough to be removed, and that nothing needs."""
        return max(0, self._due - len(self._needed)) + len(self._orphans)

    @property
    def needed(self) -> int:
        """Number of jobs that are old enough to be removed, but that a later job needs."""
        return len(self._needed)

    async def sweep(self) -> None:
        """Remove some of what is due, and mark what is due next.

        Nothing is removed for ``BELIEVED_S`` after the clock has jumped ahead. A job whose removal fails for its own
        reasons ends this sweep, and the next ones go on without it for ``NEEDED_AGAIN_S``.

        Cost: three queries when there is nothing to do. Otherwise at most ``JOBS_PER_SWEEP`` jobs are removed and as
        many marked, each with a listing, two reads, and one request per value, one after another.
        """
        now = self._believed.read()
        if now is None:
            return
        self._removed.clear()
        try:
            await self._remove_marked(now)
            if self._kept:
                limit = now - self._kept
                await self._mark_due(limit, now)
                await self._remove_orphans(limit)
                self._due = await self._rows.count_due(limit)
        except NotLeading:
            pass  # logged where it begins; the copy that leads now goes on from the marks
        finally:
            for what, number in self._removed.items():
                self._on_removed(what, number)
            if self._removed:
                done = {"jobs": self._removed["jobs"], "ledgers": self._removed["ledgers"], "backlog": self.backlog}
                _log.info("removed what ended long ago", extra=done)

    @contextlib.contextmanager
    def _setting_aside(self, job_id: str) -> Iterator[None]:
        """Have the next sweeps leave out a job that fails for its own reasons, so that it holds up no other."""
        try:
            yield
        except (TransientError, DatabaseUnavailable, NotLeading):
            raise
        except Exception:  # raised again: the job is only set aside
            self._aside[job_id] = self._clock() + NEEDED_AGAIN_S
            raise

    async def _remove_marked(self, now: Moment) -> None:
        clock = self._clock()
        self._aside = {job_id: until for job_id, until in self._aside.items() if until > clock}
        before, limit = now - dt.timedelta(seconds=MARKED_S), JOBS_PER_SWEEP + len(self._aside)
        marked = [job for job in await self._rows.list_marked(before, limit) if job.job_id not in self._aside]
        for job in marked[:JOBS_PER_SWEEP]:
            with self._setting_aside(job.job_id):
                need = await asyncio.to_thread(find_need, self._state, job.collection, job.job_id)
                if need is not None:  # a defect or a hand has opened it again
                    _log.warning("marked job not removed", extra={"job_id": job.job_id, "reason": need})
                    self._aside[job.job_id] = clock + NEEDED_AGAIN_S
                    continue
                await self._delete_ledger(job.job_id)
                if await self._rows.remove(job.job_id, lead=self._leadership.require()):
                    self._removed["jobs"] += 1

    async def _mark_due(self, limit: Moment, moment: Moment) -> None:
        now = self._clock()
        self._needed = {job_id: until for job_id, until in self._needed.items() if until > now}
        page = await self._rows.list_due(limit, after=self._after, limit=JOBS_PER_SWEEP)
        self._after = page[-1].job_id if len(page) == JOBS_PER_SWEEP else ""
        if not page:
            return
        used = await self._rows.find_used()
        chosen = []
        for job in page:
            if job.job_id in self._needed or job.job_id in used or job.job_id in self._aside:
                continue
            with self._setting_aside(job.job_id):
                need = await asyncio.to_thread(find_need, self._state, job.collection, job.job_id)
            if need is None:
                chosen.append(job.job_id)
            else:
                self._needed[job.job_id] = now + NEEDED_AGAIN_S
        if chosen:
            await self._rows.mark(chosen, moment, lead=self._leadership.require())

    async def _remove_orphans(self, limit: Moment) -> None:
        if self._clock() >= self._scan_at:
            self._orphans = deque(await self._find_orphans(limit))
            self._scan_at = self._clock() + SCAN_S
        for _ in range(min(JOBS_PER_SWEEP, len(self._orphans))):
            job_id = self._orphans.popleft()
            try:
                if not await self._rows.find_known([job_id]) and await asyncio.to_thread(self._is_old, job_id, limit):
                    await self._delete_ledger(job_id)
                    self._removed["ledgers"] += 1
            except BaseException:
                self._orphans.append(job_id)  # one that fails each time keeps no other
                raise

    async def _find_orphans(self, limit: Moment) -> list[str]:
        """Return the ledgers without a row that may be old enough. Memory: the ids of all ledgers."""
        found: set[str] = set()
        async for path in self._list(self._state.list(LEDGERS)):
            job_id, slash, _ = path.removeprefix(LEDGERS).partition("/")
            if slash and ((made := read_creation(job_id)) is None or made < limit):
                found.add(job_id)
        known = await self._rows.find_known(sorted(found))
        if not (orphans := found - known):
            return []
        opened = {job_id async for job_id in self._list(iter_open_jobs(self._state))}
        return sorted(orphans - opened)

    def _is_old(self, job_id: str, limit: Moment) -> bool:
        """Return whether a ledger without a row is old and not needed. Cost: up to five requests."""
        signs = [moment for moment in (read_creation(job_id), find_last_sign(self._state, job_id)) if moment]
        if not signs or max(signs) >= limit:
            return False
        try:
            collection = read_collection(self._state, job_id)
        except FatalError as error:
            _log.warning("ledger without a job kept", extra={"job_id": job_id, **error.log_fields()})
            return False
        return collection is None or find_need(self._state, collection, job_id) is None

    async def _list(self, paths: Iterator[str]) -> Any:
        while part := await asyncio.to_thread(lambda: list(itertools.islice(paths, LISTED_AT_ONCE))):
            self._leadership.require()
            for path in part:
                yield path

    async def _delete_ledger(self, job_id: str) -> None:
        """Delete a ledger while this copy leads. Raises NotLeading."""
        steps = delete_ledger(self._state, job_id)
        self._leadership.require()
        while await asyncio.to_thread(next, steps, None) is not None:
            self._leadership.require()
