"""The type chain: ObjectRef → Partition → RawObject → Document → Chunk → EmbeddedChunk → Point → PartitionReport."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ingestion_engine.domain.ids import ObjectId, PartitionId, PointId, hash_json
from ingestion_engine.domain.legible import make_legible

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object in a listing. ``etag`` is opaque and without quotes; ``last_modified`` is RFC 3339 in UTC."""

    bucket: str
    key: str
    etag: str
    size_bytes: int
    last_modified: str

    @property
    def uri(self) -> str:
        """``s3://bucket/key``, with the key as it is (not percent-encoded)."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def is_directory_marker(self) -> bool:
        """True for the empty objects that tools create to represent a folder."""
        return self.size_bytes == 0 and self.key.endswith("/")


class Action(StrEnum):
    """Reason why an object is in the plan."""

    NEW = "new"
    """Not in the object table: no point of it can exist."""
    CHANGED = "changed"
    """Another version than in the object table, or ingested with another fingerprint."""
    RETRY = "retry"
    """Failed in an earlier job, has the same content, and is tried again."""
    DIRTY = "dirty"
    """An unfinished job, or an abandoned plan of this attempt, may have written some of its points."""
    SUSPECT = "suspect"
    """As DIRTY, and an earlier job failed it, perhaps because it ended its worker: it has a partition of its own."""
    FULL = "full"
    """Embedded again in any case (mode ``full``)."""
    DELETE = "delete"
    """In the object table but not in the listing; removed after a HEAD request has confirmed it."""
    PURGE = "purge"
    """Removed whatever the bucket holds: on request, or because a directory marker took the object's place."""
    VERIFY = "verify"
    """Its points are compared with the object table and between the stores."""
    REPAIR = "repair"
    """As VERIFY, and differences are repaired."""


UNFINISHED = frozenset({Action.DIRTY, Action.SUSPECT})
"""Actions on objects of which the stores may hold points of several versions."""
FAILED_BEFORE = frozenset({Action.RETRY, Action.SUSPECT})
"""Actions on objects that an earlier job failed: when they fail again, nothing has become worse."""
REMOVALS = frozenset({Action.DELETE, Action.PURGE})
"""Actions that only remove points: they neither read nor embed, and run after everything else."""
COMPARISONS = frozenset({Action.VERIFY, Action.REPAIR})
"""Actions that compare points, or repair them without changing the object's row in the object table."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The job that wrote an object's points, for a repair: it writes what that job would write."""

    job_id: str
    fingerprint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of that job's request."""
    is_interrupted: bool = False
    """True when the object is ingested because that job ended before it was finished, whether it differs or not."""


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """An object to work on and the reason.

    ``prior_chunks`` and the digests describe the points of an earlier job; if the new version fails, the old points
    stay, and so do these values in the object table.
    """

    ref: ObjectRef
    action: Action
    _: KW_ONLY
    prior_chunks: int = 0
    prior_digest: str = ""
    prior_vectors: str = ""
    origin: Origin | None = None
    """Job with the metadata and fingerprint to ingest it with; None means the job that planned it."""


@dataclass(frozen=True, slots=True)
class StraySearch:
    """A range of point ids to search for stray points: points that belong to no object of the collection."""

    bucket: str
    first: PointId
    """Lowest id of the range."""
    last: PointId
    """Highest id of the range, included."""

    @property
    def label(self) -> str:
        """``first..last``, as plans and reports name the range."""
        return f"{self.first}..{self.last}"


PlanItem = PlannedObject | StraySearch
"""What a partition is made of."""

_STRAY = "stray"
"""Stands for the action in the plan's line of a stray search, where ``label`` stands for the key."""


def _item_to_json(item: PlanItem) -> list[Any]:
    if isinstance(item, StraySearch):
        return [item.bucket, item.label, "", 0, "", _STRAY]
    return _object_to_json(item)


def _search_from_json(row: list[Any]) -> StraySearch:
    first, last = row[1].split("..")
    return StraySearch(row[0], PointId(first), PointId(last))


