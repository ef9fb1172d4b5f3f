"""The scheduler of the gateway under any arrivals, sizes, caps, rooms and disconnects, in simulated time.

``QueueMachine`` compares it with a naive model after every step; the other tests run it until something must be true.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingestion_engine.domain.records import Band
from ingestion_engine.gateway.scheduling.fair_queue import LONGEST_PAUSE_S, SEARCH_MEMORY_S, FairQueue
from ingestion_engine.gateway.scheduling.tickets import Caps, Ticket

FLOWS = ("a", "b", "c", "d")
KINDS = ("x", "y", "z")

flows = st.sampled_from(FLOWS)
bands = st.sampled_from(Band)
kinds = st.sampled_from(KINDS)
weights = st.integers(1, 10)
characters = st.integers(0, 5_000)
texts = st.integers(0, 40)
limits = st.none() | st.integers(0, 60) | st.floats(0.5, 60)
caps = st.builds(Caps, in_flight=st.none() | st.integers(0, 5), texts_per_second=limits)
durations = st.sampled_from((0.0, 0.001, 0.05, 0.25, 0.99, 1.0, 1.5, 11.0))


def job(flow: str, size: int, weight: int = 5, **fields: Any) -> Ticket:
    return Ticket(**({"flow": flow, "band": Band.JOB, "characters": size, "texts": 1, "weight": weight} | fields))


def any_room(ticket: Ticket, urgent: bool) -> bool:
    return True


class QueueMachine(RuleBasedStateMachine):
    """Every ticket is put, handed out in its order under the caps, put back, ended or removed, in any mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.caps = Caps()
        self.queue: FairQueue[Ticket] = FairQueue(guard_s=0.0)
        self.rooms: set[tuple[str, bool]] = {(kind, urgent) for kind in KINDS for urgent in (True, False)}
        self.waiting: dict[tuple[str, Band, object], list[Ticket]] = defaultdict(list)
        self.out: list[Ticket] = []
        self.sent: dict[Ticket, tuple[float, int]] = {}
        """When the texts of a ticket left, by its last try."""
        self.earlier: list[tuple[float, int]] = []
        """The same for its other tries."""
        self.unsent: set[Ticket] = set()
        self.searched_at = -1_000.0

    def room(self, ticket: Ticket, urgent: bool) -> bool:
        assert urgent or ticket.band is Band.JOB
        return (str(ticket.kind), urgent) in self.rooms

    def line(self, ticket: Ticket) -> list[Ticket]:
        return self.waiting[ticket.flow, ticket.band, ticket.kind]

    @rule(flow=flows, band=bands, kind=kinds, size=characters, count=texts, weight=weights, copies=st.integers(1, 4))
    def put(self, flow: str, band: Band, kind: str, size: int, count: int, weight: int, copies: int) -> None:
        for _ in range(copies):
            ticket = job(flow, size, weight, band=band, kind=kind, texts=count, size_bytes=size)
            assert self.queue.put(ticket, self.now) == []
            self.line(ticket).append(ticket)
            if band is Band.SEARCH:
                self.searched_at = self.now

    @precondition(lambda self: len(self.queue))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        line = data.draw(st.sampled_from([line for line in self.waiting.values() if line]))
        ticket = data.draw(st.sampled_from(line))
        assert self.queue.remove(ticket, self.now)
        line.remove(ticket)

    @rule(flow=flows)
    def drop(self, flow: str) -> None:
        dropped = self.queue.drop_flow(flow, self.now)
        lines = [line for (its_flow, _, _), line in self.waiting.items() if its_flow == flow]
        assert {id(ticket) for ticket in dropped} == {id(ticket) for line in lines for ticket in line}
        assert [ticket.arrived for ticket in dropped] == sorted(ticket.arrived for ticket in dropped)
        for line in lines:
            line.clear()

    @precondition(lambda self: self.out)
    @rule(data=st.data(), kind=kinds, again=st.booleans())
    def end(self, data: st.DataObject, kind: str, again: bool) -> None:
        ticket = data.draw(st.sampled_from(self.out))
        self.out.remove(ticket)
        assert not self.queue.remove(ticket, self.now)
        self.unsent.discard(ticket)
        if again:
            self.earlier.append(self.sent.pop(ticket))
            ticket.kind = kind
            self.queue.put_back(ticket, self.now)
            self.line(ticket).insert(0, ticket)
        else:
            self.queue.done(ticket, self.now)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """The first time counts: the texts leave once."""
        ticket = data.draw(st.sampled_from(self.out))
        if ticket not in self.unsent:
            return
        self.unsent.remove(ticket)
        self.queue.sent(ticket, self.now)
        self.sent[ticket] = (self.now, ticket.texts)

    @rule(caps=caps)
    def change_caps(self, caps: Caps) -> None:
        self.caps = caps
        self.queue.set_caps(caps)

    @rule(rooms=st.sets(st.tuples(kinds, st.booleans())))
    def change_rooms(self, rooms: set[tuple[str, bool]]) -> None:
        self.rooms = rooms | {(kind, True) for kind, _ in rooms}

    @rule(seconds=durations)
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hand_out(self) -> None:
        """Hand out everything that may go now, checking each ticket; then nothing was held back without a reason."""
        while (ticket := self.queue.next(self.now, self.room)) is not None:
            self.check(ticket)
        assert self.queue.next(self.now, self.room) is None
        self.check_idle()

    @rule()
    def wake(self) -> None:
        """At the time that the queue named, and not before, a ticket goes."""
        while (ticket := self.queue.next(self.now, self.room)) is not None:
            self.check(ticket)
        wake_at = self.queue.wake_at()
        if wake_at is None:
            return
        assert wake_at > self.now
        early = self.now + (wake_at - self.now) * 0.99
        if self.now < early < wake_at:
            self.now = early
            assert self.queue.next(self.now, self.room) is None or self.searched_at > self.now - LONGEST_PAUSE_S - 2
        self.now = max(self.now, wake_at)
        ticket = self.queue.next(self.now, self.room)
        if ticket is None:  # its turn came to another one, which is larger
            assert self.queue.wake_at() is not None or self.caps.in_flight == len(self.out)
        else:
            self.check(ticket)

    def check(self, ticket: Ticket) -> None:
        line = self.line(ticket)
        assert line[0] is ticket, "first in, first out"
        assert (str(ticket.kind), True) in self.rooms
        line.pop(0)
        self.out.append(ticket)
        assert self.caps.in_flight is None or len(self.out) <= self.caps.in_flight
        times = [*self.sent.values(), *self.earlier]
        before = sum(count for at, count in times if at + 1.0 > self.now)
        before += sum(sent.texts for sent in self.unsent if self.sent[sent][0] + 1.0 <= self.now)  # will be sent later
        limit = self.caps.texts_per_second
        if limit is not None:
            assert limit > 0
            assert before + ticket.texts <= limit or before == 0
        self.sent[ticket] = (self.now, ticket.texts)
        self.unsent.add(ticket)

    def check_idle(self) -> None:
        """What may go now is held back only for one that is before it and does not fit the second yet."""
        if self.caps.in_flight is not None and len(self.out) >= self.caps.in_flight:
            return
        heads = [line[0] for line in self.waiting.values() if line]
        ready = [head for head in heads if (str(head.kind), head.band is Band.SEARCH) in self.rooms]
        if not ready or self.caps.texts_per_second == 0:
            return
        wake_at = self.queue.wake_at()
        assert wake_at is not None
        paced = self.searched_at >= self.now - SEARCH_MEMORY_S - 80  # the pause of 40 texts at 0.5 a second
        assert paced or not all(self.queue._window.fits(head.texts, self.now) for head in ready)

    @invariant()
    def counts_agree(self) -> None:
        waiting = [ticket for line in self.waiting.values() for ticket in line]
        assert (len(self.queue), self.queue.in_flight) == (len(waiting), len(self.out))
        assert self.queue.waiting_bytes == sum(ticket.size_bytes for ticket in waiting)

    @invariant()
    def status_agrees(self) -> None:
        statuses = {(status.flow, status.band): status for status in self.queue.flows(self.now)}
        lines = {key[:2] for key, line in self.waiting.items() if line}
        for key in lines | {(ticket.flow, ticket.band) for ticket in self.out}:
            status = statuses.pop(key)
            mine = [ticket for (flow, band, _), line in self.waiting.items() if (flow, band) == key for ticket in line]
            assert status.queued == len(mine)
            assert status.queued_chars == sum(ticket.characters for ticket in mine)
            assert status.in_flight == sum((ticket.flow, ticket.band) == key for ticket in self.out)
            assert status.waited_s == self.now - min((ticket.arrived for ticket in mine), default=self.now)
            assert status.of == len(lines)
            assert status.ahead < max(1, status.of)
        assert all(status.queued == status.in_flight == 0 for status in statuses.values())

    @invariant()
    def heaps_agree(self) -> None:
        """Each lane that waits has one valid entry, and nothing else is counted or kept without bound."""
        for band, lanes in self.queue._bands.items():
            assert lanes._weight == sum(kind.weight for kind in lanes._kinds.values())
            for kind in lanes._kinds.values():
                entries = [entry for heap in kind.heaps.values() for entry in heap]
                valid = [entry for entry in entries if entry[2].entry is entry]
                assert {id(entry[2]) for entry in valid} == {id(lane) for lane in kind.lanes}
                assert len(entries) - len(valid) == kind.stale <= max(64, len(kind.lanes))
                assert kind.weight == sum(lane.head.weight for lane in kind.lanes)
                assert all(lane.head.band is band for lane in kind.lanes)

    def teardown(self) -> None:
        """When everything has room, everything that waits is handed out, once."""
        self.caps, self.rooms = Caps(), {(kind, urgent) for kind in KINDS for urgent in (True, False)}
        self.queue.set_caps(self.caps)
        self.now += 200.0
        while (ticket := self.queue.next(self.now, self.room)) is not None:
            self.check(ticket)
        assert not any(self.waiting.values())
        assert len(self.queue) == 0


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@dataclass
class Flow:
    """A flow that always has tickets waiting, of sizes and weights that repeat."""

    name: str
    sizes: list[int]
    weights: list[int]
    kind: str = "x"
    count: int = 0
    served: float = 0.0
    """Characters per weight."""
    history: list[float] = field(default_factory=list)

    def make(self) -> Ticket:
        self.count += 1
        size, weight = self.sizes[self.count % len(self.sizes)], self.weights[self.count % len(self.weights)]
        return job(self.name, size, weight, kind=self.kind)

    @property
    def largest(self) -> float:
        return max(size / weight for size in self.sizes for weight in self.weights)


