"""The objects of the cluster: kept in SQLite, versioned by one counter, with a bounded memory of changes for watches.

As in etcd every write of any object gets the next number of one counter, the object's `resourceVersion`. Everything
acknowledged survives the death of the process. Only one process may hold a data directory.

Used from the event loop's thread only; a write costs one SQLite transaction (well under a millisecond for the objects
here, a few KB each).
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

WINDOW: Final = 1000
"""Changes remembered for watches. A guess: a job makes about twenty; a watch that slept longer has to list again."""

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
"""Resource's plural, namespace, name."""


class DataDirInUseError(OSError):
    """Another process serves this data directory."""


class VersionExpiredError(Exception):
    """The changes after the wanted version are no longer all known."""

    def __init__(self, wanted: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {wanted} ({oldest})")


@dataclass(frozen=True, slots=True)
class Change:
    """One write."""

    version: int
    key: Key
    before: Object | None
    """None when the object was created."""
    after: Object | None
    """None when the object was removed."""


class ObjectStore:
    """All objects of all resources. Objects handed in and out are copies; nobody changes a stored one in place."""

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
            raise DataDirInUseError(f"{data_dir} is in use by another server") from error
        self._db = sqlite3.connect(data_dir / "objects.sqlite3", isolation_level=None)
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")
        rows = self._db.execute("SELECT resource, namespace, name, body FROM objects")
        self._bodies: dict[Key, bytes] = {(resource, space, name): body for resource, space, name, body in rows}
        self.version: int = self._db.execute("SELECT version FROM counter").fetchone()[0]
        self._oldest = self.version
        self._changes: deque[Change] = deque()
        self._listeners: list[Callable[[Change], None]] = []
        self._changed = asyncio.Event()
        self.ending = False
        """True once the server ends: watches and followed logs stop at the next look."""

    def end_streams(self) -> None:
        """Wake everybody who waits for a change, for the last time."""
        self.ending = True
        self._changed.set()

    def close(self) -> None:
        """Give the data directory back."""
        self._db.close()
        self._lock.close()

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` after every write, in its thread."""
        self._listeners.append(listener)

    def get(self, key: Key) -> Object | None:
        """The object, or None."""
        body = self._bodies.get(key)
        return None if body is None else orjson.loads(body)

    def select(self, resource: str, namespace: str | None) -> Iterator[Object]:
        """Objects by namespace and name; None is every namespace."""
        for key in sorted(self._bodies):
            if key[0] == resource and namespace in (None, key[1]):
                yield orjson.loads(self._bodies[key])

    def put(self, resource: str, value: Object) -> Object:
        """Create or replace an object under the next version; return what was stored."""
        metadata = value["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        stored = {**value, "metadata": {**metadata, "resourceVersion": str(self.version + 1)}}
        self._write(key, orjson.dumps(stored))
        return stored

    def remove(self, key: Key) -> Object | None:
        """Remove an object; return its last state with the version of the removal, or None if there was none."""
        last = self.get(key)
        if last is not None:
            self._write(key, None)
            last["metadata"]["resourceVersion"] = str(self.version)
        return last

    def changes_since(self, version: int) -> list[Change]:
        """Every change after `version`, oldest first.

        Raises:
            VersionExpiredError: some of them are forgotten.
        """
        if version < self._oldest:
            raise VersionExpiredError(version, self._oldest)
        return [change for change in self._changes if change.version > version]

    async def wait_for_change(self) -> None:
        """Return after the next write."""
        await self._changed.wait()

    def _write(self, key: Key, body: bytes | None) -> None:
        before, version = self.get(key), self.version + 1
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if body is None:
                self._db.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", key)
            else:
                self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (*key, body))
            self._db.execute("UPDATE counter SET version = ?", (version,))
        if body is None:
            del self._bodies[key]
        else:
            self._bodies[key] = body
        self.version = version
        self._remember(Change(version, key, before, self.get(key)))

    def _remember(self, change: Change) -> None:
        self._changes.append(change)
        if len(self._changes) > WINDOW:
            self._oldest = self._changes.popleft().version
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in self._listeners:
            listener(change)
