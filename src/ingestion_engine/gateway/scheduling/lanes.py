"""Start-time fair queuing of one band: which flow is next, by virtual time. See decision record 31.

A lane holds the tickets of one flow and kind, in order of arrival. Its tag is the virtual time at which its next ticket
starts; a ticket moves it on by ``characters / weight``. The lane with the smallest tag is next. Lanes of a kind share a
clock; kinds are compared in the band's time, from which a kind differs by its shift.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from ingestion_engine.gateway.scheduling.served import ServedMeter
from ingestion_engine.gateway.scheduling.tickets import Ticket

T = TypeVar("T", bound=Ticket)

_SCALE = 2520
"""Virtual time is in characters / (2520 * weight): every weight from 1 to 10 divides 2520, so tags are exact."""
_MAX_LAG = 2
"""A kind without room keeps its turn, but no more credit than this many of the band's largest requests."""
_FORGET = 64
"""The largest request fades by this part with every request that is served, so that one giant is forgotten."""
_CONTINUES = 1 << 62
"""Of lanes with equal tags, one that was idle is before those that go on, so that a late flow is served at once."""
_STALE = 64
"""Outdated entries of the heaps are removed when there are more of them than lanes, and more than this."""


class Lane(Generic[T]):
    """Tickets of one flow and kind in one band."""

    __slots__ = ("characters", "entry", "flow", "in_flight", "kind", "served", "tag", "waiting", "weight")

    def __init__(self, flow: str, kind: Hashable) -> None:
        """Start empty, at virtual time 0."""
        self.flow = flow
        self.kind = kind
        self.waiting: OrderedDict[T, None] = OrderedDict()
        self.characters = 0
        self.in_flight = 0
        self.served = ServedMeter()
        self.tag = 0
        self.weight = 0
        """Weight of the head; of the last one if none waits."""
        self.entry: _Entry[T] | None = None
        """The entry of a heap that stands for this lane; all others are outdated."""

    @property
    def head(self) -> T:
        """The ticket that is next in this lane."""
        return next(iter(self.waiting))


_Entry = tuple[int, int, Lane[T]]
"""(tag, order of entry, lane)"""


class _Kind(Generic[T]):
    """Lanes whose requests are served by the same servers."""

    __slots__ = ("clock", "heaps", "lanes", "opened", "served", "shift", "stale", "weight")

    def __init__(self) -> None:
        self.opened = 0
        """Lanes that exist, waiting or not."""
        self.lanes: set[Lane[T]] = set()
        """Lanes with waiting tickets."""
        self.heaps: dict[int, list[_Entry[T]]] = {}
        """By the size of the head in texts, in powers of two, so that one that fits a small rest is found at once."""
        self.clock = 0
        """Virtual time of the kind."""
        self.served = 0
        """The latest tag that was served."""
        self.shift = 0
        """The band's time is the kind's time + shift."""
        self.weight = 0
        self.stale = 0


