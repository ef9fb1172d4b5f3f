"""The driver and the runner over in-memory ports: what a job leaves behind, cleanly and after crashes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from doubles import Crash, HashEmbedder, InProcessEngine
from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import Point
from ingestion_engine.state.collections import list_open_plans
from world import FAST, SkippingClock, World

PARAGRAPHS = [f"Paragraph number {i} speaks about subject {i * 7 % 13} at length." for i in range(12)]


@pytest.fixture
def world() -> World:
    """A bucket with a few objects of one to twelve chunks."""
    made = World()
    for count in (1, 3, 12):
        made.bucket.put(f"doc-{count:02}.txt", "\n\n".join(f"{p} ({count})" for p in PARAGRAPHS[:count]))
    return made


class MeetingEmbedder(HashEmbedder):
    """Answers the first request only when a second has come, and leaves a third one time to come as well."""

    def __init__(self) -> None:
        super().__init__()
        self.second = asyncio.Event()
        self.inside = self.most_inside = 0

    async def embed(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.inside == 2:
            self.second.set()
        try:
            async with asyncio.timeout(10):
                await self.second.wait()
        except TimeoutError:
            self.second.set()  # nobody comes: all may go on, and ``most_inside`` tells
        for _ in range(100):
            await asyncio.sleep(0)
        try:
            return await super().embed(model, texts)
        finally:
            self.inside -= 1


def balanced(summary: dict[str, object]) -> bool:
    counts = summary["counts"]
    assert isinstance(counts, dict)
    return bool(counts["done"] + counts["failed"] + counts["skipped"] == counts["listed"])


def test_every_object_reaches_both_stores(world: World) -> None:
    """Ids, payloads and vectors are the same in both; the table lists what is there."""
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["error"] is None
    assert balanced(summary)
    assert len(world.texts("doc-12.txt")) >= 12
    assert summary["counts"]["chunks"] == len(world.points(world.qdrant)) == summary["counts"]["chunks_embedded"]
    assert world.table() == {f"doc-{n:02}.txt": ("present", None) for n in (1, 3, 12)}


def test_a_second_run_reads_and_embeds_nothing(world: World) -> None:
    """Unchanged objects cost no GET, no embed call and no store write."""
    world.run()
    gets, calls, writes = world.bucket.gets, world.embedder.calls, world.qdrant.writes
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["counts"]["unchanged"] == summary["counts"]["skipped"] == 3
    assert (world.bucket.gets, world.embedder.calls, world.qdrant.writes) == (gets, calls, writes)


def test_a_changed_object_embeds_only_its_changed_chunks(world: World) -> None:
    """Kept text keeps its vector, new text is embedded, old text goes."""
    world.run()
    before = world.texts("doc-03.txt")
    world.embedder.texts.clear()
    world.bucket.put("doc-03.txt", "A new first paragraph stands above everything else.\n\n" + "\n\n".join(before))
    summary = world.run()
    assert summary["counts"]["changed"] == 1
    assert world.embedder.texts == ["A new first paragraph stands above everything else."]
    assert world.texts("doc-03.txt") == ["A new first paragraph stands above everything else.", *before]


def test_a_removed_object_takes_its_points_with_it(world: World) -> None:
    """Deletions come last and are confirmed."""
    world.run()
    del world.bucket.objects["doc-03.txt"]
    summary = world.run()
    assert summary["counts"]["deleted"] == 1
    assert world.texts("doc-03.txt") == []
    assert "doc-03.txt" not in world.table()


def test_an_object_that_is_back_is_not_deleted(world: World) -> None:
    """A HEAD stands between a planned deletion and the points."""
    world.run()
    body, version = world.bucket.objects.pop("doc-03.txt")
    ledger = world.submit()
    engine = world.engine

    def put_back(partition_id: PartitionId) -> None:
        if "-d" in partition_id:
            world.bucket.objects["doc-03.txt"] = (body, version)

    engine.before = put_back
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["counts"]["deleted"] == 0
    assert world.texts("doc-03.txt") != []


def test_full_embeds_everything_again(world: World) -> None:
    """Mode full reuses nothing of other jobs."""
    first = world.run()
    summary = world.run(mode="full")
    assert summary["counts"]["chunks_embedded"] == first["counts"]["chunks_embedded"]
    assert summary["counts"]["chunks_reused"] == 0


def test_plan_writes_nothing(world: World) -> None:
    """Mode plan counts and leaves no trace in the stores, the table or the contract."""
    summary = world.run(mode="plan")
    assert summary["state"] == "succeeded"
    assert summary["counts"]["new"] == summary["counts"]["planned"] == 3
    assert summary["counts"]["chunks_estimated"] >= 3
    assert world.qdrant.collections == {}
    assert [path for path in world.state.values if path.startswith("collections/")] == []


def test_bad_objects_are_recorded_and_the_job_goes_on(world: World) -> None:
    """Each failure is named by key, code and reason; good neighbours are stored."""
    world.bucket.put("empty.txt", b"")
    world.bucket.put("noise.bin", bytes(range(256)) * 8)
    world.bucket.put("nan.txt", "first is fine\n\n" + "x" * 60 + "\n\n{NAN} is refused by the embedder")
    ledger = world.submit()
    summary = world.attempt(ledger)
    assert summary is not None
    assert summary["state"] == "partially_succeeded"
    assert balanced(summary)
    items, _ = ledger.read_failures(None, 100)
    assert {(i["key"], i["code"]) for i in items} == {
        ("empty.txt", "empty_document"),
        ("noise.bin", "binary_content"),
        ("nan.txt", "embedding_nan"),
    }
    assert all(i["reason"] for i in items)
    assert world.texts("nan.txt") == []
    assert len(world.texts("doc-12.txt")) >= 12
    again = world.run()
    assert again["counts"]["failed_before"] == 3
    assert again["state"] == "partially_succeeded"


def test_a_failed_new_version_keeps_the_old_points(world: World) -> None:
    """Readers never lose a document to a bad upload."""
    world.run()
    before = world.texts("doc-03.txt")
    world.bucket.put("doc-03.txt", "{NAN} " + "\n\n".join(PARAGRAPHS[:3]))
    summary = world.run()
    assert summary["counts"]["failed"] == 1
    assert world.texts("doc-03.txt") == before
    assert world.table()["doc-03.txt"] == ("failed", "embedding_nan")


def test_too_many_failures_fail_the_job(world: World) -> None:
    """Beyond the failure budget the job is failed, and says so."""
    world.bucket.put("empty.txt", b"")
    summary = world.run(failure_budget={"max_fraction": 0, "min_objects": 0})
    assert summary["state"] == "failed"
    assert summary["error"]["code"] == "failure_budget_exceeded"


def test_a_chunk_over_the_context_is_split_not_cut(world: World) -> None:
    """All of its text is stored, in parts, with offsets that still slice back."""
    world.embedder.longest_chars = 30
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert all(len(p.payload["text"]) <= 30 for p in world.points(world.qdrant))
    text = world.bucket.objects["doc-12.txt"][0].decode()
    points = world.points(world.qdrant, "doc-12.txt")
    assert [p.payload["chunk_index"] for p in points] == list(range(len(points)))
    assert all(text[p.payload["start_char"] : p.payload["end_char"]] == p.payload["text"] for p in points)
    assert "".join("".join(p.payload["text"].split()) for p in points) == "".join(text.split())


def test_batches_depend_on_the_partition_not_on_timing(world: World) -> None:
    """The same corpus makes the same embed calls and the same points, bit for bit, however many are in flight."""
    calls, points = set(), []
    for in_flight in (1, 2, 5):
        other = World(bucket=world.bucket, limits=FAST.model_copy(update={"embed_in_flight": in_flight}))
        calls.add(other.run()["counts"]["embed_calls"])
        assert other.embedder.most_running <= in_flight
        assert max(other.embedder.batches) <= 4
        written = other.points(other.qdrant)
        points.append([(p.id, {**p.payload, "ingested_at": None}, p.vector.tobytes()) for p in written])
    assert len(calls) == 1
    assert points[0] == points[1] == points[2]


def test_as_many_requests_are_in_flight_as_the_share_says() -> None:
    """The first waits until a second is there, and while both wait no third one comes."""
    meeting = MeetingEmbedder()
    world = World(embedder=meeting, limits=FAST.model_copy(update={"embed_in_flight": 2}))
    world.bucket.put("doc.txt", "\n\n".join(PARAGRAPHS))
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["counts"]["embed_calls"] >= 3
    assert meeting.most_inside == 2


def test_an_object_that_changes_while_it_is_read_is_read_whole(world: World) -> None:
    """The etag on record is the one that was read."""
    listed = world.bucket.ref("doc-01.txt")

    def change(key: str) -> None:
        if key == "doc-01.txt" and world.bucket.ref(key) == listed:
            world.bucket.put(key, "Something else entirely now.")

    world.bucket.on_get = change
    world.run()
    assert world.texts("doc-01.txt") == ["Something else entirely now."]
    assert world.points(world.qdrant, "doc-01.txt")[0].payload["etag"] == world.bucket.ref("doc-01.txt").etag
    assert world.run()["counts"]["unchanged"] == 3


def test_an_object_that_vanishes_is_counted_as_gone(world: World) -> None:
    """Listed, then 404: neither done nor failed."""
    world.bucket.on_get = lambda key: world.bucket.objects.pop(key, None) and None if key == "doc-03.txt" else None
    summary = world.run()
    assert summary["counts"]["gone"] == 1
    assert balanced(summary)


def test_an_outage_pauses_the_job_and_fails_nothing(world: World) -> None:
    """Transient trouble of a store is waited out."""
    left = [3]

    def away(_kind: str) -> None:
        if left[0]:
            left[0] -= 1
            raise TransientError("store_unavailable", "weaviate is away")

    world.weaviate.before_write = away
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert left == [0]
    assert len(world.texts("doc-12.txt")) >= 12


def test_a_listing_in_another_order_is_sorted_first(world: World) -> None:
    """Order is the server's business, correctness ours."""
    world.bucket.shuffle = True
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["counts"]["done"] == summary["counts"]["listed"] == 3
    assert world.run()["counts"]["unchanged"] == 3


