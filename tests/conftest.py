"""Fixtures of all tests: servers, each started once per process when a test first uses it; and how tests are divided.

With ``-n 2``, as ``make test`` runs them, each file is a group that one process runs from its first test to its last.
All files that use the embedded stack with the real Ray and Spark are one group, so that the stack is started once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingestion_devstack.stack.stack import Stack
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import set_process_fields
from support import servers
from support.collector import Collector, collecting
from support.platform_world import Platform
from support.postgres import Postgres
from support.servers import RunningServer

PLATFORM_FILES = ("test_ray_jobs.py", "test_alias_ray.py", "test_engines.py", "test_job_ray.py", "test_job_spark.py")
PLATFORM_FILES += ("test_jobs_http.py", "test_parity_jobs.py", "test_doctor_on_the_stack.py")
"""Files whose tests use the embedded stack with the real Ray and Spark."""

RAY_TESTS = (
    "test_killed_supervisor_takes_everything_with_it",
    "test_signal_during_the_start_leaves_nothing",
    "test_everything_from_the_command_line",
    "test_a_job_from_upload_to_search",
)
"""Tests of other files that start a Ray of their own: its agents choose ports that a busy Ray may take first, so they
run in the process of the platform, whose Ray has nothing to do meanwhile.
"""

LONG_GROUPS = ("platform", "test_stack.py", "test_spark_engine.py", "test_sync_machine.py")
"""Groups that begin first, the longest before the others, so that both processes end at about the same time."""


def _group(node_id: str) -> str:
    """Return the group of a test: the file it is in, or ``platform`` for files that share the stack."""
    path, _, test = node_id.partition("::")
    name = path.rpartition("/")[2]
    return "platform" if name in PLATFORM_FILES or test in RAY_TESTS else name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Give every process whole groups, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the long groups first when several processes share the tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        ranks = {name: rank for rank, name in enumerate(LONG_GROUPS)}
        items.sort(key=lambda item: ranks.get(_group(item.nodeid), len(ranks)))


@pytest.fixture(autouse=True)
def no_log_fields_of_other_tests() -> Iterator[None]:
    """Take back the fields that a driver or worker in this process has given to all of its log lines."""
    yield
    set_process_fields()


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
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL. A test that stops it starts it again."""
    server = Postgres()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The whole embedded stack, with the API, real SeaweedFS, real Ray and, where Java is, real Spark.

    The embedder has cheap test models; it and Kubernetes fail on request.
    """
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        pytest.fail(f"unset {name}: these tests start a stack of their own")
    with collecting() as collector:
        yield from _run_platform(tmp_path_factory.mktemp("stack"), collector)


def _run_platform(data_dir: Path, collector: Collector) -> Iterator[Platform]:
    settings = Settings(
        data_dir=data_dir,
        lease={"ttl_s": 3, "grace_s": 2, "outage_retry_s": 0.1},
        dispatch={"poll_s": 0.2},
        embed={"in_flight": 4},
        api={"port": 0},
        tracing={"endpoint": collector.url, "sample_ratio": 0},
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
        yield Platform(stack.settings, stack.env, http, stack.services, collector)
