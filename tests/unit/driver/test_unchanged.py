"""The cost of a frequent sync when little has changed, and what it leaves unchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.state.object_table.table import ObjectTable
from support.doubles import MemoryBucket
from support.world import World


def costs(world: World) -> tuple[int, ...]:
    """Return the numbers of GETs, embed calls and writes to each store so far."""
    return world.bucket.gets, world.embedder.calls, world.qdrant.writes, world.weaviate.writes


def ingest(world: World, objects: int) -> str:
    """Put objects, ingest one, and record the others as ingested by the same job; return the key of the one."""
    for number in range(objects):
        world.bucket.put(f"{number % 7}/{number:06}.txt", f"Note {number}.")
    real = "3/000003.txt"
    world.run(source={"bucket": "docs", "include": [real]})
    table = ObjectTable(world.state, "notes")
    (row,) = table.scan()
    others = (
        replace(
            row,
            key=ref.key,
            etag=ref.etag,
            size_bytes=ref.size_bytes,
            last_modified=ref.last_modified,
            object_id=make_object_id("docs", ref.key),
        )
        for ref in world.bucket.list_objects("docs", "")
        if ref.key != real
    )
    table.append_unsorted(others, epoch=row.epoch, job_id=row.job_id)
    return real


@pytest.mark.parametrize("objects", [5_000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_only_what_changed_costs_anything(objects: int) -> None:
    """Many unchanged objects cost no GET, embed call or store write; one changed object costs only its own."""
    world = World()
    changed = ingest(world, objects)
    before = costs(world)

    unchanged = world.run()
    assert (unchanged["state"], unchanged["counts"]["unchanged"]) == ("succeeded", objects)
    assert costs(world) == before

    world.bucket.put(changed, "Another note.")
    counts = world.run()["counts"]
    assert (counts["planned"], counts["changed"], counts["done"], counts["unchanged"]) == (1, 1, 1, objects - 1)
    gets, calls, *writes = (now - then for now, then in zip(costs(world), before, strict=True))
    # Each store is written to twice: the new points, then the stale ones go.
    assert (gets, calls, writes) == (1, 1, [2, 2])
    assert world.texts(changed) == ["Another note."]


def test_objects_that_changed_together_share_requests() -> None:
    """A partition of changed objects costs each store one write of points and one removal."""
    world = World()
    for version in ("old", "new"):
        for number in range(40):
            world.bucket.put(f"{number:02}.txt", f"Note {number} is {version}.")
        before = costs(world)
        counts = world.run(parallelism=1)["counts"]
    assert counts["changed"] == 40
    assert counts["partitions_planned"] == 4
    *_, qdrant, weaviate = (now - then for now, then in zip(costs(world), before, strict=True))
    assert (qdrant, weaviate) == (2 * 4, 2 * 4)
    assert world.texts("07.txt") == ["Note 7 is new."]


def test_narrowed_filters_leave_the_rest_alone_and_say_so() -> None:
    """Objects outside the globs keep rows and points, even when deleted; they are counted but not listed."""
    world = World()
    for key in ("2023/a.md", "2024/b.md", "2024/c.pdf.txt", "x/2024/d.md"):
        world.bucket.put(key, f"This is {key}.")
    world.run()
    held = world.points(world.qdrant)
    del world.bucket.objects["2023/a.md"]
    del world.bucket.objects["2024/b.md"]
    listed: list[str] = []
    list_objects = world.bucket.list_objects

    def record(bucket: str, prefix: str) -> Any:
        listed.append(prefix)
        return list_objects(bucket, prefix)

    world.bucket.list_objects = record
    source = {"bucket": "docs", "include": ["2024/**/*.md", "2024/*.md"]}
    for mode in ("plan", "sync"):
        summary = world.run(source=source, mode=mode, allow_mass_delete=True)
        assert (summary["counts"]["outside_filters"], summary["counts"]["to_delete"]) == (3, 1)
    assert listed == ["2024/", "2024/"]
    assert world.points(world.qdrant) == [point for point in held if point.payload["key"] != "2024/b.md"]
    assert sorted(world.table()) == ["2023/a.md", "2024/c.pdf.txt", "x/2024/d.md"]


def test_several_prefixes_are_one_listing() -> None:
    """New, changed and deleted objects are the same with and without globs, also for an unordered listing."""
    for shuffle in (False, True):
        world = World(bucket=MemoryBucket(shuffle=shuffle))
        for key in ("b/1.md", "a b/2.md", "a/3.md", "c/4.md"):
            world.bucket.put(key, f"This is {key}.")
        source = {"bucket": "docs", "include": ["b/**", "a/*", "a b/*"]}
        assert world.run(source=source)["counts"]["new"] == 3
        world.bucket.put("a b/2.md", "This is another text.")
        del world.bucket.objects["a/3.md"]
        counts = world.run(source=source)["counts"]
        assert (counts["changed"], counts["deleted"], counts["unchanged"]) == (1, 1, 1)
        assert sorted(world.table()) == ["a b/2.md", "b/1.md"]
