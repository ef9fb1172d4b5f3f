"""Fixtures of the contract tests: one implementation of a port at a time, on empty ground."""

from __future__ import annotations

import concurrent.futures
import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from ingestion_engine.adapters.s3_client import make_client
from ingestion_engine.runtime.settings import S3Settings
from servers import RunningServer


@pytest.fixture(scope="session")
def s3_settings(seaweedfs: RunningServer) -> S3Settings:
    """How to reach the real S3 server of this run."""
    return S3Settings(
        endpoint_url=seaweedfs.url,
        access_key_id=SecretStr(seaweedfs.secrets["AWS_ACCESS_KEY_ID"]),
        secret_access_key=SecretStr(seaweedfs.secrets["AWS_SECRET_ACCESS_KEY"]),
    )


@pytest.fixture
def s3_bucket(s3_settings: S3Settings) -> Iterator[str]:
    """A new bucket for one test."""
    name = f"test-{uuid.uuid4().hex}"
    client = make_client(s3_settings)
    client.create_bucket(Bucket=name)
    yield name
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # One by one: XML, which a bulk delete needs, cannot carry every key that tests make.
        while entries := client.list_objects_v2(Bucket=name).get("Contents"):
            list(pool.map(lambda entry: client.delete_object(Bucket=name, Key=entry["Key"]), entries))
    client.delete_bucket(Bucket=name)
    client.close()
