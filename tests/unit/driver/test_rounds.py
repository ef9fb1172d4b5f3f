"""Rounds: who is blamed when a partition ends without a result, and that every job ends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.records import Action, Document, Outcome, PartitionReport, RawObject, ReportStatus
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.driver import rounds
from ingestion_engine.engines.feed import abandoned_report, canceled_report
from ingestion_engine.pipeline.load import LoadedObject
from ingestion_engine.pipeline.parsing.parse import parse_object
from ingestion_engine.pipeline.parsing.process.pool import close_parsers, run_parse
from ingestion_engine.pipeline.write import make_result
from ingestion_engine.state.lease import read_lease
from ingestion_engine.state.ledger import Ledger
from support import parsers
from support.doubles import Crash, HashEmbedder, InProcessEngine, Killed
from support.waiting import wait_for
from support.world import PARAGRAPHS, SkippingClock, World, balanced, make_world

Hook = Callable[[PartitionId], None]


@pytest.fixture
def world() -> World:
    return make_world()


def keys_of(ledger: Ledger, partition_id: PartitionId) -> list[str]:
    return [planned.ref.key for planned in ledger.read_partition(partition_id).objects]


def killing(ledger: Ledger, *keys: str, error: BaseException | None = None) -> Hook:
    """Return what ends the worker of every partition with one of the keys."""

    def before(partition_id: PartitionId) -> None:
        if set(keys) & set(keys_of(ledger, partition_id)):
            raise error or Killed(partition_id)

    return before


def attempt(world: World, ledger: Ledger, before: Hook) -> tuple[dict[str, object], InProcessEngine]:
    engine = world.engine
    engine.before = before
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    return summary, engine


def failures(ledger: Ledger) -> list[tuple[str, str, bool]]:
    return [(item["key"], item["code"], item["retryable"]) for item in ledger.read_failures(None, 100)[0]]


def test_a_lost_node_is_waited_out_and_blames_nobody(world: World) -> None:
    """However often the engine loses a task, the partition is not taken apart and its object does not fail."""
    ledger, lost = world.submit(), iter(range(12))

    def before(partition_id: PartitionId) -> None:
        if "doc-03.txt" in keys_of(ledger, partition_id) and next(lost, None) is not None:
            raise TransientError("ray_task_lost", "Ray could not run a task to its end (NodeDiedError).")

    engine, clock = world.engine, SkippingClock()
    engine.before = before
    summary = world.attempt(ledger, engine=engine, clock=clock)
    assert summary is not None
    assert summary["state"] == "succeeded"
    assert clock.skipped_s > 60  # it paused between the tries
    assert failures(ledger) == []


def test_an_unexpected_error_fails_its_object_under_its_own_name(world: World) -> None:
    """A defect that one object reveals is no death of its worker, and neither stops the job nor fails the others."""
    ledger = world.submit(parallelism=1)
    summary, _ = attempt(world, ledger, killing(ledger, "doc-03.txt", error=ValueError("a defect")))
    assert summary["state"] == "partially_succeeded"
    assert failures(ledger) == [("doc-03.txt", "unexpected_error", True)]
    reason = ledger.read_failures(None, 100)[0][0]["reason"]
    assert reason == "Processing this object alone failed unexpectedly 2 times. Last error: ValueError: a defect"
    assert balanced(summary)


def test_most_workers_dying_stop_the_job_with_the_cause(world: World) -> None:
    """No object is blamed when every worker dies: its environment is the cause."""
    for number in range(40):
        world.bucket.put(f"more-{number:02}.txt", f"Text number {number}.")
    ledger = world.submit(parallelism=1)

    def die(partition_id: PartitionId) -> None:
        raise Killed("exit code 137")

    summary, engine = attempt(world, ledger, die)
    assert summary["state"] == "failed"
    assert summary["error"]["code"] == "workers_die"  # type: ignore[index]
    assert "exit code 137" in summary["error"]["message"]  # type: ignore[index]
    assert failures(ledger) == []
    assert len(engine.ran) == rounds.MOST_DEATHS


def test_unexpected_errors_everywhere_stop_the_job_with_the_cause(world: World) -> None:
    """A defect that every partition meets is reported once, instead of failing every object."""
    for number in range(40):
        world.bucket.put(f"more-{number:02}.txt", f"Text number {number}.")
    ledger = world.submit(parallelism=1)

    def fail(partition_id: PartitionId) -> None:
        raise ValueError("a defect")

    summary, _ = attempt(world, ledger, fail)
    assert summary["error"]["code"] == "unexpected_error"  # type: ignore[index]
    assert "ValueError: a defect" in summary["error"]["message"]  # type: ignore[index]
    assert failures(ledger) == []


def test_many_deadly_objects_of_one_partition_do_not_stop_a_working_job(world: World) -> None:
    """Each of twelve deadly objects in a row is blamed alone, because partitions of other objects were done."""
    deadly = [f"zzz-{number:02}.txt" for number in range(12)]
    for key in [*(f"more-{number:02}.txt" for number in range(60)), *deadly]:
        world.bucket.put(key, "Deadly.")
    ledger = world.submit(parallelism=1, failure_budget={"max_fraction": 1.0})
    summary, _ = attempt(world, ledger, killing(ledger, *deadly))
    assert summary["state"] == "partially_succeeded"
    assert [key for key, *_ in failures(ledger)] == deadly


def test_an_object_is_blamed_only_after_it_ran_alone(world: World) -> None:
    """The last run of an object that is blamed has no other partition beside it: the node's memory was its own."""
    world = make_world()
    ledger = world.submit(parallelism=4)
    beside: list[int] = []

    def run_all(spec_uri, partition_ids, *, should_stop):  # type: ignore[no-untyped-def]  # as InProcessEngine.run
        window: list[PartitionId] = []
        for partition_id in partition_ids:
            if partition_id is not None:
                window.append(partition_id)
            if partition_id is None or len(window) == 4:  # nothing more can begin now: run what has begun
                begun, window = window, []
                beside.extend(len(begun) for pid in begun if "doc-03.txt" in keys_of(ledger, pid))
                yield from run_one(spec_uri, begun)
        beside.extend(len(window) for pid in window if "doc-03.txt" in keys_of(ledger, pid))
        yield from run_one(spec_uri, window)

    engine = world.engine
    engine.before = killing(ledger, "doc-03.txt")
    run_one, engine.run = engine.run, run_all  # type: ignore[method-assign]
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert [key for key, *_ in failures(ledger)] == ["doc-03.txt"]
    assert beside[-1] == 1


