"""What the record of simulated servers says of flows: idle capacity, rates, who got which share, and how late.

Beside ``embed_log``; everything is pure. Times are seconds of the monotonic clock.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence

from embed_log import Interval, Outcome, Record

NEVER = float("inf")


def idle_capacity(
    records: Sequence[Record], span: Interval, *, in_flight: int, texts_per_s: float, texts: int
) -> float:
    """Return the share of the capacity of a span that was unused, while a request waited at all times.

    Capacity is unused while both caps allow one more request: the smaller of the shares of both that are free.

    Args:
        records: All requests, also those of the second before the span.
        span: Time in which requests wait at every instant.
        in_flight: Cap of the requests in flight.
        texts_per_s: Cap of the texts that arrive within a second.
        texts: Texts of the requests that wait.
    """
    steps = []
    for one in records:
        steps += [(one.arrival, 1, one.texts), (one.end, -1, 0), (one.arrival + 1.0, 0, -one.texts)]
    steps.sort()
    start, end = span
    idle, at, flying, recent = 0.0, start, 0, 0
    for moment, more, fresh in [*steps, (NEVER, 0, 0)]:
        until = min(moment, end)
        if until > at:
            if flying < in_flight and recent + texts <= texts_per_s:
                idle += (until - at) * min(1 - flying / in_flight, 1 - recent / texts_per_s)
            at = until
        flying += more
        recent += fresh
    return idle / (end - start)


def rate(records: Iterable[Record], span: Interval) -> float:
    """Return the texts per second that were embedded within a span; a request is spread over its work."""
    start, end = span
    texts = 0.0
    for one in records:
        if one.outcome is Outcome.ANSWERED and one.start is not None and one.end > one.start:
            texts += one.texts * max(0.0, min(one.end, end) - max(one.start, start)) / (one.end - one.start)
    return texts / (end - start)


def worst_shares(
    records: Iterable[Record], weights: Mapping[str, float], span: Interval, *, window_s: float = 10.0
) -> dict[str, float]:
    """Return, for each flow, how far its share of the characters was from its weight in the worst window.

    0.1 means that in some window of this length the flow got 10 % more or less than its weight among ``weights``
    gives. All flows have work during the whole span.
    """
    total = sum(weights.values())
    ordered = sorted((one for one in records if one.flow in weights), key=lambda one: one.arrival)
    times = [one.arrival for one in ordered]
    sums = {flow: [0] for flow in weights}
    for one in ordered:
        for flow, running in sums.items():
            running.append(running[-1] + (one.chars if flow == one.flow else 0))
    worst = dict.fromkeys(weights, 0.0)
    start, end = span
    for moment in [start, *(time for time in times if start <= time <= end - window_s)]:
        first, last = bisect.bisect_left(times, moment), bisect.bisect_left(times, moment + window_s)
        got = {flow: running[last] - running[first] for flow, running in sums.items()}
        whole = sum(got.values())
        for flow, weight in weights.items():
            worst[flow] = max(worst[flow], abs(got[flow] * total / (whole * weight) - 1) if whole else 1.0)
    return worst


def longest_lag(records: Iterable[Record], flow: str, span: Interval, *, share: float) -> float:
    """Return how many seconds a flow was behind its share at most, from the moment it joined.

    Its ideal service is ``share`` of all characters that arrive within the span, at their mean rate.

    Args:
        records: All requests.
        flow: The flow.
        span: From the moment it joined, while it has work.
        share: Its weight divided by those of all flows.
    """
    start, end = span
    ordered = sorted((one for one in records if start <= one.arrival < end), key=lambda one: one.arrival)
    fair = share * sum(one.chars for one in ordered) / (end - start)
    if not fair:
        return end - start
    got, lag = 0, 0.0
    for one in ordered:
        if one.flow == flow:
            lag = max(lag, one.arrival - start - got / fair)
            got += one.chars
    return max(lag, end - start - got / fair)
