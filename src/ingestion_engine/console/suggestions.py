"""Names that forms offer while one types: what the reader may use, as far as the service knows it already.

Pages never wait for them: what is not known in time is missing, and can be typed all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import Scope
from ingestion_engine.api.context import Services
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_store import JobFilter

NAMES_MAX: Final = 50
"""Names of each kind: what a list that unfolds below a field can show, and some 3 kB of a page (a guess)."""

RECENT_JOBS: Final = 100
"""Newest jobs whose names come first: one query of 10 ms."""

KEEP_S: Final = 10.0
"""How long names are offered without another listing, which takes a second with 10,000 collections on S3 (a guess).
A name that is missing can be typed."""

WITHIN_S: Final = 0.5
"""Time that a page waits for names; the listing goes on, and the next page has them. More would seem slow (a guess)."""


@dataclass(frozen=True, slots=True)
class Suggestions:
    """Names that the reader may use, sorted."""

    collections: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()

    @property
    def searchable(self) -> tuple[str, ...]:
        """Names that can be searched: aliases, then collections."""
        return self.aliases + self.collections


async def suggest_names(viewer: Principal, services: Services) -> Suggestions:
    """Return names for the fields of a form; fewer, or none, while a system does not answer in time.

    Cost: none within ``KEEP_S``, for all readers with the same rights; else two listings, one query, and a read for
    each of ``NAMES_MAX`` collections.
    """
    if not viewer.may(Scope.READ):
        return Suggestions()
    rights = ("names", viewer.buckets, viewer.collections, viewer.sees_jobs_of)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WITHIN_S):
            return await services.scrapes.get(rights, lambda: _find_names(viewer, services), keep_s=KEEP_S)
    return Suggestions()


async def _find_names(viewer: Principal, services: Services) -> Suggestions:
    recent_collections, recent_buckets = await _read_recent(viewer, services)
    collections: list[str] = []
    aliases: list[str] = []
    with contextlib.suppress(IngestionError):
        collections = await services.collections.list_names(viewer)
        aliases = await services.aliases.list_names(viewer)
    offered = _choose(collections, recent_collections)
    buckets: list[str] = []
    with contextlib.suppress(IngestionError):
        buckets = await services.collections.list_buckets(offered, viewer)
    known = {*recent_buckets, *buckets}
    return Suggestions(
        collections=offered,
        aliases=_choose(aliases, recent_collections),
        buckets=_choose(filter(viewer.may_read_bucket, known), recent_buckets),
    )


async def _read_recent(viewer: Principal, services: Services) -> tuple[list[str], list[str]]:
    """Return collections and aliases, and buckets, of the newest jobs that the reader may see, the newest first."""
    try:
        where = JobFilter(seen_by=viewer.sees_jobs_of)
        jobs, _ = await services.jobs.list_page(where, limit=RECENT_JOBS, cursor=None)
    except IngestionError:
        return [], []
    names = [name for job in jobs for name in (job.alias, job.collection) if name]
    return names, list(filter(None, map(_find_bucket, jobs)))


def _find_bucket(job: JobRecord) -> str | None:
    """Return the bucket of a job; None when this version cannot read its request. Pure."""
    source = job.request.get("source") if isinstance(job.request, Mapping) else None
    bucket = source.get("bucket") if isinstance(source, Mapping) else None
    return bucket if isinstance(bucket, str) else None


def _choose(names: Iterable[str], recent: Iterable[str]) -> tuple[str, ...]:
    """Return some of the names, sorted: those that were used last, then the first ones. Pure."""
    rest = set(names)
    used = [name for name in dict.fromkeys(recent) if name in rest]
    others = sorted(rest - set(used))
    return tuple(sorted([*used, *others][:NAMES_MAX]))
