"""Health of every system that the service depends on, by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.ports import Embedder, JobEngine, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.spec import EngineName, StoreName
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.job_store import JobStore

TIME_LIMIT_S: Final = 3.0
"""Time limit of one check; below the usual time-out of a probe."""

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


class HealthService:
    """Checks all dependencies concurrently."""

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
    ) -> None:
        self._required: dict[str, Callable[[], Awaitable[Any]]] = {"database": store.ping}
        self._others: dict[str, Callable[[], Awaitable[Any]]] = {}
        if state is not None:
            self._required["state"] = lambda: asyncio.to_thread(state.get, "health")
        place = _state_place(settings.state_url)
        if place is not None:
            self._others["s3"] = lambda: asyncio.to_thread(source.check_bucket, *place)
        self._others["ollama"] = lambda: _describe(embedder, settings.ollama.model)
        self._others |= {name.value: part.check for name, part in stores.items()}
        self._others |= {name.value: part.check for name, part in engines.items()}

    async def check(self) -> dict[str, Health]:
        """Return the health of every dependency, by name. Cost: one request each, at most 3 s in all."""
        checks = {**self._required, **self._others}
        answers = await asyncio.gather(*(self._check_one(name, check) for name, check in checks.items()))
        return dict(zip(checks, answers, strict=True))

    async def _check_one(self, name: str, check: Callable[[], Awaitable[Any]]) -> Health:
        began = time.monotonic()
        required = name in self._required
        error: str | None = None
        version: str | None = None
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                answer = await check()
            version = answer if isinstance(answer, str) else None
        except TimeoutError:
            error = f"No response within {TIME_LIMIT_S:g} s."
        except IngestionError as fault:
            error = fault.message
        except Exception as fault:
            _log.exception("health check failed", extra={"dependency": name})
            error = type(fault).__name__
        latency_ms = round((time.monotonic() - began) * 1000, 1)
        return Health(ok=error is None, required=required, latency_ms=latency_ms, version=version, error=error)


async def _describe(embedder: Embedder, model: str) -> str:
    info = await embedder.describe(model)
    return f"{info.name}@{info.digest[:12]}"


def _state_place(state_url: str | None) -> tuple[str, str] | None:
    """Return bucket and prefix of a state store in S3; its account may have access to that prefix only."""
    scheme, _, rest = (state_url or "").partition("://")
    bucket, _, prefix = rest.partition("/")
    return (bucket, f"{prefix.strip('/')}/".lstrip("/")) if scheme == "s3" and bucket else None
