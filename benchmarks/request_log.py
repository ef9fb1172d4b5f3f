"""What an embedder's own log of requests says: how many at once, how many texts in a second, who got which share.

Everything is pure. Times are seconds of one monotonic clock; intervals are half-open.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Served:
    """One request as a server saw it."""

    server: int
    """Port of the server."""
    flow: str
    arrived: float
    started: float
    ended: float
    texts: int
    chars: int
    status: int = 200


def read_log(requests: Iterable[Mapping[str, object]]) -> list[Served]:
    """Return the requests of ``GET /sim/log`` by their arrival; one that has not ended ends never."""
    found = [
        Served(
            server=int(str(one["port"])),
            flow=str(one["flow"]),
            arrived=_time(one["arrived"]),
            started=_time(one["started"]),
            ended=_time(one["ended"]),
            texts=int(str(one["texts"])),
            chars=int(str(one["chars"])),
            status=int(str(one["status"] or 0)),
        )
        for one in requests
    ]
    return sorted(found, key=lambda one: one.arrived)


def _time(value: object) -> float:
    return NEVER if value is None else float(str(value))


def most_in_flight(served: Iterable[Served]) -> int:
    """Return the highest number of requests that were at the servers at one instant."""
    now = most = 0
    for _, step in sorted(itertools.chain.from_iterable(((one.arrived, 1), (one.ended, -1)) for one in served)):
        now += step
        most = max(most, now)
    return most


def most_texts(served: Iterable[Served], window_s: float = 1.0) -> int:
    """Return the highest number of texts that arrived within any window of this length."""
    ordered = sorted(served, key=lambda one: one.arrived)
    most = texts = first = 0
    for one in ordered:
        texts += one.texts
        while ordered[first].arrived <= one.arrived - window_s:
            texts -= ordered[first].texts
            first += 1
        most = max(most, texts)
    return most


def idle_share(
    served: Sequence[Served], start: float, end: float, *, in_flight: int, texts_per_s: float, texts: int
) -> float:
    """Return the share of a span in which one more request was allowed, while one waited at all times.

    Args:
        served: All requests, also those of the second before the span.
        start: Start of the span, in which requests wait at every instant.
        end: End of the span.
        in_flight: Cap of the requests in flight.
        texts_per_s: Cap of the texts that arrive within a second.
        texts: Texts of the requests that wait.
    """
    steps = []
    for one in served:
        steps += [(one.arrived, 1, one.texts), (one.ended, -1, 0), (one.arrived + 1.0, 0, -one.texts)]
    steps.sort()
    idle, at, flying, recent = 0.0, start, 0, 0
    for moment, more, fresh in steps:
        until = min(moment, end)
        if until > at:
            if flying < in_flight and recent + texts <= texts_per_s:
                idle += until - at
            at = until
        flying += more
        recent += fresh
    return idle / (end - start)


def busy_share(served: Iterable[Served], start: float, end: float, *, slots: int) -> float:
    """Return the share of the slots' time in a span during which they worked on a request."""
    busy = sum(max(0.0, min(one.ended, end) - max(one.started, start)) for one in served if one.started < end)
    return busy / (slots * (end - start))


def rate(served: Iterable[Served], start: float, end: float) -> float:
    """Return the texts per second that were answered within a span; a request is spread over its service time."""
    texts = 0.0
    for one in served:
        if one.status == 200 and one.ended > one.started:
            texts += one.texts * max(0.0, min(one.ended, end) - max(one.started, start)) / (one.ended - one.started)
    return texts / (end - start)


def worst_shares(
    served: Sequence[Served], weights: Mapping[str, float], start: float, end: float, *, window_s: float = 10.0
) -> dict[str, float]:
    """Return, for each flow, how far its share of the characters was from its weight in the worst window.

    0.1 means that in some window of this length the flow got 10 % more or less than its weight among ``weights``
    gives. All flows have work during the whole span.
    """
    total = sum(weights.values())
    ordered = sorted((one for one in served if one.flow in weights), key=lambda one: one.arrived)
    times = [one.arrived for one in ordered]
    sums = {flow: [0] for flow in weights}
    for one in ordered:
        for flow, running in sums.items():
            running.append(running[-1] + (one.chars if flow == one.flow else 0))
    worst = dict.fromkeys(weights, 0.0)
    moments = [start, *(time for time in times if start <= time <= end - window_s)]
    for moment in moments:
        first, last = bisect.bisect_left(times, moment), bisect.bisect_left(times, moment + window_s)
        got = {flow: running[last] - running[first] for flow, running in sums.items()}
        whole = sum(got.values())
        for flow, weight in weights.items():
            worst[flow] = max(worst[flow], abs(got[flow] * total / (whole * weight) - 1) if whole else 1.0)
    return worst


def longest_lag(served: Iterable[Served], flow: str, joined: float, until: float, *, share: float) -> float:
    """Return how many seconds a flow was behind its share at most, from the moment it joined.

    Its ideal service is ``share`` of all characters that arrive after ``joined``, at their mean rate.
    """
    ordered = sorted((one for one in served if joined <= one.arrived < until), key=lambda one: one.arrived)
    fair = share * sum(one.chars for one in ordered) / (until - joined)
    got, lag = 0.0, 0.0
    for one in ordered:
        if one.flow == flow:
            lag = max(lag, one.arrived - joined - got / fair)
            got += one.chars
    return max(lag, until - joined - got / fair) if fair else until - joined
