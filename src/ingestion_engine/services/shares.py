"""How much a job may do at once: its share of the embedding limit, or all it asks for with a gateway. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ingestion_engine.domain.spec import EngineName, JobRequest
from ingestion_engine.runtime.server_urls import count_servers
from ingestion_engine.runtime.settings import Settings

QUEUED_PER_SERVER: Final = 2
"""Requests of a job per Ollama server: one in progress and one queued at the server, so that the server is never idle
between an answer and the next request. A third one only waits longer (``docs/performance.md``)."""

LARGEST_SHARE: Final = 8
"""Maximum number of requests in flight per partition: 64 texts at the default batch size. With many more, a partition
spends its time starting and ending instead of keeping that many servers busy."""

RAY_JOBS: Final = 16
"""Default of ``INGEST_RAY__MAX_JOBS`` with a gateway: each driver takes about 200 MiB on the head and two seconds of a
core to start, so sixteen take 3 GiB; their tasks wait in Ray's own queue for CPUs."""

SPARK_JOBS: Final = 8
"""Default of ``INGEST_SPARK__MAX_JOBS`` with a gateway: each job has pods of its own, 5 cores and 12 GiB with the other
defaults; pods that find no room fail their job after ``INGEST_DISPATCH__PENDING_TIMEOUT_S``."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The part of the embedding limit that a job receives."""

    parallelism: int
    """Number of partitions that run in parallel."""
    share: int
    """Embedding requests in flight per partition."""

    @property
    def requests(self) -> int:
        """Maximum number of embedding requests in flight, over all partitions of the job."""
        return self.parallelism * self.share


def grant_parallelism(settings: Settings, request: JobRequest) -> int:
    """Return how many partitions of a job may run in parallel: the number requested, at most the whole limit. Pure."""
    if settings.gateway.url:
        return request.parallelism
    return min(request.parallelism, settings.embed_in_flight)


def choose_share(settings: Settings, parallelism: int, free: int) -> int:
    """Return the number of embedding requests in flight for each of ``parallelism`` partitions, at least 1. Pure.

    The number gives every server ``QUEUED_PER_SERVER`` requests; a declared capacity counts as that many servers. Where
    ``INGEST_EMBED__IN_FLIGHT`` is set, the operator says how many requests there is use for, and more servers than URLs
    may be behind it. Beyond one request per partition the number takes at most half of the free ones: each later job
    finds half of the rest, and does not have to wait for the end of this one.

    With a gateway it is always ``LARGEST_SHARE``: the gateway decides which requests are under way.

    Args:
        settings: The service's settings, with the Ollama servers.
        parallelism: Number of parallel partitions, as granted.
        free: Part of ``Settings.embed_in_flight`` that no admitted job holds, before this job is admitted.
    """
    if settings.gateway.url:
        return LARGEST_SHARE
    useful = max(QUEUED_PER_SERVER * count_servers(settings.ollama.urls), settings.embed.in_flight or 0)
    enough = math.ceil(useful / parallelism)
    return max(1, min(enough, LARGEST_SHARE, free // 2 // parallelism))


def choose_weight(request: JobRequest) -> int:
    """Return the weight of a job among those that embed through the gateway, 1 to 10. Pure.

    The one place that decides it: a weight per API key belongs here.
    """
    return request.priority


def limit_requests(settings: Settings) -> int | None:
    """Return the number of embedding requests that all jobs may have in flight; None where the gateway bounds them."""
    return None if settings.gateway.url else settings.embed_in_flight


def limit_jobs(settings: Settings) -> Mapping[EngineName, int]:
    """Return how many jobs may be under way on each engine that has such a limit. Pure."""
    defaults = (RAY_JOBS, SPARK_JOBS) if settings.gateway.url else (None, None)
    limits = {EngineName.RAY: settings.ray.max_jobs, EngineName.SPARK: settings.spark.max_jobs}
    chosen = zip(limits.items(), defaults, strict=True)
    return {engine: places for (engine, own), default in chosen if (places := own or default) is not None}
