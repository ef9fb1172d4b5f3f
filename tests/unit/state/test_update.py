"""update_value: conflicts are resolved, lost answers are harmless, and nothing is written in vain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import FatalError, StateConflict, TransientError
from ingestion_engine.domain.ports import StateStore, Stored
from ingestion_engine.state.update import update_value
from support.doubles import MemoryState
from support.faulty_state import FaultyStore


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryState())


def append(word: bytes) -> Callable[[bytes | None], bytes | None]:
    """A change that has its effect once, however often it is repeated."""

    def change(data: bytes | None) -> bytes | None:
        words = (data or b"").split()
        return None if word in words else b" ".join([*words, word])

    return change


def value(store: StateStore) -> bytes | None:
    stored = store.get("v")
    return None if stored is None else stored.data


def test_a_value_is_created_changed_and_left_alone(store: FaultyStore) -> None:
    """The result is what is stored, with its version; a change that returns None writes nothing."""
    first = update_value(store, "v", append(b"a"))
    second = update_value(store, "v", append(b"b"))
    assert first is not None
    assert second is not None
    assert (first.data, second.data, value(store)) == (b"a", b"a b", b"a b")
    assert second == store.get("v")
    writes = store.writes
    assert update_value(store, "v", lambda _: None) == store.get("v")
    assert update_value(store, "absent", lambda _: None) is None
    assert store.writes == writes


def test_a_conflict_is_resolved_by_reading_again(store: FaultyStore) -> None:
    """The change sees the other writer's value, so no write is lost."""
    offered: list[bytes | None] = []

    def change(data: bytes | None) -> bytes | None:
        offered.append(data)
        if len(offered) < 3:
            store.inner.put("v", b"other %d" % len(offered))
        return append(b"mine")(data)

    update_value(store, "v", change)
    assert offered == [None, b"other 1", b"other 2"]
    assert value(store) == b"other 2 mine"


def test_threads_lose_no_update(tmp_path: Path) -> None:
    """Eight threads with ten changes each."""
    store = LocalStateStore(f"file://{tmp_path}/state")

    def work(number: int) -> None:
        for step in range(10):
            update_value(store, "v", append(b"%d.%d" % (number, step)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len((value(store) or b"").split()) == 80


def test_a_value_seen_before_saves_the_read(store: FaultyStore) -> None:
    """A wrong guess costs one request, and the change sees what is really there."""
    stored = update_value(store, "v", append(b"a"), seen=None)
    assert (store.reads, store.writes) == (0, 1)
    update_value(store, "v", append(b"b"), seen=stored)
    assert (store.reads, store.writes) == (0, 2)
    for stale in (stored, None, Stored(b"x", "none")):
        update_value(store, "v", append(b"c"), seen=stale)
    assert value(store) == b"a b c"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_lost_answer_is_repeated_without_effect(store: FaultyStore, there: bool, after: bool) -> None:
    """Whether the write was applied or not, calling again leaves the value as one call would."""
    if there:
        store.put("v", b"a")
    store.fail_at, store.after, store.lost_answer = store.writes + 1, after, True
    with pytest.raises(TransientError, match="lost"):
        update_value(store, "v", append(b"mine"))
    update_value(store, "v", append(b"mine"))
    assert value(store) == (b"a mine" if there else b"mine")


def test_what_the_change_raises_passes_through(store: FaultyStore) -> None:
    """And nothing is written."""

    def refuse(data: bytes | None) -> bytes | None:
        raise FatalError("refused", "No.")

    with pytest.raises(FatalError, match="No"):
        update_value(store, "v", refuse)
    assert store.writes == 0


def test_conflicts_without_end_are_an_outage(store: FaultyStore) -> None:
    """A state store whose conditions never hold does not keep its callers forever."""

    def conflict(path: str, data: bytes) -> str:
        raise StateConflict("state_conflict", "never")

    store.create = conflict  # type: ignore[method-assign]
    with pytest.raises(TransientError) as contended:
        update_value(store, "v", append(b"a"), contended="manifest_contended")
    assert contended.value.code == "manifest_contended"
