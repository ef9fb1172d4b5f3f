"""The lease of a collection: who may write now, and the epoch that fences off everybody who wrote before.

``collections/{c}/lease.json`` holds job, attempt, epoch and a heartbeat counter, and changes by conditional writes
only. It is never removed, so the epoch only ever grows. Nobody compares clocks of two machines: a waiting driver takes
the lease over when, by its own monotonic clock, the stored value has stood still for ``ttl_s``; the holder stops by
itself when, by its own, ``ttl_s`` have passed since it last renewed. The successor then waits ``grace_s`` before it
writes, so that what the dead attempt's workers had in flight has ended (``LeaseSettings`` says how the two are chosen).
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ingestion_engine.domain.errors import IngestionError, JobAborted, StateConflict, TransientError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.state.held_lease import (
    LOOKS_PER_TTL,
    RENEWALS_PER_TTL,
    HeldLease,
    Lease,
    make_lease_lost,
    read_lease,
    write_lease,
)

__all__ = ["HeldLease", "Lease", "LeaseCheck", "acquire", "read_lease"]

_log = logging.getLogger(__name__)

_LONGEST_LOOK_S = 1.0
"""A waiting driver notices a released lease within this many seconds."""


class _Acquisition:
    """One driver's way to the lease; see ``acquire``."""

    def __init__(
        self,
        store: StateStore,
        collection: str,
        job_id: str,
        attempt: int,
        *,
        ttl_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._store = store
        self._collection = collection
        self._wanted = Lease(job_id, attempt, 1, 0, released=False, version="", holder=secrets.token_hex(8))
        self._ttl_s = ttl_s
        self._clock = clock
        self._sleep = sleep
        self._should_stop = should_stop
        self._look_s = min(ttl_s / LOOKS_PER_TTL, _LONGEST_LOOK_S)

    def take(self) -> tuple[HeldLease, bool]:
        """Wait for the lease and take it; True when it was taken from somebody who had not released it."""
        watched: Lease | None = None
        watched_since = 0.0
        while True:
            self._stop_if_asked()
            try:
                asked_at = self._clock()
                stored = read_lease(self._store, self._collection)
                if stored is not None and stored.holder == self._wanted.holder:
                    # Our write arrived although its answer did not. What it replaced is forgotten, so assume the worst.
                    renewed = replace(stored, counter=stored.counter + 1)
                    return self._hold(write_lease(self._store, self._collection, renewed), asked_at), True
                if stored is None or stored.released:
                    return self._write_over(stored), False
                self._refuse_predecessor(stored)
                if stored != watched:
                    watched, watched_since = stored, self._clock()
                elif asked_at - watched_since >= self._ttl_s:
                    return self._write_over(stored), True
            except StateConflict:
                continue
            except TransientError as error:
                _log.warning(
                    "waiting for the state store", extra={"collection": self._collection, **error.log_fields()}
                )
            self._sleep(self._look_s)

    def wait_grace(self, held: HeldLease, grace_s: float) -> None:
        """Wait, renewing, until whatever the former holder had in flight has ended."""
        ends_at = self._clock() + grace_s
        renew_at = self._clock() + self._ttl_s / RENEWALS_PER_TTL
        while (now := self._clock()) < ends_at:
            # Stopping here leaves the lease held: were it released, the next driver would not wait for the former
            # holder.
            self._stop_if_asked()
            if now >= renew_at:
                pause_s = held.renew_step()
                renew_at = now + (pause_s or 0.0)
            held.check()
            self._sleep(min(self._look_s, ends_at - now))

    def _write_over(self, stored: Lease | None) -> HeldLease:
        self._refuse_predecessor(stored)
        started_at = self._clock()
        wanted = self._wanted
        if stored is not None:
            wanted = replace(wanted, epoch=stored.epoch + 1, version=stored.version)
        return self._hold(write_lease(self._store, self._collection, wanted), started_at)

    def _hold(self, lease: Lease, renewed_at: float) -> HeldLease:
        return HeldLease(
            self._store, self._collection, lease, ttl_s=self._ttl_s, clock=self._clock, renewed_at=renewed_at
        )

    def _refuse_predecessor(self, stored: Lease | None) -> None:
        if stored is not None and stored.job_id == self._wanted.job_id and stored.attempt > self._wanted.attempt:
            raise make_lease_lost(self._collection, None, stored)

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise JobAborted(
                "job_aborted", f"stopped while waiting for the lease on {self._collection}", collection=self._collection
            )


def acquire(
    store: StateStore,
    collection: str,
    job_id: str,
    attempt: int,
    *,
    ttl_s: float,
    grace_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    should_stop: Callable[[], bool] = lambda: False,
) -> HeldLease:
    """Wait until the collection is free or its holder is dead, and hold it under a new, higher epoch. Blocking.

    A free or released lease is taken at once. One whose heartbeat stands still for ``ttl_s`` is taken over, and the
    call returns ``grace_s`` later; it is renewed meanwhile, but not afterwards: enter ``keep_alive`` next. While the
    state store is away, it waits.

    Args:
        store: The state store.
        collection: What to hold.
        job_id: Who asks.
        attempt: Which attempt of the job. An earlier one than the stored attempt of the same job is refused.
        ttl_s: Seconds without a heartbeat after which a holder is dead; the same for all drivers.
        grace_s: Seconds that a dead holder's writes may still be under way.
        clock: Monotonic seconds.
        sleep: Waits for that many seconds.
        should_stop: Asked before every look; what it raises passes through.

    Raises:
        JobAborted: ``should_stop`` said so.
        LeaseLost: a later attempt of this job has or had the lease, or somebody took it while we waited ``grace_s``.

    Cost: one or two requests; while waiting, one per second (ten per ``ttl_s``, if that is more).
    """
    acquisition = _Acquisition(
        store, collection, job_id, attempt, ttl_s=ttl_s, clock=clock, sleep=sleep, should_stop=should_stop
    )
    held, taken_over = acquisition.take()
    _log.info("lease acquired", extra={"collection": collection, "epoch": held.epoch, "taken_over": taken_over})
    if taken_over:
        acquisition.wait_grace(held, grace_s)
    return held


class LeaseCheck:
    """A worker's view of its driver's lease. Safe to share by threads.

    Args:
        store: The state store.
        collection: The collection it writes.
        job_id: The job it works for.
        epoch: The epoch its driver holds.
        max_age_s: Seconds for which an answer is believed; part of ``LeaseSettings.grace_s``.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: StateStore,
        collection: str,
        job_id: str,
        epoch: int,
        *,
        max_age_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._collection = collection
        self._job_id = job_id
        self._epoch = epoch
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._checked_at: float | None = None
        self._ended: IngestionError | None = None

    def check(self) -> None:
        """Return when this epoch held the lease and nobody had aborted the job at most ``max_age_s`` ago.

        Raises:
            LeaseLost: another epoch holds the lease, or it was released. Once raised, always raised.
            JobAborted: somebody asked for the job to stop. Once raised, always raised.
            TransientError: the state store is away, so nothing is known.

        Cost: two requests when the last answer is too old; threads that call meanwhile wait for them.
        """
        with self._lock:
            if self._ended is not None:
                raise self._ended.with_traceback(None)
            now = self._clock()
            if self._checked_at is not None and now - self._checked_at < self._max_age_s:
                return
            stored = read_lease(self._store, self._collection)
            if stored is None or (stored.job_id, stored.epoch) != (self._job_id, self._epoch) or stored.released:
                self._ended = make_lease_lost(self._collection, self._epoch, stored)
            elif self._store.get(f"jobs/{self._job_id}/abort") is not None:
                self._ended = JobAborted("job_aborted", f"job {self._job_id} was asked to stop", job_id=self._job_id)
            if self._ended is not None:
                raise self._ended
            self._checked_at = now
