"""Load: ``PlannedObject → LoadedObject``: fetch, parse and chunk, several objects ahead but handed over in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.ports import ObjectSource
from ingestion_engine.domain.records import Action, Chunk, Document, ObjectRef, PlannedObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunk import chunk_document
from ingestion_engine.pipeline.parse import parse_object

T = TypeVar("T")

AHEAD_OBJECTS = 32
"""Objects loaded ahead of the embedder: a batch of the smallest ones, each with one chunk, and so S3's latency hides
behind one embed call."""
AHEAD_BYTES = 48 * 1024 * 1024
"""Bytes of objects that a process loads ahead; with parsing overhead of three to four times well under 500 MB."""

SHORT_CHARS = 16_384
"""Texts up to this are chunked on the event loop: 1 ms of work, 8 ms for one single word, where a thread would
cost 0.2 ms more."""


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """An object ready to embed, or the reason why it never will be.

    ``document.text`` has been dropped (it is empty): the chunks hold all of it, and it would double the memory.
    """

    planned: PlannedObject
    document: Document | None = None
    chunks: tuple[Chunk, ...] = ()
    error: ObjectError | None = None
    read: ObjectRef | None = None
    """The version that was read, when any was."""


@dataclass(slots=True)
class LoadStage:
    """How this job loads objects. ``seconds`` collects the time spent per step."""

    source: ObjectSource
    limits: FrozenLimits
    chunking: Chunking
    context_length: int | None
    seconds: MutableMapping[str, float]
    ahead_bytes: int = AHEAD_BYTES
    """This partition's part of what its process may load ahead."""
    bytes_read: int = 0

    async def load_objects(
        self, objects: Sequence[PlannedObject], prepare: Callable[[int, LoadedObject], Awaitable[T]]
    ) -> AsyncGenerator[T, None]:
        """Yield what ``prepare`` makes of every object, in order, working ahead, bounded in count and bytes.

        Failures of single objects are values, not exceptions.

        Args:
            objects: What to load.
            prepare: Called with an object's position and the loaded object, for several objects at the same time.

        Raises:
            TransientError, FatalError: from the source, and what ``prepare`` raises.
        """

        async def work(position: int, planned: PlannedObject) -> T:
            return await prepare(position, await self._load(planned))

        ahead: deque[tuple[asyncio.Task[T], int]] = deque()
        ahead_bytes = 0
        try:
            for position, planned in enumerate(objects):
                size = planned.ref.size_bytes
                while ahead and (len(ahead) >= AHEAD_OBJECTS or ahead_bytes + size > self.ahead_bytes):
                    task, weight = ahead[0]
                    prepared = await task
                    ahead.popleft()
                    ahead_bytes -= weight
                    yield prepared
                ahead.append((asyncio.create_task(work(position, planned)), size))
                ahead_bytes += size
            while ahead:
                prepared = await ahead[0][0]
                ahead.popleft()
                yield prepared
        finally:
            leftover = [task for task, _ in ahead]
            for task in leftover:
                task.cancel()
            await asyncio.gather(*leftover, return_exceptions=True)

    async def _load(self, planned: PlannedObject) -> LoadedObject:
        if planned.action in (Action.DELETE, Action.PURGE):
            return LoadedObject(planned)
        read: ObjectRef | None = None
        try:
            started = time.perf_counter()
            raw = await self.source.fetch(planned.ref, max_bytes=self.limits.object_max_bytes)
            read = raw.ref
            self.bytes_read += len(raw.body)
            started = self._lap("fetch", started)
            document = await parse_object(raw, limits=self.limits)
            del raw
            if planned.origin is not None:
                document = replace(document, metadata={**planned.origin.metadata, **document.metadata})
            started = self._lap("parse", started)
            is_short = len(document.text) <= SHORT_CHARS
            chunks = self._chunk(document) if is_short else await asyncio.to_thread(self._chunk, document)
            self._lap("chunk", started)
        except ObjectError as error:
            return LoadedObject(planned, error=error, read=read)
        return LoadedObject(planned, replace(document, text=""), chunks, read=read)

    def _chunk(self, document: Document) -> tuple[Chunk, ...]:
        return tuple(chunk_document(document, self.chunking, context_length=self.context_length))

    def _lap(self, step: str, started: float) -> float:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - started
        return now
