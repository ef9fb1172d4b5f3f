"""What a collection of the Qdrant stand-in is made of: vectors, settings and payload indexes, as the API shows them.

Settings that only change speed or memory in the real server (HNSW, optimizers, WAL, `on_disk`) are checked by name,
kept and shown, and change nothing here. What would change answers and cannot be done is refused.
"""

from __future__ import annotations

from typing import Any, Final

import qdrant_edge as edge

from ingestion_devstack.qdrant.errors import (
    RequestRefusedError,
    bad_format,
    check_fields,
    engine_errors,
    invalid,
    require,
    unsupported,
)
from ingestion_devstack.qdrant.updates import UNNAMED

_LARGEST_DIMENSION: Final = 65536
_DISTANCES: Final = {
    "Cosine": edge.Distance.Cosine,
    "Euclid": edge.Distance.Euclid,
    "Dot": edge.Distance.Dot,
    "Manhattan": edge.Distance.Manhattan,
}
_DATATYPES: Final = {
    None: None,
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
_HNSW: Final = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10000,
    "max_indexing_threads": 0,
    "on_disk": False,
}
"""Here and below: the defaults of the real server's configuration file, which collection info shows."""
_OPTIMIZERS: Final = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
    "prevent_unoptimized": None,
}
_WAL: Final = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}
_FACTORS: Final = ("replication_factor", "write_consistency_factor")
_VECTOR: Final = ("size", "distance", "hnsw_config", "on_disk", "memory", "datatype")
_INDEX_PARAMS: Final = {
    "keyword": (edge.KeywordIndexParams, ("is_tenant", "on_disk", "enable_hnsw", "prefix")),
    "integer": (edge.IntegerIndexParams, ("lookup", "range", "is_principal", "on_disk", "enable_hnsw")),
    "float": (edge.FloatIndexParams, ("is_principal", "on_disk", "enable_hnsw")),
    "geo": (edge.GeoIndexParams, ("on_disk", "enable_hnsw")),
    "bool": (edge.BoolIndexParams, ("on_disk", "enable_hnsw")),
    "datetime": (edge.DatetimeIndexParams, ("is_principal", "on_disk", "enable_hnsw")),
    "uuid": (edge.UuidIndexParams, ("is_tenant", "on_disk", "enable_hnsw")),
    "text": (
        edge.TextIndexParams,
        (
            "tokenizer",
            "min_token_len",
            "max_token_len",
            "lowercase",
            "ascii_folding",
            "phrase_matching",
            "on_disk",
            "enable_hnsw",
        ),
    ),
}
_INDEX_REJECTED: Final = ("memory", "prefix", "nested", "stopwords", "stemmer", "scoring")
_TOKENIZERS: Final = {
    "prefix": edge.TokenizerType.Prefix,
    "whitespace": edge.TokenizerType.Whitespace,
    "word": edge.TokenizerType.Word,
    "multilingual": edge.TokenizerType.Multilingual,
}


def parse_creation(body: Any) -> dict[str, Any]:
    """Return the `config` of a new collection, with the real server's defaults, as collection info shows it.

    Raises:
        RequestRefusedError: malformed, or something that is not supported (sparse vectors, multivectors,
            quantization, several shards, strict mode).
    """
    kept = ("vectors", "shard_number", *_FACTORS, "on_disk_payload", "payload", "metadata")
    diffs = ("hnsw_config", "wal_config", "optimizers_config")
    rejected = ("sparse_vectors", "sharding_method", "quantization_config", "strict_mode_config", "id_tracker")
    check_fields(body, (*kept, *diffs), "struct CreateCollection", rejected)
    if not body.get("vectors"):
        raise unsupported("a collection without dense vectors")
    for name in ("shard_number", *_FACTORS):
        if body.get(name) is not None and (type(body[name]) is not int or body[name] < 1):
            raise invalid(name, f"value {body[name]} invalid, must be 1 or larger")
    if (body.get("shard_number") or 1) != 1:
        raise unsupported("`shard_number` other than 1")
    params = {"vectors": _check_vectors(body["vectors"]), "shard_number": 1}
    params |= {name: body.get(name) or 1 for name in _FACTORS}
    params["on_disk_payload"] = body.get("on_disk_payload", True)
    if body.get("payload") is not None:
        params["payload"] = body["payload"]
    config = {
        "params": params,
        "hnsw_config": _merge(_HNSW, body.get("hnsw_config"), ("memory", "payload_m", "inline_storage")),
        "optimizer_config": _merge(_OPTIMIZERS, body.get("optimizers_config")),
        "wal_config": _merge(_WAL, body.get("wal_config")),
        "quantization_config": None,
    }
    return config if body.get("metadata") is None else config | {"metadata": body["metadata"]}


