"""A control plane over working doubles: an engine whose drivers are told by the test what to write into the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import sqlalchemy as sa
from fastapi import FastAPI

from ingestion_engine.api.context import Parts, Services
from ingestion_engine.domain.errors import IngestionError, TransientError
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import EngineStatus
from ingestion_engine.domain.records import EmbeddingWait, GatewayStatus, Point
from ingestion_engine.domain.spec import Chunking, CollectionContract, EngineName, StoreName
from ingestion_engine.domain.states import EngineState, JobState
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.server.app import create_app
from ingestion_engine.services.job_records import JobRecord, jobs
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.state.collections import create_contract
from ingestion_engine.state.ledger import Ledger
from support.doubles import HashEmbedder, MemoryBucket, MemoryState, MemoryStore, hash_vector
from support.openapi import judge_of

BODY: dict[str, Any] = {"source": {"bucket": "docs"}, "collection": "notes"}


@dataclass
class LedgerEngine:
    """JobEngine whose drivers do what the test says: start, report progress, finish, die."""

    state: MemoryState
    attempts: dict[str, EngineState] = field(default_factory=dict)
    """By reference; what ``submit`` made."""
    submits: list[str] = field(default_factory=list)
    """Every submit that was accepted, also repeated ones."""
    stops: list[str] = field(default_factory=list)
    parallelism: dict[str, int] = field(default_factory=dict)
    away: IngestionError | None = None
    """Raised by every call."""
    refuse: IngestionError | None = None
    """Raised by ``submit``."""
    during_submit: Callable[[str], Awaitable[Any]] | None = None
    """Awaited by ``submit`` with the job's id, before the engine answers or fails."""
    can_start: bool = True
    """What ``status`` says of every attempt."""
    hint: str = ""
    """What ``status`` advises."""
    obedient: bool = True
    """Stopped drivers are gone at once."""
    log: str | None = None

    def reference(self, job_id: str, attempt: int) -> str:
        return f"{job_id}-{attempt:02d}"

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        if self.away is not None and self.during_submit is not None:
            await self.during_submit(job_id)
        self._check()
        if self.refuse is not None:
            raise self.refuse
        assert JobUri.parse(spec_uri) == JobUri(self.state.url, job_id)
        reference = self.reference(job_id, attempt)
        self.submits.append(reference)
        self.attempts.setdefault(reference, EngineState.PENDING)
        self.parallelism[job_id] = parallelism
        if self.during_submit is not None:
            await self.during_submit(job_id)

    async def status(self, job_id: str, attempt: int) -> EngineStatus:
        self._check()
        state = self.attempts.get(self.reference(job_id, attempt), EngineState.ABSENT)
        return EngineStatus(state, f"the engine says {state.value}", hint=self.hint, can_start=self.can_start)

    async def stop(self, job_id: str, attempt: int) -> None:
        self._check()
        reference = self.reference(job_id, attempt)
        self.stops.append(reference)
        if self.obedient and reference in self.attempts:
            self.attempts[reference] = EngineState.ENDED

    async def logs(self, job_id: str, attempt: int) -> str | None:
        self._check()
        return self.log

    async def check(self) -> str:
        self._check()
        return "ledger-engine 1"

    async def close(self) -> None: ...

    def _check(self) -> None:
        if self.away is not None:
            raise self.away

    # -- what drivers do ----------------------------------------------------------------------------------------------

    def start(self, job_id: str, attempt: int = 1) -> None:
        self.attempts[self.reference(job_id, attempt)] = EngineState.RUNNING

    def progress(self, job_id: str, attempt: int = 1, **fields: Any) -> None:
        self.start(job_id, attempt)
        progress = {
            "format": 1,
            "attempt": attempt,
            "phase": "running",
            "updated_at": "2026-01-01T00:00:00Z",
            "planning_complete": True,
            "counts": {"listed": 10, "planned": 10, "done": 4, "bytes_planned": 1000, "bytes_read": 400},
            "rates": {"chunks_per_s": 5.0, "bytes_per_s": 100.0},
            "eta_s": 6.0,
            "note": None,
        }
        Ledger(self.state, job_id).write_progress({**progress, **fields})

    def finish(self, job_id: str, state: str = "succeeded", attempt: int = 1, **fields: Any) -> None:
        summary = {
            "format": 1,
            "job_id": job_id,
            "state": state,
            "attempt": attempt,
            "epoch": attempt,
            "started_at": "2026-01-01T00:00:00Z",
            "finished_at": "2026-01-01T00:01:00Z",
            "counts": {"listed": 10, "planned": 10, "done": 10},
            "timings": {"total_s": 60.0},
            "error": None,
        }
        Ledger(self.state, job_id).write_summary({**summary, **fields})
        self.attempts[self.reference(job_id, attempt)] = EngineState.ENDED

    def die(self, job_id: str, attempt: int = 1) -> None:
        self.attempts[self.reference(job_id, attempt)] = EngineState.ENDED


