"""Decides which queued jobs start: in order, within the capacity, one per collection and alias. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobPhase, find_phase
from ingestion_engine.services.shares import Grant


class WaitReason(StrEnum):
    """Why a job is not admitted. Clients and metrics show the codes, so they are stable."""

    COLLECTION_IN_USE = "collection_in_use"
    """Another job uses the same collection."""
    ALIAS_IN_USE = "alias_in_use"
    """Another job uses the same alias, or a collection of its name."""
    ENGINE_UNAVAILABLE = "engine_unavailable"
    """The engine could not be reached or has refused the last driver for a reason that may pass."""
    ENGINE_FULL = "engine_full"
    """As many jobs are under way on the engine as ``INGEST_<ENGINE>__MAX_JOBS`` allows."""
    QUOTA = "quota"
    """As many jobs of the same owner are under way as ``INGEST_LIMITS__RUNNING_JOBS_PER_KEY`` allows."""
    EMBEDDING_CAPACITY = "embedding_capacity"
    """The job needs more embedding requests in flight than are free."""
    EARLIER_JOB = "earlier_job"
    """A job that was submitted earlier waits for embedding capacity."""
    PUT_BACK = "put_back"
    """An attempt found an environment that cannot run the job; the next one is not due yet."""
    DRAINING = "draining"
    """An operator has stopped admissions: ``ingest drain``."""
    UNREADABLE = "unreadable"
    """This version of the service cannot read the job's request or spec."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision on one queued job: admitted with ``grant``, or waiting for ``reason``, explained by ``note``."""

    job: JobRecord
    grant: Grant | None
    note: str | None
    reason: WaitReason | None = None


def admit_jobs(
    active: Sequence[JobRecord],
    *,
    limit: int | None,
    wanted: Callable[[JobRecord, int], Grant],
    max_jobs: Mapping[EngineName, int] = MappingProxyType({}),
    max_per_owner: int | None = None,
    unavailable: Mapping[EngineName, str] = MappingProxyType({}),
    draining: str | None = None,
) -> list[Admission]:
    """Return a decision for every job of ``active`` that waits for admission, oldest first. Pure.

    - Jobs of an unavailable or full engine, jobs of an owner with as many jobs as it may have, and jobs whose
      collection or alias is in use, wait without blocking later jobs of other engines, owners and collections.
    - A job that needs more than the rest of the limit blocks all later jobs, so that small jobs cannot starve a large
      one.
    - The requests that all admitted jobs may have in flight never exceed the limit. One exception: a job whose spec was
      frozen under a larger limit, and needs more than the limit is now, is admitted once it is alone.

    Args:
        active: All jobs that have not ended, oldest first; the admitted ones hold their grant and their collection.
        limit: Maximum number of embedding requests in flight, over all jobs; None where the gateway bounds them.
        wanted: Returns the grant that a job needs when the given number of requests is free. The job is admitted with
            all of it, or waits.
        max_jobs: Maximum number of jobs under way, by engine; an engine that is missing has no limit.
        max_per_owner: Maximum number of jobs under way of one owner; None means no limit, as for jobs without an
            owner.
        unavailable: Engines that cannot accept a job now, with the reason.
        draining: Why no job is admitted at all; None means that jobs are.
    """
    if draining is not None:
        waiting = [job for job in active if find_phase(job) is JobPhase.WAITING]
        return [Admission(job, None, draining, reason=WaitReason.DRAINING) for job in waiting]
    holders = [job for job in active if find_phase(job) is not JobPhase.WAITING]
    free = None if limit is None else limit - sum(_held(job) for job in holders)
    under_way = Counter(job.engine for job in holders)
    owned = Counter(job.owner for job in holders)
    # Weaviate ignores the case of a collection's first letter, so names are compared without case.
    busy = {name: job.id for job in holders for name in _names(job)}
    ahead: JobRecord | None = None
    decisions = []
    for job in active:
        if find_phase(job) is not JobPhase.WAITING:
            continue
        names, grant = _names(job), wanted(job, max(free or 0, 0))
        places = max_jobs.get(job.engine)
        if (name := next((name for name in names if name in busy), None)) is not None:
            is_collection = name == job.collection.lower()
            what = "collection" if is_collection else "alias"
            reason = WaitReason.COLLECTION_IN_USE if is_collection else WaitReason.ALIAS_IN_USE
            note = f"Waiting for job {busy[name]}, which uses the same {what}."
            decisions.append(Admission(job, None, note, reason=reason))
        elif job.engine in unavailable:
            decisions.append(Admission(job, None, unavailable[job.engine], reason=WaitReason.ENGINE_UNAVAILABLE))
            busy.update(dict.fromkeys(names, job.id))
        elif places is not None and under_way[job.engine] >= places:
            note = _describe_full(job.engine, under_way[job.engine], places)
            decisions.append(Admission(job, None, note, reason=WaitReason.ENGINE_FULL))
            busy.update(dict.fromkeys(names, job.id))
        elif max_per_owner is not None and job.owner and owned[job.owner] >= max_per_owner:
            setting = "INGEST_LIMITS__RUNNING_JOBS_PER_KEY"
            note = f"Waiting for the end of other jobs of {job.owner!r}: {owned[job.owner]} are under way, and at most "
            note += f"{max_per_owner} may be ({setting})."
            decisions.append(Admission(job, None, note, reason=WaitReason.QUOTA))
            busy.update(dict.fromkeys(names, job.id))
        elif ahead is not None:
            note = f"Waiting for job {ahead.id}, which was submitted earlier."
            decisions.append(Admission(job, None, note, reason=WaitReason.EARLIER_JOB))
            busy.update(dict.fromkeys(names, job.id))
        elif free is not None and limit is not None and (needed := min(grant.requests, limit)) > free:
            note = f"Waiting for embedding capacity: needs {needed}, {max(free, 0)} of {limit} requests are free."
            decisions.append(Admission(job, None, note, reason=WaitReason.EMBEDDING_CAPACITY))
            ahead = job
            busy.update(dict.fromkeys(names, job.id))
        else:
            decisions.append(Admission(job, grant, None))
            busy.update(dict.fromkeys(names, job.id))
            under_way[job.engine] += 1
            owned[job.owner] += 1
            free = None if free is None else free - grant.requests
    return decisions


def _describe_full(engine: EngineName, under_way: int, places: int) -> str:
    """Return why a job waits for its engine. Pure."""
    setting = f"INGEST_{engine.value.upper()}__MAX_JOBS"
    return f"Waiting for a place on engine {engine.value!r}: {under_way} of {places} jobs are under way ({setting})."


def _held(job: JobRecord) -> int:
    """Return the number of requests that an admitted job may have in flight, by its frozen spec. Pure."""
    grant = job.grant
    return (job.parallelism or 0) if grant is None else grant.requests


def _names(job: JobRecord) -> tuple[str, ...]:
    """Return the names that a job reserves: its collection and the alias it moves, in one namespace. Pure."""
    return (job.collection.lower(),) if job.alias is None else (job.collection.lower(), job.alias.lower())
