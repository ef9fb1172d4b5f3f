"""The stored lease of a collection and the driver that holds it. See ``state.lease`` for how it is acquired."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import orjson

from ingestion_engine.domain.errors import FatalError, IngestionError, LeaseLost, StateConflict, TransientError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.state.json_files import parse_json

_log = logging.getLogger(__name__)

RENEWALS_PER_TTL = 3
"""So two renewals in a row may fail before the lease is in danger."""
LOOKS_PER_TTL = 10
"""How finely a waiting driver watches the heartbeat, and how soon a failed renewal is tried again.

Adds at most a tenth to the wait.
"""


def _path(collection: str) -> str:
    return f"collections/{collection}/lease.json"


@dataclass(frozen=True, slots=True)
class Lease:
    """The stored lease.

    ``version`` is the state store's; ``holder`` is a random name of the process that acquired it.
    """

    job_id: str
    attempt: int
    epoch: int
    counter: int
    released: bool
    version: str
    holder: str = ""

    def to_json(self) -> bytes:
        """The stored bytes; the version is not among them."""
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
    """Return the stored lease, or None when nobody has ever written to the collection. One request."""
    path = _path(collection)
    stored = store.get(path)
    if stored is None:
        return None
    data = parse_json(path, stored.data)
    try:
        names = ("job_id", "attempt", "epoch", "counter", "released", "holder")
        return Lease(**{name: data[name] for name in names}, version=stored.version)
    except KeyError as error:
        raise FatalError("state_corrupt", f"{path} in the state store lacks {error}", path=path) from error


def write_lease(store: StateStore, collection: str, lease: Lease) -> Lease:
    """Write a lease over ``lease.version`` ("" means that there is none). Raises StateConflict."""
    path = _path(collection)
    if lease.version:
        return replace(lease, version=store.replace(path, lease.to_json(), lease.version))
    return replace(lease, version=store.create(path, lease.to_json()))


class HeldLease:
    """A lease that this process acquired. Safe to share by threads.

    Made by ``acquire``; ``check`` is what the driver calls before everything it makes durable.
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
        """Higher than every epoch acquired before on this collection; put on every point."""
        return self._lease.epoch

    @property
    def collection(self) -> str:
        """The collection that is held."""
        return self._collection

    def renew(self) -> None:
        """Show that this process lives. One request.

        Raises:
            LeaseLost: the stored lease is not ours any more, or we stopped believing in it before (see ``check``).
            TransientError: the state store is away; the lease may still be ours.
        """
        with self._lock:
            self.check()
            started_at = self._clock()
            self._lease = self._write(released=False)
            self._renewed_at = started_at

    def check(self) -> None:
        """Return while the lease is ours as far as we can know; no request.

        Raises:
            LeaseLost: another process has it, or ``ttl_s`` passed since the last renewal began. Once raised, always
                raised.
            FatalError: the state store refused a renewal for good.
        """
        if self._lost is None and self._clock() - self._renewed_at >= self._ttl_s:
            self._lost = LeaseLost(
                "lease_lost",
                f"the lease on {self._collection} could not be renewed for {self._ttl_s:g} s",
                collection=self._collection,
                epoch=self.epoch,
            )
        if self._lost is not None:
            raise self._lost.with_traceback(None)

    def release(self) -> None:
        """Let the next job start at once.

        Best effort: never raises an IngestionError; call when nothing is in flight any more.
        """
        with self._lock:
            try:
                self.check()
                self._lease = self._write(released=True)
            except IngestionError as error:
                _log.warning("lease not released", extra={"collection": self._collection, **error.log_fields()})
                return
            self._lost = LeaseLost(
                "lease_lost",
                f"the lease on {self._collection} was released",
                collection=self._collection,
                epoch=self.epoch,
            )

    @contextmanager
    def keep_alive(self) -> Iterator[HeldLease]:
        """Renew in a background thread every third of ``ttl_s`` until the block ends.

        ``check`` tells when that failed.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(stop,), name=f"lease-{self._collection}", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _renew_until(self, stop: threading.Event) -> None:
        pause_s: float | None = self._ttl_s / RENEWALS_PER_TTL
        while pause_s is not None and not stop.wait(pause_s):
            pause_s = self.renew_step()

    def renew_step(self) -> float | None:
        """Renew once, tolerating outages.

        Return the seconds until the next step, or None when there is no use in going on.
        """
        try:
            self.renew()
        except TransientError as error:
            _log.warning("lease not renewed yet", extra={"collection": self._collection, **error.log_fields()})
            return self._ttl_s / LOOKS_PER_TTL
        except IngestionError as error:
            self._lost = error
            _log.error("lease lost", extra={"collection": self._collection, **error.log_fields()})
            return None
        return self._ttl_s / RENEWALS_PER_TTL

    def _write(self, *, released: bool) -> Lease:
        while True:
            wanted = replace(self._lease, counter=self._lease.counter + 1, released=released)
            try:
                return write_lease(self._store, self._collection, wanted)
            except StateConflict as error:
                stored = read_lease(self._store, self._collection)
                if stored is None or (stored.epoch, stored.holder) != (wanted.epoch, wanted.holder):
                    self._lost = make_lease_lost(self._collection, wanted.epoch, stored)
                    raise self._lost from error
                # Ours: an earlier write arrived although its answer did not. A renewal counts from its own time: again.
                self._lease = stored
                if stored.released and released:
                    return stored
                if stored.released:
                    self._lost = make_lease_lost(self._collection, wanted.epoch, stored)
                    raise self._lost from error


def make_lease_lost(collection: str, epoch: int | None, stored: Lease | None) -> LeaseLost:
    """Return the error for an epoch (None: one that was refused) that finds this lease stored. Pure."""
    holder = "nobody" if stored is None else f"epoch {stored.epoch} of job {stored.job_id}, attempt {stored.attempt}"
    state = ", released" if stored is not None and stored.released else ""
    return LeaseLost(
        "lease_lost",
        f"the lease on {collection} belongs to {holder}{state}",
        collection=collection,
        epoch=epoch,
        stored_epoch=None if stored is None else stored.epoch,
    )
