"""What engines share: partitions are taken without waiting, and a run that has to stop ends in bounded time."""

from __future__ import annotations

from collections.abc import Iterator

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.engines.feed import POLL_S, STOP_CHECK_S, STOP_GRACE_S, Feed

ONE, TWO = PartitionId("p1"), PartitionId("p2")


def test_a_partition_that_is_not_ready_does_not_hold_the_engine_up() -> None:
    """The engine gets nothing now, and asks again soon."""
    feed = Feed([ONE, None, TWO], lambda: False)
    assert (feed.take(), feed.is_idle) == (ONE, False)
    assert (feed.take(), feed.is_idle, feed.has_more, feed.wait_s) == (None, True, True, POLL_S)
    assert (feed.take(), feed.wait_s) == (TWO, STOP_CHECK_S)
    assert (feed.take(), feed.has_more) == (None, False)


def test_a_run_that_has_to_stop_takes_nothing_more_and_ends_in_time() -> None:
    """What runs has its grace; afterwards the run is overdue."""
    now = [100.0]
    stopping = [False]

    def ids() -> Iterator[PartitionId]:
        yield ONE
        raise AssertionError("nothing is taken after the stop")

    feed = Feed(ids(), lambda: stopping[0], clock=lambda: now[0])
    assert feed.take() == ONE
    assert feed.stopped_s() is None
    stopping[0] = True
    assert (feed.take(), feed.has_more) == (None, False)
    now[0] += STOP_GRACE_S - 1
    assert not feed.is_overdue
    now[0] += 1
    assert feed.is_overdue
