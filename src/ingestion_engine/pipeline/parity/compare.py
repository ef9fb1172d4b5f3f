"""Compare: one object's points in the stores against its row in the object table. Pure.

The table's digests are sums over points, so they identify the correct copies without a copy of their own: for the
points on which the stores differ, the correct choice is the one whose sums match. Points on which the stores agree are
only counted and summed, so memory grows with the number of differences.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ingestion_engine.domain.ids import PointId, add_digests, digest_point, digest_vector, hash_json
from ingestion_engine.domain.records import StoredPoint
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.domain.vectors import are_close
from ingestion_engine.pipeline.reuse import EXACT_FIRST
from ingestion_engine.pipeline.stored_copies import Copies

MODULUS = 1 << 128
HALF_CHOICES = 1 << 14
"""Maximum number of choices for one half of the disputed points: 28 points with two copies each, half a second."""

Differences = dict[str, dict[str, int]]
"""Points by store and kind: ``missing``, ``extra``, ``payload``, ``vector`` if the correct copy is known; ``digest``
and ``vector_digest`` (all points of the object) if the stores agree with each other but not with the table."""


@dataclass(frozen=True, slots=True)
class Expected:
    """An object's row in the object table. A digest is None if an older version did not write it."""

    points: int
    digest: int | None
    vectors: int | None

    @classmethod
    def parse(cls, points: int, digest: str, vectors: str) -> Expected:
        """Return the expectation of a row's fields; digests are hex digits, empty for none."""
        if points == 0:
            return cls(0, 0, 0)
        return cls(points, int(digest, 16) if digest else None, int(vectors, 16) if vectors else None)


@dataclass(frozen=True, slots=True)
class Copy:
    """The compared parts of one store's copy of a point."""

    digest: int
    whole: str
    """Hash of the payload including its job fields."""
    vector: int | None


@dataclass(slots=True)
class Comparison:
    """Accumulates the copies of one object's points."""

    expected: Expected
    stores: Sequence[StoreName]
    points: int = 0
    digest: int = 0
    vectors: int = 0
    seen: dict[StoreName, int] = field(default_factory=dict)
    disputed: dict[PointId, dict[StoreName, Copy]] = field(default_factory=dict)
    """The copies of points on which the stores differ, or without a vector in one store."""

    def add(self, point_id: PointId, copies: Copies) -> None:
        """Add the copies of one point. Adding a disputed point again changes nothing."""
        if point_id in self.disputed:
            return
        for name in copies:
            self.seen[name] = self.seen.get(name, 0) + 1
        held = _digest(copies)
        if not self.expected.points or len(held) < len(self.stores) or not _agree(held):
            self.disputed[point_id] = held
            return
        best = next(iter(held.values()))
        self.points += 1
        self.digest = add_digests(self.digest, best.digest)
        self.vectors = add_digests(self.vectors, best.vector or 0)

    def judge(self) -> Verdict:
        """Return the correct copies and the differences, after all points have been added."""
        payloads = self._choose_payloads()
        if payloads is None:
            return Verdict(self._describe_dispute(), None, vectors_known=self._vectors_add_up())
        vectors = self._choose_vectors(payloads)
        if vectors is None:
            return Verdict(self._describe(payloads, {}) or self._describe_digests(), None, vectors_known=False)
        return Verdict(self._describe(payloads, vectors), Choice(payloads, vectors), vectors_known=True)

    def _choose_payloads(self) -> dict[PointId, StoreName | None] | None:
        """Return for each disputed point the store with the correct payload, or None if the point should not exist."""
        if self.expected.digest is None:
            return None if self.disputed or self.points != self.expected.points else {}
        options: dict[PointId, dict[StoreName | None, tuple[int, int]]] = {
            point_id: {**{name: (1, copy.digest) for name, copy in copies.items()}, None: (0, 0)}
            for point_id, copies in self.disputed.items()
        }
        wanted = self.expected.points - self.points, (self.expected.digest - self.digest) % MODULUS
        return _choose(options, self._orders(), wanted)

    def _choose_vectors(self, payloads: Mapping[PointId, StoreName | None]) -> dict[PointId, StoreName] | None:
        """Return for each disputed point that should exist the store with the correct vector."""
        options: dict[PointId, dict[StoreName | None, tuple[int, int]]] = {}
        for point_id, chosen in payloads.items():
            if chosen is not None:
                copies = self.disputed[point_id]
                options[point_id] = {n: (0, c.vector) for n, c in copies.items() if c.vector is not None}
        if any(not vectors for vectors in options.values()):
            return None
        if self.expected.vectors is None:
            same = all(len({vector for _, vector in vectors.values()}) == 1 for vectors in options.values())
            return {i: next(n for n in vectors if n) for i, vectors in options.items()} if same else None
        found = _choose(options, self._orders(), (0, (self.expected.vectors - self.vectors) % MODULUS))
        return None if found is None else {i: name for i, name in found.items() if name is not None}

    def _orders(self) -> Iterator[Sequence[StoreName | None]]:
        """Yield orders of preference among the stores: each store alone, then each order of all."""
        for name in self.stores:
            yield (name, None)
        yield from itertools.permutations(self.stores)

    def _vectors_add_up(self) -> bool:
        """False when the vectors are known to be wrong although every point exists and none is disputed."""
        whole = not self.disputed and self.points == self.expected.points
        return not whole or self.expected.vectors in {None, self.vectors}

    def _describe(
        self, payloads: Mapping[PointId, StoreName | None], vectors: Mapping[PointId, StoreName]
    ) -> Differences:
        found = _Tally(self.stores)
        for point_id, chosen in payloads.items():
            copies = self.disputed[point_id]
            for name in self.stores:
                copy = copies.get(name)
                if chosen is None:
                    found.count(name, "extra", copy is not None)
                    continue
                found.count(name, "missing", copy is None)
                found.count(name, "payload", copy is not None and copy.whole != copies[chosen].whole)
                right = vectors.get(point_id)
                wrong = copy is not None and right is not None and copy.vector != copies[right].vector
                found.count(name, "vector", wrong)
        return found.counts

    def _describe_dispute(self) -> Differences:
        """Return the differences between the stores when the table does not identify the correct copies."""
        found = _Tally(self.stores)
        for copies in self.disputed.values():
            for name in self.stores:
                found.count(name, "missing", name not in copies)
                found.count(name, "payload", len({copy.whole for copy in copies.values()}) > 1)
                found.count(name, "vector", len({copy.vector for copy in copies.values()}) > 1)
        return found.counts or self._describe_digests()

    def _describe_digests(self) -> Differences:
        """Return the differences from the table when the stores agree with each other."""
        lacking = self.expected.points - self.points
        kind = "missing" if lacking > 0 else "extra"
        count = abs(lacking)
        if not lacking:
            kind = "digest" if self.expected.digest not in {None, self.digest} else "vector_digest"
            count = self.points
        return {name.value: {kind: count} for name in self.stores}


