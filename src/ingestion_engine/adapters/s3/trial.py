"""Try an account on an S3 server, and measure the server's clock: for examinations, not for jobs. Blocking."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from botocore import exceptions as boto

from ingestion_engine.adapters.s3.client import (
    CREDENTIAL_CODES,
    DENIED_CODES,
    Place,
    code_of,
    make_client,
    s3_errors,
    status_of,
)
from ingestion_engine.adapters.s3.listing import read_page
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.records import ObjectRef
from ingestion_engine.runtime.settings import S3Settings

READ_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """What the head of a response tells of a server."""

    product: str
    """Its own name, for example ``MinIO``; empty when it gives none."""
    ahead_s: float | None
    """Seconds by which its clock is ahead of this machine's, exact to a second; None when it states no time."""


class S3Trial:
    """One client, used once. Every method raises the errors of ``s3_errors``."""

    def __init__(self, settings: S3Settings, *, ca_file: Path | None = None) -> None:
        """Create the client; sends no request."""
        self.seen: ServerSeen | None = None
        """The server, as of its last response; also after an error response."""
        self._client = make_client(settings, attempts=1, read_timeout_s=READ_TIMEOUT_S, ca_file=ca_file)
        self._client.meta.events.register("after-call.s3", self._note)

    @property
    def endpoint_url(self) -> str:
        """The URL that requests go to."""
        return str(self._client.meta.endpoint_url)

    def _note(self, http_response: Any, **_: Any) -> None:
        ahead_s = None
        with contextlib.suppress(KeyError, ValueError, TypeError):
            ahead_s = parsedate_to_datetime(http_response.headers["date"]).timestamp() - time.time()
        self.seen = ServerSeen(str(http_response.headers.get("server") or ""), ahead_s)

    def check_account(self) -> None:
        """Return when the server knows the credentials, whatever they allow. One request.

        Raises:
            FatalError: "bucket_access_denied": they are missing, unknown or wrong.
            TransientError: S3 is unavailable, or something else answers in its place.
        """
        with s3_errors(Place("")):
            try:
                self._client.list_buckets()
            except boto.ClientError as error:
                code = code_of(error)
                if code in DENIED_CODES - CREDENTIAL_CODES:  # known, but not allowed to list buckets
                    return
                if code not in CREDENTIAL_CODES:
                    raise
                raise FatalError(
                    "bucket_access_denied",
                    f"S3 at {self.endpoint_url} refuses the credentials ({status_of(error)} {code}).",
                    hint="Check INGEST_S3__ACCESS_KEY_ID, INGEST_S3__SECRET_ACCESS_KEY, and the clock of this machine.",
                    s3_code=code,
                ) from error

    def find_object(self, bucket: str, prefix: str) -> ObjectRef | None:
        """Return the first object under a prefix; None when there is none. One request."""
        with s3_errors(Place(bucket)):
            refs = read_page(self._client, bucket, prefix, max_keys=1).refs
        return refs[0] if refs else None

    def put_text(self, bucket: str, key: str, text: str) -> None:
        """Write an object of plain text. One request."""
        with s3_errors(Place(bucket)):
            self._client.put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="text/plain")

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object, if there is one. One request."""
        with s3_errors(Place(bucket)):
            self._client.delete_object(Bucket=bucket, Key=key)

    def read_begin(self, ref: ObjectRef) -> None:
        """Return when the first byte of an object can be read. One request."""
        with s3_errors(Place(ref.bucket, ref.key)):
            # The range of an empty object cannot be satisfied.
            options = {"Range": "bytes=0-0"} if ref.size_bytes else {}
            self._client.get_object(Bucket=ref.bucket, Key=ref.key, **options)["Body"].close()
