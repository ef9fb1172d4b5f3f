"""An in-memory world of bucket, embedder, two stores and state store; jobs run through the real driver."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from ingestion_engine import __version__
from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.domain.records import Point
from ingestion_engine.domain.spec import EngineName, FrozenLimits, JobRequest, JobSpec, StoreName
from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
from ingestion_engine.pipeline.spool import LARGE_BYTES
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.doubles import HashEmbedder, InProcessEngine, MemoryBucket, MemoryState, MemoryStore

FAST = FrozenLimits(lease_ttl_s=30, lease_grace_s=35, outage_retry_s=5, embed_batch_texts=4, embed_in_flight=2)
PARAGRAPHS = [f"Paragraph number {i} speaks about subject {i * 7 % 13} at length." for i in range(12)]


@dataclass
class SkippingClock:
    """A monotonic clock that skips the time slept instead of waiting."""

    skipped_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped_s

    def sleep(self, seconds: float) -> None:
        self.skipped_s += seconds


@dataclass
class World:
    """All systems that a job uses. ``run`` is one attempt of one job."""

    state: MemoryState = field(default_factory=MemoryState)
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    embedder: HashEmbedder = field(default_factory=HashEmbedder)
    qdrant: MemoryStore = field(default_factory=lambda: MemoryStore(StoreName.QDRANT))
    weaviate: MemoryStore = field(default_factory=lambda: MemoryStore(StoreName.WEAVIATE))
    limits: FrozenLimits = FAST
    jobs: int = 0
    large_bytes: int = LARGE_BYTES
    parser_version: str = "parser-1"
    wall_s: float = 0.0
    """Unix time of the driver's wall clock."""

    @property
    def stores(self) -> dict[StoreName, MemoryStore]:
        return {StoreName.QDRANT: self.qdrant, StoreName.WEAVIATE: self.weaviate}

    @property
    def engine(self) -> InProcessEngine:
        return InProcessEngine(self.state, self.bucket, self.embedder, dict(self.stores), large_bytes=self.large_bytes)

    def submit(self, **request: Any) -> Ledger:
        """Write the spec of a new job; ``request`` has further fields of the request."""
        self.jobs += 1
        body = {"source": {"bucket": "docs"}, "collection": "notes", "chunking": {"max_chars": 60, "overlap_chars": 0}}
        asked = JobRequest.model_validate({**body, **request})
        ledger = Ledger(self.state, f"job-{self.jobs:03d}")
        ledger.write_spec(
            JobSpec(
                job_id=f"job-{self.jobs:03d}",
                engine=EngineName.LOCAL,
                created_at="2026-01-01T00:00:00Z",
                package_version=__version__,
                python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
                state_url=self.state.url,
                request=asked,
                model=asked.embedding.model or "hash",
                parallelism=asked.parallelism,
                limits=self.limits,
                endpoints={},
            )
        )
        return ledger

    def attempt(
        self,
        ledger: Ledger,
        number: int = 1,
        engine: InProcessEngine | None = None,
        clock: SkippingClock | None = None,
    ) -> dict[str, Any] | None:
        """Run one attempt of a submitted job through the real driver."""
        clock = clock or SkippingClock()
        driver = Driver(
            JobAttempt(
                spec=ledger.read_spec(), spec_uri=ledger.spec_uri, number=number, parser_version=self.parser_version
            ),
            Ports(
                state=self.state,
                source=self.bucket,
                embedder=self.embedder,
                stores=dict(self.stores),
                engine=engine or self.engine,
            ),
            sleep=clock.sleep,
            clock=clock,
            wall_clock=lambda: self.wall_s,
        )
        return driver.run()

    def run(self, **request: Any) -> dict[str, Any]:
        """Submit a job and run its first attempt to the end."""
        summary = self.attempt(self.submit(**request))
        assert summary is not None
        return summary

    def points(self, store: MemoryStore, key: str | None = None) -> list[Point]:
        """Return the points of the collection, or of one object, in the order of their chunks."""
        held = store.collections.get("notes", {}).values()
        wanted = None if key is None else make_object_id("docs", key)
        chosen = [p for p in held if wanted is None or p.payload["object_id"] == wanted]
        return sorted(chosen, key=lambda p: (p.payload["key"], p.payload["chunk_index"]))

    def texts(self, key: str) -> list[str]:
        """Return the texts of an object's points, asserting that both stores hold the same points."""
        left, right = self.points(self.qdrant, key), self.points(self.weaviate, key)
        assert [(p.id, p.payload, p.vector.tolist()) for p in left] == [
            (p.id, p.payload, p.vector.tolist()) for p in right
        ]
        return [p.payload["text"] for p in left]

    def table(self) -> dict[str, tuple[str, str | None]]:
        """Return state and error code of every object in the object table."""
        return {row.key: (row.state, row.error_code) for row in ObjectTable(self.state, "notes").scan()}


def make_world() -> World:
    """Return a world with three objects of 1, 3 and 12 chunks."""
    made = World()
    for count in (1, 3, 12):
        made.bucket.put(f"doc-{count:02}.txt", "\n\n".join(f"{p} ({count})" for p in PARAGRAPHS[:count]))
    return made


def balanced(summary: dict[str, object]) -> bool:
    """True when the summary accounts for every listed object."""
    counts = summary["counts"]
    assert isinstance(counts, dict)
    return bool(counts["done"] + counts["failed"] + counts["skipped"] == counts["listed"])
