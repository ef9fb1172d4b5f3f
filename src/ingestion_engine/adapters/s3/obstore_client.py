"""Create obstore clients: a fifth of botocore's CPU per request, but without exact errors and for most keys only."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from obstore.exceptions import (
    AlreadyExistsError,
    NotFoundError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from ingestion_engine.adapters.s3.client import CONNECT_TIMEOUT_S
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.runtime.settings import S3Settings, find_aws_ca_bundle
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.tls import read_authorities

CREDENTIALS_TTL = timedelta(minutes=10)
"""botocore renews temporary credentials at least ten minutes before they expire, so a copy is valid this long."""

_PUNCTUATION = re.compile(r"[\s{}(),]+")


ANSWERS = (
    AlreadyExistsError,
    FileNotFoundError,  # what obstore raises in place of its own NotFoundError
    NotFoundError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
"""Errors of obstore for a response of S3; its other errors are about the connection, or about obstore itself."""

MAX_LOGGED_CAUSES = 20
"""Maximum number of causes that one client logs: a text may name something that differs every time."""

log = get_logger(__name__)


class FallbackLog:
    """Logs why botocore repeats requests of obstore, once per cause, so that the slow path is never silent."""

    def __init__(self, settings: S3Settings) -> None:
        self._endpoint = settings.server_url
        self._causes: set[str] = set()

    def note(self, error: Exception, bucket: str) -> None:
        """Log a failure of obstore, unless it is a response of S3 or its cause has been logged before."""
        cause = find_cause(error)
        if isinstance(error, ANSWERS) or cause in self._causes or len(self._causes) >= MAX_LOGGED_CAUSES:
            return
        self._causes.add(cause)
        log.warning(
            "obstore failed; botocore repeats such requests, which is slower",
            extra={"error": cause, "bucket": bucket, "endpoint": self._endpoint},
        )


def find_cause(error: Exception) -> str:
    """Return the cause that obstore shows in its text for debugging, on one line of at most 300 characters. Pure.

    Its sentence ends with "error sending request", whatever the reason (obstore 0.12).
    """
    text = str(error)
    found = text.partition("inner:")[2] or text.partition("\n")[0]
    return " ".join(_PUNCTUATION.sub(" ", found).split())[:300]


def make_obstore(
    settings: S3Settings,
    find_client: Callable[[], Any],
    bucket: str,
    *,
    timeout: timedelta,
    ca_file: Path | None = None,
) -> S3Store:
    """Return an obstore client for a bucket, with the same identity as a botocore client. Sends no request.

    It never retries: the caller repeats a failed request with botocore, which does.

    Args:
        settings: Endpoint, region, and optional credentials.
        find_client: Returns the botocore client that supplies credentials when the settings have none.
        bucket: Name of the bucket.
        timeout: Time limit of one whole request.
        ca_file: PEM file with authorities to trust, besides those of the system; None means ``AWS_CA_BUNDLE``, which
            botocore reads too.
    """
    endpoint = settings.server_url
    config: dict[str, Any] = {"region": settings.region, "virtual_hosted_style_request": False}
    if endpoint:
        config["endpoint"] = endpoint
    options: Any = {
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "timeout": timeout,
    }
    authorities = ca_file or find_aws_ca_bundle()
    if authorities is not None and not options["allow_http"]:
        options["root_certificate"] = read_authorities(authorities)
    retry: Any = {"max_retries": 0}

    if settings.access_key_id and settings.secret_access_key:
        return S3Store(
            bucket,
            client_options=options,
            retry_config=retry,
            access_key_id=settings.access_key_id.get_secret_value(),
            secret_access_key=settings.secret_access_key.get_secret_value(),
            **config,
        )

    def read_credentials() -> Any:
        credentials = find_client()._request_signer._credentials  # noqa: SLF001 - botocore has no public access to them
        if credentials is None:
            hint = "Set INGEST_S3__ACCESS_KEY_ID and INGEST_S3__SECRET_ACCESS_KEY, or give the process an AWS role."
            raise FatalError("bucket_access_denied", "There are no AWS credentials.", hint=hint)
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_TTL,
        }

    return S3Store(bucket, client_options=options, retry_config=retry, credential_provider=read_credentials, **config)