@dataclass
class ScriptedGateway:
    """EmbeddingGateway whose flows a test sets."""

    urls: tuple[str, ...] = ("http://gateway:11430",)
    flows: dict[str, EmbeddingWait] = field(default_factory=dict)
    status: list[GatewayStatus] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    asked: int = 0
    """Number of times that the flows were read."""
    away: IngestionError | None = None
    """Raised by every call."""
    hangs: bool = False

    async def check(self, url: str) -> None:
        await self._answer()

    async def read_flows(self) -> dict[str, EmbeddingWait]:
        self.asked += 1
        await self._answer()
        return dict(self.flows)

    async def read_status(self) -> list[GatewayStatus]:
        return self.status

    async def drop_flow(self, key: str) -> None:
        await self._answer()
        self.dropped.append(key)

    async def close(self) -> None: ...

    async def _answer(self) -> None:
        if self.away is not None:
            raise self.away
        if self.hangs:
            await asyncio.Event().wait()


def unreachable(*, maybe_started: bool = False) -> TransientError:
    return TransientError("engine_unreachable", "Ray cannot be reached", maybe_started=maybe_started)


@dataclass
class Plane:
    """A running service and everything behind it."""

    app: FastAPI
    client: httpx.AsyncClient
    services: Services
    engine: LedgerEngine
    state: MemoryState
    bucket: MemoryBucket
    embedder: HashEmbedder
    qdrant: MemoryStore
    weaviate: MemoryStore

    async def submit(self, **fields: Any) -> str:
        answer = await self.client.post("/ray/jobs", json={**BODY, **fields})
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    async def look(self, times: int = 2) -> None:
        """Let the dispatcher do its rounds, to their end."""
        dispatcher = self.services.dispatcher
        assert dispatcher is not None
        assert await dispatcher.leadership.renew()
        for _ in range(times):
            await dispatcher.step()
            await dispatcher.settle()

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job


