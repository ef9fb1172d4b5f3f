"""A drained service starts no job, in none of its copies, and loses none."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.cli import app as command
from ingestion_engine.cli import drain as drain_command
from ingestion_engine.cli.output import ExitCode, run_app
from ingestion_engine.client import ApiUnreachable, IngestClient
from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.models.operations import DrainView
from ingestion_engine.services.job_drain import KNOWN_S, DrainSwitch
from ingestion_engine.services.job_states import JobEvent
from ingestion_engine.services.job_store import JobStore
from support.control import World, queued


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_no_waiting_job_starts_until_the_drain_ends(world: World) -> None:
    """Those under way end; new ones are accepted and say why they wait."""
    async with world.serve() as plane:
        running = await plane.submit()
        await plane.look()
        answer = await plane.client.put("/drain", json={"reason": "Kubernetes is upgraded"})
        assert answer.json()["draining"]
        assert [job["job_id"] for job in answer.json()["jobs"]] == [running]
        waiting = await plane.submit(collection="others")
        await plane.look()
        job = await plane.job(waiting)
        assert job["state"] == "queued"
        assert job["note"].startswith("Draining since ")
        assert "(Kubernetes is upgraded)" in job["note"]
        assert plane.services.dispatcher is not None
        assert plane.services.dispatcher.waiting[waiting].reason == "draining"
        world.engine.finish(running)
        await plane.look()
        assert (await plane.job(running))["state"] == "succeeded"
        status = (await plane.client.get("/drain")).json()
        assert (status["under_way"], status["waiting"], status["jobs"]) == (0, 1, [])
        assert world.engine.submits == [f"{running}-01"]
        assert not (await plane.client.delete("/drain")).json()["draining"]
        await plane.look()
        assert (await plane.job(waiting))["state"] == "submitted"


async def test_a_job_under_way_whose_driver_died_goes_on(world: World) -> None:
    """Its next driver starts: otherwise the service would never be drained."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        await plane.client.put("/drain")
        world.engine.die(job_id)
        await plane.look()
        world.clock.skip(60)
        await plane.look(4)
        assert world.engine.submits == [f"{job_id}-01", f"{job_id}-02"]


async def test_the_order_outlives_the_service_and_is_seen_by_all_copies(world: World) -> None:
    """Also by their metrics and /readyz, which stays ready."""
    async with world.serve() as plane:
        since = (await plane.client.put("/drain")).json()["drain"]["since"]
    async with world.serve() as first, world.serve() as second:
        await first.submit()
        await first.look()
        assert world.engine.submits == []
        for plane in (first, second):
            ready = (await plane.client.get("/readyz")).json()
            assert (ready["status"], ready["drain"]["since"]) == ("ready", since)
            assert "ingest_draining 1.0" in (await plane.client.get("/metrics")).text
        changed = (await second.client.put("/drain", json={"refuse": True})).json()["drain"]
        assert (changed["since"], changed["refuses"]) == (since, True)
        await second.client.delete("/drain")
        assert (await second.client.get("/readyz")).json()["drain"] is None
        assert "ingest_draining 0.0" in (await second.client.get("/metrics")).text


async def test_with_refuse_new_jobs_are_refused(world: World) -> None:
    """Retries too; a repeated request with a key still finds its job."""
    async with world.serve() as plane:
        body = {"source": {"bucket": "docs"}, "collection": "notes"}
        key = {"Idempotency-Key": "once"}
        first = (await plane.client.post("/ray/jobs", json=body, headers=key)).json()["job_id"]
        await plane.client.put("/drain", json={"refuse": True})
        await plane.client.post(f"/jobs/{first}/cancel")
        for path, sent in (("/ray/jobs", body), (f"/jobs/{first}/retry", None)):
            answer = await plane.client.post(path, json=sent)
            assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        again = await plane.client.post("/ray/jobs", json=body, headers=key)
        assert (again.status_code, again.json()["job_id"]) == (202, first)


async def test_a_job_is_not_admitted_by_a_round_that_began_before_the_order(world: World) -> None:
    """The database decides in the statement that admits."""
    store = await JobStore.open(world.settings().sqlalchemy_url)
    await store.insert(queued(1, "notes"))
    job = await store.get("job-1")
    assert job is not None
    lead = await store.hold_dispatch("one", 60)
    switch = DrainSwitch(store)
    await switch.set()
    columns = {"admitted_at": store.now(), "attempt": 1}
    assert await store.change(job, JobEvent.ADMIT, lead=lead, **columns) is None
    await switch.clear()
    assert await store.change(job, JobEvent.ADMIT, lead=lead, **columns) is not None
    await store.close()


