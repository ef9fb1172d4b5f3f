"""The schedule of simulated servers: slots that work on one request at a time, and a balancer in front of them.

A slot starts a request when it arrives or when the slot is free, whichever is later. Times are kept by the schedule and
not by timers: a timer that fires late delays an answer but never costs capacity. A request whose client disconnects
leaves the queue; one that is running ends with the text being computed, as on a real server.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

TIMER_S = 0.001
"""Resolution of the event loop's timers: a request that ends within this time has ended."""


class Timer(Protocol):
    """A timer that can be stopped."""

    def cancel(self) -> None:
        """Stop it."""


class Clock(Protocol):
    """Time and timers; in seconds."""

    def time(self) -> float:
        """Return the current time."""

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call ``action`` after a delay."""


class LoopClock:
    """The monotonic clock, which is the same in all processes of a machine, and the timers of the running loop."""

    def time(self) -> float:
        """Return the monotonic time."""
        return time.monotonic()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call ``action`` after a delay, good to about a millisecond."""
        return asyncio.get_running_loop().call_later(delay_s, action)


class Balance(enum.StrEnum):
    """How a balancer chooses the slot of a request, when it arrives and for good."""

    LEAST_CONNECTIONS = "least-connections"
    """The slot with the fewest requests, in turn among equals; ``least_conn`` of nginx."""
    ROUND_ROBIN = "round-robin"
    """One slot after another, whatever they do; the default of nginx, and IPVS in Kubernetes."""


@dataclass(slots=True, eq=False)
class Work:
    """One request; times of the monotonic clock, in seconds."""

    request_s: float
    """Cost before the first text, at full speed."""
    text_s: list[float]
    """Cost of each text."""
    done: Callable[[Work], None]
    """Called at the end, also of a request that was canceled."""
    arrival: float = 0.0
    start: float | None = None
    """None while the request waits, and for one that left the queue."""
    end: float | None = None
    slot: int = 0
    is_canceled: bool = False
    embedded: int = 0
    """Texts computed; less than all only if the request was canceled."""


@dataclass(slots=True, eq=False)
class Slot:
    """One server: a queue and the request it works on."""

    number: int
    clock: Clock
    speed: float = 1.0
    """1 is full speed, 0.5 takes twice as long. Applies to requests that start later."""
    busy_s: float = 0.0
    """Time of finished requests."""
    running: Work | None = None
    queue: deque[Work] = field(default_factory=deque)
    _free_at: float = 0.0
    _timer: Timer | None = None
    _is_advancing: bool = False

    @property
    def load(self) -> int:
        """Requests here, queued and running."""
        return len(self.queue) + (self.running is not None)

    def submit(self, work: Work) -> None:
        """Queue a request."""
        work.arrival, work.slot = self.clock.time(), self.number
        self.queue.append(work)
        self._advance()

    def cancel(self, work: Work) -> None:
        """Drop a request whose client has disconnected; ``done`` is called now or at the end of the current text."""
        if work.end is not None and work is not self.running:
            return
        now = self.clock.time()
        work.is_canceled = True
        if work is not self.running:
            self.queue.remove(work)
            work.end = now
            work.done(work)
            return
        assert work.start is not None
        ends = list(itertools.accumulate((cost / self.speed for cost in work.text_s), initial=0.0))
        begun = work.start + work.request_s / self.speed
        work.embedded = next((n for n, after in enumerate(ends) if begun + after >= now), len(work.text_s))
        work.end = begun + ends[work.embedded]
        self._advance()

    def _advance(self) -> None:
        """End what is over, start what can start, and set the timer."""
        if self._is_advancing:
            return  # a callback submitted more: the loop below takes it
        self._is_advancing = True
        while self.running is not None or self.queue:
            if self.running is None:
                self._start(self.queue.popleft())
            work = self.running
            if work is None or work.start is None or work.end is None or work.end > self.clock.time() + TIMER_S:
                break
            self.running, self._free_at = None, work.end
            self.busy_s += work.end - work.start
            if not work.is_canceled:
                work.embedded = len(work.text_s)
            work.done(work)
        self._is_advancing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.running is not None and self.running.end is not None:
            self._timer = self.clock.call_later(max(0.0, self.running.end - self.clock.time()), self._advance)

    def _start(self, work: Work) -> None:
        work.start = max(work.arrival, self._free_at)
        work.end = work.start + (work.request_s + sum(work.text_s)) / self.speed
        self.running = work


class Balancer:
    """One address in front of slots; with one slot, a plain server."""

    def __init__(self, clock: Clock, slots: int = 1, *, balance: Balance = Balance.LEAST_CONNECTIONS) -> None:
        self.slots: Sequence[Slot] = [Slot(number, clock) for number in range(slots)]
        self._balance = balance
        self._turn = 0

    @property
    def load(self) -> int:
        """Requests here, queued and running."""
        return sum(slot.load for slot in self.slots)

    def submit(self, work: Work) -> None:
        """Give a request to a slot."""
        rotated = [self.slots[(self._turn + n) % len(self.slots)] for n in range(len(self.slots))]
        slot = rotated[0] if self._balance is Balance.ROUND_ROBIN else min(rotated, key=lambda one: one.load)
        self._turn = slot.number + 1
        slot.submit(work)

    def cancel(self, work: Work) -> None:
        """Drop a request whose client has disconnected."""
        self.slots[work.slot].cancel(work)
