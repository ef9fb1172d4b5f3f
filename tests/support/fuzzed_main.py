"""A service over working doubles in a process of its own, for tests that send it requests which nobody would write.

``python -m support.fuzzed_main FOLDER PORT [KEYS_FILE]``. Its jobs end as soon as they are submitted; the collection
``notes``, the alias ``docs`` with two former versions, and the job ``job-failed`` with failures exist at any time.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from ingestion_engine.domain.records import RowState, TableRow
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import JobState
from ingestion_engine.server.app import create_app
from ingestion_engine.state.aliases import Alias, find_alias, update_alias
from ingestion_engine.state.collections import read_contract
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.control import LedgerEngine, World, make_collection, queued
from support.doubles import MemoryState

VERSIONS = ("docs_1", "docs_2", "docs_3")
RESEED_S = 0.2
"""How soon what a request has deleted exists again."""


class PromptEngine(LedgerEngine):
    """An engine whose drivers succeed at once."""

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        await super().submit(job_id, attempt, spec_uri, parallelism)
        self.finish(job_id, attempt=attempt)


def make_world(folder: Path) -> World:
    """Return what the service works on."""
    world = World(folder)
    world.engine = PromptEngine(world.state)
    seed(world)
    return world


def seed(world: World) -> None:
    """Make what is missing."""
    for name in ("notes", *VERSIONS):
        if read_contract(world.state, name) is None:
            for store in (world.qdrant, world.weaviate):
                store.collections.pop(name, None)
            make_collection(world, name, query_prefix="")
            times = ("2026-01-01T00:00:00Z", "o")
            rows = [
                TableRow(f"{n}.txt", "e", 1, *times, RowState.PRESENT, None, None, False, "f", 1, "", "", 1, "j", "t")
                for n in range(3)
            ]
            ObjectTable(world.state, name).append_run(rows, epoch=1, job_id="job-x")
    if find_alias(world.state, "docs") is None:
        moment = "2026-01-01T00:00:00Z"
        times = {"job_created_at": moment, "moved_at": moment}
        alias = Alias("docs", "docs_3", ("docs_2", "docs_1"), settled=False, job_id="job-x", **times)
        update_alias(world.state, "docs", lambda _: alias)


async def add_failed_job(services: Any, state: MemoryState) -> None:
    """Add a job that has ended with failures."""
    request = {"source": {"bucket": "docs"}, "collection": "notes"}
    moment = services.store.now()
    ended = {"state": JobState.FAILED, "request": request, "created_at": moment, "finished_at": moment}
    await services.store.insert(replace(queued(0, "notes"), id="job-failed", **ended))
    failures = [
        {"key": f"{n}.pdf", "code": "no_text", "reason": "It has no text.", "retryable": False} for n in range(3)
    ]
    Ledger(state, "job-failed").write_failures("a01-00000", failures)


async def run(folder: Path, port: int, keys_file: Path | None) -> None:
    """Serve until the process ends."""
    world = make_world(folder)
    spark = PromptEngine(world.state)
    parts = world.parts(
        engines={EngineName.RAY: world.engine, EngineName.SPARK: spark},
        spark_manifest=lambda request: {"kind": "SparkApplication", "spec": request.model_dump(mode="json")},
        now=None,
    )
    settings = world.settings(spark={"namespace": "spark"}, api={"keys_file": keys_file})
    app = create_app(settings, parts)
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_config=None, access_log=False))
    async with app.router.lifespan_context(app):
        await add_failed_job(app.state.services, world.state)
        serving = asyncio.create_task(server.serve())
        while not serving.done():
            seed(world)
            await app.state.services.drain.clear()
            await asyncio.wait([serving], timeout=RESEED_S)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None))
