"""Keep an object's embedded chunks until all of them have vectors: in memory, or in a temporary file."""

from __future__ import annotations

import itertools
import pickle
from array import array
from collections.abc import Iterator
from typing import Protocol

from ingestion_engine.domain.ids import ObjectId, PointId
from ingestion_engine.domain.records import Chunk, EmbeddedChunk
from ingestion_engine.pipeline.chunking.chunk import number_chunks
from ingestion_engine.pipeline.spool import TempFile, disk_errors


class Slots(Protocol):
    """Storage of embedded chunks by the index of their original chunk."""

    def __setitem__(self, index: int, items: list[EmbeddedChunk], /) -> None:
        """Keep the embedded chunks of one chunk."""

    def __getitem__(self, index: int, /) -> list[EmbeddedChunk]:
        """Return the embedded chunks of one chunk."""


class SpilledSlots(TempFile):
    """Slots in a temporary file: write all of them before reading any.

    Memory: twelve bytes per slot. Cost: about 10 microseconds to write a chunk with its vector and read it again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places = array("q")
        self._sizes = array("i")
        self._at = 0

    def __setitem__(self, index: int, items: list[EmbeddedChunk]) -> None:
        """Keep the embedded chunks of one chunk. Raises TransientError ("temp_files_failed")."""
        missing = index + 1 - len(self._places)
        if missing > 0:
            self._places.extend([-1] * missing)
            self._sizes.extend([0] * missing)
        data = pickle.dumps([_to_row(item) for item in items])
        self._places[index], self._sizes[index] = self._at, len(data)
        with disk_errors():
            self.file.write(data)
        self._at += len(data)

    def __getitem__(self, index: int) -> list[EmbeddedChunk]:
        """Return the embedded chunks of one chunk; cheap in the order of writing. Raises TransientError."""
        place, size = self._places[index], self._sizes[index]
        with disk_errors():
            if self._at != place or index == 0:  # the first read also flushes the write buffer
                self.file.seek(place)
            data = self.file.read(size)
        self._at = place + size
        return [_from_row(row) for row in pickle.loads(data)]  # noqa: S301 - no other process can write to a file without a name


_Row = tuple[bytes, bool, PointId, int, str, int, int, str, int | None, str]
"""An embedded chunk in types that pickle writes fast; a frozen dataclass takes ten times as long."""


def _to_row(item: EmbeddedChunk) -> _Row:
    c = item.chunk
    place = (c.point_id, c.index, c.text, c.start_char, c.end_char, c.content_hash, c.page, c.context)
    return item.vector.tobytes(), item.reused, *place


def _from_row(row: _Row) -> EmbeddedChunk:
    import numpy as np

    vector, reused, point_id, index, text, start, end, content_hash, page, context = row
    chunk = Chunk(
        point_id=point_id,
        index=index,
        text=text,
        start_char=start,
        end_char=end,
        content_hash=content_hash,
        page=page,
        context=context,
    )
    return EmbeddedChunk(chunk, np.frombuffer(vector, np.float32), reused)


class EmbeddedChunks:
    """An object's embedded chunks, added in any order and returned in the order of the text.

    Args:
        object_id: The object.
        slots: Empty storage.
    """

    def __init__(self, object_id: ObjectId, slots: Slots) -> None:
        self.count = 0
        """Number of embedded chunks so far."""
        self.reused = 0
        """Number of embedded chunks with a vector from a store."""
        self._object_id = object_id
        self._slots = slots
        self._filled = 0

    def put(self, index: int, items: list[EmbeddedChunk]) -> None:
        """Keep the result of chunk ``index``: the chunk with its vector, or its parts. Call it once for every chunk."""
        self._slots[index] = items
        self._filled += 1
        self.count += len(items)
        self.reused += sum(item.reused for item in items)

    def __iter__(self) -> Iterator[EmbeddedChunk]:
        """Yield all embedded chunks, renumbered if a chunk was cut. One at a time in memory."""
        joined = itertools.chain.from_iterable(self._slots[index] for index in range(self._filled))
        if self.count == self._filled:
            return joined
        items, again = itertools.tee(joined)
        chunks = number_chunks(self._object_id, (item.chunk for item in again))
        return (EmbeddedChunk(chunk, item.vector, item.reused) for chunk, item in zip(chunks, items, strict=True))
