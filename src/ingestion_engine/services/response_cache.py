"""Answers that callers share: one question for all who want it at once, and for a while after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class ResponseCache:
    """Asks each question once for all tasks of one event loop that want its answer."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._asking: dict[Hashable, asyncio.Future[Any]] = {}

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[T]], *, keep_s: float) -> T:
        """Return the answer kept under a key, that of a question on its way, or ask.

        Errors reach all who wait and are not kept, so that mending the cause helps at once.

        Args:
            key: Which question.
            ask: Asks it; also goes on when the caller gives up waiting.
            keep_s: How long the answer is used again, in seconds.
        """
        kept = self._kept.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return cast("T", kept[1])
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(ask())
            asking.add_done_callback(lambda asked: self._note(key, asked, keep_s))
        return await asyncio.shield(asking)

    def _note(self, key: Hashable, asked: asyncio.Future[Any], keep_s: float) -> None:
        del self._asking[key]
        if asked.cancelled() or asked.exception() is not None:
            return
        now = time.monotonic()
        self._kept = {name: entry for name, entry in self._kept.items() if entry[0] > now}
        self._kept[key] = (now + keep_s, asked.result())
