"""The objects of the cluster, kept in SQLite and versioned by one counter.

Imitates etcd behind a Kubernetes API server: every write of any object takes the next number of one counter, the
object's `resourceVersion` (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions). Every
acknowledged write survives the death of the process. Only one process may hold a data directory.

Used from the event loop's thread only; a write costs one SQLite transaction (well under a millisecond for the objects
here, a few KB each).
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 0), version INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (0, 1);
"""

Object = dict[str, Any]
"""A Kubernetes object as JSON."""
Key = tuple[str, str, str]
"""Plural name of the resource, namespace, name."""


class DataDirInUseError(OSError):
    """Another process serves this data directory."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write."""

    key: Key
    value: Object
    """The object after the write; its last state when it was removed."""
    removed: bool


class ObjectStore:
    """All objects of all resources. Objects handed in and out are copies; a stored one is never changed in place."""

    def __init__(self, data_dir: Path) -> None:
        """Open or create the store.

        Raises:
            DataDirInUseError: another process holds the directory.
        """
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise DataDirInUseError(f"The directory {data_dir} is in use by another server.") from error
        self._db = sqlite3.connect(data_dir / "objects.sqlite3", isolation_level=None)
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")
        rows = self._db.execute("SELECT resource, namespace, name, body FROM objects")
        self._bodies: dict[Key, bytes] = {(resource, space, name): body for resource, space, name, body in rows}
        self.version: int = self._db.execute("SELECT version FROM counter").fetchone()[0]
        self._listeners: list[Callable[[Change], None]] = []

    def close(self) -> None:
        """Release the data directory."""
        self._db.close()
        self._lock.close()

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` after every write, in the same thread."""
        self._listeners.append(listener)

    def get(self, key: Key) -> Object | None:
        """Return the object, or None."""
        body = self._bodies.get(key)
        return None if body is None else orjson.loads(body)

    def list_objects(self, resource: str, namespace: str | None) -> Iterator[Object]:
        """Yield objects in order of namespace and name; None selects every namespace."""
        for key in sorted(self._bodies):
            if key[0] == resource and namespace in (None, key[1]):
                yield orjson.loads(self._bodies[key])

    def put(self, resource: str, value: Object) -> Object:
        """Create or replace an object under the next version; return the stored object."""
        metadata = value["metadata"]
        stored = {**value, "metadata": {**metadata, "resourceVersion": str(self.version + 1)}}
        self._write(Change((resource, metadata["namespace"], metadata["name"]), stored, removed=False))
        return stored

    def remove(self, key: Key) -> None:
        """Remove an object; does nothing when there is none."""
        last = self.get(key)
        if last is not None:
            self._write(Change(key, last, removed=True))

    def _write(self, change: Change) -> None:
        key, version, body = change.key, self.version + 1, orjson.dumps(change.value)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if change.removed:
                self._db.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", key)
            else:
                self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (*key, body))
            self._db.execute("UPDATE counter SET version = ?", (version,))
        if change.removed:
            del self._bodies[key]
        else:
            self._bodies[key] = body
        self.version = version
        for listener in self._listeners:
            listener(change)
