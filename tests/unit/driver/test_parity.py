"""Modes verify, repair and delete over in-memory ports: damage is found exactly and repaired from what is left."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from ingestion_engine.domain.ids import PartitionId, PointId, SegmentKind, make_object_id
from ingestion_engine.domain.records import Point
from ingestion_engine.domain.spec import JobRequest, StoreName
from ingestion_engine.state.collections import read_verified
from ingestion_engine.state.ledger import Ledger
from support.doubles import Crash, Killed, MemoryStore
from support.world import World

Items = dict[str, dict[str, Any]]
CHUNKS = {"a.txt": 1, "b.txt": 4, "c/d.txt": 12, "e.txt": 30}


@pytest.fixture
def world() -> World:
    """A collection that was ingested with metadata into both stores."""
    made = World()
    for key, count in CHUNKS.items():
        made.bucket.put(
            key, "\n\n".join(f"Paragraph {i} of {key} speaks about {i * 7 % 13} at length." for i in range(count))
        )
    assert made.run(metadata={"team": "docs"})["state"] == "succeeded"
    return made


def snapshot(world: World) -> list[Any]:
    """Return all points of both stores without their job fields."""
    job_fields = {"epoch", "job_id", "ingested_at"}
    return [
        [
            (p.id, {k: v for k, v in p.payload.items() if k not in job_fields}, p.vector.tolist())
            for p in world.points(s)
        ]
        for s in world.stores.values()
    ]


def verify(world: World, **request: Any) -> tuple[dict[str, Any], Items]:
    """Verify, and return the summary and the differences by key."""
    ledger = world.submit(mode="verify", **request)
    summary = world.attempt(ledger)
    assert summary is not None
    items, cursor = ledger.read_failures(None, 1000)
    assert cursor is None
    return summary, {item["key"]: item["differences"] for item in items}


def points_of(store: MemoryStore, key: str) -> list[Point]:
    held = [p for p in store.collections["notes"].values() if p.payload.get("object_id") == make_object_id("docs", key)]
    return sorted(held, key=lambda p: p.payload["chunk_index"])


def put(store: MemoryStore, point: Point, **payload: Any) -> None:
    store.collections["notes"][point.id] = replace(point, payload={**point.payload, **payload})


def swap_vectors(store: MemoryStore, key: str, left: int, right: int) -> None:
    points, held = points_of(store, key), store.collections["notes"]
    held[points[left].id] = replace(points[left], vector=points[right].vector)
    held[points[right].id] = replace(points[right], vector=points[left].vector)


def drop(store: MemoryStore, key: str, *indexes: int) -> None:
    points = points_of(store, key)
    for index in indexes:
        del store.collections["notes"][points[index].id]


def foreign(key: str | None, number: int, **payload: Any) -> Point:
    named = {"object_id": make_object_id("docs", key), "key": key} if key else {}
    point_id = PointId(f"{number:08x}-0000-4000-8000-{number:012x}")
    return Point(point_id, {**named, "text": "not ours", **payload}, np.ones(8, np.float32))


def test_an_undamaged_collection_is_the_same_everywhere(world: World) -> None:
    """Nothing is written, and nothing is read from the bucket; the time is recorded."""
    calls, gets, writes = world.embedder.calls, world.bucket.gets, world.qdrant.writes
    summary, items = verify(world)
    assert (summary["state"], summary["error"], items) == ("succeeded", None, {})
    assert summary["counts"]["verified"] == summary["counts"]["listed"] == len(CHUNKS)
    assert (world.embedder.calls, world.bucket.gets, world.qdrant.writes) == (calls, gets, writes)
    verified = read_verified(world.state, "notes")
    assert verified is not None
    assert (verified["job_id"], verified["differences"]) == (summary["job_id"], 0)


Damage = Callable[[World], object]
Q, W = StoreName.QDRANT, StoreName.WEAVIATE
CASES: dict[str, tuple[Damage, Items, int]] = {
    "points lost in one store": (
        lambda w: drop(w.qdrant, "e.txt", 3, 9, 17),
        {"e.txt": {"qdrant": {"missing": 3}}},
        0,
    ),
    "points lost in both, different ones": (
        lambda w: (drop(w.qdrant, "e.txt", 3), drop(w.weaviate, "e.txt", 4, 5)),
        {"e.txt": {"qdrant": {"missing": 1}, "weaviate": {"missing": 2}}},
        0,
    ),
    "the same point lost in both": (
        lambda w: (drop(w.qdrant, "b.txt", 2), drop(w.weaviate, "b.txt", 2)),
        {"b.txt": {"qdrant": {"missing": 1}, "weaviate": {"missing": 1}}},
        1,
    ),
    "a payload changed": (
        lambda w: put(w.weaviate, points_of(w.weaviate, "c/d.txt")[5], title="Another"),
        {"c/d.txt": {"weaviate": {"payload": 1}}},
        0,
    ),
    "a payload that names another object": (
        lambda w: put(w.qdrant, points_of(w.qdrant, "c/d.txt")[5], object_id="00000000-0000-4000-8000-000000000000"),
        {"c/d.txt": {"qdrant": {"payload": 1}}},
        0,
    ),
    "job fields changed in one store": (
        lambda w: put(w.weaviate, points_of(w.weaviate, "a.txt")[0], epoch=99),
        {"a.txt": {"weaviate": {"payload": 1}}},
        0,
    ),
    "payloads changed in both, different ones": (
        lambda w: (
            put(w.weaviate, points_of(w.weaviate, "c/d.txt")[5], text="x"),
            put(w.qdrant, points_of(w.qdrant, "c/d.txt")[6], text="y"),
        ),
        {"c/d.txt": {"qdrant": {"payload": 1}, "weaviate": {"payload": 1}}},
        0,
    ),
    "the same payload changed in both": (
        lambda w: [put(s, points_of(s, "b.txt")[1], text="x") for s in w.stores.values()],
        {"b.txt": {"qdrant": {"digest": 4}, "weaviate": {"digest": 4}}},
        0,
    ),
    "vectors swapped in Qdrant": (
        lambda w: swap_vectors(w.qdrant, "e.txt", 1, 2),
        {"e.txt": {"qdrant": {"vector": 2}}},
        0,
    ),
    "vectors swapped in Weaviate": (
        lambda w: swap_vectors(w.weaviate, "e.txt", 1, 2),
        {"e.txt": {"weaviate": {"vector": 2}}},
        0,
    ),
    "vectors swapped in one, points lost in the other": (
        lambda w: (swap_vectors(w.weaviate, "e.txt", 1, 2), drop(w.qdrant, "e.txt", 7, 8)),
        {"e.txt": {"qdrant": {"missing": 2}, "weaviate": {"vector": 2}}},
        0,
    ),
    "the same vectors swapped in both": (
        lambda w: [swap_vectors(s, "b.txt", 1, 2) for s in w.stores.values()],
        {"b.txt": {"qdrant": {"vector_digest": 4}, "weaviate": {"vector_digest": 4}}},
        4,
    ),
    "an extra point of a known object": (
        lambda w: put(w.qdrant, foreign("b.txt", 7, chunk_index=1, epoch=10**6)),
        {"b.txt": {"qdrant": {"extra": 1}}},
        0,
    ),
    "the same extra point in both": (
        lambda w: [put(s, foreign("b.txt", 7, chunk_index=1, epoch=10**6)) for s in w.stores.values()],
        {"b.txt": {"qdrant": {"extra": 1}, "weaviate": {"extra": 1}}},
        0,
    ),
    "points of no object": (
        lambda w: [put(w.weaviate, foreign(None, n)) for n in range(3)],
        {"": {"weaviate": {"foreign": 3}}},
        0,
    ),
    "points of an object that is not in the collection": (
        lambda w: [put(s, foreign("ghost.txt", 9, chunk_index=0)) for s in w.stores.values()],
        {"ghost.txt": {"qdrant": {"foreign": 1}, "weaviate": {"foreign": 1}}},
        0,
    ),
    "one store lost the collection": (
        lambda w: w.qdrant.collections.pop("notes"),
        {key: {"qdrant": {"missing": chunks}} for key, chunks in CHUNKS.items()},
        0,
    ),
    "both stores lost the collection": (
        lambda w: [s.collections.pop("notes") for s in w.stores.values()],
        {key: {"qdrant": {"missing": n}, "weaviate": {"missing": n}} for key, n in CHUNKS.items()},
        sum(CHUNKS.values()),
    ),
}


@pytest.mark.parametrize("case", CASES, ids=CASES.keys())
def test_damage_is_named_exactly_and_mended(world: World, case: str) -> None:
    """Verify names each object and kind; repair restores both stores and embeds only what neither had; sync is idle."""
    damage, expected, embedded = CASES[case]
    before = snapshot(world)
    damage(world)
    summary, items = verify(world)
    assert items == expected
    assert (summary["state"], summary["error"]["code"]) == ("failed", "differences_found")
    world.embedder.texts.clear()
    repaired = world.run(mode="repair")
    assert repaired["state"] == "succeeded"
    assert len(world.embedder.texts) == embedded
    assert snapshot(world) == before
    for store in world.stores.values():
        assert len(store.collections["notes"]) == sum(CHUNKS.values())
    assert verify(world)[1] == {}
    gets = world.bucket.gets
    assert world.run(metadata={"team": "docs"})["counts"]["unchanged"] == len(CHUNKS)
    assert world.bucket.gets == gets


def test_repair_twice_is_repair_once(world: World) -> None:
    """The second finds nothing to write."""
    drop(world.qdrant, "e.txt", 1)
    assert world.run(mode="repair")["counts"]["repaired"] == 1
    writes = world.qdrant.writes, world.weaviate.writes
    again = world.run(mode="repair")
    assert (again["counts"]["repaired"], again["counts"]["done"]) == (0, len(CHUNKS))
    assert (world.qdrant.writes, world.weaviate.writes) == writes


def test_only_what_was_asked_for_is_compared(world: World) -> None:
    """Prefix and globs; foreign points elsewhere are not this job's."""
    drop(world.qdrant, "e.txt", 1)
    drop(world.qdrant, "c/d.txt", 1)
    put(world.qdrant, foreign("ghost.txt", 9))
    put(world.qdrant, foreign("c/ghost.txt", 10))
    summary, items = verify(world, source={"bucket": "docs", "prefix": "c/"})
    assert items == {"c/d.txt": {"qdrant": {"missing": 1}}, "c/ghost.txt": {"qdrant": {"foreign": 1}}}
    assert summary["counts"]["verified"] == 1
    assert read_verified(world.state, "notes") is None


