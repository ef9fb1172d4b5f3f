"""Limit the rate of an operation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class TokenBucket:
    """Grants at most ``rate`` tokens per second on average, with bursts of at most one second's tokens.

    Callers are served in order of arrival. For one event loop; clock and sleep can be injected.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Start with a full bucket. ``rate`` is in tokens per second and greater than 0."""
        if rate <= 0:
            raise ValueError(f"The rate must be greater than 0, not {rate}.")
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock() - 1.0
        """Clock time at which all tokens taken so far are replaced."""

    async def take(self, tokens: int) -> None:
        """Wait until ``tokens`` tokens are available.

        It may exceed one second's tokens: later callers then wait for the difference.
        """
        now = self._clock()
        start = max(self._free_at, now - 1.0)
        self._free_at = start + tokens / self._rate
        pause = self._free_at - now
        if pause > 0:
            await self._sleep(pause)
