"""Measure the object table: rows per second and peak memory of each operation, each in a process of its own.

    python benchmarks/object_table.py [rows]

Writes benchmarks/object_table.md. The state store is a temporary directory: times are of the code, not of a network.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.records import TableRow
from ingestion_engine.state.object_table import ObjectTable

REPORT = Path(__file__).with_suffix(".md")


def make_row(number: int, epoch: int = 1) -> TableRow:
    key = f"handbook/{number // 1000:06d}/document-{number:09d}.md"
    digest = hashlib.md5(f"{epoch}{key}".encode(), usedforsecurity=False).hexdigest()
    object_id = f"{digest[:8]}-{digest[8:12]}-5{digest[12:15]}-a{digest[15:18]}-{digest[18:30]}"
    date = "2026-01-01T00:00:00Z"
    return TableRow(
        key, digest, number % 99_991, date, object_id, "present", None, None, retryable=False, fingerprint="f" * 16,
        chunk_count=number % 40, points_digest=digest[::-1], epoch=epoch, job_id=f"job-{epoch:026d}", updated_at=date,
    )  # fmt: skip


def make_steps(table: ObjectTable, rows: int) -> dict[str, Callable[[], int]]:
    """Return what is measured, in order; each returns the rows it handled."""

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


def measure(folder: str, rows: int, step: str) -> str:
    """Run one step in this process and return its line of the report."""
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
    return f"| {step} | {handled:,} | {seconds:.1f} | {handled / seconds:,.0f} | {peak - before:.0f} |"


def main(rows: int) -> None:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        steps = list(make_steps(ObjectTable(LocalStateStore(f"file://{folder}"), "docs"), rows))
        for step in steps:
            command = [sys.executable, __file__, str(rows), folder, step]
            lines.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
            print(lines[-1])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout
    REPORT.write_text(
        "# Object table\n\n"
        f"`python benchmarks/object_table.py {rows}` at commit {commit.strip()}; {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, pyarrow {pa.__version__}. State store: a local "
        "directory. Memory: peak above the process with everything imported.\n\n"
        "| step | rows | s | rows/s | MiB |\n|---|---:|---:|---:|---:|\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(measure(sys.argv[2], int(sys.argv[1]), sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
