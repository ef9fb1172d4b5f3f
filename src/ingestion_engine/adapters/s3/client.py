"""Create botocore clients for S3, and translate S3's errors into the product's."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore import exceptions as boto

from ingestion_engine.adapters.s3.listing import read_pages_quickly
from ingestion_engine.domain.errors import (
    FatalError,
    IngestionError,
    ObjectGone,
    ObjectUnreadable,
    StateConflict,
    TransientError,
)
from ingestion_engine.runtime.settings import S3Settings
from ingestion_engine.runtime.tls import find_tls_failure

if TYPE_CHECKING:
    from botocore.session import Session

CONNECT_TIMEOUT_S = 5
"""A server that does not accept a connection within this time is unavailable."""
READ_TIMEOUT_S = 60
"""Longest time without data on an open connection (botocore's default)."""
POOL_CONNECTIONS = 32
"""Same as the maximum number of threads in the default thread pool."""

DENIED_CODES = frozenset(
    [
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    ]
)
"""Errors of identity and permission. Source: the S3 API reference, "Error responses"."""
CREDENTIAL_CODES = DENIED_CODES - {"AccessDenied", "AllAccessDisabled"}
"""Errors that cannot concern a single object."""
TRANSIENT_CODES = frozenset(
    [
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",  # another write of the same object was under way
        "InternalError",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    ]
)
"""Errors that botocore's standard mode retries, and S3's own; the ones with a 4xx status matter here."""
ABSENT_CODE = "NoSuchKey"
"""The only answer that proves that an object does not exist: proxies and other servers respond 404 too."""
CONFLICT_CODES = frozenset({ABSENT_CODE, "PreconditionFailed"})
"""What a conditional write finds when the object is not the one that was read."""
PERMISSIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
}
"""Permission that each operation of this package requires. Source: "Required permissions for Amazon S3 API operations"
in the S3 user guide."""


@functools.cache
def transient_errors() -> tuple[type[Exception], ...]:
    """Return the errors that botocore raises when a service is unavailable; its other errors concern settings."""
    # Imported late: it takes 0.1 CPU s, and only a client raises any of these.
    from botocore.parsers import ResponseParserError

    return (
        boto.HTTPClientError,  # connections refused, reset, timed out; TLS; proxies
        boto.ConnectionError,
        boto.ResponseStreamingError,
        boto.IncompleteReadError,
        boto.ChecksumError,
        boto.FlexibleChecksumError,
        boto.CredentialRetrievalError,  # the credential service is unavailable
        boto.MetadataRetrievalError,
        boto.TokenRetrievalError,
        ResponseParserError,  # not XML: a proxy's page, or a truncated response
    )


_making_client = threading.Lock()


def make_client(
    settings: S3Settings, *, attempts: int = 5, read_timeout_s: float = READ_TIMEOUT_S, ca_file: Path | None = None
) -> Any:
    """Return a botocore S3 client that threads can share. Sends no request.

    It uses path-style addresses when an endpoint is given: servers other than AWS rarely have a host name per bucket.

    Args:
        settings: Endpoint, region and credentials; without credentials AWS's own provider chain applies.
        attempts: Attempts per request in botocore's standard mode; 1 when the caller must see every failure.
        read_timeout_s: Longest time without data on an open connection, in seconds.
        ca_file: PEM file with the authorities to trust; None means AWS's own setting (``AWS_CA_BUNDLE``), or certifi.
    """
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        max_pool_connections=POOL_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": "path" if settings.server_url else "auto"},
        # Newer checksums only where an operation requires them: several S3-compatible servers refuse the trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    credentials: dict[str, str] = {}
    if settings.access_key_id and settings.secret_access_key:
        credentials["aws_access_key_id"] = settings.access_key_id.get_secret_value()
        credentials["aws_secret_access_key"] = settings.secret_access_key.get_secret_value()
    with _making_client:  # threads cannot share sessions
        client = _session().create_client(
            "s3",
            endpoint_url=settings.server_url,
            region_name=settings.region,
            config=config,
            verify=None if ca_file is None else str(ca_file),
            **credentials,
        )
    read_pages_quickly(client)
    client.meta.events.register_first("needs-retry.s3", _stop_retries)
    return client


def _stop_retries(caught_exception: Exception | None = None, **_: Any) -> None:
    """Raise a certificate's error at once: botocore would repeat the request for ten seconds, in vain."""
    if isinstance(caught_exception, boto.SSLError) and find_tls_failure(caught_exception, "S3") is not None:
        raise caught_exception


@functools.cache
def _session() -> Session:
    """Return this process's session; its loader caches S3's description, which takes 0.1 CPU s to read."""
    # Imported late: a worker that reads through obstore alone needs no client before its first report.
    import botocore.session

    return botocore.session.get_session()


