"""The driver and the runner over in-memory ports: what a job leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pytest

from ingestion_engine.domain.errors import ObjectUnreadable, TlsFailed, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.ports import Stored
from ingestion_engine.domain.records import Point
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.pipeline import embed
from ingestion_engine.pipeline.spool import LARGE_BYTES
from ingestion_engine.runtime.retry import RetryPolicy
from support.doubles import Crash, HashEmbedder, Killed, MemoryState
from support.world import FAST, PARAGRAPHS, SkippingClock, World, balanced, make_world


@pytest.fixture
def world() -> World:
    return make_world()


class MeetingEmbedder(HashEmbedder):
    """Answers the first request only when a second one is in flight, and leaves time for a third."""

    def __init__(self) -> None:
        super().__init__()
        self.second = asyncio.Event()
        self.inside = self.most_inside = 0

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = 1
    ) -> npt.NDArray[np.float32]:
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


def test_every_object_reaches_both_stores(world: World) -> None:
    """Ids, payloads and vectors are the same in both; the table lists every object."""
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["error"] is None
    assert balanced(summary)
    assert len(world.texts("doc-12.txt")) >= 12
    assert summary["counts"]["chunks"] == len(world.points(world.qdrant)) == summary["counts"]["chunks_embedded"]
    assert world.table() == {f"doc-{n:02}.txt": ("present", None) for n in (1, 3, 12)}


def test_vectors_come_only_from_servers_with_the_collections_model(world: World) -> None:
    """Every request names the digest: a server that was updated meanwhile is not used."""
    world.run()
    world.run(mode="full")
    assert world.embedder.digests == {world.embedder.digest}


def test_a_second_run_reads_and_embeds_nothing(world: World) -> None:
    """Unchanged objects cost no GET, no embed call and no store write."""
    world.run()
    gets, calls, writes = world.bucket.gets, world.embedder.calls, world.qdrant.writes
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["counts"]["unchanged"] == summary["counts"]["skipped"] == 3
    assert (world.bucket.gets, world.embedder.calls, world.qdrant.writes) == (gets, calls, writes)


def test_a_changed_object_embeds_only_its_changed_chunks(world: World) -> None:
    """Unchanged text keeps its vector, new text is embedded, old text is removed."""
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


def test_a_removal_that_s3_does_not_confirm_keeps_the_points(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account may be refused where an object was; that proves nothing, and does not stop the job either."""
    world.run()
    del world.bucket.objects["doc-03.txt"]

    async def refuse(_bucket: str, key: str) -> bool:
        raise ObjectUnreadable("object_unreadable", f"S3 responded 403 for {key}")

    monkeypatch.setattr(world.bucket, "exists", refuse)
    summary = world.run()
    assert (summary["state"], summary["counts"]["to_delete"], summary["counts"]["deleted"]) == ("succeeded", 1, 0)
    assert world.texts("doc-03.txt")
    assert world.table()["doc-03.txt"] == ("present", None)
    monkeypatch.undo()
    assert world.run()["counts"]["deleted"] == 1
    assert world.texts("doc-03.txt") == []


def test_an_object_is_tried_again_when_access_may_have_been_granted(world: World) -> None:
    """A refusal is not a property of the object, so every job tries again; what stays refused fails no job."""
    refused = {f"secret-{n:02}.txt" for n in range(25)}
    for key in refused:
        world.bucket.put(key, PARAGRAPHS[0])
    for n in range(300):
        world.bucket.put(f"open-{n:03}.txt", PARAGRAPHS[1])

    def check(key: str) -> None:
        if key in refused:
            raise ObjectUnreadable("object_unreadable", f"S3 responded 403 for {key}")

    world.bucket.on_get = check
    first = world.run()
    assert (first["state"], first["counts"]["failed"]) == ("partially_succeeded", 25)
    again = world.run()
    assert (again["state"], again["counts"]["failed"], again["counts"]["retried"]) == ("partially_succeeded", 25, 25)
    assert again["error"] is None
    refused.remove("secret-07.txt")
    granted = world.run()
    assert (granted["counts"]["done"], granted["counts"]["failed"]) == (1, 24)
    assert world.texts("secret-07.txt")
    assert balanced(granted)


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


