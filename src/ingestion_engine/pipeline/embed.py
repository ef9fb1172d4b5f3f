"""Embed: ``Sequence[Chunk] → EmbeddedChunk``s; the text for which a batch is refused is found with little inference.

A server refuses a batch only after it has embedded all other texts of it, and a text that is alone before any inference
(seen on Ollama 0.33: 582 ms for a batch of 16, 5 ms for the refused text alone). So only requests of one text may
be expected to be refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingestion_engine.domain.errors import ObjectError, TextRefused, TextTooLong
from ingestion_engine.domain.ports import Embedder
from ingestion_engine.domain.records import Chunk, EmbeddedChunk

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ALIKE = 0.8
"""Part of the length of a text that was too long from which the others of its batch are sent alone: what is wrong with
one estimate is wrong with those of its neighbours."""


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
    measure: Callable[[str], float] = len
    """Returns the length of a chunk's text for the model, in any unit."""
    calls: int = field(default=0, init=False)
    """Requests that returned vectors or a refusal; the adapter's own retries are not counted."""
    texts: int = field(default=0, init=False)
    """Vectors received."""
    refusals: int = field(default=0, init=False)
    """Those of ``calls`` that were refused."""
    in_vain: int = field(default=0, init=False)
    """Texts in refused requests that were not refused: embedded, but without a result."""

    async def embed_chunks(self, chunks: Sequence[Chunk]) -> list[list[EmbeddedChunk] | ObjectError]:
        """Embed one batch; result[i] belongs to chunks[i].

        A result is one embedded chunk, several for a chunk that was too long, or the error. Deterministic for a
        deterministic embedder. The parts of a cut chunk have provisional ids.

        Raises:
            FatalError: the job stops ("model_not_found").
            TransientError: still failing at the adapter's deadline; the partition will be retried.

        Cost: one request per batch; at most 2n-1 when texts are refused, plus two per cut.
        """
        results: list[list[EmbeddedChunk] | ObjectError] = []
        for chunk, vector in zip(chunks, await self._embed_all(chunks), strict=True):
            if not isinstance(vector, TextRefused):
                results.append([EmbeddedChunk(chunk, vector)])
            elif isinstance(vector, TextTooLong) and (parts := self.split(chunk)) is not None:
                results.append(_join([(await self.embed_chunks([part]))[0] for part in parts]))
            else:
                results.append(vector)
        return results

    async def _embed_all(self, chunks: Sequence[Chunk]) -> list[npt.NDArray[np.float32] | TextRefused]:
        """Return a vector or a refusal for each chunk.

        After a refusal the longest texts are sent alone, until the refused one and those about as long are done; then
        the rest together; then, if that is refused too, each of them alone.
        """
        outcome = await self._request(chunks)
        if not isinstance(outcome, TextRefused):
            return outcome
        if len(chunks) == 1:
            return [outcome]
        found: dict[int, npt.NDArray[np.float32] | TextRefused] = {}
        lengths = [self.measure(chunk.text) for chunk in chunks]
        waiting = deque(sorted(range(len(chunks)), key=lambda index: (-lengths[index], index)))
        bound = 0.0  # texts of this length and longer are sent alone
        while waiting and lengths[waiting[0]] >= bound:
            index = waiting.popleft()
            (found[index],) = await self._embed_all([chunks[index]])
            if isinstance(refused := found[index], TextRefused):
                bound = max(bound, _ALIKE * lengths[index] if isinstance(refused, TextTooLong) else float("inf"))
        found |= await self._embed_rest(chunks, sorted(waiting))
        vectors = [found[index] for index in range(len(chunks))]
        self.in_vain += sum(not isinstance(vector, TextRefused) for vector in vectors)
        return vectors

    async def _embed_rest(
        self, chunks: Sequence[Chunk], rest: Sequence[int]
    ) -> dict[int, npt.NDArray[np.float32] | TextRefused]:
        """Return the results of the chunks with these numbers: embedded together, or else each alone."""
        if not rest:
            return {}
        outcome = await self._request([chunks[index] for index in rest])
        if not isinstance(outcome, TextRefused):
            return dict(zip(rest, outcome, strict=True))
        if len(rest) == 1:
            return {rest[0]: outcome}
        found = {index: (await self._embed_all([chunks[index]]))[0] for index in rest}
        self.in_vain += sum(not isinstance(vector, TextRefused) for vector in found.values())
        return found

    async def _request(self, chunks: Sequence[Chunk]) -> list[npt.NDArray[np.float32] | TextRefused] | TextRefused:
        """Return the vectors of one request, or the refusal of all of it."""
        if not chunks:
            return []
        try:
            texts = [self.prefix + chunk.text for chunk in chunks]
            vectors = await self.embedder.embed(self.model, texts, digest=self.digest)
        except TextRefused as refusal:
            self.calls += 1
            self.refusals += 1
            return refusal
        self.calls += 1
        self.texts += len(chunks)
        return list(vectors)


def _join(parts: Sequence[list[EmbeddedChunk] | ObjectError]) -> list[EmbeddedChunk] | ObjectError:
    joined: list[EmbeddedChunk] = []
    for part in parts:
        if isinstance(part, ObjectError):
            return part
        joined.extend(part)
    return joined
