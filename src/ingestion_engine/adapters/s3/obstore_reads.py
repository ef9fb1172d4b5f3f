"""obstore beside botocore: a fifth of the CPU per request, for what it can address; botocore has the exact errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from obstore.store import S3Store

from ingestion_engine.adapters.s3.client import CONNECT_TIMEOUT_S
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.runtime.settings import S3Settings

CREDENTIALS_TTL = timedelta(minutes=10)
"""botocore renews temporary credentials at least ten minutes before they end, so a copy is good for so long."""


def make_obstore(settings: S3Settings, find_client: Callable[[], Any], bucket: str, *, timeout: timedelta) -> S3Store:
    """Return an obstore for a bucket that is the same identity as a botocore client. No request is made.

    It never retries: the caller asks again with botocore, which does.

    Args:
        settings: Endpoint, region, and credentials if they are given.
        find_client: Returns the botocore client whose credentials are used where the settings give none.
        bucket: The bucket.
        timeout: For one whole request.
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
        credentials = find_client()._request_signer._credentials  # noqa: SLF001 - botocore shows them nowhere else
        if credentials is None:
            raise FatalError("bucket_access_denied", "there are no AWS credentials")
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_TTL,
        }

    return S3Store(bucket, client_options=options, retry_config=retry, credential_provider=read_credentials, **config)