sizes = st.lists(st.integers(1, 20_000), min_size=1, max_size=5)
backlogged = st.lists(st.tuples(sizes, st.lists(weights, min_size=1, max_size=2)), min_size=2, max_size=6)
passing = st.lists(st.tuples(flows, characters, weights, st.integers(0, 3)), max_size=60)


@given(backlogged=backlogged, passing=passing, in_flight=st.integers(1, 4))
@settings(deadline=None)
def test_weights_hold_within_a_request_of_each_flow(
    backlogged: list[tuple[list[int], list[int]]], passing: list[tuple[str, int, int, int]], in_flight: int
) -> None:
    """Between flows that always wait, served characters per weight differ by one request of either, over any time."""
    queue: FairQueue[Ticket] = FairQueue(Caps(in_flight=in_flight))
    always = {f"always {number}": Flow(f"always {number}", *parts) for number, parts in enumerate(backlogged)}
    for flow in always.values():
        for _ in range(3):
            queue.put(flow.make(), 0.0)
    out: list[Ticket] = []
    for step in range(150):
        if step < len(passing):
            name, size, weight, count = passing[step]
            for _ in range(count):
                queue.put(job(name, size, weight, kind="x"), 0.0)
        while (ticket := queue.next(0.0, any_room)) is not None:
            out.append(ticket)
            if ticket.flow in always:
                always[ticket.flow].served += ticket.characters / ticket.weight
                queue.put(always[ticket.flow].make(), 0.0)
            for flow in always.values():
                flow.history.append(flow.served)
        queue.done(out.pop(step % len(out)), 0.0)
    for one, other in combinations(always.values(), 2):
        differences = [a - b for a, b in zip(one.history, other.history, strict=True)]
        assert max(differences) - min(differences) <= (one.largest + other.largest) * (1 + 1e-9)


