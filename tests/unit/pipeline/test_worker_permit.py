"""A worker's stores ask its lease before they write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine import __version__
from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.spec import EngineName, FrozenLimits, JobRequest, JobSpec
from ingestion_engine.pipeline import worker
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.state.collections import create_contract
from ingestion_engine.state.lease import acquire
from ingestion_engine.state.ledger import Ledger
from support.vector_stores import make_contract


async def test_a_workers_stores_are_opened_with_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a write may take is the grace of the job's spec, less the age of the check and a second."""
    state = LocalStateStore(f"file://{tmp_path}/state")
    ledger = Ledger(state, "job-a")
    request = {"source": {"bucket": "docs"}, "collection": "notes", "mode": "verify"}
    spec = JobSpec(
        job_id="job-a",
        engine=EngineName.LOCAL,
        created_at="2026-01-01T00:00:00Z",
        package_version=__version__,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        state_url=state.url,
        request=JobRequest.model_validate(request),
        model="hash-16",
        parallelism=1,
        limits=FrozenLimits(lease_grace_s=100.0),
        endpoints={},
    )
    ledger.write_spec(spec)
    create_contract(state, make_contract("notes"))
    acquire(state, "notes", "job-a", 1, ttl_s=30.0, grace_s=0.0)
    opened: list[Any] = []

    def open_stores(*_: object, permit: Any = None, **__: object) -> dict[str, Any]:
        opened.append(permit)
        return {}

    monkeypatch.setattr(worker, "open_stores", open_stores)
    monkeypatch.setattr(worker, "freeze_startup_objects", lambda: None)
    context = await worker._open_context(Settings(), ledger, attempt=1, slot=None)
    (permit,) = opened
    assert 95 < await permit() < 100
    assert context.lease.grant() <= 99.0
    await worker._close(context)
