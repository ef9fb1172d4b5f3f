"""The places in an engine's window: which are free, and how a worker is told its own."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Final

from ingestion_engine.pipeline.worker import SLOT_MARK


class Slots:
    """Numbers from 0 to below a window's size; what runs keeps one to its end."""

    def __init__(self, count: int) -> None:
        self._free: Final = list(range(count))
        self._taken: Final[dict[Hashable, int]] = {}

    def take(self, holder: Hashable) -> int:
        """Return the lowest free number, now the holder's. Raises IndexError when none is free."""
        slot = self._taken[holder] = heapq.heappop(self._free)
        return slot

    def give_back(self, holder: Hashable) -> None:
        """Make the holder's number free again."""
        heapq.heappush(self._free, self._taken.pop(holder))


def mark_slot(spec_uri: str, slot: int) -> str:
    """Return what tells a worker both the spec's URI and its slot. Pure."""
    return f"{spec_uri}{SLOT_MARK}{slot}"