@given(
    backlogged=backlogged,
    late=st.tuples(sizes, st.lists(weights, min_size=1, max_size=1)),
    after=st.integers(0, 80),
)
@settings(deadline=None)
def test_a_late_flow_gets_its_share_from_its_first_request_on(
    backlogged: list[tuple[list[int], list[int]]], late: tuple[list[int], list[int]], after: int
) -> None:
    """It has neither credit nor debt beyond a request of each."""
    queue: FairQueue[Ticket] = FairQueue()
    always = {f"always {number}": Flow(f"always {number}", *parts) for number, parts in enumerate(backlogged)}
    for flow in always.values():
        queue.put(flow.make(), 0.0)
        queue.put(flow.make(), 0.0)
    newcomer = Flow("late", *late)
    for step in range(after + 200):
        if step == after:
            always["late"] = newcomer
            for flow in always.values():
                flow.served = 0.0
            queue.put(newcomer.make(), 0.0)
            queue.put(newcomer.make(), 0.0)
        ticket = queue.next(0.0, any_room)
        assert ticket is not None
        queue.done(ticket, 0.0)
        always[ticket.flow].served += ticket.characters / ticket.weight
        queue.put(always[ticket.flow].make(), 0.0)
        if step >= after:
            largest = max(flow.largest for flow in always.values())
            for flow in always.values():
                assert abs(flow.served - newcomer.served) <= flow.largest + newcomer.largest + largest


