"""Measure how busy a job without a gateway keeps one URL in front of several servers, by what the settings say of it.

python benchmarks/bench_slots.py [--slots 4] [--parallelism 2 --parallelism 4] [--runs 1] [--quick]
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from embed_log import Record, busy_share, peak_in_flight
from http_server import ask
from report import Report, Target, parse_options, repeat_command
from worlds import World, count_objects, list_markdown, open_world

from ingestion_engine.domain.spec import EngineName

TARGET = 0.95
LEARNED_S = 10.0
"""Time that the adaptive limit has to find the servers."""
ENDING_S = 3.0
"""Time before the last answer in which a job has less and less to send."""


def measure(world: World, options: argparse.Namespace, parallelism: int, setting: dict[str, Any]) -> dict[str, Any]:
    """Run a job on the local engine."""
    world.set_costs(request_ms=options.request_ms, text_ms=options.text_ms)
    run = world.run(EngineName.LOCAL, "slots/", model=f"sim-{options.dimension}", parallelism=parallelism, **setting)
    records = [Record(**one) for one in ask(f"{world.ollama_urls[0]}/sim/log")]
    began, ended = min(one.arrival for one in records), max(one.end for one in records)
    return {
        "busy_share": run.embedder["busy_share"],
        "busy_later": busy_share(records, options.slots, began + LEARNED_S, ended - ENDING_S),
        "in_flight": peak_in_flight(records),
        "elapsed_s": run.elapsed_s,
        "calls": run.embedder["calls"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=4, help="servers behind the URL")
    parser.add_argument("--seconds", type=float, default=40.0, help="embedding time of a job in seconds")
    parser.add_argument("--request-ms", type=float, default=10.0)
    parser.add_argument("--text-ms", type=float, default=15.0)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--parallelism", type=int, action="append", help="partitions at once; default: 2 and 4")
    options = parse_options(parser, {"seconds": 18.0, "parallelism": [2]})
    settings: dict[str, dict[str, Any]] = {
        "neither": {},
        f"#{options.slots} declared": {"capacity": options.slots},
        "IN_FLIGHT 16": {"in_flight": 16},
    }
    report = Report(
        "slots",
        "One URL in front of several servers, without a gateway",
        repeat_command(__file__),
        f"One URL of a simulated Ollama spreads requests over {options.slots} servers, each of which works on one at "
        "a time; the local engine embeds Markdown objects. Busy: share of the servers' time between the first and the "
        f"last call, and from {LEARNED_S:g} s after the first until {ENDING_S:g} s before the last. One run each.",
        ["ingestion-engine"],
        {"request ms": options.request_ms, "text ms": options.text_ms, "dimension": options.dimension},
        quick=options.quick,
    )
    found: dict[str, dict[str, Any]] = {}
    with open_world(endpoints=1, slots=options.slots) as world:
        costs = {"request_ms": options.request_ms, "text_ms": options.text_ms}
        world.upload(list_markdown("slots/", count_objects(options.seconds, options.slots, **costs)))
        for parallelism in options.parallelism or [2, 4]:
            for name, setting in settings.items():
                found[f"{name}, {parallelism} partitions"] = measure(world, options, parallelism, setting)
                print(f"{name}, {parallelism} partitions: {list(found.values())[-1]}", file=sys.stderr)
    for name, result in found.items():
        if not name.startswith("neither"):
            report.targets.append(Target(f"{name}: busy", TARGET, result["busy_later"], "", at_least=True))
    rows = [
        [name, f"{r['busy_share']:.3f}", f"{r['busy_later']:.3f}", r["in_flight"], f"{r['elapsed_s']:.1f} s"]
        for name, r in found.items()
    ]
    report.add_table(["settings", "busy", "busy later", "most in flight", "job"], rows)
    report.data = {"results": found}
    report.write()


if __name__ == "__main__":
    main()
