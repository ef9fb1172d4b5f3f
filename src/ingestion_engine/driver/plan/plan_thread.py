"""The plan thread: finds and packs objects while partitions are already being worked on."""

from __future__ import annotations

import itertools
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import orjson

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import Partition, PlannedObject
from ingestion_engine.domain.spec import JobSpec, Mode
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.plan.diff import BLOCK_OBJECTS, REMOVALS, Packer, segment_name, stagger, weigh
from ingestion_engine.state.ledger import Ledger

MASS_DELETE_OBJECTS = 100
MASS_DELETE_FRACTION = 0.2
"""A plan that deletes more than this share of more than so many objects needs ``allow_mass_delete``."""


def is_mass_delete(deletes: int, objects: int) -> bool:
    """True when so many of so many objects going is more likely a mistake than a wish. Pure."""
    return objects > MASS_DELETE_OBJECTS and deletes > MASS_DELETE_FRACTION * objects


@dataclass(slots=True)
class _Deletions:
    """Planned deletions in key order, on disk when they are many.

    They become part of the plan only when the whole listing has been seen. In a listing that turns out to be out of
    order, every key that was jumped over looks gone, and a plan that never ran makes its objects dirty.
    """

    file: IO[bytes]
    _held: list[PlannedObject] = field(default_factory=list)

    def add(self, planned: PlannedObject) -> None:
        """Keep one."""
        self._held.append(planned)
        if len(self._held) >= BLOCK_OBJECTS:
            batch = Partition(PartitionId(""), tuple(self._held))
            self.file.write(orjson.dumps(batch.to_json(), option=orjson.OPT_APPEND_NEWLINE))
            self._held = []

    def batches(self) -> Iterator[Sequence[PlannedObject]]:
        """Yield all of them, at most ``BLOCK_OBJECTS`` at once. Call once, after the last ``add``."""
        self.file.seek(0)
        for line in self.file:
            yield Partition.from_json(PartitionId(""), orjson.loads(line)).objects
        if self._held:
            yield self._held


@dataclass(slots=True)
class PlanThread:
    """Writes the plan of one attempt, segment by segment, and hands out partition ids as they become durable.

    ``error`` is set when planning ended early; what was handed out before is right and may run.
    """

    spec: JobSpec
    attempt: int
    ledger: Ledger
    find_objects: Callable[[], Iterator[PlannedObject]]
    """What is to be planned, in key order; counts what it leaves out."""
    counts: Counts
    before_first_segment: Callable[[], None]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Numbers of segments, shared by all plans of one attempt so that no name is used twice."""
    kind: str = ""
    """Of the segments, but for those of deletions."""
    error: BaseException | None = None
    delete_ids: list[PartitionId] = field(default_factory=list)
    started: bool = False
    """True once a partition may have been worked on."""
    stop: threading.Event = field(default_factory=threading.Event)
    _ready: queue.Queue[PartitionId | None] = field(default_factory=queue.Queue)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to plan in the background."""
        self._thread = threading.Thread(target=self._run, name="ingest-plan", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until planning has ended, early if ``stop`` is set."""
        if self._thread is not None:
            self._thread.join()

    def partition_ids(self) -> Iterator[PartitionId]:
        """Yield ids as they become durable; ends with the plan, or soon after ``stop`` is set."""
        while not self.stop.is_set():
            try:
                partition_id = self._ready.get(timeout=0.2)
            except queue.Empty:
                continue
            if partition_id is None:
                return
            yield partition_id

    def measure(self) -> None:
        """Plan without writing anything: only count (mode ``plan``). Blocking.

        Raises:
            ListingOutOfOrderError, TransientError, FatalError.
        """
        for planned in self.find_objects():
            self._count(planned)
        self.counts.tally.complete = True

    def _run(self) -> None:
        try:
            self._write()
            self.counts.tally.complete = True
        except BaseException as error:  # the driver raises it in its own thread
            self.error = error
        finally:
            self._ready.put(None)

    def _count(self, planned: PlannedObject) -> None:
        if planned.action not in REMOVALS:
            size_bytes, chunks = weigh(planned, self.spec.request.chunking)
            self.counts.tally.bytes_planned += size_bytes
            self.counts.tally.chunks_estimated += chunks

    def _write(self) -> None:
        packer = Packer(self.spec.limits, self.spec.request.chunking)
        with tempfile.TemporaryFile(prefix="ingest-deletions-") as file:
            deletions = _Deletions(file)
            self._write_work(deletions, packer)
            self._refuse_mass_delete()
            for batch in deletions.batches():
                self.delete_ids += self._write_segment("d", list(packer.pack(batch)))

    def _write_work(self, deletions: _Deletions, packer: Packer) -> None:
        work = self._split_off(self.find_objects(), deletions)
        shares = stagger(self.spec.parallelism)
        for number in itertools.count():
            block = list(itertools.islice(work, BLOCK_OBJECTS))
            is_first, is_last = number == 0, len(block) < BLOCK_OBJECTS
            if is_first and is_last:
                self._refuse_mass_delete()
                packer = packer.shrunk_for(block, self.spec.parallelism)
            parts = packer.pack_block(block, rising=shares if is_first else (), falling=shares if is_last else ())
            if parts:
                self._hand_out(self._write_segment(self.kind, parts))
            if is_last:
                return

    def _split_off(self, stream: Iterable[PlannedObject], deletions: _Deletions) -> Iterator[PlannedObject]:
        """Yield what is to be embedded; keep deletions aside: they run after everything else."""
        for planned in stream:
            if self.stop.is_set():
                return
            self._count(planned)
            if planned.action not in REMOVALS:
                yield planned
                continue
            deletions.add(planned)

    def _write_segment(self, kind: str, parts: list[tuple[PlannedObject, ...]]) -> list[PartitionId]:
        if not self.started:
            self.before_first_segment()
            self.started = True
        name = segment_name(self.attempt, kind, next(self.numbers))
        ids = self.ledger.write_plan_segment(name, parts)
        self.counts.partitions_planned += len(ids)
        return ids

    def _hand_out(self, ids: Iterable[PartitionId]) -> None:
        for partition_id in ids:
            self._ready.put(partition_id)

    def _refuse_mass_delete(self) -> None:
        tally, request = self.counts.tally, self.spec.request
        if request.allow_mass_delete or request.mode is Mode.DELETE or not tally.deletes:
            return
        everything = tally.listed == 0
        if everything or is_mass_delete(tally.deletes, tally.table_rows):
            raise FatalError(
                "mass_delete_refused",
                f"This job would delete {tally.deletes} of {tally.table_rows} objects of collection"
                f" {request.collection!r}" + (": the listing is empty." if everything else "."),
                hint="If that is right, submit again with allow_mass_delete=true; otherwise check prefix and filters.",
                deletes=tally.deletes,
                objects=tally.table_rows,
            )
