"""One Qdrant per run: the stand-in, started here, or the server of INGEST_QDRANT__URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import httpx
import pytest
from qdrant_client import QdrantClient

from support import servers
from support.qdrant_client_side import DIMENSION, Server, start_stand_in


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if url := os.environ.get("INGEST_QDRANT__URL"):
        yield Server(url, os.environ.get("INGEST_QDRANT__API_KEY"), None)
        return
    started = start_stand_in(tmp_path_factory.mktemp("qdrant"))
    assert started.running is not None
    with servers.stopping(started.running):
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[QdrantClient]:
    with_client = server.client()
    yield with_client
    with_client.close()


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as session:
        yield session


@pytest.fixture
def name(http: httpx.Client) -> Iterator[str]:
    """A fresh collection with an unnamed cosine vector of 8 dimensions."""
    fresh = f"contract_{uuid.uuid4().hex}"
    body = {"vectors": {"size": DIMENSION, "distance": "Cosine"}}
    assert http.put(f"/collections/{fresh}", json=body).status_code == 200
    yield fresh
    http.delete(f"/collections/{fresh}")
