"""The state store in S3: small files under a prefix, with conditional writes (If-None-Match, If-Match)."""

from __future__ import annotations

import functools
import io
import logging
import math
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import obstore
from botocore import exceptions as boto
from obstore.exceptions import BaseError as ObstoreError

from ingestion_engine.adapters.s3.client import NOT_S3_HINT, Place, make_client, s3_errors, status_of
from ingestion_engine.adapters.s3.listing import is_plain, list_pages
from ingestion_engine.adapters.s3.obstore_client import FallbackLog, make_obstore
from ingestion_engine.domain.errors import (
    FatalError,
    IngestionError,
    StateConflict,
    StateMissing,
    TlsFailed,
    TransientError,
)
from ingestion_engine.domain.ports import Stored
from ingestion_engine.runtime.retry import RetryPolicy
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.settings import S3Settings, Settings

_log = logging.getLogger(__name__)

PART_BYTES = 64 * 1024 * 1024
"""Larger files are uploaded in parts of this size; S3 allows parts of 5 MiB to 5 GiB, at most 10,000."""
MAX_PARTS = 10_000
UPLOAD_MARK = "ingest-upload"
"""Name of the user metadata with a random value of each upload in parts."""
CONDITIONAL_RETRY = RetryPolicy(first_s=0.2, longest_s=3.0, deadline_s=15.0)
"""The deadline is half of a lease's time to live (30 s): a renewal that takes longer has failed anyway."""
READ_TIMEOUT_S = 10.0
"""Values are small, so a server that sends no data for this long is unavailable; shorter than a lease."""


