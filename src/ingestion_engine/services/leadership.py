"""Which copy of the service dispatches: a lease in the database, by the database's clock.

The lease has a number, the term, that grows whenever its holder changes. ``DispatchedJobs`` changes a job only while
the database still has this copy's lease, so a copy that was paused or cut off cannot change a job any more, whatever
it believes. It stops believing when ``HOLD_S`` have passed on its own monotonic clock since its last renewal began.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobEvent
from ingestion_engine.services.job_store import DispatchLease, JobStore

HOLD_S: Final = 6.0
"""Time after which another copy of the service takes over from a dead dispatcher."""

RENEW_S: Final = HOLD_S / 3
"""Pause between two renewals: two in a row may fail before the lease is in danger."""

STOP_WAIT_S: Final = 5.0
"""Longest wait at the end for a write under way: as long as SQLite would stay locked without it."""

_log = get_logger(__name__)


class NotLeading(Exception):
    """This copy of the service may not change jobs now; another one does."""


@dataclass(frozen=True, slots=True)
class LeadershipView:
    """Who dispatches, as this copy of the service knows it."""

    leading: bool
    """True when this copy dispatches."""
    holder: str | None
    """Name of the copy that dispatches; None when it is unknown, or when nobody does."""
    term: int | None
    """Number that grows with every change of the holder; None when unknown."""
    since: Moment | None
    """When this copy began to dispatch, by its own clock; None while it does not."""

    @property
    def is_vacant(self) -> bool:
        """True when it is known that no copy dispatches: submitted jobs wait."""
        return self.holder is None and self.term is not None


class Leadership:
    """The right of this copy of the service to dispatch.

    Args:
        store: The jobs table.
        on_gained: Called when this copy begins to dispatch.
        on_lost: Called when the right is lost: all work that it covers must stop.
        may_lead: False only watches who dispatches, and never claims the right.
        holder: Name of this copy; None means a new one of host, process and a random part.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        on_gained: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        may_lead: bool = True,
        holder: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holder = holder or f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._store = store
        self._on_gained = on_gained
        self._on_lost = on_lost
        self.may_lead = may_lead
        self._clock = clock
        self._lease: DispatchLease | None = None
        self._until = 0.0
        self._since: Moment | None = None
        self._seen: DispatchLease | None = None
        self._claim: asyncio.Future[DispatchLease] | None = None
        self._claimed_at = 0.0

    @property
    def is_held(self) -> bool:
        """True while this copy dispatches, as far as it can know; no request."""
        return self._lease is not None and self._clock() < self._until

    def require(self) -> DispatchLease:
        """Return the lease. Raises NotLeading."""
        if self._lease is None or self._clock() >= self._until:
            raise NotLeading
        return self._lease

    def view(self) -> LeadershipView:
        """Return who dispatches, as of the last renewal; no request."""
        seen = self._seen
        leading = self.is_held
        return LeadershipView(
            leading=leading,
            holder=None if seen is None else seen.holder or None,
            term=None if seen is None else seen.term,
            since=self._since if leading else None,
        )

    async def keep(self) -> None:
        """Acquire and renew the right until canceled; errors do not end it."""
        while True:
            try:
                await self.renew()
            except DatabaseUnavailable:
                pass  # the database has logged the beginning of its outage
            except Exception:  # the top of a service loop: the next renewal tries again
                _log.exception("right to dispatch not renewed")
            await asyncio.sleep(RENEW_S)

    async def renew(self) -> bool:
        """Acquire or renew the right if this copy may, or note which copy has it; return whether this copy has it.

        A database that does not respond holds this up for ``RENEW_S``; its answer is awaited by the next call.
        """
        if self._claim is None:
            self._claimed_at = self._clock()
            self._claim = asyncio.ensure_future(
                self._store.hold_dispatch(self.holder, HOLD_S) if self.may_lead else self._store.read_dispatch()
            )
        claim = self._claim  # of every renewal under way; the first that resumes notes its answer
        # Not wait_for: SQLite stays locked for five seconds after a write that was canceled.
        await asyncio.wait([claim], timeout=RENEW_S)
        self._check_deadline()
        try:
            if claim.done() and claim is self._claim:
                self._claim = None
                self._note(claim.result())
        finally:
            self._check_deadline()
        return self.is_held

    async def close(self) -> None:
        """End a renewal under way, and release the right, so that a successor does not have to wait."""
        if self._claim is not None:
            await asyncio.wait([self._claim], timeout=STOP_WAIT_S)
            self._claim.cancel()
        self._lease = None
        if not self.may_lead:
            return
        with contextlib.suppress(Exception):  # the right expires by itself, and the service is ending
            async with asyncio.timeout(STOP_WAIT_S):
                await self._store.release_dispatch(self.holder)

    def _note(self, stored: DispatchLease) -> None:
        before, self._seen = self._seen, stored
        if stored.holder != self.holder:
            if self._lease is not None:
                self._lose(f"{stored.holder!r} has taken over")
            elif before != stored and stored.holder:
                _log.info("another copy dispatches", extra={"holder": stored.holder, "term": stored.term})
            return
        until = self._claimed_at + HOLD_S
        if self._lease is None and until <= self._clock() + RENEW_S:
            return  # the answer came too late to be renewed in time: the next renewal decides
        self._until = until
        if self._lease == stored:
            return
        if self._lease is not None:
            self._lose("another copy had taken over meanwhile")
        self._lease = stored
        self._since = utc_now()
        former = None if before is None or before.holder == self.holder else before.holder
        _log.info(
            "this copy dispatches now", extra={"holder": self.holder, "term": stored.term, "former_holder": former}
        )
        self._on_gained()

    def _check_deadline(self) -> None:
        if self._lease is not None and self._clock() >= self._until:
            self._lose(f"the right to dispatch was not renewed for {HOLD_S:g} s")

    def _lose(self, reason: str) -> None:
        lease, self._lease = self._lease, None
        self._since = None
        term = None if lease is None else lease.term
        _log.warning("this copy dispatches no more", extra={"holder": self.holder, "term": term, "reason": reason})
        self._on_lost()


class DispatchedJobs:
    """The jobs table as the dispatcher changes it: only while this copy leads.

    Every method raises ``NotLeading`` when it does not, as far as it knows; when the database knows better, nothing is
    changed.
    """

    def __init__(self, store: JobStore, leadership: Leadership) -> None:
        self._store = store
        self._leadership = leadership

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job, or None; also while another copy leads."""
        return await self._store.get(job_id)

    async def change(self, job: JobRecord, event: JobEvent, **values: Any) -> JobRecord | None:
        """Apply an event to a job: ``JobStore.change`` under the lease."""
        return await self._store.change(job, event, lead=self._leadership.require(), **values)

    async def update(self, job: JobRecord, **values: Any) -> JobRecord | None:
        """Set columns of a job: ``JobStore.update`` under the lease."""
        return await self._store.update(job, lead=self._leadership.require(), **values)

    async def note_waiting(self, notes: Mapping[str, str | None], reasons: Mapping[str, str]) -> None:
        """Set the notes of waiting jobs: ``JobStore.note_waiting`` under the lease."""
        await self._store.note_waiting(notes, reasons=reasons, lead=self._leadership.require())
