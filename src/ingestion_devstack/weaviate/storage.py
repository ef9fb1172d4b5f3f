"""The objects of one class of the Weaviate stand-in: a SQLite file, and vector matrices in memory once searched.

Tables: `objects` is slim (document number, uuid, times, one column per scalar property) so that filters and counts
read little; `bodies` holds the properties as JSON and the vectors. A column gets its index when a filter first wants it
(uuid properties at once), so that ingestion pays only for indexes somebody uses. Vectors are loaded on the first search
of their space and kept up to date from then on.

Durable when a call returns, also against SIGKILL: one transaction per call in WAL mode. Every method takes the
class's lock; calls on one class run one after another.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from ingestion_devstack.weaviate.filters import Compiled
from ingestion_devstack.weaviate.operands import Leaf, match_like
from ingestion_devstack.weaviate.records import NewObject, StoredObject, WrongDimensionError
from ingestion_devstack.weaviate.schema import Definition, vector_spaces
from ingestion_devstack.weaviate.values import parse_date, parse_uuid
from ingestion_devstack.weaviate.vectors import Floats, VectorSpace, pack_vectors, unpack_vectors

_SQL_TYPES: Final = {
    "uuid": "BLOB",
    "int": "INTEGER",
    "number": "REAL",
    "boolean": "INTEGER",
    "date": "INTEGER",
    "text": "TEXT",
}
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS objects(doc INTEGER PRIMARY KEY, id BLOB UNIQUE NOT NULL, created INTEGER, updated INTEGER);
CREATE TABLE IF NOT EXISTS bodies(doc INTEGER PRIMARY KEY, props BLOB NOT NULL, vectors BLOB);
CREATE TABLE IF NOT EXISTS columns(prop TEXT PRIMARY KEY, name TEXT);
CREATE TABLE IF NOT EXISTS dimensions(space TEXT PRIMARY KEY, size INTEGER);
"""
_IN = 500
"""Values per IN list: far below SQLite's limit on parameters."""
_PRAGMAS: Final = (
    "PRAGMA page_size=8192",  # a chunk with its vector is 3 to 4 kB: two per page instead of overflow chains
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",  # survives the death of the process; a power cut may lose the last transactions
    "PRAGMA cache_size=-65536",
    "PRAGMA temp_store=MEMORY",
)


ClosedError = sqlite3.ProgrammingError
"""What every method raises once the class was dropped under it."""


