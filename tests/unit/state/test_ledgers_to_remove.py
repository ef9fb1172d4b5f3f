"""The ledger of a job that has ended is not removed before the next job on the collection has merged it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.retention import STEP_DELETES, delete_ledger, find_need
from support.doubles import Crash, MemoryState
from support.every_step import Fault, Step, Watch, WatchedAttempt, WorkerRun
from support.world import World, make_world

DEAD = "job-001"


class SweepingWatch(Watch):
    """Before every call of a driver, the service sweeps: it removes the dead job's ledger as soon as it may."""

    def __init__(self, world: World) -> None:
        super().__init__(None)
        self.state = world.state
        self.removed_at: int | None = None
        self._sweeping = threading.Lock()

    def enter(self, system: str, call: str, run: WorkerRun | None) -> str | None:
        with self._sweeping:
            if self.removed_at is None and find_need(self.state, "notes", DEAD) is None:
                assert sum(delete_ledger(self.state, DEAD)) > 0
                self.removed_at = len(self.steps)
        return super().enter(system, call, run)


@pytest.mark.parametrize(
    "call",
    ["replace collections/notes/objects/manifest.json", f"delete collections/notes/open/{DEAD}.json"],
)
def test_sweeps_during_a_merge_lose_nothing(call: str) -> None:
    """A job that died before its outcome was in the object table; nothing of it is ingested again."""
    world = make_world()
    dead = WatchedAttempt(world, world.submit(), fault=Fault("crash before", Step("state", call, 1, False)))
    with pytest.raises((Crash, BaseExceptionGroup)):
        dead.run()
    assert dead.watch.met
    calls = world.embedder.calls
    following = WatchedAttempt(world, world.submit())
    following.watch = watch = SweepingWatch(world)
    summary = following.run()
    assert watch.removed_at is not None
    assert not [path for path in world.state.values if path.startswith(f"jobs/{DEAD}/")]
    assert summary is not None
    assert (summary["state"], summary["counts"]["skipped"], world.embedder.calls) == ("succeeded", 3, calls)
    assert {state for state, _ in world.table().values()} == {"present"}


def test_a_ledger_is_deleted_in_steps_and_alone(tmp_path: Path) -> None:
    """Also from files, where the folders of a ledger disappear with it; what tells its age goes last."""
    for store in (MemoryState(), LocalStateStore(f"file://{tmp_path}")):
        paths = [f"jobs/job-1/reports/single/{number}.json" for number in range(STEP_DELETES + 5)]
        for path in [*paths, "jobs/job-1/progress.json", "jobs/job-1/summary.json", "jobs/job-10/spec.json"]:
            store.put(path, b"{}")
        steps = delete_ledger(store, "job-1")
        assert next(steps) == STEP_DELETES
        assert {"jobs/job-1/progress.json", "jobs/job-1/summary.json"} < set(store.list("jobs/job-1/"))
        assert list(steps) == [7]
        assert list(store.list("jobs/")) == ["jobs/job-10/spec.json"]
        assert list(delete_ledger(store, "job-1")) == []
        assert Ledger(store, "job-1").read_progress() is None