async def test_only_an_unrestricted_key_drains(world: World, tmp_path: Path) -> None:
    """Who asks without one sees neither the reason nor who gave the order."""
    keys = [("team", ["docs-*"]), ("admin", ["*"])]
    entries = [
        {"name": name, "key_sha256": hashlib.sha256(name.encode()).hexdigest(), "buckets": buckets}
        for name, buckets in keys
    ]
    (tmp_path / "keys.json").write_text(json.dumps(entries))
    async with world.serve(api={"keys_file": tmp_path / "keys.json"}) as plane:
        for method in ("GET", "PUT", "DELETE"):
            answer = await plane.client.request(method, "/drain", headers={"Authorization": "Bearer team"})
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
            assert (await plane.client.request(method, "/drain")).status_code == 401
        admin = {"Authorization": "Bearer admin"}
        found = (await plane.client.put("/drain", json={"reason": "secret"}, headers=admin)).json()
        assert found["drain"]["requested_by"] == "admin"
        shown = (await plane.client.get("/readyz")).json()["drain"]
        assert (shown["reason"], shown["requested_by"]) == (None, None)


async def test_a_probe_does_not_wait_for_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered with what was known; the answer that comes late serves the next one."""
    store = await JobStore.open(world.settings().sqlalchemy_url)
    now = [0.0]
    switch = DrainSwitch(store, clock=lambda: now[0])
    await switch.set(reason="one")
    read, come = switch.read, asyncio.Event()

    async def hang() -> Any:
        await come.wait()
        return await read()

    await DrainSwitch(store).clear()
    monkeypatch.setattr(switch, "read", hang)
    assert (known := await switch.peek()) is not None
    assert known.reason == "one"
    now[0] += KNOWN_S
    assert await switch.peek() == known
    come.set()
    assert await switch.peek() is None

    async def fail() -> Any:
        raise DatabaseUnavailable("database_unavailable", "It is away.")

    monkeypatch.setattr(switch, "read", fail)
    now[0] += KNOWN_S
    assert await switch.peek() is None
    await store.close()


class ScriptedClient(IngestClient):
    """A client whose answers to ``get_drain`` a test sets; None means that the service is unreachable."""

    def __init__(self, under_way: list[int | None]) -> None:
        super().__init__("http://localhost")
        self.under_way = under_way

    def get_drain(self) -> DrainView:
        number = self.under_way.pop(0)
        if number is None:
            raise ApiUnreachable("It restarts.")
        return make_status(number)

    def start_drain(self, *, refuse: bool = False, reason: str | None = None) -> DrainView:
        return self.get_drain()


def make_status(under_way: int) -> DrainView:
    job = {"job_id": "job-1", "engine": "ray", "collection": "notes", "state": "running"}
    order = {"since": "2026-06-01T00:00:00Z", "refuses": False}
    status = {"draining": True, "drain": order, "under_way": under_way, "waiting": 2, "jobs": [job] * under_way}
    return DrainView.model_validate(status)


def test_the_command_waits_until_nothing_is_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice in a row, also over a restart of the service; every change is a line."""
    now = [0.0]
    monkeypatch.setattr(drain_command.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(drain_command.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    client = ScriptedClient([1, 1, None, 0, 1, 0, 0])
    monkeypatch.setattr(drain_command, "open_client", lambda _url: client)
    assert run_app(command, ["drain", "--wait"]) == ExitCode.SUCCEEDED
    assert client.under_way == []
    lines = capsys.readouterr().out.splitlines()
    busy, idle = "draining: 1 under way, 2 waiting: job-1 running (notes)", "draining: 0 under way, 2 waiting"
    assert lines == [busy, idle, busy, idle]
    client.under_way = [1] * 20
    assert run_app(command, ["drain", "--wait", "--timeout", "7"]) == ExitCode.UNEXPECTED
    assert "ingest drain --off" in capsys.readouterr().err
    client.under_way = [1, *[None] * 99]
    assert run_app(command, ["drain", "--wait"]) == ExitCode.UNREACHABLE


@pytest.mark.parametrize("arguments", [["--off", "--wait"], ["--off", "--refuse"], ["--status", "--reason", "x"]])
def test_options_that_contradict_each_other_are_refused(arguments: list[str]) -> None:
    """Before anything is asked of the service."""
    assert run_app(command, ["drain", *arguments]) == ExitCode.USAGE