def test_a_failed_version_keeps_its_old_points_comparable(world: World) -> None:
    """The table describes the old points; they are verified and repaired without reading the broken object."""
    before = snapshot(world)
    world.bucket.put("b.txt", "{NAN} cannot be embedded")
    assert world.run(metadata={"team": "docs"})["state"] == "partially_succeeded"
    assert verify(world)[1] == {}
    drop(world.weaviate, "b.txt", 0, 1)
    assert world.run(mode="repair")["counts"]["repaired"] == 1
    assert snapshot(world) == before
    assert world.table()["b.txt"] == ("failed", "embedding_nan")


def test_what_a_dead_job_left_half_done_is_ingested_again(world: World) -> None:
    """Repair finishes it under its own job's metadata."""
    world.bucket.put("b.txt", "\n\n".join(f"Another paragraph {i} of b which is new and long." for i in range(5)))
    ledger = world.submit(metadata={"team": "docs"})
    writes = 0

    def end(kind: str) -> None:
        nonlocal writes
        writes += 1
        if writes == 3:
            raise Crash

    world.weaviate.before_write = end
    with pytest.raises(BaseException) as ended:
        world.attempt(ledger)
    assert "Crash" in repr(ended.value)
    world.weaviate.before_write = lambda _kind: None
    assert world.run(mode="repair")["state"] == "succeeded"
    assert len(world.texts("b.txt")) == 5
    assert all(p.payload["metadata"] == {"team": "docs"} for p in world.points(world.qdrant, "b.txt"))
    assert verify(world)[1] == {}
    assert world.run(metadata={"team": "docs"})["counts"]["unchanged"] == len(CHUNKS)


