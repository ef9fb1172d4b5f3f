"""CPU by stage: a sampling profile of a worker, with each sample assigned to one pipeline stage.

Requires the program ``py-spy`` (installed with Ray's dashboard); without it no profile is taken. Only Python threads
are sampled: the native threads of obstore and gRPC are not included.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from pathlib import Path

RATE_HZ = 100

IDLE = re.compile(
    r"^(_worker \(.*concurrent/futures/thread|wait \(.*threading|Condition\.wait \(|select \(|EpollSelector)"
)
"""Innermost frames that only wait; the profiler reports some of them as busy."""

STARTING = re.compile(r"importlib|botocore/(loaders|session)|ssl\.py")
"""Frames of one-time work: imports, botocore's models, TLS contexts."""

START = "start: imports, botocore's models, TLS"

STAGES: tuple[tuple[str, str], ...] = (
    (r"adapters/ollama/", "embed: request, answer to array"),
    (r"adapters/qdrant/", "write to Qdrant"),
    (r"adapters/weaviate/", "write to Weaviate"),
    (r"adapters/s3/state_store|ingestion_engine/state/", "ledger, lease, table"),
    (r"adapters/s3/", "fetch and list"),
    (r"pipeline/(parsing/|spool)", "parse"),
    (r"pipeline/chunking/", "chunk"),
    (r"pipeline/(points|write)|domain/ids", "points, ids and digests"),
    (r"pipeline/", "runner"),
    (r"ingestion_engine/(driver|engines)/", "driver"),
)
"""Stage by the path of the innermost matching frame; a digest that is computed for a point counts as points."""

LOOPS: tuple[tuple[str, str], ...] = (
    (r"grpc/", "gRPC's event loop"),
    (r"asyncio/|selectors|threading|concurrent/", "event loop and threads"),
)
"""Category of a sample that has no frame of a stage on its stack."""

_FRAME = re.compile(r"\((.+?)(?::\d+)?\)$")


def find_profiler(target: Path) -> tuple[str, ...] | None:
    """Return the command prefix that profiles a worker; None when py-spy is not installed."""
    beside = Path(sys.executable).parent / "py-spy"
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        return None
    return (
        found,
        "record",
        "--format",
        "raw",
        "--rate",
        str(RATE_HZ),
        "--output",
        str(target),
        "--full-filenames",
        "--",
    )


def read_profile(path: Path) -> dict[str, float]:
    """Return the share of samples per stage, largest first."""
    counts: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if frames[-1] and not IDLE.match(frames[-1]):
            counts[_find_stage(frames)] += int(count)
    total = sum(counts.values())
    return {stage: round(count / total, 4) for stage, count in counts.most_common()}


def _find_stage(stack: list[str]) -> str:
    files = [found[1] for frame in reversed(stack) if (found := _FRAME.search(frame))]
    if any(STARTING.search(file) for file in files):
        return START
    for stages in (STAGES, LOOPS):
        for file in files:
            for pattern, stage in stages:
                if re.search(pattern, file):
                    return stage
    return "other"
