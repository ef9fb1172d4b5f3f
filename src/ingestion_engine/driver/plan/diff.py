"""Planning: one ordered merge of listing and object table, then partitions packed by bytes, count and estimated chunks.

Pure functions; memory does not depend on the number of objects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import Action, ObjectRef, PlannedObject, TableRow
from ingestion_engine.domain.spec import Chunking, FrozenLimits

INTERRUPTED = "interrupted"
"""Error code of table rows whose partition never reported: some points of the object may have been written."""

BLOCK_OBJECTS = 10_000
"""Objects that are packed together, into one plan segment; a job that has fewer is known whole before it begins."""

PARTITIONS_PER_WORKER = 4
"""A small job has about so many partitions per parallel worker, so that the last ones end at about the same time."""

_TEXT_SHARE = {
    "pdf": 0.1,
    "docx": 0.2,
    "pptx": 0.03,
    "xlsx": 0.5,
    "epub": 0.6,
    "html": 0.5,
    "htm": 0.5,
    "eml": 0.7,
    "rtf": 0.4,
    "gz": 4.0,
    "xml": 0.8,
}
"""Characters of text per byte of file, by name (a guess; only packing and progress depend on it, never a result)."""


def segment_name(attempt: int, kind: str, number: int) -> str:
    """Name of a plan segment: ``a01-00003`` for work (kind ""), ``a01-d00003`` for deletions, ``a01-s00003`` for
    searches for stray points.
    """
    return f"a{attempt:02d}-{kind}{number:05d}"


def is_deletion(partition_id: PartitionId) -> bool:
    """True for a partition of planned deletions. Pure."""
    return kind_of(partition_id) == "d"


def is_stray_search(partition_id: PartitionId) -> bool:
    """True for a partition of ranges of point ids. Pure."""
    return kind_of(partition_id) == "s"


def kind_of(partition_id: PartitionId) -> str:
    """Return the kind of a partition's segment: "", "d" or "s". Pure."""
    letter = partition_id.partition("-")[2][:1]
    return letter if letter in {"d", "s"} else ""


@dataclass(slots=True)
class Tally:
    """What planning counted; feeds the job's counts and the plan's fixed denominators."""

    listed: int = 0
    unchanged: int = 0
    directory_markers: int = 0
    failed_before: int = 0
    """Failed for good in an earlier job and unchanged since: not tried again."""
    already_done: int = 0
    """Done by an earlier attempt of this job."""
    already_failed: int = 0
    table_rows: int = 0
    outside_filters: int = 0
    """Rows under the job's prefix that its globs leave out: they and their points stay as they are."""
    deletes: int = 0
    by_action: dict[Action, int] = field(default_factory=dict)
    bytes_planned: int = 0
    chunks_estimated: int = 0
    complete: bool = False
    """True when the whole listing has been seen: from then on the numbers are fixed."""


@dataclass(frozen=True, slots=True)
class DiffRules:
    """What of a job decides which objects are worked on."""

    job_id: str
    bucket: str
    fingerprint: str
    full: bool
    delete_missing: bool
    retry_failed: bool
    selects: Callable[[str], bool]
    leaves_out: Callable[[str], bool] = lambda _key: False
    """True for keys outside the job's filters; where ``selects`` is false for another reason, they are not reported."""
    epoch: int = 0
    """Of the attempt; 0 when it writes nothing."""


def diff_objects(
    listing: Iterable[ObjectRef], table: Iterable[TableRow], rules: DiffRules, tally: Tally
) -> Iterator[PlannedObject]:
    """Yield what has to be done, in key order, and count the rest in ``tally``.

    Args:
        listing: Strictly increasing by UTF-8 bytes of the key, all keys of the job's prefix.
        table: The same order; rows outside the job's filters are counted and left alone.
        rules: Of the job.
        tally: Counts, updated as the stream is consumed.
    """
    refs = (ref for ref in listing if rules.selects(ref.key))
    rows = _select_rows(table, rules, tally)
    ref, row = next(refs, None), next(rows, None)
    while ref is not None or row is not None:
        ref_key = None if ref is None else ref.key.encode("utf-8")
        row_key = None if row is None else row.key.encode("utf-8")
        take_ref = ref_key is not None and (row_key is None or ref_key <= row_key)
        take_row = row_key is not None and (ref_key is None or row_key <= ref_key)
        planned = _decide(ref if take_ref else None, row if take_row else None, rules, tally)
        if planned is not None:
            tally.by_action[planned.action] = tally.by_action.get(planned.action, 0) + 1
            yield planned
        if take_ref:
            ref = next(refs, None)
        if take_row:
            row = next(rows, None)


def _select_rows(table: Iterable[TableRow], rules: DiffRules, tally: Tally) -> Iterator[TableRow]:
    for row in table:
        if rules.selects(row.key):
            yield row
        else:
            tally.outside_filters += rules.leaves_out(row.key)


