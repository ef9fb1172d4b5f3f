"""Jobs that ended long ago are removed, and nothing that is still needed; whatever happens in between."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.services import retention as module
from ingestion_engine.services.believed_clock import BELIEVED_S
from ingestion_engine.services.job_expiry import EndedRows
from ingestion_engine.services.job_ids import JobIds, read_creation
from ingestion_engine.services.job_records import jobs
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.leadership import Leadership
from ingestion_engine.services.retention import (
    FIRST_SCAN_S,
    MARKED_S,
    NEEDED_AGAIN_S,
    SCAN_S,
    Retention,
)
from ingestion_engine.state.collections import close_plan, open_plan
from ingestion_engine.state.ledger import Ledger
from support.control import Plane, World, queued
from support.doubles import Crash, MemoryState
from support.every_step import Fault, Watch, Watched

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
OLD = NOW - dt.timedelta(days=31)
DAYS = 30.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Keeper:
    """A copy of the service that sweeps, with clocks that a test puts forward."""

    def __init__(self, store: JobStore, state: StateStore, *, days: float = DAYS) -> None:
        self.store = store
        self.seconds = 1_000.0
        self.ahead = dt.timedelta()
        self.removed: dict[str, int] = {}
        self.leadership = Leadership(store)
        self.retention = Retention(
            store,
            state,
            self.leadership,
            days=days,
            now=lambda: NOW + dt.timedelta(seconds=self.seconds) + self.ahead,
            on_removed=self.count,
            clock=lambda: self.seconds,
        )

    def count(self, what: str, number: int) -> None:
        self.removed[what] = self.removed.get(what, 0) + number

    async def sweep(self, times: int = 2) -> None:
        """Sweep as often, each more than a minute after the last one."""
        assert await self.leadership.renew()
        for _ in range(times):
            await self.retention.sweep()
            self.seconds += MARKED_S + 1


@pytest.fixture
async def store(world: World) -> AsyncIterator[JobStore]:
    opened = await JobStore.open(world.settings().sqlalchemy_url)
    yield opened
    await opened.close()


async def add(store: JobStore, job_id: str, *, ended: dt.datetime | None = OLD, **columns: Any) -> None:
    """Insert a row: of a job that has ended, unless ``ended`` is None."""
    values = {
        "state": JobState.QUEUED if ended is None else JobState.SUCCEEDED,
        "created_at": OLD - dt.timedelta(hours=1),
        "finished_at": ended,
    }
    await store.insert(replace(queued(0, "notes", **{**values, **columns}), id=job_id))


def fill(state: StateStore, job_id: str, *, ended: dt.datetime = OLD, files: int = 3) -> None:
    """Write a ledger of a few files."""
    ledger = Ledger(state, job_id)
    state.put(f"jobs/{job_id}/spec.json", orjson.dumps({"request": {"collection": "notes"}}))
    for number in range(files):
        state.put(f"jobs/{job_id}/reports/single/{number}.json", b"{}")
    ledger.write_progress({"updated_at": ended.isoformat()})
    ledger.write_summary({"state": "succeeded", "attempt": 1, "finished_at": ended.isoformat()})


def ledgers(state: MemoryState) -> set[str]:
    return {path.split("/")[1] for path in state.values if path.startswith("jobs/")}


async def rows(store: JobStore) -> set[str]:
    async with store.database.reading() as connection:
        return set((await connection.execute(sa.select(jobs.c.id))).scalars())


async def test_ended_jobs_are_removed_with_their_ledgers_and_others_stay(store: JobStore, world: World) -> None:
    """By the time of their end; also one that failed or was canceled, never one that has not ended."""
    for state in sorted(FINAL_STATES):
        await add(store, f"job-{state}", state=state)
        fill(world.state, f"job-{state}")
    await add(store, "job-recent", ended=NOW - dt.timedelta(days=29))
    await add(store, "job-waiting", ended=None)
    await add(store, "job-running", ended=None, state=JobState.RUNNING)
    kept = {"job-recent", "job-waiting", "job-running"}
    for job_id in kept:
        fill(world.state, job_id)
    keeper = Keeper(store, world.state)
    await keeper.sweep()
    assert await rows(store) == ledgers(world.state) == kept
    assert keeper.removed == {"jobs": len(FINAL_STATES)}
    assert (keeper.retention.backlog, keeper.retention.needed) == (0, 0)


async def test_with_zero_days_everything_stays(store: JobStore, world: World) -> None:
    """Also ledgers without a row."""
    await add(store, "job-1")
    fill(world.state, "job-2")
    keeper = Keeper(store, world.state, days=0)
    keeper.seconds += FIRST_SCAN_S
    await keeper.sweep(3)
    assert (await rows(store), ledgers(world.state), keeper.removed) == ({"job-1"}, {"job-2"}, {})


async def test_an_end_by_a_wrong_clock_removes_no_young_job(store: JobStore, world: World) -> None:
    """The driver's clock was two months slow; the service's own knows when the job was submitted."""
    await add(store, "job-1", created_at=NOW - dt.timedelta(days=1), ended=NOW - dt.timedelta(days=60))
    await Keeper(store, world.state).sweep()
    assert await rows(store) == {"job-1"}


async def test_an_outcome_that_is_not_in_the_object_table_keeps_its_job(store: JobStore, world: World) -> None:
    """Until the next job on the collection has merged it; it holds up no other job."""
    await add(store, "job-1")
    await add(store, "job-2")
    for job_id in ("job-1", "job-2"):
        fill(world.state, job_id)
    open_plan(world.state, "notes", "job-1", attempt=1, data={})
    before = {path for path in world.state.values if path.startswith("jobs/job-1/")}
    keeper = Keeper(store, world.state)
    await keeper.sweep(4)
    assert await rows(store) == {"job-1"}
    assert before == {path for path in world.state.values if path.startswith("jobs/")}
    assert (keeper.retention.backlog, keeper.retention.needed) == (0, 1)
    close_plan(world.state, "notes", "job-1")
    keeper.seconds += NEEDED_AGAIN_S
    await keeper.sweep()
    assert await rows(store) == set()


async def test_a_collection_that_was_not_released_keeps_its_last_job(store: JobStore, world: World) -> None:
    """The abort marker in its ledger still fences workers of it off."""
    await add(store, "job-1")
    lease = {"format": 1, "job_id": "job-1", "attempt": 1, "epoch": 1, "counter": 4, "released": False, "holder": "x"}
    world.state.put("collections/notes/lease.json", orjson.dumps(lease))
    keeper = Keeper(store, world.state)
    await keeper.sweep()
    assert await rows(store) == {"job-1"}
    world.state.put("collections/notes/lease.json", orjson.dumps({**lease, "released": True}))
    keeper.seconds += NEEDED_AGAIN_S
    await keeper.sweep()
    assert await rows(store) == set()


async def test_a_retry_that_has_not_ended_keeps_the_jobs_that_it_names(store: JobStore, world: World) -> None:
    """By its origin, or by a list of keys in another ledger."""
    await add(store, "job-1")
    await add(store, "job-2")
    await add(store, "job-3", ended=None, retry_of="job-1", only_keys_path="jobs/job-2/only_keys.json")
    keeper = Keeper(store, world.state)
    await keeper.sweep()
    assert await rows(store) == {"job-1", "job-2", "job-3"}


async def test_a_marked_job_is_gone_for_callers(world: World) -> None:
    """It is in no list, its key can be used again, and the answer names the setting."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.finish(job_id)
        await plane.look()
        key = {"Idempotency-Key": "once"}
        body = {"source": {"bucket": "docs"}, "collection": "others"}
        first = (await plane.client.post("/ray/jobs", json=body, headers=key)).json()["job_id"]
        await plane.client.post(f"/jobs/{first}/cancel")
        await mark(plane, job_id, first)
        for path in ("", "/failures", "/logs", "/events"):
            answer = await plane.client.get(f"/jobs/{job_id}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
            assert "INGEST_RETENTION__DAYS" in answer.json()["hint"]
        assert (await plane.client.post(f"/jobs/{job_id}/retry")).status_code == 404
        assert (await plane.client.get("/jobs")).json()["items"] == []
        assert await plane.services.store.count_by_state() == {}
        again = await plane.client.post("/ray/jobs", json=body, headers=key)
        assert again.status_code == 202
        assert again.json()["job_id"] not in (first, job_id)


async def mark(plane: Plane, *ids: str) -> None:
    """Mark jobs as a sweep does."""
    dispatcher = plane.services.dispatcher
    assert dispatcher is not None
    assert await dispatcher.leadership.renew()
    lead = dispatcher.leadership.require()
    marked = await EndedRows(plane.services.store.database).mark(ids, NOW, lead=lead)
    assert marked == len(ids)


async def test_a_retry_of_a_job_whose_failures_are_being_removed_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would retry only those objects that it has still found."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        Ledger(world.state, job_id).write_failures("a01-00001", [{"key": "a.txt"}, {"key": "b.txt"}])
        world.engine.finish(job_id, "partially_succeeded")
        await plane.look()
        jobs_service = plane.services.jobs
        read = jobs_service._read_failed_keys

        async def read_while_removed(asked: str, codes: Sequence[str]) -> list[str]:
            keys = await read(asked, codes)
            await mark(plane, asked)
            return keys[:1]

        monkeypatch.setattr(jobs_service, "_read_failed_keys", read_while_removed)
        answer = await plane.client.post(f"/jobs/{job_id}/retry")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


async def test_a_ledger_without_a_row_is_removed_by_the_age_that_it_shows(store: JobStore, world: World) -> None:
    """Kept: with a row, young by its id or its progress, needed by an open plan, or of unknown age."""
    old_id, young_id = make_id(OLD), make_id(NOW)
    for job_id in (old_id, young_id, "job-foreign", "job-kept", "job-open"):
        fill(world.state, job_id)
    fill(world.state, long_id := make_id(OLD, 1), ended=NOW)
    world.state.put("jobs/job-unknown/only_keys.json", b"[]")
    world.state.put(f"jobs/{(bare_id := make_id(OLD, 2))}/only_keys.json", b"[]")
    await add(store, "job-kept", ended=None)
    open_plan(world.state, "notes", "job-open", attempt=1, data={})
    keeper = Keeper(store, world.state)
    await keeper.sweep()
    assert bare_id in ledgers(world.state)
    keeper.seconds += FIRST_SCAN_S
    await keeper.sweep()
    assert ledgers(world.state) == {young_id, long_id, "job-kept", "job-open", "job-unknown"}
    assert keeper.removed == {"ledgers": 3}
    close_plan(world.state, "notes", "job-open")
    keeper.seconds += SCAN_S
    await keeper.sweep()
    assert "job-open" not in ledgers(world.state)


def make_id(moment: dt.datetime, number: int = 0) -> str:
    """Return an id as of a moment."""
    digits = "0123456789abcdefghjkmnpqrstvwxyz"
    value = (int(moment.timestamp() * 1000) << 80) + number
    return "job-" + "".join(digits[value >> shift & 31] for shift in range(125, -1, -5))


def test_an_id_tells_when_it_was_made() -> None:
    """Foreign ids tell nothing."""
    before = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)
    made = read_creation(JobIds().make())
    assert made is not None
    assert before <= made <= dt.datetime.now(dt.UTC)
    assert read_creation(make_id(OLD)) == OLD
    assert [read_creation(text) for text in ("job-1", "", "job-" + "u" * 26, "job-" + "z" * 26)] == [None] * 4


