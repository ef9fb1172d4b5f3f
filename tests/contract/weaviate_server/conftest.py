"""One Weaviate per run: the stand-in, started here, or the server of INGEST_WEAVIATE__URL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from support import servers
from support.weaviate_client_side import Client, Target, embedded, insert, item, make, uid


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    url = os.environ.get("INGEST_WEAVIATE__URL")
    if url:
        address = urlsplit(os.environ["INGEST_WEAVIATE__GRPC_URL"]).netloc
        yield Target(url, address, os.environ.get("INGEST_WEAVIATE__API_KEY"), False)
        return
    with servers.stopping(servers.start_weaviate(tmp_path_factory.mktemp("weaviate"))) as server:
        yield embedded(server)


@pytest.fixture(scope="session")
def client(target: Target) -> Iterator[Client]:
    with target.connect() as connected:
        yield connected


@pytest.fixture(scope="session")
def http(target: Target) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=target.url + "/v1", headers=target.headers) as session:
        yield session


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    """A class name that is free, dropped afterwards."""
    unique = "T" + secrets.token_hex(8)
    yield unique
    client.collections.delete(unique)


@pytest.fixture
def alias(client: Client) -> Iterator[str]:
    unique = "A" + secrets.token_hex(8)
    yield unique
    client.alias.delete(alias_name=unique)


@pytest.fixture(scope="session")
def shelf(client: Client) -> Iterator[Any]:
    """Ten objects, numbers 10 to 19, with a value in every property; 20 has none; 21 has odd white space."""
    name = "T" + secrets.token_hex(8)
    collection = make(client, name)
    errors = insert(
        collection,
        *(
            item(
                n,
                [1.0, float(n), 0.0],
                object_id=uid(n % 3), epoch=n, key=f"Dir/File {n}", text=f"word{n} the apple Pie-{n}",
                ratio=n / 2, flag=n % 2 == 0, at=f"2024-01-{n}T00:00:00Z",
                metadata=[f"k={n}", "Common X"], hidden="h",
            )
            for n in range(10, 20)
        ),
        item(20),
        item(21, key="  padded ", metadata=[" p=q "], text="fox's den"),
    )  # fmt: skip
    assert errors == {}
    yield collection
    client.collections.delete(name)
