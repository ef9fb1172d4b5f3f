"""Followers of one job: processor time of the service, memory, and what a probe waits meanwhile.

Usage: bench_event_streams.py [--followers 2000] [--source PATH/src of another release] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.hostile import Client, many, probe, request, run_service


async def measure(port: int, process: psutil.Process, path: str, *, followers: int, seconds: float) -> None:
    """Print what the service takes while followers are idle, and what a probe waits."""

    async def follow(client: Client) -> None:
        client.send(request("GET", path))
        await client.reader.readuntil(b"event: state")

    before = await probe(port, 20)
    began = time.monotonic()
    async with many(port, followers, follow):
        opened_s = time.monotonic() - began
        used, began = sum(process.cpu_times()[:2]), time.monotonic()
        waits: list[float] = []
        while time.monotonic() - began < seconds:
            waits += await probe(port, 10)
        share = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began)
        memory = process.memory_info().rss / 1e6
    ordered = sorted(waits)
    print(f"followers {followers}, opened in {opened_s:.1f} s")
    print(f"processor {share:.1%} of a core, memory {memory:.0f} MB")
    print(f"probe alone: median {sorted(before)[10] * 1e3:.1f} ms, longest {max(before) * 1e3:.1f} ms")
    print(
        f"probe meanwhile ({len(waits)}): median {ordered[len(ordered) // 2] * 1e3:.1f} ms, "
        f"99 % {ordered[int(len(ordered) * 0.99)] * 1e3:.1f} ms, longest {ordered[-1] * 1e3:.1f} ms"
    )


def main() -> None:
    """Run the service and its followers on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--followers", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--source", type=Path)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fast = {"INGEST_LIMITS__REQUESTS_PER_SECOND": "100000", "INGEST_LIMITS__ADDRESS_REQUESTS_PER_SECOND": "100000"}
    with tempfile.TemporaryDirectory() as folder, run_service(Path(folder), source=given.source, **fast) as service:
        body = {"source": {"bucket": "docs"}, "collection": "notes"}
        job_id = httpx.post(f"{service.url}/ray/jobs", json=body, timeout=30).json()["job_id"]
        port, process = service.ports["http"], psutil.Process(service.process.pid)
        path = f"/jobs/{job_id}/events"
        asyncio.run(measure(port, process, path, followers=given.followers, seconds=given.seconds))


if __name__ == "__main__":
    main()
