"""The lease of a collection: which attempt may write, and the epoch that fences off all earlier writers.

``collections/{c}/lease.json`` holds job, attempt, epoch and a heartbeat counter. It changes by conditional writes only
and is never removed, so epochs only grow; a new epoch is also at least the Unix time in seconds, so that it is above
those of all points although the state store was restored from a backup. Clocks of different machines are never compared
to decide who holds it: a waiting driver takes the lease over when the stored value has not changed for ``ttl_s`` on its
own monotonic clock, not counting the time in which it could not read; the holder pauses by itself when ``ttl_s`` have
passed on its own clock since its last renewal. The successor then waits ``grace_s`` before it writes, so that all
requests of the dead attempt's workers have ended (``LeaseSettings`` explains both values).

Nobody can take a lease over while the state store is unavailable. So an outage of any length does not lose it: when the
store is back, the holder's conditional write succeeds under the same epoch unless somebody else was faster.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import orjson

from ingestion_engine.domain.errors import (
    FatalError,
    IngestionError,
    JobAborted,
    LeaseLost,
    StateConflict,
    TransientError,
)
from ingestion_engine.domain.ports import StateStore, Stored
from ingestion_engine.runtime.background import start_background
from ingestion_engine.state.json_files import parse_json
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.update import update_value

_log = logging.getLogger(__name__)

_RENEWALS_PER_TTL = 3
"""Two renewals in a row may fail before the lease is in danger."""
_CHECKS_PER_TTL = 10
"""How often per ``ttl_s`` a waiting driver reads the heartbeat, and how soon a failed renewal is repeated.

Adds at most a tenth to the wait.
"""
_WRITE_MARGIN_S = 1.0
"""A write ends this much earlier than a successor's first one, for a request that a server is just completing."""
_SHORTEST_WRITE_S = 5.0
"""No write is given less time, because a busy server would never finish it (a guess)."""
_LONGEST_PAUSE_S = 1.0
"""A waiting driver notices a released lease within this many seconds."""


# -- the stored lease -------------------------------------------------------------------------------------------------


def _path(collection: str) -> str:
    return f"collections/{collection}/lease.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The stored lease."""

    job_id: str
    attempt: int
    epoch: int
    counter: int
    """Heartbeat: incremented by every renewal."""
    released: bool
    version: str = ""
    """Version in the state store, for the next conditional write; empty before the first write."""
    holder: str = ""
    """Random name of the process that acquired it."""

    def to_json(self) -> bytes:
        """Return the stored bytes, which do not include the version."""
        return orjson.dumps(
            {
                "format": 1,
                "job_id": self.job_id,
                "attempt": self.attempt,
                "epoch": self.epoch,
                "counter": self.counter,
                "released": self.released,
                "holder": self.holder,
            }
        )


def read_lease(store: StateStore, collection: str) -> Lease | None:
    """Return the stored lease, or None when the collection was never written to. One request.

    Raises:
        FatalError: "state_corrupt".
    """
    stored = store.get(_path(collection))
    return None if stored is None else _parse_lease(collection, stored)


def _parse_lease(collection: str, stored: Stored) -> Lease:
    path = _path(collection)
    data = parse_json(path, stored.data)
    try:
        names = ("job_id", "attempt", "epoch", "counter", "released", "holder")
        return Lease(**{name: data[name] for name in names}, version=stored.version)
    except KeyError as error:
        raise FatalError("state_corrupt", f"{path!r} in the state store has no field {error}.", path=path) from error


def _write_lease(store: StateStore, collection: str, lease: Lease) -> Lease:
    """Write a lease over ``lease.version`` (empty: there is none yet) and return it. Raises StateConflict."""
    path = _path(collection)
    if lease.version:
        return replace(lease, version=store.replace(path, lease.to_json(), lease.version))
    return replace(lease, version=store.create(path, lease.to_json()))


def fence_lease(store: StateStore, collection: str, job_id: str) -> int | None:
    """Take the lease from a job that the service ends without its driver; return the new epoch.

    Afterwards the job's driver cannot renew the lease, its workers' checks fail, and the next job waits for the lease
    to expire and then for the grace, as after a dead driver. Calling it again takes the lease again: harmless.

    Returns:
        The epoch; None when the job does not hold the lease, which then stays as it is.

    Cost: one read; one conditional write when the job holds the lease.
    """

    def take(data: bytes | None) -> bytes | None:
        stored = None if data is None else _parse_lease(collection, Stored(data, ""))
        if stored is None or stored.released or stored.job_id != job_id:
            return None
        fenced = replace(stored, epoch=stored.epoch + 1, counter=0, holder=f"service-{secrets.token_hex(8)}")
        return fenced.to_json()

    written = update_value(store, _path(collection), take)
    fenced = None if written is None else _parse_lease(collection, written)
    return fenced.epoch if fenced is not None and fenced.job_id == job_id and not fenced.released else None


