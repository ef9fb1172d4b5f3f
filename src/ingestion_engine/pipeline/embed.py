"""Embed: ``Sequence[Chunk] → EmbeddedChunk``s; the text for which a batch is refused is found with little inference.

A server refuses a batch only after it has embedded all other texts of it, and a text that is alone before any inference
(seen on Ollama 0.33: 582 ms for a batch of 16, 5 ms for the refused text alone). So only requests of one text may
be expected to be refused.

A text may also break what embeds it: its model process ends, or the answer has no vector for it, every time. Nothing in
the answer says so, and an outage looks alike. So a text is at fault only when it fails alone, several times, each time
between two successes of a plain text about as long (decision 36).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ingestion_engine.domain.errors import DimensionDiffers, ObjectError, RequestFailed, TextRefused, TextTooLong
from ingestion_engine.domain.ports import EMBED_TRIES, Embedder
from ingestion_engine.domain.probe_text import PROBE_TEXT, make_probe_text
from ingestion_engine.domain.records import Chunk, EmbeddedChunk
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from ingestion_engine.runtime.telemetry import get_logger

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ALIKE = 0.8
"""Part of the length of a text that was too long from which the others of its batch are sent alone: what is wrong with
one estimate is wrong with those of its neighbours."""

TRIES_ALONE: Final = 3
"""Failures of a text that is alone before it is at fault. Another text that stops the same model process fails this one
too, if it arrives within the few milliseconds of its inference: not three times."""
_PAUSES: Final = RetryPolicy(first_s=0.5, longest_s=2.0, deadline_s=float("inf"))
"""Between two of these tries, so that two workers with such texts do not fail each other in step."""
_OUTAGE: Final = RetryPolicy(first_s=0.25, longest_s=5.0, deadline_s=60.0)
"""How long the plain text may fail until it is an outage, as long as the embedder repeats other failures."""

log = get_logger(__name__)


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
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits for a number of seconds."""
    calls: int = field(default=0, init=False)
    """Requests that returned vectors, a refusal or a failure; the adapter's own retries are not counted."""
    texts: int = field(default=0, init=False)
    """Vectors received for chunks."""
    refusals: int = field(default=0, init=False)
    """Those of ``calls`` that were refused or failed."""
    in_vain: int = field(default=0, init=False)
    """Texts in refused requests that were not refused: embedded, but without a result; and plain texts."""
    _apart: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    """Held while the texts of a failed request are sent alone: several of them would fail each other."""

    async def embed_chunks(self, chunks: Sequence[Chunk]) -> list[list[EmbeddedChunk] | ObjectError]:
        """Embed one batch; result[i] belongs to chunks[i].

        A result is one embedded chunk, several for a chunk that was too long, or the error. Deterministic for a
        deterministic embedder. The parts of a cut chunk have provisional ids.

        Raises:
            FatalError: the job stops ("model_not_found").
            TransientError: still failing at the adapter's deadline, and so does a plain text; the partition will be
                retried.

        Cost: one request per batch; at most 2n-1 when texts are refused, plus two per cut. When servers fail a batch:
        one request with a plain text, n with one text each, and four or five for each text at fault.
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
        if isinstance(outcome, RequestFailed | DimensionDiffers):
            return await self._embed_apart(chunks, outcome)
        if not isinstance(outcome, TextRefused):
            return outcome
        if len(chunks) == 1:
            return [outcome]
        found: dict[int, npt.NDArray[np.float32] | TextRefused] = {}
        lengths = [self.measure(chunk.embedded_text) for chunk in chunks]
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
        if isinstance(outcome, RequestFailed | DimensionDiffers):
            outcome = await self._embed_apart([chunks[index] for index in rest], outcome)
        if not isinstance(outcome, TextRefused):
            return dict(zip(rest, outcome, strict=True))
        if len(rest) == 1:
            return {rest[0]: outcome}
        found = {index: (await self._embed_all([chunks[index]]))[0] for index in rest}
        self.in_vain += sum(not isinstance(vector, TextRefused) for vector in found.values())
        return found

    async def _embed_apart(
        self, chunks: Sequence[Chunk], failure: RequestFailed | DimensionDiffers
    ) -> list[npt.NDArray[np.float32] | TextRefused]:
        """Return a vector or a refusal for each chunk of a request that servers failed: each is sent alone.

        Raises: TransientError, FatalError: a plain text fails too, so it is an outage or another model.
        """
        async with self._apart:
            log.warning("a text may break the embedder", extra={"texts": len(chunks), **failure.log_fields()})
            await self._probe(max(chunks, key=lambda chunk: self.measure(chunk.embedded_text)))
            found = [await self._judge(chunk) for chunk in chunks]
        if len(chunks) > 1:
            self.in_vain += sum(not isinstance(vector, TextRefused) for vector in found)
        return found

    async def _judge(self, chunk: Chunk) -> npt.NDArray[np.float32] | TextRefused:
        """Return the vector of a chunk that is sent alone, or why it has none; a plain text was embedded just before.

        Raises: as ``_embed_apart``.
        """
        pauses, tries = _PAUSES.pauses(), 0
        while True:
            outcome = await self._request([chunk], tries=1)
            if isinstance(outcome, TextRefused):
                return outcome
            if not isinstance(outcome, RequestFailed | DimensionDiffers):
                return outcome[0]
            tries += 1
            await self.sleep(next(pauses))
            await self._probe(chunk)
            if tries == TRIES_ALONE:
                return _blame(chunk, outcome)

    async def _probe(self, chunk: Chunk) -> None:
        """Return when servers embed a plain text about as long as a chunk: they and the model work.

        Raises:
            TransientError: it fails for as long as an outage takes to be one.
            FatalError: as ``embed_chunks``.
        """
        text = make_probe_text(chunk.embedded_text, self.measure)

        async def embed() -> None:
            await self.embedder.embed(self.model, [self.prefix + text], digest=self.digest)

        try:
            await retry_async(embed, RequestFailed, _OUTAGE, sleep=self.sleep)
        except TextTooLong:  # the estimate of its length was wrong
            text = PROBE_TEXT
            await retry_async(embed, RequestFailed, _OUTAGE, sleep=self.sleep)
        self.calls += 1
        self.in_vain += 1

    async def _request(
        self, chunks: Sequence[Chunk], *, tries: int = EMBED_TRIES
    ) -> list[npt.NDArray[np.float32] | TextRefused] | TextRefused | RequestFailed | DimensionDiffers:
        """Return the vectors of one request, or the refusal or the failure of all of it."""
        if not chunks:
            return []
        try:
            texts = [self.prefix + chunk.embedded_text for chunk in chunks]
            vectors = await self.embedder.embed(self.model, texts, digest=self.digest, tries=tries)
        except (TextRefused, RequestFailed, DimensionDiffers) as refusal:
            self.calls += 1
            self.refusals += 1
            return refusal
        self.calls += 1
        self.texts += len(chunks)
        return list(vectors)


def _blame(chunk: Chunk, failure: RequestFailed | DimensionDiffers) -> TextRefused:
    place = f"characters {chunk.start_char} to {chunk.end_char}"
    message = (
        f"The embedder failed chunk {chunk.index} ({place}) alone {TRIES_ALONE} times, and embedded a plain text of its"
        f" length each time: {failure.message}"
    )
    hint = "Update or repair the embedder, then submit the job again with retry_failed."
    return TextRefused("embedding_failed", message, hint=hint, start_char=chunk.start_char, end_char=chunk.end_char)


def _join(parts: Sequence[list[EmbeddedChunk] | ObjectError]) -> list[EmbeddedChunk] | ObjectError:
    joined: list[EmbeddedChunk] = []
    for part in parts:
        if isinstance(part, ObjectError):
            return part
        joined.extend(part)
    return joined
