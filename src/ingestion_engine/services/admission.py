"""Which queued jobs may start now: in order, within the embedding limit, one per collection and alias at once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.shares import Grant


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of one queued job: admitted with ``grant``, or waiting because of ``note``."""

    job: JobRecord
    grant: Grant | None
    note: str | None


def admit_jobs(
    active: Sequence[JobRecord],
    *,
    limit: int,
    wanted: Callable[[JobRecord, int], Grant],
    away: Mapping[EngineName, str] = MappingProxyType({}),
) -> list[Admission]:
    """Return a decision for every job of ``active`` that waits for admission, oldest first. Pure.

    - Jobs of an engine that is away, and jobs whose collection or alias is busy, wait without holding up
      those behind them.
    - A job for which the rest of the limit is too small holds up all behind it, so that a large one is not starved by
      small ones.
    - The requests that admitted jobs may have in flight never exceed the limit together. Only a job whose spec was
      frozen under a larger limit, and needs more than there is now, is admitted all the same, once it is alone.

    Args:
        active: All jobs that have not ended, oldest first; the admitted ones hold their grant and their collection.
        limit: Embedding requests in flight, over all jobs.
        wanted: What a job needs when the given number of requests is free; it is admitted with all of it or waits.
        away: Engines that cannot take a job now, and why.
    """
    holders = [job for job in active if job.admitted_at is not None]
    free = limit - sum(_held(job) for job in holders)
    # Weaviate folds the case of a collection's first letter, so names are compared without case.
    busy = {name: job.id for job in holders for name in _names(job)}
    ahead: JobRecord | None = None
    decisions = []
    for job in active:
        if job.admitted_at is not None:
            continue
        names, grant = _names(job), wanted(job, max(free, 0))
        needed = min(grant.requests, limit)
        if (name := next((name for name in names if name in busy), None)) is not None:
            what = "collection" if name == job.collection.lower() else "alias"
            decisions.append(Admission(job, None, f"waits for job {busy[name]} on the same {what}"))
        elif job.engine in away:
            decisions.append(Admission(job, None, away[job.engine]))
            busy.update(dict.fromkeys(names, job.id))
        elif ahead is not None:
            decisions.append(Admission(job, None, f"waits behind job {ahead.id}"))
            busy.update(dict.fromkeys(names, job.id))
        elif needed > free:
            note = f"waits for embedding capacity: needs {needed}, {max(free, 0)} of {limit} free"
            decisions.append(Admission(job, None, note))
            ahead = job
            busy.update(dict.fromkeys(names, job.id))
        else:
            decisions.append(Admission(job, grant, None))
            busy.update(dict.fromkeys(names, job.id))
            free -= grant.requests
    return decisions


def _held(job: JobRecord) -> int:
    """What an admitted job holds of the limit: what its frozen spec lets it have in flight. Pure."""
    grant = job.grant
    return (job.parallelism or 0) if grant is None else grant.requests


def _names(job: JobRecord) -> tuple[str, ...]:
    """What a job keeps others from: its collection and the alias it is to move; they share one namespace. Pure."""
    return (job.collection.lower(),) if job.alias is None else (job.collection.lower(), job.alias.lower())