def test_a_plan_of_full_plans_everything_again(world: World) -> None:
    """A plan of sync says nothing about it: there, an unchanged object is left as it is."""
    world.run()
    before = world.table()
    plan, full = world.run(mode="plan"), world.run(mode="plan", plan_full=True)
    assert (plan["counts"]["planned"], plan["counts"]["unchanged"]) == (0, 3)
    assert (full["counts"]["planned"], full["counts"]["unchanged"]) == (3, 0)
    assert full["counts"]["bytes_planned"] > 0
    assert world.table() == before


def test_bad_objects_are_recorded_and_the_job_goes_on(world: World) -> None:
    """Each failure has key, code and reason; the other objects are stored."""
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


def test_a_text_that_breaks_the_embedder_fails_its_object_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object keeps its points, and the rest of its chunks is not sent: each would break the embedder too."""
    monkeypatch.setattr(embed, "_PAUSES", RetryPolicy(first_s=0, deadline_s=float("inf")))
    world.run()
    before = world.texts("doc-03.txt")
    world.bucket.put("doc-03.txt", "\n\n".join(f"{{POISON}} {number} {'x' * 40}" for number in range(200)))
    world.bucket.put("new.txt", "first {POISON}")
    world.bucket.put("other.txt", "healthy")
    summary = world.run()
    assert summary["state"] == "partially_succeeded"
    assert {key: row for key, row in world.table().items() if row[0] == "failed"} == {
        "doc-03.txt": ("failed", "embedding_failed"),
        "new.txt": ("failed", "embedding_failed"),
    }
    assert (world.texts("doc-03.txt"), world.texts("new.txt"), world.texts("other.txt")) == (before, [], ["healthy"])
    batches = world.limits.embed_in_flight + 2  # in flight, filling, and that of the other object
    assert world.embedder.failures <= batches * (1 + 4 * world.limits.embed_batch_texts)
    assert world.run()["counts"]["failed_before"] == 2


@pytest.mark.parametrize("large_bytes", [LARGE_BYTES, 100], ids=["in memory", "through files"])
def test_rows_of_a_table_are_stored_and_embedded_with_its_header(world: World, large_bytes: int) -> None:
    """As a field of its own, equal in both stores; another header embeds the rows again under the same ids."""
    world.large_bytes = large_bytes
    rows = "".join(f"| place number {number} | {number} |\n" for number in range(20))
    world.bucket.put("table.md", f"| C | P |\n|---|---|\n{rows}")
    world.run()
    held = {point.id: point.payload for point in world.points(world.qdrant, "table.md")}
    assert world.texts("table.md") == [payload["text"] for payload in held.values()]
    contexts = [payload.get("context") for payload in held.values()]
    assert contexts == [None] + ["| C | P |"] * (len(held) - 1)
    embedded = [text for text in world.embedder.texts if "place number" in text]
    assert sorted(text.startswith("| C | P |\n") for text in embedded) == [True] * len(held)
    assert world.run(mode="verify")["state"] == "succeeded"
    world.embedder.texts.clear()
    world.bucket.put("table.md", f"| T | P |\n|---|---|\n{rows}")
    world.run()
    again = {point.id: point.payload for point in world.points(world.weaviate, "table.md")}
    assert len(held.keys() & again.keys()) == len(held) - 1
    assert len(world.embedder.texts) == len(held)


def test_too_many_failures_fail_the_job(world: World) -> None:
    """Beyond the failure budget the job fails with a code of its own."""
    world.bucket.put("empty.txt", b"")
    summary = world.run(failure_budget={"max_fraction": 0, "min_objects": 0})
    assert summary["state"] == "failed"
    assert summary["error"]["code"] == "failure_budget_exceeded"


def test_a_chunk_over_the_context_is_split_not_cut(world: World) -> None:
    """All of its text is stored in parts, and their offsets slice the document."""
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
    """The same corpus makes the same embed calls and identical points for any number of requests in flight."""
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
    """The first request waits for a second one, and no third one is sent meanwhile."""
    meeting = MeetingEmbedder()
    world = World(embedder=meeting, limits=FAST.model_copy(update={"embed_in_flight": 2}))
    world.bucket.put("doc.txt", "\n\n".join(PARAGRAPHS))
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["counts"]["embed_calls"] >= 3
    assert meeting.most_inside == 2


def test_an_object_that_changes_while_it_is_read_is_read_whole(world: World) -> None:
    """The table has the etag of the version that was read."""
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
    """The job waits for an unavailable store."""
    left = [3]

    def away(_kind: str) -> None:
        if left[0]:
            left[0] -= 1
            raise TransientError("store_unavailable", "weaviate is unavailable")

    world.weaviate.before_write = away
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert left == [0]
    assert len(world.texts("doc-12.txt")) >= 12


def test_a_certificate_is_refused_before_anything_is_written() -> None:
    """The first attempt ends with the reason instead of pausing; nothing is written."""

    def stranger(_key: str) -> None:
        raise TlsFailed("tls_failed", "The certificate of Ollama is not trusted.", hint="Set INGEST_TLS__CA_FILE.")

    async def check() -> str:
        stranger("")
        return ""

    for where in ("embedder", "store"):
        world = make_world()
        if where == "embedder":
            world.embedder.on_describe = stranger
        else:  # a port that only workers use
            world.weaviate.check = check
        summary = world.run()
        assert (summary["state"], summary["error"]["code"]) == ("failed", "tls_failed")
        assert "INGEST_TLS__CA_FILE" in summary["error"]["hint"]
        assert not world.qdrant.collections


def test_a_certificate_that_expires_pauses_a_running_job(world: World) -> None:
    """Work has begun, so the job waits for a new certificate; a later attempt does so from its start."""
    left = [3]

    def expired(_kind: str) -> None:
        if left[0]:
            left[0] -= 1
            raise TlsFailed("tls_failed", "The certificate of Weaviate is not valid at present.")

    world.weaviate.before_write = expired
    assert world.run()["state"] == "succeeded"
    left[0] = 3
    world.embedder.on_describe = expired
    summary = world.attempt(world.submit(), number=2)
    assert summary is not None
    assert summary["state"] == "succeeded"


def test_the_embedder_saw_what_the_counts_say(world: World) -> None:
    """Also when partitions are returned and embed again what was not written."""
    left = [1] * 3

    def fail(kind: str) -> None:
        if kind == "upsert" and left:
            left.pop()
            raise TransientError("store_unavailable", "weaviate is unavailable")

    world.weaviate.before_write = fail
    counts = world.run()["counts"]
    assert counts["chunks"] == counts["chunks_embedded"] == 16
    assert counts["texts_embedded"] == len(world.embedder.texts) > 16
    assert counts["embed_calls"] == world.embedder.calls


def test_a_listing_in_another_order_is_sorted_first(world: World) -> None:
    """A listing in any order gives the same result."""
    world.bucket.shuffle = True
    summary = world.run()
    assert summary["state"] == "succeeded"
    assert summary["counts"]["done"] == summary["counts"]["listed"] == 3
    assert world.run()["counts"]["unchanged"] == 3


def test_a_disordered_listing_of_many_known_objects_plans_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that an unsorted listing jumps over look deleted; they reach neither the plan nor the table."""
    monkeypatch.setattr("ingestion_engine.driver.plan.plan_thread.BLOCK_OBJECTS", 1)
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
    """Deletions are kept on disk and planned completely and in order."""
    monkeypatch.setattr("ingestion_engine.driver.plan.plan_thread.BLOCK_OBJECTS", 2)
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
    """A partition that kills its process twice is split; the object that kills it alone is recorded."""
    engine = world.engine
    ledger = world.submit(parallelism=1)

    def die(partition_id: PartitionId) -> None:
        keys = [o.ref.key for o in ledger.read_partition(partition_id).objects]
        if "doc-03.txt" in keys:
            raise Killed

    engine.before = die
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["counts"]["done"] == 2
    items, _ = ledger.read_failures(None, 10)
    assert [(i["key"], i["code"]) for i in items] == [("doc-03.txt", "kills_worker")]
    assert balanced(summary)