async def test_a_sweep_is_bounded_and_the_next_one_goes_on(
    store: JobStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that are needed do not keep it from the others; a large ledger is removed in steps."""
    monkeypatch.setattr(module, "JOBS_PER_SWEEP", 3)
    for number in range(10):
        await add(store, f"job-{number}")
        fill(world.state, f"job-{number}", files=120 if number == 9 else 1)
        if number < 4:
            open_plan(world.state, "notes", f"job-{number}", attempt=1, data={})
    keeper = Keeper(store, world.state)
    seen = []
    for _ in range(6):
        await keeper.sweep(1)
        seen.append(len(await rows(store)))
    assert seen == [10, 10, 8, 5, 4, 4]
    assert ledgers(world.state) == {f"job-{number}" for number in range(4)}


async def test_a_copy_that_does_not_dispatch_any_more_removes_nothing(store: JobStore, world: World) -> None:
    """Neither what it knows nor what the database knows better."""
    await add(store, "job-1")
    keeper = Keeper(store, world.state)
    await keeper.retention.sweep()
    await keeper.sweep(1)
    await store.release_dispatch(keeper.leadership.holder)
    await store.hold_dispatch("another", 60)
    assert await EndedRows(store.database).mark(["job-1"], NOW, lead=keeper.leadership.require()) == 0
    assert not await EndedRows(store.database).remove("job-1", lead=keeper.leadership.require())
    assert await rows(store) == {"job-1"}


class LockedState(MemoryState):
    """A state store that refuses to delete the ledger of one job, for example by an object lock."""

    locked = "jobs/job-1/"

    def delete(self, path: str) -> None:
        if path.startswith(self.locked):
            raise FatalError("state_access_denied", f"{path!r} may not be deleted.")
        super().delete(path)


async def test_a_ledger_that_cannot_be_deleted_holds_up_no_other_job(store: JobStore) -> None:
    """Its failure is reported, tried again an hour later, and shown as due."""
    state = LockedState()
    for number in range(1, 4):
        await add(store, f"job-{number}")
        fill(state, f"job-{number}")
    keeper = Keeper(store, state)
    await keeper.sweep(1)
    with pytest.raises(FatalError):
        await keeper.sweep(1)
    keeper.seconds += MARKED_S
    await keeper.sweep(1)
    assert await rows(store) == ledgers(state) == {"job-1"}
    assert (keeper.retention.backlog, keeper.retention.needed) == (1, 0)
    state.locked = "jobs/none/"
    keeper.seconds += NEEDED_AGAIN_S
    await keeper.sweep(1)
    assert await rows(store) == ledgers(state) == set()


async def test_a_marked_job_that_is_needed_again_holds_up_no_other(
    store: JobStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when there are as many as one sweep removes."""
    monkeypatch.setattr(module, "JOBS_PER_SWEEP", 1)
    keeper = Keeper(store, world.state)
    assert await keeper.leadership.renew()
    for job_id in ("job-1", "job-2"):
        await add(store, job_id)
    await EndedRows(store.database).mark(["job-1", "job-2"], NOW, lead=keeper.leadership.require())
    open_plan(world.state, "notes", "job-1", attempt=1, data={})
    await keeper.sweep(2)
    assert await rows(store) == {"job-1"}


@pytest.mark.parametrize("is_corrected", [True, False])
async def test_a_clock_that_jumps_ahead_removes_nothing_for_a_day(
    store: JobStore, world: World, is_corrected: bool
) -> None:
    """A server of the database with a wrong clock has taken over: jobs of this week are not hidden, nor removed."""
    await add(store, "job-1", created_at=NOW - dt.timedelta(days=2), ended=NOW - dt.timedelta(days=1))
    fill(world.state, "job-1", ended=NOW)
    keeper = Keeper(store, world.state)
    await keeper.sweep()
    keeper.ahead = dt.timedelta(days=60)
    await keeper.sweep(5)
    assert await store.get("job-1") is not None
    assert ledgers(world.state) == {"job-1"}
    if is_corrected:
        keeper.ahead = dt.timedelta()
        await keeper.sweep()
    keeper.seconds += BELIEVED_S
    await keeper.sweep(4)
    assert await rows(store) == ({"job-1"} if is_corrected else set())


SLICES = 4
"""``make test`` runs the first of this many slices of all runs, ``make nightly`` the others."""
PARTS = [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, SLICES))]
KINDS = ("crash before", "crash after", "outage", "denied", "defect")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Hundreds of runs log thousands of errors."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def make_scene(store: JobStore) -> MemoryState:
    """Two old jobs, one that a later job needs, one young job, and a ledger without a row."""
    state = MemoryState()
    async with store.database.writing() as connection:
        await connection.execute(sa.delete(jobs))
    await store.release_dispatch((await store.read_dispatch()).holder)
    for job_id in ("job-1", "job-2", "job-open", "job-young"):
        await add(store, job_id, ended=NOW if job_id == "job-young" else OLD)
        fill(state, job_id)
    fill(state, "job-orphan")
    open_plan(state, "notes", "job-open", attempt=1, data={})
    return state


