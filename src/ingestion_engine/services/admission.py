"""Decides which queued jobs start: in order, within the embedding limit, one per collection and alias. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobPhase, find_phase
from ingestion_engine.services.shares import Grant


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision on one queued job: admitted with ``grant``, or waiting for the reason in ``note``."""

    job: JobRecord
    grant: Grant | None
    note: str | None


def admit_jobs(
    active: Sequence[JobRecord],
    *,
    limit: int,
    wanted: Callable[[JobRecord, int], Grant],
    unavailable: Mapping[EngineName, str] = MappingProxyType({}),
) -> list[Admission]:
    """Return a decision for every job of ``active`` that waits for admission, oldest first. Pure.

    - Jobs of an unavailable engine, and jobs whose collection or alias is in use, wait without blocking later jobs.
    - A job that needs more than the rest of the limit blocks all later jobs, so that small jobs cannot starve a large
      one.
    - The requests that all admitted jobs may have in flight never exceed the limit. One exception: a job whose spec was
      frozen under a larger limit, and needs more than the limit is now, is admitted once it is alone.

    Args:
        active: All jobs that have not ended, oldest first; the admitted ones hold their grant and their collection.
        limit: Maximum number of embedding requests in flight, over all jobs.
        wanted: Returns the grant that a job needs when the given number of requests is free. The job is admitted with
            all of it, or waits.
        unavailable: Engines that cannot accept a job now, with the reason.
    """
    holders = [job for job in active if find_phase(job) is not JobPhase.WAITING]
    free = limit - sum(_held(job) for job in holders)
    # Weaviate ignores the case of a collection's first letter, so names are compared without case.
    busy = {name: job.id for job in holders for name in _names(job)}
    ahead: JobRecord | None = None
    decisions = []
    for job in active:
        if find_phase(job) is not JobPhase.WAITING:
            continue
        names, grant = _names(job), wanted(job, max(free, 0))
        needed = min(grant.requests, limit)
        if (name := next((name for name in names if name in busy), None)) is not None:
            what = "collection" if name == job.collection.lower() else "alias"
            decisions.append(Admission(job, None, f"Waiting for job {busy[name]}, which uses the same {what}."))
        elif job.engine in unavailable:
            decisions.append(Admission(job, None, unavailable[job.engine]))
            busy.update(dict.fromkeys(names, job.id))
        elif ahead is not None:
            decisions.append(Admission(job, None, f"Waiting for job {ahead.id}, which was submitted earlier."))
            busy.update(dict.fromkeys(names, job.id))
        elif needed > free:
            note = f"Waiting for embedding capacity: needs {needed}, {max(free, 0)} of {limit} requests are free."
            decisions.append(Admission(job, None, note))
            ahead = job
            busy.update(dict.fromkeys(names, job.id))
        else:
            decisions.append(Admission(job, grant, None))
            busy.update(dict.fromkeys(names, job.id))
            free -= grant.requests
    return decisions


def _held(job: JobRecord) -> int:
    """Return the number of requests that an admitted job may have in flight, by its frozen spec. Pure."""
    grant = job.grant
    return (job.parallelism or 0) if grant is None else grant.requests


def _names(job: JobRecord) -> tuple[str, ...]:
    """Return the names that a job reserves: its collection and the alias it moves, in one namespace. Pure."""
    return (job.collection.lower(),) if job.alias is None else (job.collection.lower(), job.alias.lower())
