"""What a running job waits for at the gateways, as its routes show it, and what a cancellation drops there."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.records import EmbeddingWait
from ingestion_engine.services import embedding_waits, job_feed
from support.control import Plane, ScriptedGateway, World, unreachable

URL = "http://gateway:11430"
WAIT = EmbeddingWait(queued=7, in_flight=1, ahead=3, of=5, share=0.25, waited_s=4)
SHOWN = {"queued": 7, "in_flight": 1, "ahead": 3, "of": 5, "share": 0.25, "waited_s": 4}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> ScriptedGateway:
    """One that is asked anew each time."""
    monkeypatch.setattr(embedding_waits, "KEEP_S", 0.0)
    return ScriptedGateway()


async def run_job(world: World, plane: Plane, collection: str = "notes") -> str:
    job_id = await plane.submit(collection=collection)
    await plane.look()
    world.engine.progress(job_id)
    await plane.look(1)
    return job_id


async def test_a_running_job_shows_what_it_waits_for(world: World, gateway: ScriptedGateway) -> None:
    """Only while it runs; a job that has nothing at the gateways waits for nothing."""
    async with world.serve(world.parts(gateway=gateway, now=world.clock), gateway={"url": URL}) as plane:
        job_id = await plane.submit()
        gateway.flows[job_id] = WAIT
        assert ((await plane.job(job_id))["embedding"], gateway.asked) == (None, 0)
        await plane.look()
        world.engine.progress(job_id)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["embedding"], job["note"]) == (SHOWN, "Embedding: 3 of 5 flows ahead.")
        gateway.flows.clear()
        job = await plane.job(job_id)
        assert (job["embedding"], job["note"]) == (dict.fromkeys(SHOWN, 0), None)
        world.engine.finish(job_id)
        await plane.look(1)
        assert (await plane.job(job_id))["embedding"] is None


async def test_a_note_of_the_driver_is_not_hidden(world: World, gateway: ScriptedGateway) -> None:
    """It names what keeps the job; the fields tell the rest."""
    async with world.serve(world.parts(gateway=gateway, now=world.clock), gateway={"url": URL}) as plane:
        job_id = await run_job(world, plane)
        gateway.flows[job_id] = WAIT
        world.engine.progress(job_id, note="Partitions wait: Qdrant refuses connections.", updated_at="later")
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["embedding"], job["note"]) == (SHOWN, "Partitions wait: Qdrant refuses connections.")


async def test_sixty_jobs_are_one_question(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists and single jobs share the answer of the last second."""
    monkeypatch.setattr(embedding_waits, "KEEP_S", 60.0)
    gateway = ScriptedGateway()
    parts = world.parts(gateway=gateway, now=world.clock)
    async with world.serve(parts, gateway={"url": URL}, ray={"max_jobs": 60}) as plane:
        ids = [await plane.submit(collection=f"c{number}") for number in range(60)]
        await plane.look(3)
        for job_id in ids:
            world.engine.progress(job_id)
        await plane.look(1)
        gateway.flows |= dict.fromkeys(ids, WAIT)
        listed = (await plane.client.get("/jobs", params={"limit": 100})).json()["items"]
        assert [job["embedding"] for job in listed] == [SHOWN] * 60
        for job_id in ids:
            assert (await plane.job(job_id))["embedding"] == SHOWN
        assert gateway.asked == 1


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_gateway_that_is_away_hides_no_job(
    world: World, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """The job is shown without its wait, and a cancellation goes on."""
    monkeypatch.setattr(embedding_waits, "READ_LIMIT_S", 0.02)
    monkeypatch.setattr(embedding_waits, "DROP_LIMIT_S", 0.02)
    async with world.serve(world.parts(gateway=gateway, now=world.clock), gateway={"url": URL}) as plane:
        job_id = await run_job(world, plane)
        gateway.hangs = hangs
        gateway.away = None if hangs else TransientError("gateway_unavailable", "Gateway refuses connections.")
        assert (await plane.job(job_id))["embedding"] is None
        answer = await plane.client.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["state"], gateway.dropped) == (202, "canceling", [])


async def test_a_canceled_job_leaves_the_queue_of_the_gateways(world: World, gateway: ScriptedGateway) -> None:
    """Also one that is canceled by force; one that never started has nothing there."""
    async with world.serve(world.parts(gateway=gateway, now=world.clock), gateway={"url": URL}) as plane:
        waiting = await plane.submit(collection="a")
        await plane.client.post(f"/jobs/{waiting}/cancel")
        assert gateway.dropped == []
        ids = [await run_job(world, plane, f"c{number}") for number in range(2)]
        await plane.client.post(f"/jobs/{ids[0]}/cancel")
        world.engine.away = unreachable()
        await plane.client.post(f"/jobs/{ids[1]}/cancel", params={"force": True})
        assert gateway.dropped == ids


async def test_a_job_that_the_service_ends_leaves_the_queue_of_the_gateways(
    world: World, gateway: ScriptedGateway
) -> None:
    """Its workers may be alive where nobody reaches them; a job whose driver reports the end has none."""
    parts = world.parts(gateway=gateway, now=world.clock)
    async with world.serve(parts, gateway={"url": URL}, dispatch={"end_timeout_s": 900}) as plane:
        lost = await plane.submit(collection="lost", max_runtime_s=3600)
        await plane.look()
        world.engine.progress(lost)
        await plane.look(1)
        ended = await run_job(world, plane, "ended")
        world.engine.finish(ended)
        await plane.look(1)
        assert gateway.dropped == []
        world.clock.skip(4501)
        await plane.look(1)
        assert ((await plane.job(lost))["error"]["code"], gateway.dropped) == ("driver_lost", [lost])


async def test_events_follow_the_wait(world: World, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of what the job waits for is an event although its row has not changed."""
    monkeypatch.setattr(job_feed, "POLL_S", 0.01)
    async with world.serve(world.parts(gateway=gateway, now=world.clock), gateway={"url": URL}) as plane:
        job_id = await run_job(world, plane)
        seen = []
        async for event in plane.services.jobs.follow(job_id):
            assert event is not None
            seen.append(event[1])
            if len(seen) == 1:
                gateway.flows[job_id] = WAIT
            else:
                world.engine.finish(job_id)
                await plane.look(1)
        assert seen == [EmbeddingWait(), WAIT, None]
        answer = await plane.client.get(f"/jobs/{job_id}/events")
        data = next(line for line in answer.text.splitlines() if line.startswith("data: "))
        assert orjson.loads(data.removeprefix("data: "))["embedding"] is None


async def test_readiness_names_every_gateway(world: World, gateway: ScriptedGateway) -> None:
    """One that is away leaves the service ready: jobs are accepted and wait."""
    gateway.urls = (URL, "dns+http://others:11430")
    gateway.away = TransientError("gateway_unavailable", "Gateway refuses connections.")
    async with world.serve(world.parts(gateway=gateway, now=world.clock), gateway={"url": URL}) as plane:
        answer = await plane.client.get("/readyz")
        found = answer.json()["dependencies"]
        for name in ("gateway:gateway:11430", "gateway:others:11430"):
            assert (found[name]["ok"], found[name]["error"]) == (False, "Gateway refuses connections.")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
