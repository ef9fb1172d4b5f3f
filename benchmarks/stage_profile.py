"""CPU by stage: a sampling profile of a worker, each sample counted for the stage whose code it ran for.

Needs the program ``py-spy`` (it comes with Ray's dashboard); without it there is no profile. Python threads only: what
obstore's and gRPC's own threads do is not seen.
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
"""Innermost frames that only wait; the profiler takes some of them for work."""

STARTING = re.compile(r"importlib|botocore/(loaders|session)|ssl\.py")
"""Frames of what a process does once: imports, botocore's models, TLS contexts."""

START = "start: imports, botocore's models, TLS"

STAGES: tuple[tuple[str, str], ...] = (
    (r"adapters/ollama", "embed: request, answer to array"),
    (r"adapters/qdrant", "write to Qdrant"),
    (r"adapters/weaviate", "write to Weaviate"),
    (r"adapters/s3(_listing|_client|_obstore)?\.py", "fetch and list"),
    (r"adapters/s3_state|/state/", "ledger, lease, table"),
    (r"pipeline/(parse|decode|detect|unpack|spool|body)", "parse"),
    (r"pipeline/(chunk|tokens|sections)", "chunk"),
    (r"pipeline/(points|write)|domain/ids", "points, ids and digests"),
    (r"pipeline/", "runner"),
    (r"ingestion_engine/engines", "driver"),
)
"""The innermost frame that matches one of these decides; a digest made for a point so counts for points."""

LOOPS: tuple[tuple[str, str], ...] = (
    (r"grpc/", "gRPC's event loop"),
    (r"asyncio/|selectors|threading|concurrent/", "event loop and threads"),
)
"""What is left when no stage's code is on the stack."""

_FRAME = re.compile(r"\((.+?)(?::\d+)?\)$")


def find_profiler(target: Path) -> tuple[str, ...] | None:
    """The command to put before a worker's own; None when there is no profiler."""
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
    """Share of the samples per stage, largest first."""
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
