"""A job's main file whose workers fail or stall as told; drills run it in place of the product's own.

Everything else is the product's: driver, engine, workers. What the workers run is passed to the engine, which ships
it to them by value, for it belongs to ``__main__``. Each fault happens once: a marker file says that it has.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.records import PartitionReport
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.driver.run import run_driver
from ingestion_engine.pipeline import write
from ingestion_engine.pipeline.worker import Process, process_partition
from ingestion_engine.state.ledger import Ledger

STALL_S = 240.0
"""A stalled worker whose test has ended must end too."""


def make_failing(markers: Path, *, may_exit: bool) -> Process:
    """A worker that fails once in every partition, when all points are written and before the report is.

    Every other partition is put back because the state store is unavailable at that moment; the others lose their
    process, or, where the worker is the driver too, meet a defect, which counts as the same.
    """

    def fail_once(create: Callable[[Ledger, PartitionReport], None]) -> Callable[[Ledger, PartitionReport], None]:
        def create_report(ledger: Ledger, report: PartitionReport) -> None:
            marker = markers / f"{report.partition_id}.failed"
            if marker.exists():
                create(ledger, report)
                return
            put_back = int(report.partition_id.rpartition(".")[2], 16) % 2 == 0
            marker.write_text("put back" if put_back else "died")
            if put_back:
                raise TransientError("state_unavailable", f"away for {report.partition_id}")
            if may_exit:
                os._exit(1)
            raise RuntimeError("a defect")

        return create_report

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        # The original stays known, so that every call installs the same, whichever thread is first.
        original = vars(Ledger).get("create_report_for_good", Ledger.create_report)
        Ledger.create_report_for_good = original
        Ledger.create_report = fail_once(original)
        return process_partition(spec_uri, partition_id)

    return process


def make_stalling(markers: Path) -> Process:
    """A worker whose first attempt does two partitions and then stands still in the next two.

    One stands between its look at the lease and its write, one before its first look. Each says so in
    ``ID.stalled``, goes on when ``ID.go`` is there, and leaves its report's status and error in ``ID.ended``.
    """

    def stall(partition_id: str, where: str) -> None:
        (markers / f"{partition_id}.stalled").write_text(where)
        ends_at = time.monotonic() + STALL_S
        while not (markers / f"{partition_id}.go").exists():
            if time.monotonic() > ends_at:
                os._exit(1)
            time.sleep(0.02)

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        if not partition_id.startswith("a01-") or claim(markers, 2) is not None:
            return process_partition(spec_uri, partition_id)
        before_write = claim(markers, 3) is not None
        upsert = write.upsert_points

        async def write_late(*arguments: Any) -> Any:
            stall(partition_id, "write")
            return await upsert(*arguments)

        if before_write:
            with replaced(write, "upsert_points", write_late):
                report = process_partition(spec_uri, partition_id)
        else:
            stall(partition_id, "look")
            report = process_partition(spec_uri, partition_id)
        (markers / f"{partition_id}.ended").write_text(f"{report.status.value} {(report.error or {}).get('code')}")
        return report

    return process


def claim(markers: Path, limit: int) -> int | None:
    """The next number below the limit that no process has; None when all are taken."""
    for number in range(limit):
        try:
            (markers / f"{number}.claimed").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    return None


@contextmanager
def replaced(owner: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Inside, something has another function."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def main() -> int:
    """Run one attempt."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", required=True)
    parser.add_argument("--attempt", required=True, type=int)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--fault", required=True, choices=["fail", "stall"])
    parser.add_argument("--markers", required=True, type=Path)
    asked = parser.parse_args()
    if asked.fault == "fail":
        process = make_failing(asked.markers, may_exit=asked.engine != EngineName.LOCAL)
    else:
        process = make_stalling(asked.markers)
    return 0 if run_driver(asked.spec, asked.attempt, process) is not None else 3


if __name__ == "__main__":
    raise SystemExit(main())
