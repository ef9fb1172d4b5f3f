"""The adaptive limit for any sequence of requests and outcomes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestion_engine.runtime.adaptive_limit import AdaptiveLimit, Outcome, Passage

steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "wait"]),
        st.integers(0, 30_000),
        st.sampled_from([*Outcome, Outcome.DONE, Outcome.DONE]),
        st.floats(0.0, 40.0),
    ),
    max_size=300,
)


@given(steps, st.integers(1, 40), st.none() | st.integers(1, 20))
def test_bounds_hold_and_nobody_waits_for_ever(
    steps: list[tuple[str, int, Outcome, float]], most: int, capacity: int | None
) -> None:
    """The limit stays between one and its bounds, requests are counted exactly, and with none in flight there is room,
    at the latest when the abandoned ones have ended.
    """
    now = 0.0
    limit = AdaptiveLimit(most=most, capacity=capacity, clock=lambda: now)
    held: list[Passage] = []
    for kind, number, outcome, seconds in steps:
        if kind == "begin" and (limit.room > 0 or number % 10 == 0):  # some are urgent
            held.append(limit.begin(number))
        elif kind == "end" and held:
            limit.end(held.pop(number % len(held)), outcome)
        elif kind == "wait":
            now += seconds
        assert 1 <= limit.limit <= min(most, 2 * capacity if capacity else most)
        assert limit.in_flight == len(held) <= limit.running
        if limit.running == 0:
            assert limit.room > 0
        elif not held:
            assert limit.room > 0 or now < limit.next_change_at <= now + 30