def test_a_disordered_listing_of_many_known_objects_plans_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that the listing jumped over look gone until it is sorted; none of that may reach the plan or the table."""
    monkeypatch.setattr("ingestion_engine.engines.plan_thread.BLOCK_OBJECTS", 1)
    world.run()
    before, gets = world.table(), world.bucket.gets
    world.bucket.shuffle = True
    ledger = world.submit()
    summary = world.attempt(ledger)
    assert summary is not None
    assert summary["counts"]["unchanged"] == summary["counts"]["listed"] == 3
    assert (world.table(), world.bucket.gets) == (before, gets)
    assert list(ledger.iter_plan()) == []


def test_more_deletions_than_are_held_at_once_all_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletions wait on disk, and come back whole and in order."""
    monkeypatch.setattr("ingestion_engine.engines.plan_thread.BLOCK_OBJECTS", 2)
    for number in range(5):
        world.bucket.put(f"extra-{number}.txt", f"Text number {number}.")
    world.run()
    for number in range(5):
        del world.bucket.objects[f"extra-{number}.txt"]
    ledger = world.submit()
    summary = world.attempt(ledger)
    assert summary is not None
    assert summary["counts"]["deleted"] == 5
    assert [[o.ref.key for o in p.objects] for p in ledger.iter_plan()] == [
        ["extra-0.txt", "extra-1.txt"],
        ["extra-2.txt", "extra-3.txt"],
        ["extra-4.txt"],
    ]
    assert sorted(world.table()) == [f"doc-{n:02}.txt" for n in (1, 3, 12)]


