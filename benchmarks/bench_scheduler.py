"""Measure the gateway's scheduler: operations per second, memory, and its shares beside deficit round robin.

python benchmarks/bench_scheduler.py [--runs 3] [--tickets 10000] [--flows 1000] [--quick]

Times are those of the processor, shares are simulated: one process, no network, no clock.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import time
import tracemalloc
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from report import Report, Target, parse_options, repeat_command

from ingestion_engine.domain.records import Band
from ingestion_engine.gateway.scheduling.fair_queue import FairQueue
from ingestion_engine.gateway.scheduling.rate_window import RateWindow
from ingestion_engine.gateway.scheduling.tickets import Caps, Ticket

CAPS = Caps(in_flight=4, texts_per_second=50)
TEXT_S = 0.02
"""Simulated service time per text."""
OUTSTANDING = 32
"""Requests that a simulated flow has waiting or in flight."""


def any_room(ticket: Ticket, urgent: bool) -> bool:
    return True


class Queue(Protocol):
    """What a simulation needs of a scheduler."""

    def put(self, ticket: Ticket, now: float) -> object: ...

    def next(self, now: float, room: Callable[[Ticket, bool], bool]) -> Ticket | None: ...

    def wake_at(self) -> float | None: ...

    def done(self, ticket: Ticket, now: float) -> None: ...


class DeficitRoundRobin:
    """The rival: rounds, in which a flow may send ``quantum * weight`` characters."""

    def __init__(self, quantum: int) -> None:
        self._window = RateWindow(CAPS.texts_per_second)
        self._flows: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._deficit: defaultdict[str, int] = defaultdict(int)
        self._quantum = quantum
        self._is_visited = False
        self._out = 0
        self._wake_at: float | None = None

    def put(self, ticket: Ticket, now: float) -> None:
        self._flows.setdefault(ticket.flow, deque()).append(ticket)

    def next(self, now: float, room: Callable[[Ticket, bool], bool]) -> Ticket | None:
        self._wake_at = None
        while self._flows and self._out < (CAPS.in_flight or 0):
            flow, waiting = next(iter(self._flows.items()))
            if not self._is_visited:
                self._deficit[flow] += self._quantum * waiting[0].weight
                self._is_visited = True
            if waiting[0].characters > self._deficit[flow]:
                self._flows.move_to_end(flow)
                self._is_visited = False
                continue
            if not self._window.fits(waiting[0].texts, now):
                self._wake_at = self._window.free_at(waiting[0].texts, now)
                return None
            ticket = waiting.popleft()
            self._window.add(ticket.texts, now)
            self._deficit[flow] -= ticket.characters
            self._out += 1
            if not waiting:
                del self._flows[flow], self._deficit[flow]
                self._is_visited = False
            return ticket
        return None

    def wake_at(self) -> float | None:
        return self._wake_at

    def done(self, ticket: Ticket, now: float) -> None:
        self._out -= 1


@dataclass(frozen=True, slots=True)
class Flow:
    weight: int
    batch: int
    varied: bool = False
    """Texts of 100 to 2,000 characters instead of 700."""
    start: float = 0.0

    def make(self, name: str, dice: random.Random) -> Ticket:
        size = sum(dice.randint(100, 2_000) if self.varied else 700 for _ in range(self.batch))
        return Ticket(flow=name, band=Band.JOB, characters=size, texts=self.batch, weight=self.weight)


def simulate(queue: Queue, flows: dict[str, Flow], seconds: float) -> list[tuple[float, Ticket]]:
    """Return what is sent when, by flows that put a new request as soon as one is done."""
    dice = random.Random(14)
    events: list[tuple[float, int, str, Ticket | None]] = []
    count = 0

    def push(at: float, name: str, ticket: Ticket | None = None) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (at, count, name, ticket))

    for name, flow in flows.items():
        for _ in range(OUTSTANDING):
            push(flow.start, name)
    log = []
    while events and events[0][0] <= seconds:
        now, _, name, done = heapq.heappop(events)
        if done is not None:
            queue.done(done, now)
        if name:
            queue.put(flows[name].make(name, dice), now)
        while (ticket := queue.next(now, any_room)) is not None:
            log.append((now, ticket))
            push(now + TEXT_S * ticket.texts, ticket.flow, ticket)
        wake_at = queue.wake_at()
        if wake_at is not None and wake_at > now:
            push(wake_at, "")
    return log


def worst_share(queue: Queue, flows: dict[str, Flow], seconds: float = 60.0) -> float:
    """Return how far a flow's characters of any ten seconds are from its weight, as a part of its share."""
    log = simulate(queue, flows, seconds)
    weights = sum(flow.weight for flow in flows.values())
    worst = 0.0
    for start in range(20, int(4 * (seconds - 10))):
        served: dict[str, int] = dict.fromkeys(flows, 0)
        for at, ticket in log:
            if start / 4 < at <= start / 4 + 10:
                served[ticket.flow] += ticket.characters
        total = sum(served.values())
        errors = (abs(served[name] / total * weights / flow.weight - 1) for name, flow in flows.items())
        worst = max(worst, *errors)
    return worst


def late_wait(make: Callable[[], Queue], weights: list[int], late: int, batch: int) -> float:
    """Return the longest time until the first request of a late flow is sent, over several times of its arrival."""
    longest = 0.0
    for number in range(12):
        start = 20 + 0.37 * number
        flows = {f"job {index}": Flow(weight, batch) for index, weight in enumerate(weights)}
        log = simulate(make(), flows | {"late": Flow(late, batch, start=start)}, 60)
        longest = max(longest, min(at for at, ticket in log if ticket.flow == "late") - start)
    return longest


