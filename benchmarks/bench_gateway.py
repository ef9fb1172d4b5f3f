"""Measure what the gateway promises: caps, shares, searches, busy servers, faults, its cost, and real jobs.

python benchmarks/bench_gateway.py [--part caps --part search ...] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import time

from gateway import caps, cost, jobs, real, search, upstreams
from gateway.simulation import REQUEST_MS, TEXT_MS, run_simulation
from report import Report, parse_options, repeat_command

PARTS = ("caps", "search", "busy", "slow", "faults", "cost", "jobs", "real")
DEFAULT_PARTS = PARTS[:-1]
"""All that need no server of their own."""


def run_part(part: str, report: Report, options: argparse.Namespace) -> None:
    """Run one part and add it to the report."""
    match part:
        case "caps":
            with run_simulation(8) as simulation:
                caps.add(report, simulation, quick=options.quick)
        case "search":
            with run_simulation(4) as simulation:
                search.add(report, simulation, quick=options.quick)
        case "busy":
            upstreams.add_busy(report, quick=options.quick)
        case "slow":
            upstreams.add_slow(report, quick=options.quick)
        case "faults":
            upstreams.add_faults(report, quick=options.quick)
        case "cost":
            with run_simulation(4) as simulation:
                cost.add(report, simulation, quick=options.quick, runs=options.runs)
        case "jobs":
            jobs.add(report, quick=options.quick)
        case "real":
            real.add(report, url=options.real_url, model=options.real_model, quick=options.quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; default: all but real")
    parser.add_argument("--real-url", help="real Ollama server of the part real")
    parser.add_argument("--real-model", default="all-minilm", help="its model")
    options = parse_options(parser, {})
    if "real" in (options.part or ()) and not options.real_url:
        parser.error("--part real requires --real-url")
    parts = [part for part in PARTS if part in (options.part or DEFAULT_PARTS)]
    report = Report(
        "gateway" if parts == list(DEFAULT_PARTS) else "gateway_" + "_".join(parts),
        "The embedding gateway",
        repeat_command(__file__),
        "`ingest gateway` in a process of its own, in front of simulated servers with one slot per URL unless noted. "
        "A slot works on one request at a time, for 'request ms' plus 'text ms' per text; what happened is read from "
        "the servers' own record of arrivals, starts and ends. Flows are load clients that behave as the workers of a "
        "job do; they, the gateway and the servers share this machine. The processor time is a median of 'runs', "
        "everything else one run.",
        ["ingestion-engine", "aiohttp", "uvloop", "orjson"],
        {"runs": options.runs, "request ms": REQUEST_MS, "text ms": TEXT_MS, "dimension": 768},
        quick=options.quick,
    )
    for part in parts:
        started = time.monotonic()
        run_part(part, report, options)
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    report.write()


if __name__ == "__main__":
    main()