def test_a_refused_point_fails_its_object_alone(world: World) -> None:
    """Its other points are removed from both stores."""

    def refuse(point: Point) -> str | None:
        return "too strange" if point.payload["key"] == "doc-03.txt" else None

    world.weaviate.refuse = refuse
    summary = world.run()
    assert summary["counts"]["failed"] == 1
    assert world.points(world.qdrant, "doc-03.txt") == []
    assert len(world.texts("doc-12.txt")) >= 12


def test_a_job_that_was_canceled_before_its_driver_began_does_nothing(world: World) -> None:
    """Also one that would have ended before the first look at the order."""
    ledger = world.submit(source={"bucket": "docs", "prefix": "none/"})
    ledger.request_abort("changed my mind")
    summary = world.attempt(ledger)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("canceled", "job_aborted")


def test_a_canceled_job_ends_and_the_next_completes_it(world: World) -> None:
    """Unfinished objects are dirty and ingested by the next job."""
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
    """The summary has the same codes as the API."""
    summary = world.run(**request_)
    assert (summary["state"], summary["error"]["code"]) == ("failed", code)
    assert world.qdrant.collections == {}


def test_a_collection_made_otherwise_is_refused(world: World) -> None:
    """Another chunking requires another collection."""
    world.run()
    summary = world.run(chunking={"max_chars": 80, "overlap_chars": 0})
    assert (summary["state"], summary["error"]["code"]) == ("failed", "contract_mismatch")
    assert world.run(collection="Notes")["error"]["code"] == "collection_name_taken"


