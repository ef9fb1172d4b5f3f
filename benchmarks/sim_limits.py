"""Simulate limits of requests in flight in front of servers that process one request at a time; pure and fast.

A URL hides slots; a front spreads requests over them (fewest connections, round robin, at random, or one queue for
all); each slot processes one request after another. A caller sends as many requests as a limit allows, or as few as its
load needs.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ingestion_engine.runtime.adaptive_limit import Outcome

MOST_SLOTS = 64


class Limit(Protocol):
    """What is simulated: the interface of ``AdaptiveLimit``."""

    in_flight: int

    @property
    def limit(self) -> int: ...

    @property
    def room(self) -> int: ...

    def begin(self, chars: int) -> Any: ...

    def end(self, passage: Any, outcome: Outcome, *, load_s: float = 0.0) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One situation."""

    slots: int = 4
    front: str = "least"
    """``least`` connections, ``robin``, ``random``, or ``shared`` queue."""
    request_s: float = 0.01
    char_s: float = 0.015 / 700
    """Seconds per character: 15 ms for a text of 700."""
    texts: tuple[int, int] = (8, 8)
    """Smallest and largest number of texts of a request."""
    noise: float = 0.0
    """Standard deviation of the logarithm of a request's duration."""
    most_in_flight: int = 1_000
    """The caller's own bound."""
    load: float | None = None
    """Requests per second that arrive; None means that there is always one more."""
    seconds: float = 40.0
    slots_later: Mapping[float, int] = field(default_factory=dict)
    """Number of slots from a time on, at most ``MOST_SLOTS``."""
    speed_later: Mapping[float, float] = field(default_factory=dict)
    """Factor of the duration of requests that start from a time on."""
    model_load_s: float = 0.0
    """Time that a slot takes to load its model, before its first request."""
    outage: tuple[float, float] | None = None
    """Requests that arrive in this time fail after 20 ms; those in flight at its start fail."""
    gap_s: float = 0.002
    """Time between an answer and the next request: network, and the caller's own work."""


@dataclass(slots=True)
class Result:
    """What a run showed."""

    busy_after: Callable[[float, float], float]
    """Share of the slots' time that was busy between two times."""
    limits: list[tuple[float, int]]
    """The limit at each change."""
    waits: list[tuple[float, float]]
    """End, and seconds in a queue at the server, of each request."""
    done: int
    failed: int


@dataclass(slots=True)
class _Job:
    passage: Any
    chars: int
    service_s: float
    arrived: float
    load_s: float = 0.0
    started: float = 0.0
    lost: bool = False


