"""Followers of jobs: one reader for all of them, and nobody waits for a slow one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.domain.records import EmbeddingWait
from ingestion_engine.domain.states import JobState
from ingestion_engine.services import job_feed
from ingestion_engine.services.job_feed import WAKES, Follower, JobFeed, JobUpdate
from ingestion_engine.services.job_records import JobRecord
from support.control import World, queued
from support.waiting import eventually


class Rows:
    """In place of the jobs table: rows that a test changes, and how often they were read."""

    def __init__(self, *jobs: JobRecord) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.reads: list[list[str]] = []
        self.unreadable: dict[str, str] = {}
        self.fails: Exception | None = None

    async def get_many(self, ids: list[str]) -> list[JobRecord]:
        self.reads.append(sorted(ids))
        if self.fails is not None:
            raise self.fails
        return [self.jobs[job_id] for job_id in ids if job_id in self.jobs]

    def change(self, job_id: str, **values: Any) -> None:
        job = self.jobs[job_id]
        self.jobs[job_id] = replace(job, revision=job.revision + 1, **values)


class Waits:
    """In place of what is known of the gateways."""

    def __init__(self) -> None:
        self.by_job: dict[str, EmbeddingWait] = {}

    async def find(self, *_jobs: JobRecord) -> dict[str, EmbeddingWait]:
        return self.by_job


class Bench:
    """A feed over rows."""

    def __init__(self, *jobs: JobRecord) -> None:
        self.rows, self.waits, self.closing = Rows(*jobs), Waits(), asyncio.Event()
        self.feed = JobFeed(self.rows, self.waits, self.closing)  # type: ignore[arg-type]  # what it uses of both

    def follow(self, job_id: str = "job-1", known: str | None = None) -> Follower:
        return self.feed.follow(self.rows.jobs[job_id], known=known)


async def take(follower: Follower) -> JobUpdate:
    """Return the next update."""
    async with asyncio.timeout(30):
        update = await anext(follower)
    assert update is not None
    return update


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(job_feed, "POLL_S", 0.005)
    return Bench(queued(1, "a"), queued(2, "b"))


def job_ids(bench: Bench) -> tuple[str, str]:
    first, second = bench.rows.jobs
    return first, second


async def test_one_read_serves_all_followers(bench: Bench) -> None:
    """Whatever their number, and all jobs in one query; a change reaches each of them once."""
    first, second = job_ids(bench)
    followers = [bench.follow(first) for _ in range(3 * WAKES)]
    other = bench.follow(second)
    for follower in (*followers, other):
        assert (await take(follower)).job.state is JobState.QUEUED
    taking = [asyncio.create_task(take(follower)) for follower in followers]
    waiting = asyncio.create_task(take(other))
    before = len(bench.rows.reads)
    bench.rows.change(first, note="news")
    updates = await asyncio.gather(*taking)
    assert len({id(update) for update in updates}) == 1
    assert updates[0].job.note == "news"
    assert not waiting.done()
    assert len(bench.rows.reads) - before <= 3
    assert {tuple(ids) for ids in bench.rows.reads} == {tuple(sorted((first, second)))}
    waiting.cancel()


async def test_nobody_reads_for_nobody(bench: Bench) -> None:
    """The task ends with the last follower, and begins again with the next."""
    first, _ = job_ids(bench)
    follower = bench.follow(first)
    await eventually(lambda: bench.rows.reads)
    follower.close()
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "_poll_regularly" in repr(task)])
    again = bench.follow(first)
    reads = len(bench.rows.reads)
    await eventually(lambda: len(bench.rows.reads) > reads)
    again.close()


async def test_a_slow_follower_gets_the_newest(bench: Bench) -> None:
    """What was replaced meanwhile is not kept for it."""
    first, _ = job_ids(bench)
    slow, fast = bench.follow(first), bench.follow(first)
    for number in range(5):
        await take(fast)
        bench.rows.change(first, note=str(number))
    assert (await take(fast)).job.note == "4"
    assert (await take(slow)).job.note == "4"


async def test_what_clients_do_not_see_is_no_change(bench: Bench) -> None:
    """Only the revision, and when the job is checked again; what it waits for is one."""
    first, _ = job_ids(bench)
    follower = bench.follow(first)
    initial = await take(follower)
    taking = asyncio.create_task(take(follower))
    bench.rows.change(first, next_look_at=initial.job.created_at)
    reads = len(bench.rows.reads)
    await eventually(lambda: len(bench.rows.reads) > reads + 2)
    assert not taking.done()
    bench.waits.by_job = {first: EmbeddingWait()}
    assert (await taking).wait == EmbeddingWait()


async def test_a_version_is_the_same_in_every_copy(tmp_path: Path) -> None:
    """It is that of the content as it is read from the database; a client that has it receives nothing."""
    world = World(tmp_path)
    async with world.serve() as plane:
        job_id = await plane.submit()
        one, other = await plane.services.store.get(job_id), await plane.services.store.get(job_id)
        assert one is not None
        assert other is not None
        assert JobUpdate.of(one, None).version == JobUpdate.of(replace(other, revision=9), None).version
        assert JobUpdate.of(one, None).version != JobUpdate.of(replace(other, note="news"), None).version
        assert JobUpdate.of(one, None).version != JobUpdate.of(other, EmbeddingWait()).version


async def test_a_client_that_is_up_to_date_gets_no_repeated_update(bench: Bench) -> None:
    """And the next change all the same."""
    first, _ = job_ids(bench)
    version = (await take(bench.follow(first))).version
    follower = bench.follow(first, known=version)
    assert not follower.has_news
    taking = asyncio.create_task(take(follower))
    bench.rows.change(first, note="news")
    assert (await taking).job.note == "news"
    assert (await take(bench.follow(first, known=version))).job.note == "news"


async def test_followers_end_with_the_job_its_row_and_the_service(bench: Bench) -> None:
    """After its last update; a job that has ended already has one."""
    first, second = job_ids(bench)
    follower, removed = bench.follow(first), bench.follow(second)
    await take(follower)
    await take(removed)
    bench.rows.change(first, state=JobState.SUCCEEDED)
    assert (await take(follower)).job.state is JobState.SUCCEEDED
    assert [update async for update in follower] == []
    assert [update and update.job.state async for update in bench.follow(first)] == [JobState.SUCCEEDED]
    bench.rows.unreadable[second] = "damaged"
    del bench.rows.jobs[second]
    reads = len(bench.rows.reads)
    await eventually(lambda: len(bench.rows.reads) > reads + 2)  # a row that cannot be read may be repaired
    bench.rows.unreadable.clear()
    async with asyncio.timeout(30):
        assert [update async for update in removed] == []
    bench.rows.jobs[second] = queued(3, "c")
    last = bench.feed.follow(queued(3, "c"))
    await take(last)
    bench.closing.set()
    async with asyncio.timeout(30):
        assert [update async for update in last] == []


async def test_a_stream_outlives_an_outage_of_the_database(bench: Bench) -> None:
    """And an error that nobody has thought of."""
    first, _ = job_ids(bench)
    follower = bench.follow(first)
    await take(follower)
    for error in (DatabaseUnavailable("database_unavailable", "The database is unavailable."), ValueError("unthought")):
        bench.rows.fails = error
        reads = len(bench.rows.reads)
        await eventually(lambda reads=reads: len(bench.rows.reads) > reads + 1)  # type: ignore[misc]  # of a lambda
    bench.rows.fails = None
    bench.rows.change(first, note="back")
    assert (await take(follower)).job.note == "back"


async def test_silence_is_broken_by_heartbeats(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a proxy closes the connection."""
    monkeypatch.setattr(job_feed, "HEARTBEAT_S", 0.02)
    first, _ = job_ids(bench)
    follower = bench.follow(first)
    await take(follower)
    async with asyncio.timeout(30):
        assert [await anext(follower) for _ in range(2)] == [None, None]


async def test_followers_are_woken_a_few_at_a_time(bench: Bench) -> None:
    """In one round of the loop, so that others get their turn between."""
    first, _ = job_ids(bench)
    followers = [bench.follow(first) for _ in range(4 * WAKES)]
    for follower in followers:
        await take(follower)
    rounds = 0
    woken: list[int] = []

    async def note(follower: Follower) -> None:
        await take(follower)
        woken.append(rounds)

    tasks = [asyncio.create_task(note(follower)) for follower in followers]
    bench.rows.change(first, note="news")
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        rounds += 1
    assert max(woken.count(number) for number in set(woken)) <= WAKES