def test_a_mass_delete_is_refused_before_anything_is_written(world: World) -> None:
    """An empty listing over a non-empty table is more likely a mistake than intended."""
    world.run()
    kept = dict(world.bucket.objects)
    world.bucket.objects.clear()
    summary = world.run()
    assert (summary["state"], summary["error"]["code"]) == ("failed", "mass_delete_refused")
    assert len(world.points(world.qdrant)) > 0
    assert world.run(allow_mass_delete=True)["counts"]["deleted"] == len(kept)
    assert world.points(world.qdrant) == []


def test_a_lost_collection_is_noticed(world: World) -> None:
    """A sync does not trust its table when a store has lost the collection."""
    world.run()
    del world.weaviate.collections["notes"]
    assert world.run()["error"]["code"] == "collection_missing"
    assert world.run(mode="full")["state"] == "succeeded"
    assert len(world.texts("doc-12.txt")) >= 12


def test_a_collection_dropped_under_a_running_job_stops_it(world: World) -> None:
    """The store must not create another schema for the remaining points."""
    engine = world.engine
    ledger = world.submit(parallelism=1)

    def drop(_partition_id: PartitionId) -> None:
        if len(engine.ran) == 2:
            world.weaviate.collections.clear()

    engine.before = drop
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "collection_missing")


def test_a_mistyped_prefix_creates_nothing_and_is_said(world: World) -> None:
    """The job succeeds, as its contract says, but no collection appears, and its note names the prefix."""
    summary = world.run(source={"bucket": "docs", "prefix": "hanbook/"})
    assert summary["state"] == "succeeded"
    assert summary["note"] == "No object matches s3://docs/hanbook/. Collection 'notes' was not created."
    assert world.qdrant.collections == world.weaviate.collections == {}
    assert not any("collection.json" in path or "lease" in path for path in world.state.values)
    assert world.run()["note"] is None


