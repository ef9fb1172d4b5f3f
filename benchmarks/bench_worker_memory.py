"""Measure the memory of a worker above an idle one: one large object of several formats, and 200 PDFs.

python benchmarks/bench_worker_memory.py [--runs 3] [--size-mb 30] [--only text --only pdf]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import botocore.session
import corpora
from botocore.config import Config
from processes import Measured, run_measured
from report import MIB, Report, Target
from stacks import MODEL, open_stack

from ingestion_engine.adapters.connect import open_state_store, open_stores
from ingestion_engine.devstack.stack import Stack
from ingestion_engine.domain.spec import EngineName, JobRequest, StoreName
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec
from ingestion_engine.state.ledger import Ledger

TARGET_MIB = 500
TEXT_CASES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "text": (".txt", corpora.make_text),
    "csv": (".csv", corpora.make_csv),
    "jsonl": (".jsonl", corpora.make_jsonl),
    "html": (".html", corpora.make_html),
}


def list_objects(case: str, size_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and bytes of a case; "idle" is one tiny object."""
    if case == "idle":
        yield "idle/tiny.txt", b"One sentence, so that everything has been loaded once."
    elif case == "pdf":
        for name, body in corpora.make_pdfs():
            yield f"pdf/{name}", body
    else:
        suffix, make = TEXT_CASES[case]
        yield f"{case}/large{suffix}", make(size_bytes)


def upload(settings: Settings, objects: Iterator[tuple[str, bytes]]) -> tuple[int, int]:
    """Put objects into the bucket; return how many there were and their bytes."""
    key, secret = settings.s3.access_key_id, settings.s3.secret_access_key
    assert key is not None
    assert secret is not None
    s3: Any = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=settings.s3.endpoint_url,
        region_name=settings.s3.region,
        aws_access_key_id=key.get_secret_value(),
        aws_secret_access_key=secret.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}),
    )
    count = size = 0
    for name, body in objects:
        s3.put_object(Bucket="docs", Key=name, Body=body)
        count += 1
        size += len(body)
    return count, size


def run_job(stack: Stack, job_id: str, prefix: str) -> tuple[Measured, dict[str, Any]]:
    """Run a job in a process of its own, driver and worker in one; return what it used and its summary."""
    settings = stack.settings
    request = JobRequest.model_validate(
        {
            "source": {"bucket": "docs", "prefix": f"{prefix}/"},
            "collection": job_id.replace("-", "_"),
            "embedding": {"model": MODEL},
        }
    )
    spec = make_spec(settings, request, EngineName.LOCAL, job_id, parallelism=1)
    ledger = Ledger(open_state_store(settings), job_id)
    ledger.write_spec(spec)
    command = [sys.executable, "-m", "ingestion_engine.engines.entry", "--spec", ledger.spec_uri, "--attempt", "1"]
    measured = run_measured(command, env={**os.environ, **stack.env})
    summary = ledger.read_summary()
    if summary is None or summary["state"] != "succeeded":
        raise RuntimeError(f"{job_id} did not succeed: {summary}")
    asyncio.run(_drop(settings, request.collection))
    return measured, summary


async def _drop(settings: Settings, collection: str) -> None:
    for store in open_stores(settings, tuple(StoreName)).values():
        await store.drop_collection(collection)
        await store.close()


def measure(stack: Stack, cases: Sequence[str], runs: int, size_bytes: int) -> dict[str, dict[str, Any]]:
    """Return what each case used, medians over the runs; cases alternate within a run."""
    sizes = {case: upload(stack.settings, list_objects(case, size_bytes)) for case in cases}
    found: dict[str, list[tuple[Measured, dict[str, Any]]]] = {case: [] for case in cases}
    for run, case in itertools.product(range(runs), cases):
        found[case].append(run_job(stack, f"bench-{case}-{run}", case))
        print(f"{case} {run + 1}/{runs}: {found[case][-1][0].peak_bytes / MIB:.0f} MiB", file=sys.stderr)
    return {
        case: {
            "objects": sizes[case][0],
            "bytes": sizes[case][1],
            "chunks": results[0][1]["counts"]["chunks"],
            "peaks_mib": [round(used.peak_bytes / MIB, 1) for used, _ in results],
            "peak_mib": round(statistics.median(used.peak_bytes for used, _ in results) / MIB, 1),
            "cpu_s": round(statistics.median(used.cpu_s for used, _ in results), 2),
            "wall_s": round(statistics.median(used.wall_s for used, _ in results), 2),
            "stage_seconds": results[0][1]["timings"]["stage_seconds"],
        }
        for case, results in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size-mb", type=int, default=30, help="size of the large objects")
    parser.add_argument("--only", action="append", choices=[*TEXT_CASES, "pdf"], help="may be repeated")
    options = parser.parse_args()
    cases = ["idle", *(options.only or [*TEXT_CASES, "pdf"])]
    report = Report(
        "worker_memory",
        "Memory of a worker",
        f"python benchmarks/bench_worker_memory.py --runs {options.runs} --size-mb {options.size_mb}"
        + "".join(f" --only {case}" for case in options.only or ()),
        "A job on the local engine in a process of its own, so driver and worker in one, from the embedded S3 server "
        "through the Ollama stand-in into both stores. Idle is the same process after one tiny object. Peaks are of "
        "resident memory, as the kernel keeps them (VmHWM); above idle is the difference of the medians. The PDFs "
        "hold text only, 1 to 1,400 pages each.",
        ["ingestion-engine", "kreuzberg", "semantic-text-splitter", "obstore", "numpy"],
        {"runs": options.runs, "model": MODEL, "large object": f"{options.size_mb} MB", "stores": 2},
    )
    with open_stack(("s3", "ollama", "qdrant", "weaviate"), with_api=False) as stack:
        results = measure(stack, cases, options.runs, options.size_mb * corpora.MB)
    idle = results["idle"]
    rows = []
    for case, result in results.items():
        result["above_idle_mib"] = round(result["peak_mib"] - idle["peak_mib"], 1)
        if case != "idle":
            report.targets.append(Target(f"{case}: peak above idle", TARGET_MIB, result["above_idle_mib"], "MiB"))
        cells = (result["objects"], f"{result['bytes'] / corpora.MB:.1f}", f"{result['chunks']:,}")
        rows.append((case, *cells, *(result[name] for name in ("peak_mib", "above_idle_mib", "cpu_s", "wall_s"))))
    heads = ("case", "objects", "MB", "chunks", "peak MiB", "above idle MiB", "CPU s", "s")
    report.add_table(heads, rows)
    report.data = {"results": results}
    report.write()


if __name__ == "__main__":
    main()
