"""The object source: botocore lists and reports exact errors, obstore reads most bodies (faster, asynchronous)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import obstore
from botocore import exceptions as boto
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import S3Store

from ingestion_engine.adapters.request_counts import counted
from ingestion_engine.adapters.s3.client import NOT_S3_HINT, Place, code_of, make_client, s3_errors, status_of
from ingestion_engine.adapters.s3.listing import is_plain, list_pages, read_etag, read_metadata, read_page
from ingestion_engine.adapters.s3.obstore_client import FallbackLog, make_obstore
from ingestion_engine.domain.errors import FatalError, ObjectError, ObjectGone, TransientError
from ingestion_engine.domain.records import ObjectHead, ObjectRef, RawObject
from ingestion_engine.runtime.settings import S3Settings, Settings
from ingestion_engine.runtime.timestamps import format_seconds

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from obstore import GetResult

T = TypeVar("T")

BODY_TIMEOUT = timedelta(minutes=15)
"""Time limit for one whole body: 256 MB at 300 kB/s."""
PIECE_BYTES = 4 * 1024 * 1024
"""Bytes in memory at once, per client, of a body that is written to a file."""


class _FileError(Exception):
    """The file that receives a body failed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # not an error of S3, so the second client cannot help
        raise _FileError(error) from error


def _empty(file: BinaryIO) -> None:
    """Empty the file: a client that failed may have written part of the body."""
    with _file_errors():
        file.seek(0)
        file.truncate()


def _write(file: BinaryIO, piece: bytes | memoryview) -> None:
    with _file_errors():
        file.write(piece)