class S3StateStore:
    """The state store port over S3 objects ``{prefix}/{path}``; a version is the object's etag.

    Blocking; threads can share it. Requires a server that enforces If-None-Match and If-Match on PUT: AWS S3, MinIO,
    SeaweedFS 4.x or later.
    """

    def __init__(
        self,
        settings: S3Settings,
        url: str,
        *,
        retry: RetryPolicy = CONDITIONAL_RETRY,
        ca_file: Path | None = None,
    ) -> None:
        """Open the state store at ``s3://bucket/prefix``; sends no request.

        ``ca_file`` is a PEM file of authorities; None means the usual ones.

        Raises:
            FatalError: "state_url_invalid".
        """
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc:
            shown = hide_credentials(url)
            message = f"The state URL {shown!r} does not have the form s3://bucket/prefix."
            hint = "Leave the account out of INGEST_STATE_URL; set INGEST_S3__ACCESS_KEY_ID." if shown != url else ""
            raise FatalError("state_url_invalid", message, hint=hint, url=shown)
        self.url = url.rstrip("/")
        self._bucket = parts.netloc
        self._base = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._settings = settings
        # None when obstore would address other keys than botocore.
        is_addressable = not self._base or is_plain(self._base.rstrip("/"))
        timeout = timedelta(seconds=READ_TIMEOUT_S)
        self._ca_file = ca_file
        self._fallbacks = FallbackLog(settings)
        self._fast = (
            make_obstore(settings, lambda: self._client, self._bucket, timeout=timeout, ca_file=ca_file)
            if is_addressable
            else None
        )
        self._retry = retry

    @functools.cached_property
    def _client(self) -> Any:
        """Created on first use (0.2 CPU s including imports): most values are read without it."""
        return make_client(self._settings, read_timeout_s=READ_TIMEOUT_S, ca_file=self._ca_file)

    @functools.cached_property
    def _once(self) -> Any:
        """A client without retries: a conditional write must know whether a failure came before a conflict."""
        return make_client(self._settings, attempts=1, read_timeout_s=READ_TIMEOUT_S, ca_file=self._ca_file)

    @classmethod
    def from_settings(cls, settings: Settings, url: str) -> S3StateStore:
        """Return the state store at ``url`` with the endpoint and credentials of ``settings.s3``."""
        return cls(settings.s3, url, ca_file=settings.tls.ca_file)

    def get(self, path: str) -> Stored | None:
        """Return a value, or None when absent. One request; after an error of obstore a second one with botocore."""
        if self._fast is not None and is_plain(path):
            try:
                result = obstore.get(self._fast, self._base + path)
                etag = result.meta["e_tag"]
                if etag is not None:
                    return Stored(bytes(result.bytes()), etag)
            except (ObstoreError, OSError) as error:
                # S3's own code in the body: a missing bucket and a proxy respond 404 too.
                if "<Code>NoSuchKey</Code>" in str(error):
                    return None
                self._fallbacks.note(error, self._bucket)
        return self._get_exact(path)

    def _get_exact(self, path: str) -> Stored | None:
        with s3_errors(self._place(path)):
            try:
                response = self._client.get_object(**self._name(path))
                with response["Body"] as stream:
                    return Stored(stream.read(), self._etag(path, response))
            except self._client.exceptions.NoSuchKey:
                return None

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer at the end of the value. One request.

        Raises:
            StateMissing: the file does not exist.
        """
        if length <= 0:
            return b""
        with s3_errors(self._place(path)):
            try:
                response = self._client.get_object(**self._name(path), Range=f"bytes={start}-{start + length - 1}")
                with response["Body"] as stream:
                    self._etag(path, response)
                    return bytes(stream.read())
            except self._client.exceptions.NoSuchKey as error:
                raise self._missing(path) from error
            except boto.ClientError as error:
                if status_of(error) == 416:  # starts at or after the end
                    return b""
                raise

    def put(self, path: str, data: bytes) -> None:
        """Write a value, replacing any other. One request; idempotent."""
        with s3_errors(self._place(path)):
            self._etag(path, self._client.put_object(**self._name(path), Body=data))

    def create(self, path: str, data: bytes) -> str:
        """Write a value that must not exist yet; return its version.

        Raises:
            StateConflict: it exists, unless this call's own write lost its response.
        """
        return self._put_if(path, data, {"IfNoneMatch": "*"})

    def replace(self, path: str, data: bytes, version: str) -> str:
        """Replace exactly this version of a value; return the new version.

        Raises:
            StateConflict: it has another version or is absent, unless this call's own write lost its response.
        """
        return self._put_if(path, data, {"IfMatch": version})

    def _put_if(self, path: str, data: bytes, condition: dict[str, str]) -> str:
        pauses = self._retry.pauses()
        is_uncertain = False
        while True:
            try:
                with s3_errors(self._place(path)):
                    return self._etag(path, self._once.put_object(**self._name(path), Body=data, **condition))
            except StateConflict:
                if is_uncertain:
                    # An earlier attempt may have been applied although its response was lost.
                    found = self.get(path)
                    if found is not None and found.data == data:
                        return found.version
                raise
            except TlsFailed:
                raise
            except TransientError:
                is_uncertain = True
                pause = next(pauses, None)
                if pause is None:
                    raise
                time.sleep(pause)

    def delete(self, path: str) -> None:
        """Remove a value; an absent value is not an error. One request."""
        with s3_errors(self._place(path)):
            self._client.delete_object(**self._name(path))

    def list(self, prefix: str) -> Iterator[str]:
        """Yield all paths that start with a prefix, in the server's order. One request per 1,000 paths."""
        with s3_errors(Place(self._bucket, is_state=True)):
            for page in list_pages(self._client, self._bucket, self._base + prefix):
                for ref in page:
                    yield ref.key.removeprefix(self._base)

    def upload(self, path: str, source: Path) -> None:
        """Copy a file to a large value, replacing any other; it appears complete or not at all. Memory: one part."""
        size = source.stat().st_size
        with source.open("rb") as file:
            if size <= PART_BYTES:
                with s3_errors(self._place(path)):
                    self._etag(path, self._client.put_object(**self._name(path), Body=file))
                return
            self._upload_parts(path, file, size, part_bytes=max(PART_BYTES, math.ceil(size / MAX_PARTS)))

    def try_upload_in_parts(self, path: str) -> None:
        """Upload a value of one byte as large values are uploaded, and remove it. Four requests.

        Raises:
            FatalError: "state_access_denied", naming the operation and its permission.
            TransientError: the state store is unavailable; the value may have been left behind.
        """
        self._upload_parts(path, io.BytesIO(b"1"), 1, part_bytes=1)
        self.delete(path)

    def _upload_parts(self, path: str, file: BinaryIO, size: int, *, part_bytes: int) -> None:
        # Tells this upload's own object from any other, when the response to its completion is lost.
        mark = secrets.token_hex(16)
        with s3_errors(self._place(path)):
            started = self._client.create_multipart_upload(**self._name(path), Metadata={UPLOAD_MARK: mark})
        if not started.get("UploadId"):
            raise self._not_from_s3(path, "upload id")
        upload = {**self._name(path), "UploadId": started["UploadId"]}
        try:
            with s3_errors(self._place(path)):
                self._send_parts(path, upload, file, part_bytes=part_bytes)
        except TransientError:
            if not self._has_arrived(path, mark, size):
                self._abort(upload)
                raise
        except BaseException:  # whatever ended the upload, its parts are not left behind
            self._abort(upload)
            raise

    def _send_parts(self, path: str, upload: Mapping[str, Any], file: BinaryIO, *, part_bytes: int) -> None:
        parts: list[dict[str, Any]] = []
        while part := file.read(part_bytes):
            number = len(parts) + 1
            response = self._client.upload_part(**upload, PartNumber=number, Body=part)
            parts.append({"PartNumber": number, "ETag": self._etag(path, response)})
        self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def _has_arrived(self, path: str, mark: str, size: int) -> bool:
        """True when an upload is complete although the response to its completion was lost; best effort.

        botocore repeats a completion without a response, and the second one then finds no upload ("NoSuchUpload").
        """
        try:
            with s3_errors(self._place(path)):
                response = self._client.get_object(**self._name(path), Range="bytes=0-0")
                response["Body"].close()
        except IngestionError:
            return False
        total = str(response.get("ContentRange", "")).rpartition("/")[2]
        return (response.get("Metadata", {}).get(UPLOAD_MARK), total) == (mark, str(size))

    def _abort(self, upload: Mapping[str, Any]) -> None:
        """Remove the parts of an upload, which cost money and are not listed. Best effort: never raises."""
        try:
            with s3_errors(self._place(upload["Key"].removeprefix(self._base))):
                self._client.abort_multipart_upload(**upload)
        except IngestionError as error:
            _log.warning("parts of an upload not removed", extra=error.log_fields())

    def _etag(self, path: str, response: Mapping[str, Any]) -> str:
        """Return the etag of a response; every response of S3 to a read or a write of an object has one."""
        etag = response.get("ETag")
        if not etag:
            raise self._not_from_s3(path, "etag")
        return str(etag)

    def _not_from_s3(self, path: str, missing: str) -> TransientError:
        place = self._place(path)
        message = f"The response for {place} has no {missing}, so it is not from S3."
        return TransientError("s3_unavailable", message, hint=NOT_S3_HINT, **place.context)

    def _name(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._base + path}

    def _place(self, path: str) -> Place:
        return Place(self._bucket, self._base + path, is_state=True)

    def _missing(self, path: str) -> StateMissing:
        return StateMissing("state_missing", f"{self.url}/{path} does not exist.", path=path)
