"""Measure a worker's memory above idle: one large object in several formats, PDFs, many tiny objects.

python benchmarks/bench_worker_memory.py [--runs 3] [--size-mb 30] [--dimension 768] [--pdfs 200] [--tiny 20000]
    [--only text] [--quick]

A report of selected cases has their names in its own name. The large sizes: --size-mb 1000 --only text --only jsonl;
--pdfs 2000 --only pdf; --tiny 200000 --only tiny.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import corpora
from report import MIB, Report, Target, parse_options, repeat_command
from worlds import Body, JobRun, World, open_world

from ingestion_engine.domain.spec import EngineName

TARGET_MIB = 500
TEXT_CASES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "text": (".txt", corpora.make_text),
    "csv": (".csv", corpora.make_csv),
    "jsonl": (".jsonl", corpora.make_jsonl),
    "json": (".json", corpora.make_jsonl),
    "xml": (".xml", corpora.make_text),
    "html": (".html", corpora.make_html),
}
IN_BLOCKS = ("text", "csv", "jsonl", "json", "xml")
"""Formats whose large objects repeat one block; the others are generated whole."""
WRAPPED = {"json": corpora.make_json, "xml": corpora.make_xml}
"""Documents around the blocks."""
CASES = (*TEXT_CASES, "pdf", "tiny")


def list_objects(case: str, options: argparse.Namespace) -> Iterator[tuple[str, Body]]:
    """Yield the keys and bytes of a case; "idle" is one tiny object."""
    if case in ("idle", "tiny"):
        for number in range(1 if case == "idle" else options.tiny):
            yield f"{case}/{number:07d}.txt", f"Sentence {number}, so that everything has been loaded once.".encode()
    elif case == "pdf":
        for name, body in corpora.make_pdfs(options.pdfs):
            yield f"pdf/{name}", body
    else:
        suffix, make = TEXT_CASES[case]
        size = options.size_mb * corpora.MB
        blocks = corpora.repeat_blocks(make, size) if case in IN_BLOCKS else make(size)
        yield f"{case}/large{suffix}", WRAPPED[case](blocks) if case in WRAPPED else blocks


def measure(world: World, cases: Sequence[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the median memory of each case; cases alternate within a run."""
    sizes = {case: world.upload(list_objects(case, options)) for case in cases}
    found: dict[str, list[JobRun]] = {case: [] for case in cases}
    for run, case in itertools.product(range(options.runs), cases):
        found[case].append(world.run(EngineName.LOCAL, f"{case}/", model=f"sim-{options.dimension}"))
        print(f"{case} {run + 1}/{options.runs}: {found[case][-1].measured}", file=sys.stderr)
    return {
        case: {
            "objects": sizes[case][0],
            "bytes": sizes[case][1],
            "chunks": runs[0].chunks,
            "peaks_mib": [round(run.measured.peak_bytes / MIB, 1) for run in runs],
            "peak_mib": round(statistics.median(run.measured.peak_bytes for run in runs) / MIB, 1),
            "cpu_s": round(statistics.median(run.measured.cpu_s for run in runs), 2),
            "wall_s": round(statistics.median(run.measured.wall_s for run in runs), 2),
            "stage_seconds": runs[0].summary["timings"]["stage_seconds"],
        }
        for case, runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=30, help="size of the large objects")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--pdfs", type=int, default=200)
    parser.add_argument("--tiny", type=int, default=20_000, help="objects of one sentence")
    parser.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    options = parse_options(parser, {"size_mb": 1, "pdfs": 10, "tiny": 200})
    cases = ["idle", *dict.fromkeys(options.only or CASES)]
    report = Report(
        "_".join(["worker_memory", *(cases[1:] if options.only else [])]),
        "Memory of a worker",
        repeat_command(__file__),
        "A job on the local engine in a process of its own, so driver and worker in one, from the embedded S3 server "
        "through a simulated Ollama into two sinks for points. Idle is the same process after one tiny object. Peaks "
        "are of resident memory, as the kernel records them (VmHWM); above idle is the difference of the medians. The "
        "PDFs contain text only, 1 to 1,400 pages each; large objects except HTML repeat one block with numbered "
        "sentences.",
        ["ingestion-engine", "pypdfium2", "semantic-text-splitter", "obstore", "numpy"],
        {
            "runs": options.runs,
            "dimension": options.dimension,
            "large object": f"{options.size_mb} MB",
            "PDFs": options.pdfs,
            "tiny objects": options.tiny,
            "stores": 2,
        },
        quick=options.quick,
    )
    limit = max(256, 2 * options.size_mb) * MIB
    with open_world(endpoints=1, worker={"object_max_bytes": limit, "decompressed_max_bytes": limit}) as world:
        results = measure(world, cases, options)
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
