"""Which copy of the service dispatches: that is seen from outside, its work stops with it, no driver is orphaned."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.domain.states import EngineState
from ingestion_engine.services.job_states import JobPhase, find_phase
from ingestion_engine.services.job_store import DispatchLease, JobStore
from ingestion_engine.services.leadership import HOLD_S, DispatchedJobs, Leadership, NotLeading
from ingestion_engine.state.ledger import Ledger
from support.control import Plane, World, overwrite, unreachable


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def give_away(plane: Plane) -> None:
    """Let another copy take over, as after a pause longer than the lease."""
    dispatcher = plane.services.dispatcher
    assert dispatcher is not None
    await plane.services.store.release_dispatch(dispatcher.leadership.holder)
    await plane.services.store.hold_dispatch("another", 60)


async def test_who_dispatches_is_a_metric_a_log_line_and_in_readyz(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a take-over, from both sides; names of hosts are shown to known callers only."""
    caplog.set_level(logging.INFO)
    async with world.serve() as plane:
        dispatcher = plane.services.dispatcher
        assert dispatcher is not None
        await plane.look(1)
        seen = (await plane.client.get("/readyz")).json()["dispatcher"]
        assert (seen["leading"], seen["holder"], seen["term"]) == (True, dispatcher.leadership.holder, 1)
        assert seen["since"] is not None
        assert "ingest_dispatcher_leader 1.0" in (await plane.client.get("/metrics")).text
        await give_away(plane)
        assert not await dispatcher.leadership.renew()
        seen = (await plane.client.get("/readyz")).json()["dispatcher"]
        assert seen == {"leading": False, "holder": "another", "term": 2, "since": None, "note": None}
        metrics = (await plane.client.get("/metrics")).text
        assert "ingest_dispatcher_leader 0.0" in metrics
        assert "ingest_dispatcher_term 2.0" in metrics
        await plane.services.store.release_dispatch("another")
        await plane.look(1)
        assert (await plane.client.get("/readyz")).json()["dispatcher"]["term"] == 3
    lines = [line for line in caplog.records if line.name.endswith("leadership")]
    assert [line.getMessage() for line in lines] == [
        "this copy dispatches now",
        "this copy dispatches no more",
        "this copy dispatches now",
    ]
    assert [vars(line).get("former_holder") for line in lines] == [None, None, "another"]


async def test_work_under_way_is_canceled_when_the_right_is_lost(world: World) -> None:
    """A submission that hangs does not go on under the next leader, and changes no row."""
    async with world.serve() as plane:
        dispatcher = plane.services.dispatcher
        assert dispatcher is not None
        canceled = asyncio.Event()
        begun = asyncio.Event()

        async def hang(_job_id: str) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                canceled.set()

        world.engine.during_submit = hang
        job_id = await plane.submit()
        assert await dispatcher.leadership.renew()
        await dispatcher.step()
        await dispatcher.step()
        await begun.wait()
        before = await plane.services.store.get(job_id)
        await give_away(plane)
        assert not await dispatcher.leadership.renew()
        await dispatcher.settle()
        assert canceled.is_set()
        assert await plane.services.store.get(job_id) == before
        await dispatcher.step()
        await dispatcher.settle()
        assert world.engine.submits == [f"{job_id}-01"]


async def test_a_copy_that_was_paused_stops_by_itself(world: World) -> None:
    """Its own monotonic clock tells it, before it has asked anybody."""
    store = await JobStore.open(world.settings().sqlalchemy_url)
    now = [100.0]
    lost = []
    leadership = Leadership(store, on_lost=lambda: lost.append(now[0]), clock=lambda: now[0])
    assert await leadership.renew()
    now[0] += HOLD_S - 0.1
    assert leadership.is_held
    now[0] += 0.1
    assert not leadership.is_held
    with pytest.raises(NotLeading):
        await DispatchedJobs(store, leadership).note_waiting({}, {})
    assert await leadership.renew()
    assert lost == [100.0 + HOLD_S]
    assert leadership.require() == DispatchLease(leadership.holder, 1)
    await store.close()


async def test_a_renewal_that_fails_loses_the_right_in_time_only(world: World) -> None:
    """Two in a row may fail; no other copy can have it before."""
    store = await JobStore.open(world.settings().sqlalchemy_url)
    now = [100.0]
    leadership = Leadership(store, clock=lambda: now[0])
    assert await leadership.renew()
    hold = store.hold_dispatch

    async def fail(_holder: str, _ttl_s: float) -> DispatchLease:
        raise DatabaseUnavailable("database_unavailable", "away")

    store.hold_dispatch = fail  # type: ignore[method-assign]
    for held in (True, True, False):
        now[0] += HOLD_S / 3
        with pytest.raises(DatabaseUnavailable):
            await leadership.renew()
        assert leadership.is_held is held
    store.hold_dispatch = hold  # type: ignore[method-assign]
    assert await leadership.renew()
    await store.close()


