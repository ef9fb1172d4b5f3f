"""The analysis of an embedder's log finds what a gateway must not do, to the request and the millisecond."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from request_log import (
    NEVER,
    Served,
    busy_share,
    idle_share,
    longest_lag,
    most_in_flight,
    most_texts,
    rate,
    read_log,
    worst_shares,
)


def request(arrived: float, ended: float, *, flow: str = "a", texts: int = 5, server: int = 1) -> Served:
    return Served(server, flow, arrived, arrived, ended, texts, texts * 100)


def alternating(flows: str, *, until: float, step: float = 0.1) -> Iterator[Served]:
    """Requests of 5 texts, one every ``step`` seconds, of each flow in turn."""
    for number in range(round(until / step)):
        yield request(number * step, number * step + step, flow=flows[number % len(flows)])


def test_a_request_that_arrives_when_another_ends_is_not_beside_it() -> None:
    """Intervals are half-open: two at once, then two again, are never three."""
    served = [request(0.0, 1.0), request(0.5, 2.0), request(1.0, 3.0)]
    assert most_in_flight(served) == 2
    assert most_in_flight([*served, request(1.9, 2.1)]) == 3
    assert most_in_flight([request(0.0, NEVER), request(5.0, 6.0)]) == 2


def test_the_fullest_second_is_found_wherever_it_begins() -> None:
    """Five texts every eighth of a second are 40 in every window, and one request a millisecond early makes 45."""
    steady = [request(0.0625 + number * 0.125, 9.0) for number in range(24)]
    assert most_texts(steady) == 40
    assert most_texts([*steady, request(3.0615, 9.0)]) == 45
    assert most_texts([*steady, request(3.0625, 9.0)]) == 40


def test_only_time_in_which_both_caps_allow_a_request_is_idle() -> None:
    """Two in flight are the cap; after one ends at 0.5 s a place is empty until the third comes at 0.7 s."""
    served = [request(0.0, 0.5), request(0.0, 1.0), request(0.7, 1.0)]
    assert idle_share(served, 0.0, 1.0, in_flight=2, texts_per_s=100, texts=5) == pytest.approx(0.2)
    assert idle_share(served, 0.0, 1.0, in_flight=2, texts_per_s=10, texts=5) == pytest.approx(0.0)


def test_a_text_counts_for_one_second_after_its_arrival() -> None:
    """With ten texts a second, ten at once allow the next ones a second later; they come 0.1 s too late."""
    served = [request(0.0, 0.1), request(0.0, 0.1), request(1.1, 1.2)]
    assert idle_share(served, 0.0, 2.0, in_flight=4, texts_per_s=10, texts=5) == pytest.approx(1.0 / 2)
    assert idle_share(served, 0.0, 1.1, in_flight=4, texts_per_s=10, texts=5) == pytest.approx(0.1 / 1.1)


def test_busy_share_and_rate_count_the_span_only() -> None:
    """A request that began before the span, or ends after it, counts with its part in it."""
    served = [request(0.0, 2.0), request(3.0, 5.0)]
    assert busy_share(served, 1.0, 4.0, slots=1) == pytest.approx(2 / 3)
    assert busy_share(served, 1.0, 4.0, slots=2) == pytest.approx(1 / 3)
    assert rate(served, 1.0, 4.0) == pytest.approx(5 / 3)


def test_shares_are_compared_with_weights_in_the_worst_window() -> None:
    """Turns in equal parts fit equal weights and miss others; one window in which a flow waits is enough."""
    fair = list(alternating("ab", until=30.0))
    assert max(worst_shares(fair, {"a": 5, "b": 5}, 0.0, 30.0).values()) == pytest.approx(0.0, abs=0.02)
    assert worst_shares(fair, {"a": 10, "b": 5}, 0.0, 30.0)["b"] == pytest.approx(0.5, abs=0.02)
    held_up = [one for one in fair if one.flow == "a" or not 12.0 <= one.arrived < 17.0]
    assert worst_shares(held_up, {"a": 5, "b": 5}, 0.0, 30.0)["b"] > 0.3


def test_a_late_flow_is_as_far_behind_as_its_first_request_is_late() -> None:
    """One that gets its turns at once is hardly behind; one that waits three seconds is three seconds behind."""
    at_once = [*alternating("a", until=10.0), *(request(10 + t.arrived, 10 + t.ended, flow=t.flow)
                                               for t in alternating("ab", until=10.0))]  # fmt: skip
    assert longest_lag(at_once, "b", 10.0, 20.0, share=0.5) == pytest.approx(0.1, abs=0.15)
    late = [one for one in at_once if one.flow == "a" or one.arrived >= 13.0]
    assert longest_lag(late, "b", 10.0, 20.0, share=0.5) >= 3.0
    assert longest_lag(late, "nobody", 10.0, 20.0, share=0.5) == pytest.approx(10.0)


def test_a_request_that_has_not_ended_is_read_as_one_that_never_does() -> None:
    """``null`` in the log means under way; requests are sorted by their arrival."""
    one = {"port": 8001, "flow": "a", "arrived": 2.0, "started": None, "ended": None, "texts": 3, "chars": 30}
    before = {**one, "arrived": 1.0, "started": 1.0, "ended": 1.5, "status": 200}
    read = read_log([{**one, "status": None}, before])
    assert [(each.arrived, each.ended, each.status) for each in read] == [(1.0, 1.5, 200), (2.0, NEVER, 0)]
