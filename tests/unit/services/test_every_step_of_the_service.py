"""A fault at every call that the service makes for its jobs: every job still ends as an undisturbed one does.

As ``unit/driver/test_every_step.py``, one level up: the calls are those to the database, the state store and the
engine, from the submission over HTTP to the end of the last job. After a crash a new service continues.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ingestion_engine.api import context
from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.domain.states import EngineState
from ingestion_engine.services.job_records import dispatchers
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.state.ledger import Ledger
from support.control import BODY, Plane, World
from support.doubles import Crash
from support.every_step import Fault, Step, Watch, Watched

SLICES = 16
"""``make test`` runs the first of this many slices of all runs, ``make nightly`` the others."""
PARTS = [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, SLICES))]
KINDS = ("crash before", "crash after", "outage", "lost", "defect")
"""The calls that decide who dispatches are left out: a timer makes them, and they have tests of their own."""
ROUNDS = 60
STEP_S = 20.0
"""Seconds between two rounds: longer than most pauses, so that a test needs few rounds."""


class DatabaseWatch(Watch):
    """Raises what the jobs table raises."""

    def before(self, kind: str | None, run: Any) -> None:
        if kind == "outage":
            raise DatabaseUnavailable("database_unavailable", "The server closed the connection.")
        super().before(kind, run)

    def after(self, kind: str | None, run: Any) -> None:
        if kind == "lost":
            raise DatabaseUnavailable("database_unavailable", "The server closed the connection.")
        super().after(kind, run)


@dataclass
class Life:
    """Services one after another on the same systems, and the drivers of the cluster."""

    world: World
    monkeypatch: pytest.MonkeyPatch
    fault: Fault | None
    first_driver_dies: bool = False
    """The driver of every first attempt ends without a result."""
    works_until_canceled: bool = False
    """Drivers end when they find the abort marker, not before."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.fault)
        self.database = DatabaseWatch(self.fault)
        self.started: Counter[str] = Counter()
        self.submitted: dict[int, str] = {}
        """By number; only those that were answered."""
        self.jobs: dict[str, Any] | None = None

    def _watches(self) -> tuple[Watch, Watch]:
        return self.watch, self.database

    @property
    def is_dead(self) -> bool:
        return self.watch.dead or self.database.dead

    async def play(self, story: Callable[[Life, Plane], Awaitable[bool]]) -> list[dict[str, Any]]:
        """Run services until the story has ended and no job is left; return all jobs."""
        for number in range(3):
            if number:
                await self._let_leadership_expire()
                self.watch, self.database = Watch(None), DatabaseWatch(None)
            jobs = await self._serve(story)
            if jobs is not None:
                return jobs
        raise AssertionError("the jobs never end")

    async def _let_leadership_expire(self) -> None:
        store = await JobStore.open(self.world.settings().sqlalchemy_url)
        async with store.database.writing() as connection:
            await connection.execute(sa.update(dispatchers).values(expires_at=store.database.now(-1.0)))
        await store.close()

    async def _serve(self, story: Callable[[Life, Plane], Awaitable[bool]]) -> list[dict[str, Any]] | None:
        open_store = JobStore.open
        database = self.database

        async def open_watched(url: str, **options: Any) -> Any:
            return Watched(await open_store(url, **options), "database", database)

        class Opener:
            open = staticmethod(open_watched)

        world = self.world
        parts = world.parts(
            now=world.clock,
            state=Watched(world.state, "state", self.watch),
            engines={name: Watched(engine, "engine", self.watch) for name, engine in world.parts().engines.items()},
        )
        with self.monkeypatch.context() as patch:
            patch.setattr(context, "JobStore", Opener)
            try:
                async with world.serve(parts) as plane:
                    for _ in range(ROUNDS):
                        if await self._round(plane, story):
                            assert self.jobs is not None
                            return list(self.jobs["items"])
            except (Crash, BaseExceptionGroup):
                assert self.is_dead
        assert self.is_dead, "the jobs do not end"
        return None

    async def _round(self, plane: Plane, story: Callable[[Life, Plane], Awaitable[bool]]) -> bool:
        told = await story(self, plane)
        with contextlib.suppress(Exception):  # the service logs it and goes on with the next round
            await plane.look(1)
        if self.is_dead:
            raise Crash
        self._drive()
        self.world.clock.skip(STEP_S)
        self.jobs = await self.call(plane, "GET", "/jobs")
        return told and self.jobs is not None and all(job["finished_at"] for job in self.jobs["items"])

    async def call(self, plane: Plane, method: str, path: str, **request: Any) -> dict[str, Any] | None:
        """Return the answer to a request; None when it has to be sent again."""
        answer = await plane.client.request(method, path, **request)
        if self.is_dead:
            raise Crash
        assert answer.status_code < 300 or answer.status_code >= 500, answer.text
        return answer.json() if answer.status_code < 300 else None

    def _drive(self) -> None:
        """Let every driver on the cluster do one thing."""
        engine = self.world.engine
        for reference, state in list(engine.attempts.items()):
            job_id, attempt = reference[:-3], int(reference[-2:])
            if state is EngineState.PENDING:
                self.started[reference] += 1
                engine.progress(job_id, attempt)
            elif state is EngineState.RUNNING and attempt == 1 and self.first_driver_dies:
                engine.die(job_id, attempt)
            elif state is EngineState.RUNNING:
                canceled = Ledger(self.world.state, job_id).is_aborted()
                if canceled or not self.works_until_canceled:
                    engine.finish(job_id, "canceled" if canceled else "succeeded", attempt)
        running = [ref for ref, state in engine.attempts.items() if state is EngineState.RUNNING]
        specs = [Ledger(self.world.state, ref[:-3]).read_spec().request.collection for ref in running]
        assert len(specs) == len(set(specs)), "two drivers work on one collection"


