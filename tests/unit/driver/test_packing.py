"""Packing: planned objects become partitions within limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ingestion_engine.domain.estimates import estimate_chunks, weigh
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Action, ObjectRef, PlannedObject, StraySearch
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.driver.plan.packing import Packer, stagger


def ref(key: str, size: int) -> ObjectRef:
    return ObjectRef("docs", key, "e1", size, "2026-01-01T00:00:00Z")


def planned(key: str, size: int) -> PlannedObject:
    return PlannedObject(ref(key, size), Action.NEW)


def test_a_large_object_gets_its_own_partition() -> None:
    """It does not delay small objects next to it."""
    objects = [planned("a", 10), planned("b", 40 * 2**20), planned("c", 10)]
    parts = list(Packer(FrozenLimits(), Chunking()).pack(objects))
    assert [[p.ref.key for p in part] for part in parts] == [["a"], ["b"], ["c"]]


def test_a_small_job_is_spread_over_its_workers() -> None:
    """About four partitions per parallel worker when there are enough objects."""
    objects = [planned(f"{i:04}", 2_000) for i in range(100)]
    packer = Packer(FrozenLimits(), Chunking())
    parts = list(packer.shrunk_for(objects, 4).pack(objects))
    assert 16 <= len(parts) <= 34


def count_objects(parts: list[tuple[PlannedObject, ...]]) -> list[int]:
    return [len(part) for part in parts]


def test_partitions_of_a_job_rise_at_its_begin_and_fall_at_its_end() -> None:
    """Workers that begin together end one after another, except at the end of the job."""
    assert stagger(4) == [0.25, 0.5, 0.75]
    assert stagger(1) == []
    limits = FrozenLimits().model_copy(update={"partition_objects": 40})
    objects = [planned(f"{i:04}", 10) for i in range(320)]
    packer = Packer(limits, Chunking())
    whole = packer.pack_block(objects, rising=stagger(4), falling=stagger(4))
    assert count_objects(whole) == [10, 20, 30, 40, 40, 40, 40, 40, 30, 20, 10]
    assert [o for part in whole for o in part] == objects
    ends = [0] * 4
    for size in count_objects(whole):  # whoever ends first takes the next
        ends[ends.index(min(ends))] += size
    assert ends == [80] * 4
    assert count_objects(packer.pack_block(objects, rising=stagger(4)))[-3:] == [40, 40, 20]
    assert count_objects(packer.pack_block(objects, falling=stagger(4)))[:3] == [40, 40, 40]


def test_large_objects_begin_first() -> None:
    """A large object that began last would keep one worker busy while all others are idle."""
    objects = [planned("a", 10), planned("b", 40 * 2**20), planned("c", 10), planned("d", 50 * 2**20)]
    parts = Packer(FrozenLimits(), Chunking()).pack_block(objects)
    assert [[p.ref.key for p in part] for part in parts] == [["d"], ["b"], ["a", "c"]]


def test_comparisons_are_weighed_by_their_points() -> None:
    """A comparison reads no objects, so none is large."""
    objects = [PlannedObject(ref(key, 40 * 2**20), Action.VERIFY, prior_chunks=100) for key in "abc"]
    assert Packer(FrozenLimits(), Chunking()).pack_block(objects) == [tuple(objects)]


def test_a_stray_search_weighs_like_a_small_object() -> None:
    """It reads nothing from the bucket; large collections are searched by many partitions."""
    search = StraySearch("docs", PointId("0"), PointId("f"))
    assert weigh(search, Chunking()) == (0, 1)
    assert list(Packer(FrozenLimits(partition_objects=1), Chunking()).pack([search, search])) == [(search,), (search,)]


CHUNKS: list[tuple[str, int, Callable[[int], bool]]] = [
    ("a.txt", 0, lambda n: n == 1),
    ("a.txt", 105_000, lambda n: n == 100),
    ("a.pdf", 105_000, lambda n: n == 10),
    ("a.txt.gz", 105_000, lambda n: n == 400),
]


@pytest.mark.parametrize(("key", "size", "plausible"), CHUNKS)
def test_estimates(key: str, size: int, plausible: Callable[[int], bool]) -> None:
    """Estimates follow size and type, and are never zero."""
    assert plausible(estimate_chunks(ref(key, size), Chunking()))
