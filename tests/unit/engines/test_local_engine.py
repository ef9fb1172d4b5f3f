"""The local engine: number of partitions at once, and a report for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines import local

WINDOW = 2


def test_partitions_run_at_once_within_the_window() -> None:
    """The window and one more run at once, never more; none is taken early, none is lost."""
    together = threading.Barrier(WINDOW + local.AHEAD_PARTITIONS)
    lock = threading.Lock()
    running: set[str] = set()
    most_running = 0

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        nonlocal most_running
        with lock:
            running.add(partition_id)
            most_running = max(most_running, len(running))
        together.wait(timeout=30)
        with lock:
            running.remove(partition_id)
        return PartitionReport(PartitionId(partition_id), ReportStatus.DONE, 1)

    pulled: list[PartitionId] = []

    def plan() -> Iterator[PartitionId]:
        for number in range(9):
            assert len(pulled) - len(reports) <= WINDOW + local.AHEAD_PARTITIONS
            pulled.append(PartitionId(f"p{number}"))
            yield pulled[-1]

    reports: list[PartitionReport] = []
    for report in local.LocalEngine(WINDOW, process).run("file:///nowhere/jobs/j/spec.json", plan()):
        reports.append(report)
    assert sorted(report.partition_id for report in reports) == pulled
    assert most_running == WINDOW + local.AHEAD_PARTITIONS


def test_a_defect_at_the_seam_ends_the_driver() -> None:
    """An exception that a partition must not raise reaches the driver, which does not hang."""

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        raise SystemExit(partition_id)

    with pytest.raises(SystemExit, match="p0"):
        list(local.LocalEngine(1, process).run("file:///nowhere/jobs/j/spec.json", [PartitionId("p0")]))
