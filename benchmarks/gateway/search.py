"""Searches under full ingestion, with a gateway and without."""

from __future__ import annotations

from typing import Any

from flow_load import Flow, Load, run_load
from flow_shares import rate
from gateways import run_gateways
from report import Report, Target

from gateway.simulation import MODEL, Simulation, service_ms, spread

BATCH_TEXTS = 8
SEARCHES_PER_S = 10.0
JOBS = 4
MARGIN_MS = 50.0
SETTLE_S = 1.0
"""The first searches after a pause of ten seconds wait for what the servers already have; reported on their own."""
DIRECT_JOBS = 2
DIRECT_IN_FLIGHT = 2
"""Requests in flight of each job per server without a gateway: together the default limit of four per server."""


def measure(simulation: Simulation, servers: int, seconds: float, *, gateway: bool) -> dict[str, Any]:
    """Run jobs that fill the servers, and searches; return the searches' times and the jobs' rate."""
    urls = simulation.urls[:servers]
    simulation.reset()
    search = Flow("searches", band="search", texts=1, rate=SEARCHES_PER_S, joins_s=1.0)
    if gateway:
        jobs = [Flow(f"job-{number}", texts=BATCH_TEXTS) for number in range(JOBS)]
        with run_gateways(urls) as (running,):
            load = run_load([running.url], [*jobs, search], seconds, model=MODEL)
    else:
        in_flight = DIRECT_IN_FLIGHT * servers
        jobs = [Flow(f"job-{number}", texts=BATCH_TEXTS, in_flight=in_flight) for number in range(DIRECT_JOBS)]
        load = run_load(urls, [*jobs, search], seconds, model=MODEL)
    settled = load.started + search.joins_s + SETTLE_S
    found = load.of(search.name)
    return {
        "search_ms": spread([one.took_ms for one in found if one.sent >= settled]),
        "first_ms": round(max(one.took_ms for one in found if one.sent < settled)),
        "jobs_texts_per_s": round(_jobs_rate(simulation, load), 1),
        "lost": load.lost,
    }


def _jobs_rate(simulation: Simulation, load: Load) -> float:
    jobs = [one for one in simulation.records() if one.flow != "searches"]
    return rate(jobs, (load.started + 1.0, load.ended))


def add(report: Report, simulation: Simulation, *, quick: bool) -> None:
    """Measure one server and four, with a gateway and without."""
    seconds = 6.0 if quick else 18.0
    limit = service_ms(BATCH_TEXTS) + MARGIN_MS
    rows = []
    for servers in (1, 4):
        for gateway in (True, False):
            found = measure(simulation, servers, seconds, gateway=gateway)
            name = f"{servers} server{'s' * (servers > 1)}, {'gateway' if gateway else 'without'}"
            report.data[f"search: {name}"] = found
            times = found["search_ms"]
            rows.append((name, times["count"], found["first_ms"],
                         *(f"{times[key]:.0f}" for key in ("p50", "p99", "max")),
                         f"{found['jobs_texts_per_s']:.1f}"))  # fmt: skip
            if gateway:
                report.targets += [
                    Target(f"search under ingestion, {name}: p99", limit, times["p99"], "ms"),
                    Target(f"search under ingestion, {name}: without a right answer", 0, found["lost"], "requests"),
                ]
    report.add_table(
        ("servers", "searches", "slowest of the first second ms", "p50 ms", "p99 ms", "max ms", "jobs' texts/s"),
        rows,
        note=f"**Searches under ingestion.** {SEARCHES_PER_S:g} searches per second beside jobs with batches of "
        f"{BATCH_TEXTS} ({service_ms(BATCH_TEXTS):g} ms each). With the gateway {JOBS} jobs have eight requests in "
        f"flight each; without, {DIRECT_JOBS} jobs share four per server.",
    )
