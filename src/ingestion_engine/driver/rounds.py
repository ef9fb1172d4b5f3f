"""Rounds: run partitions on an engine until each has a report, despite dead processes and outages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ingestion_engine.domain.errors import FatalError, read_fatal_record
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.records import (
    Action,
    ObjectRef,
    ObjectResult,
    Outcome,
    PartitionReport,
    PlanItem,
    PlannedObject,
    ReportStatus,
    StraySearch,
)
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.ledger_writer import LedgerWriter
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import OutageBackoff
from ingestion_engine.driver.plan.plan_thread import SegmentNames
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

DEATHS_ALLOWED = 2
"""A partition that has killed this many processes is split into single objects; an object that kills alone fails."""


class Rounds:
    """Runs partitions for one driver.

    Args:
        run_partitions: Runs partitions of the job on its engine and yields their reports.
        ledger: Ledger of the job.
        segments: Names for new plan segments.
        counts: Counts that every report updates.
        writer: Receives every report.
        monitor: Reports when the job must stop.
        outages: Back-off of the driver.
        on_done: Called after every finished partition; may stop the job through the monitor.
    """

    def __init__(
        self,
        run_partitions: Callable[[Iterable[PartitionId]], Iterator[PartitionReport]],
        ledger: Ledger,
        segments: SegmentNames,
        *,
        counts: Counts,
        writer: LedgerWriter,
        monitor: Monitor,
        outages: OutageBackoff,
        on_done: Callable[[], None],
    ) -> None:
        self._run_partitions = run_partitions
        self._ledger = ledger
        self._segments = segments
        self._counts = counts
        self._writer = writer
        self._monitor = monitor
        self._outages = outages
        self._on_done = on_done
        self._deaths: dict[PartitionId, int] = {}
        self._begun: dict[PartitionId, int] = {}
        """Number of pauses before each running partition began: its failure may belong to an outage that is over."""

    def run(self, partition_ids: Iterator[PartitionId]) -> None:
        """Run partitions until each has a report; partitions that were returned run again in the next round.

        Raises:
            FatalError: what stopped the job; no partition is running any more.
        """
        ids: Iterable[PartitionId] = partition_ids
        while True:
            again: list[PartitionId] = []
            reports = self._run_partitions(self._feed(ids))
            try:
                for report in reports:
                    again += self._take(report)
            except FatalError as error:
                self._monitor.stop(error)
                self._drain(reports)
                raise
            self._monitor.check()
            if not again:
                return
            ids = again

    def _drain(self, reports: Iterator[PartitionReport]) -> None:
        """Wait for the partitions that are still running; afterwards no worker of this attempt writes anything."""
        for report in reports:
            if report.status is ReportStatus.DONE:
                self._counts.add_report(report)
                self._writer.add_late(report)
            else:
                self._counts.add_returned(report)

    def _feed(self, ids: Iterable[PartitionId]) -> Iterator[PartitionId]:
        """Yield partitions until the job has to stop; wait during an outage."""
        for partition_id in ids:
            self._outages.wait()
            if self._monitor.should_stop():
                return
            self._monitor.resume()
            self._begun[partition_id] = self._outages.step
            yield partition_id

    def _take(self, report: PartitionReport) -> list[PartitionId]:
        """Process one report; return the partitions to run in the next round because of it."""
        began_at_step = self._begun.pop(report.partition_id, None)
        if report.status is ReportStatus.DONE:
            self._outages.reset(began_at_step)
            self._deaths.pop(report.partition_id, None)
            self._counts.add_report(report)
            self._writer.add(report)
            self._on_done()
            return []
        self._counts.add_returned(report)
        error = report.error or {}
        if report.status is ReportStatus.FATAL:
            self._monitor.stop(read_fatal_record(error))
            return []
        self._counts.partitions_repeated += 1
        if not report.process_died:
            self._outages.back_off(
                str(error.get("message", "")),
                (error.get("context") or {}).get("retry_after_s"),
                code=str(error.get("code", "")),
                began_at_step=began_at_step,
            )
            return [report.partition_id]
        deaths = self._deaths[report.partition_id] = self._deaths.get(report.partition_id, 0) + 1
        log.warning("partition ended without a report", extra={"partition": report.partition_id, "deaths": deaths})
        if deaths < DEATHS_ALLOWED:
            return [report.partition_id]
        return self._take_apart(report)

    def _take_apart(self, report: PartitionReport) -> list[PartitionId]:
        """Split a partition that kills its process into single objects; a single object that kills it has failed."""
        partition = self._outages.retry_until_available(lambda: self._ledger.read_partition(report.partition_id))
        items = partition.items
        if len(items) > 1:
            name = self._segments.make(report.partition_id.kind)
            ids = self._outages.retry_until_available(
                lambda: self._ledger.write_plan_segment(name, [(item,) for item in items])
            )
            self._counts.add_partitions(len(ids) - 1)
            return ids
        failed = _blame(items[0], str((report.error or {}).get("message", "")))
        epoch = self._monitor.lease.epoch if self._monitor.lease is not None else 0
        verdict = PartitionReport(report.partition_id, ReportStatus.DONE, epoch, results=(failed,))
        self._outages.retry_until_available(lambda: self._ledger.create_report(verdict))
        return self._take(verdict)


def _blame(item: PlanItem, last_error: str) -> ObjectResult:
    """Return the failure of an item that kills its worker when it is processed alone."""
    if isinstance(item, StraySearch):
        item = PlannedObject(ObjectRef(item.bucket, item.label, "", size_bytes=0, last_modified=""), Action.VERIFY)
    ref = item.ref
    return ObjectResult(
        key=ref.key,
        outcome=Outcome.FAILED,
        etag=ref.etag,
        size_bytes=ref.size_bytes,
        last_modified=ref.last_modified,
        object_id=make_object_id(ref.bucket, ref.key),
        chunk_count=item.prior_chunks,
        points_digest=item.prior_digest,
        vectors_digest=item.prior_vectors,
        error_code="kills_worker",
        reason=f"Processing this object alone ended its worker {DEATHS_ALLOWED} times. Last error: {last_error}",
    )
