"""PointTally: the points that a partition has written to each store and deleted from it."""

from __future__ import annotations

from collections.abc import Iterable

from ingestion_engine.domain.spec import StoreName


class PointTally:
    """Counts points by store, once each, however often a partition is repeated.

    What was written counts when its object has a result: without one, the object is written again. What was deleted
    counts as soon as the store has acknowledged it: a repetition finds nothing to delete.
    """

    def __init__(self, stores: Iterable[StoreName]) -> None:
        self._written = {store.value: 0 for store in stores}
        self._deleted = dict(self._written)

    def add_written(self, store: StoreName, points: int) -> None:
        """Add points of an object that has a result."""
        self._written[store.value] = self._written.get(store.value, 0) + points

    def add_deleted(self, store: StoreName, points: int) -> None:
        """Add points that a store has removed."""
        self._deleted[store.value] = self._deleted.get(store.value, 0) + points

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return the counts of every store, zeros too."""
        return {
            store: {"written": self._written.get(store, 0), "deleted": self._deleted.get(store, 0)}
            for store in sorted({*self._written, *self._deleted})
        }
