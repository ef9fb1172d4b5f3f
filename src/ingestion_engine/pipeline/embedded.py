"""What an object's chunks become, kept until all of them have their vectors: in memory, or in a temporary file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

from ingestion_engine.domain.ids import ObjectId
from ingestion_engine.domain.records import EmbeddedChunk
from ingestion_engine.pipeline.chunk import number_chunks


class Slots(Protocol):
    """Where embedded chunks are kept, by the index of the chunk they were made of."""

    def __setitem__(self, index: int, items: list[EmbeddedChunk], /) -> None:
        """Keep what became of a chunk."""

    def __getitem__(self, index: int, /) -> list[EmbeddedChunk]:
        """Return it."""


class EmbeddedChunks:
    """An object's embedded chunks. They arrive in any order and leave in that of the text.

    Args:
        object_id: The object.
        slots: An empty place to keep them.
    """

    def __init__(self, object_id: ObjectId, slots: Slots) -> None:
        self.count = 0
        """Embedded chunks so far."""
        self.reused = 0
        """Those of them whose vectors came from a store."""
        self._object_id = object_id
        self._slots = slots
        self._filled = 0

    def put(self, index: int, items: list[EmbeddedChunk]) -> None:
        """Keep what chunk ``index`` became: itself with its vector, or its parts. Once per chunk, none left out."""
        self._slots[index] = items
        self._filled += 1
        self.count += len(items)
        self.reused += sum(item.reused for item in items)

    def __iter__(self) -> Iterator[EmbeddedChunk]:
        """Yield all, numbered again where a chunk was cut. One at a time in memory."""
        joined = itertools.chain.from_iterable(self._slots[index] for index in range(self._filled))
        if self.count == self._filled:
            return joined
        items, again = itertools.tee(joined)
        chunks = number_chunks(self._object_id, (item.chunk for item in again))
        return (EmbeddedChunk(chunk, item.vector, item.reused) for chunk, item in zip(chunks, items, strict=True))
