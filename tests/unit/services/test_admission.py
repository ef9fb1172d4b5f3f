"""Admission: which queued jobs may begin, and with how many requests in flight."""

from __future__ import annotations

import dataclasses
from typing import Any

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.admission import admit_jobs
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.shares import Grant
from support.control import queued


def frozen(parallelism: int, share: int) -> dict[str, Any]:
    """What admission looks at in a frozen spec."""
    return {"parallelism": parallelism, "limits": {"embed_in_flight": share}}


def admitted(jobs: list[JobRecord], needs: dict[str, int], limit: int = 8, **options: Any) -> dict[str, int | None]:
    decisions = admit_jobs(jobs, limit=limit, wanted=lambda job, _free: Grant(needs[job.id], 1), **options)
    return {decision.job.id: decision.grant and decision.grant.parallelism for decision in decisions}


def test_admission_is_first_come_first_served() -> None:
    """A job that does not fit holds up the smaller ones behind it, so that it is not starved."""
    jobs = [queued(1, "a"), queued(2, "b"), queued(3, "c")]
    assert admitted(jobs, {"job-1": 4, "job-2": 6, "job-3": 1}) == {"job-1": 4, "job-2": None, "job-3": None}


def test_a_busy_collection_holds_up_its_own_jobs_only() -> None:
    """Names are compared without case, as Weaviate does; order within a collection is kept."""
    running = queued(1, "Notes", admitted_at=utc_now(), parallelism=2)
    jobs = [running, queued(2, "notes"), queued(3, "other")]
    assert admitted(jobs, {"job-2": 1, "job-3": 1}) == {"job-2": None, "job-3": 1}
    decisions = admit_jobs(jobs, limit=8, wanted=lambda _job, _free: Grant(1, 1))
    assert decisions[0].note == "Waiting for job job-1, which uses the same collection."


def test_an_engine_that_is_away_holds_up_its_own_jobs_only() -> None:
    """Jobs of another engine pass."""
    jobs = [queued(1, "a"), queued(2, "b", engine=EngineName.SPARK)]
    away = {EngineName.RAY: "away"}
    assert admitted(jobs, {"job-1": 4, "job-2": 4}, unavailable=away) == {"job-1": None, "job-2": 4}


def test_a_job_holds_all_its_partitions_requests() -> None:
    """Both what is free and what a job needs are told in requests, not in partitions."""
    running = queued(1, "a", admitted_at=utc_now(), parallelism=2, spec=frozen(2, 2))
    (decision,) = admit_jobs([running, queued(2, "b")], limit=8, wanted=lambda _job, free: Grant(3, free // 2))
    assert decision.note == "Waiting for embedding capacity: needs 6, 4 of 8 requests are free."
    (decision,) = admit_jobs([running, queued(2, "b")], limit=10, wanted=lambda _job, free: Grant(2, free // 2))
    assert decision.grant == Grant(2, 3)


def test_a_job_frozen_under_a_larger_limit_runs_alone() -> None:
    """It is not stuck forever, waits until nothing else runs, and nothing starts beside it."""
    large = queued(2, "b", spec=frozen(4, 4))
    other = queued(3, "c")

    def want(job: JobRecord, free: int) -> Grant:
        return job.grant or Grant(1, 1)

    beside = admit_jobs([queued(1, "a", admitted_at=utc_now(), parallelism=1), large], limit=8, wanted=want)
    assert beside[0].note == "Waiting for embedding capacity: needs 8, 7 of 8 requests are free."
    alone = admit_jobs([large, other], limit=8, wanted=want)
    assert [decision.grant for decision in alone] == [Grant(4, 4), None]
    running = dataclasses.replace(large, admitted_at=utc_now(), parallelism=2)
    (behind,) = admit_jobs([running, other], limit=8, wanted=want)
    assert behind.note == "Waiting for embedding capacity: needs 1, 0 of 8 requests are free."


def test_with_a_gateway_only_the_places_of_an_engine_count() -> None:
    """A large job holds up nobody; a full engine holds up its own jobs only, in the order of submission."""
    running = queued(1, "a", admitted_at=utc_now(), parallelism=100, spec=frozen(100, 8))
    jobs = [running, queued(2, "b"), queued(3, "c"), queued(4, "d", engine=EngineName.SPARK), queued(5, "a")]
    places = {EngineName.RAY: 2, EngineName.SPARK: 1}
    decisions = admit_jobs(jobs, limit=None, wanted=lambda _job, _free: Grant(10_000, 8), max_jobs=places)
    assert {decision.job.id: decision.grant and decision.grant.parallelism for decision in decisions} == {
        "job-2": 10_000,
        "job-3": None,
        "job-4": 10_000,
        "job-5": None,
    }
    full = "Waiting for a place on engine 'ray': 2 of 2 jobs are under way (INGEST_RAY__MAX_JOBS)."
    assert [decision.note for decision in decisions[1::2]] == [
        full,
        "Waiting for job job-1, which uses the same collection.",
    ]


def test_a_job_that_waits_for_its_collection_takes_no_place() -> None:
    """The one behind it starts."""
    jobs = [queued(1, "a", admitted_at=utc_now(), parallelism=1), queued(2, "a"), queued(3, "b")]
    places = {EngineName.RAY: 2}
    decisions = admit_jobs(jobs, limit=None, wanted=lambda _job, _free: Grant(1, 8), max_jobs=places)
    assert [decision.grant is not None for decision in decisions] == [False, True]


def test_places_also_bound_jobs_that_share_the_embedding_limit() -> None:
    """A job that waits for a place holds up no job of another engine."""
    jobs = [
        queued(1, "a", admitted_at=utc_now(), parallelism=1),
        queued(2, "b"),
        queued(3, "c", engine=EngineName.SPARK),
    ]
    assert admitted(jobs, {"job-2": 1, "job-3": 1}, max_jobs={EngineName.RAY: 1}) == {"job-2": None, "job-3": 1}
