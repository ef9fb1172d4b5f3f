"""The job store: only rows that changed are read, writers take turns, submissions share a commit and fail alone."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from ingestion_engine.services.dispatcher import ActiveJobs
from ingestion_engine.services.job_states import JobEvent
from ingestion_engine.services.job_store import IdempotencyTaken, JobFilter, JobStore
from support.control import queued


async def test_only_rows_that_changed_are_read_again(tmp_path: Path) -> None:
    """Whoever changed them, another copy of the service included; what has ended is left out."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    store, other = await JobStore.open(url), await JobStore.open(url)
    try:
        active = ActiveJobs(store)
        for number in (2, 1, 3):
            await store.insert(queued(number, f"c{number}"))
        first = await active.read()
        assert [job.id for job in first] == ["job-1", "job-2", "job-3"]
        await other.change(first[0], JobEvent.CANCEL_WAITING, finished_at=first[0].created_at)
        await other.note_waiting({"job-1": "too late", "job-3": "waits"})
        second = await active.read()
        assert [(job.id, job.note) for job in second] == [("job-2", None), ("job-3", "waits")]
        assert second[0] is first[1]
        assert second == await store.list_active() == await ActiveJobs(other).read()
    finally:
        await store.close()
        await other.close()


async def test_writers_of_one_process_take_turns(tmp_path: Path) -> None:
    """A hundred submissions at once are all stored, though SQLite knows one writer and we wait for none."""
    store = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    try:
        event.listen(store.database.engine.sync_engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout=0"))
        await store.database.engine.dispose()
        await asyncio.gather(*(store.insert(queued(number, "c")) for number in range(100)))
        assert len(await store.list_active()) == 100
    finally:
        await store.close()


async def test_submissions_that_share_a_commit_fail_alone(tmp_path: Path) -> None:
    """Of several with one idempotency key one is stored, the others learn which; those beside them are all stored."""
    store = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    try:
        jobs = [queued(number, "c", idempotency_key="same" if number % 2 else None) for number in range(6)]
        outcomes = await asyncio.gather(*(store.insert(job) for job in jobs), return_exceptions=True)
        taken = [outcome.first.id for outcome in outcomes if isinstance(outcome, IdempotencyTaken)]
        assert taken == ["job-1", "job-1"]
        assert outcomes.count(None) == 4
        assert {job.id for job in await store.list_active()} == {"job-0", "job-1", "job-2", "job-4"}
    finally:
        await store.close()


async def test_a_submission_whose_caller_gives_up_keeps_no_other_from_its_commit(tmp_path: Path) -> None:
    """The rest of the batch is stored all the same."""
    store = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    try:
        inserts = [asyncio.create_task(store.insert(queued(number, "c"))) for number in range(3)]
        await asyncio.sleep(0)
        inserts[0].cancel()
        await asyncio.gather(*inserts[1:])
        assert {"job-1", "job-2"} <= {job.id for job in await store.list_active()}
    finally:
        await store.close()


@pytest.mark.parametrize(
    "where",
    [JobFilter(), JobFilter(created_after=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)), JobFilter(collection="c")],
    ids=["all", "since", "collection"],
)
async def test_the_newest_jobs_are_found_by_an_index_of_their_order(tmp_path: Path, where: JobFilter) -> None:
    """SQLite sorts no table for a page: of 100,000 jobs, that took a second."""
    store = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    seen: list[tuple[str, Any]] = []
    try:
        engine = store.database.engine.sync_engine
        event.listen(engine, "before_cursor_execute", lambda *call: seen.append((call[2], call[3])))
        await store.list_page(where, limit=50, cursor=None)
        statement, values = next(one for one in seen if "ORDER BY" in one[0])
        async with store.database.reading() as connection:
            plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)).all()
    finally:
        await store.close()
    steps = " ".join(step[-1] for step in plan)
    assert "ix_jobs_collection" in steps if where.collection else "ix_jobs_created" in steps
    assert "TEMP B-TREE" not in steps or where.collection
