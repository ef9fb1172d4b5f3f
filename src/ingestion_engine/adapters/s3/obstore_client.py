"""Create obstore clients: a fifth of botocore's CPU per request, but without exact errors and for most keys only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from obstore.store import S3Store

from ingestion_engine.adapters.s3.client import CONNECT_TIMEOUT_S
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.runtime.settings import S3Settings

CREDENTIALS_TTL = timedelta(minutes=10)
"""botocore renews temporary credentials at least ten minutes before they expire, so a copy is valid this long."""


def make_obstore(settings: S3Settings, find_client: Callable[[], Any], bucket: str, *, timeout: timedelta) -> S3Store:
    """Return an obstore client for a bucket, with the same identity as a botocore client. Sends no request.

    It never retries: the caller repeats a failed request with botocore, which does.

    Args:
        settings: Endpoint, region, and optional credentials.
        find_client: Returns the botocore client that supplies credentials when the settings have none.
        bucket: Name of the bucket.
        timeout: Time limit of one whole request.
    """
    endpoint = settings.endpoint_url
    config: dict[str, Any] = {"region": settings.region, "virtual_hosted_style_request": False}
    if endpoint:
        config["endpoint"] = endpoint
    options: Any = {
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "timeout": timeout,
    }
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
