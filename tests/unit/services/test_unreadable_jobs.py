"""One row that cannot be read stops nothing but its own job, which ends with the cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ingestion_engine.state.aliases import Alias, write_alias
from ingestion_engine.state.ledger import Ledger
from support.control import World, make_collection, overwrite


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


BAD_REQUESTS: list[Any] = [
    {"source": {"bucket": "docs"}, "collection": "bad", "mode": "sync", "of_a_later_version": 1},
    {"mode": "unknown"},
    {},
    [],
    "text",
]


@pytest.mark.parametrize("request_", BAD_REQUESTS)
async def test_a_queued_job_that_cannot_be_read_is_set_aside_and_fails_alone(world: World, request_: Any) -> None:
    """It says why, blocks neither others nor its collection, and fails when no later version has taken it over."""
    async with world.serve(dispatch={"pending_timeout_s": 900}) as plane:
        bad = await plane.submit(collection="bad")
        good = await plane.submit(collection="good")
        same = await plane.submit(collection="bad")
        await overwrite(plane.services.store, bad, request=request_)
        await plane.look()
        assert sorted(world.engine.submits) == sorted([f"{good}-01", f"{same}-01"])
        listed = {job["job_id"]: job for job in (await plane.client.get("/jobs")).json()["items"]}
        assert set(listed) == {bad, good, same}
        assert listed[bad]["state"] == "queued"
        assert listed[bad]["note"].startswith("The request of the job cannot be read: ")
        assert (await plane.client.get("/")).status_code == 200
        world.clock.skip(899)
        await plane.look(1)
        assert (await plane.job(bad))["state"] == "queued"
        world.clock.skip(1)
        await plane.look(1)
        job = await plane.job(bad)
        assert (job["state"], job["error"]["code"]) == ("failed", "job_unreadable")
        retried = await plane.client.post(f"/jobs/{bad}/retry")
        assert (retried.status_code, retried.json()["code"]) == (409, "job_unreadable")


@pytest.mark.parametrize("spec", [{}, [], {"parallelism": "many"}, {"limits": 3, "parallelism": 1}])
async def test_a_spec_that_cannot_be_read_fails_its_job_alone(world: World, spec: Any) -> None:
    """An admitted job keeps its collection until then; a running one goes on, because nobody needs its spec."""
    async with world.serve() as plane:
        bad = await plane.submit(collection="bad", parallelism=1)
        running = await plane.submit(collection="running", parallelism=1)
        await plane.look()
        await overwrite(
            plane.services.store, bad, spec=spec, state="queued", attempt_started_at=None, submitted_at=None
        )
        await overwrite(plane.services.store, running, spec=spec)
        same, good = [await plane.submit(collection=name, parallelism=1) for name in ("bad", "good")]
        await plane.look()
        assert (await plane.job(good))["state"] == "submitted"
        assert (await plane.job(same))["note"] == f"Waiting for job {bad}, which uses the same collection."
        assert "The spec of the job cannot be read" in (await plane.job(bad))["note"]
        world.engine.finish(running)
        world.clock.skip(900)
        await plane.look(3)
        assert (await plane.job(running))["state"] == "succeeded"
        job = await plane.job(bad)
        assert (job["state"], job["error"]["code"]) == ("failed", "job_unreadable")
        assert Ledger(world.state, bad).is_aborted()  # should its driver have been submitted before
        assert (await plane.job(same))["state"] == "submitted"


async def test_a_collection_of_a_row_that_cannot_be_read_is_in_use(world: World) -> None:
    """Nothing that its job may be writing is deleted."""
    make_collection(world, "notes", query_prefix="")
    async with world.serve() as plane:
        job_id = await plane.submit()
        await overwrite(plane.services.store, job_id, engine="flink")
        answer = await plane.client.delete("/collections/notes")
        assert (answer.status_code, job_id in answer.json()["detail"]) == (409, True)


async def test_a_file_of_the_state_store_that_cannot_be_read_hides_no_other(world: World) -> None:
    """Lists leave out the collection and the alias that it belongs to, and say so in the log."""
    make_collection(world, "notes")
    make_collection(world, "broken")
    times = {"job_created_at": "2026-01-01T00:00:00Z", "moved_at": "2026-01-01T00:00:00Z"}
    write_alias(world.state, Alias("docs", "notes", previous=(), settled=True, job_id="job-1", **times))
    world.state.put("collections/broken/collection.json", b"{}")
    world.state.put("alias/bad.json", b"{}")
    async with world.serve() as plane:
        assert [one["name"] for one in (await plane.client.get("/collections")).json()["items"]] == ["notes"]
        assert [one["name"] for one in (await plane.client.get("/aliases")).json()["items"]] == ["docs"]


async def test_a_row_of_a_later_version_stops_nothing(world: World) -> None:
    """An engine that this version does not know: other jobs go on, the row is counted and named, never changed."""
    async with world.serve() as plane:
        bad, good = await plane.submit(collection="bad"), await plane.submit(collection="good")
        await overwrite(plane.services.store, bad, engine="flink")
        await plane.look()
        assert (await plane.job(good))["state"] == "submitted"
        assert [job["job_id"] for job in (await plane.client.get("/jobs")).json()["items"]] == [good]
        answer = await plane.client.get(f"/jobs/{bad}")
        assert (answer.status_code, answer.json()["code"]) == (500, "job_unreadable")
        metrics = (await plane.client.get("/metrics")).text
        assert "ingest_jobs_unreadable 1.0" in metrics
        assert 'ingest_jobs{engine="flink",state="queued"} 1.0' in metrics
    async with world.serve() as plane:  # at the start nothing is known yet
        world.engine.finish(good)
        await plane.look()
        assert (await plane.job(good))["state"] == "succeeded"


async def test_metrics_are_shown_although_the_moment_of_a_row_is_damaged(world: World) -> None:
    """Nobody would be told of anything any more."""
    async with world.serve() as plane:
        bad, _ = await plane.submit(collection="bad"), await plane.submit(collection="good")
        await overwrite(plane.services.store, bad, created_at=sa.literal_column("'0 damaged'"))
        answer = await plane.client.get("/metrics")
        assert answer.status_code == 200
        assert 'ingest_jobs{engine="ray",state="queued"} 2.0' in answer.text
        assert 'ingest_jobs_oldest_active_seconds{engine="ray",state="queued"}' in answer.text
