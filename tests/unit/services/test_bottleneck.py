"""Which machine limits a job: its time on the wall, divided among what it waited for and worked with."""

from __future__ import annotations

from typing import Any

import pytest

from ingestion_engine.services.bottleneck import MACHINES, divide_time


def shares(timings: dict[str, Any], queued_s: float = 0.0, run_s: float | None = 100.0) -> dict[str, float]:
    return {one.machine: one.share for one in divide_time(timings, queued_s=queued_s, run_s=run_s)}


def of(**seconds: float) -> dict[str, Any]:
    return {name: {"done": 1, "failed": 0, "seconds": value} for name, value in seconds.items()}


@pytest.mark.parametrize(
    ("timings", "limit"),
    [
        ({"stage_seconds": {"embed": 300.0, "parse": 20.0}, "requests": of(embedder=250, qdrant=10)}, "embedder"),
        ({"stage_seconds": {"embed": 30.0, "upsert": 90.0}, "requests": of(qdrant=80, weaviate=20)}, "qdrant"),
        ({"stage_seconds": {"embed": 30.0, "upsert": 90.0}, "requests": of(qdrant=10, weaviate=85)}, "weaviate"),
        ({"stage_seconds": {"embed": 30.0, "parse": 50.0, "chunk": 40.0}, "requests": of(embedder=30)}, "workers"),
        ({"stage_seconds": {"fetch": 200.0, "parse": 5.0}, "requests": of(s3=150)}, "s3"),
        ({"phase_seconds": {"planning": 99.5}}, "s3"),
        ({"wait_seconds": {"embedder": 80.0}, "stage_seconds": {"parse": 5.0}}, "embedder"),
        ({"wait_seconds": {"lease": 95.0}, "stage_seconds": {"parse": 5.0}}, "lease"),
        ({"wait_seconds": {"of_a_later_release": 95.0}, "stage_seconds": {"parse": 5.0}}, "other"),
    ],
)
def test_the_largest_part_of_the_time_is_the_limit(timings: dict[str, Any], limit: str) -> None:
    """The first entry names the machine; all shares add up to one."""
    found = divide_time(timings, queued_s=0.0, run_s=100.0)
    assert found[0].machine == limit
    assert sum(one.share for one in found) == pytest.approx(1, abs=0.001)
    assert sum(one.seconds for one in found) == pytest.approx(100, abs=0.5)
    assert {one.machine for one in found} <= set(MACHINES)


def test_waiting_for_a_place_counts_from_the_submission() -> None:
    """A job that waited nine times as long as it ran was limited by the capacity, whatever its workers did."""
    work = {"stage_seconds": {"embed": 50.0}}
    assert shares(work, queued_s=900.0) == {"capacity": 0.9, "embedder": 0.1}
    assert shares({}, queued_s=30.0, run_s=None) == {"capacity": 1.0}


def test_seconds_of_workers_are_proportions_of_the_time_on_the_wall() -> None:
    """Four partitions at once spend 400 seconds in 100: the job's time is divided, not added up."""
    timings = {"stage_seconds": {"embed": 300.0, "parse": 100.0}, "wait_seconds": {"qdrant": 50.0}}
    assert shares(timings) == {"qdrant": 0.5, "embedder": 0.375, "workers": 0.125}


def test_a_job_that_waited_for_two_systems_at_once_has_no_more_time_than_the_wall() -> None:
    """Both count for each other's seconds, so they are scaled."""
    assert shares({"wait_seconds": {"qdrant": 100.0, "weaviate": 100.0}}) == {"qdrant": 0.5, "weaviate": 0.5}


@pytest.mark.parametrize(
    "timings",
    [
        {},
        {"stage_seconds": None, "requests": [], "wait_seconds": "x"},
        {"stage_seconds": {"embed": True, "parse": -1, "chunk": float("nan")}, "requests": {"qdrant": 3}},
    ],
)
def test_nothing_is_said_before_workers_have_reported(timings: dict[str, Any]) -> None:
    """Rows of other releases or of a defect say nothing either."""
    assert divide_time(timings, queued_s=0.0, run_s=100.0) == []
    assert divide_time({"stage_seconds": {"embed": 0.3}}, queued_s=0.1, run_s=0.3) == []
