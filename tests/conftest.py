"""Fixtures of all tests: servers, each started once per run when a test first asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from ingestion_devstack.stack.stack import Stack
from ingestion_engine.runtime.settings import Settings
from support import servers
from support.platform_world import Platform
from support.servers import RunningServer


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


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The whole embedded stack, with the API, real SeaweedFS, real Ray and, where Java is, real Spark.

    The embedder has cheap test models; it and Kubernetes fail on request.
    """
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        pytest.fail(f"unset {name}: these tests start a stack of their own")
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("stack"),
        lease={"ttl_s": 3, "grace_s": 2, "outage_retry_s": 0.5},
        embed={"in_flight": 4},
        api={"port": 0},
    )
    with (
        Stack(
            settings,
            ollama_arguments=("--faults", "--test-models"),
            spark_arguments=("--faults",),
            buckets=("docs", "corpus"),
        ) as stack,
        httpx.Client(base_url=stack.services["api"].url, timeout=30) as http,
    ):
        yield Platform(stack.settings, stack.env, http, stack.services)
