"""Embed: ``Sequence[Chunk] → EmbeddedChunk``s; a refused batch is halved until the refused text is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingestion_engine.domain.errors import ObjectError, TextRefused, TextTooLong
from ingestion_engine.domain.ports import Embedder
from ingestion_engine.domain.records import Chunk, EmbeddedChunk

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(slots=True)
class EmbedStage:
    """Embeds batches of chunks and counts its requests."""

    embedder: Embedder
    model: str
    digest: str
    """Digest of the model that the servers must serve."""
    prefix: str
    """Text put before each chunk."""
    split: Callable[[Chunk], tuple[Chunk, Chunk] | None]
    """Returns the halves of a chunk that is too long for the model, or None if it cannot be cut."""
    calls: int = field(default=0, init=False)
    """Requests that returned vectors or a refusal; the adapter's own retries are not counted."""
    texts: int = field(default=0, init=False)
    """Vectors received."""

    async def embed_chunks(self, chunks: Sequence[Chunk]) -> list[list[EmbeddedChunk] | ObjectError]:
        """Embed one batch; result[i] belongs to chunks[i].

        A result is one embedded chunk, several for a chunk that was too long, or the error. Deterministic for a
        deterministic embedder. The parts of a cut chunk have provisional ids.

        Raises:
            FatalError: the job stops ("model_not_found").
            TransientError: still failing at the adapter's deadline; the partition will be retried.

        Cost: one request per batch; at most 2n-1 when texts are refused one by one, plus two per cut.
        """
        vectors = await self._embed_or_halve([self.prefix + chunk.text for chunk in chunks])
        results: list[list[EmbeddedChunk] | ObjectError] = []
        for chunk, vector in zip(chunks, vectors, strict=True):
            if not isinstance(vector, TextRefused):
                results.append([EmbeddedChunk(chunk, vector)])
            elif isinstance(vector, TextTooLong) and (parts := self.split(chunk)) is not None:
                results.append(_join(await self.embed_chunks(parts)))
            else:
                results.append(vector)
        return results

    async def _embed_or_halve(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32] | TextRefused]:
        if not texts:
            return []
        try:
            vectors = await self.embedder.embed(self.model, texts, digest=self.digest)
        except TextRefused as refusal:
            self.calls += 1
            if len(texts) == 1:
                return [refusal]
            middle = len(texts) // 2
            return [*await self._embed_or_halve(texts[:middle]), *await self._embed_or_halve(texts[middle:])]
        self.calls += 1
        self.texts += len(texts)
        return list(vectors)


def _join(parts: Sequence[list[EmbeddedChunk] | ObjectError]) -> list[EmbeddedChunk] | ObjectError:
    joined: list[EmbeddedChunk] = []
    for part in parts:
        if isinstance(part, ObjectError):
            return part
        joined.extend(part)
    return joined
