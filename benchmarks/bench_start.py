"""Measure the time to the first embed call, compared with a trivial job of the same engine, and import times.

python benchmarks/bench_start.py [--runs 3] [--engine ray --engine spark] [--imports-only] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from http_server import ask, run_server
from processes import run_measured
from report import Report, Target, median_of, parse_options, repeat_command
from stacks import open_stack
from worlds import list_markdown, upload_objects

from ingestion_devstack.stack.stack import Stack
from ingestion_engine.submission.kubernetes.api import KubernetesApi

FIRST_CALL_TARGET_S = 2.0
IMPORT_TARGET_S = 1.0
WAIT_S = 300.0
LOOK_EVERY_S = 0.02
MODEL = "sim-384"
ENDED = ("succeeded", "partially_succeeded", "failed", "canceled")
TOP_IMPORTS = 12

IMPORTS = {
    "Python alone": "pass",
    "worker's entry": "import ingestion_engine.pipeline.worker",
    "driver's entry": "import ingestion_engine.driver.run, ingestion_engine.driver.driver",
    "worker's entry, and every adapter a partition opens": (
        "import ingestion_engine.pipeline.worker, "
        "ingestion_engine.adapters.s3.source, ingestion_engine.adapters.s3.state_store, "
        "ingestion_engine.adapters.ollama.embedder, ingestion_engine.adapters.qdrant.store, "
        "ingestion_engine.adapters.weaviate.store"
    ),
}
TRIVIAL_RAY = """
import pathlib, ray, sys, time
ray.init(log_to_driver=False, configure_logging=False)
moment = ray.get(ray.remote(num_cpus=0.25)(lambda: time.time()).remote())
pathlib.Path(sys.argv[1]).write_text(repr(moment))
"""
TRIVIAL_SPARK = """
import pathlib, sys, time
from pyspark import SparkContext
context = SparkContext.getOrCreate()
moment = context.parallelize([0], 1).map(lambda _: time.time()).collect()[0]
pathlib.Path(sys.argv[1]).write_text(repr(moment))
"""


def wait_for(look: Callable[[], Any]) -> Any:
    """Call ``look`` until its result is not None; return the result.

    Raises:
        TimeoutError: The result stayed None.
    """
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(LOOK_EVERY_S)
    raise TimeoutError("nothing happened")


def time_job(http: httpx.Client, engine: str, ollama_url: str, number: int) -> dict[str, float]:
    """Submit a small job; return the seconds until its first embed call and until its end."""
    ask(f"{ollama_url}/sim/reset", {})
    body = {
        "source": {"bucket": "docs", "prefix": "start/"},
        "collection": f"start_{engine}_{number}",
        "embedding": {"model": MODEL},
        "parallelism": 2,
    }
    started = time.time()
    answer = http.post(f"/{engine}/jobs", json=body)
    answer.raise_for_status()
    accepted = time.time()
    job = f"/jobs/{answer.json()['job_id']}"
    first = wait_for(lambda: ask(f"{ollama_url}/sim/counters")["first_call_at"])
    state = wait_for(lambda: found if (found := http.get(job).json()["state"]) in ENDED else None)
    if state != "succeeded":
        raise RuntimeError(f"{job} ended as {state}: {http.get(job).json()}")
    return {"accepted_s": accepted - started, "first_call_s": first - started, "ended_s": time.time() - started}


def time_trivial(stack: Stack, http: httpx.Client, engine: str, folder: Path, number: int) -> float:
    """Submit a trivial job of one task directly to the engine; return the seconds until the task runs."""
    script, result = folder / f"trivial_{engine}.py", folder / f"{engine}-{number}"
    script.write_text(TRIVIAL_RAY if engine == "ray" else TRIVIAL_SPARK, encoding="utf-8")
    started = time.time()
    if engine == "ray":
        token = stack.settings.ray.auth_token
        assert token is not None
        answer = httpx.post(
            f"{stack.settings.ray.address}/api/jobs/",
            json={"entrypoint": shlex.join([sys.executable, str(script), str(result)])},
            headers={"authorization": f"Bearer {token.get_secret_value()}"},
            timeout=60,
        )
        answer.raise_for_status()
    else:
        shown = {"source": {"bucket": "docs"}, "collection": "start_shown", "embedding": {"model": MODEL}}
        manifest = http.post("/spark/manifest", json={**shown, "parallelism": 2}).raise_for_status().json()
        manifest["metadata"]["name"] = f"trivial-{number}"
        manifest["spec"] |= {"mainApplicationFile": f"local://{script}", "arguments": [str(result)]}
        asyncio.run(_create_application(stack, manifest))
    text = wait_for(lambda: (result.read_text() or None) if result.exists() else None)
    return float(text) - started


async def _create_application(stack: Stack, manifest: dict[str, Any]) -> None:
    spark = stack.settings.spark
    assert spark.namespace is not None
    api = KubernetesApi(spark.namespace, kubeconfig=spark.kubeconfig, context=spark.context)
    try:
        await api.create_application(manifest)
    finally:
        await api.close()


def measure_first_calls(engines: list[str], runs: int) -> dict[str, dict[str, float]]:
    """Return the medians per engine; jobs of the product and trivial ones alternate."""
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    with (
        run_server("sim_ollama.py") as ollama,
        run_server("sim_stores.py") as stores,
        tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder,
    ):
        groups: dict[str, Any] = {
            "ollama": {"urls": tuple(ollama["urls"])},
            "qdrant": {"url": stores["urls"][0]},
            "weaviate": {"url": stores["urls"][0], "grpc_url": stores["grpc_url"]},
            "api": {"port": 0},
            "ray": {"task_cpus": 0.25},
        }
        with open_stack(("s3", *engines), with_api=True, **groups) as stack:
            upload_objects(stack.settings, list_markdown("start/", 8))
            with httpx.Client(base_url=stack.services["api"].url, timeout=60) as http:
                for number in range(-1, runs):  # the first job of an engine warms caches and is not counted
                    for engine in engines:
                        trivial_s = time_trivial(stack, http, engine, Path(folder), number + 1)
                        result = time_job(http, engine, ollama["urls"][0], number + 1)
                        result |= {"trivial_s": trivial_s, "later_s": result["first_call_s"] - trivial_s}
                        print(f"{engine} {number + 1}/{runs}: {result}", file=sys.stderr)
                        if number >= 0:
                            found[engine].append(result)
    return {engine: median_of(results) for engine, results in found.items()}


def measure_imports(runs: int) -> dict[str, dict[str, float]]:
    """Return median wall and CPU seconds of fresh processes that only import."""
    found = {}
    for name, code in IMPORTS.items():
        used = [run_measured([sys.executable, "-c", code]) for _ in range(runs + 1)][1:]
        found[name] = median_of([{"wall_s": one.wall_s, "cpu_s": one.cpu_s} for one in used])
    return found


def list_slowest(code: str) -> list[tuple[str, float]]:
    """Return the imports of one process with the largest own and nested time in milliseconds, each package once."""
    told = subprocess.run([sys.executable, "-X", "importtime", "-c", code], check=True, capture_output=True, text=True)
    times: dict[str, float] = {}
    for line in told.stderr.splitlines():
        found = re.match(r"import time:\s+\d+ \|\s+(\d+) \|(\s+)(\S+)", line)
        if found:
            times[found[3]] = max(times.get(found[3], 0.0), int(found[1]) / 1000)
    return sorted(times.items(), key=lambda entry: -entry[1])[:TOP_IMPORTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=("ray", "spark"), help="repeatable; default: both")
    parser.add_argument("--imports-only", action="store_true", help="start no engine")
    options = parse_options(parser, {"engine": ["ray"]})
    engines = list(dict.fromkeys(options.engine or ("ray", "spark")))
    report = Report(
        "start",
        "Time to the first embed call, and imports",
        repeat_command(__file__),
        "Time from the POST of a job of eight small objects to the first embed call at the simulated Ollama, on a "
        "stack that is up and idle, compared with a trivial job that is submitted directly to the same engine, until "
        "its one task runs: for Ray a script through the Jobs API, for Spark a SparkApplication. One job of each is "
        "run before and not counted. Imports are whole processes, Python's own start included.",
        ["ingestion-engine", "ray", "pyspark", "httpx"],
        {"runs": options.runs},
        quick=options.quick,
    )
    imports = measure_imports(options.runs)
    firsts = {} if options.imports_only else measure_first_calls(engines, options.runs)
    for engine, result in firsts.items():
        name = f"{engine}: first embed call later than a trivial job's task"
        report.targets.append(Target(name, FIRST_CALL_TARGET_S, result["later_s"], "s"))
    entry = imports["worker's entry"]["wall_s"]
    report.targets.append(Target("import of the worker's entry", IMPORT_TARGET_S, entry, "s"))
    if firsts:
        fields = ("accepted_s", "first_call_s", "trivial_s", "later_s", "ended_s")
        rows = [(engine, *(f"{result[field]:.2f}" for field in fields)) for engine, result in firsts.items()]
        heads = ("engine", "POST to 202 s", "POST to first embed call s", "trivial job s", "later s", "job ended s")
        report.add_table(heads, rows)
    cells = [(name, f"{result['wall_s']:.2f}", f"{result['cpu_s']:.2f}") for name, result in imports.items()]
    report.add_table(("import", "s", "CPU s"), cells)
    slowest = list_slowest(IMPORTS["worker's entry, and every adapter a partition opens"])
    report.add_table(("slowest imports, with what they import", "ms"), [(name, f"{ms:.0f}") for name, ms in slowest])
    report.data = {"first_calls": firsts, "imports": imports, "slowest": dict(slowest)}
    report.write()


if __name__ == "__main__":
    main()