def test_a_deadly_object_fails_alone(world: World) -> None:
    """A partition that ends its process twice is taken apart; the object that does it alone is recorded."""
    engine = world.engine
    ledger = world.submit(parallelism=1)

    def die(partition_id: PartitionId) -> None:
        keys = [o.ref.key for o in ledger.read_partition(partition_id).objects]
        if "doc-03.txt" in keys:
            raise RuntimeError("killed")

    engine.before = die
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["counts"]["done"] == 2
    items, _ = ledger.read_failures(None, 10)
    assert [(i["key"], i["code"]) for i in items] == [("doc-03.txt", "kills_worker")]
    assert balanced(summary)


def test_a_refused_point_fails_its_object_alone(world: World) -> None:
    """And leaves nothing of it behind."""

    def refuse(point: Point) -> str | None:
        return "too strange" if point.payload["key"] == "doc-03.txt" else None

    world.weaviate.refuse = refuse
    summary = world.run()
    assert summary["counts"]["failed"] == 1
    assert world.points(world.qdrant, "doc-03.txt") == []
    assert len(world.texts("doc-12.txt")) >= 12


def test_a_canceled_job_ends_and_the_next_completes_it(world: World) -> None:
    """Everything that was not finished is dirty, not lost."""
    ledger = world.submit(parallelism=1)
    engine = world.engine
    engine.before = lambda _pid: ledger.request_abort("changed my mind")
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["state"] == "canceled"
    assert summary["error"]["code"] == "job_aborted"
    assert {state for state, _ in world.table().values()} == {"failed"}
    assert world.run()["counts"]["retried"] == 3
    assert {state for state, _ in world.table().values()} == {"present"}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"source": {"bucket": "nope"}}, "bucket_not_found"),
        ({"embedding": {"model": "missing"}}, "model_not_found"),
    ],
)
def test_a_wrong_request_fails_before_anything_is_written(world: World, request_: dict[str, object], code: str) -> None:
    """The same codes as the API's, in the summary."""
    summary = world.run(**request_)
    assert (summary["state"], summary["error"]["code"]) == ("failed", code)
    assert world.qdrant.collections == {}


