"""What all engines share: partitions are taken without waiting for the plan, and a run ends in bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus

POLL_S: Final = 0.1
"""Seconds after which an engine with room checks again for a partition that was not ready."""

STOP_CHECK_S: Final = 0.5
"""Seconds after which an engine without room checks whether it has to stop."""

STOP_GRACE_S: Final = 60.0
"""Seconds that running partitions have to end by themselves once the job has to stop. Workers notice an abort and a
lost lease within seconds, and a request to a store ends within 30 s."""

ABANDONED: Final = "partition_abandoned"
"""Error code of a partition that may still be running, so that its worker may still write."""


class Feed:
    """Partitions to run, taken without waiting for the plan.

    Args:
        partition_ids: Ids in the order in which they begin; None means that no partition is ready yet.
        should_stop: Returns True when the run has to end.
        clock: Returns monotonic time in seconds.
    """

    def __init__(
        self,
        partition_ids: Iterable[PartitionId | None],
        should_stop: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ids = iter(partition_ids)
        self._should_stop = should_stop
        self._clock = clock
        self._stopped_at: float | None = None
        self.has_more = True
        """False when no further partition will come."""
        self.is_idle = False
        """True when the last call of ``take`` found no partition that is ready."""

    def take(self) -> PartitionId | None:
        """Return the next partition; None when none is ready, or when there are no more."""
        if not self.has_more or self.stopped_s() is not None:
            self.has_more = self.is_idle = False
            return None
        try:
            partition_id = next(self._ids)
        except StopIteration:
            self.has_more = self.is_idle = False
            return None
        self.is_idle = partition_id is None
        return partition_id

    def stopped_s(self) -> float | None:
        """Return the seconds since the run had to stop; None while it goes on."""
        if self._stopped_at is None and self._should_stop():
            self._stopped_at = self._clock()
        return None if self._stopped_at is None else self._clock() - self._stopped_at

    @property
    def is_overdue(self) -> bool:
        """True when the run had to stop so long ago that the engine gives up on what still runs."""
        return (self.stopped_s() or 0.0) >= STOP_GRACE_S

    @property
    def wait_s(self) -> float:
        """Seconds to wait for a report before the feed is asked again."""
        return POLL_S if self.is_idle else STOP_CHECK_S


def canceled_report(partition_id: PartitionId) -> PartitionReport:
    """Return the report of a partition that its engine did not run to its end because the job has to stop."""
    error = TransientError("partition_canceled", "The engine ended this partition because the job has to stop.")
    return PartitionReport(partition_id, ReportStatus.RETRY, 0, error=error.record())


def abandoned_report(partition_id: PartitionId) -> PartitionReport:
    """Return the report of a partition that did not end within ``STOP_GRACE_S``; its worker may still write."""
    message = f"The partition still ran {STOP_GRACE_S:g} s after the job had to stop."
    return PartitionReport(partition_id, ReportStatus.RETRY, 0, error=TransientError(ABANDONED, message).record())


def is_abandoned(report: PartitionReport) -> bool:
    """True for a report of ``abandoned_report``."""
    return (report.error or {}).get("code") == ABANDONED
