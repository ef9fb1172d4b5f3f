"""Jobs that are followed: one task reads the rows of all of them, however many follow each, and passes changes on.

A follower that is slow misses what has been replaced meanwhile and receives the newest: nothing is queued for it.
Followers are woken a few in each round of the event loop, so that ten thousand of them delay nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Self

from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.domain.records import EmbeddingWait
from ingestion_engine.runtime.telemetry import context_without_fields, get_logger
from ingestion_engine.services.embedding_waits import EmbeddingWaits
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_store import JobStore

POLL_S: Final = 0.5
"""Pause between two reads of the followed jobs' rows; a row changes at most once per second."""

HEARTBEAT_S: Final = 15.0
"""Time without a change after which a follower receives a heartbeat: proxies close what is silent for 30 to 60 s."""

WAKES: Final = 16
"""Followers that are woken in one round of the event loop: each takes 0.1 to 0.2 ms to send what it has received."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """A job as it is since its last change."""

    job: JobRecord
    """Without what is of no interest to clients: the revision of the row, and when the dispatcher checks it again."""
    wait: EmbeddingWait | None
    """What it waits for at the gateways."""
    revision: int
    """Of the row; it grows with every change, also with those that clients do not see."""
    version: str
    """Names this content: the same in every copy of the service, and another after every change."""
    rendered: dict[Hashable, bytes] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, job: JobRecord, wait: EmbeddingWait | None) -> Self:
        """Return the update of a row. Pure."""
        shown = replace(job, next_look_at=None, revision=0)
        digest = hashlib.blake2b(repr((shown, wait)).encode(errors="surrogatepass"), digest_size=12)
        return cls(shown, wait, job.revision, digest.hexdigest())

    def render(self, form: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the update in a form, which is made once for all followers that may read the same."""
        if form not in self.rendered:
            self.rendered[form] = make()
        return self.rendered[form]


class Follower:
    """Asynchronous iterator over the updates of one job; None for a heartbeat. Ends with the job, or by ``close``."""

    def __init__(self, feed: JobFeed, job_id: str) -> None:
        self.job_id = job_id
        self.quiet_since = 0.0
        self._feed = feed
        self._pending: JobUpdate | None = None
        self._has_beat = False
        self._is_closed = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_news(self) -> bool:
        """True when there is an update that the follower has not received yet."""
        return self._pending is not None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobUpdate | None:
        while self._pending is None and not self._has_beat and not self._is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self.quiet_since = asyncio.get_running_loop().time()
        update, self._pending = self._pending, None
        if update is not None:
            if update.job.state.is_final:
                self.close()
            return update
        if self._is_closed:
            raise StopAsyncIteration
        self._has_beat = False
        return None

    def close(self) -> None:
        """End the iteration, after what is pending. Idempotent."""
        self._is_closed = True
        self._feed.leave(self)
        self._feed.wake_soon([self])

    def put(self, update: JobUpdate) -> None:
        """Replace what the follower has not received yet."""
        self._pending = update

    def beat(self) -> None:
        """Have a heartbeat received."""
        self._has_beat = True

    def wake(self) -> None:
        """Let the follower go on now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class JobFeed:
    """All followers of all jobs. For one event loop.

    Args:
        store: The jobs table.
        waits: What jobs wait for at the gateways.
        closing: Set when the service ends: all followers end then.
    """

    def __init__(self, store: JobStore, waits: EmbeddingWaits, closing: asyncio.Event) -> None:
        self._store = store
        self.waits = waits
        self._closing = closing
        self._followers: dict[str, dict[Follower, None]] = {}
        """By job; only jobs that have some."""
        self._newest: dict[str, JobUpdate] = {}
        self._due: deque[Follower] = deque()
        self._is_pumping = False
        self._polling: asyncio.Task[None] | None = None

    def follow(self, job: JobRecord, wait: EmbeddingWait | None = None, *, known: str | None = None) -> Follower:
        """Return a follower of a job, which first receives the job as it is.

        Args:
            job: The job, as it has just been read.
            wait: What it waits for at the gateways.
            known: Version that the client has already: it is not sent again.
        """
        follower = Follower(self, job.id)
        follower.quiet_since = asyncio.get_running_loop().time()
        newest = self._publish(JobUpdate.of(job, wait))
        if newest.version != known:
            follower.put(newest)
        if self._closing.is_set() or newest.job.state.is_final:
            follower.close()
            return follower
        self._newest[job.id] = newest
        self._followers.setdefault(job.id, {})[follower] = None
        if self._polling is None or self._polling.done():
            polling = self._poll_regularly()
            self._polling = asyncio.create_task(polling, context=context_without_fields())
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget a follower. Idempotent."""
        followers = self._followers.get(follower.job_id, {})
        followers.pop(follower, None)
        if not followers:
            self._followers.pop(follower.job_id, None)
            self._newest.pop(follower.job_id, None)

    async def _poll_regularly(self) -> None:
        """Read the rows until nobody follows any."""
        while self._followers:
            # Not wait_for: in Python 3.11 it loses a cancellation that arrives together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._closing.wait()
            if self._closing.is_set():
                for follower in [*self._list_followers()]:
                    follower.close()
                return
            try:
                # As far as is known, nothing changes while the database is unavailable; the streams go on afterwards.
                with contextlib.suppress(DatabaseUnavailable):
                    await self._poll()
            except Exception:  # top of a loop of the service: what fails now must not end all streams
                _log.exception("followed jobs not read")
            self._beat()

    async def _poll(self) -> None:
        ids = [*self._followers]
        jobs = {job.id: job for job in await self._store.get_many(ids)}
        waits = await self.waits.find(*jobs.values())
        for job_id in ids:
            if (job := jobs.get(job_id)) is not None:
                self._publish(JobUpdate.of(job, waits.get(job_id)))
            elif job_id not in self._store.unreadable:  # it was removed
                for follower in [*self._followers.get(job_id, ())]:
                    follower.close()

    def _publish(self, update: JobUpdate) -> JobUpdate:
        """Pass an update to the followers of its job, if it is one; return the newest one."""
        newest = self._newest.get(update.job.id)
        if newest is not None and (update.version == newest.version or update.revision < newest.revision):
            return newest
        followers = [*self._followers.get(update.job.id, ())]
        if followers:
            self._newest[update.job.id] = update
        for follower in followers:
            follower.put(update)
        self.wake_soon(followers)
        return update

    def _beat(self) -> None:
        now = asyncio.get_running_loop().time()
        quiet = [one for one in self._list_followers() if now - one.quiet_since >= HEARTBEAT_S]
        for follower in quiet:
            follower.quiet_since = now
            follower.beat()
        self.wake_soon(quiet)

    def _list_followers(self) -> Iterator[Follower]:
        for followers in self._followers.values():
            yield from followers

    def wake_soon(self, followers: list[Follower]) -> None:
        """Let followers go on, a few in each round of the event loop."""
        self._due.extend(followers)
        if self._due and not self._is_pumping:
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        for _ in range(min(WAKES, len(self._due))):
            self._due.popleft().wake()
        self._is_pumping = bool(self._due)
        if self._is_pumping:
            asyncio.get_running_loop().call_soon(self._pump)
