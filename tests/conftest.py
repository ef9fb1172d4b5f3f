"""Fixtures of all tests: servers, each started once per run when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import servers
from servers import RunningServer


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A real S3 server with the empty bucket `docs`."""
    with servers.stopping(servers.start_seaweedfs(tmp_path_factory.mktemp("seaweedfs"))) as server:
        yield server


@pytest.fixture(scope="session")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The Ollama stand-in with faults and test models."""
    with servers.stopping(servers.start_ollama(tmp_path_factory.mktemp("ollama"))) as server:
        yield server


@pytest.fixture(scope="session")
def qdrant_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The Qdrant stand-in."""
    with servers.stopping(servers.start_qdrant(tmp_path_factory.mktemp("qdrant"))) as server:
        yield server


@pytest.fixture(scope="session")
def weaviate_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The Weaviate stand-in."""
    with servers.stopping(servers.start_weaviate(tmp_path_factory.mktemp("weaviate"))) as server:
        yield server
