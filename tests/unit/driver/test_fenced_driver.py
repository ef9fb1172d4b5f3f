"""A driver whose job the service has ended without it: whatever it was about to write, its successor is right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.states import JobState
from ingestion_engine.driver import alias_move, run
from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
from ingestion_engine.driver.run import run_driver
from ingestion_engine.services.ledgers import Ledgers
from ingestion_engine.state.aliases import find_alias, record_move
from ingestion_engine.state.ledger import Ledger
from support.faulty_state import FaultyStore
from support.world import SkippingClock, World, balanced, make_world


def count_writes() -> int:
    """Return the number of durable writes of an attempt that nobody disturbs."""
    world = make_world()
    paths: list[str] = []
    ledger = world.submit()
    world.state.before_write = lambda _kind, path: paths.append(path)
    world.attempt(ledger)
    return len([path for path in paths if not path.endswith(("progress.json", ".txt"))])


@pytest.mark.parametrize("step", range(count_writes()))
def test_a_job_that_is_ended_before_any_write_stays_ended_and_its_successor_is_whole(step: int) -> None:
    """A forced end between any two durable steps of a living driver: its summary is the one that stands."""
    world = make_world()
    ledger = world.submit()
    left = [step]

    def end_job(_kind: str, path: str) -> None:
        if path.endswith(("progress.json", ".txt")):
            return
        left[0] -= 1
        if left[0] == -1:
            state = {"state": JobState.CANCELED, "error": None, "counts": {}}
            Ledgers(world.state)._fence_off(ledger.job_id, "notes", attempt=1, **state)

    world.state.before_write = end_job
    summary = world.attempt(ledger)
    world.state.before_write = lambda _kind, _path: None
    stored = ledger.read_summary()
    assert stored is not None
    assert stored.get("forced") is True
    assert summary is None or summary == stored
    assert world.attempt(ledger) == stored  # an attempt that starts late ends at once
    following = world.run()
    assert following["state"] == "succeeded"
    assert balanced(following)
    assert {key: len(world.texts(key)) for key in world.bucket.objects} == {
        "doc-01.txt": 1,
        "doc-03.txt": 3,
        "doc-12.txt": 12,
    }
    assert {state for state, _ in world.table().values()} == {"present"}


def test_a_job_that_is_ended_right_before_it_moves_its_alias_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease was renewed seconds ago, so only the state store knows; clients already see a canceled job."""
    world = make_world()
    ledger = world.submit(alias="current")

    def end_first(*arguments: Any, **options: Any) -> Any:
        Ledgers(world.state)._fence_off(
            ledger.job_id, "notes", attempt=1, state=JobState.CANCELED, error=None, counts={}
        )
        return record_move(*arguments, **options)

    monkeypatch.setattr(alias_move, "record_move", end_first)
    assert world.attempt(ledger) is None
    assert find_alias(world.state, "current") is None
    assert all(not store.aliases for store in (world.qdrant, world.weaviate))


def attempt_under(world: World, ledger: Ledger, number: int, error: FatalError | None) -> dict[str, object] | None:
    """Run an attempt whose environment is refused, or not."""
    clock = SkippingClock()

    def check() -> None:
        if error is not None:
            raise error

    driver = Driver(
        JobAttempt(spec=ledger.read_spec(), spec_uri=ledger.spec_uri, number=number, parser_version="parser-1"),
        Ports(
            state=world.state,
            source=world.bucket,
            embedder=world.embedder,
            stores=dict(world.stores),
            engine=world.engine,
        ),
        check_environment=check,
        sleep=clock.sleep,
        clock=clock,
    )
    return driver.run()


def test_the_attempt_after_one_that_was_put_back_does_the_job() -> None:
    """The summary of the first only says that its environment could not run the job."""
    world = make_world()
    ledger = world.submit()
    mismatch = FatalError("worker_mismatch", "This worker differs.")
    first = attempt_under(world, ledger, 1, mismatch)
    assert first is not None
    assert first["state"] == "failed"
    assert attempt_under(world, ledger, 1, None) == first
    second = attempt_under(world, ledger, 2, None)
    assert second is not None
    assert (second["state"], second["attempt"]) == ("succeeded", 2)
    assert ledger.read_summary(2) == second


def test_a_driver_waits_for_a_state_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ended would use up an attempt; three of them would end the job."""
    monkeypatch.setenv("INGEST_STATE_URL", f"file://{tmp_path}")
    store = FaultyStore(LocalStateStore(f"file://{tmp_path}"), away=True)
    store.inner.put("jobs/job-new/spec.json", orjson.dumps({"format": 2}))
    monkeypatch.setattr(run, "open_state_store", lambda *_: store)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        store.away = len(pauses) < 12

    monkeypatch.setattr(run.time, "sleep", sleep)
    summary = run_driver(Ledger(store, "job-new").spec_uri, 1)
    assert summary is not None
    assert summary["error"]["code"] == "spec_invalid"
    assert len(pauses) == 12
    assert pauses[0] <= 1 < max(pauses) <= 60


def test_a_spec_of_another_version_ends_the_attempt_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service then knows that another package is needed, instead of a driver that died three times."""
    monkeypatch.setenv("INGEST_STATE_URL", f"file://{tmp_path}")
    store = LocalStateStore(f"file://{tmp_path}")
    store.put("jobs/job-new/spec.json", orjson.dumps({"format": 2}))
    ledger = Ledger(store, "job-new")
    summary = run_driver(ledger.spec_uri, 4)
    assert summary is not None
    assert (summary["state"], summary["attempt"], summary["error"]["code"]) == ("failed", 4, "spec_invalid")
    assert ledger.read_summary(4) == summary


def test_a_driver_on_a_node_with_an_invalid_setting_says_so_in_its_last_line(tmp_path: Path) -> None:
    """The service shows the end of the log of a driver that died; a traceback would hide the cause."""
    command = [sys.executable, "-m", "ingestion_engine.driver.entry", "--spec", f"file://{tmp_path}/jobs/j/spec.json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "INGEST_STATEURL": "s3://misspelt"}
    ended = subprocess.run(
        [*command, "--attempt", "1"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.endswith("INGEST_STATEURL: no such setting; did you mean INGEST_STATE_URL?\n")