def test_nothing_found_is_not_nothing_changed(world: World) -> None:
    """In a collection that exists, an empty listing has a note; unchanged objects have none."""
    world.run()
    assert world.run()["note"] is None
    summary = world.run(source={"bucket": "docs", "prefix": "hanbook/", "include": ["*.md"]})
    assert summary["note"] == "No object matches s3://docs/hanbook/ and the filters."
    assert world.run(mode="verify", source={"bucket": "docs", "prefix": "x/"})["note"] is not None
    assert world.run(mode="verify")["note"] is None


def test_an_alias_does_not_move_to_nothing(world: World) -> None:
    """A new version without an object is not created; one that would replace objects is refused as before."""
    summary = world.run(source={"bucket": "docs", "prefix": "hanbook/"}, alias="handbook")
    assert summary["state"] == "succeeded"
    assert summary["note"].endswith("Alias 'handbook' was not moved.")
    assert world.run(alias="handbook")["state"] == "succeeded"
    summary = world.run(source={"bucket": "docs", "prefix": "hanbook/"}, alias="handbook", collection="next")
    assert summary["error"]["code"] == "mass_delete_refused"


def test_a_successor_says_for_whose_lease_it_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash the next attempt waits a minute: its note names the dead attempt and the end of the wait."""
    monitors: list[Monitor] = []

    class Seen(Monitor):
        def __enter__(self) -> Self:
            monitors.append(self)
            return super().__enter__()

    monkeypatch.setattr("ingestion_engine.driver.driver.Monitor", Seen)
    ledger, engine = world.submit(), world.engine

    def die(_partition_id: PartitionId) -> None:
        raise Crash

    engine.before = die
    with pytest.raises(Crash):
        world.attempt(ledger, engine=engine)
    notes: list[object] = []

    class Clock(SkippingClock):
        def sleep(self, seconds: float) -> None:
            notes.append((monitors[-1].progress()["phase"], monitors[-1].progress()["note"]))
            super().sleep(seconds)

    assert world.attempt(ledger, 2, clock=Clock()) is not None
    assert len(set(notes)) == 1
    phase, note = next(iter(set(notes)))
    assert phase == "waiting"
    assert str(note).startswith("Waiting for the lease of attempt 1, which ended without releasing it, until 20")
    assert monitors[-1].progress()["note"] is None


@dataclass
class AwayState(MemoryState):
    """A state store that is unavailable until the lease could not be renewed a number of times."""

    renewals_to_fail: int = 0

    def _check(self) -> None:
        if self.renewals_to_fail:
            raise TransientError("state_unavailable", "The state store is unavailable.")

    def get(self, path: str) -> Stored | None:
        self._check()
        return super().get(path)

    def get_range(self, path: str, start: int, length: int) -> bytes:
        self._check()
        return super().get_range(path, start, length)

    def list(self, prefix: str) -> Iterator[str]:
        self._check()
        return super().list(prefix)

    def _write(self, kind: str, path: str, data: bytes) -> str:
        if path.endswith("lease.json") and self.renewals_to_fail:
            self.renewals_to_fail -= 1
            raise TransientError("state_unavailable", "The state store is unavailable.")
        self._check()
        return super()._write(kind, path, data)


def test_an_outage_longer_than_the_lease_costs_no_attempt() -> None:
    """Nobody can take over what nobody can read: the same attempt goes on under the same epoch, to the end."""
    world = make_world()
    state = world.state = AwayState()
    world.limits = world.limits.model_copy(update={"lease_ttl_s": 0.2})
    engine = world.engine
    begun: list[PartitionId] = []

    def go_away(partition_id: PartitionId) -> None:
        if not begun:
            state.renewals_to_fail = 30  # a failed renewal is repeated after a tenth of the time to live
        begun.append(partition_id)

    engine.before = go_away
    summary = world.attempt(world.submit(alias="live", collection="notes"), engine=engine)
    assert summary is not None, "the lease was lost"
    assert (summary["state"], summary["counts"]["failed"]) == ("succeeded", 0)
    assert {point.payload["epoch"] for point in world.points(world.qdrant)} == {1}
    assert world.qdrant.aliases == {"live": "notes"}