def _make_lease_lost(collection: str, epoch: int | None, stored: Lease | None) -> LeaseLost:
    """Return the error for an epoch (None: one that was refused) that finds this lease stored. Pure."""
    holder = "nobody" if stored is None else f"epoch {stored.epoch} of job {stored.job_id}, attempt {stored.attempt}"
    state = ", released" if stored is not None and stored.released else ""
    return LeaseLost(
        "lease_lost",
        f"The lease on collection {collection!r} belongs to {holder}{state}.",
        collection=collection,
        epoch=epoch,
        stored_epoch=None if stored is None else stored.epoch,
    )


# -- held by a driver -------------------------------------------------------------------------------------------------


class HeldLease:
    """A lease that this process acquired. Safe to share by threads.

    Made by ``acquire``. The driver calls ``check`` before everything that it makes durable.
    """

    def __init__(
        self,
        store: StateStore,
        collection: str,
        lease: Lease,
        *,
        ttl_s: float,
        clock: Callable[[], float],
        renewed_at: float,
    ) -> None:
        self._store = store
        self._collection = collection
        self._lease = lease
        self._ttl_s = ttl_s
        self._clock = clock
        self._renewed_at = renewed_at
        self._lost: IngestionError | None = None
        self._lock = threading.Lock()

    @property
    def epoch(self) -> int:
        """Epoch of this lease, higher than all earlier ones of the collection; part of every point written."""
        return self._lease.epoch

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self._collection

    def renew(self) -> None:
        """Increment the heartbeat. One request.

        Raises:
            LeaseLost: the stored lease belongs to another process, or was released.
            TransientError: the state store is unavailable; the lease may still be held.
        """
        with self._lock:
            self._raise_if_lost()
            started_at = self._clock()
            self._lease = self._write(released=False)
            unconfirmed_s = started_at - self._renewed_at
            self._renewed_at = started_at
        if unconfirmed_s >= self._ttl_s:
            fields = {"collection": self._collection, "epoch": self.epoch, "unconfirmed_s": round(unconfirmed_s, 1)}
            _log.info("lease kept: nobody took it meanwhile", extra=fields)

    def check(self) -> None:
        """Return while the lease is held, as far as this process can know; no request.

        Raises:
            LeaseLost: another process has it. Once raised, always raised.
            FatalError: the state store refused a renewal for good.
            TransientError: ``ttl_s`` have passed since the last successful renewal began, so another process may have
                it; until a renewal succeeds.
        """
        self._raise_if_lost()
        if self._is_expired():
            raise TransientError(
                "state_unavailable",
                f"The lease on collection {self._collection!r} could not be renewed for {self._ttl_s:g} s.",
                collection=self._collection,
                epoch=self.epoch,
            )

    def _is_expired(self) -> bool:
        return self._clock() - self._renewed_at >= self._ttl_s

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost.with_traceback(None)

    def release(self) -> None:
        """Release the lease, so that the next job starts at once. Call it when no write is in flight any more.

        Best effort: never raises an IngestionError.
        """
        with self._lock:
            try:
                self._raise_if_lost()
                self._lease = self._write(released=True)
            except IngestionError as error:
                _log.warning("lease not released", extra={"collection": self._collection, **error.log_fields()})
                return
            self._lost = LeaseLost(
                "lease_lost",
                f"The lease on collection {self._collection!r} was released.",
                collection=self._collection,
                epoch=self.epoch,
            )

    @contextmanager
    def keep_alive(self) -> Iterator[HeldLease]:
        """Renew in a background thread every third of ``ttl_s`` until the block ends; ``check`` reports a failure."""
        stop = threading.Event()
        name = f"lease-{self._collection}"
        thread = start_background(lambda: self._renew_until(stop), name=name, on_failure=self._fail)
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _renew_until(self, stop: threading.Event) -> None:
        pause_s: float | None = self._ttl_s / _RENEWALS_PER_TTL
        while pause_s is not None and not stop.wait(pause_s):
            pause_s = self.renew_step()

    def renew_step(self) -> float | None:
        """Renew once; return the seconds until the next step, or None when the lease is lost.

        An outage is tolerated, whatever its length. So is an unexpected error, but the lease is lost when no renewal
        succeeds in time.
        """
        try:
            self.renew()
        except TransientError as error:
            _log.warning("lease not renewed yet", extra={"collection": self._collection, **error.log_fields()})
            return self._ttl_s / _CHECKS_PER_TTL
        except IngestionError as error:
            self._lost = error
            _log.error("lease lost", extra={"collection": self._collection, **error.log_fields()})
            return None
        except Exception as error:  # a defect must not end the renewals while the lease may still be kept
            _log.exception("lease not renewed: unexpected error", extra={"collection": self._collection})
            if self._is_expired():
                self._fail(error)
                return None
            return self._ttl_s / _CHECKS_PER_TTL
        return self._ttl_s / _RENEWALS_PER_TTL

    def _fail(self, error: BaseException) -> None:
        message = (
            f"The lease on collection {self._collection!r} is not renewed any more: {type(error).__name__}: {error}."
        )
        self._lost = LeaseLost("lease_lost", message, collection=self._collection, epoch=self.epoch)

    def _write(self, *, released: bool) -> Lease:
        """Write the next heartbeat over the lease as last seen; return what is stored then.

        A conflict with this process itself, whose earlier write was applied although its answer was lost, is resolved.
        """
        path, ours = _path(self._collection), self._lease

        def advance(data: bytes | None) -> bytes | None:
            stored = None if data is None else _parse_lease(self._collection, Stored(data, ""))
            is_ours = stored is not None and (stored.epoch, stored.holder) == (ours.epoch, ours.holder)
            if stored is None or not is_ours or (stored.released and not released):
                self._lost = _make_lease_lost(self._collection, ours.epoch, stored)
                raise self._lost
            if stored.released:
                return None
            return replace(stored, counter=stored.counter + 1, released=released).to_json()

        written = update_value(self._store, path, advance, seen=Stored(ours.to_json(), ours.version))
        assert written is not None
        return _parse_lease(self._collection, written)