async def submit(life: Life, plane: Plane, number: int, collection: str) -> str | None:
    """Submit a job unless that was answered before; return its id, None when it has to be submitted again."""
    if number not in life.submitted:
        request = {"json": {**BODY, "collection": collection}, "headers": {"Idempotency-Key": f"key-{number}"}}
        answer = await life.call(plane, "POST", "/ray/jobs", **request)
        if answer is None:
            return None
        life.submitted[number] = str(answer["job_id"])
    return life.submitted[number]


async def three_jobs(life: Life, plane: Plane) -> bool:
    """Two jobs on one collection and one on another."""
    return all([await submit(life, plane, n, name) is not None for n, name in enumerate(("a", "a", "b"))])


async def canceled_job(life: Life, plane: Plane) -> bool:
    """One job, canceled as soon as it runs."""
    job_id = await submit(life, plane, 1, "a")
    if job_id is None:
        return False
    job = await life.call(plane, "GET", f"/jobs/{job_id}")
    if job is None or job["state"] in {"queued", "submitted"}:
        return False
    return await life.call(plane, "POST", f"/jobs/{job_id}/cancel") is not None


async def one_job(life: Life, plane: Plane) -> bool:
    return await submit(life, plane, 1, "a") is not None


STORIES = {"three jobs": three_jobs, "canceled": canceled_job, "driver dies": one_job}


async def run(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault | None
) -> tuple[list[Step], list[Any]]:
    """Play one story; return all steps and how the jobs ended."""
    world = World(folder)
    life = Life(world, monkeypatch, fault, name == "driver dies", name == "canceled")
    watches = life._watches()
    jobs = await life.play(STORIES[name])
    assert fault is None or any(watch.met for watch in watches), "the step was not found again"
    assert all(count == 1 for count in life.started.values()), life.started
    left = [ref for ref, state in world.engine.attempts.items() if state is not EngineState.ENDED]
    assert not left, "a driver without a job"
    ended = sorted((job["collection"], job["state"], job["attempt"]) for job in jobs)
    steps = sorted(step for watch in watches for step in watch.steps if "_dispatch " not in step.call)
    return steps, ended


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("part", PARTS)
async def test_a_fault_at_any_call_of_the_service_changes_no_end(
    name: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slice of all calls and faults."""
    steps, expected = await run(name, tmp_path / "undisturbed", monkeypatch, None)
    runs = [(kind, step) for step in steps for kind in KINDS]
    chosen = [run for run in runs if zlib.crc32(repr(run).encode()) % SLICES == part]
    assert len(chosen) > 5
    broken = {}
    for number, (kind, step) in enumerate(chosen):
        try:
            _, ended = await run(name, tmp_path / str(number), monkeypatch, Fault(kind, step))
            assert ended == expected
        except BaseException as error:
            broken[f"{kind}: {step}"] = f"{type(error).__name__}: {error}".split("\n")[0]
    assert not broken
