"""Diff: the objects that a job works on, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingestion_engine.domain.records import Action, ObjectRef, RowState, TableRow
from ingestion_engine.domain.spec import Source
from ingestion_engine.driver.plan.diff import DiffRules, Tally, diff_objects
from ingestion_engine.driver.plan.selection import Selection

RULES = DiffRules(
    job_id="job-me",
    bucket="docs",
    fingerprint="f1",
    full=False,
    delete_missing=True,
    retry_failed=False,
    selects=lambda _: True,
)


def ref(key: str, etag: str = "e1", size: int = 10) -> ObjectRef:
    return ObjectRef("docs", key, etag, size, "2026-01-01T00:00:00Z")


def row(key: str, **changes: object) -> TableRow:
    known = TableRow(
        key=key,
        etag="e1",
        size_bytes=10,
        last_modified="2026-01-01T00:00:00Z",
        object_id="o",
        state=RowState.PRESENT,
        error_code=None,
        reason=None,
        retryable=False,
        fingerprint="f1",
        chunk_count=3,
        points_digest="d",
        vectors_digest="v",
        epoch=1,
        job_id="job-0",
        updated_at="now",
    )
    return replace(known, **changes)


def plan(listing: list[ObjectRef], table: list[TableRow], rules: DiffRules = RULES) -> tuple[dict[str, Action], Tally]:
    tally = Tally()
    return {p.ref.key: p.action for p in diff_objects(listing, table, rules, tally)}, tally


def test_every_reason_to_work_on_an_object_is_told_apart() -> None:
    """One merge finds new, changed, unchanged, deleted, retried and dirty objects."""
    listing = [ref("changed", "e2"), ref("dirty"), ref("new"), ref("retry"), ref("same")]
    table = [
        row("changed"),
        row("dirty", state=RowState.FAILED, error_code="interrupted", retryable=True),
        row("gone"),
        row("retry", state=RowState.FAILED, error_code="x", retryable=True),
        row("same"),
    ]
    actions, tally = plan(listing, table)
    assert actions == {
        "changed": Action.CHANGED,
        "dirty": Action.DIRTY,
        "gone": Action.DELETE,
        "new": Action.NEW,
        "retry": Action.RETRY,
    }
    assert (tally.listed, tally.unchanged, tally.deletes, tally.table_rows) == (5, 1, 1, 5)


@pytest.mark.parametrize(
    "change", [{"etag": "e9"}, {"size_bytes": 11}, {"last_modified": "2026-02-02T00:00:00Z"}, {"fingerprint": "f0"}]
)
def test_any_difference_makes_an_object_changed(change: dict[str, object]) -> None:
    """etag, size, date and fingerprint all count."""
    actions, _ = plan([ref("a")], [row("a", **change)])
    assert actions == {"a": Action.CHANGED}


def test_a_permanent_failure_is_tried_again_only_on_request_or_change() -> None:
    """An unchanged failed object is counted, not read again."""
    failed = row("a", state=RowState.FAILED, error_code="corrupt_document")
    actions, tally = plan([ref("a")], [failed])
    assert actions == {}
    assert tally.failed_before == 1
    assert plan([ref("a")], [failed], replace(RULES, retry_failed=True))[0] == {"a": Action.RETRY}
    assert plan([ref("a", "e2")], [failed])[0] == {"a": Action.CHANGED}


def test_an_interrupted_object_that_had_failed_before_is_known_to_have() -> None:
    """While its content is the same; its points may be of either version, so it is dirty as well."""
    failed = {"state": RowState.FAILED, "error_code": "interrupted"}
    table = [row("a", **failed, retryable=False), row("b", **failed, retryable=True)]
    for rules in (RULES, replace(RULES, job_id="job-0"), replace(RULES, fingerprint="f2", full=True)):
        assert plan([ref("a"), ref("b")], table, rules)[0] == {"a": Action.SUSPECT, "b": Action.DIRTY}
        assert plan([ref("a", "e2"), ref("b")], table, rules)[0] == {"a": Action.DIRTY, "b": Action.DIRTY}


@pytest.mark.parametrize("full", [False, True])
def test_a_failed_object_is_retried_when_it_would_be_read_otherwise(full: bool) -> None:
    """Also one that was uploaded again as it was; not one with another content, and not one of this job."""
    failed = row("a", state=RowState.FAILED, error_code="corrupt_document", fingerprint="f0")
    rules = replace(RULES, full=full)
    other = Action.FULL if full else Action.CHANGED
    assert plan([ref("a")], [failed], rules)[0] == {"a": Action.RETRY}
    again = replace(failed, fingerprint="f1", last_modified="2025-01-01T00:00:00Z")
    assert plan([ref("a")], [again], rules)[0] == {"a": Action.RETRY}
    assert plan([ref("a", "e2")], [failed], rules)[0] == {"a": other}
    assert plan([ref("a")], [replace(failed, job_id="job-me")], rules)[0] == {"a": other}


def test_a_resumed_job_does_not_repeat_its_own_rows() -> None:
    """Rows written by an earlier attempt of the same job count as done or failed, also in mode full."""
    table = [row("a", job_id="job-me"), row("b", job_id="job-me", state=RowState.FAILED, error_code="x")]
    for full in (False, True):
        actions, tally = plan([ref("a"), ref("b")], table, replace(RULES, full=full, retry_failed=full))
        assert actions == {}
        assert (tally.already_done, tally.already_failed, tally.unchanged) == (1, 1, 0)


def test_full_works_on_everything_listed() -> None:
    """Mode full ignores rows of listed objects, and still deletes missing ones."""
    actions, _ = plan([ref("a"), ref("b")], [row("a"), row("z")], replace(RULES, full=True))
    assert actions == {"a": Action.FULL, "b": Action.FULL, "z": Action.DELETE}


def test_directory_markers_are_counted_and_never_planned() -> None:
    """Only zero-byte keys with a trailing slash are markers; one that replaced an object removes its points."""
    actions, tally = plan([ref("a/", size=0), ref("b/", size=5), ref("c/", size=0)], [row("c/")])
    assert actions == {"b/": Action.NEW, "c/": Action.PURGE}
    assert tally.directory_markers == 2


def test_delete_missing_false_keeps_everything() -> None:
    """Without it nothing is planned for rows without an object."""
    assert plan([], [row("a")], replace(RULES, delete_missing=False))[0] == {}


def test_rows_outside_the_filters_are_left_alone() -> None:
    """A narrowed job neither counts nor deletes what it does not select."""
    selection = Selection(Source(bucket="docs", include=("*.md",)))
    rules = replace(RULES, selects=selection.matches, leaves_out=selection.leaves_out)
    actions, tally = plan([ref("a.md"), ref("b.pdf")], [row("c.pdf"), row("d.pdf"), row("e.md")], rules)
    assert actions == {"a.md": Action.NEW, "e.md": Action.DELETE}
    assert (tally.listed, tally.table_rows, tally.outside_filters) == (1, 1, 2)


def test_a_retry_does_not_report_what_it_is_not_about() -> None:
    """A list of keys is not a filter: other objects are not counted as excluded."""
    selection = Selection(Source(bucket="docs", exclude=("x*",)), ["a"])
    rules = replace(RULES, selects=selection.matches, leaves_out=selection.leaves_out)
    actions, tally = plan([ref("a", "e2")], [row("a"), row("b"), row("x")], rules)
    assert actions == {"a": Action.CHANGED}
    assert tally.outside_filters == 1


def test_prior_points_travel_with_the_plan() -> None:
    """The points of the old version stay known in case the new version fails."""
    planned = next(diff_objects([ref("a", "e2")], [row("a")], RULES, Tally()))
    assert (planned.prior_chunks, planned.prior_digest) == (3, "d")