def test_a_crash_at_any_write_of_a_repair_is_finished_by_the_next_attempt(world: World) -> None:
    """The process ends at each write to a store in turn."""
    before = snapshot(world)
    for stop_at in range(1, 40):
        drop(world.qdrant, "e.txt", 1)
        for store in world.stores.values():
            drop(store, "b.txt", 2)
        ledger = world.submit(mode="repair")
        count = 0

        def end(kind: str, stop_at: int = stop_at) -> None:
            nonlocal count
            count += 1
            if count == stop_at:
                raise Crash

        world.qdrant.before_write = end
        try:
            summary = world.attempt(ledger)
        except BaseException:
            summary = None
        world.qdrant.before_write = lambda _kind: None
        if summary is None:
            summary = world.attempt(ledger, 2)
        assert summary is not None
        assert summary["state"] == "succeeded"
        assert snapshot(world) == before, stop_at
        if count < stop_at:
            break
    else:
        pytest.fail("the repair never ran through")


def test_random_damage_is_found_and_mended(world: World) -> None:
    """Random losses, changed payloads and swapped vectors, each in one store, are repaired."""
    before = snapshot(world)
    dice = random.Random(5)
    for _ in range(20):
        store = dice.choice(list(world.stores.values()))
        for key in CHUNKS:
            points = points_of(store, key)
            for index, point in enumerate(points):
                luck = dice.random()
                if luck < 0.05:
                    del store.collections["notes"][point.id]
                elif luck < 0.1:
                    put(store, point, title=f"changed {index}")
                elif luck < 0.15:
                    store.collections["notes"][point.id] = replace(point, vector=points[0].vector)
        world.embedder.texts.clear()
        assert world.run(mode="repair")["state"] == "succeeded"
        assert world.embedder.texts == []
        assert snapshot(world) == before


