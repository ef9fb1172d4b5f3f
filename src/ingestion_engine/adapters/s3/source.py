"""The buckets to read: listings and exact errors by botocore, most bodies by obstore (faster, asynchronous)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import obstore
from botocore import exceptions as boto
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import S3Store

from ingestion_engine.adapters.s3.client import Place, make_client, s3_errors, status_of
from ingestion_engine.adapters.s3.listing import (
    is_plain,
    list_pages,
    read_etag,
    read_metadata,
)
from ingestion_engine.adapters.s3.obstore_reads import make_obstore
from ingestion_engine.domain.errors import ObjectError, ObjectGone
from ingestion_engine.domain.records import ObjectHead, ObjectRef, RawObject
from ingestion_engine.runtime.settings import S3Settings, Settings
from ingestion_engine.runtime.timestamps import format_seconds

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from obstore import GetResult

T = TypeVar("T")

BODY_TIMEOUT = timedelta(minutes=15)
"""For one whole body: 256 MB at 300 kB/s."""
PIECE_BYTES = 4 * 1024 * 1024
"""Of a body that goes to a file: so much is in memory at once, per client."""


class _FileError(Exception):
    """The file that a body was to go to failed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # not S3's fault, so there is nothing that the second client could do better
        raise _FileError(error) from error


def _begin(file: BinaryIO) -> None:
    """Begin again: a client that failed in the middle may have written something."""
    with _file_errors():
        file.seek(0)
        file.truncate()


def _write(file: BinaryIO, piece: bytes | memoryview) -> None:
    with _file_errors():
        file.write(piece)