OnWait = Callable[[Lease, float | None], None]
"""Called with the lease that is waited for, and the seconds that the wait lasts; None while its holder is alive."""


# -- acquired ---------------------------------------------------------------------------------------------------------


class _Acquisition:
    """How one driver acquires the lease; see ``acquire``."""

    def __init__(
        self,
        store: StateStore,
        collection: str,
        wanted: Lease,
        *,
        ttl_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        should_stop: Callable[[], bool],
        on_wait: OnWait,
    ) -> None:
        self._store = store
        self._collection = collection
        self._wanted = wanted
        self._ttl_s = ttl_s
        self._clock = clock
        self._sleep = sleep
        self._should_stop = should_stop
        self._on_wait = on_wait
        self._pause_s = min(ttl_s / _CHECKS_PER_TTL, _LONGEST_PAUSE_S)

    def take(self) -> tuple[HeldLease, bool]:
        """Wait for the lease and take it; True when its former holder had not released it.

        Not ``update_value``: whether a stored lease may be replaced depends on how long it has been observed.
        """
        watched: Lease | None = None
        unchanged_s = 0.0
        last_read_at: float | None = None
        is_known_alive = False
        while True:
            self._raise_if_stopped()
            try:
                read_at = self._clock()
                stored = read_lease(self._store, self._collection)
                if stored is not None and stored.holder == self._wanted.holder:
                    # An earlier write was applied although its answer was lost. What it replaced is not known any
                    # more, so assume a lease that was not released.
                    renewed = replace(stored, counter=stored.counter + 1)
                    return self._hold(_write_lease(self._store, self._collection, renewed), read_at), True
                if stored is None or stored.released:
                    return self._write_over(stored), False
                self._refuse_predecessor(stored)
                if stored != watched:
                    is_alive = watched is not None and watched.epoch == stored.epoch
                    if watched is None or watched.epoch != stored.epoch or not is_known_alive:
                        self._on_wait(stored, None if is_alive else self._ttl_s)
                    is_known_alive = is_alive
                    watched, unchanged_s, last_read_at = stored, 0.0, self._clock()
                elif last_read_at is None:
                    last_read_at = self._clock()
                else:
                    unchanged_s, last_read_at = unchanged_s + read_at - last_read_at, read_at
                if unchanged_s >= self._ttl_s:
                    return self._write_over(stored), True
            except StateConflict:
                continue
            except TransientError as error:
                last_read_at = None  # the holder could not renew either
                _log.warning(
                    "waiting for the state store", extra={"collection": self._collection, **error.log_fields()}
                )
            self._sleep(self._pause_s)

    def wait_grace(self, held: HeldLease, grace_s: float) -> None:
        """Wait, renewing, until all requests of the former holder have ended and the lease is confirmed."""
        ends_at = self._clock() + grace_s
        renew_at = self._clock() + self._ttl_s / _RENEWALS_PER_TTL
        while True:
            now = self._clock()
            # Stopping here leaves the lease held: after a release the next driver would not wait for the former
            # holder.
            self._raise_if_stopped()
            if now >= renew_at:
                pause_s = held.renew_step()
                renew_at = now + (pause_s or 0.0)
            try:
                held.check()
                if now >= ends_at:
                    return
            except TransientError as error:
                _log.warning("lease not confirmed", extra={"collection": self._collection, **error.log_fields()})
            self._sleep(min(self._pause_s, ends_at - now) if now < ends_at else self._pause_s)

    def _write_over(self, stored: Lease | None) -> HeldLease:
        self._refuse_predecessor(stored)
        started_at = self._clock()
        wanted = self._wanted
        if stored is not None:
            wanted = replace(wanted, epoch=max(wanted.epoch, stored.epoch + 1), version=stored.version)
        return self._hold(_write_lease(self._store, self._collection, wanted), started_at)

    def _hold(self, lease: Lease, renewed_at: float) -> HeldLease:
        return HeldLease(
            self._store, self._collection, lease, ttl_s=self._ttl_s, clock=self._clock, renewed_at=renewed_at
        )

    def _refuse_predecessor(self, stored: Lease | None) -> None:
        if stored is not None and stored.job_id == self._wanted.job_id and stored.attempt > self._wanted.attempt:
            raise _make_lease_lost(self._collection, None, stored)

    def _raise_if_stopped(self) -> None:
        if self._should_stop():
            raise JobAborted(
                "job_aborted",
                f"The job was stopped while it waited for the lease on collection {self._collection!r}.",
                collection=self._collection,
            )


