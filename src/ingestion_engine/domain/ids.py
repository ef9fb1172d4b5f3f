"""Ids: pure, deterministic functions from content to ids, the same in both stores and on every engine."""

from __future__ import annotations

import functools
import hashlib
import re
import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NewType

import orjson

from ingestion_engine.domain.errors import FatalError

JobId = NewType("JobId", str)
ObjectId = NewType("ObjectId", str)
PointId = NewType("PointId", str)

_ROOT = uuid.UUID("8f3b1f3e-54a5-5c5b-9d0c-6f1f2b9d7c11")
"""Namespace of all ids of this product: an arbitrary fixed UUID; changing it would change every id."""

JOB_FIELDS = frozenset({"epoch", "job_id", "ingested_at"})
"""Payload fields that record who wrote a point and when; not part of its content."""


def name_attempt(job_id: str, attempt: int) -> str:
    """Return the name of an attempt on an engine: submission id of Ray, SparkApplication of Kubernetes. Pure."""
    return f"{job_id}-{attempt:02d}"


def make_object_id(bucket: str, key: str) -> ObjectId:
    """Return the UUID of an object. Injective over (bucket, key): nested namespaces, no separator to collide on."""
    return ObjectId(_make_uuid5(_read_uuid(_make_uuid5(_ROOT.bytes, bucket)), key))


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def make_point_id(object_id: ObjectId, content_hash: str, occurrence: int) -> PointId:
    """Return the UUID of a chunk's point.

    Args:
        object_id: Object that the chunk belongs to.
        content_hash: ``hash_text`` of the chunk's text.
        occurrence: Number of chunks with the same text that come before this one in the object.
    """
    return PointId(_make_uuid5(_read_uuid(object_id), f"{content_hash}:{occurrence}"))


def _make_uuid5(namespace: bytes, name: str) -> str:
    """Return ``str(uuid.uuid5(...))`` without creating the UUID object: a quarter of the time, once per chunk."""
    digest = hashlib.sha1(namespace + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


@functools.lru_cache(64)
def _read_uuid(text: str) -> bytes:
    """Return the bytes of a UUID; cached, because all points of an object and all objects of a bucket share one."""
    return uuid.UUID(text).bytes


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no spaces, UTF-8), 64 hex digits.

    For strings, integers, lists and string-keyed objects the bytes equal those of
    ``json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)``, so other languages can compute it.
    """
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def make_embedding_id(model_digest: str, dimension: int, options: Mapping[str, Any], *, prefix: str) -> str:
    """Return the collection's part of an embedding id, 16 hex digits of everything that turns a text into a vector."""
    return hash_json({"digest": model_digest, "dimension": dimension, "options": dict(options), "prefix": prefix})[:16]


def make_point_embedding_id(embedding_id: str, embedded_text: str) -> str:
    """Return a point's ``embedding_id``: the collection's part and the hash of the exact text that was embedded.

    Two points with the same value have the same vector, so a stored vector can be reused.
    """
    return join_embedding_id(embedding_id, hash_text(embedded_text))


def join_embedding_id(embedding_id: str, embedded_hash: str) -> str:
    """Return the same as ``make_point_embedding_id`` when ``hash_text`` of the text is already known."""
    return f"{embedding_id}-{embedded_hash[:16]}"


def digest_point(point_id: str, payload: Mapping[str, Any]) -> int:
    """Return a 128-bit hash of a point without its job fields; sums of hashes (mod 2**128) do not depend on order."""
    content = {name: value for name, value in payload.items() if name not in JOB_FIELDS}
    return int(hash_json([point_id, content])[:32], 16)


def digest_vector(point_id: str, vector: bytes) -> int:
    """Return a 128-bit hash of a point's vector, given as little-endian float32; sums do not depend on order.

    Both stores return the bytes that they received (Qdrant only for vectors of length 1), so the sum in the object
    table tells which of two differing stores holds the right vectors.
    """
    return int.from_bytes(hashlib.blake2b(vector, digest_size=16, key=point_id.encode()).digest(), "big")


