"""Packing: planned objects become partitions, bounded by bytes, number of objects and estimated chunks.

Pure functions; memory is bounded by one block of the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ingestion_engine.domain.estimates import weigh
from ingestion_engine.domain.records import Action, PlanItem, PlannedObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits

Item = TypeVar("Item", bound=PlanItem)

BLOCK_OBJECTS = 10_000
"""Objects packed together into one plan segment; a smaller job is planned whole before its first partition runs."""

PARTITIONS_PER_WORKER = 4
"""Approximate partitions per parallel worker in a small job, so that the last ones end at about the same time."""


def stagger(parallelism: int) -> list[float]:
    """Return rising shares of a full partition, one for each parallel worker but the last. Pure.

    Workers that begin together with equal partitions would also end them together, again and again, and at each end a
    worker has too little to embed. With these shares they end one after another, at equal intervals. See
    docs/decisions/0017.
    """
    return [number / parallelism for number in range(1, parallelism)]


@dataclass(slots=True)
class Packer:
    """Cuts planned objects into partitions: greedy, bounded by bytes, number of objects and estimated chunks."""

    limits: FrozenLimits
    chunking: Chunking

    def pack(self, objects: Iterable[Item], shares: Iterable[float] = ()) -> Iterator[tuple[Item, ...]]:
        """Yield partitions that are a disjoint cover of the stream, order kept. No partition is empty.

        Args:
            objects: Objects in the order of their keys.
            shares: Shares of the limits for the first partitions; all others may be full.
        """
        limits = self.limits
        following = itertools.chain(shares, itertools.repeat(1.0))
        share = next(following)
        part: list[Item] = []
        size_bytes = chunks = 0
        for planned in objects:
            weight, estimate = weigh(planned, self.chunking)
            over = (
                len(part) >= share * limits.partition_objects
                or size_bytes + weight > share * limits.partition_bytes
                or chunks + estimate > share * limits.partition_chunks
            )
            if part and over:
                yield tuple(part)
                part, size_bytes, chunks, share = [], 0, 0, next(following)
            part.append(planned)
            size_bytes += weight
            chunks += estimate
        if part:
            yield tuple(part)

    def pack_block(
        self, objects: Iterable[Item], *, rising: Sequence[float] = (), falling: Sequence[float] = ()
    ) -> list[tuple[Item, ...]]:
        """Return the partitions of one block of the plan, in the order in which they should begin.

        Objects above a limit come first, the largest of them at the start: one that began last would keep its worker
        busy while all others are idle. Objects that ended their worker before are alone too. The rest keeps its order.

        Args:
            objects: Objects in the order of their keys.
            rising: Shares of the limits for the first partitions of many objects, when the job begins with this block.
            falling: The same for the last partitions, from the last one backwards, when the job ends with this block.

        Memory: a reference per object.
        """
        large: list[Item] = []
        rest: list[Item] = []
        for planned in objects:
            (large if self._is_alone(planned) else rest).append(planned)
        large.sort(key=lambda planned: weigh(planned, self.chunking)[::-1], reverse=True)
        last = list(itertools.islice(self.pack(reversed(rest), falling), len(falling)))
        first = self.pack(rest[: len(rest) - sum(map(len, last))], rising)
        return [*((planned,) for planned in large), *first, *(part[::-1] for part in reversed(last))]

    def _is_alone(self, planned: PlanItem) -> bool:
        if isinstance(planned, PlannedObject) and planned.action is Action.SUSPECT:
            return True
        weight, estimate = weigh(planned, self.chunking)
        return weight > self.limits.partition_bytes or estimate > self.limits.partition_chunks

    def shrunk_for(self, objects: Sequence[PlanItem], parallelism: int) -> Packer:
        """Return a packer with lower limits for a job of only these objects: every worker gets several partitions."""
        pieces = PARTITIONS_PER_WORKER * parallelism
        chunks = sum(weigh(planned, self.chunking)[1] for planned in objects)
        limits = self.limits
        return replace(
            self,
            limits=limits.model_copy(
                update={
                    "partition_objects": min(limits.partition_objects, max(1, len(objects) // pieces)),
                    "partition_chunks": min(limits.partition_chunks, max(1, chunks // pieces)),
                }
            ),
        )
