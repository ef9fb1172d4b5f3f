"""The plans of a job that compares both stores with the object table, or repairs them.

::

    compare (and repair) every object ─► search for stray points ─► repair: ingest undecided objects again

A crash can leave only the last step half done; the others do not change the object table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import (
    Action,
    ObjectRef,
    ObjectResult,
    Origin,
    Outcome,
    PlannedObject,
    StraySearch,
    TableRow,
)
from ingestion_engine.domain.spec import CollectionContract, Source
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.plan.diff import UNFINISHED_CODES
from ingestion_engine.driver.plan.selection import Selection
from ingestion_engine.pipeline.parity.check_partition import VECTORS_UNKNOWN
from ingestion_engine.state.object_table.table import ObjectTable

RANGE_POINTS = 500_000
"""Points of one stray search: 16 bytes are held per point, and the object ids of the table are read once per search."""


@dataclass(frozen=True, slots=True)
class ParityScope:
    """The objects of a collection that a job compares or removes."""

    bucket: str
    prefix: str = ""
    selects: Callable[[str], bool] = lambda _key: True
    """Returns True for the keys under the prefix that belong to the scope."""
    is_whole: bool = True
    """True when the scope is the whole collection."""

    @classmethod
    def of_source(cls, source: Source, only_keys: Collection[str] | None) -> ParityScope:
        """Return the scope of a request, restricted to a list of keys if there is one."""
        return cls(
            bucket=source.bucket,
            prefix=source.prefix,
            selects=Selection(source, only_keys).matches,
            is_whole=not (source.prefix or source.include or source.exclude or only_keys),
        )


@dataclass(slots=True)
class ParityPlan:
    """Streams of what is compared, searched or ingested again. Reads only."""

    table: ObjectTable
    contract: CollectionContract
    scope: ParityScope
    counts: Counts
    parser_version: str
    read_metadata: Callable[[str], Mapping[str, str]]
    """Returns the metadata of a job's request; empty when the job is unknown."""
    _origins: dict[str, Origin] = field(init=False, default_factory=dict)

    def find_rows(self, action: Action) -> Iterator[PlannedObject]:
        """Yield every object of the table; a repair leaves out interrupted objects, which are ingested again."""
        for row in self._rows():
            self.counts.tally.table_rows += 1
            self.counts.tally.listed += 1
            if action is Action.REPAIR and row.error_code in UNFINISHED_CODES:
                continue
            self._count(action)
            yield self._plan(row, action, Origin(row.job_id) if action is Action.REPAIR else None)

    def find_removals(self) -> Iterator[PlannedObject]:
        """Yield every object of the table as a removal."""
        self.counts.tally.listed = self.counts.tally.already_deleted
        for row in self._rows():
            self.counts.tally.table_rows += 1
            self.counts.tally.listed += 1
            self.counts.tally.deletes += 1
            self._count(Action.PURGE)
            yield self._plan(row, Action.PURGE, None)

    def find_undecided(self, results: Iterator[ObjectResult]) -> Iterator[PlannedObject]:
        """Yield the objects to ingest again: undecided results, and objects that a dead job left half done."""
        for result in results:
            if result.outcome is Outcome.UNDECIDED:
                assert result.origin is not None
                action = Action.FULL if result.error_code == VECTORS_UNKNOWN else Action.DIRTY
                yield self._plan(result, action, self._origin(result.origin.job_id))
        for row in self._rows():
            if row.error_code in UNFINISHED_CODES:
                self._count(Action.DIRTY)
                yield self._plan(row, Action.DIRTY, replace(self._origin(row.job_id), is_interrupted=True))

    def find_ranges(self, points: int) -> Iterator[StraySearch]:
        """Yield stray searches that together cover all point ids, for a store that holds this many points."""
        searches = max(1, -(-points // RANGE_POINTS))
        bounds = [(1 << 128) * number // searches for number in range(searches + 1)]
        for first, end in itertools.pairwise(bounds):
            yield StraySearch(self.scope.bucket, PointId(str(UUID(int=first))), PointId(str(UUID(int=end - 1))))

    def _rows(self) -> Iterator[TableRow]:
        return (row for row in self.table.scan(self.scope.prefix) if self.scope.selects(row.key))

    def _count(self, action: Action) -> None:
        by_action = self.counts.tally.by_action
        by_action[action] = by_action.get(action, 0) + 1

    def _plan(self, known: TableRow | ObjectResult, action: Action, origin: Origin | None) -> PlannedObject:
        return PlannedObject(
            ObjectRef(
                self.scope.bucket,
                known.key,
                known.etag,
                size_bytes=known.size_bytes,
                last_modified=known.last_modified,
            ),
            action,
            prior_chunks=known.chunk_count,
            prior_digest=known.points_digest,
            prior_vectors=known.vectors_digest,
            origin=origin,
        )

    def _origin(self, job_id: str) -> Origin:
        if job_id not in self._origins:
            metadata = dict(self.read_metadata(job_id))
            fingerprint = self.contract.fingerprint(self.parser_version, metadata)
            self._origins[job_id] = Origin(job_id, fingerprint, metadata)
        return self._origins[job_id]
