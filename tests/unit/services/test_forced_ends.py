"""Every job ends, also on a cluster that is gone forever; a driver that comes back is harmless."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from ingestion_engine.domain.errors import LeaseLost, TransientError
from ingestion_engine.domain.states import EngineState
from ingestion_engine.state.lease import LeaseCheck, acquire, read_lease
from ingestion_engine.state.ledger import Ledger
from support.control import World, overwrite, unreachable

DAY_S = 86_400


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_forced_cancel_ends_a_job_on_a_cluster_that_is_gone(world: World) -> None:
    """At once: its collection and its share are free, and its driver is fenced off."""
    async with world.serve() as plane:
        job_id = await plane.submit(parallelism=8)
        await plane.look()
        world.engine.progress(job_id)
        await plane.look(1)
        ghost = acquire(world.state, "notes", job_id, 1, ttl_s=30, grace_s=35)
        world.engine.away = unreachable()
        await plane.client.post(f"/jobs/{job_id}/cancel")
        for _ in range(5):
            world.clock.skip(60)
            await plane.look(1)
        job = await plane.job(job_id)
        assert job["state"] == "canceling"
        assert job["note"].endswith("Retrying. Cancel it with force to end it without its cluster.")
        answer = await plane.client.post(f"/jobs/{job_id}/cancel", params={"force": "true"})
        assert (answer.status_code, answer.json()["state"]) == (202, "canceling")
        assert answer.json()["note"].startswith("Canceled by force")
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"], job["counts"]["done"]) == ("canceled", None, 4)
        assert "did not confirm its end" in job["note"]
        again = await plane.client.post(f"/jobs/{job_id}/cancel", params={"force": "true"})
        assert (again.status_code, again.json()["state"]) == (202, "canceled")
        # The driver comes back.
        with pytest.raises(LeaseLost):
            ghost.renew()
        with pytest.raises(LeaseLost):
            LeaseCheck(world.state, "notes", job_id, ghost.epoch).check()
        ledger = Ledger(world.state, job_id)
        assert ledger.is_aborted()
        with pytest.raises(LeaseLost):
            ledger.write_summary({"job_id": job_id, "state": "succeeded", "attempt": 1, "epoch": ghost.epoch + 5})
        summary = ledger.read_summary(1)
        assert summary is not None
        assert (summary["state"], summary["attempt"], summary["epoch"]) == ("canceled", 1, ghost.epoch + 1)
        world.engine.away = None
        following = await plane.submit(parallelism=8)
        await plane.look()
        assert (await plane.job(following))["state"] == "submitted"


async def test_a_successor_of_a_fenced_driver_waits_for_its_last_writes(world: World) -> None:
    """For the expiry of the lease and the grace, as after a dead driver."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        epoch = acquire(world.state, "notes", job_id, 1, ttl_s=30, grace_s=35).epoch
        world.engine.away = unreachable()
        await plane.client.post(f"/jobs/{job_id}/cancel", params={"force": "true"})
        await plane.look(1)
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    held = acquire(world.state, "notes", "job-next", 1, ttl_s=30, grace_s=35, clock=lambda: clock[0], sleep=sleep)
    assert clock[0] >= 65
    assert held.epoch == epoch + 2


