"""Merge: what one attempt did becomes rows of the object table. Idempotent; also how a successor recovers a dead
attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import (
    Action,
    ObjectResult,
    Origin,
    Outcome,
    PartitionReport,
    ReportStatus,
    TableRow,
)
from ingestion_engine.driver.plan.diff import INTERRUPTED
from ingestion_engine.state.collections import close_plan, list_open_plans, open_plan
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt whose outcome is not yet in the object table."""

    job_id: str
    attempt: int
    epoch: int
    fingerprint: str
    opened_at: str

    @property
    def prefix(self) -> str:
        """What the names of its segments and partitions start with."""
        return f"a{self.attempt:02d}-"

    def to_json(self) -> dict[str, Any]:
        """As stored in ``collections/{c}/open/{job_id}``."""
        return {
            "attempt": self.attempt,
            "epoch": self.epoch,
            "fingerprint": self.fingerprint,
            "opened_at": self.opened_at,
        }


def open_attempt(store: StateStore, collection: str, attempt: OpenAttempt) -> None:
    """Note that an attempt is about to write points; before this is durable it must not."""
    open_plan(store, collection, attempt.job_id, attempt.attempt, attempt.to_json())


def find_open_attempts(store: StateStore, collection: str) -> list[OpenAttempt]:
    """Return every attempt on the collection that was never merged."""
    return [
        OpenAttempt(job_id, data["attempt"], data["epoch"], data["fingerprint"], data["opened_at"])
        for job_id, data in list_open_plans(store, collection)
    ]


def merge_attempt(
    store: StateStore, collection: str, attempt: OpenAttempt, *, writer_epoch: int, complete: bool, now: str
) -> None:
    """Append an attempt's outcome to the object table, then forget that it was open.

    Args:
        store: The state store.
        collection: Whose object table.
        attempt: Whose outcome.
        writer_epoch: Epoch that the caller holds: its own attempt's, or a later one when it recovers a dead attempt.
        complete: True when every planned partition has reported. Otherwise all planned objects without a result
        become rows
            ``failed``/``interrupted``: the next plan treats them as dirty.
        now: RFC 3339.

    Cost: reads the attempt's reports once; unless complete, its plan and its reports once more. Memory
    bounded by the table's external sort.
    """
    ledger = Ledger(store, attempt.job_id)
    table = ObjectTable(store, collection)
    rows = _rows(ledger, attempt, complete=complete, now=now)
    table.append_unsorted(rows, epoch=writer_epoch, job_id=attempt.job_id)
    close_plan(store, collection, attempt.job_id, attempt=attempt.attempt)
    table.compact()
    table.clean()


def attempt_reports(ledger: Ledger, attempt: OpenAttempt) -> Iterator[PartitionReport]:
    """Yield the durable reports of one attempt that completed their partition."""
    return (
        report
        for report in ledger.iter_reports()
        if report.status is ReportStatus.DONE and report.partition_id.startswith(attempt.prefix)
    )


def _rows(ledger: Ledger, attempt: OpenAttempt, *, complete: bool, now: str) -> Iterator[TableRow]:
    """Later rows of a key win, so the interrupted come first."""
    if not complete:
        results = (result for report in attempt_reports(ledger, attempt) for result in report.results)
        # These are as their rows say. They are few: objects that came back after they were found gone.
        kept = {result.key for result in results if result.outcome is Outcome.KEPT}
        yield from (row for row in _interrupted_rows(ledger, attempt, now) if row.key not in kept)
    for report in attempt_reports(ledger, attempt):
        for result in report.results:
            if result.outcome in _STATES:
                yield _result_row(result, attempt, now)


def _interrupted_rows(ledger: Ledger, attempt: OpenAttempt, now: str) -> Iterator[TableRow]:
    for partition in ledger.iter_plan(attempt.attempt):
        for planned in partition.objects:
            if planned.action in COMPARED:
                continue
            ref = planned.ref
            origin = planned.origin or Origin(attempt.job_id, attempt.fingerprint)
            yield TableRow(
                ref.key,
                ref.etag,
                ref.size_bytes,
                ref.last_modified,
                make_object_id(ref.bucket, ref.key),
                "failed",
                INTERRUPTED,
                "The job ended before this object was finished; the next job completes it.",
                retryable=True,
                fingerprint=origin.fingerprint,
                chunk_count=planned.prior_chunks,
                points_digest=planned.prior_digest,
                vectors_digest=planned.prior_vectors,
                epoch=attempt.epoch,
                job_id=origin.job_id,
                updated_at=now,
            )


COMPARED = frozenset({Action.VERIFY, Action.REPAIR, Action.STRAY})
"""What an attempt only compares, or mends without changing what the table says of it: never a row."""

_STATES = {Outcome.DONE: "present", Outcome.FAILED: "failed", Outcome.DELETED: "removed"}


def _result_row(result: ObjectResult, attempt: OpenAttempt, now: str) -> TableRow:
    origin = result.origin or Origin(attempt.job_id, attempt.fingerprint)
    return TableRow(
        result.key,
        result.etag,
        result.size_bytes,
        result.last_modified,
        result.object_id,
        _STATES[result.outcome],
        result.error_code,
        result.reason,
        retryable=result.retryable,
        fingerprint=origin.fingerprint,
        chunk_count=result.chunk_count,
        points_digest=result.points_digest,
        vectors_digest=result.vectors_digest,
        epoch=attempt.epoch,
        job_id=origin.job_id,
        updated_at=now,
    )