@dataclass(frozen=True, slots=True)
class Choice:
    """The correct copy of each disputed point; all other points are correct in every store."""

    payloads: Mapping[PointId, StoreName | None]
    """None for a point that should not exist."""
    vectors: Mapping[PointId, StoreName]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a comparison. ``choice`` is None when the copies do not determine the correct content."""

    differences: Differences
    choice: Choice | None
    vectors_known: bool
    """False when no vector of the object is reliable."""

    @property
    def is_same(self) -> bool:
        """True when every store has exactly the points of the object table."""
        return not self.differences and self.choice is not None


class _Tally:
    def __init__(self, stores: Iterable[StoreName]) -> None:
        self.counts: Differences = {}
        self._stores = stores

    def count(self, store: StoreName, kind: str, fact: bool) -> None:
        if fact:
            kinds = self.counts.setdefault(store.value, {})
            kinds[kind] = kinds.get(kind, 0) + 1


def _digest(copies: Copies) -> dict[StoreName, Copy]:
    """Return the compared parts of each copy; a vector close to a more exact copy counts as that copy."""
    held: dict[StoreName, Copy] = {}
    exact: StoredPoint | None = None
    for name in EXACT_FIRST:
        point = copies.get(name)
        if point is None:
            continue
        same = exact is not None and _are_close(exact, point)
        vector = (exact if same and exact is not None else point).vector
        digest = None if vector is None else digest_vector(point.id, vector.tobytes())
        held[name] = Copy(digest_point(point.id, point.payload), hash_json(dict(point.payload)), digest)
        exact = exact or point
    return held


def _are_close(left: StoredPoint, right: StoredPoint) -> bool:
    return left.vector is not None and right.vector is not None and are_close(left.vector, right.vector)


def _agree(held: Mapping[StoreName, Copy]) -> bool:
    first = next(iter(held.values()))
    return first.vector is not None and all((c.whole, c.vector) == (first.whole, first.vector) for c in held.values())


def _choose(
    options: Mapping[PointId, Mapping[StoreName | None, tuple[int, int]]],
    orders: Iterable[Sequence[StoreName | None]],
    wanted: tuple[int, int],
) -> dict[PointId, StoreName | None] | None:
    """Return one option per point whose counts and digests add up to ``wanted``; None when none is found.

    The likely choices are tried first: damage in a single store. Then, for a few points, all choices.
    """
    for order in orders:
        choice = {i: next((name for name in order if name in by), next(iter(by))) for i, by in options.items()}
        if _add_up(options[i][name] for i, name in choice.items()) == wanted:
            return choice
    return _search(options, wanted)


def _search(
    options: Mapping[PointId, Mapping[StoreName | None, tuple[int, int]]], wanted: tuple[int, int]
) -> dict[PointId, StoreName | None] | None:
    """Try every choice by meeting in the middle: match the sums of one half of the points with those of the other."""
    ids = list(options)
    halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    if any(_count_choices(options, half) > HALF_CHOICES for half in halves):
        return None
    left = {_add_up(options[i][n] for i, n in zip(halves[0], names, strict=True)): names
            for names in itertools.product(*(options[i] for i in halves[0]))}  # fmt: skip
    for names in itertools.product(*(options[i] for i in halves[1])):
        count, digest = _add_up(options[i][n] for i, n in zip(halves[1], names, strict=True))
        met = left.get((wanted[0] - count, (wanted[1] - digest) % MODULUS))
        if met is not None:
            return dict(zip(ids, (*met, *names), strict=True))
    return None


def _count_choices(
    options: Mapping[PointId, Mapping[StoreName | None, tuple[int, int]]], ids: Sequence[PointId]
) -> int:
    choices = 1
    for point_id in ids:
        choices *= len(options[point_id])
        if choices > HALF_CHOICES:
            break
    return choices


def _add_up(parts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    points = digest = 0
    for count, value in parts:
        points += count
        digest = add_digests(digest, value)
    return points, digest
