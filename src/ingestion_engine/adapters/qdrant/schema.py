"""The Qdrant collection of a contract: its definition, and the comparison with an existing one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingestion_engine.adapters.store_errors import schema_mismatch
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.settings import QdrantSettings

DISTANCE = "Cosine"
DATATYPE = "float32"
"""Every other one changes the vectors: they read back different, and a comparison finds no object right."""
INDEXES: Mapping[str, str | Mapping[str, Any]] = {
    "object_id": "keyword",
    "epoch": "integer",
    "chunk_index": "integer",
    "bucket": "keyword",
    "content_type": "keyword",
    "key": {"type": "keyword", "prefix": True},
}
"""Payload fields that filters use, the most important ones first: jobs filter by the first three, searches by the
others. Matching keys by prefix is new in Qdrant 1.19; it is byte-wise and case-sensitive (openapi.json,
``MatchPrefix``)."""
DELETE_FIELDS = ("object_id", "epoch")
"""Fields by which points are deleted."""
JOB_FIELDS = (*DELETE_FIELDS, "chunk_index")
"""Fields without which no job works where Qdrant refuses filters on fields without an index."""
QUANTIZATION: Mapping[str, Mapping[str, Any]] = {
    "scalar": {"scalar": {"type": "int8"}},
    "product": {"product": {"compression": "x16"}},
    "binary": {"binary": {}},
}
"""Settings of each kind; Qdrant's own defaults where it has any."""


def make_definition(contract: CollectionContract, creation: QdrantSettings) -> dict[str, Any]:
    """Return the body that creates the collection; what the settings leave open is the server's default."""
    body: dict[str, Any] = {"vectors": {"size": contract.dimension, "distance": DISTANCE}}
    if creation.shards is not None:
        body["shard_number"] = creation.shards
    if creation.replication_factor is not None:
        body["replication_factor"] = creation.replication_factor
    if creation.quantization is not None:
        body["quantization_config"] = QUANTIZATION[creation.quantization]
    return body


def check_definition(info: Mapping[str, Any], contract: CollectionContract) -> None:
    """Compare a collection with its contract: whether it can hold the vectors and find them again.

    Allowed is what changes only speed, memory and distribution: quantisation (the originals stay), memory placement,
    HNSW settings, shards and replicas, further sparse vectors and indexes.

    Raises:
        FatalError: "schema_mismatch", naming both values.
    """

    def mismatch(field: str, found: Any, expected: Any) -> FatalError:
        return schema_mismatch(StoreName.QDRANT, contract, field, found=found, expected=expected)

    params = info["config"]["params"]
    vectors = params.get("vectors") or {}
    if not isinstance(vectors.get("size"), int):
        raise mismatch("vectors", sorted(vectors) or None, "one without a name")
    for field, expected in (("size", contract.dimension), ("distance", DISTANCE)):
        if vectors.get(field) != expected:
            raise mismatch(f"vector {field}", vectors.get(field), expected)
    if (datatype := vectors.get("datatype") or DATATYPE) != DATATYPE:
        raise mismatch("vector datatype", datatype, DATATYPE)
    if vectors.get("multivector_config"):
        raise mismatch("vectors", "multivectors", "one vector per point")
    if (sharding := params.get("sharding_method") or "auto") != "auto":  # every write would have to name a shard
        raise mismatch("sharding_method", sharding, "auto")
    for field, schema in INDEXES.items():
        kind = schema if isinstance(schema, str) else schema["type"]
        found = info["payload_schema"].get(field, {}).get("data_type", kind)
        if found != kind:
            raise mismatch(f"index of {field}", found, kind)
