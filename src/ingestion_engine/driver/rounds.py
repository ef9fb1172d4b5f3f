"""Rounds: run partitions on an engine until each has a report, despite dead processes and outages.

What a partition without a result means depends on what failed:

- A dependency, a node, or the way to them: the driver pauses, and the partition runs again. No object is blamed.
- The process of the partition, or an unexpected error in it: the partition runs again, then its objects run one by one.
  An object that fails so again while no other partition is running has failed.
- Most partitions in a row, without one that succeeds: the job stops with the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ingestion_engine.domain.errors import FatalError, TransientError, read_fatal_record
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.records import (
    FAILED_BEFORE,
    UNEXPECTED_ERROR,
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
from ingestion_engine.driver.plan.diff import KILLS_WORKER
from ingestion_engine.driver.plan.plan_thread import SegmentNames
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

DEATHS_ALLOWED = 2
"""A partition that has killed this many processes is split into single objects; an object that kills alone fails."""
PAUSE_AFTER_DEATHS = 3
"""Deaths in a row after which the driver pauses: one bad object alone causes two before others get their turn."""
MOST_DEATHS = 8
"""Deaths in a row after which the job stops: with the pauses between them, about three minutes (a guess)."""
PARTITIONS_BLAMED = 3
"""Planned partitions among ``MOST_DEATHS`` deaths for which their objects cannot be the cause, once one was done."""


@dataclass(slots=True)
class _Deaths:
    """Processes that died, by partition, and since the last partition that was done."""

    of_partition: dict[PartitionId, int] = field(default_factory=dict)
    events: int = 0
    """Deaths so far; deaths of partitions that ran at the same time are one event."""
    origin: dict[PartitionId, PartitionId] = field(default_factory=dict)
    """The planned partition that a partition is a part of, where that is another one."""
    in_a_row: int = 0
    origins_in_a_row: set[PartitionId] = field(default_factory=set)
    has_done: bool = False
    """True once a partition was done in this attempt."""

    def add(self, partition_id: PartitionId, begun_after: int) -> int:
        """Count a death of a partition that began after some events; return how many the partition has caused."""
        if begun_after == self.events:
            self.events += 1
            self.in_a_row += 1
        self.origins_in_a_row.add(self.origin.get(partition_id, partition_id))
        count = self.of_partition[partition_id] = self.of_partition.get(partition_id, 0) + 1
        return count

    def end_row(self, partition_id: PartitionId) -> None:
        """Record that a worker did a partition."""
        self.of_partition.pop(partition_id, None)
        self.in_a_row, self.has_done = 0, True
        self.origins_in_a_row.clear()

    def divide(self, partition_id: PartitionId, parts: Iterable[PartitionId]) -> None:
        """Record that a partition was divided."""
        origin = self.origin.get(partition_id, partition_id)
        self.origin.update(dict.fromkeys(parts, origin))

    @property
    def are_most(self) -> bool:
        """True when the partitions cannot be the cause any more."""
        several = not self.has_done or len(self.origins_in_a_row) >= PARTITIONS_BLAMED
        return self.in_a_row >= MOST_DEATHS and several


class _Begun(NamedTuple):
    """When a partition began."""

    step: int
    """Number of pauses before: its failure may belong to an outage that is over."""
    deaths: int
    """Number of deaths before."""


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
        hooks: What the driver does with a finished partition and with a failed object.
    """

    def __init__(
        self,
        run_partitions: Callable[[Iterable[PartitionId | None]], Iterator[PartitionReport]],
        ledger: Ledger,
        segments: SegmentNames,
        *,
        counts: Counts,
        writer: LedgerWriter,
        monitor: Monitor,
        outages: OutageBackoff,
        hooks: RoundHooks,
    ) -> None:
        self._run_partitions = run_partitions
        self._ledger = ledger
        self._segments = segments
        self._counts = counts
        self._writer = writer
        self._monitor = monitor
        self._outages = outages
        self._hooks = hooks
        self._deaths = _Deaths()
        self._running: dict[PartitionId, _Begun] = {}
        """Partitions that the engine has."""
        self._suspects: set[PartitionId] = set()
        """Partitions of one object that has died alone: they run while no other does."""

    def run(self, partition_ids: Iterator[PartitionId | None]) -> None:
        """Run partitions until each has a report; partitions that were returned run again in the next round.

        Raises:
            FatalError: what stopped the job; no partition is running any more, unless the engine has abandoned it.
        """
        ids: Iterable[PartitionId | None] = partition_ids
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
            ids = sorted(again, key=self._suspects.__contains__)

    def _drain(self, reports: Iterator[PartitionReport]) -> None:
        """Wait for the partitions that are still running; afterwards no worker of this attempt writes anything."""
        for report in reports:
            if report.status is ReportStatus.DONE:
                self._counts.add_report(report)
                self._writer.add_late(report)
            else:
                self._counts.add_returned(report)

    def _feed(self, ids: Iterable[PartitionId | None]) -> Iterator[PartitionId | None]:
        """Yield partitions until the job has to stop; none during an outage, and a suspect only alone."""
        for partition_id in ids:
            if partition_id is None:
                yield None
                continue
            alone = partition_id in self._suspects
            while alone and self._running and not self._monitor.should_stop():
                yield None
            while self._outages.wait_a_moment():
                yield None
            if self._monitor.should_stop():
                return
            self._monitor.resume()
            self._running[partition_id] = _Begun(self._outages.step, self._deaths.events)
            yield partition_id
            while alone and partition_id in self._running and not self._monitor.should_stop():
                yield None

    def _take(self, report: PartitionReport) -> list[PartitionId]:
        """Process one report; return the partitions to run in the next round because of it."""
        begun = self._running.pop(report.partition_id, _Begun(self._outages.step, self._deaths.events))
        if report.status is ReportStatus.RETRY:
            report = self._find_durable(report) or report
        if report.status is ReportStatus.DONE:
            self._deaths.end_row(report.partition_id)
            self._outages.reset(begun.step)
            self._add(report)
            return []
        is_stopping = self._monitor.should_stop()
        if is_stopping or not report.results:
            self._counts.add_returned(report)
        error = report.error or {}
        if report.status is ReportStatus.FATAL:
            self._monitor.stop(read_fatal_record(error))
            return []
        if is_stopping:
            return []
        self._counts.partitions_repeated += 1
        again = self._keep_finished(report) if report.results else report.partition_id
        if again is None:
            return []
        if report.process_died or error.get("code") == UNEXPECTED_ERROR:
            return self._take_death(replace(report, partition_id=again), begun)
        self._back_off(error, begun)
        return [again]

    def _back_off(self, error: Mapping[str, Any], begun: _Begun) -> None:
        self._outages.back_off(
            str(error.get("message", "")),
            (error.get("context") or {}).get("retry_after_s"),
            code=str(error.get("code", "")),
            began_at_step=begun.step,
        )

    def _add(self, report: PartitionReport) -> None:
        self._counts.add_report(report)
        self._writer.add(report)
        self._hooks.on_done()

    def _find_durable(self, report: PartitionReport) -> PartitionReport | None:
        """Return the DONE report of a partition whose worker died, or was lost, after it had written one."""
        try:
            return self._ledger.find_done_report(report.partition_id)
        except TransientError as error:
            log.warning("cannot look up a report", extra={"partition_id": report.partition_id, **error.log_fields()})
            return None

    def _keep_finished(self, report: PartitionReport) -> PartitionId | None:
        """Record what a partition had finished when it was put back; return the partition of the other objects."""
        partition = self._outages.retry_until_available(lambda: self._ledger.read_partition(report.partition_id))
        finished = {result.key for result in report.results}
        parts = [
            tuple(item for item in partition.objects if (item.ref.key in finished) is is_finished)
            for is_finished in (True, False)
        ]
        done_id, again = report.partition_id, None
        if parts[1]:
            done_id, again = self._divide(report.partition_id, parts)
            self._deaths.of_partition[again] = self._deaths.of_partition.pop(report.partition_id, 0)
        chunks = sum(result.chunk_count for result in report.results if result.outcome is Outcome.DONE)
        embedded = min(chunks, report.chunks_embedded)
        done = replace(
            report,
            partition_id=done_id,
            status=ReportStatus.DONE,
            chunks=chunks,
            chunks_embedded=embedded,
            chunks_reused=chunks - embedded,
            error=None,
            process_died=False,
        )
        embedded_again = report.chunks_embedded - embedded
        lost = replace(
            report,
            chunks_embedded=embedded_again,
            embed_calls=0,
            embed_refusals=0,
            texts_in_vain=0,
            requests={},
            points={},
        )
        self._counts.add_returned(lost)
        self._outages.retry_until_available(lambda: self._ledger.create_report(done))
        self._add(done)
        return again

    def _take_death(self, report: PartitionReport, begun: _Begun) -> list[PartitionId]:
        """Process a report of a process that died, or of an unexpected error; blame an object only when it is alone."""
        error = report.error or {}
        deaths = self._deaths.add(report.partition_id, begun.deaths)
        log.warning(
            "partition failed with its worker",
            extra={"partition_id": report.partition_id, "deaths": deaths, "error": error.get("message")},
        )
        if self._deaths.are_most:
            raise _too_many_deaths(report, self._deaths.in_a_row)
        if self._deaths.in_a_row >= PAUSE_AFTER_DEATHS:
            self._back_off(error, begun)
        partition = self._outages.retry_until_available(lambda: self._ledger.read_partition(report.partition_id))
        if deaths < DEATHS_ALLOWED:
            if len(partition.items) == 1:
                self._suspects.add(report.partition_id)
            return [report.partition_id]
        if len(partition.items) > 1:
            return self._divide(report.partition_id, [(item,) for item in partition.items])
        self._blame(report, partition.items[0])
        return []

    def _divide(self, partition_id: PartitionId, parts: Sequence[tuple[PlanItem, ...]]) -> list[PartitionId]:
        """Write parts of a partition as partitions of their own, and return their ids."""
        name = self._segments.make(partition_id.kind)
        ids = self._outages.retry_until_available(lambda: self._ledger.write_plan_segment(name, parts))
        self._counts.divide(partition_id, ids)
        self._deaths.divide(partition_id, ids)
        return ids

    def _blame(self, report: PartitionReport, item: PlanItem) -> None:
        """Record the failure of an item that ends its worker when it runs alone."""
        failed = _failure(item, report)
        if isinstance(item, PlannedObject) and self._hooks.discard(item, failed):
            failed = replace(failed, chunk_count=0, points_digest="", vectors_digest="")
        epoch = self._monitor.lease.epoch if self._monitor.lease is not None else 0
        verdict = PartitionReport(report.partition_id, ReportStatus.DONE, epoch, results=(failed,), points={})
        self._outages.retry_until_available(lambda: self._ledger.create_report(verdict))
        self._suspects.discard(report.partition_id)
        self._add(verdict)