def test_a_report_that_outlived_its_worker_is_found(world: World) -> None:
    """A worker that dies after its report is durable has done its partition: nothing is embedded again."""
    ledger = world.submit(parallelism=1)
    engine = world.engine
    run_one = engine.run

    def lose(spec_uri, partition_ids, *, should_stop):  # type: ignore[no-untyped-def]  # as InProcessEngine.run
        for report in run_one(spec_uri, partition_ids):
            yield PartitionReport(report.partition_id, ReportStatus.RETRY, 0, process_died=True)

    engine.run = lose  # type: ignore[method-assign]
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["state"] == "succeeded"
    assert summary["counts"]["partitions_repeated"] == 0
    assert summary["counts"]["embed_calls"] == world.embedder.calls


class LateEmbedder(HashEmbedder):
    """Is unavailable for one text, each time only when all other objects are in both stores."""

    def __init__(self, is_written: Callable[[], bool], failures: int) -> None:
        super().__init__()
        self.is_written = is_written
        self.failures = failures

    async def embed(
        self, model: str, texts: Sequence[str], *, digest: str | None = None, tries: int = 1
    ) -> npt.NDArray[np.float32]:
        if texts == ["The last one."] and self.failures:
            self.failures -= 1
            async with asyncio.timeout(20):
                while not self.is_written():  # noqa: ASYNC110 - the stores have no events
                    await asyncio.sleep(0)
            for _ in range(20):  # the writer records the results
                await asyncio.sleep(0)
            raise TransientError("ollama_unavailable", "Ollama is unavailable.")
        return await super().embed(model, texts)


