"""The quota of waiting jobs over several copies of the service, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ingestion_engine.services import job_store, jobs
from ingestion_engine.services.database import STATEMENT_TIMEOUT_S
from ingestion_engine.services.job_store import IdempotencyTaken, JobStore, TooManyWaiting
from support.control import BODY, Plane, World, bearer, queued, write_keys
from support.postgres import Postgres
from support.waiting import eventually

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
async def copies(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Plane, Plane]]:
    """Two copies of the service on one database, in which one job of a key may wait."""
    world, keys = World(tmp_path), write_keys(tmp_path, {"name": "team"}, {"name": "other"})
    shared: dict[str, Any] = {"api": {"keys_file": keys}, "limits": {"queued_jobs_per_key": 1}}
    async with (
        world.serve(database_url=database_url, **shared) as one,
        world.serve(database_url=database_url, **shared) as two,
    ):
        yield one, two


def submit(plane: Plane, collection: str, key: str | None = None) -> asyncio.Task[httpx.Response]:
    """Begin to submit a job for the key of the team."""
    headers = {**bearer("team"), **({} if key is None else {"Idempotency-Key": key})}
    body = {**BODY, "collection": collection}
    return asyncio.create_task(plane.client.post("/ray/jobs", json=body, headers=headers))


@contextlib.contextmanager
def meeting(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Have that many submissions wait for each other when each has found a place, and before any is stored."""
    barrier, begin = asyncio.Barrier(number), jobs.begin_change

    async def begin_together(**facts: Any) -> None:
        async with asyncio.timeout(30):
            await barrier.wait()
        await begin(**facts)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "begin_change", begin_together)
        yield


async def test_copies_together_exceed_no_quota(copies: tuple[Plane, Plane], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have counted no waiting job when both go on to store one."""
    with meeting(monkeypatch, 2):
        answers = await asyncio.gather(submit(copies[0], "a"), submit(copies[1], "b"))
    assert Counter(answer.status_code for answer in answers) == {202: 1, 429: 1}
    refused = next(answer.json() for answer in answers if answer.status_code == 429)
    assert (refused["code"], refused["detail"][:7]) == ("quota_exceeded", "1 jobs ")
    accepted = next(answer.json()["job_id"] for answer in answers if answer.status_code == 202)
    assert [job.id for job in await copies[0].services.store.list_active()] == [accepted]


async def test_a_request_that_fills_the_quota_may_arrive_twice(
    copies: tuple[Plane, Plane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At two copies at once, or at one that has it behind another; both answers name the one job."""
    with meeting(monkeypatch, 2):
        answers = await asyncio.gather(submit(copies[0], "a", "key"), submit(copies[1], "a", "key"))
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["job_id"] for answer in answers}) == 1


async def test_requests_with_one_key_wait_behind_each_other(copies: tuple[Plane, Plane]) -> None:
    """The second finds the place taken, by its own job."""
    answers = await asyncio.gather(*(submit(copies[0], "a", "key") for _ in range(4)))
    assert [answer.status_code for answer in answers] == [202] * 4
    assert len({answer.json()["job_id"] for answer in answers}) == 1


async def test_a_crowd_at_many_copies_fills_every_quota_exactly(database_url: str) -> None:
    """Eight copies store jobs of four owners, with and without keys, and no two wait for each other forever."""
    stores = [await JobStore.open(database_url) for _ in range(8)]

    async def fill(copy: int, owner: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for number in range(4):
            key = None if number % 2 else f"key-{number}"  # the same in every copy
            job = queued(0, "c", owner=owner, idempotency_key=key)
            try:
                await stores[copy].insert_within(replace(job, id=f"{owner}-{copy}-{number}"), 5)
                found["stored"] += 1
            except TooManyWaiting as error:
                found[f"refused by {error.waiting}"] += 1
            except IdempotencyTaken as error:
                found["taken" if error.first.idempotency_key == key else "mixed up"] += 1
        return found

    owners = ("a", "b", "c", "d")
    try:
        async with asyncio.timeout(60):
            counted = await asyncio.gather(*(fill(copy, owner) for copy in range(8) for owner in owners))
        for place, owner in enumerate(owners):
            assert await stores[0].count_waiting(owner) == 5
            own = sum(counted[place :: len(owners)], Counter())
            assert (own["stored"], own.total()) == (5, 32)
            assert set(own) <= {"stored", "refused by 5", "taken"}
    finally:
        for store in stores:
            await store.close()


async def test_a_server_with_another_isolation_changes_nothing(postgres: Postgres) -> None:
    """A transaction that sees only what was committed at its beginning would count without those that it waited for."""
    level = "?options=-c%20default_transaction_isolation%3Dserializable"
    url = postgres.url(postgres.create_database(), level)
    stores = [await JobStore.open(url) for _ in range(4)]
    try:
        found = await asyncio.gather(
            *(store.insert_within(queued(number, "c", owner="a"), 1) for number, store in enumerate(stores)),
            return_exceptions=True,
        )
        assert found.count(None) == 1
        assert sum(isinstance(one, TooManyWaiting) for one in found) == 3
    finally:
        for store in stores:
            await store.close()


async def test_a_copy_that_stands_still_holds_up_its_owner_for_a_moment_and_nobody_else(postgres: Postgres) -> None:
    """PostgreSQL ends its transaction before those that wait for it give up."""
    assert job_store.TURN_IDLE_MS < STATEMENT_TIMEOUT_S * 1000
    store = await JobStore.open(url := postgres.url(postgres.create_database()))
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent), *sys.path])}
    command = [sys.executable, "-m", "support.stopping_copy", url, "pg_advisory_xact_lock", "1500"]
    process = subprocess.Popen(command, env=path)  # noqa: ASYNC220 - it returns at once
    try:
        await eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        same = asyncio.create_task(store.insert_within(queued(2, "a", owner="team"), 1))
        await store.insert_within(queued(3, "b", owner="other"), 1)
        assert not same.done()
        async with asyncio.timeout(STATEMENT_TIMEOUT_S):
            await same
        assert {job.id for job in await store.list_active()} == {"job-2", "job-3"}
    finally:
        process.kill()
        process.wait()
        await store.close()
