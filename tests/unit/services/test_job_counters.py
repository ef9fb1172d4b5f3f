"""Counts of what jobs do: each growth once, whatever attempts and take-overs there are, with bounded labels."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from typing import Any

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import JobState
from ingestion_engine.services.job_counters import MOST_NAMES, JobCounters
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobEvent

BEGAN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
JOB = JobRecord(
    id="job-a",
    engine=EngineName.RAY,
    collection="c",
    state=JobState.RUNNING,
    request={"collection": "c"},
    body_hash="",
    created_at=BEGAN,
)


def with_progress(job: JobRecord, counts: dict[str, int], **timings: Any) -> JobRecord:
    """Return a row after progress of its driver."""
    return dataclasses.replace(job, counts=counts, progress={"counts": counts, "timings": timings})


def test_growth_is_counted_once_when_the_lead_returns() -> None:
    """What another copy has counted meanwhile is not counted again by the first one."""
    first, second = JobCounters(), JobCounters()
    rows = [JOB, *(with_progress(JOB, {"done": n}, stage_seconds={"embed": n / 2}) for n in (100, 200, 250, 120, 260))]
    for counters, (before, after) in zip((first, second, first, first, first), itertools.pairwise(rows), strict=True):
        counters.note_change(before, after, None)
    assert (first.objects["ray", "done"], second.objects["ray", "done"]) == (160, 100)
    assert (first.stages_s["ray", "embed"], second.stages_s["ray", "embed"]) == (80, 50)


def test_growth_is_counted_once_over_attempts_and_copies() -> None:
    """A driver that starts over reports less for a while; a copy that takes over goes on from the row."""
    first, second = JobCounters(), JobCounters()
    rows = [JOB, *(with_progress(JOB, {"done": n}, stage_seconds={"embed": n / 2}) for n in (5, 9, 0, 4, 9))]
    for before, after in itertools.pairwise(rows):
        first.note_change(before, after, None)
    assert first.objects == {("ray", "done"): 9}
    assert first.stages_s == {("ray", "embed"): 4.5}
    last = rows[-1]
    end = dataclasses.replace(
        last,
        state=JobState.FAILED,
        counts={
            "done": 12,
            "failed": 1,
            "failures.no_text": 1,
            "warnings.lines_skipped": 3,
            "points_written.qdrant": 7,
        },
        timings={"requests": {"qdrant": {"done": 7, "failed": 1, "seconds": 0.5}}, "stage_seconds": {"embed": 5.0}},
        error={"code": "failure_budget_exceeded"},
        finished_at=BEGAN + dt.timedelta(seconds=42),
    )
    second.note_change(last, end, JobEvent.FAIL)
    assert second.objects == {("ray", "done"): 3, ("ray", "failed"): 1}
    assert second.stages_s == {("ray", "embed"): 0.5}
    assert (second.failures, second.warnings) == ({"no_text": 1}, {"lines_skipped": 3})
    assert second.points == {("qdrant", "written"): 7}
    assert second.requests == {("qdrant", "done"): 7, ("qdrant", "failed"): 1}
    assert second.ended == {("ray", "sync", "failed"): 1}
    assert second.errors == {"failure_budget_exceeded": 1}
    (durations,) = second.durations.values()
    assert (durations.total_s, durations.buckets[3]) == (42, 1)
    second.note_change(end, dataclasses.replace(end, note="x"), None)
    assert second.ended == {("ray", "sync", "failed"): 1}, "an end is counted once"


def test_accepted_drivers_are_attempts() -> None:
    """Those of first and of later attempts apart, with a series for both before anything is repeated."""
    counters = JobCounters()
    accepted = dataclasses.replace(JOB, submitted_at=BEGAN)
    counters.note_change(JOB, accepted, JobEvent.ACCEPT)
    assert counters.attempts == {("ray", "first"): 1, ("ray", "repeated"): 0}
    counters.note_change(accepted, accepted, JobEvent.ACCEPT)
    assert counters.attempts == {("ray", "first"): 1, ("ray", "repeated"): 1}


def test_names_from_drivers_are_bounded() -> None:
    """A damaged file makes no series without end, and nothing that is no number counts."""
    counters = JobCounters()
    counts: dict[str, Any] = {f"failures.code_{n}": 1 for n in range(MOST_NAMES + 50)}
    counts |= {'failures.a"b': 1, "failures.": 1, "failures." + "x" * 65: 1, "done": "many", "gone": -1, "failed": True}
    counters.note_change(JOB, with_progress(JOB, counts, stage_seconds=[1], requests={"x": 3}), None)
    assert len(counters.failures) == MOST_NAMES + 1
    assert counters.failures["other"] == 53
    assert not counters.objects
    odd = dataclasses.replace(JOB, request={"mode": "sweep"}, state=JobState.FAILED, error={"code": 3})
    counters.note_change(JOB, odd, JobEvent.FAIL)
    assert counters.ended == {("ray", "other", "failed"): 1}
    assert counters.errors == {"other": 1}