@dataclass(frozen=True, slots=True)
class RoundHooks:
    """What a driver does with the outcome of its rounds."""

    on_done: Callable[[], None] = lambda: None
    """Called after every finished partition; may stop the job through the monitor."""
    discard: Callable[[PlannedObject, ObjectResult], bool] = lambda _planned, _failed: False
    """Removes an object's points if a worker has written some before it died; returns True if it did."""


def _too_many_deaths(report: PartitionReport, deaths: int) -> FatalError:
    error = report.error or {}
    message = str(error.get("message", ""))
    if not report.process_died:
        return FatalError(
            UNEXPECTED_ERROR,
            f"Partitions failed unexpectedly {deaths} times in a row. Last error: {message}",
            hint="Read the logs of the workers. Submit the job again when the cause is removed; it continues.",
        )
    return FatalError(
        "workers_die",
        f"{deaths} worker processes in a row ended without a report. Last error: {message}",
        hint="Check memory and logs of the workers. Submit the job again when the cause is removed; it continues.",
    )


def _failure(item: PlanItem, report: PartitionReport) -> ObjectResult:
    """Return the failure of an item that ends its worker when it is processed alone."""
    if isinstance(item, StraySearch):
        item = PlannedObject(ObjectRef(item.bucket, item.label, "", size_bytes=0, last_modified=""), Action.VERIFY)
    ref = item.ref
    last_error = str((report.error or {}).get("message", ""))
    what = "ended its worker" if report.process_died else "failed unexpectedly"
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
        error_code=KILLS_WORKER if report.process_died else UNEXPECTED_ERROR,
        reason=f"Processing this object alone {what} {DEATHS_ALLOWED} times. Last error: {last_error}",
        retryable=True,
        again=item.action in FAILED_BEFORE,
        origin=item.origin,
    )
