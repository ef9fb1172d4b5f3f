"""One collection of the Qdrant stand-in: a shard of the real engine, and a file with its settings.

Durability: the engine appends every update to its write-ahead log (a mapped file) before it applies it, and replays the
log when a shard is loaded [ran: SIGKILL under four writers, five times, lost nothing that was answered]. So what was
answered survives the death of the process; against loss of power there is the flush, every few seconds and at the end,
as in the real server.
`collection.json` is replaced atomically and synced.

Concurrency: the engine holds the interpreter's lock during every call [ran], so its calls never run in parallel; one
lock per collection keeps checks and changes together.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import qdrant_edge as edge

from ingestion_devstack.qdrant.errors import (
    PointMissingError,
    RequestRefusedError,
    collection_missing,
    engine_errors,
)
from ingestion_devstack.qdrant.settings import (
    apply_changes,
    engine_config,
    make_index,
    named_vectors,
    parse_index,
    show_index,
)

T = TypeVar("T")

_SETTINGS: Final = "collection.json"
_SHARD: Final = "shard"
HALF_DONE: Final = "."
"""Directories that begin with it are being made or deleted; a start removes them."""


class Collection:
    """One collection: its engine shard, its settings file, and the lock around both."""

    def __init__(self, directory: Path) -> None:
        """Open what is in `directory`, and make the shard's payload indexes those of the settings."""
        self.directory = directory
        self.lock = threading.RLock()
        self._settings: dict[str, Any] = orjson.loads((directory / _SETTINGS).read_bytes())
        self.name: str = self._settings["name"]
        self.sizes = {name: vector["size"] for name, vector in named_vectors(self._settings["config"]).items()}
        self._shard = edge.EdgeShard.load(str(directory / _SHARD))
        self._closed = False
        self._dirty = True
        self._operations = 0
        self._reconcile_indexes()
        self._shard.optimize()  # only drops the space of deleted points; graphs are never built

    @staticmethod
    def create(parent: Path, name: str, config: dict[str, Any]) -> Collection:
        """Make a new, empty collection in a directory of its own; all of it is there, or nothing."""
        final = parent / uuid.uuid4().hex
        making = parent / f"{HALF_DONE}{final.name}"
        (making / _SHARD).mkdir(parents=True)
        with engine_errors():
            edge.EdgeShard.create(str(making / _SHARD), engine_config(config)).close()
        write_json(making / _SETTINGS, {"name": name, "config": config, "indexes": {}})
        making.rename(final)
        sync_directory(parent)
        return Collection(final)

    def read(self, request: Callable[[edge.EdgeShard], T]) -> T:
        """Return the answer of a read request.

        Raises:
            RequestRefusedError: 404 if the collection was deleted meanwhile.
        """
        with self.lock:
            self._check_open()
            return request(self._shard)

    def update(self, operations: Sequence[edge.UpdateOperation], *, wait: bool) -> list[dict[str, Any]]:
        """Apply updates in order and return one result each; those before a failing one stay applied.

        With wait=false they are applied all the same, but a missing point is no error, as in the real server.
        """
        with self.lock:
            self._check_open()
            return [self._apply(operation, wait=wait) for operation in operations]

    def create_index(self, body: Any, *, wait: bool) -> dict[str, Any]:
        """Index a payload field; the same schema again changes nothing."""
        field, schema = parse_index(body)
        with self.lock:
            self._check_open()
            before = self._settings
            self._save({**before, "indexes": before["indexes"] | {field: schema}})
            try:
                return self._apply(make_index(field, schema), wait=wait)
            except RequestRefusedError:
                self._save(before)
                raise

    def delete_index(self, field: str, *, wait: bool) -> dict[str, Any]:
        """Drop the index of a payload field; no index is no error."""
        with self.lock, engine_errors():
            self._check_open()
            operation = edge.UpdateOperation.delete_field_index(field)
            indexes = {name: schema for name, schema in self._settings["indexes"].items() if name != field}
            self._save({**self._settings, "indexes": indexes})
            return self._apply(operation, wait=wait)

    def change(self, body: Any) -> None:
        """Change the settings that collection info shows."""
        with self.lock:
            self._check_open()
            self._save({**self._settings, "config": apply_changes(self._settings["config"], body)})

    def describe(self) -> dict[str, Any]:
        """Return what `GET /collections/{name}` answers."""
        with self.lock:
            self._check_open()
            info, settings = self._shard.info(), self._settings
        indexes = {
            field: show_index(settings["indexes"].get(field, _type_name(index)), index.points)
            for field, index in info.payload_schema.items()
        }
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": info.indexed_vectors_count,
            "points_count": info.points_count,
            "segments_count": info.segments_count,
            "config": settings["config"],
            "payload_schema": indexes,
            "update_queue": {"length": 0},
        }

    def flush(self) -> None:
        """Write to disk what was changed since the last time.

        Cost: about 50 ms after 10,000 points of 384 dimensions.
        """
        with self.lock:
            if self._dirty and not self._closed:
                self._dirty = False
                self._shard.flush()

    def close(self) -> None:
        """Flush and release the shard; every later call is answered as if the collection did not exist."""
        with self.lock:
            if not self._closed:
                self._closed = True
                self._shard.close()

    def _apply(self, operation: edge.UpdateOperation, *, wait: bool) -> dict[str, Any]:
        self._dirty = True
        number, self._operations = self._operations, self._operations + 1
        try:
            with engine_errors():
                self._shard.update(operation)
        except PointMissingError:
            if wait:
                raise
        return {"operation_id": number, "status": "completed" if wait else "acknowledged"}

    def _reconcile_indexes(self) -> None:
        """The settings are written before the engine is asked, so after a crash between the two they are right."""
        wanted = self._settings["indexes"]
        existing = self._shard.info().payload_schema
        for field in existing.keys() - wanted.keys():
            self._shard.update(edge.UpdateOperation.delete_field_index(field))
        for field in wanted.keys() - existing.keys():
            self._shard.update(make_index(field, wanted[field]))

    def _save(self, settings: dict[str, Any]) -> None:
        write_json(self.directory / _SETTINGS, settings)
        self._settings = settings

    def _check_open(self) -> None:
        if self._closed:
            raise collection_missing(self.name)


def _type_name(index: Any) -> str:
    return str(index.data_type).rpartition(".")[2].lower()


def write_json(path: Path, content: Any) -> None:
    """Replace a file atomically; it is on disk when this returns."""
    making = path.with_suffix(".new")
    with making.open("wb") as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    making.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