class S3Source:
    """The object source port over S3 or a compatible server. Read only; threads and one event loop can share it."""

    def __init__(self, settings: S3Settings, *, prefix: str = "", ca_file: Path | None = None) -> None:
        """Create the source; sends no request.

        Args:
            settings: Endpoint, region and credentials.
            prefix: A prefix that may be listed at least; tells a denied object from a denied bucket.
            ca_file: PEM file of authorities; None means the usual ones.
        """
        self._settings = settings
        self._prefix = prefix
        self._ca_file = ca_file
        self._fallbacks = FallbackLog(settings)
        self._stores: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def _client(self) -> Any:
        """Created on first use (0.1 CPU s): most bodies are read without it."""
        return make_client(self._settings, ca_file=self._ca_file)

    @classmethod
    def from_settings(cls, settings: Settings, prefix: str = "") -> S3Source:
        """Return a source for ``settings.s3``."""
        return cls(settings.s3, prefix=prefix, ca_file=settings.tls.ca_file)

    def check_bucket(self, bucket: str, prefix: str = "") -> None:
        """Return when the bucket exists and this prefix may be listed. Blocking, one request.

        Raises:
            FatalError: "bucket_not_found", "bucket_access_denied".
            TransientError: S3 is unavailable.
        """
        with s3_errors(Place(bucket)):
            read_page(self._client, bucket, prefix, max_keys=1)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        """Yield every object under a prefix in the server's order, with unchanged keys. Blocking.

        Raises:
            FatalError, TransientError: as ``check_bucket``.

        Cost: one request per 1,000 keys; one page in memory.
        """
        with s3_errors(Place(bucket)):
            for page in list_pages(self._client, bucket, prefix):
                yield from page

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        """Read one whole object: the listed version, or the newest if it has changed since.

        obstore reads first if it can address the key; after any error the request is repeated with botocore, whose
        errors have S3's own codes.

        Raises:
            ObjectGone: "object_gone".
            ObjectError: "object_too_large" before any body is read, "object_unreadable".
            TransientError: S3 is unavailable, or something else answers in its place.
            FatalError: "bucket_access_denied", "bucket_not_found".

        Cost: one request; up to three when the object has changed, up to four when it is refused.
        """

        async def read(result: GetResult) -> bytes:
            return bytes(await result.bytes_async())

        head, body = await self._fetch(ref, max_bytes, read=read, read_exact=lambda stream: stream.read())
        return RawObject(ref=head.ref, body=body, content_type=head.content_type, metadata=head.metadata)

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        """Read one object into a file, replacing its content; same errors and cost as ``fetch``.

        Raises:
            OSError: from the file.
        """

        async def read(result: GetResult) -> None:
            _empty(file)
            async for piece in result.stream(min_chunk_size=PIECE_BYTES):
                await asyncio.to_thread(_write, file, memoryview(piece))

        def read_exact(stream: StreamingBody) -> None:
            _empty(file)
            for piece in stream.iter_chunks(PIECE_BYTES):
                _write(file, piece)

        try:
            head, _ = await self._fetch(ref, max_bytes, read=read, read_exact=read_exact)
        except _FileError as wrapped:
            raise wrapped.error from None
        return head

    async def _fetch(
        self,
        ref: ObjectRef,
        max_bytes: int,
        *,
        read: Callable[[GetResult], Awaitable[T]],
        read_exact: Callable[[StreamingBody], T],
    ) -> tuple[ObjectHead, T]:
        _check_size(ref, max_bytes)
        with counted("s3"):
            if is_plain(ref.key):
                found = await self._fetch_fast(ref, max_bytes, read)
                if found is not None:
                    return found
            return await asyncio.to_thread(self._fetch_exact, ref, max_bytes, read_exact)

    async def _fetch_fast(
        self, ref: ObjectRef, max_bytes: int, read: Callable[[GetResult], Awaitable[T]]
    ) -> tuple[ObjectHead, T] | None:
        options: Any = {"if_match": f'"{ref.etag}"'} if ref.etag else {}
        try:
            result = await obstore.get_async(self._store(ref.bucket), ref.key, options=options)
            meta = result.meta
            if ref.etag and meta["e_tag"] is None:
                return None
            seen = dataclasses.replace(
                ref,
                etag=read_etag(meta["e_tag"]),
                size_bytes=meta["size"],
                last_modified=format_seconds(meta["last_modified"]),
            )
            _check_size(seen, max_bytes)
            body = await read(result)
        except (ObstoreError, OSError, ValueError) as error:
            self._fallbacks.note(error, ref.bucket)
            return None
        attributes = result.attributes
        # obstore capitalises S3's own attributes; user metadata arrives in lower case.
        user = {name: value for name, value in attributes.items() if name == name.lower()}
        return ObjectHead(seen, attributes.get("Content-Type"), read_metadata(user)), body

    def _fetch_exact(self, ref: ObjectRef, max_bytes: int, read: Callable[[StreamingBody], T]) -> tuple[ObjectHead, T]:
        with s3_errors(Place(ref.bucket, ref.key)):
            try:
                return self._get(ref, max_bytes, read, same_version=True)
            except boto.ClientError as error:
                if code_of(error) == "AccessDenied" and not self._is_listed(ref.bucket, ref.key):
                    raise ObjectGone("object_gone", f"{ref.uri} is not listed any more.", key=ref.key) from error
                if status_of(error) != 412:
                    raise
            return self._get(ref, max_bytes, read)

    def _is_listed(self, bucket: str, key: str) -> bool:
        """True unless a listing proves that an object to which access was denied does not exist.

        S3 answers 403 also for a missing object when the account may list some prefixes only ("GetObject" in the S3
        API reference). Raises FatalError ("bucket_access_denied") when the bucket is denied, not only the object.
        """
        try:
            with s3_errors(Place(bucket)):
                page = read_page(self._client, bucket, key)
        except FatalError:  # the account may list exactly its prefix
            self.check_bucket(bucket, self._prefix)
            return True
        # The key itself is the first of those that start with it, except where a server does not sort.
        return page.next_token is not None or any(ref.key == key for ref in page.refs)

    def _get(
        self, ref: ObjectRef, max_bytes: int, read: Callable[[StreamingBody], T], *, same_version: bool = False
    ) -> tuple[ObjectHead, T]:
        condition = {"IfMatch": f'"{ref.etag}"'} if same_version and ref.etag else {}
        response = self._client.get_object(Bucket=ref.bucket, Key=ref.key, **condition)
        with response["Body"]:
            if "LastModified" not in response or (ref.etag and not response.get("ETag")):
                message = f"The response to GetObject for {ref.uri} has no etag or time, so it is not from S3."
                raise TransientError("s3_unavailable", message, hint=NOT_S3_HINT, bucket=ref.bucket, key=ref.key)
            seen = dataclasses.replace(
                ref,
                etag=read_etag(response.get("ETag")),
                size_bytes=int(response["ContentLength"]),
                last_modified=format_seconds(response["LastModified"]),
            )
            _check_size(seen, max_bytes)
            body = read(response["Body"])
        return ObjectHead(seen, response.get("ContentType"), read_metadata(response.get("Metadata", {}))), body

    async def exists(self, bucket: str, key: str) -> bool:
        """True when the object exists now. One request for one byte; two or three when it is refused.

        This result leads to the removal of points, so False is only S3's own ``NoSuchKey``, or a listing without the
        key. The response to a HEAD request has no code: it cannot tell a missing object from a missing bucket or a
        proxy without a route.

        Raises:
            TransientError: S3 is unavailable, or something else answers in its place.
            ObjectError: "object_unreadable": S3 does not say whether it exists.
            FatalError: "bucket_access_denied", "bucket_not_found".
        """
        with counted("s3"):
            return await asyncio.to_thread(self._exists, bucket, key)

    def _exists(self, bucket: str, key: str) -> bool:
        try:
            with s3_errors(Place(bucket, key)):
                self._client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()
        except ObjectGone:
            return False
        except ObjectError as error:
            if error.context.get("status") == 416:  # the requested byte does not exist: an empty object
                return True
            if error.context.get("s3_code") == "AccessDenied" and not self._is_listed(bucket, key):
                return False
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
                self._stores[bucket] = make_obstore(
                    self._settings, lambda: self._client, bucket, timeout=BODY_TIMEOUT, ca_file=self._ca_file
                )
            return self._stores[bucket]


def _check_size(ref: ObjectRef, max_bytes: int) -> None:
    if ref.size_bytes > max_bytes:
        raise ObjectError(
            "object_too_large",
            f"{ref.uri} has {ref.size_bytes} bytes; the limit is {max_bytes} bytes.",
            hint="Raise INGEST_WORKER__OBJECT_MAX_BYTES, or exclude the object.",
            bucket=ref.bucket,
            key=ref.key,
            size_bytes=ref.size_bytes,
            max_bytes=max_bytes,
        )
