"""The slots of an engine's window: the places that running tasks occupy."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Final


class Slots:
    """Numbers from 0 to below the window's size; a running task keeps its number to its end."""

    def __init__(self, count: int) -> None:
        self._free: Final = list(range(count))
        self._taken: Final[dict[Hashable, int]] = {}

    def take(self, holder: Hashable) -> int:
        """Return the lowest free number and assign it to the holder. Raises IndexError when none is free."""
        slot = self._taken[holder] = heapq.heappop(self._free)
        return slot

    def give_back(self, holder: Hashable) -> None:
        """Free the holder's number."""
        heapq.heappush(self._free, self._taken.pop(holder))
