"""The plan thread: finds and packs objects while the first partitions are already running."""

from __future__ import annotations

import itertools
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import orjson

from ingestion_engine.domain.errors import FatalError, IngestionError
from ingestion_engine.domain.estimates import measure_work, weigh
from ingestion_engine.domain.ids import PartitionId, SegmentKind, SegmentName
from ingestion_engine.domain.records import REMOVALS, Partition, PlanItem, PlannedObject, StraySearch
from ingestion_engine.domain.spec import JobSpec, Mode
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.plan.listing import ListingOutOfOrderError
from ingestion_engine.driver.plan.packing import BLOCK_OBJECTS, Packer, stagger
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

MASS_DELETE_OBJECTS = 100
MASS_DELETE_FRACTION = 0.2
"""A plan that deletes more than this fraction of more than 100 objects requires ``allow_mass_delete``."""

READY_WAIT_S = 0.05
"""Seconds that the engine waits for the next partition before it looks at the running ones again."""

FindObjects = Callable[[], Iterator[PlanItem]]
"""Yields what a plan consists of, in key order; may be called again when planning starts over."""


def is_mass_delete(deletes: int, objects: int) -> bool:
    """True when deleting this many of a collection's objects is more likely a mistake than intended. Pure."""
    return objects > MASS_DELETE_OBJECTS and deletes > MASS_DELETE_FRACTION * objects