def _object_to_json(planned: PlannedObject) -> list[Any]:
    ref, origin = planned.ref, planned.origin
    row = [ref.bucket, ref.key, ref.etag, ref.size_bytes, ref.last_modified, planned.action.value]
    if origin is None and not planned.prior_chunks:
        return row
    row += [planned.prior_chunks, planned.prior_digest, planned.prior_vectors]
    if origin is None:
        return row
    row += [origin.job_id, origin.fingerprint, dict(origin.metadata)]
    return [*row, True] if origin.is_interrupted else row


def _object_from_json(row: list[Any]) -> PlannedObject:
    bucket, key, etag, size_bytes, last_modified, action, *rest = row
    chunks, digest, vectors, *origin = rest or (0, "", "")
    return PlannedObject(
        ObjectRef(bucket, key, etag, size_bytes=size_bytes, last_modified=last_modified),
        Action(action),
        prior_chunks=chunks,
        prior_digest=digest,
        prior_vectors=vectors,
        origin=Origin(*origin) if origin else None,
    )


@dataclass(frozen=True, slots=True)
class Partition:
    """What one task handles: objects in key order, or stray searches; never both."""

    id: PartitionId
    objects: tuple[PlannedObject, ...]
    searches: tuple[StraySearch, ...] = ()

    @classmethod
    def of_items(cls, partition_id: PartitionId, items: Iterable[PlanItem]) -> Partition:
        """Return the partition of some planned items, order kept."""
        objects: list[PlannedObject] = []
        searches: list[StraySearch] = []
        for item in items:
            if isinstance(item, StraySearch):
                searches.append(item)
            else:
                objects.append(item)
        return cls(partition_id, tuple(objects), tuple(searches))

    @property
    def items(self) -> tuple[PlanItem, ...]:
        """The objects or the stray searches."""
        return (*self.objects, *self.searches)

    def to_json(self) -> dict[str, Any]:
        """Return the partition as JSON types, without its id (the id names where these bytes are)."""
        return {"objects": [_item_to_json(item) for item in self.items]}

    @classmethod
    def from_json(cls, partition_id: PartitionId, data: Mapping[str, Any]) -> Partition:
        """Return the partition of the JSON that ``to_json`` made."""
        rows = data["objects"]
        if rows and rows[0][5] == _STRAY:
            return cls(partition_id, (), tuple(_search_from_json(row) for row in rows))
        return cls(partition_id, tuple(_object_from_json(row) for row in rows))

    def content_hash(self) -> str:
        """Return 16 hex digits that depend on the content alone, not on its place in a plan."""
        return hash_json(self.to_json())[:16]


@dataclass(frozen=True, slots=True)
class RawObject:
    """An object's bytes. ``ref`` has the etag, size and date of the version that was read, not of the listing."""

    ref: ObjectRef
    body: bytes
    content_type: str | None
    """Content type in the object's header, often wrong; None when absent."""
    metadata: Mapping[str, str]
    """S3 user metadata with lower-case names."""


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """The fields of ``RawObject`` without the bytes."""

    ref: ObjectRef
    content_type: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PageSpan:
    """Half-open range [start_char, end_char) of a document's text on one page; pages count from 1."""

    page: int
    start_char: int
    end_char: int


class TextFormat(StrEnum):
    """Markup of a document's text, which determines where it may be split."""

    PLAIN = "plain"
    MARKDOWN = "markdown"


DETAIL_CHARS = 200
"""Maximum length of a warning's detail; it is stored with every object."""


