"""Fixtures of the contract tests: one implementation of a port at a time, on empty ground."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.settings import S3Settings
from support.buckets import choose_s3, new_bucket
from support.vector_stores import make_contract, make_settings


@pytest.fixture(scope="session")
def s3_settings(request: pytest.FixtureRequest) -> S3Settings:
    """A real S3 server: the one that the environment names, else SeaweedFS."""
    return choose_s3(request)


@pytest.fixture
def s3_bucket(s3_settings: S3Settings) -> Iterator[str]:
    """A new bucket for one test."""
    with new_bucket(s3_settings) as name:
        yield name


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
