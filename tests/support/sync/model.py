"""A plain Python model of what sync promises: which objects a job works on, and what the stores and the table hold.

Independent of the product's planning, reuse, runner and driver: it takes from the product only what a file's text and
chunks are, and how ids and digests are computed (each has its own tests). Of what a crashed attempt got done it
believes the attempt's durable plan and reports, and checks that they name what was to be done.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.ids import (
    JOB_FIELDS,
    PointId,
    digest_point,
    digest_vector,
    format_digest,
    make_embedding_id,
    make_object_id,
    make_point_embedding_id,
)
from ingestion_engine.domain.records import Chunk, Document, ObjectRef, RawObject, ReportStatus
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking.chunk import chunk_document
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.doubles import MemoryState, hash_vector
from support.sync.world import Attempt, Run, Version

CHUNKING = Chunking(max_chars=60, overlap_chars=0)
EMBEDDING_ID = make_embedding_id("sha256:hash", 8, {}, prefix="")

Held = tuple[Mapping[str, Any], bytes]
"""Payload and vector of a point."""


@dataclass(frozen=True, slots=True)
class Request:
    """What of a job's request the model has to know. ``selects`` is written out, not a glob."""

    full: bool = False
    selects: Callable[[str], bool] = lambda _key: True
    metadata: Mapping[str, str] = field(default_factory=dict)
    delete_missing: bool = True
    allow_mass_delete: bool = False
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What the model knows of one object."""

    ref: ObjectRef
    state: str
    code: str | None
    metadata: Mapping[str, str]
    """Of the request under which it was worked on last."""
    job_id: str
    points: Mapping[PointId, Held] = field(default_factory=dict)
    chunk_count: int = 0
    digests: tuple[str, str] = ("", "")
    had_failed: bool = False
    """Of an interrupted one: whether an earlier job had failed it."""

    @property
    def is_dirty(self) -> bool:
        return self.code == "interrupted"


@dataclass(slots=True)
class Loose:
    """Why an object's points need not be exact now: a run that ended in the middle of it, or of its removal."""

    versions: list[set[PointId]] = field(default_factory=list)
    removal: bool = False


def read_version(version: Version) -> tuple[Document, tuple[Chunk, ...]] | str:
    """Text and chunks of a version, or the code with which it fails before it is embedded."""
    found = _read(version.ref.key, version.body)
    if isinstance(found, str):
        return found
    return found


@functools.lru_cache(maxsize=4096)
def _read(key: str, body: bytes) -> tuple[Document, tuple[Chunk, ...]] | str:
    raw = RawObject(ObjectRef("docs", key, "", len(body), ""), body, None, {})
    try:
        document = parse_bytes(raw, FrozenLimits())
    except ObjectError as error:
        return error.code
    return document, tuple(chunk_document(document, CHUNKING))


def failure_of(version: Version) -> str | None:
    """The code with which a version fails; None when it does not."""
    found = read_version(version)
    if isinstance(found, str):
        return found
    return "embedding_nan" if any("{NAN}" in chunk.text for chunk in found[1]) else None


def make_points(version: Version, request_metadata: Mapping[str, str]) -> dict[PointId, Held]:
    """The points of a version that can be ingested, by design.md section 6."""
    found = read_version(version)
    assert not isinstance(found, str)
    document, chunks = found
    metadata = {**request_metadata, **version.metadata}
    points: dict[PointId, Held] = {}
    for index, chunk in enumerate(chunks):
        payload: dict[str, Any] = {
            "object_id": make_object_id("docs", version.ref.key),
            "bucket": "docs",
            "key": version.ref.key,
            "uri": f"s3://docs/{version.ref.key}",
            "etag": version.ref.etag,
            "content_type": document.content_type,
            "text": chunk.text,
            "content_hash": chunk.content_hash,
            "chunk_index": index,
            "start_char": chunk.start_char,
            "end_char": chunk.end_char,
            "embedding_id": make_point_embedding_id(EMBEDDING_ID, chunk.text),
        }
        optional = {"title": document.title, "page": chunk.page, "metadata": metadata or None}
        payload |= {name: value for name, value in optional.items() if value is not None}
        points[chunk.point_id] = payload, hash_vector(chunk.text, 8).tobytes()
    return points


def digests_of(points: Mapping[PointId, Held]) -> tuple[str, str]:
    """The two digests that the object table holds of points."""
    payloads = sum(digest_point(point_id, payload) for point_id, (payload, _) in points.items())
    vectors = sum(digest_vector(point_id, vector) for point_id, (_, vector) in points.items())
    return format_digest(payloads % 2**128), format_digest(vectors % 2**128)