def test_delete_removes_objects_whatever_the_bucket_holds(world: World) -> None:
    """Points and rows are removed without a request to the bucket; the next sync ingests them again."""
    summary = world.run(mode="delete", source={"bucket": "docs", "prefix": "c/"})
    assert (summary["state"], summary["counts"]["deleted"]) == ("succeeded", 1)
    assert set(world.table()) == set(CHUNKS) - {"c/d.txt"}
    assert world.texts("c/d.txt") == []
    assert world.run(metadata={"team": "docs"})["counts"]["new"] == 1
    assert len(world.texts("c/d.txt")) == CHUNKS["c/d.txt"]


def test_delete_everything_needs_no_second_word(world: World) -> None:
    """The guard against mass deletion only applies to deletions found by planning."""
    summary = world.run(mode="delete")
    assert (summary["state"], summary["counts"]["deleted"]) == ("succeeded", len(CHUNKS))
    assert world.points(world.qdrant) == world.points(world.weaviate) == []
    assert world.table() == {}


def test_a_collection_that_is_not_there_is_said_so() -> None:
    """Verify, repair and delete do not create a collection."""
    for mode in ("verify", "repair", "delete"):
        summary = World().run(mode=mode)
        assert (summary["state"], summary["error"]["code"]) == ("failed", "collection_not_found")


@pytest.mark.parametrize("mode", ["verify", "repair"])
def test_a_collection_that_cannot_hold_the_vectors_is_named(world: World, mode: str) -> None:
    """Otherwise every object would differ, and no repair would help."""
    world.weaviate.contracts["notes"] = world.weaviate.contracts["notes"].model_copy(update={"dimension": 3})
    summary = world.run(mode=mode)
    assert (summary["state"], summary["error"]["code"]) == ("failed", "schema_mismatch")
    assert summary["counts"]["different"] == 0


