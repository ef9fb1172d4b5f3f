"""Measure the object table: rows per second and peak memory of each operation, each in a process of its own.

    python benchmarks/bench_object_table.py [--runs 3] [--rows 1000000]

The state store is a temporary directory: the times are those of the code, without a network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute
import pyarrow.parquet  # noqa: F401 - loaded before memory is measured
from report import Report, parse_options, repeat_command

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.records import RowState, TableRow
from ingestion_engine.state.object_table.table import ObjectTable


def make_row(number: int, epoch: int = 1) -> TableRow:
    key = f"handbook/{number // 1000:06d}/document-{number:09d}.md"
    digest = hashlib.md5(f"{epoch}{key}".encode(), usedforsecurity=False).hexdigest()
    object_id = f"{digest[:8]}-{digest[8:12]}-5{digest[12:15]}-a{digest[15:18]}-{digest[18:30]}"
    date = "2026-01-01T00:00:00Z"
    return TableRow(
        key, digest, number % 99_991, date, object_id, RowState.PRESENT, None, None, retryable=False,
        fingerprint="f" * 16, chunk_count=number % 40, points_digest=digest[::-1], vectors_digest=digest,
        epoch=epoch, job_id=f"job-{epoch:026d}", updated_at=date,
    )  # fmt: skip


def make_steps(table: ObjectTable, rows: int) -> dict[str, Callable[[], int]]:
    """Return the measured steps in order; each returns the number of rows it processed."""

    def append_deltas() -> int:
        return sum(
            table.append_run((make_row(n, epoch) for n in range(epoch, rows, 100)), epoch=epoch, job_id=f"job-{epoch}")
            for epoch in range(2, 9)
        )

    def scan() -> int:
        return sum(1 for _ in table.scan())

    def compact() -> int:
        table.compact(max_runs=1)
        return rows

    unsorted = (make_row((n * 7919) % rows, 9) for n in range(rows))
    return {
        "make rows only": lambda: sum(1 for _ in map(make_row, range(rows))),
        "append_run": lambda: table.append_run(map(make_row, range(rows)), epoch=1, job_id="job-1"),
        "scan, 1 run": scan,
        "append 7 runs of 1 %": append_deltas,
        "scan, 8 runs": scan,
        "stats, 8 runs": lambda: table.stats()["present"],
        "compact 8 runs into 1": compact,
        "append_unsorted": lambda: table.append_unsorted(unsorted, epoch=9, job_id="job-9"),
    }


def measure(folder: Path, rows: int, step: str) -> dict[str, float]:
    """Run one step in this process; return rows, seconds and peak memory above the start."""
    page_mib = os.sysconf("SC_PAGE_SIZE") / 2**20

    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page_mib

    before = peak = resident_mib()
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, resident_mib())

    watcher = threading.Thread(target=watch)
    run = make_steps(ObjectTable(LocalStateStore(f"file://{folder}"), "docs"), rows)[step]
    watcher.start()
    started = time.perf_counter()
    handled = run()
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    return {"rows": handled, "seconds": seconds, "memory_mib": peak - before}


def run_steps(rows: int) -> dict[str, dict[str, float]]:
    """Run all steps over one table, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder:
        found = {}
        for step in make_steps(ObjectTable(LocalStateStore(f"file://{folder}"), "docs"), rows):
            command = [sys.executable, __file__, "--rows", str(rows), "--child", folder, "--step", step]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[step] = json.loads(out)
            print(f"{step}: {found[step]}", file=sys.stderr)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parse_options(parser, {"rows": 20_000})
    if options.child is not None:
        print(json.dumps(measure(options.child, options.rows, options.step)))
        return
    report = Report(
        "object_table",
        "Object table",
        repeat_command(__file__),
        "Every operation of the object table, each in a process of its own over the table that the previous one left. "
        "Memory is the peak above the process with everything imported. Creating the rows is part of the cost of "
        "appends.",
        ["ingestion-engine", "pyarrow"],
        {"runs": options.runs, "rows": options.rows, "state store": "a directory"},
        quick=options.quick,
    )
    runs = [run_steps(options.rows) for _ in range(options.runs)]
    results = {
        step: {name: statistics.median(run[step][name] for run in runs) for name in runs[0][step]} for step in runs[0]
    }
    report.add_table(
        ("step", "rows", "s", "rows/s", "MiB"),
        [
            (
                step,
                f"{r['rows']:,}",
                f"{r['seconds']:.1f}",
                f"{r['rows'] / r['seconds']:,.0f}",
                f"{r['memory_mib']:.0f}",
            )
            for step, r in results.items()
        ],
    )
    report.data = {"results": results}
    report.write()


if __name__ == "__main__":
    main()
