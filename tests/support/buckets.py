"""Which S3 server tests use, and buckets there: created for one test, emptied and removed after it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.listing import list_pages
from ingestion_engine.runtime.settings import S3Settings, load_settings

DEFAULT_REGION = "us-east-1"
"""The region that S3 does not accept as a location constraint."""


def choose_s3(request: pytest.FixtureRequest) -> S3Settings:
    """The server of the environment (``INGEST_S3__*``) where it is named, else the SeaweedFS of this run."""
    given = load_settings().s3
    if given.endpoint_url is not None or given.access_key_id is not None:
        return given
    server = request.getfixturevalue("seaweedfs")
    return S3Settings(
        endpoint_url=server.url,
        access_key_id=SecretStr(server.secrets["AWS_ACCESS_KEY_ID"]),
        secret_access_key=SecretStr(server.secrets["AWS_SECRET_ACCESS_KEY"]),
    )


@contextlib.contextmanager
def new_bucket(settings: S3Settings) -> Iterator[str]:
    """Create a bucket of a new name; remove it and everything in it at the end."""
    name = f"test-{uuid.uuid4().hex}"
    client = make_client(settings)
    elsewhere = settings.region != DEFAULT_REGION
    place = {"CreateBucketConfiguration": {"LocationConstraint": settings.region}} if elsewhere else {}
    client.create_bucket(Bucket=name, **place)
    try:
        yield name
    finally:
        empty_bucket(client, name)
        client.delete_bucket(Bucket=name)
        client.close()


def empty_bucket(client: Any, name: str) -> None:
    """Remove every object and every unfinished upload of a bucket."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # Again until nothing is listed: MinIO lists "a/b" only when "a" is gone. One by one: XML, which a bulk delete
        # needs, cannot carry every key that tests make.
        while refs := [ref for page in list_pages(client, name, "") for ref in page]:
            list(pool.map(lambda ref: client.delete_object(Bucket=name, Key=ref.key), refs))
    for upload in client.list_multipart_uploads(Bucket=name).get("Uploads", ()):
        client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