def test_a_collection_made_otherwise_is_refused(world: World) -> None:
    """Another chunking is another collection."""
    world.run()
    summary = world.run(chunking={"max_chars": 80, "overlap_chars": 0})
    assert (summary["state"], summary["error"]["code"]) == ("failed", "contract_mismatch")
    assert world.run(collection="Notes")["error"]["code"] == "collection_name_taken"


def test_a_mass_delete_is_refused_before_anything_is_written(world: World) -> None:
    """An empty listing over a full table is more likely a mistake than a wish."""
    world.run()
    kept = dict(world.bucket.objects)
    world.bucket.objects.clear()
    summary = world.run()
    assert (summary["state"], summary["error"]["code"]) == ("failed", "mass_delete_refused")
    assert len(world.points(world.qdrant)) > 0
    assert world.run(allow_mass_delete=True)["counts"]["deleted"] == len(kept)
    assert world.points(world.qdrant) == []


def test_a_lost_collection_is_noticed(world: World) -> None:
    """A sync must not believe its table when a store was emptied behind its back."""
    world.run()
    del world.weaviate.collections["notes"]
    assert world.run()["error"]["code"] == "collection_missing"
    assert world.run(mode="full")["state"] == "succeeded"
    assert len(world.texts("doc-12.txt")) >= 12


def test_a_collection_dropped_under_a_running_job_stops_it(world: World) -> None:
    """Rather than letting a store invent another schema for the rest."""
    engine = world.engine
    ledger = world.submit(parallelism=1)

    def drop(_partition_id: PartitionId) -> None:
        if len(engine.ran) == 2:
            world.weaviate.collections.clear()

    engine.before = drop
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "collection_missing")


def crash_at(world: World, step: int) -> None:
    """Arm the world to end the process at its n-th durable step."""
    seen = [0]

    def count(*_: object) -> None:
        seen[0] += 1
        if seen[0] == step:
            raise Crash

    def quiet(kind: str, path: str) -> None:
        # Progress, log and heartbeat are written by timers: counting them would make steps depend on time.
        if not any(word in path for word in ("progress", "/log/", "lease.json")):
            count(kind, path)

    world.state.before_write = quiet
    world.qdrant.before_write = count
    world.weaviate.before_write = count