@dataclass
class StandingClock:
    """The dispatcher's clock: it stands still until a test puts it forward."""

    now: dt.datetime = field(default_factory=utc_now)

    def __call__(self) -> dt.datetime:
        return self.now

    def skip(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@dataclass
class World:
    """What outlives a service: systems, state, database and clock."""

    folder: Path
    state: MemoryState = field(default_factory=MemoryState)
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    embedder: HashEmbedder = field(default_factory=HashEmbedder)
    qdrant: MemoryStore = field(default_factory=lambda: MemoryStore(StoreName.QDRANT))
    weaviate: MemoryStore = field(default_factory=lambda: MemoryStore(StoreName.WEAVIATE))
    clock: StandingClock = field(default_factory=StandingClock)

    def __post_init__(self) -> None:
        self.engine = LedgerEngine(self.state)

    def settings(self, **overrides: Any) -> Settings:
        dispatch = {"poll_s": 0.2, "cancel_grace_s": 0, **overrides.pop("dispatch", {})}
        embed = {"in_flight": 8, **overrides.pop("embed", {})}
        return Settings(state_url=self.state.url, data_dir=self.folder, embed=embed, dispatch=dispatch, **overrides)

    def parts(self, **overrides: Any) -> Parts:
        parts = {
            "source": self.bucket,
            "embedder": self.embedder,
            "state": self.state,
            "stores": {StoreName.QDRANT: self.qdrant, StoreName.WEAVIATE: self.weaviate},
            "engines": {EngineName.RAY: self.engine},
        }
        return Parts(**{**parts, **overrides})

    @contextlib.asynccontextmanager
    async def serve(
        self,
        parts: Parts | None = None,
        headers: dict[str, str] | None = None,
        background: bool = False,
        **overrides: Any,
    ) -> AsyncIterator[Plane]:
        settings = self.settings(**overrides)
        # A dispatcher that makes its rounds by itself goes by the real clock.
        parts = parts or self.parts(now=None if background else self.clock)
        app = create_app(settings, parts, dispatches=background)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)

        async def check_documented(response: httpx.Response) -> None:
            """Fail a test that receives what the OpenAPI document does not declare."""
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                await response.aread()
            faults = judge_of(app).find_faults(response)
            assert not faults, faults

        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=transport,
                event_hooks={"response": [check_documented]},
                base_url="http://localhost",
                headers=headers,
            ) as client,
        ):
            yield Plane(
                app,
                client,
                app.state.services,
                self.engine,
                self.state,
                self.bucket,
                self.embedder,
                self.qdrant,
                self.weaviate,
            )
            dispatcher = app.state.services.dispatcher
            if dispatcher is not None and not background:
                await dispatcher.leadership.close()


def make_contract(name: str = "notes", **fields: Any) -> CollectionContract:
    """The contract that a default request agrees with, but for the fields given."""
    values: dict[str, Any] = {
        "collection": name,
        "stores": (StoreName.QDRANT, StoreName.WEAVIATE),
        "model": "all-minilm",
        "model_digest": "sha256:hash",
        "dimension": 8,
        "embedding_id": "0" * 16,
        "prefix": "",
        "query_prefix": "",
        "options": {},
        "chunking": Chunking(),
        "created_at": "2026-01-01T00:00:00Z",
        "created_by": "job-x",
    }
    return CollectionContract.model_validate({**values, **fields})


def make_collection(world: World, name: str = "notes", **fields: Any) -> None:
    """Make a collection with three points in both stores."""
    contract = make_contract(name, **{"query_prefix": "find: ", **fields})
    create_contract(world.state, contract)
    for store in (world.qdrant, world.weaviate):
        store.collections[name], store.contracts[name] = {}, contract
        for number, text in enumerate(["find: cats", "dogs", "birds"]):
            payload = {"key": f"{number}.txt", "text": text, "chunk_index": 0, "epoch": 1, "metadata": {}}
            point = Point(PointId(str(number)), payload, hash_vector(text, 8).astype(np.float32))
            store.collections[name][point.id] = point


def write_keys(folder: Path, *entries: dict[str, Any]) -> Path:
    """Write a file of API keys, each its own name."""
    path = folder / "keys.json"
    path.write_bytes(
        orjson.dumps([{**entry, "key_sha256": hashlib.sha256(entry["name"].encode()).hexdigest()} for entry in entries])
    )
    return path


def bearer(name: str) -> dict[str, str]:
    """The tests' keys are their own names."""
    return {"Authorization": f"Bearer {name}"}


async def overwrite(store: JobStore, job_id: str, **columns: Any) -> None:
    """Set columns of a job's row behind the back of the state machine, as a crash or a long time would leave them."""
    async with store.database.writing() as connection:
        await connection.execute(
            sa.update(jobs).where(jobs.c.id == job_id).values(revision=jobs.c.revision + 1, **columns)
        )


def queued(number: int, collection: str, **fields: Any) -> JobRecord:
    """A job record that waits, submitted as many seconds after the others as its number says."""
    created = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number)
    values: dict[str, Any] = {"engine": EngineName.RAY, "state": JobState.QUEUED, "request": {}, "body_hash": ""}
    return JobRecord(**{**values, "id": f"job-{number}", "collection": collection, "created_at": created, **fields})
