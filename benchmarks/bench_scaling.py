"""Measure how a job's rate grows with partitions and endpoints, and the cost of one large object among small ones.

    python benchmarks/bench_scaling.py [--runs 3] [--engine local --engine ray --engine spark] [--skew-mb 200] [--quick]

``--skew-mb 0`` skips the second part, ``--no-scaling`` the first; the second part alone has a report of its own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import corpora
from report import Report, Target, median_of, parse_options, repeat_command
from worlds import World, count_objects, list_markdown, open_world

from ingestion_engine.domain.spec import EngineName

SPEED_UP_TARGET = {2: 1.8, 4: 3.6, 8: 7.2}
SKEW_TARGET = 1.15
MODEL = "sim-768"
SMALL_CHARS = 700
"""Size of each small object: one chunk."""
SKEW_ENDPOINTS = 4
SKEW_REQUEST_MS, SKEW_TEXT_MS = 1.0, 0.25
"""A fast embedder, so that 200 MB take minutes, not an hour."""


def measure_scale(world: World, options: argparse.Namespace, engine: EngineName, count: int) -> dict[str, float]:
    """Run ``count`` partitions at once on ``count`` endpoints, with ``count`` times the work."""
    world.set_costs(request_ms=options.request_ms, text_ms=options.text_ms)
    run = world.run(engine, f"scaling/{count}/", model=MODEL, endpoints=count, parallelism=count)
    found = {
        "steady_rate": run.chunks / run.embedder["span_s"],
        "job_rate": run.chunks / run.elapsed_s,
        "busy_share": run.embedder["busy_s"] / (run.embedder["span_s"] * count),
        "elapsed_s": run.elapsed_s,
        "chunks": run.chunks,
        "driver_cpu_s": run.measured.cpu_s,
    }
    print(f"{engine.value}, {count}: {found}", file=sys.stderr)
    return found


def fill_scaling(world: World, options: argparse.Namespace) -> None:
    """Upload objects under one prefix per number of partitions."""
    for count in options.at_once:
        objects = count_objects(options.seconds, count, request_ms=options.request_ms, text_ms=options.text_ms)
        world.upload(list_markdown(f"scaling/{count}/", max(objects, 4 * count)))


def list_skewed(prefix: str, size_mb: float, small: int) -> Iterator[tuple[str, bytes]]:
    """Upload one large text among small ones."""
    if size_mb:
        yield f"{prefix}{small // 3:06d}-large.txt", corpora.make_text(int(size_mb * corpora.MB))
    text = corpora.make_text(SMALL_CHARS)[:SMALL_CHARS].decode()
    for number in range(small):
        yield f"{prefix}{number:06d}.txt", f"{number} {text}".encode()


def measure_skew(world: World, engine: EngineName) -> dict[str, float]:
    """Run the large object alone, and together with the small ones."""
    world.set_costs(request_ms=SKEW_REQUEST_MS, text_ms=SKEW_TEXT_MS)
    settings: dict[str, Any] = {"model": MODEL, "endpoints": SKEW_ENDPOINTS, "parallelism": SKEW_ENDPOINTS}
    alone, small, both = (world.run(engine, f"{name}/", **settings) for name in ("alone", "small", "skewed"))
    even_s = (alone.elapsed_s + small.elapsed_s) / SKEW_ENDPOINTS if engine is not EngineName.LOCAL else 0.0
    found = {
        "alone_s": alone.elapsed_s,
        "small_s": small.elapsed_s,
        "skewed_s": both.elapsed_s,
        "ratio": both.elapsed_s / max(alone.elapsed_s, even_s),
        "chunks": both.chunks,
        "driver_peak_mib": both.measured.peak_bytes / 2**20,
    }
    print(f"{engine.value}, skew: {found}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=[e.value for e in EngineName], help="may be repeated")
    parser.add_argument("--at-once", type=int, action="append", help="partitions; default: 1, 2, 4, 8")
    parser.add_argument("--seconds", type=float, default=30.0, help="embedding time of a job in seconds")
    parser.add_argument("--request-ms", type=float, default=10.0)
    parser.add_argument("--text-ms", type=float, default=15.0)
    parser.add_argument("--skew-mb", type=float, default=200.0)
    parser.add_argument("--skew-small", type=int, default=2000)
    parser.add_argument("--no-scaling", action="store_true")
    quick = {"seconds": 4.0, "engine": ["local"], "at_once": [1, 2], "skew_mb": 1.0, "skew_small": 50}
    options = parse_options(parser, quick)
    engines = [EngineName(name) for name in options.engine or ("local", "ray", "spark")]
    options.at_once = [] if options.no_scaling else sorted(set(options.at_once or [1, 2, 4, 8]))
    report = Report(
        "skew" if options.no_scaling else "scaling",
        "One large object among many small ones" if options.no_scaling else "Scaling with partitions and endpoints",
        repeat_command(__file__),
        "n partitions at once on n endpoints of a simulated Ollama, with n times the work, on every engine; the local "
        "engine may run fewer at once than it is granted. Steady rate: chunks divided by the time between the start "
        "of the first and the end of the last embed call; job rate: by the time from the driver's start to its "
        "summary. Skew: one large text among small ones of one chunk each, on four fast endpoints, relative to the "
        "large one alone and to the even share (the sum of large alone and small alone divided by the partitions at "
        "once).",
        ["ingestion-engine", "ray", "pyspark"],
        {
            "runs": options.runs,
            "request ms": options.request_ms,
            "text ms": options.text_ms,
            "skewed object": f"{options.skew_mb:g} MB among {options.skew_small:,}",
        },
        quick=options.quick,
    )
    scales: dict[tuple[EngineName, int], list[dict[str, float]]] = {}
    skews: dict[EngineName, list[dict[str, float]]] = {}
    limit = {"worker": {"object_max_bytes": max(256, int(options.skew_mb) + 1) * 1024 * 1024}}
    with open_world(endpoints=max([*options.at_once, SKEW_ENDPOINTS]), **limit) as world:
        fill_scaling(world, options)
        if options.skew_mb:
            world.upload(list_skewed("alone/", options.skew_mb, 0))
            world.upload(list_skewed("small/", 0, options.skew_small))
            world.upload(list_skewed("skewed/", options.skew_mb, options.skew_small))
        for _, engine in itertools.product(range(options.runs), engines):
            for count in options.at_once:
                scales.setdefault((engine, count), []).append(measure_scale(world, options, engine, count))
            if options.skew_mb:
                skews.setdefault(engine, []).append(measure_skew(world, engine))
    add_scales(report, {case: median_of(runs) for case, runs in scales.items()}, engines, options.at_once)
    add_skews(report, {engine: median_of(runs) for engine, runs in skews.items()})
    report.write()


def add_scales(
    report: Report,
    results: dict[tuple[EngineName, int], dict[str, float]],
    engines: Sequence[EngineName],
    at_once: Sequence[int],
) -> None:
    """Add targets and the table of the first part to the report."""
    rows = []
    for engine, count in itertools.product(engines, at_once):
        result, one = results[engine, count], results[engine, at_once[0]]
        steady, job = (result[rate] / one[rate] * at_once[0] for rate in ("steady_rate", "job_rate"))
        if count in SPEED_UP_TARGET:
            name = f"{engine.value}: {count} on {count} relative to 1 on 1, steady rate"
            report.targets.append(Target(name, SPEED_UP_TARGET[count], steady, "", at_least=True))
        rates = (f"{result[rate]:.1f}" for rate in ("steady_rate", "job_rate"))
        rest = (f"{result['busy_share']:.3f}", f"{result['elapsed_s']:.1f}", f"{result['chunks']:,.0f}")
        rows.append((f"{engine.value}, {count} on {count}", *rates, f"{steady:.2f}", f"{job:.2f}", *rest))
    if rows:
        heads = ("engine, partitions", "steady chunks/s", "job chunks/s", "steady speed-up", "job speed-up",
                 "busy share", "job s", "chunks")  # fmt: skip
        report.add_table(heads, rows)
    report.data["scaling"] = {f"{engine.value}, {count}": result for (engine, count), result in results.items()}


def add_skews(report: Report, results: dict[EngineName, dict[str, float]]) -> None:
    """Add targets and the table of the second part to the report."""
    rows = []
    for engine, result in results.items():
        name = f"{engine.value}: skewed corpus relative to its largest object alone or the even share"
        report.targets.append(Target(name, SKEW_TARGET, result["ratio"], ""))
        cells = (f"{result[field]:.1f}" for field in ("alone_s", "small_s", "skewed_s"))
        rows.append((engine.value, *cells, f"{result['ratio']:.2f}", f"{result['chunks']:,.0f}"))
    if rows:
        report.add_table(("skew, engine", "large alone s", "small alone s", "together s", "ratio", "chunks"), rows)
    report.data["skew"] = {engine.value: result for engine, result in results.items()}


if __name__ == "__main__":
    main()
