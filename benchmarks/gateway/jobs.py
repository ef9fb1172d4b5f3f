"""Eight real jobs on two engines behind one gateway with caps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from embed_log import Record, peak_texts
from flow_shares import idle_capacity, rate, worst_shares
from gateways import run_gateways
from report import Report, Target
from worlds import CHUNKS_PER_OBJECT, World, list_markdown, open_world

from gateway.caps import IDLE_TARGET, SHARE_TARGET, count_in_flight
from gateway.simulation import MODEL, REQUEST_MS, TEXT_MS, Simulation
from ingestion_engine.domain.spec import EngineName

SERVERS = 4
IN_FLIGHT = 4
TEXTS_PER_S = 50
BATCH_TEXTS = 2
"""Small batches, so that one batch is a small part of a job's share of ten seconds (62 texts)."""
WINDOW_S = 10.0
PRIORITIES = (5, 5, 5, 10)
"""Of the jobs of each engine."""


def measure(world: World, simulation: Simulation, engines: tuple[EngineName, ...], objects: int) -> dict[str, Any]:
    """Run the jobs at the same time; the span that counts is that in which all of them embed."""
    world.upload(list_markdown("gateway/", objects))
    simulation.reset()
    with run_gateways(world.ollama_urls, in_flight=IN_FLIGHT, texts_per_second=TEXTS_PER_S) as (gateway,):
        options = {"endpoints": SERVERS, "gateways": (gateway.url,), "parallelism": 1}
        jobs = [
            (world.prepare(engine, "gateway/", model=MODEL, **options, priority=priority), float(priority))
            for engine in engines
            for priority in PRIORITIES
        ]
        with ThreadPoolExecutor(len(jobs)) as pool:
            list(pool.map(lambda job: job[0].run(), jobs))
        chunks = [job.read_summary()["counts"]["chunks"] for job, _ in jobs]
    records = [one for one in simulation.records() if one.flow]
    weights = {job.job_id: priority for job, priority in jobs}
    span = _find_common_span(records, weights)
    return {
        "in_flight": count_in_flight(records),
        "texts_in_a_second": peak_texts(records),
        "idle": idle_capacity(records, span, in_flight=IN_FLIGHT, texts_per_s=TEXTS_PER_S, texts=BATCH_TEXTS),
        "share_off": max(worst_shares(records, weights, span, window_s=min(WINDOW_S, span[1] - span[0])).values()),
        "rate": rate(records, span),
        "span_s": span[1] - span[0],
        "jobs": len(jobs),
        "chunks": sum(chunks),
        "chunks_differ": max(chunks) - min(chunks),
    }


def _find_common_span(records: list[Record], weights: dict[str, float]) -> tuple[float, float]:
    """Return the time from the first request of the job that began last to the last of the one that ended first."""
    arrivals = {flow: [one.arrival for one in records if one.flow == flow] for flow in weights}
    start, end = max(map(min, arrivals.values())), min(map(max, arrivals.values()))
    if start >= end:
        raise RuntimeError(
            f"the jobs did not overlap: {start - end:.1f} s between the first's end and the last's start"
        )
    return start + 1.0, end - 1.0


def add(report: Report, *, quick: bool) -> None:
    """Run the jobs and add what was found to the report; a quick run has jobs on the local engine only."""
    engines = (EngineName.LOCAL,) if quick else (EngineName.LOCAL, EngineName.RAY)
    objects = int((250 if quick else 400) / CHUNKS_PER_OBJECT)
    costs = {"request_ms": REQUEST_MS, "text_ms": TEXT_MS}
    with open_world(endpoints=SERVERS, **costs, embed={"batch_texts": BATCH_TEXTS}) as world:
        simulation = Simulation(world.ollama_urls, world.ollama_urls[0])
        found = measure(world, simulation, engines, objects)
    report.data["jobs"] = {name: round(value, 4) for name, value in found.items()}
    name = f"{found['jobs']} jobs on {' and '.join(engine.value for engine in engines)}"
    report.targets += [
        Target(f"{name}: in flight at any instant", IN_FLIGHT, found["in_flight"], "requests"),
        Target(f"{name}: texts in any one-second window", TEXTS_PER_S, found["texts_in_a_second"], "texts"),
        Target(f"{name}: idle capacity while all have work", IDLE_TARGET, found["idle"], ""),
        Target(f"{name}: shares over any {WINDOW_S:g} s, off their weights", SHARE_TARGET, found["share_off"], ""),
    ]
    report.add_table(
        ("real jobs", "chunks", "common span s", "in flight", "texts in 1 s", "idle", "shares off", "texts/s"),
        [(name, found["chunks"], *(f"{found[key]:.1f}" for key in ("span_s", "in_flight", "texts_in_a_second")),
          *(f"{found[key]:.3f}" for key in ("idle", "share_off")), f"{found['rate']:.1f}")],
        note=f"**Real jobs**, four per engine with the priorities {', '.join(map(str, PRIORITIES))}, caps of "
        f"{IN_FLIGHT} in flight and {TEXTS_PER_S} texts/s, batches of {BATCH_TEXTS}; measured while all eight embed.",
    )  # fmt: skip
