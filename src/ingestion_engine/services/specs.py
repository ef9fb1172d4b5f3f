"""Makes the frozen spec of a job from its request and the service's settings. Pure except for the clock."""

from __future__ import annotations

import math
import sys
from typing import Any

from ingestion_engine import __version__
from ingestion_engine.domain.spec import DEFAULT_PRIORITY, EngineName, FrozenLimits, JobRequest, JobSpec, JobTrace
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.services.shares import choose_share, choose_weight


def name_model(settings: Settings, request: JobRequest) -> str:
    """Return the embedding model of a request, or the default model. Pure."""
    return request.embedding.model or settings.ollama.model


def make_spec(
    settings: Settings,
    request: JobRequest,
    engine: EngineName,
    job_id: str,
    *,
    parallelism: int,
    share: int | None = None,
    only_keys_path: str | None = None,
) -> JobSpec:
    """Return the spec of a job.

    Args:
        settings: The service's settings; limits and endpoints are frozen into the spec.
        request: The request.
        engine: Engine that runs the partitions.
        job_id: Id of the job.
        parallelism: Granted number of parallel partitions, at most the requested one.
        share: Granted embedding requests in flight per partition; None means the share of a job that is alone.
        only_keys_path: Path in the state store of the keys to process; None means all keys under the prefix.

    ``settings.state_url`` must be set.
    """
    assert settings.state_url is not None
    if share is None:
        share = choose_share(settings, parallelism, settings.embed_in_flight)
    return JobSpec(
        job_id=job_id,
        engine=engine,
        created_at=timestamp_now(),
        state_url=settings.state_url,
        # Workers of an earlier release of this minor version do not know the field; the weight below is what counts.
        request=request.model_copy(update={"priority": DEFAULT_PRIORITY}),
        model=name_model(settings, request),
        parallelism=parallelism,
        limits=freeze_limits(settings, share, weight=choose_weight(request)),
        only_keys_path=only_keys_path,
        **_freeze_environment(settings),
    )


def refreeze(settings: Settings, spec: JobSpec, *, trace: JobTrace | None = None) -> JobSpec:
    """Return a spec for the next attempt: with the versions, endpoints and trace of this service as it is now. Pure.

    Everything else was decided when the job was first admitted and stays. One exception: a job that was admitted while
    a gateway bounded its requests, and has none any more, receives the part of the limits that a job has alone.
    """
    changes = {**_freeze_environment(settings), "trace": trace}
    if "gateway" in spec.endpoints and not settings.gateway.url:
        share = max(1, min(spec.limits.embed_in_flight, settings.embed_in_flight // spec.parallelism))
        rate = settings.embed.texts_per_second
        changes["limits"] = spec.limits.model_copy(
            update={
                "embed_in_flight": share,
                "embed_texts_per_second": None if rate is None else rate / spec.parallelism,
            }
        )
    return spec.model_copy(update=changes)


def _freeze_environment(settings: Settings) -> dict[str, Any]:
    return {
        "package_version": __version__,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "endpoints": settings.endpoints(),
    }


def freeze_limits(settings: Settings, share: int, weight: int = DEFAULT_PRIORITY) -> FrozenLimits:
    """Return the limits of the worker of one partition, with ``share`` embedding requests in flight. Pure.

    Rates are divided like requests: a partition gets ``share / embed_in_flight`` of the texts per second. With a
    gateway there is none: the gateway holds it over all jobs. A batch never has more texts than a second allows.
    """
    rate = settings.embed.texts_per_second
    per_second = max(1, math.floor(rate)) if rate is not None else settings.embed.batch_texts
    own_rate = None if rate is None or settings.gateway.url else rate * share / settings.embed_in_flight
    return FrozenLimits(
        embed_in_flight=share,
        embed_texts_per_second=own_rate,
        embed_weight=weight,
        embed_batch_texts=min(settings.embed.batch_texts, per_second),
        embed_batch_chars=settings.embed.batch_chars,
        object_max_bytes=settings.worker.object_max_bytes,
        decompressed_max_bytes=settings.worker.decompressed_max_bytes,
        parse_timeout_s=settings.worker.parse_timeout_s,
        ocr_languages=settings.ocr.languages if settings.ocr.enabled else None,
        ocr_max_pages=settings.ocr.max_pages,
        ocr_timeout_s=settings.ocr.timeout_s,
        partition_bytes=settings.worker.partition_bytes,
        partition_objects=settings.worker.partition_objects,
        partition_chunks=settings.worker.partition_chunks,
        lease_ttl_s=settings.lease.ttl_s,
        lease_grace_s=settings.lease.grace_s,
        outage_retry_s=settings.lease.outage_retry_s,
    )
