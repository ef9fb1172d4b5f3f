"""The events of a job over HTTP: ids that outlive a reconnection, limits, and the end of a stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ingestion_engine.api import streams
from ingestion_engine.services import job_feed
from support.control import BODY, Plane, World
from support.waiting import eventually


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(job_feed, "POLL_S", 0.005)
    return World(tmp_path)


async def read_events(plane: Plane, job_id: str, last_id: str | None = None) -> tuple[int, list[dict[str, str]]]:
    """Return status and events of a stream that ends by itself or with the service."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    async with asyncio.timeout(30):
        answer = await plane.client.get(f"/jobs/{job_id}/events", headers=headers)
    blocks = [block for block in answer.text.split("\n\n") if block.startswith("id: ")]
    return answer.status_code, [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]  # type: ignore[misc]  # pairs


async def end_soon(plane: Plane) -> None:
    """Have the service end its streams when there is one, and it has had time for an event."""
    await eventually(lambda: plane.services.metrics.load.streams == 1)
    await asyncio.sleep(0.05)
    plane.services.closing.set()


async def test_a_reconnected_client_gets_what_it_lacks(world: World) -> None:
    """From any copy of the service: nothing again, and everything that has changed."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        ending = asyncio.create_task(end_soon(plane))
        _, (first,) = await read_events(plane, job_id)
        await ending
    async with world.serve() as plane:
        ending = asyncio.create_task(end_soon(plane))
        assert await read_events(plane, job_id, first["id"]) == (200, [])
        await ending
    async with world.serve() as plane:
        await plane.look()
        world.engine.finish(job_id)
        await plane.look()
        status, (last,) = await read_events(plane, job_id, first["id"])
        assert (status, last["event"]) == (200, "state")
        assert '"state":"succeeded"' in last["data"]
        assert (await read_events(plane, job_id, "1"))[1] == [last]  # an id of a former release
        assert await read_events(plane, job_id, last["id"]) == (204, [])  # a browser does not come back


async def test_progress_is_told_from_states_over_a_reconnection(world: World) -> None:
    """A client that knows the state receives the change as progress."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.progress(job_id)
        await plane.look()
        ending = asyncio.create_task(end_soon(plane))
        _, (seen,) = await read_events(plane, job_id)
        await ending
        assert seen["event"] == "state"
    async with world.serve() as plane:
        reading = asyncio.create_task(read_events(plane, job_id, seen["id"]))
        await eventually(lambda: plane.services.metrics.load.streams == 1)
        world.engine.progress(job_id, eta_s=5.0)
        await plane.look()
        await asyncio.sleep(0.05)
        plane.services.closing.set()
        _, events = await reading
        assert [event["event"] for event in events] == ["progress"]


async def test_streams_have_a_limit(world: World) -> None:
    """One too many is refused with a hint; the others go on, and their end makes room."""
    async with world.serve(limits={"streams": 2}) as plane:
        job_id = await plane.submit()
        path = f"/jobs/{job_id}/events"
        opened = [asyncio.create_task(plane.client.get(path)) for _ in range(2)]
        load = plane.services.metrics.load
        await eventually(lambda: load.streams == 2)
        refused = await plane.client.get(path)
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
        assert "ingest_http_streams 2.0" in (await plane.client.get("/metrics")).text
        assert load.limited["streams"] == 1
        for one in opened:
            one.cancel()
        await asyncio.gather(*opened, return_exceptions=True)
        await eventually(lambda: load.streams == 0)
        assert not plane.services.jobs.feed._followers


async def test_silence_is_broken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By comments, which are no events."""
    monkeypatch.setattr(job_feed, "HEARTBEAT_S", 0.01)
    async with world.serve() as plane:
        job_id = await plane.submit()
        ending = asyncio.create_task(end_soon(plane))
        text = (await plane.client.get(f"/jobs/{job_id}/events")).text
        await ending
        assert streams.HEARTBEAT.decode() in text


async def test_a_row_that_vanishes_ends_the_stream(world: World) -> None:
    """Retention removes only jobs that have ended, as their streams have; a restored database may lack another."""
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json=BODY)
        job_id = answer.json()["job_id"]
        reading = asyncio.create_task(read_events(plane, job_id))
        await eventually(lambda: plane.services.metrics.load.streams == 1)

        async def get_many(_ids: list[str]) -> list[object]:
            return []

        plane.services.store.get_many = get_many  # type: ignore[method-assign,assignment]
        assert len((await reading)[1]) == 1
