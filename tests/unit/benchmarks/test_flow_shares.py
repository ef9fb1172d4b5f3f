"""The analysis of the servers' record finds what a gateway must not do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from embed_log import Outcome, Record
from flow_shares import idle_capacity, longest_lag, rate, worst_shares


def record(arrival: float, end: float, *, flow: str = "a", outcome: Outcome = Outcome.ANSWERED) -> Record:
    return Record(0, 0, arrival, arrival, end, 5, 500, 5, outcome, flow)


def turns(flows: str, *, since: float = 0.0, seconds: float) -> Iterator[Record]:
    """Ten requests of 5 texts per second, of each flow in turn."""
    for number in range(round(seconds * 10)):
        yield record(since + number * 0.1, since + number * 0.1 + 0.1, flow=flows[number % len(flows)])


def test_only_capacity_that_both_caps_leave_is_idle() -> None:
    """Two in flight are the cap; after one ends at 0.5 s half of it is empty until the third comes at 0.7 s."""
    records = [record(0.0, 0.5), record(0.0, 1.0), record(0.7, 1.0)]
    assert idle_capacity(records, (0.0, 1.0), in_flight=2, texts_per_s=100, texts=5) == pytest.approx(0.1)
    assert idle_capacity(records, (0.0, 1.0), in_flight=2, texts_per_s=10, texts=5) == pytest.approx(0.0)


def test_a_text_counts_for_one_second_after_its_arrival() -> None:
    """With ten texts a second, ten at once allow the next ones a second later; they come 0.1 s too late."""
    records = [record(0.0, 0.1), record(0.0, 0.1), record(1.1, 1.2)]
    assert idle_capacity(records, (0.0, 1.1), in_flight=4, texts_per_s=10, texts=5) == pytest.approx(0.1 / 1.1)
    after = idle_capacity(records, (0.0, 2.0), in_flight=4, texts_per_s=10, texts=5)
    assert after == pytest.approx((0.1 + 0.9 / 2) / 2.0)


def test_the_rate_counts_answered_texts_and_the_span_only() -> None:
    """A request that began before the span, or ends after it, counts with its part in it; a failed one does not."""
    records = [record(0.0, 2.0), record(3.0, 5.0), record(2.0, 3.0, outcome=Outcome.FAILED)]
    assert rate(records, (1.0, 4.0)) == pytest.approx(5 / 3)


def test_shares_are_compared_with_weights_in_the_worst_window() -> None:
    """Turns in equal parts fit equal weights and miss others; one window in which a flow waits is enough."""
    fair = list(turns("ab", seconds=30.0))
    assert max(worst_shares(fair, {"a": 5, "b": 5}, (0.0, 30.0)).values()) == pytest.approx(0.0, abs=0.02)
    assert worst_shares(fair, {"a": 10, "b": 5}, (0.0, 30.0))["b"] == pytest.approx(0.5, abs=0.02)
    held_up = [one for one in fair if one.flow == "a" or not 12.0 <= one.arrival < 17.0]
    assert worst_shares(held_up, {"a": 5, "b": 5}, (0.0, 30.0))["b"] > 0.3


def test_a_late_flow_is_as_far_behind_as_its_first_request_is_late() -> None:
    """One that gets its turns at once is hardly behind; one that waits three seconds is three seconds behind."""
    at_once = [*turns("a", seconds=10.0), *turns("ab", since=10.0, seconds=10.0)]
    assert longest_lag(at_once, "b", (10.0, 20.0), share=0.5) == pytest.approx(0.1, abs=0.15)
    late = [one for one in at_once if one.flow == "a" or one.arrival >= 13.0]
    assert longest_lag(late, "b", (10.0, 20.0), share=0.5) >= 3.0
    assert longest_lag(late, "nobody", (10.0, 20.0), share=0.5) == pytest.approx(10.0)
