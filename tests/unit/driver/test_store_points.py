"""Points by store: what a job has written and deleted, once each, whatever fails and is repeated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import Point
from ingestion_engine.driver.counts import Counts
from support.doubles import Crash, Killed
from support.world import World, make_world


@pytest.fixture
def world() -> World:
    made = make_world()
    made.limits = made.limits.model_copy(update={"embed_batch_texts": 1})
    return made


def points_of(summary: dict[str, object]) -> dict[str, tuple[int, int]]:
    """Return the points that a job has written to each store and deleted from it."""
    counts = summary["counts"]
    assert isinstance(counts, dict)
    return {
        store: (counts[f"points_written.{store}"], counts[f"points_deleted.{store}"])
        for store in ("qdrant", "weaviate")
    }


def failing(kind: str, times: int, *, after: int = 0) -> Callable[[str], None]:
    """Return what makes some writes of a kind fail."""
    left = [after, times]

    def fail(found: str) -> None:
        if found != kind:
            return
        left[0] -= 1
        if left[0] < 0 and left[1]:
            left[1] -= 1
            raise TransientError("weaviate_unavailable", "Weaviate is unavailable.")

    return fail


def test_both_stores_are_counted_alike(world: World) -> None:
    """New objects, then a changed one and a deleted one; a job that changes nothing has zeros, not nothing."""
    first = world.run()
    chunks = first["counts"]["chunks"]
    assert points_of(first) == {"qdrant": (chunks, 0), "weaviate": (chunks, 0)}
    assert points_of(world.run()) == {"qdrant": (0, 0), "weaviate": (0, 0)}
    world.bucket.put("doc-12.txt", "Only this is left of it.")
    world.bucket.objects.pop("doc-03.txt")
    old = len(world.points(world.qdrant, "doc-12.txt")) + len(world.points(world.qdrant, "doc-03.txt"))
    assert points_of(world.run()) == {"qdrant": (1, old), "weaviate": (1, old)}
    assert points_of(world.run(mode="delete")) == {"qdrant": (0, 2), "weaviate": (0, 2)}


def test_what_a_store_takes_again_after_an_outage_counts_once(world: World) -> None:
    """One store has the points while the other fails: the partition runs again, and the numbers are those applied."""
    world.weaviate.before_write = failing("upsert", 2, after=3)
    summary = world.run()
    applied = len(world.points(world.qdrant))
    assert summary["counts"]["partitions_repeated"] == 2
    assert world.qdrant.writes > summary["counts"]["partitions_done"]
    assert points_of(summary) == {"qdrant": (applied, 0), "weaviate": (applied, 0)}


def test_what_a_store_has_deleted_before_the_other_failed_counts(world: World) -> None:
    """The repetition finds nothing to delete in the store that was available."""
    world.run()
    old = len(world.points(world.qdrant, "doc-12.txt"))
    world.bucket.put("doc-12.txt", "Only this is left of it.")
    world.weaviate.before_write = failing("delete", 2)
    summary = world.run()
    assert summary["counts"]["partitions_repeated"] == 2
    assert points_of(summary) == {"qdrant": (1, old), "weaviate": (1, old)}


def test_a_point_that_a_store_refuses_makes_a_difference(world: World) -> None:
    """Points of a failed object count where they were taken, and so does their removal."""

    def refuse(point: Point) -> str | None:
        odd = point.payload["key"] == "doc-03.txt" and point.payload["chunk_index"] == 0
        return "too strange" if odd else None

    world.weaviate.refuse = refuse
    summary = world.run()
    failed = summary["counts"]["failed"]
    assert failed == 1
    left = len(world.points(world.qdrant))
    (written, deleted), (less_written, less_deleted) = points_of(summary).values()
    assert (written - less_written, deleted - less_deleted) == (1, 1)
    assert written - deleted == less_written - less_deleted == left


def test_a_worker_that_dies_counts_nothing_twice(world: World) -> None:
    """Its partition has no report; the one that runs in its place has."""
    died = iter(range(2))
    ledger, engine = world.submit(parallelism=1), world.engine

    def die_in_the_middle(kind: str) -> None:
        if kind == "upsert" and len(world.points(world.qdrant)) >= 4 and next(died, None) is not None:
            raise Killed

    world.weaviate.before_write = die_in_the_middle
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert next(died, None) is None
    applied = len(world.points(world.qdrant))
    assert points_of(summary) == {"qdrant": (applied, 0), "weaviate": (applied, 0)}


def test_the_next_attempt_goes_on_from_what_is_reported(world: World) -> None:
    """A driver that dies loses no report of its workers."""
    ledger, engine, ran = world.submit(parallelism=1), world.engine, list[PartitionId]()

    def crash_at_the_second(partition_id: PartitionId) -> None:
        ran.append(partition_id)
        if len(ran) == 2:
            raise Crash

    engine.before = crash_at_the_second
    with pytest.raises(Crash):
        world.attempt(ledger, engine=engine)
    done = len(world.points(world.qdrant))
    world.wall_s += 1000
    summary = world.attempt(ledger, 2)
    assert summary is not None
    applied = len(world.points(world.qdrant))
    assert 0 < done < applied
    assert points_of(summary) == {"qdrant": (applied, 0), "weaviate": (applied, 0)}


def test_comparisons_show_what_each_store_holds(world: World) -> None:
    """Also where the stores differ; a repair makes them equal, and writes and deletes alike but for strays."""
    world.run()
    lost = world.points(world.weaviate, "doc-12.txt")[0]
    del world.weaviate.collections["notes"][lost.id]
    all_points = len(world.points(world.qdrant))
    verified = world.run(mode="verify")["counts"]
    found = (verified["points_found.qdrant"], verified["points_found.weaviate"])
    assert found == (all_points, all_points - 1)
    assert points_of(world.run(mode="verify")) == {"qdrant": (0, 0), "weaviate": (0, 0)}
    repaired = world.run(mode="repair")
    counts, object_points = repaired["counts"], len(world.points(world.qdrant, "doc-12.txt"))
    assert (counts["points_found.qdrant"], counts["points_found.weaviate"]) == (all_points, all_points)
    assert points_of(repaired) == {"qdrant": (object_points, 0), "weaviate": (object_points, 0)}


def test_points_of_workers_of_an_earlier_release_are_unknown(world: World) -> None:
    """Not zero, and not only those of the partitions whose workers count; also for a later attempt."""
    counts, later = Counts(points={"qdrant": {"written": 0, "deleted": 0}}), Counts()
    ledger = world.submit(parallelism=1)
    world.attempt(ledger)
    reports = list(ledger.iter_reports())
    old = type(reports[0]).from_json({k: v for k, v in reports[0].to_json().items() if k != "points"})
    assert old.points is None
    for report in (old, *reports[1:]):
        counts.add_report(report)
    assert not [name for name in counts.to_json() if name.startswith("points_")]
    later.continue_from(counts)
    later.add_report(reports[0])
    assert not [name for name in later.to_json() if name.startswith("points_")]
