"""How many jobs one key may have: waiting ones are refused, running ones wait their turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.admission import WaitReason, admit_jobs
from ingestion_engine.services.shares import Grant
from support.control import BODY, World, bearer, queued, write_keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_key_queues_as_many_jobs_as_its_quota_allows(world: World, tmp_path: Path) -> None:
    """Also with requests at the same time; other keys, repeated requests and ended jobs do not count."""
    keys = write_keys(tmp_path, {"name": "team"}, {"name": "other"})
    async with world.serve(api={"keys_file": keys}, limits={"queued_jobs_per_key": 2}) as plane:

        async def submit(number: int, who: str = "team") -> Any:
            headers = {**bearer(who), "Idempotency-Key": str(number)}
            return await plane.client.post("/ray/jobs", json={**BODY, "collection": f"c{number}"}, headers=headers)

        answers = await asyncio.gather(*(submit(number) for number in range(6)))
        assert Counter(answer.status_code for answer in answers) == {202: 2, 429: 4}
        refused = next(answer for answer in answers if answer.status_code == 429).json()
        assert refused["code"] == "quota_exceeded"
        assert "INGEST_LIMITS__QUEUED_JOBS_PER_KEY" in refused["hint"]
        accepted = [number for number, answer in enumerate(answers) if answer.status_code == 202]
        assert (await submit(accepted[0])).status_code == 202, "a repeated request returns its job"
        assert (await submit(0, "other")).status_code == 202
        job_id = answers[accepted[0]].json()["job_id"]
        await plane.client.post(f"/jobs/{job_id}/cancel", headers=bearer("team"))
        assert (await submit(7)).status_code == 202
        assert (await submit(8)).status_code == 429


async def test_without_keys_there_is_no_quota(world: World) -> None:
    """All callers are the same then."""
    async with world.serve(limits={"queued_jobs_per_key": 1}) as plane:
        for number in range(3):
            answer = await plane.client.post("/ray/jobs", json={**BODY, "collection": f"c{number}"})
            assert answer.status_code == 202


def test_a_key_with_enough_jobs_under_way_holds_up_no_other() -> None:
    """Its next job starts when one has ended, and keeps its place before its later ones on the collection."""
    running = queued(1, "a", owner="team", admitted_at=utc_now(), parallelism=1)
    waiting = [
        queued(2, "b", owner="team"),
        queued(3, "b", owner="other"),
        queued(4, "c", owner="other"),
        queued(5, "d"),
    ]
    decisions = admit_jobs([running, *waiting], limit=None, wanted=lambda _job, _free: Grant(1, 1), max_per_owner=1)
    reasons = {decision.job.id: decision.reason for decision in decisions}
    assert reasons == {
        "job-2": WaitReason.QUOTA,
        "job-3": WaitReason.COLLECTION_IN_USE,
        "job-4": None,
        "job-5": None,
    }
    assert decisions[0].note is not None
    assert "1 are under way, and at most 1 may be (INGEST_LIMITS__RUNNING_JOBS_PER_KEY)" in decisions[0].note
    again = admit_jobs(waiting, limit=None, wanted=lambda _job, _free: Grant(1, 1), max_per_owner=1)
    assert {decision.job.id for decision in again if decision.grant} == {"job-2", "job-4", "job-5"}


async def test_a_job_that_waits_for_the_quota_says_so(world: World, tmp_path: Path) -> None:
    """In the job, and in the metrics."""
    keys = write_keys(tmp_path, {"name": "team"})
    limits = {"running_jobs_per_key": 1}
    async with world.serve(api={"keys_file": keys}, headers=bearer("team"), limits=limits) as plane:
        await plane.submit(collection="one")
        second = await plane.submit(collection="two")
        await plane.look()
        job = (await plane.client.get(f"/jobs/{second}")).json()
        assert (job["state"], job["waits_for"]) == ("queued", "quota")
        assert 'reason="quota"} 1.0' in (await plane.client.get("/metrics")).text
