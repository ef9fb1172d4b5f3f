"""Migrates a data directory that an earlier Weaviate stand-in wrote: one SQLite file per class.

There `catalog.db` has the definitions and aliases, and `class-N.db` the objects of the class number N: ids and times in
the table `objects`, properties as JSON and packed vectors by name in the table `bodies`.
"""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from ingestion_devstack.weaviate.collection import Collection, transaction


def import_former_layout(data_dir: Path, db: sqlite3.Connection) -> None:
    """Copy everything into the one file of today, and delete the former files; nothing happens without any."""
    catalog = data_dir / "catalog.db"
    if not catalog.exists():
        return
    with transaction(db):
        db.executemany("INSERT OR IGNORE INTO aliases VALUES (?, ?)", _read(catalog, "SELECT name, class FROM aliases"))
        for row in _read(catalog, "SELECT number, name, body FROM classes ORDER BY number"):
            db.execute("INSERT OR IGNORE INTO classes(number, name, body) VALUES (?, ?, ?)", row)
            table = Collection(db, row[0], orjson.loads(row[2])).table
            sql = "SELECT o.id, o.created, o.updated, b.props, b.vectors FROM objects AS o JOIN bodies AS b USING (doc)"
            db.executemany(
                f"INSERT OR IGNORE INTO {table}(id, created, updated, props, vector) VALUES (?, ?, ?, ?, ?)",  # noqa: S608  # our name
                (
                    (str(uuid.UUID(bytes=key)), created, updated, props.decode(), _unpack_first(vectors))
                    for key, created, updated, props, vectors in _read(data_dir / f"class-{row[0]}.db", sql)
                ),
            )
    for path in (*data_dir.glob("class-*.db*"), *data_dir.glob("catalog.db*")):
        path.unlink()


def _read(path: Path, sql: str) -> list[Any]:
    if not path.exists():  # a class that was never used has no file
        return []
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def _unpack_first(packed: bytes | None) -> bytes | None:
    """Return the first of packed vectors: the length of its name in one byte, the name, the size in four, the data."""
    if not packed:
        return None
    start = 1 + packed[0]
    size = int.from_bytes(packed[start : start + 4], "little")
    return packed[start + 4 : start + 4 + size]