def disarm(world: World) -> None:
    world.state.before_write = lambda _kind, _path: None
    world.qdrant.before_write = world.weaviate.before_write = lambda _kind: None


def test_a_crash_at_any_durable_step_is_completed_by_the_next_attempt() -> None:
    """New, changed, failed, deleted objects: whatever the step, attempt two leaves what an undisturbed job leaves."""

    def prepared() -> World:
        world = World(limits=FAST.model_copy(update={"partition_objects": 2}))
        for i in range(6):
            world.bucket.put(f"doc-{i}.txt", "\n\n".join(f"{p} ({i})" for p in PARAGRAPHS[: i + 1]))
        world.run(parallelism=1)
        world.bucket.put("doc-0.txt", PARAGRAPHS[5])
        world.bucket.put("doc-3.txt", "\n\n".join([*PARAGRAPHS[2:5], "and more"]))
        world.bucket.put("doc-9.txt", "Entirely new.")
        world.bucket.put("empty.txt", b"")
        del world.bucket.objects["doc-1.txt"]
        return world

    def outcome(world: World) -> list[object]:
        drop = {"epoch", "job_id", "ingested_at"}
        points = [
            (p.id, {k: v for k, v in p.payload.items() if k not in drop}, p.vector.tolist())
            for p in world.points(world.qdrant)
        ]
        return [points, world.table(), {key: world.texts(key) for key in world.bucket.objects}]

    oracle = prepared()
    expected_summary = oracle.run(parallelism=1)
    expected = outcome(oracle)
    for step in itertools.count(1):
        world = prepared()
        ledger = world.submit(parallelism=1)
        crash_at(world, step)
        try:
            world.attempt(ledger)
        except (Crash, BaseExceptionGroup):
            pass
        else:
            assert step > 20
            return
        disarm(world)
        summary = world.attempt(ledger, number=2)
        assert summary is not None, step
        assert outcome(world) == expected, step
        assert summary["state"] == expected_summary["state"], step
        for name in ("listed", "done", "failed"):
            assert summary["counts"][name] == expected_summary["counts"][name], (step, name)
        assert balanced(summary), step


def test_a_zombie_writes_nothing_after_its_successor_began(world: World) -> None:
    """A worker of a dead attempt that wakes up is turned away by the lease."""
    ledger = world.submit(parallelism=1)
    engine = world.engine
    caught: list[PartitionId] = []

    def crash(partition_id: PartitionId) -> None:
        caught.append(partition_id)
        raise Crash

    engine.before = crash
    with pytest.raises(Crash):
        world.attempt(ledger, engine=engine)
    assert world.attempt(ledger, number=2) is not None
    points = [(p.id, dict(p.payload)) for p in world.points(world.qdrant)]
    zombie = InProcessEngine(world.state, world.bucket, world.embedder, dict(world.stores))
    reports = list(zombie.run(ledger.spec_uri, caught))
    assert [r.status.value for r in reports] == ["fatal"]
    assert [(p.id, dict(p.payload)) for p in world.points(world.qdrant)] == points


def test_a_driver_frozen_while_it_lists_opens_no_plan_after_its_successor_began(world: World) -> None:
    """It wakes when the job has ended: it leaves nothing behind that a later job would take for unfinished work."""
    ledger, clock = world.submit(), SkippingClock()
    ended: list[dict[str, object] | None] = []

    def freeze() -> None:
        world.bucket.on_list = lambda: None
        ended.append(world.attempt(ledger, number=2))
        clock.sleep(FAST.lease_ttl_s + FAST.lease_grace_s)

    world.bucket.on_list = freeze
    assert world.attempt(ledger, clock=clock) is None
    assert [summary and summary["state"] for summary in ended] == ["succeeded"]
    assert list_open_plans(world.state, "notes") == []