class Collection:
    """One class's objects. Thread-safe."""

    def __init__(self, path: Path, definition: Definition) -> None:
        """Open or create the file."""
        self.definition = definition
        self.lock = threading.RLock()
        self._path = path
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, cached_statements=256)
        for pragma in _PRAGMAS:
            self._db.execute(pragma)
        self._db.executescript(_TABLES)
        self._leaves: tuple[Leaf, ...] = ()
        self._db.create_function("wv_match", 2, self._match)
        self._db.create_function("wv_like", 2, match_like, deterministic=True)
        self.columns: dict[str, str] = dict(self._db.execute("SELECT prop, name FROM columns"))
        self.dimensions: dict[str, int] = dict(self._db.execute("SELECT space, size FROM dimensions"))
        self._indexed = {row[1].removeprefix("by_") for row in self._db.execute("PRAGMA index_list(objects)")}
        self._spaces: dict[str, VectorSpace] = {}
        self._count = int(self._db.execute("SELECT count(*) FROM objects").fetchone()[0])
        self._next = int(self._db.execute("SELECT coalesce(max(doc), 0) + 1 FROM objects").fetchone()[0])
        self.redefine(definition)

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._db.close()

    def destroy(self) -> None:
        """Close and delete the file."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def redefine(self, definition: Definition) -> None:
        """Take a new definition: properties that came get their column (empty for the objects already here)."""
        with self.lock:
            self.definition = definition
            for prop in definition.get("properties") or ():
                if prop["name"] not in self.columns and _has_column(prop):
                    self._add_column(prop)
            self._writers = [
                (prop["name"], prop["dataType"][0])
                for name in self.columns
                for prop in definition.get("properties") or ()
                if prop["name"] == name
            ]
            names = ["doc", "id", "created", "updated", *(self.columns[name] for name, _ in self._writers)]
            slots = ",".join("?" * len(names))
            self._insert = f"INSERT OR REPLACE INTO objects({','.join(names)}) VALUES ({slots})"  # noqa: S608  # our names

    def _add_column(self, prop: Definition) -> None:
        name = f"p{len(self.columns)}"
        kind = prop["dataType"][0]
        with self._transaction():
            self._db.execute(f"ALTER TABLE objects ADD COLUMN {name} {_SQL_TYPES[kind]}")
            self._db.execute("INSERT INTO columns(prop, name) VALUES (?, ?)", (prop["name"], name))
        self.columns[prop["name"]] = name
        if kind == "uuid":
            self._add_index(name)

    def _add_index(self, column: str) -> None:
        self._db.execute(f"CREATE INDEX IF NOT EXISTS by_{column} ON objects({column}) WHERE {column} IS NOT NULL")
        self._indexed.add(column)

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, objects: Sequence[NewObject], *, keep_created: bool = False) -> list[WrongDimensionError | None]:
        """Insert or replace, all in one transaction; result[i] says why objects[i] was left out.

        The last of several with the same id wins. Replacing without vectors drops the vectors. `keep_created` is what
        PUT and PATCH of single objects do; a batch resets the creation time.
        """
        with self.lock:
            outcome: list[WrongDimensionError | None] = [self._check_dimensions(item) for item in objects]
            accepted = {item.id: item for item, failed in zip(objects, outcome, strict=True) if failed is None}
            if not accepted:
                return outcome
            existing = {row[1]: (row[0], row[2]) for row in self._by_ids(accepted)}
            now = time.time_ns() // 1_000_000
            rows, bodies, vectors = [], [], []
            for key, item in accepted.items():
                doc, created = existing.get(key) or (0, 0)
                if not doc:
                    doc, self._next = self._next, self._next + 1
                rows.append(self._row(doc, item, created if keep_created and created else now, now))
                bodies.append((doc, orjson.dumps(item.props), pack_vectors(item.vectors) or None))
                vectors.append((doc, item.vectors))
            with self._transaction():
                self._db.executemany(self._insert, rows)
                self._db.executemany("INSERT OR REPLACE INTO bodies(doc, props, vectors) VALUES (?, ?, ?)", bodies)
                self._db.executemany("INSERT OR REPLACE INTO dimensions VALUES (?, ?)", self.dimensions.items())
            self._count += len(accepted) - len(existing)
            self._update_spaces(vectors)
            return outcome

    def _check_dimensions(self, item: NewObject) -> WrongDimensionError | None:
        for space, data in item.vectors.items():
            expected = self.dimensions.get(space)
            if expected is not None and expected * 4 != len(data):
                return WrongDimensionError(len(data) // 4, expected)
        for space, data in item.vectors.items():
            self.dimensions.setdefault(space, len(data) // 4)
        return None

    def _row(self, doc: int, item: NewObject, created: int, updated: int) -> tuple[Any, ...]:
        props = item.props
        values = [
            None if (value := props.get(name)) is None else _as_column(kind, value) for name, kind in self._writers
        ]
        return (doc, item.id, created, updated, *values)

    def _update_spaces(self, written: list[tuple[int, dict[str, bytes]]]) -> None:
        for name, space in self._spaces.items():
            space.drop(doc for doc, vectors in written if name not in vectors)
            for doc, vectors in written:
                if name in vectors:
                    space.put(doc, np.frombuffer(vectors[name], dtype="<f4"))

    def delete(self, ids: Iterable[bytes]) -> int:
        """Delete by id; the number that existed."""
        with self.lock:
            docs = [row[0] for row in self._by_ids(ids)]
            with self._transaction():
                self._db.executemany("DELETE FROM objects WHERE doc = ?", ((doc,) for doc in docs))
                self._db.executemany("DELETE FROM bodies WHERE doc = ?", ((doc,) for doc in docs))
            self._count -= len(docs)
            for space in self._spaces.values():
                space.drop(docs)
            return len(docs)

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> StoredObject | None:
        """One object."""
        with self.lock:
            docs = [row[0] for row in self._by_ids([key])]
            return next(iter(self.read(docs)), None)

    def contains(self, key: bytes) -> bool:
        """Whether the id exists."""
        with self.lock:
            return bool(self._by_ids([key]))

    def count(self, where: Compiled | None = None) -> int:
        """The number of objects (that match). Without a filter it costs nothing."""
        with self.lock:
            if where is None:
                return self._count
            return int(self._run("SELECT count(*) FROM objects AS o", where).fetchone()[0])

    def matches(self, where: Compiled | None) -> list[tuple[int, bytes]]:
        """(document number, id) of all that match, in the order of document numbers."""
        with self.lock:
            if where is None:
                return self._db.execute("SELECT doc, id FROM objects ORDER BY doc").fetchall()
            return self._run("SELECT o.doc, o.id FROM objects AS o", where, " ORDER BY o.doc").fetchall()

    def page(self, where: Compiled | None, limit: int, offset: int, after: bytes | None = None) -> list[StoredObject]:
        """One page: by id without a filter, by document number with one, as Weaviate orders them."""
        with self.lock:
            if where is None:
                sql = "SELECT doc FROM objects WHERE id > ? ORDER BY id LIMIT ? OFFSET ?"
                rows = self._db.execute(sql, (after or b"", limit, offset))
            else:
                tail = f" ORDER BY o.doc LIMIT {limit} OFFSET {offset}"
                rows = self._run("SELECT o.doc FROM objects AS o", where, tail)
            return self.read([row[0] for row in rows.fetchall()])

    def read(self, docs: Sequence[int], distances: Sequence[float] | None = None) -> list[StoredObject]:
        """Objects by document number, in this order."""
        sql = (
            "SELECT o.doc, o.id, b.props, b.vectors, o.created, o.updated FROM objects AS o "
            "JOIN bodies AS b ON b.doc = o.doc WHERE o.doc IN "
        )
        with self.lock:
            found = {row[0]: row for row in self._in_pieces(sql, docs)}
        out = []
        for at, doc in enumerate(docs):
            _, key, props, vectors, created, updated = found[doc]
            distance = None if distances is None else distances[at]
            out.append(StoredObject(key, orjson.loads(props), unpack_vectors(vectors), created, updated, distance))
        return out

    def pick(self, where: Compiled | None, take: Callable[[int, int, dict[str, Any]], Any]) -> list[tuple[int, Any]]:
        """(document number, `take(created, updated, properties)`) of all that match, by id. Streams the bodies."""
        head = "SELECT o.doc, o.created, o.updated, b.props FROM objects AS o JOIN bodies AS b ON b.doc = o.doc"
        with self.lock:
            if where is None:
                rows = self._db.execute(f"{head} ORDER BY o.id")
            else:
                rows = self._run(head, where, " ORDER BY o.id")
            return [(doc, take(created, updated, orjson.loads(props))) for doc, created, updated, props in rows]

    def nearest(
        self, space: str, query: Floats, limit: int, *, offset: int, within: float | None, where: Compiled | None
    ) -> list[StoredObject]:
        """Exact search by distance.

        Raises:
            WrongDimensionError: the query has another length than the vectors.
        """
        with self.lock:
            size = self.dimensions.get(space)
            if size is None:
                return []
            if size != len(query):
                raise WrongDimensionError(len(query), size)
            allowed = None if where is None else [doc for doc, _ in self.matches(where)]
            hits = self._space(space).search(query, limit + offset, within, allowed)[offset:]
            return self.read([doc for doc, _ in hits], [distance for _, distance in hits])

    def _space(self, name: str) -> VectorSpace:
        if name not in self._spaces:
            space = VectorSpace(self.dimensions[name], vector_spaces(self.definition)[name])
            for doc, blob in self._db.execute("SELECT doc, vectors FROM bodies WHERE vectors IS NOT NULL"):
                data = unpack_vectors(blob).get(name)
                if data is not None:
                    space.put(doc, np.frombuffer(data, dtype="<f4"))
            self._spaces[name] = space
        return self._spaces[name]

    # -- SQL -----------------------------------------------------------------------------------------------------

    def _run(self, head: str, where: Compiled, tail: str = "") -> sqlite3.Cursor:
        for column in where.columns - self._indexed:
            self._add_index(column)
        self._leaves = where.leaves
        return self._db.execute(f"{head} WHERE {where.sql}{tail}", where.params)

    def _match(self, leaf: int, props: bytes) -> bool:
        return self._leaves[leaf](orjson.loads(props))

    def _by_ids(self, ids: Iterable[bytes]) -> list[tuple[Any, ...]]:
        return list(self._in_pieces("SELECT doc, id, created FROM objects WHERE id IN ", list(ids)))

    def _in_pieces(self, head: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(values), _IN):
            piece = values[start : start + _IN]
            yield from self._db.execute(f"{head}({','.join('?' * len(piece))})", piece)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on an error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("COMMIT" if error is None else "ROLLBACK")


def _has_column(prop: Definition) -> bool:
    kind = prop["dataType"][0]
    if not (prop["indexFilterable"] or prop["indexSearchable"] or prop["indexRangeFilters"]):
        return False
    return kind in _SQL_TYPES and (kind != "text" or prop["tokenization"] == "field")


def _as_column(kind: str, value: Any) -> Any:
    if kind == "uuid":
        return parse_uuid(value)[1]
    if kind == "date":
        return parse_date(value)[1]
    return value.strip() if kind == "text" else value
