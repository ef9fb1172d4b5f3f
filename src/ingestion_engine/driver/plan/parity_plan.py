"""Parity: the phases of a job that compares both stores with the object table, and mends them.

::

    compare (and mend) every object ─► search for points of no object ─► repair: ingest again what stayed undecided

Only the last is work that a crash may leave half done; the others change nothing of what the object table says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from ingestion_engine.domain.errors import CollectionMissing, FatalError
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import Action, ObjectRef, ObjectResult, Origin, Outcome, PlannedObject, TableRow
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.plan.diff import INTERRUPTED
from ingestion_engine.pipeline.parity.parity import VECTORS_UNKNOWN
from ingestion_engine.state.object_table.table import ObjectTable

T = TypeVar("T")

RANGE_POINTS = 500_000
"""Points of one search for strays: 16 bytes each are held, and the table's ids are read once per search."""


@dataclass(slots=True)
class ParityPlan:
    """Streams of what is to be compared, searched or ingested again. Reads; writes nothing."""

    table: ObjectTable
    contract: CollectionContract
    bucket: str
    prefix: str
    selects: Callable[[str], bool]
    is_whole: bool
    """True when the job is about every object of the collection."""
    counts: Counts
    read_metadata: Callable[[str], Mapping[str, str]]
    """Returns the metadata of a job's request; empty when the job is not known any more."""
    parser_version: str
    _origins: dict[str, Origin] = field(default_factory=dict)

    def find_rows(self, action: Action) -> Iterator[PlannedObject]:
        """Yield every object of the table, but for what a dead job left half done when it is to be mended."""
        for row in self._rows():
            self.counts.tally.table_rows += 1
            self.counts.tally.listed += 1
            if action is Action.REPAIR and row.error_code == INTERRUPTED:
                continue
            self._count(action)
            yield self._plan(row, action, Origin(row.job_id) if action is Action.REPAIR else None)

    def find_removals(self) -> Iterator[PlannedObject]:
        """Yield every object of the table, to be removed."""
        for row in self._rows():
            self.counts.tally.table_rows += 1
            self.counts.tally.listed += 1
            self.counts.tally.deletes += 1
            self._count(Action.PURGE)
            yield self._plan(row, Action.PURGE, None)

    def find_undecided(self, results: Iterator[ObjectResult]) -> Iterator[PlannedObject]:
        """Yield what has to be ingested again: undecided results, and what a dead job left half done."""
        for result in results:
            if result.outcome is Outcome.UNDECIDED:
                assert result.origin is not None
                action = Action.FULL if result.error_code == VECTORS_UNKNOWN else Action.DIRTY
                ref = ObjectRef(self.bucket, result.key, result.etag, result.size_bytes, result.last_modified)
                prior = result.chunk_count, result.points_digest, result.vectors_digest
                yield PlannedObject(ref, action, *prior, origin=self._origin(result.origin.job_id))
        for row in self._rows():
            if row.error_code == INTERRUPTED:
                self._count(Action.DIRTY)
                yield self._plan(row, Action.DIRTY, self._origin(row.job_id))

    def find_ranges(self, points: int) -> Iterator[PlannedObject]:
        """Yield ranges of point ids that together are all ids, for a store of so many points."""
        searches = max(1, -(-points // RANGE_POINTS))
        bounds = [(1 << 128) * number // searches for number in range(searches + 1)]
        for first, end in itertools.pairwise(bounds):
            ids = f"{UUID(int=first)}..{UUID(int=end - 1)}"
            yield PlannedObject(ObjectRef(self.bucket, ids, "", 0, ""), Action.STRAY)

    def _rows(self) -> Iterator[TableRow]:
        return (row for row in self.table.scan(self.prefix) if self.selects(row.key))

    def _count(self, action: Action) -> None:
        by_action = self.counts.tally.by_action
        by_action[action] = by_action.get(action, 0) + 1

    def _plan(self, row: TableRow, action: Action, origin: Origin | None) -> PlannedObject:
        ref = ObjectRef(self.bucket, row.key, row.etag, row.size_bytes, row.last_modified)
        return PlannedObject(ref, action, row.chunk_count, row.points_digest, row.vectors_digest, origin)

    def _origin(self, job_id: str) -> Origin:
        if job_id not in self._origins:
            metadata = dict(self.read_metadata(job_id))
            fingerprint = self.contract.fingerprint(self.parser_version, metadata)
            self._origins[job_id] = Origin(job_id, fingerprint, metadata)
        return self._origins[job_id]


async def count_points(stores: Mapping[StoreName, VectorStore], collection: str) -> dict[str, int]:
    """Return the exact number of points by store; a store that lost the collection has none."""
    counts: dict[str, int] = {}
    for name, store in stores.items():
        try:
            counts[name.value] = await store.count(collection)
        except CollectionMissing:
            counts[name.value] = 0
    return counts


def differences_found(counts: Counts) -> FatalError | None:
    """Return what a verification ends with; None when the stores are as they should be. Pure."""
    if not counts.different and not counts.foreign_points:
        return None
    return FatalError(
        "differences_found",
        f"{counts.different} of {counts.tally.listed} objects differ; {counts.foreign_points} points belong to none.",
        hint="The job's failures name each; a job of mode repair mends them.",
        objects=counts.different,
        foreign_points=counts.foreign_points,
    )
