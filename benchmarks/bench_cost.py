"""Measure CPU per 1,000 chunks with an embedder that answers at once, compared with a script and three frameworks.

    python benchmarks/bench_cost.py [--runs 3] [--objects 2000] [--rival langchain] [--no-rivals] [--quick]

Rivals run in virtual environments that pip creates in a temporary directory from ``benchmarks/rivals/*.txt``;
``--rivals-dir`` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from http_server import ask
from processes import Measured, run_measured
from report import MIB, Report, Target, median_of, parse_options, repeat_command
from stage_profile import START, find_profiler, read_profile
from worlds import BUCKET, World, list_markdown, open_world

from ingestion_engine.domain.spec import EngineName

RIVALS = Path(__file__).parent / "rivals"
SCRIPT = "asyncio_script"
FRAMEWORKS = ("langchain", "llamaindex", "haystack")
STORES = {1: ["qdrant"], 2: ["qdrant", "weaviate"]}
RATIO_TARGET = 0.2
MAIN = (768, 2)
"""Dimension and stores of the comparison."""
ALL, ONE = "cost/all/", "cost/one/"
"""Prefixes: the corpus, and a single object that shows the cost of starting a process."""


def make_environments(folder: Path, names: Sequence[str]) -> None:
    """Create the virtual environment of each rival where it is missing. Cost: minutes and about 200 MB each."""
    for name in names:
        if (folder / name / "done").exists():
            continue
        print(f"installing {name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
        python = str(folder / name / "bin" / "python")
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(RIVALS / f"{name}.txt")]
        subprocess.run(install, check=True)
        (folder / name / "done").touch()


def run_rival(world: World, folder: Path, name: str, prefix: str, dimension: int) -> tuple[Measured, int]:
    """Run one rival over a prefix; return its resource usage and the number of chunks that arrived in the sink.

    Raises:
        RuntimeError: The rival failed, or reported another number of chunks than arrived.
    """
    s3 = world.settings.s3
    key, secret = s3.access_key_id, s3.secret_access_key
    assert key is not None
    assert secret is not None
    task = {
        "s3": {
            "endpoint": s3.endpoint_url, "key": key.get_secret_value(), "secret": secret.get_secret_value(),
            "bucket": BUCKET, "prefix": prefix,
        },
        "ollama": world.ollama_urls[0],
        "qdrant": world.store_url,
        "model": f"sim-{dimension}",
        "dimension": dimension,
        "collection": f"rival_{name}",
    }  # fmt: skip
    script = name if name == SCRIPT else f"{name}_rival"
    ask(f"{world.store_url}/sim/reset", {})
    with tempfile.TemporaryFile() as out:
        command = [str(folder / name / "bin" / "python"), str(RIVALS / f"{script}.py"), json.dumps(task)]
        measured = run_measured(command, env={**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False"}, stdout=out)
        out.seek(0)
        said = json.loads(out.read().splitlines()[-1])["chunks"]
    arrived = ask(f"{world.store_url}/sim/counters")["qdrant"]["points"]
    if arrived != said:
        raise RuntimeError(f"{name} reported {said} chunks, {arrived} arrived")
    return measured, arrived


def run_ours(world: World, prefix: str, dimension: int, stores: int) -> tuple[Measured, int]:
    """Run a job on the local engine, driver and worker in one process."""
    run = world.run(EngineName.LOCAL, prefix, model=f"sim-{dimension}", stores=STORES[stores])
    if any(run.stores[store]["points"] != run.chunks for store in STORES[stores]):
        raise RuntimeError(f"{run.chunks} chunks, but {run.stores}")
    return run.measured, run.chunks


def summarise(runs: Mapping[str, tuple[Measured, int]], text_bytes: int) -> dict[str, float]:
    """Return CPU per 1,000 chunks: in total, and above the cost of starting."""
    (used, chunks), (start, _) = runs[ALL], runs[ONE]
    return {
        "chunks": chunks,
        "cpu_s": used.cpu_s,
        "start_cpu_s": start.cpu_s,
        "cpu_s_per_1000": used.cpu_s / chunks * 1000,
        "above_start_per_1000": (used.cpu_s - start.cpu_s) / chunks * 1000,
        "above_start_per_mb": (used.cpu_s - start.cpu_s) / text_bytes * 1e6,
        "wall_s": used.wall_s,
        "peak_mib": used.peak_bytes / MIB,
    }


def profile(world: World, folder: Path, dimension: int, stores: int) -> dict[str, float]:
    """Return shares of CPU by stage, from one more run under the profiler; empty without a profiler."""
    target = folder / "profile.txt"
    wrap = find_profiler(target)
    if wrap is None:
        return {}
    world.run(EngineName.LOCAL, ALL, model=f"sim-{dimension}", stores=STORES[stores], wrap=wrap)
    return read_profile(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--dimension", type=int, action="append", help="repeatable; default: 384, 768 and 1536")
    parser.add_argument("--rival", action="append", choices=[SCRIPT, *FRAMEWORKS], help="repeatable")
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--rivals-dir", type=Path, help="directory of the rivals' environments; created when missing")
    options = parse_options(parser, {"objects": 60, "dimension": [768], "rival": [SCRIPT]})
    dimensions = sorted(set(options.dimension or [384, 768, 1536]))
    rivals = [] if options.no_rivals else list(dict.fromkeys(options.rival or [SCRIPT, *FRAMEWORKS]))
    report = Report(
        "cost",
        "CPU per chunk",
        repeat_command(__file__),
        "Markdown objects are read from SeaweedFS and embedded by a simulated embedder that answers at once (vectors "
        "are looked up); sinks count and drop the points. CPU is user and system time of the process under test and "
        "its children, in seconds per 1,000 chunks; 'above start' subtracts what the same command uses for a single "
        "object. This product runs the local engine, driver and worker in one process, with everything that a job "
        "does: plan, ledger, lease, object table, digests. The hand-written script and the frameworks write one "
        "store, Qdrant, through its official client. Chunks differ between programs, so CPU per MB of text is shown "
        "too. Stages are shares of a sampling profile of a separate run.",
        ["ingestion-engine", "httpx", "numpy", "orjson", "obstore", "grpcio"],
        {
            "runs": options.runs,
            "objects": options.objects,
            "rivals": ", ".join(rivals) or "none",
            "stores": "Qdrant, or both",
        },
        quick=options.quick,
    )
    with tempfile.TemporaryDirectory(prefix="ingest-bench-") as temporary:
        folder = options.rivals_dir or Path(temporary)
        make_environments(folder, rivals)
        with open_world(endpoints=1) as world:
            world.upload(list_markdown(ONE, 1))
            _, size = world.upload(list_markdown(ALL, options.objects))
            results = measure(world, folder, options.runs, dimensions, rivals, size)
            profiles = {
                f"{dimension}, {stores} stores": profile(world, Path(temporary), dimension, stores)
                for dimension, stores in ((768, 1), (768, 2))
            }
    add_results(report, results, profiles, rivals)
    report.write()


def measure(
    world: World, folder: Path, runs: int, dimensions: Sequence[int], rivals: Sequence[str], size: int
) -> dict[str, dict[str, float]]:
    """Return the medians of each case; cases alternate within a run."""
    found: dict[str, list[dict[str, float]]] = {}

    def note(case: str, run: Callable[[str], tuple[Measured, int]]) -> None:
        result = summarise({prefix: run(prefix) for prefix in (ONE, ALL)}, size)
        found.setdefault(case, []).append(result)
        print(f"{case}: {result}", file=sys.stderr)

    for _ in range(runs):
        for dimension, stores in itertools.product(dimensions, STORES):
            note(
                f"this product, {dimension}, {stores}",
                lambda prefix, d=dimension, s=stores: run_ours(world, prefix, d, s),
            )
        for name in rivals:
            note(f"{name}, 768, 1", lambda prefix, n=name: run_rival(world, folder, n, prefix, 768))
    return {case: median_of(results) for case, results in found.items()}


def add_results(
    report: Report,
    results: Mapping[str, dict[str, float]],
    profiles: Mapping[str, dict[str, float]],
    rivals: Sequence[str],
) -> None:
    """Add targets and tables to the report."""
    ours = results[f"this product, {MAIN[0]}, {MAIN[1]}"]
    script = results.get(f"{SCRIPT}, 768, 1")
    frameworks = {name: results[f"{name}, 768, 1"] for name in rivals if name != SCRIPT}
    for field, what in (("cpu_s_per_1000", "whole process"), ("above_start_per_1000", "above start")):
        if frameworks:
            best = min(frameworks, key=lambda name: frameworks[name][field])
            ratio = ours[field] / frameworks[best][field]
            report.targets.append(Target(f"both stores relative to {best} (the best), {what}", RATIO_TARGET, ratio, ""))
        if script:
            ratio = ours[field] / script[field]
            report.targets.append(Target(f"both stores relative to the hand-written script, {what}", 1.0, ratio, ""))
    base = script or ours
    rows = [
        (
            case,
            f"{result['chunks']:,.0f}",
            *(f"{result[name]:.2f}" for name in ("cpu_s_per_1000", "above_start_per_1000", "above_start_per_mb")),
            f"{result['above_start_per_1000'] / base['above_start_per_1000']:.2f}",
            f"{result['start_cpu_s']:.1f}",
            f"{result['wall_s']:.1f}",
            f"{result['peak_mib']:.0f}",
        )
        for case, result in results.items()
    ]
    heads = (
        "case, dimension, stores", "chunks", "CPU s per 1,000", "above start", "above start per MB",
        f"above start relative to {'the script' if script else 'ours'}", "start CPU s", "s", "peak MiB",
    )  # fmt: skip
    report.add_table(heads, rows)
    stages = list(dict.fromkeys(stage for shares in profiles.values() for stage in shares if stage != START))
    if stages:
        cells = [
            (stage, *(f"{shares.get(stage, 0) / (1 - shares.get(START, 0)):.1%}" for shares in profiles.values()))
            for stage in stages
        ]
        cells.append((f"{START} (of all samples)", *(f"{shares.get(START, 0):.1%}" for shares in profiles.values())))
        note = "Share of the samples by stage, of what is not start, Python threads only:"
        report.add_table(("stage", *profiles), cells, note=note)
    report.data = {"results": results, "profiles": profiles}


if __name__ == "__main__":
    main()