class S3Source:
    """Objects in S3 or a compatible server. Read only; safe to share by threads and by one event loop."""

    def __init__(self, settings: S3Settings) -> None:
        """Make no request yet."""
        self._settings = settings
        self._stores: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def _client(self) -> Any:
        """Made on first use (0.1 CPU s): bodies are read without it."""
        return make_client(self._settings)

    @classmethod
    def from_settings(cls, settings: Settings) -> S3Source:
        """Return a source for ``settings.s3``."""
        return cls(settings.s3)

    def check_bucket(self, bucket: str) -> None:
        """Return when the bucket exists and may be listed. Blocking, one request.

        Raises:
            FatalError: "bucket_not_found", "bucket_access_denied".
            TransientError: S3 is away.
        """
        with s3_errors(Place(bucket)):
            self._client.list_objects_v2(Bucket=bucket, MaxKeys=1)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        """Yield every object under a prefix, in the server's own order, keys as they are. Blocking.

        Raises:
            FatalError, TransientError: as ``check_bucket``.

        Cost: one request per 1,000 keys; one page in memory.
        """
        with s3_errors(Place(bucket)):
            for page in list_pages(self._client, bucket, prefix):
                yield from page

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        """Read one object whole: the listed version, or the newest when it has changed since.

        obstore tries first where it can address the key; whatever it says, the question is asked again with
        botocore, whose errors carry S3's own codes.

        Raises:
            ObjectGone: "object_gone".
            ObjectError: "object_too_large" before any body is read, "object_unreadable".
            TransientError: S3 is away.
            FatalError: "bucket_access_denied", "bucket_not_found".

        Cost: one request; up to three when it changed.
        """

        async def take(answer: GetResult) -> bytes:
            return bytes(await answer.bytes_async())

        head, body = await self._fetch(ref, max_bytes, take, lambda stream: stream.read())
        return RawObject(head.ref, body, head.content_type, head.metadata)

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        """Read one object into a file, from its start, whatever was in it; raises and costs as ``fetch``.

        Raises:
            OSError: from the file.
        """

        async def take(answer: GetResult) -> None:
            _begin(file)
            async for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                await asyncio.to_thread(_write, file, memoryview(piece))

        def take_exact(stream: StreamingBody) -> None:
            _begin(file)
            for piece in stream.iter_chunks(PIECE_BYTES):
                _write(file, piece)

        try:
            head, _ = await self._fetch(ref, max_bytes, take, take_exact)
        except _FileError as wrapped:
            raise wrapped.error from None
        return head

    async def _fetch(
        self,
        ref: ObjectRef,
        max_bytes: int,
        take: Callable[[GetResult], Awaitable[T]],
        take_exact: Callable[[StreamingBody], T],
    ) -> tuple[ObjectHead, T]:
        _check_size(ref, max_bytes)
        if is_plain(ref.key):
            found = await self._fetch_fast(ref, max_bytes, take)
            if found is not None:
                return found
        return await asyncio.to_thread(self._fetch_exact, ref, max_bytes, take_exact)

    async def _fetch_fast(
        self, ref: ObjectRef, max_bytes: int, take: Callable[[GetResult], Awaitable[T]]
    ) -> tuple[ObjectHead, T] | None:
        options: Any = {"if_match": f'"{ref.etag}"'} if ref.etag else {}
        try:
            answer = await obstore.get_async(self._store(ref.bucket), ref.key, options=options)
            meta = answer.meta
            seen = ObjectRef(
                ref.bucket, ref.key, read_etag(meta["e_tag"]), meta["size"], format_seconds(meta["last_modified"])
            )
            _check_size(seen, max_bytes)
            body = await take(answer)
        except (ObstoreError, OSError, ValueError):
            return None
        attributes = answer.attributes
        # obstore spells S3's own attributes with capitals; user metadata arrives in lower case.
        user = {name: value for name, value in attributes.items() if name == name.lower()}
        return ObjectHead(seen, attributes.get("Content-Type"), read_metadata(user)), body

    def _fetch_exact(self, ref: ObjectRef, max_bytes: int, take: Callable[[StreamingBody], T]) -> tuple[ObjectHead, T]:
        condition = {"IfMatch": f'"{ref.etag}"'} if ref.etag else {}
        with s3_errors(Place(ref.bucket, ref.key)):
            try:
                return self._get(ref, max_bytes, condition, take)
            except boto.ClientError as error:
                if status_of(error) == 403:
                    self.check_bucket(ref.bucket)  # all of it, or this object alone?
                if status_of(error) != 412:
                    raise
            return self._get(ref, max_bytes, {}, take)

    def _get(
        self, ref: ObjectRef, max_bytes: int, condition: dict[str, str], take: Callable[[StreamingBody], T]
    ) -> tuple[ObjectHead, T]:
        answer = self._client.get_object(Bucket=ref.bucket, Key=ref.key, **condition)
        with answer["Body"]:
            seen = dataclasses.replace(
                ref,
                etag=read_etag(answer.get("ETag")),
                size_bytes=int(answer["ContentLength"]),
                last_modified=format_seconds(answer["LastModified"]),
            )
            _check_size(seen, max_bytes)
            body = take(answer["Body"])
        return ObjectHead(seen, answer.get("ContentType"), read_metadata(answer.get("Metadata", {}))), body

    async def exists(self, bucket: str, key: str) -> bool:
        """True when the object is there now. One request for one byte.

        A HEAD would not tell a missing object from a missing bucket, and points are removed on the strength of this
        answer.

        Raises:
            TransientError: S3 is away.
            ObjectError: "object_unreadable".
            FatalError: "bucket_access_denied", "bucket_not_found".
        """
        return await asyncio.to_thread(self._exists, bucket, key)

    def _exists(self, bucket: str, key: str) -> bool:
        try:
            with s3_errors(Place(bucket, key)):
                self._client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()
        except ObjectGone:
            return False
        except ObjectError as error:
            if error.context.get("status") == 416:  # nothing to give a byte of: an empty object
                return True
            raise
        return True

    async def close(self) -> None:
        """Release connections."""
        self._stores.clear()
        if "_client" in self.__dict__:
            await asyncio.to_thread(self._client.close)

    def _store(self, bucket: str) -> S3Store:
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = make_obstore(self._settings, lambda: self._client, bucket, timeout=BODY_TIMEOUT)
            return self._stores[bucket]


def _check_size(ref: ObjectRef, max_bytes: int) -> None:
    if ref.size_bytes > max_bytes:
        raise ObjectError(
            "object_too_large",
            f"{ref.uri} has {ref.size_bytes} bytes, more than {max_bytes}",
            hint="Raise INGEST_WORKER__OBJECT_MAX_BYTES or exclude the object.",
            bucket=ref.bucket,
            key=ref.key,
            size_bytes=ref.size_bytes,
            max_bytes=max_bytes,
        )
