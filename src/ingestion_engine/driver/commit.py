"""Commit: merges the outcome of one attempt into the object table. Idempotent; also recovers a dead attempt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ingestion_engine.domain.errors import LeaseLost
from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import (
    COMPARISONS,
    FAILED_BEFORE,
    INTERRUPTED,
    ObjectResult,
    Origin,
    Outcome,
    PartitionReport,
    ReportStatus,
    RowState,
    TableRow,
    dump_warnings,
)
from ingestion_engine.state.collections import close_plan, list_open_plans, open_plan
from ingestion_engine.state.lease import HeldLease
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """An attempt with an outcome that is not yet in the object table."""

    job_id: str
    attempt: int
    epoch: int
    fingerprint: str
    opened_at: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON stored in ``collections/{c}/open/{job_id}.json``."""
        return {
            "attempt": self.attempt,
            "epoch": self.epoch,
            "fingerprint": self.fingerprint,
            "opened_at": self.opened_at,
        }


def open_attempt(store: StateStore, lease: HeldLease, attempt: OpenAttempt) -> None:
    """Record that an attempt is about to write points; it must not write any before this returns.

    A driver that was frozen here may wake after its successor has read all open plans. So the lease is renewed after
    the plan was opened, and a plan that was opened too late is removed.

    Raises:
        LeaseLost: another attempt holds the collection.
    """
    lease.check()
    open_plan(store, lease.collection, attempt.job_id, attempt=attempt.attempt, data=attempt.to_json())
    try:
        lease.renew()
    except LeaseLost:
        close_plan(store, lease.collection, attempt.job_id, attempt=attempt.attempt)
        raise


def find_open_attempts(store: StateStore, collection: str) -> list[OpenAttempt]:
    """Return every attempt on the collection that has not been merged, oldest epoch first."""
    return [
        OpenAttempt(
            job_id=job_id,
            attempt=data["attempt"],
            epoch=data["epoch"],
            fingerprint=data["fingerprint"],
            opened_at=data["opened_at"],
        )
        for job_id, data in list_open_plans(store, collection)
    ]


def merge_attempt(
    store: StateStore, collection: str, attempt: OpenAttempt, *, writer_epoch: int, complete: bool, now: str
) -> None:
    """Append an attempt's outcome to the object table, then remove its open plan.

    Args:
        store: The state store.
        collection: Collection of the object table.
        attempt: Attempt to merge.
        writer_epoch: Epoch that the caller holds: its own attempt's, or a later one when it recovers a dead attempt.
        complete: True when every planned partition has reported. Otherwise all planned objects without a result become
            rows ``failed`` with code ``interrupted``, which the next plan treats as dirty.
        now: Time of the merge, RFC 3339.

    Cost: reads the attempt's reports once; unless complete, also its plan and its reports a second time. Memory is
    bounded by the table's external sort.
    """
    ledger = Ledger(store, attempt.job_id)
    table = ObjectTable(store, collection)
    rows = _rows(ledger, attempt, complete=complete, now=now)
    table.append_unsorted(rows, epoch=writer_epoch, job_id=attempt.job_id)
    close_plan(store, collection, attempt.job_id, attempt=attempt.attempt)
    table.compact()
    table.clean()


def attempt_reports(ledger: Ledger, attempt: int) -> Iterator[PartitionReport]:
    """Yield the durable DONE reports of one attempt."""
    return (
        report
        for report in ledger.iter_reports()
        if report.status is ReportStatus.DONE and report.partition_id.attempt == attempt
    )


def _rows(ledger: Ledger, attempt: OpenAttempt, *, complete: bool, now: str) -> Iterator[TableRow]:
    """Yield the rows of an attempt; the last row of a key wins, so interrupted objects come first."""
    if not complete:
        results = (result for report in attempt_reports(ledger, attempt.attempt) for result in report.results)
        # Their rows are still right. They are few: objects that exist again after the listing did not show them.
        kept = {result.key for result in results if result.outcome is Outcome.KEPT}
        yield from (row for row in _interrupted_rows(ledger, attempt, now) if row.key not in kept)
    for report in attempt_reports(ledger, attempt.attempt):
        for result in report.results:
            if result.outcome in _STATES:
                yield _result_row(result, attempt, now)


def _interrupted_rows(ledger: Ledger, attempt: OpenAttempt, now: str) -> Iterator[TableRow]:
    for partition in ledger.iter_plan(attempt.attempt):
        for planned in partition.objects:
            if planned.action in COMPARISONS:
                continue
            ref = planned.ref
            origin = planned.origin or Origin(attempt.job_id, attempt.fingerprint)
            yield TableRow(
                key=ref.key,
                etag=ref.etag,
                size_bytes=ref.size_bytes,
                last_modified=ref.last_modified,
                object_id=make_object_id(ref.bucket, ref.key),
                state=RowState.FAILED,
                error_code=INTERRUPTED,
                reason="The job ended before this object was finished; the next job completes it.",
                retryable=planned.action not in FAILED_BEFORE,  # else the next plan would not know that it had failed
                fingerprint=origin.fingerprint,
                chunk_count=planned.prior_chunks,
                points_digest=planned.prior_digest,
                vectors_digest=planned.prior_vectors,
                epoch=attempt.epoch,
                job_id=origin.job_id,
                updated_at=now,
            )


_STATES = {Outcome.DONE: RowState.PRESENT, Outcome.FAILED: RowState.FAILED, Outcome.DELETED: RowState.REMOVED}
"""States of the outcomes that become rows; the others leave the row as it is."""


def _result_row(result: ObjectResult, attempt: OpenAttempt, now: str) -> TableRow:
    origin = result.origin or Origin(attempt.job_id, attempt.fingerprint)
    return TableRow(
        key=result.key,
        etag=result.etag,
        size_bytes=result.size_bytes,
        last_modified=result.last_modified,
        object_id=result.object_id,
        state=_STATES[result.outcome],
        error_code=result.error_code,
        reason=result.reason,
        retryable=result.retryable,
        fingerprint=origin.fingerprint,
        chunk_count=result.chunk_count,
        points_digest=result.points_digest,
        vectors_digest=result.vectors_digest,
        epoch=attempt.epoch,
        job_id=origin.job_id,
        updated_at=now,
        warnings=dump_warnings(result.warnings),
    )