def _least_epoch(wall_clock: Callable[[], float]) -> int:
    """Return the least epoch of a new holder: the Unix time in seconds, at least 1.

    A state store that was restored from a backup, or lost, has a lower epoch than the points in the stores. Under an
    epoch below theirs, a job would not remove the passages that it replaces. Order between holders does not depend on
    this clock: the next epoch is above the stored one in any case.
    """
    return max(1, int(wall_clock()))


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
    on_wait: OnWait = lambda _holder, _left_s: None,
    wall_clock: Callable[[], float] = time.time,
) -> HeldLease:
    """Wait until the collection is free or its holder is dead, and hold it under a new, higher epoch. Blocking.

    A free or released lease is taken at once. A lease without a heartbeat for ``ttl_s`` is taken over, and the call
    returns ``grace_s`` later. The lease is renewed meanwhile, but not afterwards: enter ``keep_alive`` next. While the
    state store is unavailable, the call waits.

    Args:
        store: The state store.
        collection: Collection to hold.
        job_id: The job that acquires it.
        attempt: Number of the job's attempt. An attempt earlier than the stored one of the same job is refused.
        ttl_s: Seconds without a heartbeat after which a holder is dead; the same for all drivers.
        grace_s: Seconds for which writes of a dead holder may still be in flight.
        clock: Monotonic seconds.
        sleep: Waits for a number of seconds.
        should_stop: Called before every read; True ends the wait. Exceptions pass through.
        on_wait: Called when the wait begins, and when it turns out that the holder is alive.
        wall_clock: Unix seconds; the least epoch is that, at least 1.

    Raises:
        JobAborted: ``should_stop`` returned True.
        LeaseLost: a later attempt of this job has or had the lease, or it was taken over during ``grace_s``.

    Cost: one or two requests; while waiting, one per second (ten per ``ttl_s``, if that is more).
    """
    epoch = _least_epoch(wall_clock)
    wanted = Lease(job_id=job_id, attempt=attempt, epoch=epoch, counter=0, released=False, holder=secrets.token_hex(8))
    acquisition = _Acquisition(
        store,
        collection,
        wanted,
        ttl_s=ttl_s,
        clock=clock,
        sleep=sleep,
        should_stop=should_stop,
        on_wait=lambda holder, left_s: on_wait(holder, None if left_s is None else left_s + grace_s),
    )
    held, taken_over = acquisition.take()
    _log.info("lease acquired", extra={"collection": collection, "epoch": held.epoch, "taken_over": taken_over})
    if taken_over:
        acquisition.wait_grace(held, grace_s)
    return held


