"""A job outlives changes of the service: the next attempt has its endpoints and version; what cannot run waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.services import specs
from ingestion_engine.state.ledger import Ledger
from support.control import World, unreachable


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def mismatch(code: str = "worker_mismatch") -> dict[str, Any]:
    return FatalError(code, "This worker differs from the service.", hint="Install the same package.").record()


async def test_endpoints_are_those_of_the_service_that_submits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Ollama server was added and the package upgraded while the job waited for its engine."""
    async with world.serve(ollama={"urls": "http://a:1"}) as plane:
        world.engine.away = unreachable()
        job_id = await plane.submit(parallelism=2)
        await plane.look()
    world.engine.away = None
    monkeypatch.setattr(specs, "__version__", "0.1.77")
    async with world.serve(ollama={"urls": "http://a:1,http://b:1"}) as plane:
        world.clock.skip(60)
        await plane.look(3)
        assert (await plane.job(job_id))["state"] == "submitted"
        spec = Ledger(world.state, job_id).read_spec()
        assert spec.endpoints["ollama"] == {"urls": ["http://a:1", "http://b:1"]}
        assert (spec.package_version, spec.parallelism) == ("0.1.77", 2)


async def test_a_second_attempt_is_frozen_anew_and_keeps_what_was_granted(world: World) -> None:
    """Only versions and endpoints change; share, limits and request stay as admitted."""
    async with world.serve(ollama={"urls": "http://a:1"}) as plane:
        job_id = await plane.submit(parallelism=2)
        await plane.look()
        first = Ledger(world.state, job_id).read_spec()
        world.engine.die(job_id)
        await plane.look(1)
    async with world.serve(ollama={"urls": "http://c:1"}, worker={"parse_timeout_s": 7}) as plane:
        world.clock.skip(60)
        await plane.look(1)
        assert (await plane.job(job_id))["attempt"] == 2
        second = Ledger(world.state, job_id).read_spec()
        assert second.endpoints["ollama"] == {"urls": ["http://c:1"]}
        assert second.model_copy(update={"endpoints": first.endpoints}) == first


@pytest.mark.parametrize("code", ["worker_mismatch", "spec_invalid"])
async def test_what_the_cluster_cannot_run_is_put_back(world: World, code: str) -> None:
    """It waits in the queue with the reason, holds nothing, and is tried again with another attempt."""
    async with world.serve(dispatch={"max_attempts": 1}) as plane:
        job_id = await plane.submit()
        await plane.look()
        ledger = Ledger(world.state, job_id)
        for attempt, pause_s in [(1, 60), (2, 120)]:
            world.engine.finish(job_id, "failed", attempt=attempt, error=mismatch(code))
            await plane.look(1)
            job = await plane.job(job_id)
            assert (job["state"], job["attempt"], job["parallelism"], job["error"]) == ("queued", attempt, None, None)
            assert job["note"].startswith(
                "The cluster cannot run this job. This worker differs from the service. Install the same package. "
            )
            world.clock.skip(pause_s - 1)
            await plane.look()
            assert (await plane.job(job_id))["state"] == "queued"
            other = await plane.submit()  # the collection is free meanwhile
            await plane.look()
            assert (await plane.job(other))["state"] == "submitted"
            world.engine.finish(other)
            await plane.look()
            world.clock.skip(1)
            await plane.look()
            assert (await plane.job(job_id))["attempt"] == attempt + 1
            assert ledger.read_summary(attempt + 1) is None
        world.engine.finish(job_id, "succeeded", attempt=3)
        await plane.look()
        assert (await plane.job(job_id))["state"] == "succeeded"


async def test_what_was_put_back_does_not_count_as_an_attempt(world: World) -> None:
    """A driver that dies afterwards still has its successors."""
    async with world.serve(dispatch={"max_attempts": 2}) as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.finish(job_id, "failed", error=mismatch())
        await plane.look(1)
        world.clock.skip(60)
        await plane.look(3)
        world.engine.die(job_id, 2)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["attempt"], job["note"]) == (3, "Attempt 3 of 3 follows. the engine says ended")


async def test_what_the_cluster_never_can_run_fails_in_the_end(world: World) -> None:
    """After the maximum run time, counted from the first submission, with the reason."""
    async with world.serve() as plane:
        job_id = await plane.submit(max_runtime_s=3600)
        await plane.look()
        world.clock.skip(3600)
        world.engine.finish(job_id, "failed", error=mismatch())
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "worker_mismatch")


async def test_a_canceled_job_is_not_put_back(world: World) -> None:
    """Its summary ends it, whatever it says."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        await plane.client.post(f"/jobs/{job_id}/cancel")
        world.engine.finish(job_id, "failed", error=mismatch())
        await plane.look()
        assert (await plane.job(job_id))["state"] == "failed"


async def test_a_job_that_was_put_back_can_be_canceled(world: World) -> None:
    """At once, like any other that waits."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.finish(job_id, "failed", error=mismatch())
        await plane.look(1)
        assert (await plane.client.post(f"/jobs/{job_id}/cancel")).json()["state"] == "canceled"
