"""Measure how long POST /ray/jobs takes on an idle stack, beside GET /livez of the same service.

python benchmarks/bench_submit_latency.py [--runs 3] [--requests 100] [--without-ray]
"""

from __future__ import annotations

import argparse
import math
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
from report import Report, Target
from stacks import MODEL, open_stack

from ingestion_engine.devstack.stack import SYSTEMS, Stack

TARGET_MS = 100
WARM_UP_REQUESTS = 5


def time_requests(send: Callable[[int], httpx.Response], count: int, expected: int) -> list[float]:
    """Send requests one after another; return the milliseconds of each."""
    taken = []
    for number in range(count):
        started = time.perf_counter()
        answer = send(number)
        taken.append((time.perf_counter() - started) * 1000)
        if answer.status_code != expected:
            raise RuntimeError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return taken


def summarise(taken: list[float]) -> dict[str, float]:
    """Median, 99th percentile (nearest rank) and maximum, in milliseconds."""
    ordered = sorted(taken)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"median_ms": statistics.median(ordered), "p99_ms": p99, "max_ms": ordered[-1]}


def measure(stack: Stack, runs: int, count: int) -> dict[str, dict[str, float]]:
    """Return the medians over the runs for both routes."""
    found: dict[str, list[dict[str, float]]] = {"POST /ray/jobs": [], "GET /livez": []}
    with httpx.Client(base_url=stack.services["api"].url, timeout=30) as http:
        for run in range(-1, runs):
            posts = count if run >= 0 else WARM_UP_REQUESTS

            def post(number: int, run: int = run) -> httpx.Response:
                source = {"bucket": "docs", "prefix": f"nothing/{run}/{number}/"}
                body = {"source": source, "collection": f"bench_{run + 1}_{number}", "mode": "plan"}
                return http.post("/ray/jobs", json={**body, "embedding": {"model": MODEL}})

            taken = {
                "GET /livez": summarise(time_requests(lambda _number: http.get("/livez"), posts, 200)),
                "POST /ray/jobs": summarise(time_requests(post, posts, 202)),
            }
            if run >= 0:
                for route, result in taken.items():
                    found[route].append(result)
                print(f"run {run + 1}/{runs}: {taken}", file=sys.stderr)
    return {
        route: {name: round(statistics.median(r[name] for r in results), 2) for name in results[0]}
        for route, results in found.items()
    }


def closed_port() -> int:
    """A loopback port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_stack(*, with_ray: bool, runs: int, count: int) -> dict[str, dict[str, float]]:
    """Start a stack of its own, measure, and end it with whatever was submitted."""
    systems = [name for name in SYSTEMS if with_ray or name != "ray"]
    overrides: dict[str, Any] = {} if with_ray else {"ray": {"address": f"http://127.0.0.1:{closed_port()}"}}
    with open_stack(systems, with_api=True, api={"port": 0}, **overrides) as stack:
        return measure(stack, runs, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--without-ray", action="store_true", help="leave out the stack with a real Ray head")
    options = parser.parse_args()
    report = Report(
        "submit_latency",
        "Latency of a submission",
        f"python benchmarks/bench_submit_latency.py --runs {options.runs} --requests {options.requests}"
        + (" --without-ray" if options.without_ray else ""),
        "POST /ray/jobs (mode plan, every request its own collection and a prefix with nothing under it) one after "
        "another over one connection, against the API in its own process with the embedded S3 server, Ollama stand-in "
        "and stores; GET /livez of the same service beside it. Once Ray's address is a closed port, so every job stays "
        "queued while the dispatcher tries; once a real Ray head runs on the same machine and starts what is "
        "submitted, so this one is not idle after the first request.",
        ["ingestion-engine", "fastapi", "uvicorn", "sqlalchemy", "httpx"],
        {"runs": options.runs, "requests": options.requests, "in flight": 1, "database": "SQLite"},
    )
    results = {}
    rows = []
    for with_ray in (False,) if options.without_ray else (False, True):
        name = "real Ray" if with_ray else "Ray away"
        results[name] = run_stack(with_ray=with_ray, runs=options.runs, count=options.requests)
        for route, result in results[name].items():
            rows.append((f"{route}, {name}", *(f"{value:.1f}" for value in result.values())))
        report.targets.append(Target(f"median, {name}", TARGET_MS, results[name]["POST /ray/jobs"]["median_ms"], "ms"))
    report.add_table(("request", "median ms", "p99 ms", "slowest ms"), rows)
    report.data = {"results": results}
    report.write()


if __name__ == "__main__":
    main()
