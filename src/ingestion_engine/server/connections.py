"""All connections of the process: how many there are, which of them may stay, and how long each may take.

A connection that has not sent a whole request yet is only promised to be one: it makes way when others need the room.
So nobody can keep others out by opening connections, however slowly it then sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from ingestion_engine.api.metrics import HttpLoad
from ingestion_engine.runtime.settings import LimitsSettings

OWN_FILES: Final = 128
"""Open files of the service itself: about 40 after the start, 15 connections to the database, and those to S3, stores,
engines and servers, of which requests use several at once; and what is accepted before its number is known."""

MOST_CONNECTIONS: Final = 20_000
"""Limit where the system allows more files: an idle connection takes 20 kB, so 400 MB."""

FOR_PROBES: Final = 16
"""Connections above the limit on which only probes are answered, while all others are at work: an orchestrator would
otherwise restart a service that is merely busy."""

ACCEPT_AT_ONCE: Final = 16
"""Connections that are accepted before the first of them is counted."""

LINGER_S: Final = 3.0
"""How long a client may go on to send what nobody wants: one that reads its refusal stops by then. Closed at once, it
might never see it."""

TICK_S: Final = 0.5
"""Pause between two looks at the connections. Cost: 16 ms per 10,000 of them."""

PORTION: Final = 1_000
"""Connections that are looked at in one round of the event loop."""

SLOWEST_BYTES_PER_S: Final = 10_000.0
"""A client that reads more slowly than this on average is cut off, after the time that all have."""

BUFFERED_BYTES: Final = 256 * 1024 * 1024
"""Answers that wait for their clients, all together; above it those that have waited longest are cut off."""


class Phase(enum.StrEnum):
    """What a connection is doing."""

    OPENING = "opening"
    """It has not sent the headers of its first request."""
    IDLE = "idle"
    """It has been answered and may send another request."""
    SENDING = "sending"
    """It sends a request: headers of a further one, or the body."""
    ANSWERING = "answering"
    """Its request is complete and is answered, or streamed to."""
    ENDING = "ending"
    """It has been answered, and what it still sends is thrown away."""


EVICTABLE: Final = (Phase.ENDING, Phase.OPENING, Phase.SENDING, Phase.IDLE)
"""Phases whose connections make way for others, in this order, the oldest first."""


class Evictable(Protocol):
    """What the guard needs of a connection."""

    def abort(self) -> None:
        """Close at once, whatever has not been sent."""
        ...

    def give_up(self) -> None:
        """Close because the client took too long to send its request; it is told so where that is possible."""
        ...

    def count_buffered(self) -> int:
        """Return the number of bytes that wait for the client to read them."""
        ...


@dataclass(slots=True)
class _Entry:
    phase: Phase
    since: float
    """When the phase began."""
    is_reserve: bool = False
    has_begun: bool = False
    """True when the headers of a further request have begun to arrive, but not their end."""
    write_deadline: float | None = None
    """When the client must have read what waits for it; None while nothing waits."""
    waits_since: float = field(default=0.0)
    """Since when something waits."""


class ConnectionGuard:
    """Counts connections, evicts some when there are too many, and ends those that take too long. For one event loop.

    Args:
        limits: Time-outs.
        most: Maximum number of connections, without those for probes.
        load: What has become of connections, for the metrics.
        clock: Monotonic seconds.
    """

    def __init__(
        self, limits: LimitsSettings, *, most: int, load: HttpLoad, clock: Callable[[], float] | None = None
    ) -> None:
        self._limits = limits
        self._most = most
        self._load = load
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._entries: dict[Evictable, _Entry] = {}
        self._by_phase: Mapping[Phase, dict[Evictable, None]] = {phase: {} for phase in Phase}
        self._timer: asyncio.TimerHandle | None = None

    def count(self) -> dict[str, int]:
        """Return the number of connections by phase."""
        return {phase.value: len(members) for phase, members in self._by_phase.items()}

    def add(self, connection: Evictable) -> bool:
        """Note a new connection, for which another one may have to go.

        Returns:
            False when there is no room at all: the connection is to be closed.
        """
        is_reserve = False
        if len(self._entries) >= self._most:
            victim = next((next(iter(self._by_phase[phase])) for phase in EVICTABLE if self._by_phase[phase]), None)
            if victim is not None:
                self._end(victim, "evicted")
            elif len(self._entries) < self._most + FOR_PROBES:
                is_reserve = True
            else:
                self._load.count_closed("refused")
                return False
        self._entries[connection] = _Entry(Phase.OPENING, self._clock(), is_reserve)
        self._by_phase[Phase.OPENING][connection] = None
        self._schedule()
        return True

    def remove(self, connection: Evictable) -> None:
        """Forget a connection that has ended. Idempotent."""
        entry = self._entries.pop(connection, None)
        if entry is not None:
            del self._by_phase[entry.phase][connection]

    def move(self, connection: Evictable, phase: Phase) -> None:
        """Note that a connection has entered a phase."""
        entry = self._entries.get(connection)
        if entry is None:
            return
        del self._by_phase[entry.phase][connection]
        entry.phase, entry.since, entry.has_begun = phase, self._clock(), False
        self._by_phase[phase][connection] = None

    def begin(self, connection: Evictable) -> None:
        """Note that a connection has sent something: an idle one begins with the headers of its next request."""
        entry = self._entries.get(connection)
        if entry is not None and entry.phase is Phase.IDLE:
            self.move(connection, Phase.SENDING)
            entry.has_begun = True

    def is_reserve(self, connection: Evictable) -> bool:
        """Return True when a connection may be used for probes only."""
        entry = self._entries.get(connection)
        return entry is not None and entry.is_reserve

    def check(self) -> None:
        """End the connections that take too long. Cost: a look at each connection."""
        for _ in self._check_in_portions():
            pass

    def _check_in_portions(self) -> Iterator[None]:
        """Look at all connections, ``PORTION`` at a time: others are served in between, and some may have ended."""
        buffered = 0
        waiting: list[tuple[float, int, Evictable]] = []
        for number, (connection, entry) in enumerate([*self._entries.items()], 1):
            if connection in self._entries and (size := self._check_one(connection, entry)):
                buffered += size
                waiting.append((entry.waits_since, size, connection))
            if number % PORTION == 0:
                yield
        if buffered > BUFFERED_BYTES:
            for _, size, connection in sorted(waiting, key=lambda one: one[0]):
                if connection in self._entries:
                    self._end(connection, "memory")
                buffered -= size
                if buffered <= BUFFERED_BYTES:
                    break

    def _check_one(self, connection: Evictable, entry: _Entry) -> int:
        """End a connection that takes too long, or return the number of bytes that wait for its client."""
        now = self._clock()
        if entry.phase is Phase.ENDING and now - entry.since > LINGER_S:
            self._end(connection, "goes_on")
            return 0
        if (entry.phase is Phase.OPENING or entry.has_begun) and now - entry.since > self._limits.header_timeout_s:
            self._load.count_closed("header_timeout")
            connection.give_up()
            return 0
        size = connection.count_buffered()
        if size == 0:
            entry.write_deadline = None
        elif entry.write_deadline is None:
            entry.write_deadline = now + self._limits.send_timeout_s + size / SLOWEST_BYTES_PER_S
            entry.waits_since = now
        elif now > entry.write_deadline:
            self._end(connection, "send_timeout")
            return 0
        return size

    def close(self) -> None:
        """Stop looking at connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, connection: Evictable, reason: str) -> None:
        self._load.count_closed(reason)
        self.remove(connection)
        connection.abort()

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self, looking: Iterator[None] | None = None) -> None:
        """Look at the next portion of connections, or begin again after a pause."""
        self._timer = None
        looking = looking or self._check_in_portions()
        if next(looking, self) is not self:
            self._timer = asyncio.get_running_loop().call_later(0, self._tick, looking)
        elif self._entries:
            self._schedule()


def allow_many_files() -> int:
    """Raise the limit on open files to what the system allows; return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def limit_connections(limits: LimitsSettings, files: int) -> int:
    """Return the maximum number of connections of a process that may open so many files. Pure."""
    possible = MOST_CONNECTIONS if files == resource.RLIM_INFINITY else max(files // 2, files - OWN_FILES - FOR_PROBES)
    return min(limits.connections or MOST_CONNECTIONS, possible)
