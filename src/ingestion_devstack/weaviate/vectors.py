"""Exact nearest-neighbour search over one vector space, in memory.

One float32 matrix that grows by doubling, a row per document, holes refilled. A search is one matrix product: about
15 ms for 100,000 of 384 floats on one core (measured with numpy 2.4). Not thread-safe: the collection's lock covers it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_CHUNK = 16_384
"""Rows per step of the distances that need a temporary of the same shape: bounds the extra memory to 25 MB at 384."""


class VectorSpace:
    """The vectors of one name, by document number."""

    def __init__(self, dimension: int, distance: str) -> None:
        """Start empty; `distance` is one of Weaviate's names."""
        self.dimension = dimension
        self.distance = distance
        self._rows: Floats = np.empty((256, dimension), dtype=np.float32)
        self._docs: npt.NDArray[np.int64] = np.full(256, -1, dtype=np.int64)
        self._row_of: dict[int, int] = {}
        self._holes: list[int] = []
        self._used = 0

    def put(self, doc: int, vector: Floats) -> None:
        """Add or replace one document's vector."""
        row = self._row_of.get(doc)
        if row is None:
            row = self._holes.pop() if self._holes else self._grow()
            self._row_of[doc] = row
            self._docs[row] = doc
        if self.distance == "cosine":
            norm = float(np.linalg.norm(vector))
            vector = vector / norm if norm > 0 else vector
        self._rows[row] = vector

    def drop(self, docs: Iterable[int]) -> None:
        """Forget documents; unknown ones are ignored."""
        for doc in docs:
            row = self._row_of.pop(doc, None)
            if row is not None:
                self._docs[row] = -1
                self._holes.append(row)

    def search(
        self, query: Floats, limit: int, within: float | None, allowed: list[int] | None
    ) -> list[tuple[int, float]]:
        """The nearest documents, nearest first, ties by document number: (doc, distance).

        `within` is the largest distance allowed; `allowed` restricts to these documents.
        """
        if allowed is not None:
            rows = np.fromiter((self._row_of[doc] for doc in allowed if doc in self._row_of), dtype=np.int64)
        else:
            rows = np.flatnonzero(self._docs[: self._used] >= 0)
        if not len(rows):
            return []
        dense = len(rows) == self._used
        matrix = self._rows[: self._used] if dense else self._rows[rows]
        distances = self._distances(matrix, query)
        docs = self._docs[rows]
        if within is not None:
            keep = distances <= within + 1e-6
            distances, docs = distances[keep], docs[keep]
        if limit < len(distances):
            # Widened to ties at the edge, so that the order by document number decides and not chance.
            edge = np.partition(distances, limit - 1)[limit - 1]
            nearest = np.flatnonzero(distances <= edge)
            distances, docs = distances[nearest], docs[nearest]
        order = np.lexsort((docs, distances))[:limit]
        return [(int(docs[i]), float(distances[i])) for i in order]

    def _grow(self) -> int:
        if self._used == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._docs = np.concatenate([self._docs, np.full(len(self._docs), -1, dtype=np.int64)])
        self._used += 1
        return self._used - 1

    def _distances(self, matrix: Floats, query: Floats) -> Floats:
        if self.distance == "cosine":
            norm = float(np.linalg.norm(query))
            return np.asarray(1.0 - matrix @ (query / norm if norm > 0 else query), dtype=np.float32)
        if self.distance == "dot":
            return np.asarray(-(matrix @ query), dtype=np.float32)
        out = np.empty(len(matrix), dtype=np.float32)
        for start in range(0, len(matrix), _CHUNK):
            block = matrix[start : start + _CHUNK]
            if self.distance == "hamming":
                part = (block != query).sum(axis=1)
            elif self.distance == "manhattan":
                part = np.abs(block - query).sum(axis=1)
            else:
                part = np.square(block - query).sum(axis=1)
            out[start : start + _CHUNK] = part
        return out


def pack_vectors(vectors: dict[str, bytes]) -> bytes:
    """Named little-endian float32 vectors as one blob: each a length byte, the name, 4 bytes of size, the data."""
    parts = []
    for name, data in vectors.items():
        encoded = name.encode()
        parts += [len(encoded).to_bytes(1, "little"), encoded, len(data).to_bytes(4, "little"), data]
    return b"".join(parts)


def unpack_vectors(blob: bytes | None) -> dict[str, bytes]:
    """The inverse of `pack_vectors`."""
    out: dict[str, bytes] = {}
    at = 0
    while blob and at < len(blob):
        name_end = at + 1 + blob[at]
        size = int.from_bytes(blob[name_end : name_end + 4], "little")
        out[blob[at + 1 : name_end].decode()] = blob[name_end + 4 : name_end + 4 + size]
        at = name_end + 4 + size
    return out
