"""The composition root: opens the ports and constructs the services from them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingestion_engine.adapters.connect import (
    open_embedder,
    open_gateway,
    open_source,
    open_state_store,
    open_stores,
)
from ingestion_engine.api.metrics import Metrics
from ingestion_engine.api.streams import OpenStreams
from ingestion_engine.domain.ports import Embedder, EmbeddingGateway, JobEngine, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.records import Band, EmbeddingFlow
from ingestion_engine.domain.spec import EngineName, JobRequest, StoreName
from ingestion_engine.runtime.loop_lag import LoopLag
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.aliases import AliasService
from ingestion_engine.services.audit.entries import Redactor, find_secrets
from ingestion_engine.services.audit.lines import AuditLines
from ingestion_engine.services.audit.log import AuditLog
from ingestion_engine.services.audit.retention import AuditRetention
from ingestion_engine.services.chunks import ChunkService
from ingestion_engine.services.collections import CollectionService
from ingestion_engine.services.deletion import DeletionService
from ingestion_engine.services.dispatcher import Dispatcher
from ingestion_engine.services.embedding_waits import EmbeddingWaits
from ingestion_engine.services.health import HealthService
from ingestion_engine.services.job_drain import DrainSwitch
from ingestion_engine.services.job_feed import JobFeed
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.jobs import JobService
from ingestion_engine.services.ledgers import Ledgers
from ingestion_engine.services.preflight import Preflight
from ingestion_engine.services.ray_service import RayService
from ingestion_engine.services.response_cache import ResponseCache
from ingestion_engine.services.retention import Retention
from ingestion_engine.services.search import SearchService
from ingestion_engine.services.sweeps import sweep_regularly

SEARCH_IN_FLIGHT = 2
"""Embedding requests of searches in flight, in addition to the limit for jobs: a query is one short text, and a person
waits for it."""

SEARCH_FLOW = EmbeddingFlow("search", Band.SEARCH)
"""Whose requests the searches of all copies of the service are, for the gateway."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """All systems outside the process that the services use."""

    source: ObjectSource
    embedder: Embedder
    state: StateStore | None
    """None when no state store is configured: then no job can run, and no collection is known."""
    stores: Mapping[StoreName, VectorStore]
    engines: Mapping[EngineName, JobEngine]
    spark_manifest: Callable[[JobRequest], dict[str, Any]] | None = field(default=None)
    """Returns the SparkApplication that a request would create; None when Spark is not configured."""
    gateway: EmbeddingGateway | None = None
    """The gateways in front of the embedder; None when none is configured."""
    now: Callable[[], Moment] | None = None
    """Clock of the dispatcher; None means the database's."""

    async def close(self) -> None:
        """Close all connections; an error of one does not keep others open."""
        parts: list[ObjectSource | Embedder | EmbeddingGateway | VectorStore | JobEngine] = [
            self.source,
            self.embedder,
            *([] if self.gateway is None else [self.gateway]),
            *self.stores.values(),
            *self.engines.values(),
        ]
        for result in await asyncio.gather(*(part.close() for part in parts), return_exceptions=True):
            if isinstance(result, Exception):
                _log.warning("connection not closed", extra={"error": str(result)})


def open_parts(settings: Settings) -> Parts:
    """Open the configured systems. No request is made.

    Raises:
        FatalError: a setting is invalid.
    """
    names = [name for name in StoreName if getattr(settings, name.value).url is not None]
    engines: dict[EngineName, JobEngine] = {}
    if settings.ray.address is not None:
        engines[EngineName.RAY] = RayService.from_settings(settings)
    spark = None
    if settings.spark.namespace is not None:
        from ingestion_engine.services.spark_service import SparkService  # needs the extra `kubernetes`

        engines[EngineName.SPARK] = spark = SparkService.from_settings(settings)
    return Parts(
        source=open_source(settings),
        embedder=open_embedder(settings, SEARCH_IN_FLIGHT, flow=SEARCH_FLOW),
        state=None if settings.state_url is None else open_state_store(settings),
        stores=open_stores(settings, names),
        engines=engines,
        gateway=open_gateway(settings),
        spark_manifest=None if spark is None else spark.show_manifest,
    )


