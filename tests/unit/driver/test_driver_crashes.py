"""The driver after crashes at any durable step, and beside zombies, over in-memory ports."""

from __future__ import annotations

import itertools

import pytest

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.state.collections import list_open_plans
from support.doubles import Crash, InProcessEngine
from support.world import FAST, PARAGRAPHS, SkippingClock, World, balanced, make_world


@pytest.fixture
def world() -> World:
    return make_world()


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
    """After a crash at any step, the second attempt leaves the same state as an undisturbed job."""

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
    """The lease stops a worker of a dead attempt that wakes up."""
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
    """Waking after the end of the job, it leaves nothing that a later job would take for unfinished work."""
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
