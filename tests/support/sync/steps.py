"""What happens in the histories of ``test_sync_machine``: edits, trouble, jobs and damage, with their strategies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Point
from ingestion_engine.state.ledger import Ledger
from support.sync.model import Request
from support.sync.world import Fault, VersionedBucket

KEYS = ("a.txt", "a/b.txt", "a b.txt", "docs/x.md", "docs/y.txt", "docs/sub/z.txt", "docs/")
PARAGRAPHS = [f"Paragraph {i} speaks about subject {i * 7 % 13} at length." for i in range(9)]
NAN = "Here {NAN} stands, which the embedder refuses for good."

FILTERS: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    "all": ({}, lambda _key: True),
    "prefix": ({"prefix": "docs/"}, lambda key: key.startswith("docs/")),
    "include": ({"include": ["**/*.txt"]}, lambda key: key.endswith(".txt")),
    "exclude": ({"exclude": ["docs/**"]}, lambda key: not key.startswith("docs/")),
    "narrow": ({"prefix": "docs/", "include": ["*.txt", "*.md"]}, lambda key: key in {"docs/x.md", "docs/y.txt"}),
}
METADATA: tuple[dict[str, str], ...] = ({}, {"team": "docs"}, {"team": "ops", "tier": "1"})


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of the bucket."""

    kind: str
    key: str
    paragraphs: tuple[int, ...]
    at: int

    def apply(self, bucket: VersionedBucket) -> None:
        """Do it; kinds that need an object do nothing where there is none."""
        body, metadata = bucket.objects.get(self.key, (b"", 0))[0], bucket.metadata.get(self.key, {})
        old = body.decode(errors="replace").split("\n\n") if body else []
        new = [PARAGRAPHS[i] for i in self.paragraphs]
        at = self.at % (len(old) + 1)
        texts = {
            "put": new,
            "prepend": new[:1] + old,
            "insert": old[:at] + new[:1] + old[at:],
            "replace": old[:at] + new[:1] + old[at + 1 :],
            "truncate": old[:at],
            "nan": [*old[:at], NAN, *old[at:]],
        }
        if self.kind in texts:
            bucket.write(self.key, "\n\n".join(texts[self.kind]).encode(), metadata)
        elif self.kind == "binary":
            bucket.write(self.key, bytes(range(256)) * 4, metadata)
        elif self.key in bucket.objects:
            self._apply_to_existing(bucket, body, metadata)

    def _apply_to_existing(self, bucket: VersionedBucket, body: bytes, metadata: dict[str, str]) -> None:
        if self.kind == "touch":
            bucket.write(self.key, body, metadata)
        elif self.kind == "multipart":
            bucket.write(self.key, body, metadata, etag=f"parts{self.at}")
        elif self.kind == "tag":
            bucket.write(self.key, body, {"level": str(self.at)})
        elif self.kind == "rename":
            bucket.write(KEYS[self.at % len(KEYS)], body, metadata)
            if self.key != KEYS[self.at % len(KEYS)]:
                bucket.remove(self.key)
        else:
            bucket.remove(self.key)


EDITS = [
    "put",
    "put",
    "prepend",
    "insert",
    "replace",
    "truncate",
    "nan",
    "binary",
    "touch",
    "multipart",
    "tag",
    "rename",
    "delete",
]
edits = st.builds(
    Edit,
    st.sampled_from(EDITS),
    st.sampled_from(KEYS),
    st.lists(st.integers(0, len(PARAGRAPHS) - 1), min_size=1, max_size=5).map(tuple),
    st.integers(0, 6),
)


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """An edit of an object at the moment when a GET or HEAD of it begins."""

    edit: Edit
    nth: int
    """Which GET or HEAD of the attempt; 0 means the first one after its fault."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens during one attempt beside its work."""

    fault: Fault | None
    wake: str
    """When a frozen worker wakes up: before its successor may begin, while it waits, while it runs, or after it."""
    meanwhile: tuple[Meanwhile, ...]


WAKES = ("at once", "waiting", "running", "later")
faults = st.builds(
    Fault,
    st.sampled_from(["crash", "freeze", "death", "outage", "lost", "abort", "freeze", "crash"]),
    st.integers(1, 12) | st.integers(1, 40),
    st.sampled_from([True, True, False]),
)
troubles = st.builds(
    Trouble,
    st.none() | faults | faults,
    st.sampled_from(WAKES),
    st.lists(st.builds(Meanwhile, edits, st.sampled_from([0, 0, 1, 2, 3])), max_size=2).map(tuple),
)


QUIET = Trouble(None, "later", ())
changes = st.lists(edits, max_size=4)


@dataclass
class Job:
    """A submitted job."""

    ledger: Ledger
    request: Request
    attempts: int = 0


DAMAGES = ("lost", "payload", "vector", "foreign", "foreign of ours")


def damage(held: dict[PointId, Point], kind: str, which: int) -> int:
    """Do some damage to a store's points; return how many points of no object it made."""
    ids = sorted(i for i, point in held.items() if "foreign" not in point.payload)
    point_id = PointId(f"{which:08x}-0000-4000-8000-000000000000")
    if kind == "foreign" or not ids:
        isnew = point_id not in held
        payload = {"object_id": str(point_id), "key": f"foreign-{which}", "foreign": True}
        held[point_id] = Point(point_id, payload, np.ones(8, np.float32))
        return int(isnew)
    point = held[ids[which % len(ids)]]
    if kind == "lost":
        del held[point.id]
    elif kind == "payload":
        held[point.id] = replace(point, payload={**point.payload, "text": "not this"})
    elif kind == "vector":
        held[point.id] = replace(point, vector=-point.vector)
    else:
        point_id = PointId(f"{which:08x}-1111-4000-8000-000000000000")
        held[point_id] = replace(point, id=point_id, payload={**point.payload, "foreign": True})
    return 0