@dataclass
class OpenWork:
    """An attempt whose outcome the model has not taken over yet."""

    attempt: Attempt
    job_id: str
    request: Request
    planned_before: set[str] = field(default_factory=set)
    """Plan segments that were there before the last listing."""
    wanted: dict[str, str] = field(default_factory=dict)
    """By key, what the last listing asked for."""
    refused: bool = False
    settled: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    """Keys whose rows are of this very attempt, from a plan that it had to give up."""


class Model:
    """What the collection is, object by object, after all that happened."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.loose: dict[str, Loose] = {}
        self.open: list[OpenWork] = []

    @property
    def is_exact(self) -> bool:
        """True when something is there, and nothing of it is unsettled or made by another model."""
        rows = self.rows.values()
        settled = not self.open and not self.loose and not any(row.is_dirty for row in rows)
        return (
            settled
            and any(row.points for row in rows)
            and all(digests_of(r.points) == r.digests for r in rows if r.points)
        )

    # -- planning -----------------------------------------------------------------------------------------------------

    def plan(self, work: OpenWork, listing: Mapping[str, ObjectRef]) -> None:
        """Decide what a job has to do with a listing."""
        request = work.request
        listed = {key: ref for key, ref in listing.items() if request.selects(key)}
        real = {key: ref for key, ref in listed.items() if not (key.endswith("/") and ref.size_bytes == 0)}
        rows = {key: row for key, row in self.rows.items() if request.selects(key)}
        gone = sorted(rows.keys() - real.keys()) if request.delete_missing else []
        work.refused = bool(gone) and not listed and not request.allow_mass_delete
        wanted = {key: self._choose(work, rows.get(key), ref) for key, ref in real.items()}
        removals = {key: "purge" if key in listed else "delete" for key in gone}
        work.wanted = {key: action for key, action in wanted.items() if action is not None} | removals

    def _choose(self, work: OpenWork, row: Row | None, ref: ObjectRef) -> str | None:
        request = work.request
        mine = row is not None and row.job_id == work.job_id
        if row is None:
            action = "new"
        elif row.is_dirty:
            return "suspect" if row.had_failed and row.ref.etag == ref.etag else "dirty"
        elif (row.ref != ref or row.metadata != request.metadata) and ref.key in work.touched:
            return "dirty"
        elif row.ref != ref or row.metadata != request.metadata:
            if row.state == "failed" and not mine and row.ref.etag == ref.etag:
                return "retry"
            action = "changed"
        elif row.state == "present":
            action = "full" if request.full and not mine else ""
        else:
            return "retry" if (request.full or request.retry_failed) and not mine else None
        return ("full" if request.full else action) if action else None

    # -- what attempts did --------------------------------------------------------------------------------------------

    def note_run(self, run: Run) -> None:
        """After a run that did not report: its objects may be in any state between the old and the new version.

        One that did report settles nothing before it is merged; until then, what was gone may be missing.
        """
        for planned in run.partition.objects:
            key = planned.ref.key
            if run.status is ReportStatus.DONE:
                if key in self.loose and key not in run.fetched:
                    self.loose[key].removal = True
                continue
            loose = self.loose.setdefault(key, Loose())
            if planned.action.value in {"delete", "purge"} or (key not in run.fetched and run.stands_at is not None):
                loose.removal = True
            elif key in run.fetched and failure_of(run.fetched[key]) is None:
                loose.versions.append(set(make_points(run.fetched[key], {})))
            elif key not in run.fetched:
                loose.removal = True  # it may have been gone

    def take_over(self, state: MemoryState) -> None:
        """Take over the outcome of every attempt that has been merged."""
        for work in list(self.open):
            note = state.values.get(f"collections/notes/open/{work.job_id}.json")
            if note is not None and orjson.loads(note.data)["attempt"] == work.attempt.number:
                continue
            self._settle(work, state)
            if work.attempt.dead:
                self.open.remove(work)

    def _settle(self, work: OpenWork, state: MemoryState) -> None:
        reports = read_reports(state, work.job_id, work.attempt.prefix)
        for segment, partitions in read_plan(state, work.job_id, work.attempt.prefix).items():
            for number, partition in enumerate(partitions):
                name = f"{segment}.{number}"
                if name in work.settled:
                    continue
                work.settled.add(name)
                results = next((r for i, r in reports if i.startswith(f"{segment}.{partition['at']}.")), None)
                for position, planned in enumerate(partition["objects"]):
                    if results is None:
                        self._interrupt(work, planned)
                    else:
                        self._apply(work, results[position])

    def _interrupt(self, work: OpenWork, planned: list[Any]) -> None:
        ref = ObjectRef(*planned[:5])
        old = self.rows.get(ref.key)
        work.touched.add(ref.key)
        facts = (old.points, old.chunk_count, old.digests) if old else ({}, 0, ("", ""))
        had_failed = planned[5] in {"retry", "suspect"}
        self.rows[ref.key] = Row(ref, "failed", "interrupted", work.request.metadata, work.job_id, *facts, had_failed)
        self.loose.setdefault(ref.key, Loose())

    def _apply(self, work: OpenWork, result: Mapping[str, Any]) -> None:
        key, outcome = result["key"], result["outcome"]
        old = self.rows.get(key)
        if outcome == "kept":
            return
        work.touched.add(key)
        if outcome == "deleted":
            self.rows.pop(key, None)
            self.loose.pop(key, None)
            return
        read = [r.fetched[key] for r in work.attempt.runs if key in r.fetched]
        seen = (result["etag"], result["last_modified"])
        version = next(v for v in reversed(read) if (v.ref.etag, v.ref.last_modified) == seen)
        code = failure_of(version)
        assert (outcome, result["error_code"]) == (("failed", code) if code else ("done", None)), key
        request = work.request
        if code is None:
            points = make_points(version, request.metadata)
            facts = points, len(points), digests_of(points)
            self.rows[key] = Row(version.ref, "present", None, request.metadata, work.job_id, *facts)
            self.loose.pop(key, None)
            return
        facts = (old.points, old.chunk_count, old.digests) if old else ({}, 0, ("", ""))
        if not result["chunk_count"] and facts[1]:
            assert key in self.loose, key  # only an old version that may have been overwritten is given up
            facts = {}, 0, ("", "")
        self.rows[key] = Row(version.ref, "failed", code, request.metadata, work.job_id, *facts)
        if not facts[1]:
            self.loose.pop(key, None)  # where no old version is kept, nothing of a failed one stays

    # -- checks -------------------------------------------------------------------------------------------------------

    def check_plan(self, work: OpenWork, state: MemoryState, *, whole: bool) -> None:
        """The durable plan asks for what the model wants, for nothing else, and for all of it when it is whole."""
        planned: dict[str, str] = {}
        for segment, partitions in read_plan(state, work.job_id, work.attempt.prefix).items():
            if segment not in work.planned_before:
                planned |= {o[1]: o[5] for partition in partitions for o in partition["objects"]}
        assert planned.items() <= work.wanted.items(), (planned, work.wanted)
        assert not whole or planned == work.wanted

    def check_embedded(self, run: Run, request: Request) -> None:
        """A run embeds exactly the chunk texts that are not held under the job's embedding_id, each once.

        Held: the object's own point, in either store, when the run begins; in a full job only if this very job wrote
        it. The only texts that may be embedded although they are held are those of objects that were new to the plan,
        when an earlier run of the same attempt was cut off in their partition (work in flight).
        A run that was cut off embeds at most that.
        """
        must: Counter[str] = Counter()
        may: Counter[str] = Counter()
        earlier = [r for r in run.attempt.runs if r is not run and r.status is not ReportStatus.DONE]
        in_flight = {o.ref.key for r in earlier for o in r.partition.objects}
        for planned in run.partition.objects:
            version = run.fetched.get(planned.ref.key)
            found = None if version is None else read_version(version)
            if found is None or isinstance(found, str):
                continue
            for chunk in found[1]:
                if "{NAN}" in chunk.text:
                    continue
                wanted = make_point_embedding_id(EMBEDDING_ID, chunk.text)
                copies = run.held.get(chunk.point_id, set())
                held = any(e == wanted and (not request.full or j == run.attempt.ledger.job_id) for e, j in copies)
                may[chunk.text] += not held or (planned.action.value == "new" and planned.ref.key in in_flight)
                must[chunk.text] += not held
        texts = Counter(run.texts)
        assert texts <= may, ("embedded without need", texts - may)
        assert run.status is not ReportStatus.DONE or must <= texts, ("not embedded", must - texts)

    def pending(self) -> dict[str, set[PointId]]:
        """Objects that attempts worked on whose outcome is not merged yet, and the ids that may be there of them."""
        pending: dict[str, set[PointId]] = {}
        for work in self.open:
            for run in work.attempt.runs:
                for planned in run.partition.objects:
                    version = run.fetched.get(planned.ref.key)
                    ids = pending.setdefault(planned.ref.key, set())
                    if version is not None and failure_of(version) is None:
                        ids |= set(make_points(version, {}))
        return pending

    def check_stores(self, stores: Mapping[str, Mapping[PointId, Held]]) -> None:
        """Every object's points are exact in both stores, unless a run ended in the middle of it."""
        pending = self.pending()
        keys = self.rows.keys() | self.loose.keys() | pending.keys()
        for name, points in stores.items():
            by_key: dict[str, dict[PointId, Held]] = {}
            for point_id, (payload, vector) in points.items():
                by_key.setdefault(payload["key"], {})[point_id] = (payload, vector)
            assert by_key.keys() <= keys, (name, by_key.keys() - keys)
            for key in keys:
                self._check_object(name, key, by_key.get(key, {}), pending.get(key))
        inexact = self.loose.keys() | pending.keys()
        exact = [{i: p for i, p in points.items() if p[0]["key"] not in inexact} for points in stores.values()]
        assert exact[0] == exact[1], "the stores differ, if only in job fields"

    def _check_object(self, store: str, key: str, held: Mapping[PointId, Held], pending: set[PointId] | None) -> None:
        row = self.rows.get(key)
        expected = row.points if row is not None else {}
        loose = self.loose.get(key)
        if loose is None and pending is not None:
            assert held.keys() <= expected.keys() | pending, (store, key)
            return
        if loose is None:
            content = {i: ({k: v for k, v in p.items() if k not in JOB_FIELDS}, vec) for i, (p, vec) in held.items()}
            assert content == expected, (store, key)
            return
        assert held.keys() <= expected.keys() | (pending or set()) | set().union(*loose.versions), (store, key)
        whole = loose.removal or pending or any(ids <= held.keys() for ids in (expected.keys(), *loose.versions))
        assert whole, (store, key, "a reader has neither the old version nor a new one")

    def check_table(
        self, state: MemoryState, table: Mapping[str, Any], fingerprint: Callable[[Mapping[str, str]], str]
    ) -> None:
        """The object table says of every object what the model says, but for what is planned and not merged yet.

        An attempt is merged when its note is gone; a crash just before that leaves its rows in the table already.
        """
        plans = [read_plan(state, work.job_id, work.attempt.prefix) for work in self.open]
        planned = {o[1] for plan in plans for segment in plan.values() for p in segment for o in p["objects"]}
        names = (self.rows.keys() | table.keys()) - planned
        for key in names:
            row, stored = self.rows.get(key), table.get(key)
            assert (row is None) == (stored is None), (key, row, stored)
            if row is None or stored is None:
                continue
            ours = (row.state, row.code, row.ref.etag, row.ref.size_bytes, row.ref.last_modified, row.job_id)
            ours += (row.chunk_count, *row.digests, fingerprint(row.metadata), make_object_id("docs", key))
            theirs = (stored.state, stored.error_code, stored.etag, stored.size_bytes, stored.last_modified)
            theirs += (stored.job_id, stored.chunk_count, stored.points_digest, stored.vectors_digest)
            assert ours == (*theirs, stored.fingerprint, stored.object_id), key


def read_plan(state: MemoryState, job_id: str, prefix: str) -> dict[str, list[dict[str, Any]]]:
    """Partitions of the attempt's durable plan by segment, each with the offset that its id names."""
    folder = f"jobs/{job_id}/plan/"
    plan: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(state.values):
        segment = path.removeprefix(folder).removesuffix(".jsonl")
        if path.startswith(f"{folder}{prefix}"):
            offset = 0
            for line in state.values[path].data.splitlines():
                plan.setdefault(segment, []).append({**orjson.loads(line), "at": offset})
                offset += len(line) + 1
    return plan


def read_reports(state: MemoryState, job_id: str, prefix: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Partition ids and results of the attempt's durable reports; of two of one partition, the driver's comes first."""
    folder = f"jobs/{job_id}/reports/"
    lines = [
        orjson.loads(line)
        for kind in ("segments/", "single/")
        for path in sorted(state.values)
        if path.startswith(folder + kind)
        for line in state.values[path].data.splitlines()
    ]
    done = [r for r in lines if r["status"] == "done" and r["partition_id"].startswith(prefix)]
    return [(r["partition_id"], r["results"]) for r in done]
