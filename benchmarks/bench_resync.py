"""Measure a job over a bucket it already ingested: nothing, one object, or one in a hundred changed; ten million keys.

    python benchmarks/bench_resync.py [--runs 3] [--keys 100000] [--large-keys 10000000] [--quick]

``--large-keys 0`` skips the last part, which runs once and takes minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bare_listing import LIST_WITH_BOTOCORE, LIST_WITH_OBSTORE, list_bare
from bench_driver_memory import AgreeingStore, DescribingEmbedder, ReportingEngine, SyntheticSource, count_bytes
from http_server import ask, run_server
from processes import peak_bytes
from report import MIB, Report, Target, median_of, parse_options, repeat_command
from worlds import BUCKET, JobRun, World, open_world

from ingestion_engine.adapters.connect import open_embedder, open_source, open_state_store, open_stores
from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.records import ModelInfo, PartitionReport, RowState, TableRow
from ingestion_engine.domain.spec import EngineName, JobRequest, StoreName, flow_of
from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
from ingestion_engine.driver.preflight import wanted_contract
from ingestion_engine.pipeline.parsing.parse import PARSER_VERSION
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable

COLLECTION = "bench"
MODEL = "sim-384"
RATIO_TARGET = 1.5
LARGE_TARGET_MIB = 1000
CREDENTIALS = {"access_key_id": "synthetic", "secret_access_key": "synthetic"}


def seed(settings: Settings, keys: int) -> None:
    """Create the collection as if a job had ingested the whole bucket: its driver gets every report "done".

    Only collections and object table are real; the points were never written: an unchanged object needs none.
    """
    state = open_state_store(settings)
    request = JobRequest.model_validate(_request(""))
    spec = make_spec(settings, request, EngineName.LOCAL, "bench-seed", parallelism=4)
    ledger = Ledger(state, spec.job_id)
    ledger.write_spec(spec)
    source, embedder = open_source(settings), open_embedder(settings, 1, flow=flow_of(spec))
    engine = ReportingEngine(state)
    stores = open_stores(settings, tuple(StoreName))
    driver = Driver(
        JobAttempt(spec=spec, spec_uri=ledger.spec_uri, number=1, parser_version=PARSER_VERSION),
        Ports(state=state, source=source, embedder=embedder, stores=stores, engine=engine),
    )
    summary = driver.run()
    if summary is None or summary["counts"]["done"] != keys:
        raise RuntimeError(f"the collection was not created: {summary}")


def _request(prefix: str) -> dict[str, Any]:
    return {
        "source": {"bucket": BUCKET, "prefix": prefix},
        "collection": COLLECTION,
        "embedding": {"model": MODEL},
        "chunking": {"max_chars": 1000, "overlap_chars": 0},
    }


def check_requests(run: JobRun, s3: dict[str, int], keys: int, changed: int) -> dict[str, float]:
    """Return the cost of a pass, with the requests from the servers' own counters.

    Raises:
        RuntimeError: The objects that were read, embedded and written are not exactly the changed ones.
    """
    counts = run.summary["counts"]
    writes = sum(s["upserts"] + s["deletes"] for s in run.stores.values())
    if s3["gets"] != changed or counts["unchanged"] != keys - changed:
        raise RuntimeError(f"{changed} objects were changed, but {s3} and {counts}")
    if not changed and (run.embedder["calls"] or writes):
        raise RuntimeError(f"nothing was changed, but {run.embedder} and {run.stores}")
    return {
        "elapsed_s": run.elapsed_s,
        "process_s": run.measured.wall_s,
        "cpu_s": run.measured.cpu_s,
        "peak_mib": run.measured.peak_bytes / MIB,
        "lists": s3["lists"],
        "gets": s3["gets"],
        "embed_calls": run.embedder["calls"],
        "store_writes": writes,
    }


def measure(world: World, url: str, keys: int, runs: int) -> dict[str, dict[str, float]]:
    """Return the medians of listings and passes."""
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(1, runs + 1):
        found.setdefault("bare listing, botocore", []).append(list_bare(url, LIST_WITH_BOTOCORE, keys))
        found.setdefault("bare listing, obstore", []).append(list_bare(url, LIST_WITH_OBSTORE, keys))
        passes: dict[str, tuple[dict[str, int], int]] = {
            "nothing changed": ({}, 0),
            "one changed": ({"one": number}, 1),
            "1 % changed": ({"percent": number}, -(-keys // 100)),
        }
        for name, (versions, changed) in passes.items():
            ask(f"{url}/sim/changed", versions)
            ask(f"{url}/sim/reset", {})
            run = world.run(EngineName.LOCAL, "", model=MODEL, parallelism=4, collection=COLLECTION)
            result = check_requests(run, ask(f"{url}/sim/counters"), keys, changed)
            found.setdefault(name, []).append(result)
            print(f"{number}/{runs} {name}: {result}", file=sys.stderr)
    return {name: median_of(results) for name, results in found.items()}


class PlannedError(BaseException):
    """Ends the driver after planning."""


class DrainingEngine:
    """Engine that consumes all partitions of a plan and then ends the driver, so that only planning is measured."""

    partitions = 0

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        """Never yields.

        Raises:
            PlannedError: After the last partition; it ends the driver, so that nothing is merged.
        """
        self.partitions = sum(1 for partition_id in partition_ids if partition_id is not None)
        raise PlannedError
        yield


def run_large(folder: Path, keys: int, name: str) -> dict[str, float]:
    """Run one part of the large case here: "new" plans every key, "unchanged" finds every key in the table."""
    state = LocalStateStore(f"file://{folder}")
    spec = make_spec(
        Settings(state_url=state.url),
        JobRequest.model_validate(_request("")),
        EngineName.LOCAL,
        f"job-{name}",
        parallelism=8,
    )
    ledger = Ledger(state, spec.job_id)
    ledger.write_spec(spec)
    draining = DrainingEngine()
    engine = draining if name == "new" else ReportingEngine(state)
    stores: Any = {store: AgreeingStore(store) for store in StoreName}
    embedder: Any = DescribingEmbedder()
    driver = Driver(
        JobAttempt(spec=spec, spec_uri=ledger.spec_uri, number=1, parser_version=PARSER_VERSION),
        Ports(state=state, source=SyntheticSource(keys), embedder=embedder, stores=stores, engine=engine),
    )
    used, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    try:
        driver.run()
    except PlannedError:
        if name != "new":
            raise
    now = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        "peak_mib": peak_bytes() / MIB,
        "plan_bytes": count_bytes(folder / "jobs" / spec.job_id / "plan"),
        "table_bytes": count_bytes(folder / "collections" / COLLECTION / "objects"),
        "partitions": draining.partitions,
        "unchanged": driver.counts.tally.unchanged,
    }


def fill_table(folder: Path, keys: int) -> None:
    """Write the object table of a collection that holds all synthetic keys."""
    state = LocalStateStore(f"file://{folder}")
    request = JobRequest.model_validate(_request(""))
    spec = make_spec(Settings(state_url=state.url), request, EngineName.LOCAL, "job-before", parallelism=8)
    contract = wanted_contract(spec, ModelInfo(MODEL, "sha256:bench", 384, 512))
    fingerprint = contract.fingerprint(PARSER_VERSION, {})
    date = "2026-01-01T00:00:00Z"
    rows = (
        TableRow(
            ref.key, ref.etag, ref.size_bytes, ref.last_modified, make_object_id(ref.bucket, ref.key), RowState.PRESENT,
            None, None, retryable=False, fingerprint=fingerprint, chunk_count=5, points_digest=ref.etag,
            vectors_digest=ref.etag, epoch=0, job_id=spec.job_id, updated_at=date,
        )
        for ref in SyntheticSource(keys).list_objects(BUCKET, "")
    )  # fmt: skip
    ObjectTable(state, COLLECTION).append_run(rows, epoch=0, job_id=spec.job_id)


def measure_large(keys: int) -> dict[str, dict[str, float]]:
    """Run both parts, each in a process of its own."""
    found = {}
    for name in ("new", "unchanged"):
        with tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder:
            if name == "unchanged":
                fill_table(Path(folder), keys)
            command = [sys.executable, __file__, "--child", folder, "--keys", str(keys), "--part", name]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name] = json.loads(out.splitlines()[-1])
            print(f"{keys:,} keys, {name}: {found[name]}", file=sys.stderr)
    if found["unchanged"]["unchanged"] != keys:
        raise RuntimeError(f"not everything was unchanged: {found['unchanged']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--large-keys", type=int, default=10_000_000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("new", "unchanged"), help=argparse.SUPPRESS)
    options = parse_options(parser, {"keys": 5_000, "large_keys": 50_000})
    if options.child is not None:
        print(json.dumps(run_large(options.child, options.keys, options.part)))
        return
    report = Report(
        "resync",
        "A job over a bucket that it knows",
        repeat_command(__file__),
        "A synthetic S3 server lists the keys at almost no cost, 1,000 a page. The bare listing is a program that "
        "does nothing else, with botocore, as the driver lists, and with obstore. Jobs are whole jobs of the local "
        "engine with a simulated Ollama and both sinks; the state store is a directory. The servers count the "
        "requests for bodies, vectors and writes, and a pass with more requests than necessary fails. The large case "
        "runs once, with a driver in a process of its own over a listing generated in the same process: all keys are "
        "new and are planned (nothing is run), then all are found unchanged in the object table.",
        ["ingestion-engine", "botocore", "obstore", "pyarrow", "orjson"],
        {"runs": options.runs, "keys": options.keys, "large keys": options.large_keys},
        quick=options.quick,
    )
    with run_server("sim_s3.py", "--keys", str(options.keys)) as s3:
        (url,) = s3["urls"]
        with open_world(endpoints=1, s3={"endpoint_url": url, **CREDENTIALS}) as world:
            seed(world.settings, options.keys)
            results = measure(world, url, options.keys, options.runs)
    large = measure_large(options.large_keys) if options.large_keys else {}
    add_results(report, results, large, options.large_keys)
    report.write()


def add_results(
    report: Report, results: dict[str, dict[str, float]], large: dict[str, dict[str, float]], large_keys: int
) -> None:
    """Add targets and tables to the report."""
    bare = results["bare listing, botocore"]
    unchanged = results["nothing changed"]
    report.targets += [
        Target("unchanged: job relative to bare listing", RATIO_TARGET, unchanged["elapsed_s"] / bare["loop_s"], ""),
        Target("unchanged: process relative to process", RATIO_TARGET, unchanged["process_s"] / bare["process_s"], ""),
    ]
    fields = ("process_s", "cpu_s", "peak_mib", "lists", "gets", "embed_calls", "store_writes")
    rows = [
        (
            name,
            f"{result.get('elapsed_s', result.get('loop_s', 0)):.2f}",
            f"{result.get('elapsed_s', result.get('loop_s', 0)) / bare['loop_s']:.2f}",
            *(f"{result[field]:,.{1 if field in fields[:2] else 0}f}" if field in result else "" for field in fields),
        )
        for name, result in results.items()
    ]
    heads = (
        "pass", "s", "relative to bare botocore", "process s", "CPU s", "peak MiB", "listings", "GETs", "embed calls",
        "store writes",
    )  # fmt: skip
    report.add_table(heads, rows)
    rows = [
        (
            f"{large_keys:,} keys, {name}",
            f"{result['wall_s']:.0f}",
            f"{result['cpu_s'] / large_keys * 1e5:.2f}",
            f"{result['peak_mib']:.0f}",
            f"{result['plan_bytes'] / large_keys:.0f}",
            f"{result['table_bytes'] / large_keys:.0f}",
            f"{result['partitions']:,.0f}",
        )
        for name, result in large.items()
    ]
    if rows:
        report.targets += [
            Target(f"{large_keys:,} keys, {name}: peak of the driver", LARGE_TARGET_MIB, result["peak_mib"], "MiB")
            for name, result in large.items()
        ]
        heads = ("case", "s", "CPU s per 100,000", "peak MiB", "plan B per key", "table B per key", "partitions")
        report.add_table(heads, rows)
    report.data = {"results": results, "large": large}


if __name__ == "__main__":
    main()
