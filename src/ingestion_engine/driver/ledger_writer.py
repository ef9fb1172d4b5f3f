"""The ledger writer: folds reports into segments and writes failures in batches while the job runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ingestion_engine.domain.ids import SegmentName
from ingestion_engine.domain.records import Outcome, PartitionReport, ReportStatus
from ingestion_engine.driver.commit import OpenAttempt, attempt_reports
from ingestion_engine.driver.counts import Counts
from ingestion_engine.state.ledger import Ledger

FOLD_REPORTS = 64
"""Reports per segment: readers request one file instead of 64."""
FAILURES_PER_SEGMENT = 500
"""Failed objects after which a segment is written at once."""
FAILURES_EVERY_S = 2.0
"""Seconds after which failures become visible at the latest, as long as reports arrive."""

Persist = Callable[[Callable[[], None]], None]
"""Calls a function until it returns without a TransientError."""


class LedgerWriter:
    """Buffers the reports and failures of one attempt. Not thread-safe."""

    def __init__(self, ledger: Ledger, attempt: int, persist: Persist) -> None:
        self._ledger = ledger
        self._attempt = attempt
        self._persist = persist
        self._reports: list[PartitionReport] = []
        self._failures: list[dict[str, Any]] = []
        self._segments = self._failure_segments = 0
        self._last_flush = time.monotonic()

    def add(self, report: PartitionReport) -> None:
        """Take a report that is already durable as a single file."""
        self._reports.append(report)
        self._failures += failure_items(report, self._attempt)
        if len(self._reports) >= FOLD_REPORTS:
            self._fold()
        waited = time.monotonic() - self._last_flush
        if len(self._failures) >= FAILURES_PER_SEGMENT or (self._failures and waited > FAILURES_EVERY_S):
            self._write_failures()

    def add_late(self, report: PartitionReport) -> None:
        """Take a report while the job is being stopped; only ``flush`` writes it."""
        self._reports.append(report)
        self._failures += failure_items(report, self._attempt)

    def flush(self) -> None:
        """Write all buffered reports and failures."""
        self._fold()
        self._write_failures()

    def count_former_attempts(self) -> Counts:
        """Return the counts of what the reports of all earlier attempts of this job document. Nothing is written."""
        counts = Counts()
        for report in self._ledger.iter_reports():
            if report.status is ReportStatus.DONE and report.partition_id.attempt < self._attempt:
                counts.add_former(report)
        return counts

    def delete_failures(self) -> None:
        """Delete the failures of this attempt and of earlier ones.

        Those of later attempts stay: this one may have been frozen.
        """
        for attempt in range(1, self._attempt + 1):
            self._persist(partial(self._ledger.delete_failures, SegmentName.prefix(attempt)))

    def rewrite_failures(self, dead: OpenAttempt) -> None:
        """Rewrite the failures of a dead attempt of this job from its reports. Idempotent."""
        prefix = SegmentName.prefix(dead.attempt)
        items: list[dict[str, Any]] = []
        number = 0
        self._persist(lambda: self._ledger.delete_failures(prefix))
        for report in attempt_reports(self._ledger, dead.attempt):
            items += failure_items(report, dead.attempt)
            if len(items) >= FAILURES_PER_SEGMENT:
                number += 1
                self._store(SegmentName.make(dead.attempt, number), items)
                items = []
        if items:
            self._store(SegmentName.make(dead.attempt, number + 1), items)

    def _fold(self) -> None:
        reports, self._reports = self._reports, []
        if reports:
            self._segments += 1
            name = SegmentName.make(self._attempt, self._segments)
            self._persist(lambda: self._ledger.fold_reports(name, reports))

    def _write_failures(self) -> None:
        items, self._failures = self._failures, []
        self._last_flush = time.monotonic()
        if items:
            self._failure_segments += 1
            self._store(SegmentName.make(self._attempt, self._failure_segments), items)

    def _store(self, segment: str, items: list[dict[str, Any]]) -> None:
        self._persist(lambda: self._ledger.write_failures(segment, items))


def failure_items(report: PartitionReport, attempt: int) -> list[dict[str, Any]]:
    """Return the failed and differing objects of a report as the API shows them. Pure."""
    return [
        {
            "key": result.key,
            "code": result.error_code,
            "reason": result.reason,
            "retryable": result.retryable,
            "etag": result.etag,
            "size_bytes": result.size_bytes,
            "attempt": attempt,
            **({"differences": result.differences} if result.differences else {}),
        }
        for result in report.results
        if result.outcome in (Outcome.FAILED, Outcome.DIFFERENT)
    ]