class SegmentNames:
    """Makes the names of one attempt's plan segments; all its plans share one, so that no name is used twice."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def make(self, kind: SegmentKind) -> SegmentName:
        """Return a name that this attempt has not used. Safe to call from several threads."""
        with self._lock:
            number = next(self._numbers)
        return SegmentName.make(self._attempt, number, kind)


@dataclass(slots=True)
class _Deletions:
    """Planned deletions in key order, on disk when they are many.

    They become part of the plan only when the whole listing has been read. In a listing that turns out to be out of
    order, every key that was jumped over looks deleted, and a plan that never ran makes its objects dirty.
    """

    file: IO[bytes]
    _held: list[PlannedObject] = field(default_factory=list)

    def add(self, planned: PlannedObject) -> None:
        """Keep one deletion."""
        self._held.append(planned)
        if len(self._held) >= BLOCK_OBJECTS:
            batch = Partition(PartitionId(""), tuple(self._held))
            self.file.write(orjson.dumps(batch.to_json(), option=orjson.OPT_APPEND_NEWLINE))
            self._held = []

    def batches(self) -> Iterator[Sequence[PlannedObject]]:
        """Yield all deletions, at most ``BLOCK_OBJECTS`` at once. Call once, after the last ``add``."""
        self.file.seek(0)
        for line in self.file:
            yield Partition.from_json(PartitionId(""), orjson.loads(line)).objects
        if self._held:
            yield self._held


class PlanThread:
    """Writes one plan, segment by segment, and hands out partition ids as they become durable.

    Args:
        spec: Spec of the job.
        ledger: Ledger of the job.
        segments: Names for new segments.
        counts: Counts that the plan adds to.
        find_objects: Yields what to plan; counts what it leaves out.
        before_first_segment: Called before the first segment is written.
        on_planned: Called in the plan's thread when the plan is complete.
        kind: Kind of the segments, except those of deletions.
    """

    def __init__(
        self,
        spec: JobSpec,
        ledger: Ledger,
        segments: SegmentNames,
        *,
        counts: Counts,
        find_objects: FindObjects,
        before_first_segment: Callable[[], None],
        on_planned: Callable[[], None] = lambda: None,
        kind: SegmentKind = SegmentKind.WORK,
    ) -> None:
        self._spec = spec
        self._ledger = ledger
        self._segments = segments
        self.counts = counts
        """Counts that the plan adds to."""
        self._find_objects = find_objects
        self._before_first_segment = before_first_segment
        self._on_planned = on_planned
        self._kind = kind
        self._ready: queue.Queue[PartitionId | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None
        """Why planning ended early; the partitions handed out before are right and may run."""
        self.delete_ids: list[PartitionId] = []
        """Partitions of deletions, complete when planning has ended."""
        self.started = False
        """True once a partition may have been processed."""
        self.stop = threading.Event()
        """Set by the driver to end planning early."""

    def start(self) -> None:
        """Start to plan in the background."""
        self._thread = threading.Thread(target=self._run, name="ingest-plan", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until planning has ended, early if ``stop`` is set."""
        if self._thread is not None:
            self._thread.join()

    def partition_ids(self) -> Iterator[PartitionId | None]:
        """Yield ids as they become durable, and None when none has become so for ``READY_WAIT_S``.

        Ends with the plan, or soon after ``stop`` is set.
        """
        while not self.stop.is_set():
            try:
                partition_id = self._ready.get(timeout=READY_WAIT_S)
            except queue.Empty:
                yield None  # planning is slow: the engine attends to the partitions that are running
                continue
            if partition_id is None:
                return
            yield partition_id

    def measure(self) -> None:
        """Plan without writing anything: only count (mode ``plan``). Blocking.

        Raises:
            ListingOutOfOrderError, TransientError, FatalError.
        """
        for planned in self._find_objects():
            self._count(planned)
        self.counts.tally.complete = True

    def _run(self) -> None:
        try:
            self._write()
            self.counts.tally.complete = True
            self._on_planned()
        except BaseException as error:  # the driver raises it in its own thread, when the running partitions have ended
            self.error = error
            if not isinstance(error, IngestionError | ListingOutOfOrderError):
                log.exception("planning failed unexpectedly")
        finally:
            self._ready.put(None)

    def _count(self, planned: PlanItem) -> None:
        if isinstance(planned, StraySearch) or planned.action not in REMOVALS:
            size_bytes, chunks = weigh(planned, self._spec.request.chunking)
            self.counts.tally.bytes_planned += size_bytes
            self.counts.tally.chunks_estimated += chunks

    def _write(self) -> None:
        packer = Packer(self._spec.limits, self._spec.request.chunking)
        with tempfile.TemporaryFile(prefix="ingest-deletions-") as file:
            deletions = _Deletions(file)
            self._write_work(deletions, packer)
            self._refuse_mass_delete()
            for batch in deletions.batches():
                self.delete_ids += self._write_segment(SegmentKind.DELETIONS, list(packer.pack(batch)))

    def _write_work(self, deletions: _Deletions, packer: Packer) -> None:
        work = self._split_off(self._find_objects(), deletions)
        shares = stagger(self._spec.parallelism)
        for number in itertools.count():
            block = list(itertools.islice(work, BLOCK_OBJECTS))
            is_first, is_last = number == 0, len(block) < BLOCK_OBJECTS
            if is_first and is_last:
                self._refuse_mass_delete()
                packer = packer.shrunk_for(block, self._spec.parallelism)
            parts = packer.pack_block(block, rising=shares if is_first else (), falling=shares if is_last else ())
            if parts:
                self._hand_out(self._write_segment(self._kind, parts))
            if is_last:
                return

    def _split_off(self, stream: Iterable[PlanItem], deletions: _Deletions) -> Iterator[PlanItem]:
        """Yield everything but deletions, which are set aside: they run after everything else."""
        for planned in stream:
            if self.stop.is_set():
                return
            self._count(planned)
            if isinstance(planned, StraySearch) or planned.action not in REMOVALS:
                yield planned
                continue
            deletions.add(planned)

    def _write_segment(self, kind: SegmentKind, parts: list[tuple[PlanItem, ...]]) -> list[PartitionId]:
        if not self.started:
            self._before_first_segment()
            self.started = True
        ids = self._ledger.write_plan_segment(self._segments.make(kind), parts)
        self.counts.add_partitions(len(ids))
        chunking = self._spec.request.chunking
        work = [sum(measure_work(item, chunking) for item in part) for part in parts]
        self.counts.add_work_planned(dict(zip(ids, work, strict=True)))
        return ids

    def _hand_out(self, ids: Iterable[PartitionId]) -> None:
        for partition_id in ids:
            self._ready.put(partition_id)

    def _refuse_mass_delete(self) -> None:
        tally, request = self.counts.tally, self._spec.request
        if request.allow_mass_delete or request.mode is Mode.DELETE or not tally.deletes:
            return
        everything = tally.listed == 0
        if everything or is_mass_delete(tally.deletes, tally.table_rows):
            raise FatalError(
                "mass_delete_refused",
                f"This job would delete {tally.deletes} of {tally.table_rows} objects of collection"
                f" {request.collection!r}" + (": the listing is empty." if everything else "."),
                hint="Check prefix and filters, or submit again with allow_mass_delete=true if that is intended.",
                deletes=tally.deletes,
                objects=tally.table_rows,
            )
