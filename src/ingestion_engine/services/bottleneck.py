"""Which machine limits a job: how its time so far divides among what it waited for and worked with. Pure.

The time of a job is what a clock on the wall shows, from its submission to its end or until now:

1. before its first driver, it waited for a place (``capacity``);
2. while it was paused or waited, for the system that it waited for;
3. while it only planned, for the listing of the bucket (``s3``);
4. the rest is work. It is divided in proportion to the seconds of the workers: of a system, the longer of its requests
   and of the stage that makes them, which also waits for a free request; of the workers themselves, parsing and
   chunking.

Stages of a partition overlap, and several partitions run at once, so seconds of workers say nothing about the time on
the wall; their proportion says where it goes. A worker that has too few processors also makes requests look slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CAPACITY: Final = "capacity"
WORKERS: Final = "workers"
S3: Final = "s3"

MACHINES: Final = ("embedder", "qdrant", "weaviate", S3, WORKERS, CAPACITY, "state", "lease", "cluster", "other")
"""Everything that may limit a job; the words of ``waits_for`` where both name the same."""

_STAGES: Final = {"embed": "embedder", "fetch": S3, "parse": WORKERS, "chunk": WORKERS}
"""What a stage of the workers uses; those of the stores (``upsert``, ``delete``, ``reuse``) are known by requests."""

LEAST_S: Final = 1.0
"""Seconds of a job before its time is divided; before, chance decides."""


@dataclass(frozen=True, slots=True)
class TimeShare:
    """Part of a job's time."""

    machine: str
    share: float
    """0 to 1; all shares of a job add up to 1."""
    seconds: float


def divide_time(timings: Mapping[str, Any], *, queued_s: float, run_s: float | None) -> list[TimeShare]:
    """Return what a job spent its time on, the largest part first; empty while it is not known.

    Args:
        timings: Timings of the job as stored; entries that are missing or unreadable count nothing.
        queued_s: Seconds from the submission to the start of the first driver, or until now.
        run_s: Seconds since that start; None before.
    """
    parts = {CAPACITY: max(0.0, queued_s)}
    left = max(0.0, run_s or 0.0)
    for machine, seconds in _fit(_read_waits(timings), left).items():
        parts[machine] = parts.get(machine, 0.0) + seconds
        left -= seconds
    listing = min(left, _read_seconds(timings, "phase_seconds").get("planning", 0.0))
    parts[S3] = parts.get(S3, 0.0) + listing
    left -= listing
    work = _read_work(timings)
    total = sum(work.values())
    if total > 0:
        for machine, seconds in work.items():
            parts[machine] = parts.get(machine, 0.0) + left * seconds / total
    elif left > max(listing, LEAST_S):
        return []  # its workers have reported nothing yet
    whole = sum(parts.values())
    if whole < LEAST_S:
        return []
    found = [TimeShare(name, round(part / whole, 4), round(part, 1)) for name, part in parts.items() if part > 0]
    return sorted(found, key=lambda one: (-one.share, MACHINES.index(one.machine)))


def _read_waits(timings: Mapping[str, Any]) -> dict[str, float]:
    waits: dict[str, float] = {}
    for name, seconds in _read_seconds(timings, "wait_seconds").items():
        machine = name if name in MACHINES else "other"
        waits[machine] = waits.get(machine, 0.0) + seconds
    return waits


def _read_work(timings: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of workers by what they used."""
    stages: dict[str, float] = {}
    for stage, seconds in _read_seconds(timings, "stage_seconds").items():
        if stage in _STAGES:
            stages[_STAGES[stage]] = stages.get(_STAGES[stage], 0.0) + seconds
    requests = timings.get("requests")
    for system, made in requests.items() if isinstance(requests, Mapping) else ():
        seconds = _read_number(made.get("seconds")) if isinstance(made, Mapping) else 0.0
        if system in MACHINES:
            stages[system] = max(stages.get(system, 0.0), seconds)
    return stages


def _read_seconds(timings: Mapping[str, Any], name: str) -> dict[str, float]:
    values = timings.get(name)
    if not isinstance(values, Mapping):
        return {}
    return {str(key): _read_number(value) for key, value in values.items()}


def _read_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12 else 0.0


def _fit(parts: Mapping[str, float], whole: float) -> dict[str, float]:
    """Return parts that add up to at most the whole: a job that waited for two systems at once counts both."""
    total = sum(parts.values())
    scale = min(1.0, whole / total) if total > 0 else 0.0
    return {name: part * scale for name, part in parts.items()}