def _step(ticket: Ticket) -> int:
    """Return by how much a request moves the virtual time of its flow."""
    return max(1, ticket.characters) * (_SCALE // ticket.weight)


class Lanes(Generic[T]):
    """The lanes of one band.

    Bound: between two flows that have tickets waiting and servers with room, the characters served per weight differ
    by less than the largest request per weight of either. A flow that was idle has no credit, and no debt beyond its
    last request.

    Cost: O(log flows) per operation, plus O(kinds) for ``first``.
    """

    def __init__(self) -> None:
        """Start empty, at virtual time 0."""
        self._kinds: dict[Hashable, _Kind[T]] = {}
        self._clock = 0
        self._served = 0
        self._weight = 0
        self._largest = 0
        self._order = 0

    def open(self, flow: str, kind: Hashable) -> Lane[T]:
        """Return a new lane, which is known until it is closed."""
        self._kinds.setdefault(kind, _Kind()).opened += 1
        return Lane(flow, kind)

    def close(self, lane: Lane[T]) -> None:
        """Forget a lane that has no waiting tickets."""
        kind = self._kinds[lane.kind]
        kind.opened -= 1
        if not kind.opened:
            del self._kinds[lane.kind]

    def put(self, lane: Lane[T], ticket: T) -> None:
        """Append a ticket to its lane."""
        kind = self._kinds[lane.kind]
        lane.waiting[ticket] = None
        lane.characters += ticket.characters
        if lane not in kind.lanes:
            lane.tag = self._now(kind, lane)
            self._enter(kind, lane, 0)

    def put_back(self, lane: Lane[T], ticket: T) -> None:
        """Return a ticket that was taken to the head of its lane, and its price to the flow."""
        kind = self._kinds[lane.kind]
        lane.tag = self._now(kind, lane) - _step(ticket)
        lane.waiting[ticket] = None
        lane.waiting.move_to_end(ticket, last=False)
        lane.characters += ticket.characters
        self._enter(kind, lane, -_CONTINUES)

    def remove(self, lane: Lane[T], ticket: T) -> None:
        """Remove a waiting ticket; its lane keeps its tag."""
        kind = self._kinds[lane.kind]
        was_head = lane.head is ticket
        del lane.waiting[ticket]
        lane.characters -= ticket.characters
        if was_head:
            self._enter(kind, lane)

    def first(self, room: Callable[[T], bool], texts: int | None = None) -> tuple[Lane[T], T] | None:
        """Return the next ticket among the kinds that have room and, if ``texts`` is given, at most that many texts.

        ``room`` is called at most once per kind, with the ticket that would be next.
        """
        best: tuple[int, int, Lane[T]] | None = None
        for kind in self._kinds.values():
            found = self._peek(kind, texts)
            if found is None:
                continue
            entry = (found[0] + kind.shift, found[1], found[2])
            if (best is None or entry[:2] < best[:2]) and room(found[2].head):
                best = entry
        return None if best is None else (best[2], best[2].head)

    def largest_head(self) -> int:
        """Return the most characters that a ticket which is next of its kind has; 0: none waits, else at least 1."""
        heads = [found[2].head for kind in self._kinds.values() if (found := self._peek(kind, None)) is not None]
        return max((max(1, head.characters) for head in heads), default=0)

    def take(self, lane: Lane[T]) -> T:
        """Remove the head of a lane and charge its flow for it."""
        kind, ticket = self._kinds[lane.kind], lane.head
        step = _step(ticket)
        work = step * ticket.weight
        self._largest = max(step, self._largest - self._largest // _FORGET)
        kind.shift += max(0, self._clock - _MAX_LAG * self._largest - (lane.tag + kind.shift))
        # Time passes with the work done, too: a stream of new flows would hold the tags. At three quarters of it,
        # so that it is no longer ahead of the tags when the flows have been the same for a while.
        kind.served = max(kind.served, lane.tag)
        self._served = max(self._served, lane.tag + kind.shift)
        kind.clock = max(kind.clock + work * 3 // (4 * kind.weight), lane.tag)
        self._clock = max(self._clock + work * 3 // (4 * self._weight), lane.tag + kind.shift)
        del lane.waiting[ticket]
        lane.characters -= ticket.characters
        lane.tag += step
        self._enter(kind, lane)
        return ticket

    def ranks(self) -> dict[Lane[T], int]:
        """Return how many lanes are before each one that waits. Cost: O(n log n) with n lanes."""
        entries = sorted(
            (lane.tag + kind.shift, lane.entry[1], lane.flow, lane)
            for kind in self._kinds.values()
            for lane in kind.lanes
            if lane.entry
        )
        return {entry[3]: rank for rank, entry in enumerate(entries)}

    def __iter__(self) -> Iterator[Lane[T]]:
        """Yield the lanes with waiting tickets, in no order."""
        return chain.from_iterable(kind.lanes for kind in self._kinds.values())

    def _now(self, kind: _Kind[T], lane: Lane[T]) -> int:
        """Return where a lane stands: one that was idle has no credit, but does not wait for a whole round either.

        It starts at the latest tag that was served, unless a stream of new flows holds that back by more than half a
        request.
        """
        if lane in kind.lanes:
            return lane.tag
        if not kind.lanes:
            kind.clock = max(kind.clock, self._clock - kind.shift)
            kind.served = max(kind.served, self._served - kind.shift)
        return max(lane.tag, kind.served, kind.clock - self._largest // 2)

    def _enter(self, kind: _Kind[T], lane: Lane[T], place: int = _CONTINUES) -> None:
        """Bring the lane's entry and the sums of weights in line with its head; ``place`` orders equal tags."""
        if lane in kind.lanes:
            kind.weight -= lane.weight
            self._weight -= lane.weight
            kind.lanes.discard(lane)
            kind.stale += 1
            lane.entry = None
        if not lane.waiting:
            if not kind.lanes:
                kind.heaps.clear()
                kind.stale = 0
            return
        lane.weight = lane.head.weight
        kind.weight += lane.weight
        self._weight += lane.weight
        kind.lanes.add(lane)
        self._order += 1
        lane.entry = (lane.tag, place + self._order, lane)
        heapq.heappush(kind.heaps.setdefault(lane.head.texts.bit_length(), []), lane.entry)
        if kind.stale > max(_STALE, len(kind.lanes)):
            self._compact(kind)

    def _compact(self, kind: _Kind[T]) -> None:
        for size, heap in list(kind.heaps.items()):
            heap[:] = [entry for entry in heap if entry[2].entry is entry]
            heapq.heapify(heap)
            if not heap:
                del kind.heaps[size]
        kind.stale = 0

    def _peek(self, kind: _Kind[T], texts: int | None) -> _Entry[T] | None:
        best: _Entry[T] | None = None
        for heap in kind.heaps.values():
            while heap and heap[0][2].entry is not heap[0]:
                heapq.heappop(heap)
                kind.stale -= 1
            if not heap or (best is not None and heap[0][:2] > best[:2]):
                continue
            if texts is None or heap[0][2].head.texts <= texts:
                best = heap[0]
        return best
