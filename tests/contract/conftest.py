"""Fixtures of the contract tests: one implementation of a port at a time, on empty ground."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.settings import S3Settings
from ingestion_engine.services.job_store import JobStore
from support.buckets import choose_s3, new_bucket
from support.postgres import Postgres, find_given, new_database
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


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """URL of an empty database, on SQLite and on PostgreSQL: the server that the environment names, else our own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db"
    elif (given := find_given()) is not None:
        async with new_database(given) as url:
            yield url
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        yield postgres.url(postgres.create_database())


@pytest.fixture
async def job_stores(database_url: str) -> AsyncIterator[tuple[JobStore, JobStore]]:
    """Two copies of the service on one database."""
    first, second = await JobStore.open(database_url), await JobStore.open(database_url)
    yield first, second
    await first.close()
    await second.close()
