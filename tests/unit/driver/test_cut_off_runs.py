"""Points of an interrupted run never remain beside another version of their object."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import ObjectRef
from ingestion_engine.driver.plan import plan_thread
from support.doubles import Crash, MemoryBucket
from support.world import World

TEXTS = [f"Paragraph number {i} speaks about subject {i * 7 % 13} at length." for i in range(8)]


@pytest.fixture(params=[False, True], ids=["new", "known"])
def world(request: pytest.FixtureRequest) -> World:
    """A bucket with one object to ingest: a new one, or a new version of an ingested one."""
    made = World()
    if request.param:
        made.bucket.put("a.txt", TEXTS[0])
        made.run()
    made.bucket.put("a.txt", "\n\n".join(TEXTS[1:4]))
    return made


def cut_off(world: World, error: BaseException) -> list[int]:
    """Let the second point written to Weaviate raise an error; the list counts the points written."""
    points = [0]

    def count(_kind: str) -> None:
        points[0] += 1
        if points[0] == 2:
            raise error

    world.weaviate.before_write = count
    return points


def test_a_version_that_came_while_its_partition_was_put_back_stands_alone(world: World) -> None:
    """Both runs write under the same epoch, so the epoch does not distinguish their points."""
    points = cut_off(world, TransientError("store_unavailable", "weaviate is unavailable"))
    world.bucket.on_get = lambda key: world.bucket.put(key, TEXTS[5]) if points[0] == 2 else None
    assert world.run()["state"] == "succeeded"
    assert world.texts("a.txt") == [TEXTS[5]]


def test_an_object_that_went_while_its_partition_was_put_back_leaves_nothing(world: World) -> None:
    """Also when the object had no points before this job."""
    points = cut_off(world, TransientError("store_unavailable", "weaviate is unavailable"))
    world.bucket.on_get = lambda key: world.bucket.objects.pop(key, None) and None if points[0] == 2 else None
    assert world.run()["counts"]["gone"] == 1
    assert world.texts("a.txt") == []
    assert world.table() == {}


@pytest.mark.parametrize("mode", ["sync", "full"])
def test_of_an_object_that_never_succeeded_nothing_stays(mode: str) -> None:
    """The first version was half written when the process ended, the second one cannot be ingested."""
    world = World()
    world.bucket.put("a.txt", "\n\n".join(TEXTS[1:4]))
    cut_off(world, Crash())
    with pytest.raises(Crash):
        world.attempt(world.submit())
    world.weaviate.before_write = lambda _kind: None
    world.bucket.put("a.txt", bytes(range(256)))
    world.run(mode=mode)
    assert world.table() == {"a.txt": ("failed", "binary_content")}
    assert world.texts("a.txt") == []


class TornListing(MemoryBucket):
    """Its second listing breaks off after the first object; ``then`` happens before the third."""

    listings = 0

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        self.listings += 1
        if self.listings == 3:
            self.then()
        for number, ref in enumerate(super().list_objects(bucket, prefix)):
            if self.listings == 2 and number == 1:
                raise TransientError("s3_unavailable", "the listing broke off")
            yield ref

    def then(self) -> None:
        """Change the bucket before the third listing; does nothing by default."""


class Changing(TornListing):
    """The first object changes."""

    def then(self) -> None:
        self.put("a.txt", TEXTS[5])


class Vanishing(TornListing):
    """The first object is deleted."""

    def then(self) -> None:
        del self.objects["a.txt"]


@pytest.mark.parametrize(("bucket", "left"), [(Changing(), [TEXTS[5]]), (Vanishing(), [])], ids=["changed", "gone"])
@pytest.mark.parametrize("mode", ["sync", "full"])
def test_what_a_plan_wrote_before_it_was_given_up_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, bucket: TornListing, left: list[str], mode: str
) -> None:
    """The attempt's next plan finds points of its own epoch that belong to a replaced version."""
    monkeypatch.setattr(plan_thread, "BLOCK_OBJECTS", 1)
    world = World(bucket=type(bucket)())
    world.bucket.put("b.txt", TEXTS[7])
    world.run()
    world.bucket.put("a.txt", "\n\n".join(TEXTS[1:4]))
    summary = world.run(mode=mode)
    assert summary["state"] == "succeeded"
    assert world.texts("a.txt") == left
    assert world.texts("b.txt") == [TEXTS[7]]


def test_a_directory_marker_in_the_place_of_an_object_removes_its_points() -> None:
    """A HEAD request would find the marker and keep the points forever."""
    world = World()
    world.bucket.put("a.txt", TEXTS[0])
    world.bucket.put("docs/", TEXTS[1])
    world.run()
    world.bucket.put("docs/", b"")
    assert world.run()["counts"]["deleted"] == 1
    assert world.texts("docs/") == []
    assert world.run()["counts"]["to_delete"] == 0


def test_an_object_that_came_back_is_not_interrupted_with_its_job() -> None:
    """Its planned deletion was not executed; the early end of the job does not affect it."""
    world = World()
    for key in ("a.txt", "b.txt"):
        world.bucket.put(key, TEXTS[0])
    world.run()
    gone = world.bucket.objects.pop("a.txt")
    del world.bucket.objects["b.txt"]
    world.bucket.put("c.txt", TEXTS[2])
    world.limits = world.limits.model_copy(update={"partition_objects": 1})
    engine, ledger = world.engine, world.submit(parallelism=1)

    def put_back(partition_id: PartitionId) -> None:
        keys = [planned.ref.key for planned in ledger.read_partition(partition_id).objects]
        if keys == ["a.txt"]:
            world.bucket.objects["a.txt"] = gone
        elif keys == ["b.txt"]:
            ledger.request_abort("changed my mind")

    engine.before = put_back
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["state"] == "canceled"
    assert world.table()["a.txt"] == ("present", None)
    assert world.table()["b.txt"] == ("failed", "interrupted")
