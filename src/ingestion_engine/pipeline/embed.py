"""Embed: ``Sequence[Chunk] → EmbeddedChunk``s, with refused batches halved down to the guilty text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingestion_engine.domain.errors import ObjectError, TextRefused
from ingestion_engine.domain.ports import Embedder
from ingestion_engine.domain.records import Chunk, EmbeddedChunk

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TEXT_TOO_LONG = "text_too_long"
"""The one refusal that has a cure: the chunk is cut in two, both parts are embedded whole."""


@dataclass(slots=True)
class EmbedStage:
    """How this job embeds: the model and the string put before each text. Counts its requests."""

    embedder: Embedder
    model: str
    prefix: str
    split: Callable[[Chunk], tuple[Chunk, Chunk] | None]
    """Halves a chunk that is too long for the model; None when it cannot be."""
    calls: int = 0
    """Requests answered for good, with vectors or with a refusal; the adapter's own quick retries do not count."""
    texts: int = 0
    """Vectors received."""

    async def embed_chunks(self, chunks: Sequence[Chunk]) -> list[list[EmbeddedChunk] | ObjectError]:
        """Embed one batch; result[i] belongs to chunks[i]: one embedded chunk, several when it was too long, or why
        not.

        Deterministic for a deterministic embedder. Parts of a chunk that was cut have provisional ids.

        Raises:
            FatalError: the job stops ("model_not_found").
            TransientError: still failing at the adapter's deadline; the partition will be retried.

        Cost: one request per batch; at most 2n-1 when items are refused one by one, plus two for every cut.
        """
        vectors = await self._embed_or_halve([self.prefix + chunk.text for chunk in chunks])
        results: list[list[EmbeddedChunk] | ObjectError] = []
        for chunk, vector in zip(chunks, vectors, strict=True):
            if not isinstance(vector, TextRefused):
                results.append([EmbeddedChunk(chunk, vector)])
            elif vector.code == TEXT_TOO_LONG and (parts := self.split(chunk)) is not None:
                results.append(_join(await self.embed_chunks(parts)))
            else:
                results.append(vector)
        return results

    async def _embed_or_halve(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32] | TextRefused]:
        if not texts:
            return []
        try:
            vectors = await self.embedder.embed(self.model, texts)
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
