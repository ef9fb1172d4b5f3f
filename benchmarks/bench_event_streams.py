"""Followers of one job: processor time of the service, memory, and what a probe waits meanwhile.

Usage: bench_event_streams.py [--followers 2000] [--source PATH/src of another release] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import select
import socket
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.hostile import Client, many, request, run_service

LEAVE_S = 3.0
"""How long probes go on after all followers have left."""


PAUSE_S = 0.02
"""Between two probes."""


def probe_until_told(port: int) -> None:
    """Print the seconds of each probe until standard input ends: in a process of its own, which is not busy itself."""
    waits = []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
            link.sendall(request())
            assert b" 200 " in link.recv(100)
        waits.append(time.monotonic() - began)
    print(*waits)


async def observe(what: str, port: int, act: Awaitable[Any]) -> None:
    """Print how long something takes, and what probes wait meanwhile."""
    command = [sys.executable, __file__, "--probe", str(port)]
    prober = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert prober.stdin is not None
    assert prober.stdout is not None
    await prober.stdout.readline()
    began = time.monotonic()
    await act
    took = time.monotonic() - began
    prober.stdin.close()
    waits = sorted(float(text) * 1e3 for text in (await prober.stdout.read()).split())
    await prober.wait()
    print(
        f"{what} ({took:.1f} s): {len(waits)} probes, median {waits[len(waits) // 2]:.1f} ms, "
        f"99 % {waits[int(len(waits) * 0.99)]:.1f} ms, longest {waits[-1]:.1f} ms; load {os.getloadavg()[0]:.1f}"
    )


async def measure(port: int, process: psutil.Process, path: str, *, followers: int, seconds: float) -> None:
    """Print what the service takes while followers are idle, and what a probe waits then and while they come and go."""

    async def follow(client: Client) -> None:
        client.send(request("GET", path))
        await client.reader.readuntil(b"event: state")

    async def leave() -> None:
        await following.__aexit__(None, None, None)
        await asyncio.sleep(LEAVE_S)

    following = many(port, followers, follow)
    await observe("alone", port, asyncio.sleep(5))
    await observe(f"{followers} followers come", port, following.__aenter__())
    used, began = sum(process.cpu_times()[:2]), time.monotonic()
    await observe("they are idle", port, asyncio.sleep(seconds))
    share = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began)
    print(f"processor {share:.1%} of a core, memory {process.memory_info().rss / 1e6:.0f} MB")
    await observe("they leave at once", port, leave())


def main() -> None:
    """Run the service and its followers on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--followers", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--probe", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe is not None:
        probe_until_told(given.probe)
        return
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