def test_what_was_finished_survives_a_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a partition is put back, only what is not finished runs again; written objects and failures are recorded."""
    monkeypatch.setattr("ingestion_engine.driver.plan.packing.PARTITIONS_PER_WORKER", 1)
    monkeypatch.setattr("ingestion_engine.pipeline.write.FLUSH_AFTER_S", 0.0)
    world = make_world()
    world.limits = world.limits.model_copy(update={"embed_batch_texts": 1})
    world.bucket.put("empty.txt", b"")
    world.bucket.put("zzz.txt", "The last one.")
    expected = {f"doc-{number:02}.txt" for number in (1, 3, 12)}

    def is_written() -> bool:
        return all({p.payload["key"] for p in world.points(store)} == expected for store in world.stores.values())

    world.embedder = LateEmbedder(is_written, 3)
    ledger = world.submit(parallelism=1)
    summary = world.attempt(ledger)
    assert summary is not None
    assert summary["state"] == "partially_succeeded"
    assert balanced(summary)
    assert failures(ledger) == [("empty.txt", "empty_document", False)]
    assert world.bucket.gets == 5 + 3  # every object once, and the one that failed three times more
    assert summary["counts"]["partitions_repeated"] == 3
    assert summary["counts"]["embed_calls"] == world.embedder.calls == summary["counts"]["chunks"]
    assert world.run()["counts"]["unchanged"] == 4
    assert world.table()["zzz.txt"] == ("present", None)


class DyingStore:
    """Makes a store end the process after some points of an object."""

    def __init__(self, after: int, end: type[BaseException] = Killed) -> None:
        self.left = after
        self.end = end

    def __call__(self, kind: str) -> None:
        if kind == "upsert":
            self.left -= 1
            if self.left < 0:
                raise self.end("in the middle of an object")


@pytest.mark.parametrize("known", [False, True], ids=["new", "changed"])
def test_a_deadly_object_leaves_no_half_version(world: World, known: bool) -> None:
    """Points of a version that no worker finished are removed from both stores, and the next sync ingests it again."""
    if known:
        world.run()
    world.bucket.put("doc-03.txt", "\n\n".join(f"Another text {number} of the third object." for number in range(9)))
    ledger = world.submit(parallelism=1)
    engine = world.engine

    def before(partition_id: PartitionId) -> None:
        # One store takes more points than the other before the process ends.
        deadly = "doc-03.txt" in keys_of(ledger, partition_id)
        world.qdrant.before_write = DyingStore(5) if deadly else lambda _kind: None

    engine.before = before
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert failures(ledger) == [("doc-03.txt", "kills_worker", True)]
    assert world.points(world.qdrant, "doc-03.txt") == world.points(world.weaviate, "doc-03.txt") == []
    assert world.run(mode="verify")["state"] == "succeeded"
    world.qdrant.before_write = lambda _kind: None
    again = world.run()
    assert again["counts"]["retried"] == 1
    assert world.table()["doc-03.txt"] == ("present", None)
    assert len(world.texts("doc-03.txt")) == 9


def test_a_deadly_object_that_wrote_nothing_keeps_its_former_version(world: World) -> None:
    """A worker that dies while it parses leaves the stores as they were."""
    world.run()
    before = world.texts("doc-03.txt")
    world.bucket.put("doc-03.txt", "Never parsed.")
    ledger = world.submit(parallelism=1)
    attempt(world, ledger, killing(ledger, "doc-03.txt"))
    assert failures(ledger) == [("doc-03.txt", "kills_worker", True)]
    assert world.texts("doc-03.txt") == before
    assert world.run(mode="verify")["state"] == "succeeded"


def test_a_known_killer_has_a_partition_of_its_own(world: World) -> None:
    """The next sync tries it again, and costs the other objects nothing."""
    for number in range(40):
        world.bucket.put(f"more-{number:02}.txt", f"Text number {number}.")
    ledger = world.submit(parallelism=1)
    attempt(world, ledger, killing(ledger, "doc-03.txt"))
    for number in range(40):
        world.bucket.put(f"more-{number:02}.txt", f"Changed text number {number}.")
    ledger = world.submit(parallelism=1, failure_budget={"max_fraction": 0, "min_objects": 0})
    summary, engine = attempt(world, ledger, killing(ledger, "doc-03.txt"))
    assert failures(ledger) == [("doc-03.txt", "kills_worker", True)]
    alone = [pid for pid in engine.ran if "doc-03.txt" in keys_of(ledger, pid)]
    assert [keys_of(ledger, pid) for pid in alone] == [["doc-03.txt"]] * rounds.DEATHS_ALLOWED
    assert summary["counts"]["partitions_repeated"] == rounds.DEATHS_ALLOWED  # type: ignore[index]
    assert {p.action for p in ledger.read_partition(alone[0]).objects} == {Action.SUSPECT}
    assert summary["state"] == "partially_succeeded"  # it counts against the budget once


def test_the_next_attempt_of_a_job_does_not_try_its_killers_again(world: World) -> None:
    """The job has decided about them; only a later job tries them again."""
    ledger = world.submit(parallelism=1)

    def crash_at_the_end(kind: str, path: str) -> None:
        if path.endswith("summary.json"):
            raise Crash

    world.state.before_write = crash_at_the_end
    engine = world.engine
    engine.before = killing(ledger, "doc-03.txt")
    with pytest.raises(Crash):
        world.attempt(ledger, engine=engine)
    world.state.before_write = lambda _kind, _path: None
    engine.ran.clear()
    summary = world.attempt(ledger, 2, engine=engine)
    assert summary is not None
    assert (summary["state"], summary["counts"]["failed"], engine.ran) == ("partially_succeeded", 1, [])
    assert balanced(summary)


def test_repair_ingests_a_deadly_object_again(world: World) -> None:
    """As an interrupted one: its row says nothing about the points that the stores should hold."""
    ledger = world.submit(parallelism=1)
    attempt(world, ledger, killing(ledger, "doc-03.txt"))
    assert world.run(mode="repair")["state"] == "succeeded"
    assert world.table()["doc-03.txt"] == ("present", None)
    assert len(world.texts("doc-03.txt")) == 3


@pytest.mark.parametrize("fault", ["refused", "interrupted"])
def test_a_version_that_fails_half_written_leaves_nothing_mixed(world: World, fault: str) -> None:
    """When points of the former version are overwritten and the new version fails, neither stays in part."""
    world.run()
    kept = [f"{paragraph} (3)" for paragraph in PARAGRAPHS[:3]]
    world.bucket.put("doc-03.txt", "\n\n".join(["Another beginning.", *kept]))
    ledger, number = world.submit(), 1
    if fault == "refused":
        world.weaviate.refuse = lambda point: "too strange" if point.payload["text"] == "Another beginning." else None
    else:
        world.qdrant.before_write = DyingStore(2, Crash)
        with pytest.raises((Crash, BaseExceptionGroup)):
            world.attempt(ledger)
        world.qdrant.before_write = lambda _kind: None
        world.bucket.put("doc-03.txt", b"")
        number = 2
    summary = world.attempt(ledger, number)
    assert summary is not None
    assert summary["counts"]["failed"] == 1
    assert world.points(world.qdrant, "doc-03.txt") == world.points(world.weaviate, "doc-03.txt") == []
    assert world.run(mode="verify")["counts"]["different"] == 0


def test_parsers_that_never_end_fail_their_objects_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of them in one partition neither put it back nor keep the others from being stored."""
    monkeypatch.setattr("ingestion_engine.driver.plan.packing.PARTITIONS_PER_WORKER", 1)
    world = make_world()
    stuck = [f"stuck-{number}.txt" for number in range(5)]
    for key in stuck:
        world.bucket.put(key, "Hangs its parser.")

    async def parse(raw: RawObject, *, limits: FrozenLimits) -> Document:
        if raw.ref.key in stuck:
            return await run_parse(parsers.hang_with_the_interpreter_lock, timeout_s=0.2)
        return await parse_object(raw, limits=limits)

    monkeypatch.setattr("ingestion_engine.pipeline.load.parse_object", parse)
    ledger = world.submit(parallelism=1)
    summary = world.attempt(ledger)
    close_parsers()
    assert summary is not None
    assert (summary["counts"]["done"], summary["counts"]["partitions_repeated"]) == (3, 0)
    assert failures(ledger) == [(key, "parse_timeout", False) for key in stuck]
    assert len(world.texts("doc-12.txt")) >= 12


