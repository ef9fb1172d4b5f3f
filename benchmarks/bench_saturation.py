"""Measure how busy a job keeps the embedder, and its rate relative to a bare load generator, on every engine.

python benchmarks/bench_saturation.py [--runs 3] [--engine local --engine ray] [--endpoints 1 --endpoints 8] [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any

from load_generator import measure_capacity
from report import Report, Target, median_of, parse_options, repeat_command
from worlds import World, count_objects, list_markdown, open_world

from ingestion_engine.domain.spec import EngineName

BUSY_TARGETS = {1: 0.97, 8: 0.95}
RATE_TARGET = 0.93
SPREAD_TARGET = 0.97
"""Rate of Ray and Spark relative to the local engine."""
GENERATOR_S = 10.0
SECONDS = 60.0
"""Length of the job that the targets apply to; reports of other lengths have the length in their name."""


def measure(world: World, options: argparse.Namespace, engine: EngineName, endpoints: int) -> dict[str, Any]:
    """Run the generator, then a job of about the requested length, both on the same endpoints."""
    model = f"sim-{options.dimension}"
    world.set_costs(request_ms=options.request_ms, text_ms=options.text_ms)
    capacity = measure_capacity(world.ollama_urls[:endpoints], model, min(GENERATOR_S, options.seconds / 2))
    run = world.run(
        engine,
        f"saturation/{endpoints}/",
        model=model,
        endpoints=endpoints,
        parallelism=options.parallelism,
    )
    rate = run.chunks / run.elapsed_s
    found = {
        "capacity": capacity,
        "rate": rate,
        "rate_ratio": rate / capacity,
        "busy_share": run.embedder["busy_s"] / (run.embedder["span_s"] * endpoints),
        "elapsed_s": run.elapsed_s,
        "before_first_call_s": run.elapsed_s - run.embedder["span_s"],
        "process_s": run.measured.wall_s,
        "chunks": run.chunks,
        "texts_per_call": run.embedder["texts"] / run.embedder["calls"],
    }
    print(f"{engine.value}, {endpoints} endpoints: {found}", file=sys.stderr)
    return found


def fill_bucket(world: World, options: argparse.Namespace, endpoints: Sequence[int]) -> None:
    """Upload objects under one prefix per number of endpoints, enough for the requested time."""
    for count in endpoints:
        objects = count_objects(options.seconds, count, request_ms=options.request_ms, text_ms=options.text_ms)
        world.upload(list_markdown(f"saturation/{count}/", objects))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=[e.value for e in EngineName], help="repeatable")
    parser.add_argument("--endpoints", type=int, action="append", help="repeatable; default: 1 and 8")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="embedding time of a job in seconds")
    parser.add_argument("--request-ms", type=float, default=10.0)
    parser.add_argument("--text-ms", type=float, default=15.0)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--parallelism", type=int, default=2, help="partitions at once (on Ray and Spark: processes)")
    options = parse_options(parser, {"seconds": 4.0, "endpoints": [1, 2]})
    engines = [EngineName(name) for name in options.engine or ("local", "ray", "spark")]
    endpoints = sorted(options.endpoints or [1, 8])
    report = Report(
        "saturation" if options.seconds == SECONDS else f"saturation_{options.seconds:g}s",
        "Saturation of the embedder",
        repeat_command(__file__),
        "A simulated Ollama has endpoints that process one request at a time, each for 'request ms' plus 'text ms' "
        "per text; its busy time is known exactly. First a load generator that does nothing else measures the "
        "capacity of the endpoints, then a job over Markdown objects runs, from SeaweedFS into two sinks for points. "
        "Busy share: of the time between the start of the first and the end of the last embed call, over all "
        "endpoints. Rate: chunks divided by the time from the start of the driver's process, its imports included, to "
        "its summary, relative to the generator's texts per second. Ray's head runs before the job; Spark's JVM is up "
        "when the driver starts.",
        ["ingestion-engine", "ray", "pyspark", "httpx", "numpy", "orjson"],
        {
            "runs": options.runs,
            "request ms": options.request_ms,
            "text ms": options.text_ms,
            "dimension": options.dimension,
            "partitions at once": options.parallelism,
            "stores": 2,
        },
        quick=options.quick,
    )
    found: dict[tuple[EngineName, int], list[dict[str, Any]]] = {}
    with open_world(endpoints=max(endpoints)) as world:
        fill_bucket(world, options, endpoints)
        for _, engine, count in itertools.product(range(options.runs), engines, endpoints):
            found.setdefault((engine, count), []).append(measure(world, options, engine, count))
    results = {f"{engine.value}, {count}": median_of(each) for (engine, count), each in found.items()}
    add_results(report, results, engines, endpoints)
    report.write()


def add_results(
    report: Report, results: dict[str, dict[str, Any]], engines: Sequence[EngineName], endpoints: Sequence[int]
) -> None:
    """Add targets and the table to the report."""
    rows = []
    for engine, count in itertools.product(engines, endpoints):
        result = results[f"{engine.value}, {count}"]
        name = f"{engine.value}, {count} endpoint{'s' * (count > 1)}"
        report.targets.append(
            Target(f"{name}: busy share", BUSY_TARGETS.get(count, 0.95), result["busy_share"], "", at_least=True)
        )
        report.targets.append(
            Target(f"{name}: rate relative to the generator", RATE_TARGET, result["rate_ratio"], "", at_least=True)
        )
        local = results.get(f"local, {count}")
        if engine is not EngineName.LOCAL and local is not None:
            beside = result["rate"] / local["rate"]
            report.targets.append(Target(f"{name}: rate relative to local", SPREAD_TARGET, beside, "", at_least=True))
        cells = (f"{result[field]:.1f}" for field in ("capacity", "rate"))
        shares = (f"{result[field]:.3f}" for field in ("rate_ratio", "busy_share"))
        times = (f"{result[field]:.1f}" for field in ("elapsed_s", "before_first_call_s", "texts_per_call"))
        rows.append((name, *cells, *shares, *times, f"{result['chunks']:,.0f}"))
    heads = (
        "engine, endpoints", "generator texts/s", "job chunks/s", "rate ratio", "busy share", "job s",
        "of it outside embedding s", "texts per call", "chunks",
    )  # fmt: skip
    report.add_table(heads, rows)
    report.data = {"results": results}


if __name__ == "__main__":
    main()