def apply_changes(config: dict[str, Any], body: Any) -> dict[str, Any]:
    """Return the config after `PATCH /collections/{name}`; vectors, quantization and strict mode cannot be changed."""
    rejected = ("vectors", "quantization_config", "sparse_vectors", "strict_mode_config")
    check_fields(body, ("optimizers_config", "params", "hnsw_config", "metadata"), "struct UpdateCollection", rejected)
    changeable = (*_FACTORS, "on_disk_payload", "payload", "read_fan_out_factor", "read_fan_out_delay_ms")
    diff = check_fields(body.get("params") or {}, changeable, "struct CollectionParamsDiff")
    changed = config | {
        "params": config["params"] | {name: value for name, value in diff.items() if value is not None},
        "hnsw_config": _merge(
            config["hnsw_config"], body.get("hnsw_config"), ("memory", "payload_m", "inline_storage")
        ),
        "optimizer_config": _merge(config["optimizer_config"], body.get("optimizers_config")),
    }
    if body.get("metadata") is not None:
        changed["metadata"] = config.get("metadata", {}) | body["metadata"]
    return changed


def named_vectors(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a collection's vector parameters by name; the only, unnamed vector has the empty name."""
    vectors: dict[str, Any] = config["params"]["vectors"]
    return {UNNAMED: vectors} if "size" in vectors else vectors


def engine_config(config: dict[str, Any]) -> edge.EdgeConfig:
    """Return how the engine stores such a collection: no HNSW graph (searches are exact), one search thread."""
    return edge.EdgeConfig(
        vectors={
            name: edge.EdgeVectorParams(
                size=vector["size"],
                distance=_DISTANCES[vector["distance"]],
                datatype=_DATATYPES[vector.get("datatype")],
            )
            for name, vector in named_vectors(config).items()
        },
        # Building a graph would hold the interpreter's lock for as long as it takes.
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=0),
        max_search_threads=1,
    )


def parse_index(body: Any) -> tuple[str, Any]:
    """Return field and schema of `PUT …/index`: the name of a type, or its parameters with a `type`."""
    check_fields(body, ("field_name", "field_schema"), "struct CreateFieldIndex", rejected=("field_type",))
    field, schema = require(body, "field_name"), body.get("field_schema")
    if type(field) is not str:
        raise bad_format("field_name: invalid type: expected a string")
    if schema is None:
        raise RequestRefusedError(
            400,
            "Bad request: Can't auto-detect field type, please specify `field_schema` in the request",
        )
    make_index(field, schema)
    return field, schema


def make_index(field: str, schema: Any) -> edge.UpdateOperation:
    """Return the engine's operation that indexes a field by such a schema.

    Raises:
        RequestRefusedError: an unknown type or parameter, or a field that is no path.
    """
    kind = schema.get("type") if type(schema) is dict else schema
    if type(kind) is not str or kind not in _INDEX_PARAMS:
        raise bad_format("data did not match any variant of untagged enum PayloadFieldSchema")
    make, names = _INDEX_PARAMS[kind]
    with engine_errors():
        if type(schema) is not dict:
            return edge.UpdateOperation.create_field_index(field, getattr(edge.PayloadSchemaType, kind.capitalize()))
        check_fields(
            schema,
            ("type", *names),
            f"struct {kind.capitalize()}IndexParams",
            rejected=set(_INDEX_REJECTED).difference(names),
        )
        given = {name: value for name, value in schema.items() if name in names and value is not None}
        if given.get("lookup") is False and given.get("range") is False:
            text = "Validation error: the 'lookup' and 'range' capabilities can't be both disabled [{}]"
            raise invalid("field_schema.lookup", text)
        if "tokenizer" in given:
            if given["tokenizer"] not in _TOKENIZERS:
                raise bad_format("data did not match any variant of untagged enum PayloadFieldSchema")
            given["tokenizer"] = _TOKENIZERS[given["tokenizer"]]
        return edge.UpdateOperation.create_field_index(field, make(**given))


def show_index(schema: Any, points: int) -> dict[str, Any]:
    """Return an index as collection info shows it."""
    if type(schema) is dict:
        return {"data_type": schema["type"], "params": schema, "points": points}
    return {"data_type": schema, "points": points}


def _check_vectors(vectors: Any) -> Any:
    if type(vectors) is dict and "size" in vectors:
        return _check_vector_params(vectors, "vectors")
    if type(vectors) is not dict or not all(type(vector) is dict for vector in vectors.values()):
        raise bad_format("data did not match any variant of untagged enum VectorsConfig")
    return {name: _check_vector_params(vector, f"vectors.{name}") for name, vector in vectors.items()}


def _check_vector_params(vector: dict[str, Any], path: str) -> dict[str, Any]:
    check_fields(vector, _VECTOR, "struct VectorParams", rejected=("quantization_config", "multivector_config"))
    size = vector.get("size")
    if type(size) is not int or size < 1 or vector.get("distance") not in _DISTANCES:
        raise bad_format("data did not match any variant of untagged enum VectorsConfig")
    if size > _LARGEST_DIMENSION:
        raise invalid(f"{path}.size", f"value {size} invalid, must be from 1 to {_LARGEST_DIMENSION}")
    if vector.get("datatype") not in _DATATYPES:
        raise unsupported(f"the datatype `{vector['datatype']}`")
    _merge(_HNSW, vector.get("hnsw_config"), ("memory", "payload_m", "inline_storage"))
    return {name: value for name, value in vector.items() if value is not None}


def _merge(settings: dict[str, Any], diff: Any, others: tuple[str, ...] = ()) -> dict[str, Any]:
    changes = check_fields({} if diff is None else diff, (*settings, *others), "a settings object")
    return settings | {name: value for name, value in changes.items() if value is not None}
