"""One collection of the Qdrant stand-in: a shard of the real engine, and a file with its settings.

Imitates Qdrant 1.19: `CreateCollection`, `CollectionInfo` and `CreateFieldIndex` of its openapi.json, with the
defaults of config/config.yaml. A collection has one unnamed dense vector per point, of any datatype, payload indexes of
the types keyword (also by prefix), integer, float and bool, and strict mode. Settings of shards, replicas, HNSW,
quantisation and memory are shown and change nothing here. Everything else is refused by name.

Durability: the engine appends every update to its write-ahead log (a mapped file) before it applies it, and replays the
log when a shard is loaded [ran: SIGKILL under four writers, five times, lost nothing that was answered]. So every
answered update survives the death of the process; against loss of power there is the flush, every few seconds and at
the end, as in the real server. `collection.json` is replaced atomically and synced.

Concurrency: the engine holds the interpreter's lock during every call [ran], so its calls never run in parallel; one
lock per collection keeps checks and changes together.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import qdrant_edge as edge

from ingestion_devstack.qdrant.errors import (
    PointMissingError,
    RequestRefusedError,
    check_fields,
    check_type,
    collection_missing,
    engine_errors,
    out_of_range,
    require,
    unsupported,
    wrong_format,
)
from ingestion_devstack.qdrant.strict_mode import StrictMode, parse_strict_mode

T = TypeVar("T")

_SETTINGS: Final = "collection.json"
_SHARD: Final = "shard"
HALF_DONE: Final = "."
"""Prefix of directories that are being created or deleted; a start removes them."""
_LARGEST_DIMENSION: Final = 65536
_DISTANCES: Final = {
    "Cosine": edge.Distance.Cosine,
    "Euclid": edge.Distance.Euclid,
    "Dot": edge.Distance.Dot,
    "Manhattan": edge.Distance.Manhattan,
}
_DATATYPES: Final = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
_SHOWN_ONLY: Final = ("shard_number", "replication_factor", "write_consistency_factor", "on_disk_payload")
"""Parameters of a new collection that only the real server acts on."""
_SHOWN_CONFIGS: Final = ("hnsw_config", "quantization_config")
_DEFAULTS: Final[dict[str, Any]] = {
    "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0},
    "optimizer_config": {
        "deleted_threshold": 0.2,
        "vacuum_min_vector_number": 1000,
        "default_segment_number": 0,
        "indexing_threshold": 10000,
        "flush_interval_sec": 5,
    },
    "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1},
    "quantization_config": None,
}
"""Shown by collection info; they only change speed and memory in the real server, and nothing here."""
_INDEX_TYPES: Final = ("keyword", "integer", "float", "bool")


class Collection:
    """One collection: its engine shard, its settings file, and the lock around both."""

    def __init__(self, directory: Path) -> None:
        """Open `directory`, and give the shard the payload indexes of the settings."""
        self.directory = directory
        self.lock = threading.RLock()
        self._settings: dict[str, Any] = orjson.loads((directory / _SETTINGS).read_bytes())
        self.name: str = self._settings["name"]
        self.size: int = self._settings["config"]["params"]["vectors"]["size"]
        self._shard = edge.EdgeShard.load(str(directory / _SHARD))
        self._closed = False
        self._dirty = True
        self._strict = StrictMode(self._settings["config"].get("strict_mode_config"))
        self._operations = 0
        # The settings are written before the engine gets the request, so after a crash between the two they are right.
        existing = self._shard.info().payload_schema
        for field, schema in self._settings["indexes"].items():
            if field not in existing:
                self._shard.update(_make_index(field, schema))
        self._shard.optimize()  # only drops the space of deleted points; graphs are never built

    @staticmethod
    def create(parent: Path, name: str, body: Any) -> Collection:
        """Create a collection in a directory of its own, atomically.

        Raises:
            RequestRefusedError: malformed or unsupported settings.
        """
        vectors = _parse_vectors(body)
        strict = parse_strict_mode(body.get("strict_mode_config"))
        params = {"vectors": vectors, "shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1}
        params |= {"on_disk_payload": True} | {name: body[name] for name in _SHOWN_ONLY if body.get(name) is not None}
        final = parent / uuid.uuid4().hex
        partial = parent / f"{HALF_DONE}{final.name}"
        (partial / _SHARD).mkdir(parents=True)
        # Building a graph would hold the interpreter's lock for as long as it takes.
        engine = edge.EdgeConfig(
            vectors={
                "": edge.EdgeVectorParams(
                    size=vectors["size"],
                    distance=_DISTANCES[vectors["distance"]],
                    datatype=_DATATYPES[vectors.get("datatype") or "float32"],
                )
            },
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=0),
            max_search_threads=1,
        )
        with engine_errors():
            edge.EdgeShard.create(str(partial / _SHARD), engine).close()
        config: dict[str, Any] = {"params": params, **_DEFAULTS}
        config |= {name: body[name] for name in _SHOWN_CONFIGS if body.get(name) is not None}
        if strict is not None:
            config["strict_mode_config"] = strict
        write_json(partial / _SETTINGS, {"name": name, "config": config, "indexes": {}})
        partial.rename(final)
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

    def check_strictly(self, check: Callable[[StrictMode, dict[str, Any]], None], query: Mapping[str, str]) -> None:
        """Check a request against strict mode: what `check` does with it and the indexes, and the named time limit.

        Raises:
            RequestRefusedError: 400 beyond a limit, 429 beyond a rate.
        """
        with self.lock:
            check(self._strict, self._settings["indexes"])
            self._strict.check_timeout(query)

    def update(self, operation: edge.UpdateOperation, *, wait: bool) -> dict[str, Any]:
        """Apply an update and return its result.

        With wait=false it is applied all the same, but a missing point is no error, as in the real server.
        """
        with self.lock:
            self._check_open()
            self._dirty = True
            number, self._operations = self._operations, self._operations + 1
            try:
                with engine_errors():
                    self._shard.update(operation)
            except PointMissingError:
                if wait:
                    raise
            return {"operation_id": number, "status": "completed" if wait else "acknowledged"}

    def create_index(self, body: Any, *, wait: bool) -> dict[str, Any]:
        """Index a payload field; the same schema again changes nothing."""
        check_fields(body, ("field_name", "field_schema"), "struct CreateFieldIndex")
        field, schema = check_type(require(body, "field_name"), str, "a string"), body.get("field_schema")
        if schema is None:
            text = "Bad request: Can't auto-detect field type, please specify `field_schema` in the request"
            raise RequestRefusedError(400, text)
        operation = _make_index(field, schema)
        with self.lock:
            self._check_open()
            before = self._settings
            self._save({**before, "indexes": before["indexes"] | {field: schema}})
            try:
                return self.update(operation, wait=wait)
            except RequestRefusedError:
                self._save(before)
                raise

    def describe(self) -> dict[str, Any]:
        """Return the answer of `GET /collections/{name}`."""
        with self.lock:
            self._check_open()
            info, settings = self._shard.info(), self._settings
        indexes = {}
        for field, schema in settings["indexes"].items():
            points = info.payload_schema[field].points if field in info.payload_schema else 0
            indexes[field] = {"data_type": schema, "points": points}
            if type(schema) is dict:
                indexes[field] |= {"data_type": schema["type"], "params": schema}
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
        """Write the changes since the last flush to disk.

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

    def _save(self, settings: dict[str, Any]) -> None:
        write_json(self.directory / _SETTINGS, settings)
        self._settings = settings

    def _check_open(self) -> None:
        if self._closed:
            raise collection_missing(self.name)


