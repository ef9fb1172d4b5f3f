"""Measure the latency of POST /ray/jobs, one at a time and at a fixed rate, compared with GET /livez.

python benchmarks/bench_submit_latency.py [--runs 3] [--requests 100] [--rate 50] [--without-ray] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
from report import Report, Target, parse_options, repeat_command
from stacks import MODEL, open_stack

from ingestion_devstack.stack.stack import SYSTEMS, Stack

TARGET_MS = 100
WARM_UP_REQUESTS = 5


def time_requests(send: Callable[[int], httpx.Response], count: int, expected: int) -> list[float]:
    """Send requests one after another; return the duration of each in milliseconds."""
    taken = []
    for number in range(count):
        started = time.perf_counter()
        answer = send(number)
        taken.append((time.perf_counter() - started) * 1000)
        if answer.status_code != expected:
            raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return taken


def summarise(taken: list[float]) -> dict[str, float]:
    """Return median, 99th percentile (nearest rank) and maximum in milliseconds."""
    ordered = sorted(taken)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"median_ms": statistics.median(ordered), "p99_ms": p99, "max_ms": ordered[-1]}


async def time_open_loop(url: str, rate: float, seconds: float, name: str) -> list[float]:
    """Post at a fixed rate, independent of the service; return the milliseconds of each request from its due time."""
    taken: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as http:

        async def post(number: int, due: float) -> None:
            answer = await http.post("/ray/jobs", json=_make_body(f"{name}_{number}"))
            taken.append((time.perf_counter() - due) * 1000)
            if answer.status_code != 202:
                raise RuntimeError(f"POST /ray/jobs: {answer.status_code} {answer.text}")

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                due = started + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(post(number, due))
    return taken


def _make_body(name: str) -> dict[str, Any]:
    source = {"bucket": "docs", "prefix": f"nothing/{name}/"}
    return {"source": source, "collection": f"bench_{name}", "mode": "plan", "embedding": {"model": MODEL}}


def measure(stack: Stack, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the medians over the runs for both routes, one request at a time, then at a fixed rate."""
    runs, count = options.runs, options.requests
    at_rate = f"POST /ray/jobs, {options.rate:g} per second"
    found: dict[str, list[dict[str, float]]] = {"POST /ray/jobs": [], "GET /livez": [], at_rate: []}
    url = stack.services["api"].url
    with httpx.Client(base_url=url, timeout=30) as http:
        for run in range(-1, runs):
            posts = count if run >= 0 else WARM_UP_REQUESTS

            def post(number: int, run: int = run) -> httpx.Response:
                return http.post("/ray/jobs", json=_make_body(f"{run + 1}_{number}"))

            taken = {
                "GET /livez": summarise(time_requests(lambda _number: http.get("/livez"), posts, 200)),
                "POST /ray/jobs": summarise(time_requests(post, posts, 202)),
            }
            if run >= 0 and options.rate:
                open_loop = time_open_loop(url, options.rate, options.seconds, f"open_{run}")
                taken[at_rate] = summarise(asyncio.run(open_loop))
            if run >= 0:
                for route, result in taken.items():
                    found[route].append(result)
                print(f"run {run + 1}/{runs}: {taken}", file=sys.stderr)
    return {
        route: {name: round(statistics.median(r[name] for r in results), 2) for name in results[0]}
        for route, results in found.items()
        if results
    }


def closed_port() -> int:
    """Return a loopback port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_stack(*, with_ray: bool, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Start a stack, measure, and stop it together with all submitted jobs."""
    systems = [name for name in SYSTEMS if with_ray or name != "ray"]
    overrides: dict[str, Any] = {} if with_ray else {"ray": {"address": f"http://127.0.0.1:{closed_port()}"}}
    with open_stack(systems, with_api=True, api={"port": 0}, **overrides) as stack:
        return measure(stack, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50.0, help="posts per second of the open loop; 0 disables it")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the open loop in seconds")
    parser.add_argument("--without-ray", action="store_true", help="skip the stack with a real Ray head")
    options = parse_options(parser, {"requests": 10, "seconds": 2.0, "without_ray": True})
    report = Report(
        "submit_latency",
        "Latency of a submission",
        repeat_command(__file__),
        "POST /ray/jobs (mode plan, every request with its own collection and an empty prefix) one after another over "
        "one connection, on the API in its own process with the embedded S3 server, Ollama stand-in and stores, "
        "compared with GET /livez of the same service. In the first case Ray's address is a closed port, so every job "
        "stays queued while the dispatcher retries; in the second a real Ray head runs on the same machine and starts "
        "the submitted jobs, so this one is not idle after the first request. At a fixed rate, requests are sent at "
        "their due time, over as many connections as necessary, and are timed from then. The jobs accumulate: without "
        "Ray no job ends.",
        ["ingestion-engine", "fastapi", "uvicorn", "sqlalchemy", "httpx"],
        {
            "runs": options.runs,
            "requests": options.requests,
            "at a fixed rate": f"{options.rate:g}/s for {options.seconds:g} s",
            "database": "SQLite",
        },
        quick=options.quick,
    )
    results = {}
    rows = []
    for with_ray in (False,) if options.without_ray else (False, True):
        name = "real Ray" if with_ray else "Ray away"
        results[name] = run_stack(with_ray=with_ray, options=options)
        for route, result in results[name].items():
            rows.append((f"{route}, {name}", *(f"{value:.1f}" for value in result.values())))
            if route.startswith("POST"):
                report.targets.append(Target(f"{route}, {name}: p99", TARGET_MS, result["p99_ms"], "ms"))
    report.add_table(("request", "median ms", "p99 ms", "slowest ms"), rows)
    report.data = {"results": results}
    report.write()


if __name__ == "__main__":
    main()
