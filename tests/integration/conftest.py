"""One embedded stack per run, with the API, real SeaweedFS and real Ray; the embedder has cheap test models and can
fail on request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from ingestion_engine.devstack.stack import Stack
from ingestion_engine.runtime.settings import Settings
from platform_world import Platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A running stack and what tests do with it."""
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        pytest.fail(f"unset {name}: these tests start a stack of their own")
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("stack"),
        lease={"ttl_s": 3, "grace_s": 2, "outage_retry_s": 0.5},
        embed={"in_flight": 4},
        api={"port": 0},
    )
    with (
        Stack(settings, ollama_arguments=("--faults", "--test-models"), buckets=("docs", "corpus")) as stack,
        httpx.Client(base_url=stack.services["api"].url, timeout=30) as http,
    ):
        yield Platform(stack.settings, stack.env, http)