def in_kinds(kinds: set[str]) -> Callable[[Ticket, bool], bool]:
    return lambda ticket, _urgent: ticket.kind in kinds


arrivals = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1_000, 5_000), st.sampled_from((1, 2, 5)), kinds, st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


@given(arrivals=arrivals, rooms=st.lists(st.sets(kinds), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_no_ticket_starves(arrivals: list[tuple[int, int, int, str, int]], rooms: list[set[str]]) -> None:
    """While its servers have room, at most six times the largest request per weight of all who wait goes before it.

    Also behind any number of new flows (every other one here), and of kinds whose servers come and go.
    """
    queue: FairQueue[Ticket] = FairQueue()
    victim = job("victim", 5_000, 1, kind="x")
    queue.put(job("victim", 5_000, 1, kind="x"), 0.0)
    queue.put(victim, 0.0)
    passed, heaviest = 0, 0
    first = True
    for step in range(2_500):
        number, its_size, its_weight, kind, count = arrivals[step % len(arrivals)]
        for copy in range(min(count, 9 - len(queue))):
            name = f"flow {number}" if number < 3 else f"new {step} {copy}"
            queue.put(job(name, its_size, its_weight, kind=kind), 0.0)
        open_kinds = rooms[step % len(rooms)] | {"x"}
        heaviest = max(heaviest, queue._bands[Band.JOB]._weight)
        ticket = queue.next(0.0, in_kinds(open_kinds))
        assert ticket is not None
        queue.done(ticket, 0.0)
        if ticket is victim:
            return
        if ticket.flow == "victim":
            first, passed, heaviest = False, 0, 0
            continue
        passed += max(1, ticket.characters)
        assert first or passed <= 6 * 5_000 * heaviest
    raise AssertionError("The ticket was never handed out.")


@given(
    searches=st.lists(st.integers(1, 1_000), min_size=1, max_size=5),
    jobs=st.lists(st.lists(st.integers(1_000, 20_000), min_size=1, max_size=5), min_size=1, max_size=3),
    servers=st.integers(1, 3),
    limit=st.none() | st.integers(20, 200),
)
@settings(deadline=None)
def test_jobs_get_their_tenth_while_searches_saturate(
    searches: list[int], jobs: list[list[int]], servers: int, limit: int | None
) -> None:
    """Of any stretch, jobs have a tenth of the characters but for a request, or one request in five seconds."""
    queue: FairQueue[Ticket] = FairQueue(Caps(servers, limit))
    flows = {f"job {number}": Flow(f"job {number}", its_sizes, [5]) for number, its_sizes in enumerate(jobs)}
    flows["search"] = Flow("search", searches, [5])
    for flow in flows.values():
        for _ in range(4):
            ticket = flow.make()
            ticket.band = Band.SEARCH if flow.name == "search" else Band.JOB
            queue.put(ticket, 0.0)
    now, out = 0.0, list[Ticket]()
    by_band = dict.fromkeys(Band, 0)
    last_job = 0.0
    largest = max(size for its_sizes in jobs for size in its_sizes)
    for _ in range(400):
        while (ticket := queue.next(now, any_room)) is not None:
            out.append(ticket)
            by_band[ticket.band] += ticket.characters
            last_job = now if ticket.band is Band.JOB else last_job
            following = flows[ticket.flow].make()
            following.band = ticket.band
            queue.put(following, now)
        assert by_band[Band.JOB] + largest >= by_band[Band.SEARCH] / 9 - max(searches) / 9
        assert now - last_job <= LONGEST_PAUSE_S + 0.1
        if out:
            queue.done(out.pop(0), now)
        now += 0.02


Service = Callable[[Ticket], float]


def simulate(
    queue: FairQueue[Ticket], flows: dict[str, Callable[[float], Ticket | None]], *, until: float, service: Service
) -> list[tuple[float, float, Ticket]]:
    """Serve flows that always have eight tickets waiting; return (sent at, done at, ticket)."""
    now, log, out, queued = 0.0, [], [], dict.fromkeys(flows, 0)
    while now < until:
        for name, make in flows.items():
            while queued[name] < 8 and (ticket := make(now)) is not None:
                queue.put(ticket, now)
                queued[name] += 1
        while (found := queue.next(now, any_room)) is not None:
            queued[found.flow] -= 1
            out.append((now + service(found), now, found))
            log.append((now, now + service(found), found))
        events = [done for done, _, _ in out] + [now + 0.25]
        wake_at = queue.wake_at()
        now = min([*events, *([wake_at] if wake_at is not None else [])])
        for entry in [entry for entry in out if entry[0] <= now]:
            out.remove(entry)
            queue.done(entry[2], now)
    return log


def shares(log: list[tuple[float, float, Ticket]], start: float, end: float) -> dict[str, float]:
    by_flow: dict[str, int] = defaultdict(int)
    for sent, _, ticket in log:
        if start < sent <= end:
            by_flow[ticket.flow] += ticket.characters
    total = sum(by_flow.values())
    return {flow: served / total for flow, served in by_flow.items()}


def batches(flow: str, weight: int, count: int, *, since: float = 0.0) -> Callable[[float], Ticket | None]:
    return lambda now: job(flow, 700 * count, weight, texts=count) if now >= since else None


def test_eight_flows_share_four_requests_in_flight_and_fifty_texts_a_second() -> None:
    """Shares within 10 % over any 10 s, with batches of five; never above a cap, and all of it used.

    Batches of eight are 10.3 % off: of 60 batches in 10 s a flow gets seven or eight.
    """
    flows = {f"job {number}": batches(f"job {number}", 5, 5) for number in range(8)}
    log = simulate(FairQueue(Caps(4, 50)), flows, until=40, service=lambda ticket: 0.04 * ticket.texts)
    for start in range(8, 116):
        for share in shares(log, start / 4, start / 4 + 10).values():
            assert abs(share - 1 / 8) <= 0.1 / 8
    for sent, _, _ in log:
        assert sum(ticket.texts for at, _, ticket in log if sent - 1 < at <= sent) <= 50
        assert sum(at <= sent < done for at, done, _ in log) <= 4
    assert sum(ticket.texts for _, _, ticket in log) >= 0.99 * 40 * 50


def test_weights_one_to_ten_need_batches_of_one() -> None:
    """The lightest of 39 parts gets 12.8 texts in 10 s, so one text is 8 % of its share."""
    by_weight = {f"job {weight}": weight for weight in (1, 2, 3, 4, 5, 6, 8, 10)}
    flows = {name: batches(name, weight, 1) for name, weight in by_weight.items()}
    log = simulate(FairQueue(Caps(4, 50)), flows, until=40, service=lambda _: 0.04)
    for start in range(8, 116):
        for name, share in shares(log, start / 4, start / 4 + 10).items():
            assert abs(share - by_weight[name] / 39) <= 0.1 * by_weight[name] / 39


def test_a_late_job_has_its_share_within_two_seconds_and_a_lone_one_everything() -> None:
    """The first request of a late job goes with the next texts that the cap allows."""
    flows = {f"job {number}": batches(f"job {number}", 5, 5) for number in range(7)}
    flows |= {"late": batches("late", 5, 5, since=20.3)}
    log = simulate(FairQueue(Caps(4, 50)), flows, until=40, service=lambda ticket: 0.04 * ticket.texts)
    assert min(sent for sent, _, ticket in log if ticket.flow == "late") < 21.31
    late = sum(ticket.texts for sent, _, ticket in log if ticket.flow == "late" and sent <= 22.5)
    assert late >= 10  # 12.5 texts, in batches of five
    log = simulate(FairQueue(Caps(4, 50)), {"alone": batches("alone", 1, 5)}, until=20, service=lambda _: 0.2)
    assert sum(ticket.texts for _, _, ticket in log) >= 0.99 * 20 * 50