@dataclass(frozen=True, slots=True)
class Place:
    """Subject of a request; it decides which reaction an error requires."""

    bucket: str
    key: str | None = None
    """None for the bucket as a whole."""
    is_state: bool = False
    """True for the state store, where no object is skipped."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}" + (f"/{self.key}" if self.key is not None else "")

    @property
    def context(self) -> dict[str, str]:
        """Context fields for errors."""
        return {"bucket": self.bucket} | ({"key": self.key} if self.key is not None else {})


@contextlib.contextmanager
def s3_errors(place: Place) -> Iterator[None]:
    """Raise every botocore error as the product's error for the required reaction."""
    try:
        yield
    except boto.ClientError as error:
        raise translate_response(error, place) from error
    except (boto.BotoCoreError, *transient_errors()) as error:
        raise translate_failure(error, place) from error


def status_of(error: boto.ClientError) -> int:
    """Return the HTTP status of an error response; 0 without a response."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: boto.ClientError) -> str:
    """Return S3's own code of an error; empty when the response is not S3's (botocore then names the status)."""
    code = str(error.response.get("Error", {}).get("Code") or "")
    return "" if code.isdigit() else code


def translate_response(error: boto.ClientError, place: Place) -> IngestionError:
    """Return the product's error for an error response. Pure.

    Only S3's own code decides: a status without one comes from a proxy or another server, and says nothing of the
    bucket or the object.
    """
    status, code = status_of(error), code_of(error)
    operation = error.operation_name
    message = f"S3 responded {status} {code} to {operation} for {place}."
    context: dict[str, Any] = {**place.context, "status": status, "s3_code": code, "operation": operation}
    if status >= 500 or status == 429 or code in TRANSIENT_CODES:
        return TransientError("s3_unavailable", message, **context)
    if not code:
        message = f"The response {status} to {operation} for {place} has no S3 error code, so it is not from S3."
        return TransientError("s3_unavailable", message, hint=NOT_S3_HINT, **context)
    if code == "NoSuchBucket":
        return _bucket_missing(place, context)
    if place.is_state and code in CONFLICT_CODES:
        return StateConflict("state_conflict", f"{place} was written or removed by another client ({code}).", **context)
    if place.key is not None and not place.is_state and code == ABSENT_CODE:
        return ObjectGone("object_gone", f"{place} no longer exists.", **context)
    if status == 404:
        return TransientError("s3_unavailable", message, **context)
    if place.key is not None and not place.is_state and code not in CREDENTIAL_CODES:
        return ObjectUnreadable("object_unreadable", message, **context)
    if code not in CREDENTIAL_CODES and operation in PERMISSIONS:
        hint = f"Allow {PERMISSIONS[operation]} for the account of INGEST_S3__ACCESS_KEY_ID on {place}."
        return _denied(place, message, context, hint=hint)
    return _denied(place, message, context)


def translate_failure(error: Exception, place: Place) -> IngestionError:
    """Return the product's error for a request without a response. Pure."""
    details = getattr(error, "kwargs", {})
    parts = urlsplit(str(details.get("endpoint_url", "")))
    server = f"S3 at {parts.scheme}://{parts.netloc}"
    if isinstance(error, boto.SSLError):
        failure = find_tls_failure(error, server, **place.context)
        if failure is not None:
            return failure
    message = f"The request for {place} failed: {type(error).__name__}: {error}"
    if isinstance(error, boto.EndpointConnectionError):
        # Without the place, which the context has: all requests of an outage tell the same of the server.
        is_refused = "Connection refused" in str(details.get("error", ""))
        message = f"{server} {'refuses connections' if is_refused else 'cannot be reached'}."
    elif isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        message = f"{server} did not respond in time."
    if isinstance(error, transient_errors()):
        return TransientError("s3_unavailable", message, **place.context)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return _denied(place, message, dict(place.context), hint=_CREDENTIALS_HINT)
    return _denied(place, message, dict(place.context))


def _bucket_missing(place: Place, context: dict[str, Any]) -> FatalError:
    code = "state_bucket_missing" if place.is_state else "bucket_not_found"
    hint = "Check the name and INGEST_S3__ENDPOINT_URL, or create the bucket."
    return FatalError(code, f"The bucket '{place.bucket}' does not exist.", hint=hint, **context)


NOT_S3_HINT = "Check INGEST_S3__ENDPOINT_URL, and the proxy in front of it if there is one."
"""Hint for a response that another server than S3 sent."""
_DENIED_HINT = "Check INGEST_S3__ACCESS_KEY_ID, its permissions on the bucket, and the clock of this machine."
_CREDENTIALS_HINT = (
    "Set INGEST_S3__ACCESS_KEY_ID and INGEST_S3__SECRET_ACCESS_KEY. Those of the embedded stack are in its stack.env."
)


def _denied(place: Place, message: str, context: dict[str, Any], *, hint: str = _DENIED_HINT) -> FatalError:
    code = "state_access_denied" if place.is_state else "bucket_access_denied"
    return FatalError(code, message, hint=hint, **context)