class PendingEngine(InProcessEngine):
    """Has no room for any partition until the job has to stop, as a cluster without resources."""

    abandons = False

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        taken = next(partition_id for partition_id in partition_ids if partition_id is not None)
        self.on_pending()
        wait_for(should_stop, 30)
        yield abandoned_report(taken) if self.abandons else canceled_report(taken)

    def on_pending(self) -> None:
        """Make the job stop."""


@pytest.mark.parametrize("abandons", [False, True])
def test_a_job_whose_tasks_never_end_ends_at_its_deadline(world: World, abandons: bool) -> None:
    """Its summary is written; the lease is kept when a worker may still write, so that the next job waits for it."""
    clock = SkippingClock()
    ledger = world.submit(max_runtime_s=3600)
    engine = PendingEngine(world.state, world.bucket, world.embedder, dict(world.stores))
    engine.abandons = abandons
    engine.on_pending = lambda: clock.sleep(3601)  # type: ignore[method-assign]
    summary = world.attempt(ledger, engine=engine, clock=clock)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "max_runtime_exceeded")
    lease = read_lease(world.state, "notes")
    assert lease is not None
    assert lease.released is not abandons
    assert world.run()["state"] == "succeeded"


def test_a_job_whose_tasks_never_begin_is_canceled(world: World) -> None:
    """A cancellation does not wait for resources that never come."""
    ledger = world.submit()
    engine = PendingEngine(world.state, world.bucket, world.embedder, dict(world.stores))
    engine.on_pending = lambda: ledger.request_abort("changed my mind")  # type: ignore[method-assign]
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("canceled", "job_aborted")


