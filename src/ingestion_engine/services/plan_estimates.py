"""How long a planned job would take: the pace of earlier jobs, applied to the chunks of the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from ingestion_engine.services.job_records import JobRecord

LEAST_CHUNKS: Final = 50
"""A job with fewer chunks says more about starting than about its pace."""

MOST_JOBS: Final = 5
"""Newest jobs whose pace counts; older ones ran on other machines."""

LOOK_AT: Final = 50
"""Jobs among which those are looked for."""


@dataclass(frozen=True, slots=True)
class PlanEstimate:
    """An estimate, and what it is made from."""

    seconds: float
    """From the submission to the end."""
    chunks_per_s: float
    """Median of the earlier jobs."""
    start_s: float
    """Median of the time from their submission to the start of their driver, which is part of ``seconds``."""
    jobs: int
    """Number of earlier jobs."""
    same_collection: bool
    """True when they are jobs on the same collection; else they are others on the same engine."""


def estimate_plan(plan: JobRecord, earlier: Sequence[JobRecord]) -> PlanEstimate | None:
    """Return how long the work of a plan would take; None when no earlier job shows a pace.

    Args:
        plan: A plan that has ended.
        earlier: Jobs on the same engine that have succeeded, newest first. Those on the plan's collection count before
            others.
    """
    chunks = _count(plan, "chunks_estimated")
    paced = [(job, pace) for job in earlier if job.id != plan.id and (pace := _measure(job)) is not None]
    own = [pace for job, pace in paced if job.collection == plan.collection]
    used = (own or [pace for _, pace in paced])[:MOST_JOBS]
    if not used:
        return None
    chunks_per_s, start_s = median(pace for pace, _ in used), median(start for _, start in used)
    seconds = round(start_s + chunks / chunks_per_s, 1)
    return PlanEstimate(
        seconds,
        chunks_per_s=round(chunks_per_s, 2),
        start_s=round(start_s, 1),
        jobs=len(used),
        same_collection=bool(own),
    )


def _measure(job: JobRecord) -> tuple[float, float] | None:
    """Return chunks per second and the seconds before the start; None for a job that shows no pace."""
    if job.started_at is None or job.finished_at is None:
        return None
    chunks, seconds = _count(job, "chunks"), (job.finished_at - job.started_at).total_seconds()
    if chunks < LEAST_CHUNKS or seconds <= 0:
        return None
    return chunks / seconds, max(0.0, (job.started_at - job.created_at).total_seconds())


def _count(job: JobRecord, name: str) -> float:
    value = job.counts.get(name) if isinstance(job.counts, Mapping) else None
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0