async def test_a_lease_of_another_job_is_left_alone(world: World) -> None:
    """A job that never got its collection takes nothing from the one that has it."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        other = acquire(world.state, "notes", "job-other", 1, ttl_s=30, grace_s=35)
        world.engine.away = unreachable()
        await plane.client.post(f"/jobs/{job_id}/cancel", params={"force": "true"})
        await plane.look(1)
        assert (await plane.job(job_id))["state"] == "canceled"
        other.renew()
        lease = read_lease(world.state, "notes")
        assert lease is not None
        assert (lease.job_id, lease.epoch) == ("job-other", other.epoch)


async def test_a_cancellation_has_a_deadline(world: World) -> None:
    """Without force too: the request of a client does not wait forever for a cluster."""
    async with world.serve(dispatch={"end_timeout_s": 900}) as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.start(job_id)
        await plane.look(1)
        world.engine.away = unreachable()
        await plane.client.post(f"/jobs/{job_id}/cancel")
        requested = await plane.services.store.get(job_id)
        assert requested is not None
        assert requested.cancel_requested_at is not None
        world.clock.now = requested.cancel_requested_at + dt.timedelta(seconds=890)
        await plane.look(2)
        assert (await plane.job(job_id))["state"] == "canceling"
        world.clock.skip(70)
        await plane.look(2)
        assert (await plane.job(job_id))["state"] == "canceled"
        assert Ledger(world.state, job_id).is_aborted()


@pytest.mark.parametrize("phase", ["submitted", "running", "restarting", "admitted"])
async def test_a_job_on_a_cluster_that_is_gone_fails_after_its_time(world: World, phase: str) -> None:
    """Its maximum run time and the time that a driver has to end; until then it waits for the cluster."""
    async with world.serve(dispatch={"end_timeout_s": 900}) as plane:
        if phase == "admitted":
            world.engine.away = unreachable(maybe_started=True)
        job_id = await plane.submit(max_runtime_s=3600)
        await plane.look()
        if phase != "submitted":
            world.engine.start(job_id)
            if phase == "running":
                await plane.look(1)
            if phase == "restarting":
                world.engine.die(job_id)
                await plane.look(1)
        world.engine.away = unreachable(maybe_started=True)
        for _ in range(100):
            world.clock.skip(44)
            await plane.look(1)
        assert (await plane.job(job_id))["state"] in {"queued", "submitted", "running"}
        world.clock.skip(200)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "driver_lost")
        assert "3600 s" in job["error"]["detail"]
        summary = Ledger(world.state, job_id).read_summary(1)
        assert summary is not None
        assert (summary["state"], summary["error"]["code"]) == ("failed", "driver_lost")


async def test_a_driver_that_hangs_for_ever_is_ended_by_the_service(world: World) -> None:
    """Its engine says that it runs, but neither deadline nor summary came from it."""
    async with world.serve(dispatch={"end_timeout_s": 900}) as plane:
        job_id = await plane.submit(max_runtime_s=3600)
        await plane.look()
        world.engine.start(job_id)
        await plane.look(1)
        world.clock.skip(4499)
        await plane.look(1)
        assert (await plane.job(job_id))["state"] == "running"
        world.clock.skip(2)
        await plane.look(1)
        assert (await plane.job(job_id))["error"]["code"] == "driver_lost"
        assert world.engine.stops == [f"{job_id}-01"]


async def test_a_driver_that_was_faster_than_the_deadline_decides(world: World) -> None:
    """A summary written before the fence stands, also one that arrives while the service ends the job."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.start(job_id)
        await plane.client.post(f"/jobs/{job_id}/cancel", params={"force": "true"})
        written = []

        def finish(_kind: str, path: str) -> None:
            if path.endswith("/abort") and not written:
                written.append(path)
                world.engine.finish(job_id, "succeeded")

        await plane.look(1)  # writes the first marker
        assert (await plane.job(job_id))["state"] == "canceled"
        second = await plane.submit()
        await plane.look()
        job_id = second
        world.engine.start(second)
        world.state.before_write = finish
        await overwrite(plane.services.store, second, deadline_at=world.clock.now)
        await plane.look(1)
        assert written
        assert (await plane.job(second))["state"] == "succeeded"


async def test_nothing_ends_by_force_while_the_state_store_is_away(world: World) -> None:
    """A driver that cannot be fenced off is not written off: the job waits, says why, and ends afterwards."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.away = unreachable()
        await plane.client.post(f"/jobs/{job_id}/cancel", params={"force": "true"})

        def away(_kind: str, _path: str) -> None:
            raise TransientError("state_unavailable", "The state store is unavailable.")

        world.state.before_write = away
        await plane.look(2)
        job = await plane.job(job_id)
        assert (job["state"], job["note"]) == ("canceling", "The state store is unavailable. Retrying.")
        world.state.before_write = lambda _kind, _path: None
        world.clock.skip(60)
        await plane.look(2)
        assert (await plane.job(job_id))["state"] == "canceled"


async def test_a_job_that_is_forced_while_it_runs_ends_at_once(world: World) -> None:
    """Without a cancellation before; a waiting one is simply canceled."""
    async with world.serve() as plane:
        running, waiting = await plane.submit(), await plane.submit()
        await plane.look()
        for job_id, state in [(running, "canceling"), (waiting, "canceled")]:
            answer = await plane.client.post(f"/jobs/{job_id}/cancel", params={"force": "true"})
            assert answer.json()["state"] == state
        await plane.look(1)
        assert (await plane.job(running))["state"] == "canceled"
        assert world.engine.attempts[f"{running}-01"] is EngineState.ENDED


async def test_rows_of_a_former_version_have_deadlines_too(world: World) -> None:
    """They have no column for it yet: it follows from the times that they have."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.start(job_id)
        await plane.look(1)
        await overwrite(plane.services.store, job_id, deadline_at=None)
        world.engine.away = unreachable()
        world.clock.skip(DAY_S + 899)
        await plane.look(1)
        assert (await plane.job(job_id))["state"] == "running"
        world.clock.skip(61)
        await plane.look(1)
        assert (await plane.job(job_id))["error"]["code"] == "driver_lost"
