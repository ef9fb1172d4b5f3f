"""How late an event loop is: what every request of a service that is short of processor time suffers from."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

MEASURE_EVERY_S: Final = 1.0
"""Pause between two measurements; one costs microseconds."""
WINDOW_S: Final = 60.0
"""Time over which the longest delay is shown, so that a scrape a minute misses none."""


class LoopLag:
    """Measures by how much the loop wakes a sleeper too late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    async def run(self) -> None:
        """Measure until canceled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(MEASURE_EVERY_S)
            now = time.monotonic()
            self.note(now, now - began - MEASURE_EVERY_S)

    def note(self, at: float, delay_s: float) -> None:
        """Add a delay in seconds that ended at a time."""
        # A delay that a later one exceeds is never shown again.
        while self._seen and self._seen[-1][1] <= delay_s:
            self._seen.pop()
        self._seen.append((at, max(0.0, delay_s)))

    def longest_s(self) -> float:
        """Return the longest delay of the last minute in seconds."""
        begin = time.monotonic() - WINDOW_S
        while self._seen and self._seen[0][0] < begin:
            self._seen.popleft()
        return self._seen[0][1] if self._seen else 0.0
