"""The local engine: number of partitions at once, and a report for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines import local
from ingestion_engine.engines.feed import is_abandoned

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


def test_reports_are_taken_while_planning_is_slow() -> None:
    """A plan that has nothing ready does not keep the report of a partition that has ended."""
    done: list[str] = []

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        return PartitionReport(PartitionId(partition_id), ReportStatus.DONE, 1)

    def plan() -> Iterator[PartitionId | None]:
        yield PartitionId("p0")
        for _ in range(1000):
            if done:
                break
            yield None
        assert done == ["p0"]
        yield PartitionId("p1")

    for report in local.LocalEngine(WINDOW, process).run("file:///nowhere/jobs/j/spec.json", plan()):
        done.append(report.partition_id)
    assert done == ["p0", "p1"]


def test_a_partition_that_never_ends_is_abandoned_once_the_job_has_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver learns that a worker may still write, instead of waiting forever."""
    monkeypatch.setattr("ingestion_engine.engines.feed.STOP_GRACE_S", 0.0)
    release = threading.Event()

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        release.wait(30)
        return PartitionReport(PartitionId(partition_id), ReportStatus.DONE, 1)

    engine = local.LocalEngine(1, process)
    try:
        reports = list(engine.run("file:///nowhere/jobs/j/spec.json", [PartitionId("p0")], should_stop=is_true_later()))
    finally:
        release.set()
    assert [(report.partition_id, is_abandoned(report)) for report in reports] == [("p0", True)]


def is_true_later() -> Callable[[], bool]:
    """Return a function that is False when first called, and True from then on."""
    answers = iter([False])
    return lambda: next(answers, True)