# -- checked by workers -----------------------------------------------------------------------------------------------


class LeaseCheck:
    """Checks, in a worker, that its driver still holds the lease. Safe to share by threads.

    Args:
        store: The state store.
        collection: The collection that the worker writes to.
        job_id: The worker's job.
        epoch: Epoch that its driver holds.
        grace_s: Seconds that a successor waits before it writes; limits each write (``grant``).
        max_age_s: Seconds for which a result is reused; part of ``grace_s``.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: StateStore,
        collection: str,
        job_id: str,
        epoch: int,
        *,
        grace_s: float = 35.0,
        max_age_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._collection = collection
        self._job_id = job_id
        self._epoch = epoch
        self._write_s = max(grace_s - _WRITE_MARGIN_S, _SHORTEST_WRITE_S + max_age_s)
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._checked_at: float | None = None
        self._ended: IngestionError | None = None

    def check(self) -> None:
        """Return when, at most ``max_age_s`` ago, this epoch held the lease and the job was not aborted.

        Raises:
            LeaseLost: another epoch holds the lease, or it was released. Once raised, always raised.
            JobAborted: the job was aborted. Once raised, always raised.
            TransientError: the state store is unavailable, so the lease is unknown.

        Cost: two requests when the last result is too old; threads that call meanwhile wait for them.
        """
        with self._lock:
            if self._ended is not None:
                raise self._ended.with_traceback(None)
            now = self._clock()
            if self._checked_at is not None and now - self._checked_at < self._max_age_s:
                return
            stored = read_lease(self._store, self._collection)
            if stored is None or (stored.job_id, stored.epoch) != (self._job_id, self._epoch) or stored.released:
                self._ended = _make_lease_lost(self._collection, self._epoch, stored)
            elif Ledger(self._store, self._job_id).is_aborted():
                self._ended = JobAborted("job_aborted", f"Job {self._job_id!r} was aborted.", job_id=self._job_id)
            if self._ended is not None:
                raise self._ended
            self._checked_at = now  # before the reads: a successor may have begun to wait at any time since

    def grant(self) -> float:
        """Return the seconds within which a write that begins now must have ended, at least 5; checks as ``check``.

        A successor that took the lease over right after the last check does not write earlier: it waits ``grace_s``.
        With a grace below 8 s the result is longer than that, because most writes would then end as time-outs.

        Raises:
            LeaseLost, JobAborted, TransientError: as ``check``; also TransientError when the check took too long.
        """
        self.check()
        assert self._checked_at is not None
        left_s = self._checked_at + self._write_s - self._clock()
        if left_s < _SHORTEST_WRITE_S:
            message = f"Checking the lease on collection {self._collection!r} took {self._write_s - left_s:.0f} s."
            raise TransientError("state_unavailable", message, collection=self._collection)
        return left_s


# -- taken to delete the collection -----------------------------------------------------------------------------------

DELETION = "deletion"
"""Job id of the lease that the deletion of a collection holds."""


def take_to_delete(store: StateStore, collection: str, abandoned: Lease | None) -> Lease | None:
    """Take the lease of a collection for its deletion, so that no driver acquires it meanwhile; never waits.

    Args:
        store: The state store.
        collection: The collection.
        abandoned: A lease that the caller has watched until no process of its holder could write any more.

    Returns:
        None when the lease is taken; otherwise the lease of a job, which may be writing.

    Cost: two requests.
    """
    stored = read_lease(store, collection)
    if stored is not None and not stored.released and stored.job_id != DELETION and stored != abandoned:
        return stored
    epoch = 1 if stored is None else stored.epoch + 1
    version = "" if stored is None else stored.version
    holder = secrets.token_hex(8)
    wanted = Lease(job_id=DELETION, attempt=1, epoch=epoch, counter=0, released=False, version=version, holder=holder)
    try:
        _write_lease(store, collection, wanted)
    except StateConflict:
        return read_lease(store, collection) or wanted
    return None
