"""Load: ``PlannedObject → LoadedObject``: fetch, parse and chunk several objects ahead, and yield them in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.ports import ObjectSource
from ingestion_engine.domain.records import Action, Chunk, Document, ObjectHead, ObjectRef, PlannedObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking.chunk import chunk_pieces, has_long_blanks
from ingestion_engine.pipeline.chunking.tokens import TokenLimit
from ingestion_engine.pipeline.parsing.large import parse_large, parse_spooled
from ingestion_engine.pipeline.parsing.parse import parse_object
from ingestion_engine.pipeline.spool import LARGE_BYTES, SpooledBody, disk_errors
from ingestion_engine.pipeline.worker_context import Stopwatch

T = TypeVar("T")

AHEAD_OBJECTS = 32
"""Objects loaded ahead of the embedder: four full batches of the smallest objects with one chunk each, so that two
embed calls in flight hide the latency of S3."""
AHEAD_BYTES = 48 * 1024 * 1024
"""Bytes of objects that a process loads ahead; with a parsing overhead of three to four times well below 500 MB."""

SHORT_CHARS = 16_384
"""Texts up to this length are chunked on the event loop: 1 ms of work, 8 ms for one single word; a thread would add
0.2 ms. Much white space may take longer."""


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """An object ready to embed, or the error that prevents it.

    ``document.text`` is empty: the chunks contain all of it, and keeping it would double the memory.
    """

    planned: PlannedObject
    document: Document | None = None
    chunks: Iterable[Chunk] = ()
    """In order, for one iteration. The chunks of a large object are created during the iteration."""
    is_large: bool = False
    """True when its chunks come from a temporary file, and their results should go to one too."""
    text_chars: int = 0
    """Length of the document's text in characters."""
    error: ObjectError | None = None
    read: ObjectRef | None = None
    """The version that was read, if any."""


@dataclass(slots=True)
class LoadStage:
    """Loads the objects of one partition."""

    source: ObjectSource
    limits: FrozenLimits
    chunking: Chunking
    limit: TokenLimit | None
    watch: Stopwatch
    ahead_bytes: int = AHEAD_BYTES
    """This partition's share of the bytes that its process may load ahead."""
    large_bytes: int = LARGE_BYTES
    """Larger objects go through temporary files."""
    bytes_read: int = field(default=0, init=False)

    async def load_objects(
        self, objects: Sequence[PlannedObject], prepare: Callable[[int, LoadedObject], Awaitable[T]]
    ) -> AsyncGenerator[T, None]:
        """Yield the result of ``prepare`` for every object in order, working ahead within limits of count and bytes.

        Failures of single objects are values, not exceptions.

        Args:
            objects: The objects to load.
            prepare: Called with an object's position and the loaded object, concurrently for several objects.

        Raises:
            TransientError, FatalError: from the source.
            Exception: errors of ``prepare``.
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
                body, head = await self.watch.time("fetch", self._spool(planned.ref))
                read = head.ref
                large = await self.watch.time("parse", parse_large(body, head, limits=self.limits))
                if large is not None:
                    document = _with_origin(large.document, planned)
                    chunks = self._chunk(document, large.text.pieces())
                    return LoadedObject(
                        planned, document, chunks, is_large=True, text_chars=large.text.chars, read=read
                    )
                document = await self.watch.time("parse", parse_spooled(body, head, limits=self.limits))
                del body
            else:
                fetch = self.source.fetch(planned.ref, max_bytes=self.limits.object_max_bytes)
                raw = await self.watch.time("fetch", fetch)
                read = raw.ref
                self.bytes_read += len(raw.body)
                document = await self.watch.time("parse", parse_object(raw, limits=self.limits))
                del raw
            document = _with_origin(document, planned)
            cut = await self.watch.time("chunk", self._chunk_whole(document))
            return LoadedObject(planned, replace(document, text=""), cut, text_chars=len(document.text), read=read)
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

        is_quick = len(document.text) <= SHORT_CHARS and not has_long_blanks(document.text)
        return cut() if is_quick else await asyncio.to_thread(cut)

    def _chunk(self, document: Document, text: Iterable[str]) -> Iterator[Chunk]:
        return chunk_pieces(text, document, self.chunking, limit=self.limit)


def _with_origin(document: Document, planned: PlannedObject) -> Document:
    if planned.origin is None:
        return document
    return replace(document, metadata={**planned.origin.metadata, **document.metadata})
