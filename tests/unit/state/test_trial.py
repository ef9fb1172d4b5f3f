"""What a job needs of the state store is tried before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import Stored
from ingestion_engine.state import trial
from ingestion_engine.state.trial import LEFT_BEHIND_S, make_trial_path, remove_left_behind, try_operations
from support.doubles import MemoryState

OPERATIONS = ("list", "create", "get", "replace", "delete")


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_complete_store_is_left_as_it_was(kind: str, tmp_path: Path) -> None:
    """Nothing stays behind."""
    store = MemoryState() if kind == "memory" else LocalStateStore(f"file://{tmp_path}/state")
    store.put("jobs/a/spec.json", b"{}")
    try_operations(store, "jobs/a/")
    assert list(store.list("")) == ["jobs/a/spec.json"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_of_a_job_is_tried(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is denied is found before any work."""
    store = MemoryState()

    def deny(*_: object) -> None:
        raise FatalError("state_access_denied", f"{operation} is denied")

    monkeypatch.setattr(store, operation, deny)
    with pytest.raises(FatalError, match=f"{operation} is denied"):
        try_operations(store, "")


@pytest.mark.parametrize("ignored", ["create", "replace", "delete", "get"])
def test_a_store_that_does_not_keep_its_promises_is_refused(ignored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease in it would not exclude anybody."""
    store = MemoryState()

    def write(path: str, data: bytes, _version: str = "") -> str:
        store.put(path, data)
        return store.values[path].version

    def forget(_path: str) -> Stored | None:
        return None

    instead = {"create": write, "replace": write, "delete": lambda _path: None, "get": forget}
    monkeypatch.setattr(store, ignored, instead[ignored])
    with pytest.raises(FatalError) as refused:
        try_operations(store, "")
    assert refused.value.code == "state_conditions_ignored"


def test_values_of_trials_that_were_killed_are_removed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of a trial that may be running, nor what is named otherwise."""
    store = MemoryState()
    now = 1_800_000_000.0
    monkeypatch.setattr(trial.time, "time", lambda: now)
    killed = make_trial_path("")
    now += LEFT_BEHIND_S + 1
    running = make_trial_path("")
    kept = {running, "trial-1-notes.json", "trial-1/1-0123456789abcdef", f"jobs/a/{killed}"}
    for path in {killed, *kept}:
        store.put(path, b"1")
    assert (remove_left_behind(store, ""), set(store.values)) == (1, kept)