def test_what_a_stopped_partition_has_embedded_is_counted(world: World) -> None:
    """Also when it had finished some of its objects, which the next job does again."""

    class PutBackEngine(PendingEngine):
        def run(self, *arguments: Any, **options: Any) -> Iterator[PartitionReport]:
            for report in super().run(*arguments, **options):
                planned = ledger.read_partition(report.partition_id).objects[0]
                result = make_result(LoadedObject(planned), make_object_id("docs", planned.ref.key), Outcome.DONE)
                yield replace(report, results=(result,), chunks_embedded=7, embed_calls=3)

    ledger = world.submit()
    engine = PutBackEngine(world.state, world.bucket, world.embedder, dict(world.stores))
    engine.on_pending = lambda: ledger.request_abort("changed my mind")  # type: ignore[method-assign]
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["counts"]["embed_calls"], summary["counts"]["texts_embedded"]) == (3, 7)


def test_reports_are_taken_during_a_pause(world: World) -> None:
    """While a partition waits for the end of an outage, the engine is asked again and again and can report others."""
    asked: list[PartitionId | None] = []
    ledger, engine = world.submit(parallelism=1), world.engine
    run_one = engine.run

    def record(spec_uri, partition_ids, *, should_stop):  # type: ignore[no-untyped-def]  # as InProcessEngine.run
        def recorded() -> Iterator[PartitionId | None]:
            for partition_id in partition_ids:
                asked.append(partition_id)
                yield partition_id

        yield from run_one(spec_uri, recorded())

    away = iter(range(3))

    def before(partition_id: PartitionId) -> None:
        if next(away, None) is not None:
            raise TransientError("store_unavailable", "A store is unavailable.")

    engine.run, engine.before = record, before  # type: ignore[method-assign]
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert summary["state"] == "succeeded"
    pauses = [before for before, after in itertools.pairwise(asked) if before is None and after is not None]
    assert len(pauses) >= 2