class Simulation:
    """One run; use once. ``make`` returns the limit for a clock."""

    def __init__(self, setting: Setting, make: Callable[[Callable[[], float]], Limit], seed: int = 1) -> None:
        self.setting = setting
        self.now = 0.0
        self.random = random.Random(seed)
        self.limit = make(lambda: self.now)
        self.events: list[tuple[float, int, str, Any]] = []
        self.count = 0
        self.slots = setting.slots
        self.queues: list[deque[_Job]] = [deque() for _ in range(MOST_SLOTS)]
        self.shared: deque[_Job] = deque()
        self.serving: list[_Job | None] = [None] * MOST_SLOTS
        self.turn = 0
        self.loaded: set[int] = set()
        self.waiting = 0
        self.sent = 0
        self.speed = 1.0
        self.busy: list[tuple[float, float]] = []
        self.result = Result(self._busy, [], [], 0, 0)

    def at(self, time: float, kind: str, data: Any = None) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, kind, data))

    def run(self) -> Result:
        setting = self.setting
        for time, slots in setting.slots_later.items():
            self.at(time, "slots", slots)
        for time, speed in setting.speed_later.items():
            self.at(time, "speed", speed)
        if setting.outage:
            self.at(setting.outage[0], "outage")
        self.at(0.0, "arrive" if setting.load else "send")
        while self.events and self.events[0][0] <= setting.seconds:
            self.now, _, kind, data = heapq.heappop(self.events)
            getattr(self, f"_on_{kind}")(data)
            if not self.result.limits or self.result.limits[-1][1] != self.limit.limit:
                self.result.limits.append((self.now, self.limit.limit))
        return self.result

    def _on_arrive(self, _: Any) -> None:
        assert self.setting.load is not None
        self.waiting += 1
        self.at(self.now + self.random.expovariate(self.setting.load), "arrive")
        self._send_all()

    def _on_send(self, _: Any) -> None:
        self._send_all()

    def _send_all(self) -> None:
        while self.limit.room > 0 and self.limit.in_flight < self.setting.most_in_flight:
            if self.setting.load is not None:
                if self.waiting == 0:
                    return
                self.waiting -= 1
            self._send()

    def _send(self) -> None:
        setting = self.setting
        chars = 700 * self.random.randint(*setting.texts)
        service = setting.request_s + setting.char_s * chars
        service *= self.random.lognormvariate(0.0, setting.noise) if setting.noise else 1.0
        job = _Job(self.limit.begin(chars), chars, service * self.speed, self.now)
        if setting.outage and setting.outage[0] <= self.now < setting.outage[1]:
            self.at(self.now + 0.02, "fail", job)
            return
        if setting.front == "shared":
            self.shared.append(job)
            for slot in range(self.slots):
                self._start(slot)
            return
        slot = self._choose_slot()
        self.queues[slot].append(job)
        self._start(slot)

    def _choose_slot(self) -> int:
        if self.setting.front == "robin":
            self.turn += 1
            return self.turn % self.slots
        if self.setting.front == "random":
            return self.random.randrange(self.slots)
        loads = [len(self.queues[slot]) + (self.serving[slot] is not None) for slot in range(self.slots)]
        least = min(loads)
        return self.random.choice([slot for slot, load in enumerate(loads) if load == least])

    def _start(self, slot: int) -> None:
        queue = self.shared if self.setting.front == "shared" else self.queues[slot]
        if self.serving[slot] is not None or not queue or (self.setting.front == "shared" and slot >= self.slots):
            return
        job = queue.popleft()
        job.started = self.now
        self.serving[slot] = job
        if slot not in self.loaded:
            self.loaded.add(slot)
            job.load_s = self.setting.model_load_s
        self.at(self.now + job.load_s + job.service_s, "finish", (slot, job))

    def _on_finish(self, data: tuple[int, _Job]) -> None:
        slot, job = data
        if self.serving[slot] is job:
            self.serving[slot] = None
            self.busy.append((job.started, self.now))
        if not job.lost:
            self.result.done += 1
            self.result.waits.append((self.now, job.started - job.arrived))
            self.at(self.now + self.setting.gap_s / 2, "answer", job)
        self._start(slot)

    def _on_answer(self, job: _Job) -> None:
        self.limit.end(job.passage, Outcome.DONE, load_s=job.load_s)
        self.at(self.now + self.setting.gap_s / 2, "send")

    def _on_fail(self, job: _Job) -> None:
        self.result.failed += 1
        self.limit.end(job.passage, Outcome.FAILED)
        self.at(self.now + 0.1, "send")

    def _on_outage(self, _: Any) -> None:
        for slot in range(MOST_SLOTS):
            if (job := self.serving[slot]) is not None:
                job.lost, self.serving[slot] = True, None
                self._on_fail(job)
            for job in [*self.queues[slot], *(self.shared if slot == 0 else ())]:
                job.lost = True
                self._on_fail(job)
            self.queues[slot].clear()
        self.shared.clear()
        assert self.setting.outage is not None
        self.at(self.setting.outage[1], "send")

    def _on_slots(self, slots: int) -> None:
        before, self.slots = self.slots, slots
        for slot in range(slots, before):
            moved, self.queues[slot] = self.queues[slot], deque()
            for job in moved:
                self.queues[self._choose_slot()].append(job)
        for slot in range(max(slots, before)):
            self._start(slot)

    def _on_speed(self, speed: float) -> None:
        self.speed = speed

    def _slots_at(self, time: float) -> int:
        changes = [(0.0, self.setting.slots), *sorted(self.setting.slots_later.items())]
        return [slots for at, slots in changes if at <= time][-1]

    def _busy(self, begin: float, end: float) -> float:
        under_way = [(job.started, self.now) for job in self.serving if job is not None]
        used = sum(max(0.0, min(to, end) - max(since, begin)) for since, to in [*self.busy, *under_way])
        edges = sorted({begin, end, *(t for t in self.setting.slots_later if begin < t < end)})
        there = sum((b - a) * self._slots_at(a) for a, b in itertools.pairwise(edges))
        return used / there


def mean_limit(result: Result, begin: float, end: float) -> float:
    """Return the time-weighted mean of the limit between two times."""
    total = 0.0
    limits = [*result.limits, (end, 0)]
    for (since, limit), (to, _) in itertools.pairwise(limits):
        total += limit * max(0.0, min(to, end) - max(since, begin))
    return total / (end - begin)
