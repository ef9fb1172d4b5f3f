"""A cache of answers that coalesces requests: concurrent callers share one request, later ones its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

from ingestion_engine.runtime.telemetry import context_without_fields

T = TypeVar("T")


async def _make(request: Callable[[], Awaitable[T]]) -> T:
    return await request()


class ResponseCache:
    """Makes each request once for all tasks of one event loop, and keeps its answer for a while."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._pending: dict[Hashable, asyncio.Future[Any]] = {}

    async def get(self, key: Hashable, request: Callable[[], Awaitable[T]], *, keep_s: float) -> T:
        """Return the cached answer of a key, the answer of its pending request, or that of a new request.

        Errors reach all waiting callers and are not cached, so that the next call after a repair succeeds.

        Args:
            key: Identifies the request.
            request: Makes the request; continues when the caller is canceled.
            keep_s: How long the answer is reused, in seconds.
        """
        kept = self._kept.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return cast("T", kept[1])
        pending = self._pending.get(key)
        if pending is None:
            # Later callers share the request, so it is not part of the first one's.
            making = _make(request)
            pending = self._pending[key] = asyncio.create_task(making, context=context_without_fields())
            pending.add_done_callback(lambda done: self._keep(key, done, keep_s))
        return await asyncio.shield(pending)

    def _keep(self, key: Hashable, done: asyncio.Future[Any], keep_s: float) -> None:
        del self._pending[key]
        if done.cancelled() or done.exception() is not None:
            return
        now = time.monotonic()
        self._kept = {name: entry for name, entry in self._kept.items() if entry[0] > now}
        self._kept[key] = (now + keep_s, done.result())