def _decide(ref: ObjectRef | None, row: TableRow | None, rules: DiffRules, tally: Tally) -> PlannedObject | None:
    if row is not None:
        tally.table_rows += 1
    if ref is not None:
        tally.listed += 1
        tally.directory_markers += ref.is_directory_marker
    if ref is None or ref.is_directory_marker:
        if row is None or not rules.delete_missing:
            return None
        tally.deletes += 1
        gone = ObjectRef(rules.bucket, row.key, row.etag, row.size_bytes, row.last_modified)
        # A look at the bucket would find the marker that stands in the object's place.
        removal = Action.DELETE if ref is None else Action.PURGE
        return PlannedObject(gone, removal, row.chunk_count, row.points_digest, row.vectors_digest)
    if row is None:
        return PlannedObject(ref, Action.FULL if rules.full else Action.NEW)
    action = _compare(ref, row, rules, tally)
    if action is None:
        return None
    return PlannedObject(ref, action, row.chunk_count, row.points_digest, row.vectors_digest)


def _compare(ref: ObjectRef, row: TableRow, rules: DiffRules, tally: Tally) -> Action | None:
    """Why a known object has to be worked on, or None after counting why not."""
    if row.state == "failed" and row.error_code == INTERRUPTED:
        return Action.DIRTY
    same = (
        row.fingerprint == rules.fingerprint
        and row.etag == ref.etag
        and row.size_bytes == ref.size_bytes
        and row.last_modified == ref.last_modified
    )
    mine = row.job_id == rules.job_id
    if not same and row.epoch == rules.epoch:
        return Action.DIRTY  # an earlier plan of this attempt wrote it: epochs do not tell the versions apart
    if not same:
        return Action.FULL if rules.full else Action.CHANGED
    if row.state == "present":
        if mine:
            tally.already_done += 1
        elif rules.full:
            return Action.FULL
        else:
            tally.unchanged += 1
        return None
    if row.retryable or ((rules.full or rules.retry_failed) and not mine):
        return Action.FULL if rules.full else Action.RETRY
    if mine:
        tally.already_failed += 1
    else:
        tally.failed_before += 1
    return None


def estimate_chunks(ref: ObjectRef, chunking: Chunking) -> int:
    """Return a guess of an object's chunks from its name and size; at least 1. Pure."""
    share = 1.0
    for extension in ref.key.lower().rsplit("/", 1)[-1].split(".")[1:]:
        share *= _TEXT_SHARE.get(extension, 1.0)
    step = chunking.max_chars - chunking.overlap_chars
    return max(1, math.ceil(ref.size_bytes * share / step))


REMOVALS = frozenset({Action.DELETE, Action.PURGE})
"""What only removes points: neither read nor embedded, and done after everything else."""
_COMPARISONS = frozenset({Action.VERIFY, Action.REPAIR})


def weigh(planned: PlannedObject, chunking: Chunking) -> tuple[int, int]:
    """Return the bytes to read from the bucket and the chunks to expect. Pure."""
    if planned.action in REMOVALS:
        return 0, 1
    if planned.action in _COMPARISONS:
        return 0, max(1, planned.prior_chunks)
    return planned.ref.size_bytes, estimate_chunks(planned.ref, chunking)


def stagger(parallelism: int) -> list[float]:
    """Return rising shares of a full partition, one for each parallel worker but the last. Pure.

    Workers that begin together with equal partitions would end them together, again and again, and each end is a
    moment in which a worker has too little to embed. With these they end one after another, at equal distances.
    """
    return [number / parallelism for number in range(1, parallelism)]


@dataclass(slots=True)
class Packer:
    """Cuts planned objects into partitions: greedy, bounded by bytes, count and estimated chunks."""

    limits: FrozenLimits
    chunking: Chunking

    def pack(
        self, objects: Iterable[PlannedObject], shares: Iterable[float] = ()
    ) -> Iterator[tuple[PlannedObject, ...]]:
        """Yield partitions; together they are a disjoint cover of the stream, order kept. Every one has an object.

        Args:
            objects: In the order of their keys.
            shares: Of the limits, for the first partitions; the others may be full.
        """
        limits = self.limits
        following = itertools.chain(shares, itertools.repeat(1.0))
        share = next(following)
        part: list[PlannedObject] = []
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
        self, objects: Iterable[PlannedObject], *, rising: Sequence[float] = (), falling: Sequence[float] = ()
    ) -> list[tuple[PlannedObject, ...]]:
        """Return the partitions of one block of the plan, in the order in which they should begin.

        Objects above a limit come first, the largest before the others: one that began last would keep a worker busy
        when all others have nothing left. The rest keeps its order.

        Args:
            objects: In the order of their keys.
            rising: Shares of the limits for the first partitions of many objects, when the job begins with them.
            falling: The same for the last partitions, from the last one on, when the job ends with them.

        Memory: a reference per object.
        """
        large: list[PlannedObject] = []
        rest: list[PlannedObject] = []
        for planned in objects:
            (large if self._is_large(planned) else rest).append(planned)
        large.sort(key=lambda planned: weigh(planned, self.chunking)[::-1], reverse=True)
        last = list(itertools.islice(self.pack(reversed(rest), falling), len(falling)))
        first = self.pack(rest[: len(rest) - sum(map(len, last))], rising)
        return [*((planned,) for planned in large), *first, *(part[::-1] for part in reversed(last))]

    def _is_large(self, planned: PlannedObject) -> bool:
        weight, estimate = weigh(planned, self.chunking)
        return weight > self.limits.partition_bytes or estimate > self.limits.partition_chunks

    def shrunk_for(self, objects: Sequence[PlannedObject], parallelism: int) -> Packer:
        """The packer for a job that is known whole: limits lowered so that every worker gets several partitions."""
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
