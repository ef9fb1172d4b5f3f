"""Limits on how fast something may be done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class TokenBucket:
    """At most ``rate`` tokens per second on average, with bursts of at most one second's worth.

    Takers are served in the order in which they came. For one event loop; the clock and the sleep can be given.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Start full. ``rate`` is in tokens per second and above 0."""
        if rate <= 0:
            raise ValueError(f"a rate must be above 0, not {rate}")
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock() - 1.0
        """The moment at which everything taken so far has been paid for."""

    async def take(self, tokens: int) -> None:
        """Return when so many tokens may be spent.

        More than a second's worth is allowed: it is paid for afterwards by waiting.
        """
        now = self._clock()
        start = max(self._free_at, now - 1.0)
        self._free_at = start + tokens / self._rate
        pause = self._free_at - now
        if pause > 0:
            await self._sleep(pause)
