"""Both clients over real connections: the real service, proxies between, broken and slow servers, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from ingestion_engine.client import ApiUnreachable, AsyncIngestClient, JobRequest, Source, core
from support.answering import running, serving
from support.client_views import job_body
from support.clients import KINDS, AnyClient, problem
from support.control import World
from support.live_service import LiveService
from support.waiting import eventually, wait_for

REQUEST = JobRequest(source=Source(bucket="docs"), collection="notes")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LiveService]:
    with LiveService(World(tmp_path)) as service:
        yield service


def submit_running(client: AnyClient, service: LiveService) -> str:
    """Submit a job and let its driver start."""
    job_id: str = client.submit(REQUEST).job_id
    wait_for(lambda: client.get_job(job_id).state == "submitted", 20)
    service.world.engine.progress(job_id)
    wait_for(lambda: client.get_job(job_id).state == "running", 20)
    return job_id


def test_a_job_from_its_submission_to_its_end(service: LiveService, kind: str) -> None:
    """By events; every view is a change."""
    with AnyClient(kind, service.url) as client:
        job_id = submit_running(client, service)
        seen = []
        for job in client.watch(job_id):
            seen.append((job.state.value, job.counts.get("done")))
            if len(seen) == 1:
                service.world.engine.progress(job_id, counts={"planned": 10, "done": 5})
            elif len(seen) == 2:
                service.world.engine.finish(job_id)
        assert [seen[0], seen[1], seen[-1]] == [("running", 4), ("running", 5), ("succeeded", 10)]
        assert client.wait(job_id).progress is not None
        assert [job.job_id for job in client.iter_jobs(states=["succeeded"])] == [job_id]
        assert client.check_live() is None
        assert "ingest_" in client.read_metrics()


def test_waiting_survives_a_restart_of_the_service(service: LiveService, kind: str) -> None:
    """The job ends while the service is down; the same call returns it."""
    found: list[Any] = []
    with AnyClient(kind, service.url) as client:
        job_id = submit_running(client, service)
        waiting = threading.Thread(target=lambda: found.append(client.wait(job_id, timeout_s=60)))
        waiting.start()
        wait_for(lambda: service.connections > 0, 20)
        service.stop()
        service.world.engine.finish(job_id)
        assert waiting.is_alive()
        service.start()
        waiting.join(60)
    assert [job.state.value for job in found] == ["succeeded"]


class KeepingProxy(BaseHTTPRequestHandler):
    """A proxy that passes a response on when it has all of it."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    streams = 0

    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            type(self).streams += 1
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in {"host", "accept-encoding"}
        }
        with contextlib.suppress(OSError, httpx.HTTPError):
            answer = httpx.get(f"{self.upstream}{self.path}", headers=headers, timeout=30)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None: ...