def add_digests(left: int, right: int) -> int:
    """Return the order-free sum of two digests, mod 2**128."""
    return (left + right) % (1 << 128)


def format_digest(digest: int) -> str:
    """Return a digest as 32 hex digits."""
    return f"{digest:032x}"


class SegmentKind(StrEnum):
    """Kind of a plan segment; the value is the letter in its name."""

    WORK = ""
    """Objects to ingest, compare or repair."""
    DELETIONS = "d"
    """Objects to remove from the collection."""
    STRAY_SEARCHES = "s"
    """Ranges of point ids to search for points of no object."""


class SegmentName(str):
    """Name of a segment: ``a01-00003`` (attempt, running number), with the letter of its kind before the number.

    Names sort in the order in which an attempt writes segments of one kind. Segments of reports and failures have such
    names too.
    """

    __slots__ = ()

    @classmethod
    def make(cls, attempt: int, number: int, kind: SegmentKind = SegmentKind.WORK) -> SegmentName:
        """Return the name of an attempt's segment."""
        return cls(f"{cls.prefix(attempt)}{kind}{number:05d}")

    @staticmethod
    def prefix(attempt: int) -> str:
        """Return what the names of an attempt's segments start with, and so the ids of its partitions: ``a01-``."""
        return f"a{attempt:02d}-"


class PartitionId(str):
    """Id of a partition: ``a01-d00003.0.512.0123456789abcdef``.

    The parts are the segment's name, offset and length in bytes of the partition's line in it, and 16 hex digits of the
    line's SHA-256 (see docs/decisions/0001). It is a plain string for engines, reports and the command line; the
    properties parse it.

    Raises:
        FatalError: "plan_corrupt", from the properties of a malformed id.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Pickle as a plain string, which a process with another version of the package can read too."""
        return str, (str(self),)

    @classmethod
    def make(cls, segment: str, offset: int, line: bytes) -> PartitionId:
        """Return the id of the partition on a line of a segment.

        Args:
            segment: Name of the segment.
            offset: Offset of the line in the segment, in bytes.
            line: The line without its line break.
        """
        return cls(f"{segment}.{offset}.{len(line)}.{_hash_line(line)}")

    @property
    def attempt(self) -> int:
        """Number of the attempt that planned the partition."""
        return int(self._require(_SEGMENT.match(self))["attempt"])

    @property
    def kind(self) -> SegmentKind:
        """Kind of the segment."""
        return SegmentKind(self._require(_SEGMENT.match(self))["kind"])

    @property
    def segment(self) -> SegmentName:
        """Name of the segment."""
        return SegmentName(self._require(_PARTITION.fullmatch(self))["segment"])

    @property
    def byte_range(self) -> tuple[int, int]:
        """Offset and length of the partition's line in the segment, in bytes."""
        match = self._require(_PARTITION.fullmatch(self))
        return int(match["offset"]), int(match["length"])

    def matches(self, line: bytes) -> bool:
        """True when a line has the hash that the id names. Pure."""
        return self._require(_PARTITION.fullmatch(self))["hash"] == _hash_line(line)

    def _require(self, match: re.Match[str] | None) -> re.Match[str]:
        if match is None:
            raise FatalError(
                "plan_corrupt",
                f"{str(self)!r} is not a partition id.",
                hint="Use an id as logs and reports show it: a01-00001.0.512.0123456789abcdef.",
                partition_id=str(self),
            )
        return match


_SEGMENT = re.compile(r"a(?P<attempt>\d{2,})-(?P<kind>[ds]?)\d")
_PARTITION = re.compile(r"(?P<segment>[A-Za-z0-9-]+)\.(?P<offset>\d+)\.(?P<length>[1-9]\d*)\.(?P<hash>[0-9a-f]{16})")


def _hash_line(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]
