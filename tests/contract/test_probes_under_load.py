"""A service that many follow, or where many try keys, answers its probes.

How fast: benchmarks/bench_event_streams.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.control import bearer, write_keys
from support.hostile import Client, many, probe, request, run_service
from support.servers import RunningServer
from support.waiting import eventually

FAST = {"INGEST_LIMITS__REQUESTS_PER_SECOND": "100000", "INGEST_LIMITS__ADDRESS_REQUESTS_PER_SECOND": "100000"}
NAMES = ("admin", "other")


@contextlib.contextmanager
def many_files(number: int) -> Iterator[None]:
    """Allow this process, and what it starts, so many open files."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert number <= most, f"the drill needs {number} open files: ulimit -Hn is {most}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, number), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def count(service: RunningServer, metric: str) -> float:
    """Return a number of the service's metrics."""
    text = httpx.get(f"{service.url}/metrics", headers=bearer("admin"), timeout=30).text
    found = re.search(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.nightly)])
async def test_probes_are_answered_while_many_follow(tmp_path: Path, number: int) -> None:
    """While they come, are idle, and leave all at once; then nothing of them is left."""

    async def follow(client: Client) -> None:
        client.send(request("GET", path))
        await client.reader.readuntil(b"event: state")

    with many_files(number + 500), run_service(tmp_path, **FAST) as service:
        port = service.ports["http"]
        body = {"source": {"bucket": "docs"}, "collection": "notes"}
        answer = await asyncio.to_thread(httpx.post, f"{service.url}/ray/jobs", json=body, timeout=30)
        job_id = answer.json()["job_id"]
        path = f"/jobs/{job_id}/events"
        async with many(port, number, follow):
            await probe(port, 20)
            assert count(service, "ingest_http_streams") == number
        await probe(port, 20)
        await eventually(lambda: count(service, "ingest_http_streams") == 0)


async def test_probes_are_answered_while_keys_are_guessed(tmp_path: Path) -> None:
    """Few guesses are heard at all; who was known before goes on, and so do those without a credential."""
    keys = write_keys(tmp_path, *({"name": name} for name in NAMES))
    statuses: Counter[int] = Counter()

    async def guess(number: int) -> None:
        async with Client(port) as client:
            for guessed in range(50):
                key = f"Authorization: Bearer guess-{number}-{guessed}"
                client.send(request("GET", "/jobs", key))
                head = await client.reader.readuntil(b"\r\n\r\n")
                statuses[int(head.split()[1])] += 1
                size = re.search(rb"content-length: ([0-9]+)", head.lower())
                assert size is not None
                await client.reader.readexactly(int(size[1]))

    with run_service(tmp_path, INGEST_API__KEYS_FILE=str(keys), **FAST) as service:
        port = service.ports["http"]

        def ask(name: str) -> int:
            return httpx.get(f"{service.url}/jobs", headers=bearer(name), timeout=30).status_code

        assert ask("admin") == 200
        flood = [asyncio.create_task(guess(number)) for number in range(10)]
        await probe(port, 20)
        await asyncio.gather(*flood)
        assert set(statuses) == {401, 429}
        assert statuses[429] > statuses[401]
        assert await asyncio.to_thread(ask, "admin") == 200
        assert count(service, 'ingest_http_requests_limited_total{limit="failed_logins"}') >= statuses[429]