@dataclass(frozen=True, slots=True)
class Services:
    """The services that routes use."""

    settings: Settings
    parts: Parts
    store: JobStore
    preflight: Preflight
    jobs: JobService
    search: SearchService
    collections: CollectionService
    chunks: ChunkService
    aliases: AliasService
    deletions: DeletionService
    health: HealthService
    metrics: Metrics
    streams: OpenStreams
    loop_lag: LoopLag
    scrapes: ResponseCache
    dispatcher: Dispatcher | None
    drain: DrainSwitch
    audit: AuditLog
    retention: Retention | None
    """None without a state store."""
    closing: asyncio.Event
    """Set when the service ends: event streams end then."""
    stop: Callable[[], Awaitable[None]]
    """Ends dispatching and sweeps and releases the right to dispatch, so that another copy goes on at once; requests
    are still answered. Idempotent."""


@contextlib.asynccontextmanager
async def run_services(
    settings: Settings, parts: Parts, metrics: Metrics, *, dispatches: bool = True
) -> AsyncIterator[Services]:
    """Construct the services and run their tasks until the context ends; then close everything."""
    store = await JobStore.open(settings.sqlalchemy_url, ca_file=settings.tls.ca_file, settings=settings.database)
    audit = AuditLog(store.database, AuditLines(settings.audit.file), Redactor(find_secrets(settings)))
    health = HealthService(
        settings,
        store,
        source=parts.source,
        embedder=parts.embedder,
        state=parts.state,
        stores=parts.stores,
        engines=parts.engines,
        gateway=parts.gateway,
    )
    loop_lag = LoopLag()
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(loop_lag.run()), asyncio.create_task(audit.run())]
    closing = asyncio.Event()

    async def stop() -> None:
        closing.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        ledgers = None if parts.state is None else Ledgers(parts.state)
        waits = EmbeddingWaits(parts.gateway)
        now = parts.now or store.now
        dispatcher = None
        if ledgers is not None:
            dispatcher = Dispatcher(settings, store, ledgers=ledgers, engines=parts.engines, waits=waits, now=now)
        preflight = Preflight(
            settings,
            source=parts.source,
            embedder=parts.embedder,
            state=parts.state,
            engines=parts.engines,
            stores=parts.stores,
        )
        wake = dispatcher.wake if dispatcher is not None else lambda: None
        drain = DrainSwitch(store, wake=wake)
        feed = JobFeed(store, waits, closing)
        aliases = AliasService(parts.state, parts.stores, store)
        deletions = DeletionService(parts.state, parts.stores, store, lease=settings.lease)
        retention = None
        if dispatcher is not None and parts.state is not None:
            days, on_removed = settings.retention.days, metrics.count_removed
            retention = Retention(store, parts.state, dispatcher.leadership, days=days, now=now, on_removed=on_removed)
        if dispatcher is not None and retention is not None and dispatches:
            leadership = dispatcher.leadership
            tasks.append(asyncio.create_task(dispatcher.run()))
            expiry = AuditRetention(audit, leadership, days=settings.audit.days, now=now)
            sweeps = {
                "aliases": aliases.sweep,
                "deletions": deletions.sweep,
                "retention": retention.sweep,
                "audit": expiry.sweep,
            }
            for what, sweep in sweeps.items():
                sweeping = sweep_regularly(what, sweep, may_act=lambda: leadership.is_held)
                tasks.append(asyncio.create_task(sweeping))
        yield Services(
            settings=settings,
            parts=parts,
            store=store,
            preflight=preflight,
            jobs=JobService(
                store,
                preflight=preflight,
                ledgers=ledgers,
                engines=parts.engines,
                wake=wake,
                drain=drain,
                max_waiting=settings.limits.queued_jobs_per_key,
                feed=feed,
            ),
            search=SearchService(parts.embedder, parts.stores, parts.state),
            collections=CollectionService(parts.state, parts.stores),
            chunks=ChunkService(parts.state, parts.stores),
            aliases=aliases,
            deletions=deletions,
            health=health,
            metrics=metrics,
            streams=OpenStreams(metrics.load, settings.limits.streams),
            loop_lag=loop_lag,
            scrapes=ResponseCache(),
            dispatcher=dispatcher,
            drain=drain,
            audit=audit,
            retention=retention,
            closing=closing,
            stop=stop,
        )
    finally:
        await stop()
        await audit.close()
        await health.close()
        await parts.close()
        await store.close()
