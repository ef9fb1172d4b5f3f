"""The objects of one class of the Weaviate stand-in: a table of the SQLite file that all classes share.

A row has the id, both times, the properties as JSON and the vector. Filters read the JSON; properties of type uuid have
an index, because every write of the ingestion engine is followed by a filter on one. A search is exact and reads
every vector that passes the filter: 0.25 s for 20,000 of 384 dimensions (measured on a busy core).

Every change is one transaction in WAL mode and survives SIGKILL when the call returns; a loss of power may undo the
last ones. The caller holds the database's lock during every call.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ingestion_devstack.weaviate.errors import WrongDimensionError
from ingestion_devstack.weaviate.filters import Condition, property_path
from ingestion_devstack.weaviate.schema import Definition, vector_name

_EVERYTHING = Condition("1", [])


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object to write: validated properties, and the vector as little-endian float32 or empty."""

    id: str
    props: dict[str, Any]
    vector: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as read; times in milliseconds since 1970."""

    id: str
    props: dict[str, Any]
    vector: bytes
    created_ms: int
    updated_ms: int
    distance: float | None = None


class Collection:
    """The objects of one class."""

    def __init__(self, db: sqlite3.Connection, number: int, definition: Definition) -> None:
        """Open or create the table of the class `number`."""
        self._db = db
        self.table = f"objects_{number}"
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {self.table}(doc INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, "
            "created INTEGER, updated INTEGER, props TEXT NOT NULL, vector BLOB)"
        )
        row = self._select("SELECT length(vector) / 4 FROM", Condition("vector IS NOT NULL", []), "LIMIT 1").fetchone()
        self._dimension: int | None = None if row is None else row[0]
        self.redefine(definition)

    def redefine(self, definition: Definition) -> None:
        """Use a new definition; new properties of type uuid get their index."""
        self.definition = definition
        for prop in definition.get("properties") or ():
            if prop["dataType"] == ["uuid"]:
                index = f"{self.table}_{prop['name']}"
                self._db.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {self.table}({property_path(prop['name'])})")

    def drop(self) -> None:
        """Delete the table."""
        self._db.execute(f"DROP TABLE {self.table}")

    def put(self, objects: Sequence[NewObject], *, keep_created: bool = False) -> list[str | None]:
        """Insert or replace, all in one transaction; result[i] is None or the reason why objects[i] was left out.

        The last of several with the same id wins. Replacing without a vector drops the vector. `keep_created` keeps the
        creation time, as PATCH does; a batch resets it.
        """
        errors = [self._check_dimension(item) for item in objects]
        now = time.time_ns() // 1_000_000
        rows = [
            (item.id, now, now, orjson.dumps(item.props).decode(), item.vector or None)
            for item, error in zip(objects, errors, strict=True)
            if error is None
        ]
        changed = ("updated", "props", "vector") if keep_created else ("created", "updated", "props", "vector")
        with transaction(self._db):
            self._db.executemany(
                f"INSERT INTO {self.table}(id, created, updated, props, vector) VALUES (?, ?, ?, ?, ?) "  # noqa: S608  # our names
                f"ON CONFLICT(id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changed)}",
                rows,
            )
        return errors

    def _check_dimension(self, item: NewObject) -> str | None:
        if not item.vector:
            return None
        got = len(item.vector) // 4
        if self._dimension is None:
            self._dimension = got
        if got == self._dimension:
            return None
        space = vector_name(self.definition)
        place = f"{space} for target vector {item.id}" if space else f"for {item.id}"
        return (
            f"Validate vector index {place}: new node has a vector with length {got}. "
            f"Existing nodes have vectors with length {self._dimension}: "
            "vector dimensions do not match the index dimensions"
        )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete by id; absent ones are no error."""
        with transaction(self._db):
            self._db.executemany(f"DELETE FROM {self.table} WHERE id = ?", ((key,) for key in ids))  # noqa: S608  # our name

    def get(self, key: str) -> StoredObject | None:
        """Return one object, None if there is none."""
        return next(iter(self.page(Condition("id = ?", [key]), limit=1)), None)

    def count(self, where: Condition | None) -> int:
        """Return the number of objects, or of those that match."""
        return int(self._select("SELECT count(*) FROM", where).fetchone()[0])

    def find_ids(self, where: Condition) -> list[str]:
        """Return the ids of all objects that match, the oldest first."""
        return [row[0] for row in self._select("SELECT id FROM", where, "ORDER BY doc")]

    def page(
        self, where: Condition | None, *, limit: int, offset: int = 0, after: str | None = None
    ) -> list[StoredObject]:
        """Return one page: by id without a filter, the oldest first with one, as Weaviate orders them."""
        order = "doc" if where else "id"
        where = Condition("id > ?", [after]) if after else where
        return self._read(where, f"ORDER BY {order} LIMIT {limit} OFFSET {offset}")

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, offset: int, where: Condition | None
    ) -> list[StoredObject]:
        """Return the objects nearest to a vector by cosine distance, nearest first; equal ones, the oldest first.

        Raises:
            WrongDimensionError: the query has another length than the vectors.
        """
        if self._dimension is None:
            return []
        if self._dimension != len(query):
            raise WrongDimensionError(len(query), self._dimension)
        sql, params = where or _EVERYTHING
        has_vector = Condition(f"vector IS NOT NULL AND {sql}", params)
        rows = self._select("SELECT id, vector FROM", has_vector, "ORDER BY doc").fetchall()
        if not rows:
            return []
        matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4").reshape(len(rows), -1)
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        distances = 1.0 - matrix @ query / np.where(lengths > 0, lengths, 1.0)
        nearest = {rows[at][0]: float(distances[at]) for at in np.argsort(distances, kind="stable")[offset:][:limit]}
        found = self._read(Condition(f"id IN ({','.join('?' * len(nearest))})", list(nearest)), distances=nearest)
        by_id = {item.id: item for item in found}
        return [by_id[key] for key in nearest]

    def _read(
        self, where: Condition | None, tail: str = "", *, distances: dict[str, float] | None = None
    ) -> list[StoredObject]:
        return [
            StoredObject(
                id=key,
                created_ms=created,
                updated_ms=updated,
                props=orjson.loads(props),
                vector=vector or b"",
                distance=None if distances is None else distances[key],
            )
            for key, created, updated, props, vector in self._select(
                "SELECT id, created, updated, props, vector FROM", where, tail
            )
        ]

    def _select(self, head: str, where: Condition | None, tail: str = "") -> sqlite3.Cursor:
        sql, params = where or _EVERYTHING
        return self._db.execute(f"{head} {self.table} WHERE {sql} {tail}", params)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit the block's changes, or none of them on an error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
