"""What was served lately."""

from __future__ import annotations

SECONDS = 10
"""Shares are shown over this time: long enough for several requests of each of a dozen flows."""


class ServedMeter:
    """Characters of the last ten seconds, counted by the second. Memory: ten numbers."""

    __slots__ = ("_counts", "_second")

    def __init__(self) -> None:
        """Start with nothing served."""
        self._counts = [0] * SECONDS
        self._second = 0

    def add(self, characters: int, now: float) -> None:
        """Count characters that are served now."""
        self._forget(now)
        self._counts[self._second % SECONDS] += characters

    def total(self, now: float) -> int:
        """Return the characters of the current second and the nine before it."""
        self._forget(now)
        return sum(self._counts)

    def _forget(self, now: float) -> None:
        second = int(now)
        for passed in range(self._second + 1, min(second, self._second + SECONDS) + 1):
            self._counts[passed % SECONDS] = 0
        self._second = max(second, self._second)
