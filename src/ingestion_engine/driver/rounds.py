"""Rounds: running partitions on an engine until each has a report, whatever happens to processes and dependencies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ingestion_engine.domain.errors import FatalError, JobAborted, LeaseLost
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.ports import Engine
from ingestion_engine.domain.records import ObjectResult, Outcome, PartitionReport, ReportStatus
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.ledger_writer import LedgerWriter
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import OutageBackoff
from ingestion_engine.driver.plan.diff import kind_of, segment_name
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

DEATHS_ALLOWED = 2
"""A partition that ended its process so often is taken apart; an object that does it alone fails."""


class Rounds:
    """Runs partitions for one driver.

    Args:
        engine: Where they run.
        spec_uri: Of the job.
        attempt: The driver's.
        ledger: The job's.
        monitor: Says when to stop.
        counts: Updated by every report.
        writer: Takes every report.
        outages: Says when to pause.
        numbers: Numbers for new plan segments.
        on_done: Called after every finished partition; may stop the job through the monitor.
    """

    def __init__(
        self,
        engine: Engine,
        spec_uri: str,
        attempt: int,
        ledger: Ledger,
        monitor: Monitor,
        counts: Counts,
        writer: LedgerWriter,
        outages: OutageBackoff,
        numbers: Iterator[int],
        on_done: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._spec_uri = spec_uri
        self._attempt = attempt
        self._ledger = ledger
        self._monitor = monitor
        self._counts = counts
        self._writer = writer
        self._outages = outages
        self._numbers = numbers
        self._on_done = on_done
        self._deaths: dict[PartitionId, int] = {}

    def run(self, partition_ids: Iterator[PartitionId]) -> None:
        """Run partitions until each has a report; those put back run again in the next round.

        Raises:
            FatalError: what stopped the job; nothing is running any more when it is raised.
        """
        ids: Iterable[PartitionId] = partition_ids
        while True:
            again: list[PartitionId] = []
            reports = self._engine.run(self._spec_uri, self._feed(ids))
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
        """Wait for what still runs; after this no worker of this attempt writes anything."""
        for report in reports:
            if report.status is ReportStatus.DONE:
                self._counts.add_report(report)
                self._writer.add_late(report)

    def _feed(self, ids: Iterable[PartitionId]) -> Iterator[PartitionId]:
        """Hand out partitions while the job goes on; wait while an outage lasts."""
        for partition_id in ids:
            self._outages.wait()
            if self._monitor.should_stop():
                return
            self._monitor.resume()
            yield partition_id

    def _take(self, report: PartitionReport) -> list[PartitionId]:
        """Account for one report; return the partitions to run (again) in its place."""
        if report.status is ReportStatus.DONE:
            self._outages.reset()
            self._deaths.pop(report.partition_id, None)
            self._counts.add_report(report)
            self._writer.add(report)
            self._on_done()
            return []
        error = report.error or {}
        if report.status is ReportStatus.FATAL:
            self._monitor.stop(_revive(error))
            return []
        self._counts.partitions_repeated += 1
        if not report.process_died:
            self._outages.back_off(str(error.get("message", "")), (error.get("context") or {}).get("retry_after_s"))
            return [report.partition_id]
        deaths = self._deaths[report.partition_id] = self._deaths.get(report.partition_id, 0) + 1
        log.warning("a partition ended without a report", extra={"partition": report.partition_id, "deaths": deaths})
        if deaths < DEATHS_ALLOWED:
            return [report.partition_id]
        return self._take_apart(report)

    def _take_apart(self, report: PartitionReport) -> list[PartitionId]:
        """Rerun a deadly partition object by object; an object that is deadly alone has failed."""
        partition = self._outages.retry_until_available(lambda: self._ledger.read_partition(report.partition_id))
        kind = kind_of(report.partition_id)
        if len(partition.objects) > 1:
            name = segment_name(self._attempt, kind, next(self._numbers))
            ids = self._outages.retry_until_available(
                lambda: self._ledger.write_plan_segment(name, [(o,) for o in partition.objects])
            )
            self._counts.partitions_planned += len(ids) - 1
            return ids
        planned = partition.objects[0]
        last_words = (report.error or {}).get("message", "")
        failed = ObjectResult(
            planned.ref.key,
            Outcome.FAILED,
            planned.ref.etag,
            planned.ref.size_bytes,
            planned.ref.last_modified,
            make_object_id(planned.ref.bucket, planned.ref.key),
            planned.prior_chunks,
            planned.prior_digest,
            planned.prior_vectors,
            error_code="kills_worker",
            reason=f"Processing this object alone ended its worker {DEATHS_ALLOWED} times. Last: {last_words}",
        )
        epoch = self._monitor.lease.epoch if self._monitor.lease is not None else 0
        verdict = PartitionReport(report.partition_id, ReportStatus.DONE, epoch, (failed,))
        self._outages.retry_until_available(lambda: self._ledger.create_report(verdict))
        return self._take(verdict)


def _revive(record: dict[str, Any] | Any) -> FatalError:
    """The worker's error, of the class that the driver reacts to."""
    kinds: dict[str, type[FatalError]] = {"lease_lost": LeaseLost, "job_aborted": JobAborted}
    code = str(record.get("code", "unexpected_error"))
    kind = kinds.get(code, FatalError)
    return kind(code, str(record.get("message", "")), hint=str(record.get("hint", "")), **(record.get("context") or {}))