def time_operations(tickets: int, flows: int) -> dict[str, float]:
    """Return microseconds of each operation with this many waiting tickets, and their memory."""
    dice = random.Random(14)
    queue: FairQueue[Ticket] = FairQueue()

    def make() -> Ticket:
        number, size = dice.randrange(flows), dice.randint(100, 20_000)
        band = Band.SEARCH if number % 50 == 0 else Band.JOB
        kind = ("model", number % 3)
        weight = 1 + number % 10
        return Ticket(flow=f"flow {number}", band=band, characters=size, texts=8, weight=weight, kind=kind)

    waiting = [make() for _ in range(tickets)]
    started = time.process_time()
    for ticket in waiting:
        queue.put(ticket, 0.0)
    filled = time.process_time() - started
    fresh = [make() for _ in range(tickets)]
    started = time.process_time()
    for number, ticket in enumerate(fresh):
        now = number / 10_000
        served = queue.next(now, any_room)
        assert served is not None
        queue.done(served, now)
        queue.put(ticket, now)
    cycled = time.process_time() - started
    started = time.process_time()
    for ticket in fresh:
        queue.remove(ticket, 2.0)
    removed = time.process_time() - started
    for ticket in (make() for _ in range(tickets)):
        queue.put(ticket, 2.0)
    started = time.process_time()
    statuses = queue.flows(2.0)
    status = time.process_time() - started
    assert len(statuses) >= min(flows, tickets) // 2
    micro = 1_000_000 / tickets
    return {
        "put_us": filled * micro,
        "cycle_us": cycled * micro,
        "remove_us": removed * micro,
        "status_ms": status * 1000,
    }


def measure_memory(tickets: int, flows: int) -> float:
    """Return bytes per waiting ticket, its own included."""
    tracemalloc.start()
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(tickets):
        ticket = Ticket(flow=f"flow {number % flows}", band=Band.JOB, characters=5_000, texts=8, kind=("model", 0))
        queue.put(ticket, 0.0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / tickets


def main() -> None:
    parser = argparse.ArgumentParser(description="The gateway's scheduler.")
    parser.add_argument("--tickets", type=int, default=10_000)
    parser.add_argument("--flows", type=int, default=1_000)
    options = parse_options(parser, {"tickets": 1_000, "flows": 100})
    runs = [time_operations(options.tickets, options.flows) for _ in range(options.runs)]
    measured = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    memory = measure_memory(options.tickets, options.flows)
    report = Report(
        case="scheduler",
        title="Scheduler of the gateway",
        command=repeat_command(__file__),
        about=(
            "CPU time of each operation with many waiting tickets of many flows, three kinds and two bands: `put`, "
            "then a cycle of `next`, `done` and `put`, then `remove` (of any place in the queue). Shares and waits are "
            "simulated: 4 requests in flight, 50 texts/s, 20 ms per text, each flow with 32 requests waiting or in "
            "flight. The rival is deficit round robin with the same window, and a quantum of one batch for the "
            "smallest weight."
        ),
        packages=("ingestion-engine",),
        settings={"tickets": options.tickets, "flows": options.flows, "runs": options.runs},
        quick=options.quick,
    )
    report.targets = [
        Target("a cycle of next, done and put", 200, measured["cycle_us"], "µs"),
        Target("memory per waiting ticket", 2_048, memory, "B"),
    ]
    report.add_table(
        ["waiting", "flows", "put µs", "next + done + put µs", "cycles/s", "remove µs", "status ms", "bytes/ticket"],
        [
            [
                f"{options.tickets:,}",
                f"{options.flows:,}",
                f"{measured['put_us']:.1f}",
                f"{measured['cycle_us']:.1f}",
                f"{1_000_000 / measured['cycle_us']:,.0f}",
                f"{measured['remove_us']:.1f}",
                f"{measured['status_ms']:.1f}",
                f"{memory:,.0f}",
            ]
        ],
    )
    rows: list[list[object]] = []
    for weights in ([5] * 8, [1, 2, 3, 4, 5, 6, 8, 10]):
        for batch in (1, 8) if options.quick else (1, 4, 5, 8, 16):
            for varied in (False, True):
                flows = {f"job {index}": Flow(weight, batch, varied) for index, weight in enumerate(weights)}
                rival = DeficitRoundRobin((2_000 if varied else 700) * batch // min(weights))
                fair, round_robin = worst_share(FairQueue(CAPS), flows), worst_share(rival, flows)
                shown = " ".join(map(str, weights))
                size = "100 to 2,000" if varied else "700"
                rows.append([shown, batch, size, f"{fair:.1%}", f"{round_robin:.1%}"])
    report.add_table(
        ["weights", "texts per request", "characters per text", "worst share, fair queue", "deficit round robin"],
        rows,
        note="Worst share: how far the characters of a flow in any ten seconds are from its weight.",
    )
    waits: list[list[object]] = []
    for weights, late in (([5] * 7, 5), ([10] * 7, 1), ([1] * 7, 10), ([1, 2, 3, 4, 6, 8, 10], 5)):
        fair = late_wait(lambda: FairQueue(CAPS), weights, late, 8)
        quantum = 700 * 8 // min(*weights, late)
        round_robin = late_wait(lambda quantum=quantum: DeficitRoundRobin(quantum), weights, late, 8)  # type: ignore[misc]  # bound now
        waits.append([" ".join(map(str, weights)), late, f"{fair:.2f}", f"{round_robin:.2f}"])
    report.add_table(
        ["weights", "weight of the late flow", "first request after s, fair queue", "deficit round robin"],
        waits,
        note="Batches of eight texts. The longest of twelve times of arrival; the texts of a second may be used up.",
    )
    report.write()


if __name__ == "__main__":
    main()
