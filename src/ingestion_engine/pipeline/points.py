"""Points: ``Document, Sequence[EmbeddedChunk] → Point``s, one per chunk, the same for every store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ingestion_engine.domain.ids import ObjectId, join_embedding_id, make_point_embedding_id
from ingestion_engine.domain.records import Chunk, Document, EmbeddedChunk, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStamp:
    """Fields that all points of one attempt share."""

    job_id: str
    epoch: int
    ingested_at: str
    """RFC 3339 in UTC, whole seconds."""
    embedding_id: str
    """The collection's part of ``embedding_id``."""
    prefix: str
    """Text put before each chunk when it is embedded."""
    metadata: Mapping[str, str]
    """Metadata of the request; an object's own metadata takes precedence."""

    def embedding_id_of(self, chunk: Chunk) -> str:
        """Return the ``embedding_id`` of a chunk's point. Pure."""
        if not self.prefix and not chunk.context:
            return join_embedding_id(self.embedding_id, chunk.content_hash)
        return make_point_embedding_id(self.embedding_id, self.prefix + chunk.embedded_text)


def build_points(
    object_id: ObjectId, document: Document, embedded: Iterable[EmbeddedChunk], *, stamp: PointStamp
) -> Iterator[Point]:
    """Yield the points of one object in order. Payloads omit absent values and never contain null. Pure."""
    ref = document.ref
    metadata = {**stamp.metadata, **document.metadata}
    shared: dict[str, Any] = {
        "object_id": object_id,
        "bucket": ref.bucket,
        "key": ref.key,
        "uri": ref.uri,
        "etag": ref.etag,
        "content_type": document.content_type,
        **({"title": document.title} if document.title else {}),
        **({"metadata": metadata} if metadata else {}),
        "epoch": stamp.epoch,
        "job_id": stamp.job_id,
        "ingested_at": stamp.ingested_at,
    }
    for item in embedded:
        yield Point(item.chunk.point_id, {**shared, **_chunk_fields(item, stamp)}, item.vector)


def _chunk_fields(item: EmbeddedChunk, stamp: PointStamp) -> dict[str, Any]:
    chunk = item.chunk
    return {
        "text": chunk.text,
        **({"context": chunk.context} if chunk.context else {}),
        "content_hash": chunk.content_hash,
        "chunk_index": chunk.index,
        "start_char": chunk.start_char,
        "end_char": chunk.end_char,
        **({"page": chunk.page} if chunk.page is not None else {}),
        "embedding_id": stamp.embedding_id_of(chunk),
    }
