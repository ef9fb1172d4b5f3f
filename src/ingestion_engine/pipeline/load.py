"""Load: ``PlannedObject → LoadedObject``: fetch, parse and chunk, several objects ahead but handed over in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.ports import ObjectSource
from ingestion_engine.domain.records import Action, Chunk, Document, ObjectHead, ObjectRef, PlannedObject, RawObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking.chunk import chunk_pieces
from ingestion_engine.pipeline.parsing.large import parse_large
from ingestion_engine.pipeline.parsing.parse import parse_object
from ingestion_engine.pipeline.spool import LARGE_BYTES, SpooledBody, disk_errors
from ingestion_engine.pipeline.worker_context import Stopwatch

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
    chunks: Iterable[Chunk] = ()
    """In their order, once: what is iterated over is gone. Of a large object they are made as they are taken."""
    is_large: bool = False
    """True when its chunks come from a temporary file, and what becomes of them should go to one as well."""
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
    large_bytes: int = LARGE_BYTES
    """Objects over this go through temporary files."""
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
            if planned.ref.size_bytes > self.large_bytes:
                body, head = await self._timed("fetch", self._spool(planned.ref))
                read = head.ref
                large = await self._timed("parse", parse_large(body, head, limits=self.limits))
                if large is not None:
                    document = _with_origin(large.document, planned)
                    chunks = self._chunk(document, large.text.pieces())
                    return LoadedObject(planned, document, chunks, is_large=True, read=read)
                whole = await asyncio.to_thread(body.read, 0, body.size)
                raw = RawObject(read, whole, head.content_type, head.metadata)
                del body, whole
            else:
                fetch = self.source.fetch(planned.ref, max_bytes=self.limits.object_max_bytes)
                raw = await self._timed("fetch", fetch)
                read = raw.ref
                self.bytes_read += len(raw.body)
            document = _with_origin(await self._timed("parse", parse_object(raw, limits=self.limits)), planned)
            del raw
            cut = await self._timed("chunk", self._chunk_whole(document))
            return LoadedObject(planned, replace(document, text=""), cut, read=read)
        except ObjectError as error:
            return LoadedObject(planned, error=error, read=read)

    async def _spool(self, ref: ObjectRef) -> tuple[SpooledBody, ObjectHead]:
        body = SpooledBody()
        with disk_errors():
            head = await self.source.fetch_into(ref, body.file, max_bytes=self.limits.object_max_bytes)
        self.bytes_read += body.size
        return body, head

    async def _chunk_whole(self, document: Document) -> tuple[Chunk, ...]:
        def cut() -> tuple[Chunk, ...]:
            return tuple(self._chunk(document, [document.text]))

        return cut() if len(document.text) <= SHORT_CHARS else await asyncio.to_thread(cut)

    def _chunk(self, document: Document, text: Iterable[str]) -> Iterator[Chunk]:
        return chunk_pieces(text, document, self.chunking, context_length=self.context_length)

    async def _timed(self, step: str, work: Awaitable[T]) -> T:
        return await Stopwatch(self.seconds).time(step, work)


def _with_origin(document: Document, planned: PlannedObject) -> Document:
    if planned.origin is None:
        return document
    return replace(document, metadata={**planned.origin.metadata, **document.metadata})
