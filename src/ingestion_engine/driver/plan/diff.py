"""Diff: one ordered merge of the listing and the object table yields the objects to work on.

Pure functions; memory does not depend on the number of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ingestion_engine.domain.records import (
    INTERRUPTED,
    UNEXPECTED_ERROR,
    Action,
    ObjectRef,
    PlannedObject,
    RowState,
    TableRow,
    load_warnings,
)

KILLS_WORKER = "kills_worker"
"""Error code of objects that ended their worker process when they were processed alone."""
UNFINISHED_CODES = frozenset({INTERRUPTED, KILLS_WORKER, UNEXPECTED_ERROR})
"""Error codes of failed objects of which some points may have been written: they are always ingested again."""


@dataclass(slots=True)
class Tally:
    """Counts of planning; source of the job's counts and of the plan's fixed denominators."""

    listed: int = 0
    unchanged: int = 0
    directory_markers: int = 0
    failed_before: int = 0
    """Permanently failed in an earlier job and unchanged since: not tried again."""
    already_done: int = 0
    """Done by an earlier attempt of this job."""
    already_warned: int = 0
    """Those of them of which something was left out."""
    warnings: dict[str, int] = field(default_factory=dict)
    """What was left out of them, by code of the warning."""
    already_failed: int = 0
    """Permanently failed in an earlier attempt of this job."""
    failed_changed: int = 0
    """Failed in an earlier attempt or plan of this job, and is tried again because it has changed since."""
    table_rows: int = 0
    outside_filters: int = 0
    """Rows under the job's prefix that its globs exclude: they and their points stay as they are."""
    deletes: int = 0
    already_deleted: int = 0
    """Removed by an earlier plan or attempt of this job; no longer in the object table."""
    by_action: dict[Action, int] = field(default_factory=dict)
    bytes_planned: int = 0
    chunks_estimated: int = 0
    complete: bool = False
    """True when the whole listing has been read: from then on the numbers are fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRules:
    """The parts of a job that decide which objects it works on."""

    job_id: str
    bucket: str
    fingerprint: str
    full: bool
    delete_missing: bool
    retry_failed: bool
    selects: Callable[[str], bool]
    """Returns True for keys that the job works on."""
    leaves_out: Callable[[str], bool] = lambda _key: False
    """Returns True for keys outside the job's filters; only those are counted as ``outside_filters``."""
    epoch: int = 0
    """Epoch of the attempt; 0 when it writes nothing."""


def diff_objects(
    listing: Iterable[ObjectRef], table: Iterable[TableRow], rules: DiffRules, tally: Tally
) -> Iterator[PlannedObject]:
    """Yield the objects to work on, in key order, and count the others in ``tally``.

    Args:
        listing: All objects of the job's prefix, strictly increasing by the UTF-8 bytes of the key.
        table: Rows of the object table in the same order; rows outside the job's filters are counted and left alone.
        rules: Rules of the job.
        tally: Counts, updated as the stream is consumed.
    """
    refs = (ref for ref in listing if rules.selects(ref.key))
    rows = _select_rows(table, rules, tally)
    ref, row = next(refs, None), next(rows, None)
    while ref is not None or row is not None:
        ref_key = None if ref is None else ref.key.encode("utf-8")
        row_key = None if row is None else row.key.encode("utf-8")
        take_ref = ref_key is not None and (row_key is None or ref_key <= row_key)
        take_row = row_key is not None and (ref_key is None or row_key <= ref_key)
        planned = _decide(ref if take_ref else None, row if take_row else None, rules, tally=tally)
        if planned is not None:
            tally.by_action[planned.action] = tally.by_action.get(planned.action, 0) + 1
            yield planned
        if take_ref:
            ref = next(refs, None)
        if take_row:
            row = next(rows, None)


def _select_rows(table: Iterable[TableRow], rules: DiffRules, tally: Tally) -> Iterator[TableRow]:
    for row in table:
        if rules.selects(row.key):
            yield row
        else:
            tally.outside_filters += rules.leaves_out(row.key)


def _decide(ref: ObjectRef | None, row: TableRow | None, rules: DiffRules, *, tally: Tally) -> PlannedObject | None:
    if row is not None:
        tally.table_rows += 1
    if ref is not None:
        tally.listed += 1
        tally.directory_markers += ref.is_directory_marker
    if ref is None or ref.is_directory_marker:
        if row is None or not rules.delete_missing:
            return None
        tally.deletes += 1
        gone = ObjectRef(rules.bucket, row.key, row.etag, size_bytes=row.size_bytes, last_modified=row.last_modified)
        # A HEAD request would find the marker that took the object's place.
        return _plan(gone, Action.DELETE if ref is None else Action.PURGE, row)
    if row is None:
        return PlannedObject(ref, Action.FULL if rules.full else Action.NEW)
    action = _compare(ref, row, rules, tally=tally)
    if action is None:
        return None
    is_failure = row.state is RowState.FAILED and row.error_code != INTERRUPTED
    tally.failed_changed += is_failure and row.job_id == rules.job_id
    return _plan(ref, action, row)


def _count_done(row: TableRow, tally: Tally) -> None:
    tally.already_done += 1
    tally.already_warned += row.warnings is not None
    for warning in load_warnings(row.warnings):
        tally.warnings[warning.code] = tally.warnings.get(warning.code, 0) + warning.count


def _plan(ref: ObjectRef, action: Action, row: TableRow) -> PlannedObject:
    return PlannedObject(
        ref,
        action,
        prior_chunks=row.chunk_count,
        prior_digest=row.points_digest,
        prior_vectors=row.vectors_digest,
    )


def _compare(ref: ObjectRef, row: TableRow, rules: DiffRules, *, tally: Tally) -> Action | None:
    """Return why a known object is worked on; None when it is not, after counting why."""
    if row.error_code == INTERRUPTED and row.state is RowState.FAILED:
        had_failed = not row.retryable and row.etag == ref.etag
        return Action.SUSPECT if had_failed else Action.DIRTY
    same = (
        row.fingerprint == rules.fingerprint
        and row.etag == ref.etag
        and row.size_bytes == ref.size_bytes
        and row.last_modified == ref.last_modified
    )
    mine = row.job_id == rules.job_id
    if row.error_code in UNFINISHED_CODES and row.state is RowState.FAILED and not (mine and same):
        return Action.SUSPECT if row.etag == ref.etag else Action.DIRTY  # of another content, nothing is known
    if not same and row.epoch == rules.epoch:
        return Action.DIRTY  # an earlier plan of this attempt wrote it, so epochs do not tell the versions apart
    if not same and row.state is RowState.FAILED and not mine and row.etag == ref.etag:
        return Action.RETRY  # another release may read it; a job in mode full reuses no vector of it either
    if not same:
        return Action.FULL if rules.full else Action.CHANGED
    if row.state is RowState.PRESENT:
        if mine:
            _count_done(row, tally)
        elif rules.full:
            return Action.FULL
        else:
            tally.unchanged += 1
        return None
    if (row.retryable or rules.full or rules.retry_failed) and not mine:
        return Action.RETRY
    if mine:
        tally.already_failed += 1
    else:
        tally.failed_before += 1
    return None
