"""Fixtures of the contract tests: one implementation of a port at a time, on empty ground."""

from __future__ import annotations

import concurrent.futures
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.settings import S3Settings
from support.servers import RunningServer
from support.vector_stores import make_contract, make_settings


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


@pytest.fixture
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[dict[StoreName, VectorStore]]:
    opened = open_stores(make_settings(request), list(StoreName))
    yield opened
    for store in opened.values():
        await store.close()


@pytest.fixture(params=list(StoreName))
def store(request: pytest.FixtureRequest, stores: dict[StoreName, VectorStore]) -> VectorStore:
    return stores[request.param]


@pytest.fixture
async def contract(stores: dict[StoreName, VectorStore]) -> AsyncIterator[CollectionContract]:
    """A collection that exists in no store yet."""
    contract = make_contract(f"contract_{uuid.uuid4().hex[:12]}")
    yield contract
    for store in stores.values():
        await store.drop_collection(contract.collection)