async def sweep_with(store: JobStore, state: MemoryState, watch: Watch) -> int:
    """Let one copy of the service sweep until it crashes; return the number of sweeps that failed."""
    keeper = Keeper(store, Watched(state, "state", watch))
    keeper.retention._rows = Watched(keeper.retention._rows, "database", watch)
    keeper.seconds += FIRST_SCAN_S
    errors = 0
    for _ in range(3):
        try:
            await keeper.sweep(1)
        except Crash:
            return errors + 1
        except Exception:  # the injected fault, of any class, is counted
            errors += 1
    await store.release_dispatch(keeper.leadership.holder)
    return errors


@pytest.mark.parametrize("part", PARTS)
async def test_a_fault_at_every_call_is_made_good_by_the_next_sweeps(store: JobStore, quiet: None, part: int) -> None:
    """The process ends, or a system fails: afterwards exactly what is due is gone, and never anything else."""
    watch = Watch(None)
    state = await make_scene(store)
    assert await sweep_with(store, state, watch) == 0
    assert {step.system for step in watch.steps} == {"state", "database"}
    faulty = 0
    steps = watch.steps[part::SLICES]
    for step in steps:
        for kind in KINDS:
            state = await make_scene(store)
            needed = {path for path in state.values if "job-open" in path or "job-young" in path}
            faulty += await sweep_with(store, state, Watch(Fault(kind, step))) > 0
            assert needed <= state.values.keys()
            assert await rows(store) >= {"job-open", "job-young"}
            await store.release_dispatch((await store.read_dispatch()).holder)
            assert await sweep_with(store, state, Watch(None)) == 0
            assert await rows(store) == ledgers(state) == {"job-open", "job-young"}
            assert needed == state.values.keys()
    assert faulty > len(steps)
