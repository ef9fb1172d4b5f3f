"""Health of every system that the service depends on, by name.

A probe is answered at once: checks that last longer go on in the background, one at a time per system, and the next
probes show their results. A client that repeats refused connections for ten seconds so reports that they are refused.
However many probes there are, a system is checked at most once per ``FRESH_S``, and once per ``RECHECK_S`` while its
last check has failed or a request of a client has just found it unavailable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from ingestion_engine.domain.errors import FatalError, IngestionError
from ingestion_engine.domain.ports import Embedder, EmbeddingGateway, JobEngine, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.spec import EngineName, StoreName
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import context_without_fields, get_logger
from ingestion_engine.services.job_store import JobStore

ANSWER_S: Final = 0.6
"""A probe is answered within this time; Kubernetes' default time-out of a probe is 1 s."""

CHECK_LIMIT_S: Final = 20.0
"""Time limit of one check; botocore reports a refused connection after at most 15 s, Ollama's client after 2 s."""

KEEP_S: Final = 10.0
"""How long a good result stands while the next check is running; Kubernetes' default interval of probes is 10 s."""

FRESH_S: Final = 5.0
"""How long a good result is shown without another check: half of Kubernetes' interval of probes, so that a single
prober always sees a new one."""

RECHECK_S: Final = 1.0
"""How long a bad result is: the end of an outage shows within it."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Health of one dependency."""

    ok: bool
    required: bool
    """True when the service cannot accept jobs without it; without the others, jobs are accepted and wait."""
    latency_ms: float
    version: str | None = None
    error: str | None = None
    age_s: float = 0.0
    """Time since the check ended; 0 while the first one is running."""


class HealthService:
    """Checks all dependencies concurrently. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        *,
        source: ObjectSource,
        embedder: Embedder,
        state: StateStore | None,
        stores: Mapping[StoreName, VectorStore],
        engines: Mapping[EngineName, JobEngine],
        gateway: EmbeddingGateway | None = None,
    ) -> None:
        self._running: dict[str, asyncio.Task[Health]] = {}
        self._began: dict[str, float] = {}
        self._last: dict[str, tuple[float, Health]] = {}
        self._distrusted: set[str] = set()
        """Systems that failed a request of a client since their last check."""
        self._database = store.database
        self._required: dict[str, Callable[[], Awaitable[Any]]] = {"database": store.ping}
        self._others: dict[str, Callable[[], Awaitable[Any]]] = {}
        self._required["state"] = lambda: _check_state(state)
        place = _state_place(settings.state_url)
        if place is not None:
            self._others["s3"] = lambda: asyncio.to_thread(source.check_bucket, *place)
        self._others["ollama"] = lambda: _describe(embedder, settings.ollama.model)
        if gateway is not None:
            self._others |= {name_gateway(url): partial(gateway.check, url) for url in gateway.urls}
        self._others |= {name.value: part.check for name, part in stores.items()}
        self._others |= {name.value: part.check for name, part in engines.items()}

    async def check(self, within_s: float = ANSWER_S) -> dict[str, Health]:
        """Return the health of every dependency, by name, at the latest after ``within_s`` seconds.

        A check that is still running then shows its last result: a bad one, or a good one of the last ten seconds.
        Otherwise it is not ok. Cost: at most one request each; none where a check is running or its result is fresh.
        """
        checks = {**self._required, **self._others}
        for name, check in checks.items():
            if name not in self._running and not self._is_fresh(name):
                # The check is not part of the request that happens to begin it.
                task = asyncio.create_task(self._run(name, check), context=context_without_fields())
                self._running[name] = task
        running = dict(self._running)
        if running:
            await asyncio.wait(running.values(), timeout=within_s)
        return {name: self._show_last(name) for name in checks}

    def distrust(self, code: str) -> None:
        """Have a system checked again by the next probe, because a request has failed with this error code.

        A code begins with the name of the system; others are ignored.
        """
        name = code.partition("_")[0]
        self._distrusted |= {"s3", "state"} if name in {"s3", "state"} else {name}

    def _is_fresh(self, name: str) -> bool:
        """Return whether the last result needs no other check yet."""
        at, last = self._last.get(name, (0.0, None))
        if last is None:
            return False
        is_doubtful = not last.ok or name in self._distrusted or (name == "database" and self._database.is_down)
        return time.monotonic() - at < (RECHECK_S if is_doubtful else FRESH_S)

    async def close(self) -> None:
        """End the checks that are running."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _show_last(self, name: str) -> Health:
        """Return the last result, or what a check that is still running shows without one that stands."""
        now = time.monotonic()
        at, last = self._last.get(name, (0.0, None))
        if last is not None and (not last.ok or name not in self._running or now - at <= KEEP_S):
            return replace(last, age_s=round(now - at, 1))
        running_s = now - self._began[name]
        error = f"No response within {running_s:.1f} s; the check is still running."
        required = name in self._required
        return Health(ok=False, required=required, latency_ms=round(running_s * 1000, 1), error=error)

    async def _run(self, name: str, check: Callable[[], Awaitable[Any]]) -> Health:
        self._began[name] = time.monotonic()
        try:
            health = await self._check_one(name, check)
            self._last[name] = (time.monotonic(), health)
            self._distrusted.discard(name)
            return health
        finally:
            del self._running[name]

    async def _check_one(self, name: str, check: Callable[[], Awaitable[Any]]) -> Health:
        began = time.monotonic()
        required = name in self._required
        error: str | None = None
        version: str | None = None
        try:
            async with asyncio.timeout(CHECK_LIMIT_S):
                answer = await check()
            version = answer if isinstance(answer, str) else None
        except TimeoutError:
            error = f"No response within {CHECK_LIMIT_S:g} s."
        except IngestionError as fault:
            error = fault.message
        except Exception as fault:  # a defect of one check hides no other
            _log.exception("health check failed", extra={"dependency": name})
            error = type(fault).__name__
        latency_ms = round((time.monotonic() - began) * 1000, 1)
        return Health(ok=error is None, required=required, latency_ms=latency_ms, version=version, error=error)


def name_gateway(url: str) -> str:
    """Return the name of a gateway among the dependencies: ``gateway:`` and its host and port. Pure."""
    return f"gateway:{hide_credentials(url).partition('://')[2].split('/')[0]}"


async def _check_state(state: StateStore | None) -> None:
    if state is None:
        raise FatalError("store_not_configured", "The state store is not configured; set INGEST_STATE_URL.")
    await asyncio.to_thread(state.get, "health")


async def _describe(embedder: Embedder, model: str) -> str:
    info = await embedder.describe(model)
    return f"{info.name}@{info.digest[:12]}"


def _state_place(state_url: str | None) -> tuple[str, str] | None:
    """Return bucket and prefix of a state store in S3; its account may have access to that prefix only."""
    scheme, _, rest = (state_url or "").partition("://")
    bucket, _, prefix = rest.partition("/")
    return (bucket, f"{prefix.strip('/')}/".lstrip("/")) if scheme == "s3" and bucket else None
