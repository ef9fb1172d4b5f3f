"""Which queued jobs may start now: in order, within the embedding limit, one per collection and alias at once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.services.job_records import JobRecord


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of one queued job: admitted with ``parallelism``, or waiting because of ``note``."""

    job: JobRecord
    parallelism: int | None
    note: str | None


def admit_jobs(
    active: Sequence[JobRecord],
    *,
    limit: int,
    wanted: Callable[[JobRecord], int],
    away: Mapping[EngineName, str] = MappingProxyType({}),
) -> list[Admission]:
    """Return a decision for every job of ``active`` that waits for admission, oldest first. Pure.

    - Jobs of an engine that is away, and jobs whose collection or alias is busy, wait without holding up
      those behind them.
    - A job for which the rest of the limit is too small holds up all behind it, so that a large one is not starved by
      small ones.

    Args:
        active: All jobs that have not ended, oldest first; the admitted ones hold their share and their collection.
        limit: The sum of granted parallelism that must not be exceeded.
        wanted: Share a job needs, at most ``limit``.
        away: Engines that cannot take a job now, and why.
    """
    holders = [job for job in active if job.admitted_at is not None]
    free = limit - sum(job.parallelism or 0 for job in holders)
    # Weaviate folds the case of a collection's first letter, so names are compared without case.
    busy = {name: job.id for job in holders for name in _names(job)}
    ahead: JobRecord | None = None
    decisions = []
    for job in active:
        if job.admitted_at is not None:
            continue
        names, share = _names(job), wanted(job)
        if (name := next((name for name in names if name in busy), None)) is not None:
            what = "collection" if name == job.collection.lower() else "alias"
            decisions.append(Admission(job, None, f"waits for job {busy[name]} on the same {what}"))
        elif job.engine in away:
            decisions.append(Admission(job, None, away[job.engine]))
            busy.update(dict.fromkeys(names, job.id))
        elif ahead is not None:
            decisions.append(Admission(job, None, f"waits behind job {ahead.id}"))
            busy.update(dict.fromkeys(names, job.id))
        elif share > free:
            note = f"waits for embedding capacity: needs {share}, {max(free, 0)} of {limit} free"
            decisions.append(Admission(job, None, note))
            ahead = job
            busy.update(dict.fromkeys(names, job.id))
        else:
            decisions.append(Admission(job, share, None))
            busy.update(dict.fromkeys(names, job.id))
            free -= share
    return decisions


def _names(job: JobRecord) -> tuple[str, ...]:
    """What a job keeps others from: its collection and the alias it is to move; they share one namespace. Pure."""
    return (job.collection.lower(),) if job.alias is None else (job.collection.lower(), job.alias.lower())
