"""Try what a job needs of the state store before it begins, so that a missing permission does not end it at its end."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from ingestion_engine.domain.errors import FatalError, StateConflict
from ingestion_engine.domain.ports import StateStore

LEFT_BEHIND_S: Final = 600.0
"""Age in seconds from which a value that was written to try the store belongs to a process that has ended."""

_NAME: Final = re.compile(r"trial-(\d{1,12})-[0-9a-f]{16}")


def make_trial_path(folder: str) -> str:
    """Return a path that nothing else has, for a value that is only written to try the store.

    It names the second of its creation, by which ``remove_left_behind`` knows it.
    """
    return f"{folder}trial-{int(time.time())}-{secrets.token_hex(8)}"


def remove_left_behind(store: StateStore, folder: str) -> int:
    """Remove the values of trials that were killed before they removed them; return the number. One listing."""
    names = [path.removeprefix(folder) for path in store.list(f"{folder}trial-")]
    now, found = time.time(), [match for name in names if (match := _NAME.fullmatch(name))]
    old = [match[0] for match in found if now - int(match[1]) > LEFT_BEHIND_S]
    for name in old:
        store.delete(f"{folder}{name}")
    return len(old)


def try_operations(store: StateStore, folder: str) -> None:
    """List, create, read, replace and delete one value of a random name, and check that conditions are enforced.

    Args:
        store: The state store.
        folder: Path that ends with a slash.

    Raises:
        FatalError: "state_access_denied", naming the operation and its permission; "state_conditions_ignored": a lease
            would not exclude anybody.
        TransientError: the state store is unavailable; the value may have been left behind.

    Cost: eight requests.
    """
    path = make_trial_path(folder)
    # S3 answers 403 to a read of an absent object when listing is not allowed, so that is tried first.
    for _ in store.list(path):
        break
    first = store.create(path, b"1")
    try:
        if store.get(path) is None:
            raise _make_ignored(store, "does not return what was written")
        _expect_conflict(store, path, version=None)
        store.replace(path, b"2", first)
        _expect_conflict(store, path, version=first)
    finally:
        store.delete(path)
    if store.get(path) is not None:
        raise _make_ignored(store, "returns what was deleted")


def _expect_conflict(store: StateStore, path: str, *, version: str | None) -> None:
    """Raise FatalError unless a write that may not happen is refused."""
    try:
        if version is None:
            store.create(path, b"3")
        else:
            store.replace(path, b"3", version)
    except StateConflict:
        return
    condition = "If-None-Match" if version is None else "If-Match"
    raise _make_ignored(store, f"ignores conditions of writes ({condition})")


def _make_ignored(store: StateStore, problem: str) -> FatalError:
    return FatalError(
        "state_conditions_ignored",
        f"The state store {store.url!r} {problem}, so two jobs could write the same collection at once.",
        hint="Use AWS S3, MinIO, SeaweedFS 4 or later, or another server that enforces conditional writes.",
        url=store.url,
    )
