"""The rate window: exact in every second, also when its limit changes and for requests over the limit."""

from __future__ import annotations

import pytest

from ingestion_engine.gateway.scheduling.rate_window import RateWindow


def window(limit: float | None) -> RateWindow:
    return RateWindow(limit, guard_s=0.0)


def test_a_full_second_lets_nothing_through_until_the_oldest_texts_leave_it() -> None:
    """The window is (t - 1, t]: what was sent exactly one second ago is out of it."""
    texts = window(10)
    texts.add(6, 0.0)
    texts.add(4, 0.5)
    assert not texts.fits(1, 0.999)
    assert texts.free_at(1, 0.5) == 1.0
    assert texts.fits(6, 1.0)
    assert not texts.fits(7, 1.0)
    assert texts.free_at(7, 1.0) == 1.5


def test_the_guard_keeps_texts_in_the_window_for_longer() -> None:
    """Requests that reach a server at different speeds still meet its limit."""
    texts = RateWindow(1, guard_s=0.005)
    texts.add(1, 0.0)
    assert not texts.fits(1, 1.004)
    assert texts.fits(1, 1.005)


def test_texts_that_are_sent_late_count_from_then_on() -> None:
    """Whether they still count or not, they are in the second after their sending once, in the order of their times."""
    texts = window(10)
    slow, prompt = texts.add(6, 0.0), texts.add(4, 0.1)
    texts.move(prompt, 0.1)
    texts.move(slow, 0.4)
    assert (texts.used(1.0), texts.used(1.1), texts.used(1.4)) == (10, 6, 0)
    texts.move(slow, 2.0)
    assert (texts.used(2.0), texts.free_at(5, 2.0), texts.used(3.0)) == (6, 3.0, 0)


def test_a_request_over_the_limit_goes_alone_and_counts_for_its_whole_time() -> None:
    """The average holds although its own second does not."""
    texts = window(10)
    texts.add(1, 0.0)
    assert not texts.fits(35, 0.5)
    assert texts.free_at(35, 0.5) == 1.0
    assert texts.fits(35, 1.0)
    texts.add(35, 1.0)
    assert not texts.fits(1, 4.4)
    assert texts.fits(10, 4.5)


def test_a_limit_of_zero_lets_nothing_through_and_none_everything() -> None:
    """What was sent without a limit counts when there is one again."""
    texts = window(None)
    assert texts.fits(1_000, 0.0)
    texts.add(1_000, 0.0)
    texts.limit = 0
    assert not texts.fits(1, 5.0)
    assert not texts.fits(0, 5.0)
    assert texts.free_at(1, 5.0) is None
    texts.limit = 2_000
    texts.add(500, 0.5)
    assert texts.used(0.9) == 1_500
    assert texts.used(1.0) == 500


def test_a_lowered_limit_waits_until_less_was_sent() -> None:
    """Nothing is sent while the last second has more than the new limit."""
    texts = window(10)
    texts.add(5, 0.0)
    texts.add(5, 0.5)
    texts.limit = 4
    assert texts.free_at(1, 0.5) == 1.5
    assert not texts.fits(1, 1.0)


def test_a_raised_limit_is_free_at_once_after_a_request_over_the_old_one() -> None:
    """Later requests leave the window in their own time."""
    texts = window(2)
    texts.add(20, 0.0)
    texts.limit = 100
    texts.add(80, 1.0)
    assert texts.used(2.0) == 20
    assert texts.used(10.0) == 0


@pytest.mark.parametrize(("size", "spare"), [(3, 2), (4, 2), (5, 1), (6, 0), (7, 2), (9, 1), (10, 0), (11, 0)])
def test_spare_texts_are_those_that_do_not_delay_the_waiting_request(size: int, spare: int) -> None:
    """At the time when the waiting request fits, so many others fit beside it; at most what is free now."""
    texts = window(10)
    texts.add(4, 0.0)
    texts.add(4, 0.5)
    assert texts.spare(size, 0.75) == spare


def test_texts_count_as_long_as_they_are_not_sent() -> None:
    """A connection that takes a second and a half to open does not add its texts to those of another second."""
    texts = window(10)
    entry = texts.add(10, 0.0, held=True)
    assert texts.free_at(1, 0.5) == 1.0
    assert not texts.fits(1, 1.0)
    texts.move(entry, 1.5)
    assert not texts.fits(1, 2.4)
    assert texts.fits(10, 2.5)
    entry = texts.add(10, 2.5, held=True)
    assert not texts.fits(1, 9.0)
    entry.held = False
    assert texts.fits(10, 10.0)
