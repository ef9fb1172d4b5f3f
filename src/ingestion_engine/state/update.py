"""Read, change and conditionally write one value of the state store, again after every conflict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ingestion_engine.domain.errors import StateConflict, TransientError
from ingestion_engine.domain.ports import StateStore, Stored

NOT_READ: Final = Stored(b"", "")
"""Stands for a value that the caller has not read."""

_MAX_CONFLICTS: Final = 100
"""Each conflict means that another writer succeeded; this many in a row mean that conditional writes are broken."""


def update_value(
    store: StateStore,
    path: str,
    change: Callable[[bytes | None], bytes | None],
    *,
    seen: Stored | None = NOT_READ,
    contended: str = "state_contended",
) -> Stored | None:
    """Replace a value by the result of ``change``, atomically against other writers; return the value stored now.

    When the answer to the write is lost, the adapter of the state store finds out whether the value was written. If it
    cannot, ``TransientError`` is raised and the value may or may not have been written; calling again is safe, because
    ``change`` then receives the result of its own first call.

    Args:
        store: The state store.
        path: Path of the value.
        change: Receives the stored bytes (None when absent) and returns the new ones, or None to leave the value as it
            is. It is called again after every conflict, so it must have no effect of its own, and must return None
            when its effect is stored already. Whatever it raises passes through; nothing is written then.
        seen: The value as last read (None: probably absent); saves the first read. A wrong guess costs one request.
        contended: Error code when there is no end of conflicts.

    Returns:
        The value with its version; None when it is absent and ``change`` left it so.

    Raises:
        TransientError: ``contended`` after 100 conflicts in a row; also as raised by the state store.

    Cost: one read (none with ``seen``) and one conditional write; both again after a conflict.
    """
    stored = store.get(path) if seen is NOT_READ else seen
    for _ in range(_MAX_CONFLICTS):
        data = change(None if stored is None else stored.data)
        if data is None:
            return stored
        try:
            version = store.create(path, data) if stored is None else store.replace(path, data, stored.version)
        except StateConflict:
            stored = store.get(path)
        else:
            return Stored(data, version)
    raise TransientError(contended, f"{path!r} changed {_MAX_CONFLICTS} times while it was updated.", path=path)