@dataclass(frozen=True, slots=True)
class ReadWarning:
    """Something in an object that was left out, although the object itself was read."""

    code: str
    """Stable, ``snake_case``: "lines_skipped", "part_unreadable"; docs/formats.md lists them."""
    count: int = 1
    """How many of them: lines, parts, pictures."""
    detail: str = ""
    """What the first one is and why it was left out, in a few words, never a secret; ``join_warnings`` limits it to 200
    printable characters."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReadWarning:
        """Return the warning of its JSON; fields of later releases are ignored."""
        return cls(data["code"], data["count"], data["detail"])


def join_warnings(warnings: Iterable[ReadWarning]) -> tuple[ReadWarning, ...]:
    """Return one warning per code, in order of their first appearance, with the sum of counts. Pure."""
    joined: dict[str, ReadWarning] = {}
    for warning in warnings:
        first = joined.get(warning.code, replace(warning, count=0, detail=make_legible(warning.detail, DETAIL_CHARS)))
        joined[warning.code] = replace(first, count=first.count + warning.count)
    return tuple(joined.values())


def dump_warnings(warnings: Iterable[ReadWarning]) -> str | None:
    """Return the JSON of warnings, as the object table keeps it; None for none. Pure."""
    shown = [asdict(warning) for warning in warnings]
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")) if shown else None


def load_warnings(text: str | None) -> tuple[ReadWarning, ...]:
    """Return the warnings of the JSON of ``dump_warnings``. Pure."""
    return tuple(map(ReadWarning.from_json, json.loads(text))) if text else ()


WARNINGS_OF = "warnings."
"""Begins the name of a job's count of one kind of warning; the warning's code follows."""

FAILURES_OF = "failures."
"""Begins the name of a job's count of one kind of failure of objects; the error's code follows."""

POINTS_OF: Final = {"written": "points_written.", "deleted": "points_deleted.", "found": "points_found."}
"""Begins the name of a job's count of points, by what was done with them; the store's name follows."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed object. All chunk offsets refer to ``text``, which is never empty or blank."""

    ref: ObjectRef
    content_type: str
    """Media type, detected by content first."""
    text: str
    text_format: TextFormat
    title: str | None = None
    pages: tuple[PageSpan, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """S3 user metadata of the object."""
    warnings: tuple[ReadWarning, ...] = ()
    """What was left out, one per code."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: ``text == document.text[start_char:end_char]``, offsets in Python characters."""

    point_id: PointId
    index: int
    text: str
    start_char: int
    end_char: int
    content_hash: str
    page: int | None = None
    """Page on which the chunk starts, from 1; None for formats without pages."""
    context: str = ""
    """Text from elsewhere in the document that the chunk needs to be understood, such as the header of the table whose
    rows it begins with. It is embedded before ``text`` and is no part of it."""

    @property
    def embedded_text(self) -> str:
        """What is embedded of the chunk, after the collection's prefix."""
        return join_context(self.context, self.text)


def join_context(context: str, text: str) -> str:
    """Return what is embedded of a chunk with some context, which may be empty. Pure."""
    return f"{context}\n{text}" if context else text


@dataclass(frozen=True, slots=True)
class EmbeddedChunk:
    """A chunk with its vector, ``float32[dimension]``. ``reused`` vectors come from a store, not from the embedder."""

    chunk: Chunk
    vector: npt.NDArray[np.float32]
    reused: bool = False


CHUNK_FIELDS = frozenset(
    {"text", "context", "content_hash", "chunk_index", "start_char", "end_char", "page", "embedding_id"}
)
"""Payload fields that differ between the points of one object; all others are equal."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point with id, payload and vector (``float32[dimension]``). The same in every store."""

    id: PointId
    payload: Mapping[str, Any]
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A point read from a store. ``vector`` is None when it was not requested or the store has none."""

    id: PointId
    payload: Mapping[str, Any]
    vector: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One result of a search. ``score`` is the cosine similarity in [-1, 1], the same scale for every store."""

    point_id: PointId
    score: float
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Properties of a model, as the embedder reports them."""

    name: str
    digest: str
    dimension: int
    context_length: int | None
    """Maximum input length in the model's own tokens; None when the server does not report it."""
    tokenizer: str | None = None
    """Kind of its tokenizer as the server names it, "bert" for word pieces; None when unknown or of an unusual form."""


class Band(StrEnum):
    """Priority of an embedding request: requests of a higher band go first."""

    SEARCH = "search"
    """Somebody waits for the answer."""
    JOB = "job"
    """Part of a job."""


@dataclass(frozen=True, slots=True)
class EmbeddingFlow:
    """Whose requests an embedder sends: the gateway is fair among flows."""

    key: str
    """A job's id, or a name for searches."""
    band: Band = Band.JOB
    weight: int = 5
    """Part of the capacity relative to other flows of the band, 1 to 10."""


@dataclass(frozen=True, slots=True)
class EmbeddingWait:
    """What a flow waits for, over all gateways."""

    queued: int = 0
    """Requests that wait in the gateways."""
    in_flight: int = 0
    """Requests that Ollama servers process."""
    ahead: int = 0
    """Flows whose next request goes before this one's, at the gateway where they are most."""
    of: int = 0
    """Flows that wait there."""
    share: float = 0.0
    """Part of the characters embedded in the last ten seconds, 0 to 1."""
    waited_s: int = 0
    """Age of the oldest waiting request in whole seconds."""


@dataclass(frozen=True, slots=True)
class GatewayServer:
    """An Ollama server as a gateway sees it."""

    url: str
    state: str
    """``up``, ``cooling``, ``half_open``, or ``unknown`` until it has answered for the first time."""
    reason: str | None = None
    """Why its last request failed."""
    owned: bool = True
    """True when this gateway, of several, sends it requests."""
    in_flight: int | None = None
    """Requests that it processes for this gateway; None where the gateway does not tell."""
    limit: int | None = None
    """Requests that it gets at once at present."""
    done: int | None = None
    failed: int | None = None


@dataclass(frozen=True, slots=True)
class GatewayFlow:
    """What one job, or the searches, or another client has at a gateway."""

    flow: str
    band: str
    weight: int
    queued: int
    in_flight: int
    share: float
    """Part of the characters of all flows in the last ten seconds, 0 to 1."""
    waited_s: float
    """Age of its oldest waiting request."""


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A gateway, its servers and its flows."""

    url: str
    status: str
    """``ok``, ``degraded``, ``unavailable``, or ``unreachable`` when it does not answer."""
    reason: str | None = None
    servers: tuple[GatewayServer, ...] = ()
    flows: tuple[GatewayFlow, ...] = ()


class Outcome(StrEnum):
    """Outcome of one planned object."""

    DONE = "done"
    """Every store holds the points of the version that was read."""
    FAILED = "failed"
    """It could not be ingested; the points of an earlier version stay."""
    DELETED = "deleted"
    """The object does not exist any more, and its points were removed."""
    KEPT = "kept"
    """Planned for deletion, but the object exists; nothing was changed."""
    SAME = "same"
    """Compared, and every store holds the points that the object table describes."""
    DIFFERENT = "different"
    """Compared, and a store holds other points; see ``differences``."""
    REPAIRED = "repaired"
    """As DIFFERENT, and repaired from the points that the stores still had."""
    UNDECIDED = "undecided"
    """As DIFFERENT, but the stores' points do not tell which are right: the object has to be ingested again."""


def _restore(record: Any, values: Sequence[Any]) -> None:
    """Set the fields of a pickled record, in their order; those that its release did not have get their defaults."""
    known = fields(record)
    for one, value in zip(known, values, strict=False):  # a later release may have more
        object.__setattr__(record, one.name, value)
    for one in known[len(values) :]:
        value = one.default if one.default_factory is MISSING else one.default_factory()
        object.__setattr__(record, one.name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectResult:
    """Result of one object; the source of its row in the object table."""

    key: str
    outcome: Outcome
    etag: str
    """Etag of the version that was read."""
    size_bytes: int
    last_modified: str
    object_id: ObjectId
    chunk_count: int = 0
    points_digest: str = ""
    vectors_digest: str = ""
    error_code: str | None = None
    reason: str | None = None
    retryable: bool = False
    again: bool = False
    """True when an earlier job failed it too (``FAILED_BEFORE``); the failure budget does not count it."""
    differences: Mapping[str, Mapping[str, int]] | None = None
    """Differences that a comparison found, ``{store: {kind: points}}``; None when there are none."""
    origin: Origin | None = None
    """Origin of the planned object."""
    warnings: tuple[ReadWarning, ...] = ()
    """What was left out of an object that is done, one per code."""

    __setstate__ = _restore

    def to_json(self) -> dict[str, Any]:
        """Return the fields for ``orjson``; without warnings there is no field that earlier releases do not know."""
        shown = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return {name: value for name, value in shown if name != "warnings" or value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ObjectResult:
        """Return the result of the JSON of ``to_json``; fields of later releases are ignored."""
        origin = data.get("origin")
        known = {name: data[name] for name in cls.__dataclass_fields__.keys() & data.keys()}
        return cls(
            **{
                **known,
                "outcome": Outcome(data["outcome"]),
                "origin": None if origin is None else Origin(**origin),
                "warnings": tuple(map(ReadWarning.from_json, data.get("warnings", ()))),
            }
        )


class ReportStatus(StrEnum):
    """How a partition ended."""

    DONE = "done"
    """Every object has a result."""
    RETRY = "retry"
    """A dependency is unavailable, or the process died; the driver runs the partition again."""
    FATAL = "fatal"
    """The job must stop."""


INTERRUPTED = "interrupted"
"""Error code of table rows whose partition never reported: some points of the object may have been written. The next
job works on it in any case; the row is ``retryable`` unless an earlier job had failed the object."""
UNEXPECTED_ERROR = "unexpected_error"
"""Error code of a RETRY report whose cause is a defect of the product or of a library."""


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """Report of one partition.

    ``results`` is complete when status is DONE. For RETRY it has the objects that were finished before the partition
    was put back, and the counts are those of the whole run; it is empty for FATAL.
    """

    partition_id: PartitionId
    status: ReportStatus
    epoch: int
    _: KW_ONLY
    results: tuple[ObjectResult, ...] = ()
    chunks: int = 0
    chunks_embedded: int = 0
    chunks_reused: int = 0
    embed_calls: int = 0
    embed_refusals: int = 0
    """Those of the calls that were refused because of a text."""
    texts_in_vain: int = 0
    """Texts that were embedded in a call that was refused because of another one."""
    bytes_read: int = 0
    points_seen: Mapping[str, int] = field(default_factory=dict)
    """Number of points that a comparison found, by store."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds per stage, summed over concurrent work."""
    error: Mapping[str, Any] | None = None
    """``IngestionError.record()`` of the error that stopped the partition, for RETRY and FATAL."""
    process_died: bool = False
    """True when the worker process died with the partition; False when its node or the way to it was lost."""
    requests: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Requests that the worker made, by system (``embedder``, ``qdrant``, ``weaviate``, ``s3``): ``done``, ``failed``
    and their ``seconds``."""
    points: Mapping[str, Mapping[str, int]] | None = None
    """Points that each store has acknowledged: ``written``, of the objects in ``results`` only, because the others are
    written again; and ``deleted``, of all objects, because nobody deletes them again. None means unknown: the report of
    an earlier release, or of a process that died. New fields come last, because Ray pickles records by their order."""

    __setstate__ = _restore

    def to_json(self) -> dict[str, Any]:
        """Return the fields for ``orjson``."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**shown, "results": [result.to_json() for result in self.results]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PartitionReport:
        """Return the report of the JSON of ``to_json``; fields of later releases are ignored."""
        results = tuple(ObjectResult.from_json(result) for result in data["results"])
        partition_id, status = PartitionId(data["partition_id"]), ReportStatus(data["status"])
        known = {name: data[name] for name in cls.__dataclass_fields__.keys() & data.keys()}
        return cls(**{**known, "partition_id": partition_id, "status": status, "results": results})


@dataclass(frozen=True, slots=True)
class RunningPartition:
    """How far a running partition is; for progress only."""

    share: float
    """Part of its work that is done, 0 to 1."""
    chunks: int
    bytes_read: int
    waits_for: str = ""
    """Why its process waits, such as for a store that limits requests; empty when it does not."""


class RowState(StrEnum):
    """State of an object in the object table."""

    PRESENT = "present"
    """Every store holds the points of the version that the row names."""
    FAILED = "failed"
    """The last version failed; the points of an earlier version may still be there."""
    REMOVED = "removed"
    """Tombstone inside runs; never shown to readers."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One object in the object table.

    Not keyword-only: millions of rows are built from columns, in the order of the fields.
    """

    key: str
    etag: str
    size_bytes: int
    last_modified: str
    object_id: str
    state: RowState
    error_code: str | None
    reason: str | None
    retryable: bool
    fingerprint: str
    chunk_count: int
    points_digest: str
    vectors_digest: str
    epoch: int
    job_id: str
    updated_at: str
    warnings: str | None = None
    """What was left out of the object: the JSON of ``dump_warnings``; None when nothing was."""