def test_metadata_belongs_to_ingestion() -> None:
    """A request to verify with metadata is refused, because metadata would have no effect."""
    with pytest.raises(ValueError, match="metadata requires a mode that ingests objects"):
        JobRequest(source={"bucket": "docs"}, collection="notes", mode="verify", metadata={"a": "b"})


def test_a_deadly_search_is_named_by_its_range(world: World) -> None:
    """A search for stray points that kills its process is recorded under its range, and no verification succeeds."""
    put(world.qdrant, foreign("ghost.txt", 9))
    ledger, engine = world.submit(mode="verify"), world.engine

    def die(partition_id: PartitionId) -> None:
        if partition_id.kind is SegmentKind.STRAY_SEARCHES:
            raise Killed

    engine.before = die
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "comparison_incomplete")
    assert summary["counts"]["searches_failed"] == 1
    assert read_verified(world.state, "notes") is None
    items, _ = ledger.read_failures(None, 10)
    everything = f"{UUID(int=0)}..{UUID(int=2**128 - 1)}"
    assert [(item["key"], item["code"]) for item in items] == [(everything, "kills_worker")]


@pytest.mark.parametrize("mode", ["verify", "repair"])
def test_a_comparison_that_leaves_a_search_out_does_not_succeed(world: World, mode: str) -> None:
    """Stray points may be anywhere in the range that could not be searched."""
    put(world.qdrant, foreign("ghost.txt", 9))
    engine = world.engine
    engine.before = dies_in(lambda pid, _: pid.kind is SegmentKind.STRAY_SEARCHES)
    summary = world.attempt(world.submit(mode=mode), engine=engine)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "comparison_incomplete")


def test_a_verification_without_one_of_its_objects_does_not_succeed(world: World) -> None:
    """An object whose comparison kills its process is not the same in both stores as far as anybody knows."""
    ledger, engine = world.submit(mode="verify"), world.engine
    engine.before = dies_in(lambda _pid, keys: "b.txt" in keys, ledger)
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "comparison_incomplete")
    assert read_verified(world.state, "notes") is None


@pytest.mark.parametrize("what", ["object", "search"])
def test_an_alias_does_not_move_on_an_incomplete_proof(world: World, what: str) -> None:
    """What could not be compared is not proven equal."""
    put(world.qdrant, foreign("ghost.txt", 9))
    if what == "object":
        world.qdrant.collections["notes"].clear()
        assert world.run(mode="full")["state"] == "succeeded"
    ledger, engine = world.submit(alias="live", metadata={"team": "docs"}), world.engine

    def is_deadly(pid: PartitionId, keys: set[str]) -> bool:
        return pid.kind is SegmentKind.STRAY_SEARCHES if what == "search" else "b.txt" in keys

    engine.before = dies_in(is_deadly, ledger)
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "comparison_incomplete")
    assert world.qdrant.aliases == world.weaviate.aliases == {}


def dies_in(
    is_deadly: Callable[[PartitionId, set[str]], bool], ledger: Ledger | None = None
) -> Callable[[PartitionId], None]:
    """Return what an engine does before a partition: it dies in the deadly ones, named by id and keys."""

    def before(partition_id: PartitionId) -> None:
        planned = () if ledger is None else ledger.read_partition(partition_id).objects
        if is_deadly(partition_id, {item.ref.key for item in planned}):
            raise Killed

    return before


def test_completing_an_interrupted_job_is_not_counted_as_repair(world: World) -> None:
    """After a full job that ended early, repair ingests all of its objects again, but repaired only what differs."""
    ledger, engine = world.submit(mode="full", metadata={"team": "docs"}), world.engine
    engine.before = lambda _partition_id: ledger.request_abort("enough")
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["state"] == "canceled"
    assert {code for _, code in world.table().values()} == {"interrupted"}
    counts = world.run(mode="repair")["counts"]
    assert (counts["repaired"], counts["retried"], counts["done"]) == (0, len(CHUNKS), len(CHUNKS))
    assert verify(world)[1] == {}
