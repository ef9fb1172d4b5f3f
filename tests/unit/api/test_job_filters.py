"""Filters of jobs and of failures, retries of some codes, and what a job's view says about its time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.failure_hints import FAILURE_HINTS
from ingestion_engine.state import failures as failures_module
from ingestion_engine.state.ledger import Ledger
from support.control import Plane, World, bearer, overwrite, write_keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def ids(plane: Plane, query: str, **headers: Any) -> list[str]:
    answer = await plane.client.get(f"/jobs?{query}", **headers)
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()["items"]]


async def test_jobs_are_found_by_owner_and_time(world: World, tmp_path: Path) -> None:
    """A restricted key finds nothing of others, whatever owner it asks for."""
    keys = write_keys(tmp_path, {"name": "admin"}, {"name": "team", "buckets": ["docs"]})
    async with world.serve(api={"keys_file": keys}) as plane:
        found = []
        for number, owner in enumerate(["admin", "team", "admin"]):
            body = {"source": {"bucket": "docs"}, "collection": f"c{number}"}
            answer = await plane.client.post("/ray/jobs", json=body, headers=bearer(owner))
            found.append(answer.json()["job_id"])
            created = dt.datetime(2026, 1, 1 + number, tzinfo=dt.UTC)
            await overwrite(plane.services.store, found[-1], created_at=created)
        admin = {"headers": bearer("admin")}
        assert await ids(plane, "owner=team", **admin) == [found[1]]
        assert await ids(plane, "owner=nobody", **admin) == []
        assert await ids(plane, "owner=admin", headers=bearer("team")) == []
        assert await ids(plane, "created_after=2026-01-02T00:00:00Z", **admin) == [found[2], found[1]]
        assert await ids(plane, "created_before=2026-01-02T00:00:00Z", **admin) == [found[0]]
        assert await ids(
            plane, "created_after=2026-01-01T12:00:00%2B02:00&created_before=2026-01-02T12:00:00Z", **admin
        )
        for value in ("yesterday", "2026-01-01T00:00:00", "0001-01-01T00:00:00%2B01:00", "1767225600"):
            refused = await plane.client.get(f"/jobs?created_after={value}", **admin)
            assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")
        assert (await plane.client.get("/jobs?owner=a%00", **admin)).status_code == 422


def write_failures(world: World, job_id: str, codes: list[str]) -> None:
    failed = [
        {"key": f"{number:06d}.pdf", "code": code, "reason": "r", "retryable": False}
        for number, code in enumerate(codes)
    ]
    Ledger(world.state, job_id).write_failures("a01-00001", failed)


async def test_failures_of_one_code_are_listed_and_retried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request reads a bounded number of failures; pages before the end may be short. Each has a hint."""
    monkeypatch.setattr(failures_module, "SCANNED", 4)
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        write_failures(world, job_id, ["no_text", *["corrupt_document"] * 9, "no_text"])
        world.engine.finish(job_id, "partially_succeeded")
        await plane.look()
        keys, cursor, pages = [], "", 0
        while cursor is not None and (pages := pages + 1):
            query = f"code=no_text&limit=5{cursor and '&cursor=' + cursor}"
            page = (await plane.client.get(f"/jobs/{job_id}/failures?{query}")).json()
            keys += [item["key"] for item in page["items"]]
            assert {item["hint"] for item in page["items"]} <= {FAILURE_HINTS["no_text"]}
            cursor = page["next_cursor"]
        assert (keys, pages) == (["000000.pdf", "000010.pdf"], 3)

        retry = await plane.client.post(f"/jobs/{job_id}/retry?code=no_text", headers={"Idempotency-Key": "k"})
        assert retry.status_code == 202
        record = await plane.services.jobs.get(retry.json()["job_id"])
        assert record.only_keys_path is not None
        assert world.state.values[record.only_keys_path].data == b'["000000.pdf","000010.pdf"]'
        again = await plane.client.post(f"/jobs/{job_id}/retry?code=no_text", headers={"Idempotency-Key": "k"})
        assert again.json()["job_id"] == retry.json()["job_id"]
        other = await plane.client.post(f"/jobs/{job_id}/retry", headers={"Idempotency-Key": "k"})
        assert other.json()["code"] == "idempotency_conflict"
        none = await plane.client.post(f"/jobs/{job_id}/retry?code=parse_failed")
        assert (none.status_code, none.json()["code"]) == (409, "nothing_to_retry")
        assert "'parse_failed'" in none.json()["detail"]


async def test_a_job_shows_its_throughput_and_what_limits_it(world: World) -> None:
    """Samples are in the job itself, not in lists; those of a defect are left out."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        timings = {"stage_seconds": {"embed": 30.0, "parse": 10.0}}
        samples = [[1_767_225_600.0, 0, 0, 0], [1_767_225_601.5, 20, 1000, 2]]
        world.engine.progress(job_id, timings=timings, throughput={"every_s": 1, "samples": samples})
        await plane.look()
        await overwrite(plane.services.store, job_id, started_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        job = await plane.job(job_id)
        assert job["throughput"][1] == {"at": "2026-01-01T00:00:01.500Z", "chunks": 20, "bytes": 1000, "objects": 2}
        assert [one["machine"] for one in job["limited_by"]] == ["embedder", "workers"]
        assert (await plane.client.get("/jobs")).json()["items"][0]["throughput"] is None
        world.engine.progress(job_id, throughput={"samples": [["x", 0, 0, 0]]})
        await plane.look()
        assert (await plane.job(job_id))["throughput"] is None
