"""From a request to the frozen spec that driver and workers obey. Pure but for the clock."""

from __future__ import annotations

import sys

from ingestion_engine import __version__
from ingestion_engine.domain.spec import EngineName, FrozenLimits, JobRequest, JobSpec
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.job_records import utc_now

EMBED_SHARE = 1
"""Embedding requests in flight per partition.

The dispatcher admits jobs so that the sum of their granted parallelism stays within ``Settings.embed_in_flight``;
with one request per
partition the sum of what all workers may have in flight is exactly that. A larger share for a job that is alone would
make the next
one wait for its end; a user who wants more asks for more parallelism, which also overlaps fetching and parsing.
"""


def grant_parallelism(settings: Settings, request: JobRequest) -> int:
    """Return how many partitions of a job may run at once: what it asks for, at most the whole limit. Pure."""
    return min(request.parallelism, settings.embed_in_flight // EMBED_SHARE)


def name_model(settings: Settings, request: JobRequest) -> str:
    """Return the embedding model of a request after defaults. Pure."""
    return request.embedding.model or settings.ollama.model


def make_spec(
    settings: Settings,
    request: JobRequest,
    engine: EngineName,
    job_id: str,
    *,
    parallelism: int,
    only_keys_path: str | None = None,
) -> JobSpec:
    """Return the spec of a job.

    Args:
        settings: The service's settings, whose limits and endpoints are frozen into the spec.
        request: What was asked.
        engine: Where partitions run.
        job_id: The job.
        parallelism: What was granted, at most what was asked.
        only_keys_path: Where the state store holds the keys to look at; None means all under the prefix.

    ``settings.state_url`` must be set.
    """
    assert settings.state_url is not None
    return JobSpec(
        job_id=job_id,
        engine=engine,
        created_at=utc_now().isoformat(timespec="seconds").replace("+00:00", "Z"),
        package_version=__version__,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        state_url=settings.state_url,
        request=request,
        model=name_model(settings, request),
        parallelism=parallelism,
        limits=freeze_limits(settings),
        endpoints=settings.endpoints(),
        only_keys_path=only_keys_path,
    )


def freeze_limits(settings: Settings) -> FrozenLimits:
    """Return the limits in force for one partition's worker. Pure.

    Rates are shared like requests: a partition gets ``EMBED_SHARE / embed_in_flight`` of the texts per second.
    """
    rate = settings.embed.texts_per_second
    return FrozenLimits(
        embed_in_flight=EMBED_SHARE,
        embed_texts_per_second=None if rate is None else rate * EMBED_SHARE / settings.embed_in_flight,
        embed_batch_texts=settings.embed.batch_texts,
        embed_batch_chars=settings.embed.batch_chars,
        object_max_bytes=settings.worker.object_max_bytes,
        decompressed_max_bytes=settings.worker.decompressed_max_bytes,
        parse_timeout_s=settings.worker.parse_timeout_s,
        partition_bytes=settings.worker.partition_bytes,
        partition_objects=settings.worker.partition_objects,
        partition_chunks=settings.worker.partition_chunks,
        lease_ttl_s=settings.lease.ttl_s,
        lease_grace_s=settings.lease.grace_s,
        outage_retry_s=settings.lease.outage_retry_s,
    )
