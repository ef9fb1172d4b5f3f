"""What a simulated Ollama saw, one record per request, and what can be proved from it. Everything here is pure.

Times are seconds of the monotonic clock, which all processes of a machine share. Intervals are half-open.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Interval = tuple[float, float]


class Outcome(enum.StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """Answered 400: a text was over the context. The other texts were embedded in vain."""
    FAILED = "failed"
    """Hit by a fault: an error, no answer, or a dropped connection."""
    CANCELED = "canceled"
    """The client disconnected."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request of ``POST /api/embed``."""

    endpoint: int
    """Number of the endpoint (port)."""
    slot: int
    """Number of the slot behind it."""
    arrival: float
    start: float | None
    """Begin of the work; None if it was never worked on."""
    end: float
    """End of the work, or time at which the server was rid of the request."""
    texts: int
    chars: int
    embedded: int
    """Texts computed."""
    outcome: Outcome
    flow: str = ""
    """Header ``Ingest-Flow``."""
    band: str = ""
    """Header ``Ingest-Band``."""
    request_id: str = ""
    """Header ``X-Request-Id``, which tests set to recognise their requests."""

    @property
    def in_vain(self) -> int:
        """Texts computed for an answer without vectors."""
        return 0 if self.outcome is Outcome.ANSWERED else self.embedded


def peak_in_flight(records: Iterable[Record]) -> int:
    """Return the largest number of requests that were at the servers at the same time, queued ones included."""
    events = sorted(event for one in records for event in ((one.arrival, 1), (one.end, -1)))
    return max(itertools.accumulate(change for _, change in events), default=0)


def peak_texts(records: Iterable[Record], window_s: float = 1.0) -> int:
    """Return the largest number of texts that arrived in any window ``[t, t + window_s)``."""
    peak = inside = 0
    ordered = sorted(records, key=lambda one: one.arrival)
    leaving = iter(ordered)
    oldest = next(leaving, None)
    for one in ordered:
        while oldest is not None and oldest.arrival <= one.arrival - window_s:
            inside -= oldest.texts
            oldest = next(leaving, None)
        inside += one.texts
        peak = max(peak, inside)
    return peak


def busy_share(records: Iterable[Record], slots: int, since: float, until: float) -> float:
    """Return the share of the time in ``[since, until)`` in which slots worked, over all of them."""
    worked = sum(_overlap((one.start, one.end), (since, until)) for one in records if one.start is not None)
    return worked / (slots * (until - since))


def idle_while_waiting(records: Sequence[Record], slots: int, waiting: Iterable[Interval] | None = None) -> float:
    """Return the slot-seconds in which a slot was idle although a request waited.

    Args:
        records: What the servers saw.
        slots: Number of slots that can work at once.
        waiting: For each request the time from its sending to its start, as the clients or a gateway know it; by
            default the time that it waited at the servers.
    """
    worked = [(one.start, one.end) for one in records if one.start is not None]
    if waiting is None:
        waiting = [(one.arrival, one.end if one.start is None else one.start) for one in records]
    return sum(
        (until - since) * max(0, slots - running)
        for since, until, running, waits in _sweep(worked, waiting)
        if waits > 0
    )


def chars_by_flow(records: Iterable[Record], since: float, until: float) -> dict[str, float]:
    """Return the characters embedded for each flow in ``[since, until)``; a request counts evenly over its work."""
    found: dict[str, float] = defaultdict(float)
    for one in records:
        if one.start is None:
            continue
        if one.end > one.start:
            share = _overlap((one.start, one.end), (since, until)) / (one.end - one.start)
        else:
            share = float(since <= one.start < until)
        if share:
            found[one.flow] += one.chars * share
    return dict(found)


def in_vain(records: Iterable[Record]) -> int:
    """Return the number of texts that were embedded for nothing."""
    return sum(one.in_vain for one in records)


def _overlap(one: Interval, other: Interval) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _sweep(first: Iterable[Interval], second: Iterable[Interval]) -> Iterator[tuple[float, float, int, int]]:
    """Yield pieces of time with the number of intervals of either kind that cover them."""
    events = [event for n, kind in enumerate((first, second)) for a, b in kind for event in ((a, n, 1), (b, n, -1))]
    heapq.heapify(events)
    counts, before = [0, 0], 0.0
    while events:
        at, kind, change = heapq.heappop(events)
        if at > before and any(counts):
            yield before, at, counts[0], counts[1]
        before = at
        counts[kind] += change
