"""Measure the driver by number of listed keys: peak memory, time, bytes of plan; first pass and unchanged pass.

    python benchmarks/bench_driver_memory.py [--runs 3] [--keys 10000 --keys 200000]

Listing, engine, embedder and stores are minimal doubles of their ports, so only the driver is measured: listing, diff,
plan, reports, object table. The state store is a directory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from processes import peak_bytes
from report import MIB, Report, Target, parse_options, repeat_command

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import (
    ModelInfo,
    ObjectHead,
    ObjectRef,
    ObjectResult,
    Outcome,
    PartitionReport,
    RawObject,
    ReportStatus,
)
from ingestion_engine.domain.spec import CollectionContract, EngineName, JobRequest, StoreName
from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec
from ingestion_engine.state.lease import read_lease
from ingestion_engine.state.ledger import Ledger

TARGET_MIB = 100
COLLECTION = "bench"
PASSES = ("first", "unchanged", "out of order")
"""The last pass is unchanged too, but its listing is not in byte order, as with some servers."""


@dataclass(frozen=True, slots=True)
class SyntheticSource:
    """ObjectSource with ``keys`` synthetic objects, in byte order unless ``shuffled``."""

    keys: int
    shuffled: bool = False

    def check_bucket(self, bucket: str, prefix: str = "") -> None: ...

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        step = 7919 if self.shuffled else 1  # a prime, so that every number occurs once
        for number in (n * step % self.keys for n in range(self.keys)):
            key = f"handbook/{number // 1000:06d}/chapter-{number:09d}-of-the-register.md"
            etag = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
            yield ObjectRef(bucket, key, etag, 500 + number * 7919 % 20_000, "2026-01-01T00:00:00Z")

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        raise FatalError("unexpected_error", "the driver fetches nothing")

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        raise FatalError("unexpected_error", "the driver fetches nothing")

    async def exists(self, bucket: str, key: str) -> bool:
        raise FatalError("unexpected_error", "nothing is gone")

    async def close(self) -> None: ...


class DescribingEmbedder:
    """Embedder that only describes itself; the driver calls nothing else."""

    calls = 0

    async def describe(self, model: str, *, digest: str | None = None) -> ModelInfo:
        return ModelInfo(model, "sha256:bench", 384, 512)

    async def embed(self, model: str, texts: Iterable[str], *, digest: str | None = None, tries: int = 1) -> Any:
        raise FatalError("unexpected_error", "the driver embeds nothing")

    async def close(self) -> None: ...


@dataclass(slots=True)
class AgreeingStore:
    """The part of a VectorStore that the driver uses: a collection that exists and matches its contract."""

    name: StoreName

    async def check_collection(self, contract: CollectionContract) -> None: ...

    async def ensure_collection(self, contract: CollectionContract) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class ReportingEngine:
    """Engine whose partitions are done at once: reads each one, reports every object as done, stores nothing."""

    state: StateStore

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        ledger = Ledger(self.state, JobUri.parse(spec_uri).job_id)
        lease = read_lease(self.state, COLLECTION)
        assert lease is not None
        for partition_id in partition_ids:
            if partition_id is None:
                continue
            refs = [planned.ref for planned in ledger.read_partition(partition_id).objects]
            results = tuple(
                ObjectResult(
                    key=ref.key,
                    outcome=Outcome.DONE,
                    etag=ref.etag,
                    size_bytes=ref.size_bytes,
                    last_modified=ref.last_modified,
                    object_id=make_object_id(ref.bucket, ref.key),
                    chunk_count=5,
                    points_digest=ref.etag,
                    vectors_digest=ref.etag,
                )
                for ref in refs
            )
            report = PartitionReport(
                partition_id, ReportStatus.DONE, lease.epoch, results=results, chunks=5 * len(refs)
            )
            ledger.create_report(report)
            yield report


def run_driver(folder: Path, keys: int, name: str) -> dict[str, Any]:
    """Run one pass in this process; return its resource usage."""
    state = LocalStateStore(f"file://{folder}")
    settings = Settings(state_url=state.url)
    request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": COLLECTION})
    spec = make_spec(settings, request, EngineName.LOCAL, f"job-{name.replace(' ', '-')}", parallelism=4)
    ledger = Ledger(state, spec.job_id)
    ledger.write_spec(spec)
    stores: Any = {store: AgreeingStore(store) for store in StoreName}
    source, engine = SyntheticSource(keys, shuffled=name == "out of order"), ReportingEngine(state)
    embedder: Any = DescribingEmbedder()
    driver = Driver(
        JobAttempt(spec=spec, spec_uri=ledger.spec_uri, number=1, parser_version="bench"),
        Ports(state=state, source=source, embedder=embedder, stores=stores, engine=engine),
    )
    before = peak_bytes()
    started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    summary = driver.run()
    wall_s, now = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    assert summary is not None
    assert summary["state"] == "succeeded", summary
    assert summary["counts"]["done" if name == "first" else "unchanged"] == keys, summary["counts"]
    job = folder / "jobs" / spec.job_id
    return {
        "before_mib": before / MIB,
        "peak_mib": peak_bytes() / MIB,
        "wall_s": wall_s,
        "cpu_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        "plan_bytes": count_bytes(job / "plan"),
        "report_bytes": count_bytes(job / "reports"),
        "table_bytes": count_bytes(folder / "collections" / COLLECTION / "objects"),
        "partitions": summary["counts"]["partitions_done"],
    }


def list_only(keys: int) -> float:
    """Return the CPU seconds of the listing double alone, which are part of every pass."""
    used = time.process_time()
    for _ in SyntheticSource(keys).list_objects("docs", ""):
        pass
    return time.process_time() - used


def count_bytes(folder: Path) -> int:
    """Return the size of all files under a directory in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(keys: int) -> dict[str, dict[str, Any]]:
    """Run both passes over one state store, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in PASSES:
            command = [sys.executable, __file__, "--child", folder, "--keys", str(keys), "--pass", name]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name] = json.loads(out.splitlines()[-1])
            print(f"{keys} keys, {name}: {found[name]}", file=sys.stderr)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, action="append", help="repeatable; default: 10,000 and 200,000")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pass", dest="name", choices=PASSES, help=argparse.SUPPRESS)
    options = parse_options(parser, {"keys": [1_000, 10_000]})
    if options.child is not None:
        print(json.dumps(run_driver(options.child, options.keys[0], options.name)))
        return
    sizes = sorted(options.keys or [10_000, 200_000])
    report = Report(
        "driver_memory",
        "Memory and time of the driver",
        repeat_command(__file__),
        "Jobs over a synthetic listing, each in a process of its own: first everything is new and planned, and an "
        "engine double reports every partition as done at once, through the ledger; then the same listing is "
        "unchanged, in byte order and in another order (the driver then lists again and sorts). The object table is "
        "written and read as usual. Peaks are of resident memory (VmHWM); about 60 MiB of the part above the start is "
        "pyarrow being loaded. The CPU time of the listing double alone is shown in its own column.",
        ["ingestion-engine", "pyarrow", "orjson"],
        {"runs": options.runs, "keys": sizes, "state store": "a directory"},
        quick=options.quick,
    )
    runs = [{keys: measure(keys) for keys in sizes} for _ in range(options.runs)]
    results: list[dict[str, Any]] = []
    rows = []
    for name in PASSES:
        for keys in sizes:
            each = [run[keys][name] for run in runs]
            result = {field: statistics.median(one[field] for one in each) for field in each[0]}
            listing = statistics.median(list_only(keys) for _ in range(options.runs))
            per = 100_000 / keys
            results.append({"pass": name, "keys": keys, "listing_cpu_s": listing, **result})
            rows.append(
                (
                    f"{name}, {keys:,} keys",
                    f"{result['peak_mib']:.0f}",
                    f"{result['peak_mib'] - result['before_mib']:.0f}",
                    f"{result['wall_s'] * per:.2f}",
                    f"{result['cpu_s'] * per:.2f}",
                    f"{listing * per:.2f}",
                    *(f"{result[field] / keys:.0f}" for field in ("plan_bytes", "report_bytes", "table_bytes")),
                    f"{result['partitions']:,.0f}",
                )
            )
        ends = [
            next(r["peak_mib"] for r in results if (r["pass"], r["keys"]) == (name, n)) for n in (sizes[0], sizes[-1])
        ]
        growth = f"{name} pass: growth of the peak from {sizes[0]:,} to {sizes[-1]:,} keys"
        report.targets.append(Target(growth, TARGET_MIB, ends[1] - ends[0], "MiB"))
    heads = (
        "pass", "peak MiB", "above start MiB", "s per 100,000", "CPU s per 100,000", "of it listing",
        "plan B per key", "reports B per key", "table B per key", "partitions",
    )  # fmt: skip
    report.add_table(heads, rows)
    report.data = {"results": results}
    report.write()


if __name__ == "__main__":
    main()