def test_a_proxy_that_keeps_events_is_polled_around(
    service: LiveService, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is seen while it runs, although its events arrive at its end only."""
    monkeypatch.setattr(core, "STREAM_SILENCE_S", 0.3)
    monkeypatch.setattr(core, "POLL_S", 0.05)
    proxy = type("Proxy", (KeepingProxy,), {"upstream": service.url})
    with running(proxy) as url, AnyClient(kind, service.url) as direct, AnyClient(kind, url) as client:
        job_id = submit_running(direct, service)
        seen = []
        for job in client.watch(job_id):
            seen.append((job.state.value, job.counts.get("done")))
            if len(seen) == 1:
                service.world.engine.progress(job_id, counts={"planned": 10, "done": 7})
            elif job.counts.get("done") == 7:
                service.world.engine.finish(job_id)
        assert [seen[0], seen[1], seen[-1]] == [("running", 4), ("running", 7), ("succeeded", 10)]
        assert proxy.streams == 1


class Broken(BaseHTTPRequestHandler):
    """A server whose first answers break in different ways."""

    protocol_version = "HTTP/1.1"
    faults: list[str]
    keys: list[str | None]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.keys.append(self.headers.get("Idempotency-Key"))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "hang up":
            self.close_connection = True
            return
        body = {"job_id": "job-1", "engine": "ray", "state": "queued", "collection": "n", "alias": None}
        content = orjson.dumps({**body, "links": job_body()["links"]})
        if fault == "busy":
            content = orjson.dumps(problem(429, "rate_limited"))
        self.send_response(429 if fault == "busy" else 202)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut off":
            self.wfile.write(content[:20])
            self.close_connection = True
        else:
            self.wfile.write(content)
            self.close_connection = fault == "keep no promise"

    def log_message(self, *_: object) -> None: ...


def test_broken_connections_lead_to_one_job(kind: str) -> None:
    """The submission is sent again with its key: before, in the middle and after a response; a refusal for now too."""
    faults = ["hang up", "cut off", "busy", "keep no promise"]
    server = type("Server", (Broken,), {"faults": faults, "keys": []})
    with running(server) as url, AnyClient(kind, url) as client:
        assert client.submit(REQUEST).job_id == "job-1"
        assert len(server.keys) == 4
        assert len(set(server.keys)) == 1
        assert server.keys[0]
        assert client.submit(REQUEST).job_id == "job-1"  # its connection was closed after the last response
        assert server.keys[-1] != server.keys[0]


def test_a_slow_service_is_given_up(kind: str) -> None:
    """After the time-out, with a sentence."""
    release = threading.Event()

    def answer_late(_body: bytes) -> tuple[int, dict[str, Any]]:
        release.wait(20)
        return 200, job_body()

    with serving({"*": answer_late}) as url, AnyClient(kind, url, timeout_s=0.1, patience_s=0) as client:
        with pytest.raises(ApiUnreachable, match="is unreachable: "):
            client.get_job("job-1")
        release.set()


async def test_cancelling_a_wait_leaves_nothing(service: LiveService) -> None:
    """No task, no connection: neither in this process nor at the service."""
    async with AsyncIngestClient(service.url) as client:
        job_id = (await client.submit(REQUEST)).job_id
        before = asyncio.all_tasks()
        opened: list[httpx.Response] = []

        async def note(answer: httpx.Response) -> None:
            if answer.headers["content-type"].startswith("text/event-stream"):
                opened.append(answer)

        for make in (lambda: client.wait(job_id), lambda: _drain(client, job_id)):
            _http(client).event_hooks = {"response": [note]}  # after a cancellation it is another one
            waiting = [asyncio.create_task(make()) for _ in range(5)]
            await eventually(lambda: len(opened) == 5)
            opened.clear()
            for task in waiting:
                task.cancel()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in ended)
            gc.collect()
            await eventually(lambda: asyncio.all_tasks() == before)
            assert _streams(client) == 0
            await eventually(lambda: service.connections == 0)
        assert (await client.get_job(job_id)).job_id == job_id, "the client can still be used"
    await eventually(lambda: service.connections == 0)


async def test_many_jobs_are_waited_for_at_once(service: LiveService) -> None:
    """Each has its own stream; requests go on beside them."""
    async with AsyncIngestClient(service.url) as client:
        job_id = (await client.submit(REQUEST)).job_id
        waiting = [asyncio.create_task(client.wait(job_id, timeout_s=60)) for _ in range(120)]
        await eventually(lambda: _streams(client) == 120)
        assert (await client.get_job(job_id)).state in {"queued", "submitted"}
        await client.cancel(job_id)
        service.world.engine.finish(job_id, state="canceled")
        assert {job.state.value for job in await asyncio.gather(*waiting)} == {"canceled"}


async def test_leaving_an_iteration_closes_its_stream(service: LiveService) -> None:
    """With ``aclosing`` at once, without it when the iteration is collected."""
    async with AsyncIngestClient(service.url) as client:
        job_id = (await client.submit(REQUEST)).job_id
        async with contextlib.aclosing(client.watch(job_id)) as jobs:
            async for _ in jobs:
                break
        assert _streams(client) == 0
        async for _ in client.watch(job_id):
            break
        gc.collect()
        await eventually(lambda: _streams(client) == 0)


async def test_a_time_limit_of_asyncio_ends_a_wait(service: LiveService) -> None:
    """``asyncio.timeout`` around it works like its own."""
    async with AsyncIngestClient(service.url) as client:
        job_id = (await client.submit(REQUEST)).job_id
        for limit in (asyncio.timeout(0.3), contextlib.nullcontext()):
            with pytest.raises(TimeoutError):
                async with limit:
                    await client.wait(job_id, timeout_s=60 if isinstance(limit, asyncio.Timeout) else 0.3)


async def _drain(client: AsyncIngestClient, job_id: str) -> None:
    async for _ in client.watch(job_id):
        pass


def _streams(client: AsyncIngestClient) -> int:
    """Number of connections on which a response is being read."""
    pool = _http(client)._transport._pool  # type: ignore[attr-defined]  # of httpx's own transport
    return sum(not (connection.is_idle() or connection.is_closed()) for connection in pool.connections)


def _http(client: AsyncIngestClient) -> httpx.AsyncClient:
    return client._connections._now.http