@pytest.mark.parametrize("state", ["canceled", "failed"])
async def test_a_driver_whose_job_ended_during_its_submission_is_stopped(world: World, state: str) -> None:
    """It would belong to nobody: the marker ends it even if its engine does not."""
    async with world.serve() as plane:
        world.engine.during_submit = lambda job_id: overwrite(plane.services.store, job_id, state=state)
        job_id = await plane.submit()
        await plane.look()
        assert world.engine.stops == [f"{job_id}-01"]
        assert Ledger(world.state, job_id).is_aborted()
        assert (await plane.job(job_id))["state"] == state


async def test_a_driver_of_a_released_job_is_found_by_its_next_submission(world: World) -> None:
    """Another copy has released the job meanwhile: the same reference is submitted again, and nothing is stopped."""
    async with world.serve() as plane:
        released = {"admitted_at": None, "attempt": 0, "parallelism": None, "deadline_at": None}

        async def release(job_id: str) -> None:
            if len(world.engine.submits) == 1:
                await overwrite(plane.services.store, job_id, **released)

        world.engine.during_submit = release
        job_id = await plane.submit()
        await plane.look(1)
        await plane.look(3)
        assert world.engine.stops == []
        assert world.engine.submits == [f"{job_id}-01"] * 2
        job = await plane.services.store.get(job_id)
        assert job is not None
        assert (find_phase(job), job.attempt) == (JobPhase.SUBMITTED, 1)


async def test_a_released_job_that_is_canceled_leaves_no_driver_behind(world: World) -> None:
    """Should its engine have the driver after all, the abort marker ends it."""
    async with world.serve() as plane:
        world.engine.away = unreachable()
        job_id = await plane.submit()
        await plane.look()
        answer = await plane.client.post(f"/jobs/{job_id}/cancel")
        assert answer.json()["state"] == "canceled"
        assert Ledger(world.state, job_id).is_aborted()


async def test_an_acceptance_finds_the_row_as_it_is_now(world: World) -> None:
    """The job was canceled and marked by a client meanwhile: it stays canceling, with its driver noted."""
    async with world.serve() as plane:
        world.engine.during_submit = lambda job_id: plane.client.post(f"/jobs/{job_id}/cancel")
        job_id = await plane.submit()
        await plane.look()
        job = await plane.services.store.get(job_id)
        assert job is not None
        assert (find_phase(job), job.attempt_started_at is None) == (JobPhase.CANCELING, False)
        assert world.engine.attempts[f"{job_id}-01"] is EngineState.PENDING


async def test_two_renewals_at_once_share_one_answer(world: World) -> None:
    """As when the loop of the service and a caller renew: both return who has the right."""
    async with world.serve() as plane:
        dispatcher = plane.services.dispatcher
        assert dispatcher is not None
        leadership = dispatcher.leadership
        assert await asyncio.gather(leadership.renew(), leadership.renew()) == [True, True]


async def test_a_copy_for_the_api_alone_never_dispatches_and_names_who_does(world: World) -> None:
    """What it accepts is dispatched by another copy on the database; /readyz tells when there is none."""
    async with world.serve(background=True, dispatch={"enabled": False}) as plane:
        watcher = plane.services.dispatcher
        assert watcher is not None
        job_id = await plane.submit()
        assert not await watcher.leadership.renew()
        ready = (await plane.client.get("/readyz")).json()
        assert (ready["status"], ready["dispatcher"]["holder"]) == ("degraded", None)
        assert "INGEST_DISPATCH__ENABLED=true" in ready["dispatcher"]["note"]
        async with world.serve() as other:
            await other.look()
            dispatcher = other.services.dispatcher
            assert dispatcher is not None
            assert not await watcher.leadership.renew()
            ready = (await plane.client.get("/readyz")).json()
            assert (ready["status"], ready["dispatcher"]["note"]) == ("ready", None)
            assert ready["dispatcher"]["holder"] == dispatcher.leadership.holder
            assert (await plane.job(job_id))["state"] == "submitted"
        assert not await watcher.leadership.renew()
        assert (await plane.client.get("/readyz")).json()["dispatcher"]["holder"] is None
        assert "ingest_dispatcher_leader 0.0" in (await plane.client.get("/metrics")).text
    assert world.engine.submits == [f"{job_id}-01"]