def _parse_vectors(body: Any) -> dict[str, Any]:
    """Return size and distance of a new collection's vector."""
    fields = ("vectors", "strict_mode_config", *_SHOWN_ONLY, *_SHOWN_CONFIGS)
    vectors = check_fields(body, fields, "struct CreateCollection").get("vectors")
    if type(vectors) is not dict:
        raise unsupported("a collection without dense vectors")
    if vectors and all(type(vector) is dict for vector in vectors.values()):
        raise unsupported("a collection of named vectors")
    check_fields(vectors, ("size", "distance", "datatype", "on_disk"), "struct VectorParams")
    size, distance = vectors.get("size"), vectors.get("distance")
    if vectors.get("datatype") is not None and vectors["datatype"] not in _DATATYPES:
        raise unsupported(f"the datatype {vectors['datatype']!r}")
    if type(size) is not int or size < 1 or distance not in _DISTANCES:
        raise wrong_format("data did not match any variant of untagged enum VectorsConfig")
    if size > _LARGEST_DIMENSION:
        raise out_of_range("vectors.size", f"value {size} invalid, must be from 1 to {_LARGEST_DIMENSION}")
    further = {name: vectors[name] for name in ("datatype", "on_disk") if vectors.get(name) is not None}
    return {"size": size, "distance": distance, **further}


def _make_index(field: str, schema: Any) -> edge.UpdateOperation:
    """Return the engine's operation for an index: by the name of a type, or `{type: keyword, prefix?}`."""
    kind = schema.get("type") if type(schema) is dict else schema
    if kind not in _INDEX_TYPES:
        raise unsupported(f"the index type {kind!r}")
    with engine_errors():
        if type(schema) is not dict:
            return edge.UpdateOperation.create_field_index(field, getattr(edge.PayloadSchemaType, kind.capitalize()))
        check_fields(schema, ("type", "prefix") if kind == "keyword" else ("type",), f"the {kind} index")
        if kind != "keyword":
            return _make_index(field, kind)
        return edge.UpdateOperation.create_field_index(field, edge.KeywordIndexParams(prefix=schema.get("prefix")))


def write_json(path: Path, content: Any) -> None:
    """Replace a file atomically; it is on disk when this returns."""
    partial = path.with_suffix(".new")
    with partial.open("wb") as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
