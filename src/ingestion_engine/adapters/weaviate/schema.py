"""The Weaviate class of a collection: its explicit schema, and the comparison with an existing class. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ingestion_engine.adapters.store_errors import schema_mismatch
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.settings import WeaviateSettings

DISTANCE = "cosine"
_EXACT: dict[str, Any] = {"dataType": ["text"], "tokenization": "field", "indexSearchable": False}
"""Compared as a whole. Weaviate's filters still trim white space at both ends, so objects are filtered by
``object_id``."""
_STORED: dict[str, Any] = {**_EXACT, "indexFilterable": False}
_WORDS: dict[str, Any] = {
    "dataType": ["text"],
    "tokenization": "word",
    "indexFilterable": False,
    "indexSearchable": True,
}
"""Indexed for keyword search with Weaviate's own clients."""
_NUMBER: dict[str, Any] = {"dataType": ["int"], "indexFilterable": False, "indexSearchable": False}
PROPERTIES: Mapping[str, Mapping[str, Any]] = {
    "object_id": {"dataType": ["uuid"], "indexFilterable": True, "indexSearchable": False},
    "epoch": {**_NUMBER, "indexFilterable": True, "indexRangeFilters": True},
    "bucket": {**_EXACT, "indexFilterable": True},
    "key": {**_EXACT, "indexFilterable": True},
    "content_type": {**_EXACT, "indexFilterable": True},
    "metadata": {**_EXACT, "dataType": ["text[]"], "indexFilterable": True},
    "uri": _STORED,
    "etag": _STORED,
    "content_hash": _STORED,
    "embedding_id": _STORED,
    "job_id": _STORED,
    "title": _WORDS,
    "text": _WORDS,
    "context": _WORDS,
    "chunk_index": {**_NUMBER, "indexFilterable": True, "indexRangeFilters": True},
    "start_char": _NUMBER,
    "end_char": _NUMBER,
    "page": _NUMBER,
    "ingested_at": {"dataType": ["date"], "indexFilterable": True, "indexSearchable": False},
}
"""The payload's fields by name. ``epoch`` has a range index because every write of an object is followed by a filter on
it; ``chunk_index`` has one because an object of more than 10,000 points can only be read in ranges of it."""

ADDED_LATER = ("context",)
"""Properties that classes of earlier releases do not have; the next job adds them. They are what Weaviate guesses for
them, because a worker may write one before."""

JOB_FILTERS = ("object_id", "epoch")
"""Properties by which jobs find points; the other filters are only for searches."""

_DIMENSION = re.compile(r"\b(\d+) dimensions\b")


def make_class_name(collection: str) -> str:
    """Return the class name of a collection: the same name with a capital first letter. Pure."""
    return collection[:1].upper() + collection[1:]


def make_definition(contract: CollectionContract, creation: WeaviateSettings | None = None) -> dict[str, Any]:
    """Return the body of ``POST /v1/schema``; Weaviate has no field for the dimension, so the description states it.

    What the settings leave open is the server's default.
    """
    creation = creation or WeaviateSettings()
    index: dict[str, Any] = {"distance": DISTANCE}
    further: dict[str, Any] = {}
    if creation.quantization == "none":
        index["skipDefaultQuantization"] = True
    elif creation.quantization is not None:
        index[creation.quantization] = {"enabled": True}
    if creation.shards is not None:
        further["shardingConfig"] = {"desiredCount": creation.shards}
    if creation.replication_factor is not None:
        further["replicationConfig"] = {"factor": creation.replication_factor}
    return {
        "class": make_class_name(contract.collection),
        "description": f"Chunks of documents, embedded by {contract.model} in {contract.dimension} dimensions.",
        "vectorizer": "none",
        "vectorIndexType": "hnsw",
        "vectorIndexConfig": index,
        **further,
        "properties": [{"name": name, **settings} for name, settings in PROPERTIES.items()],
    }


def find_missing(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bodies of ``POST /v1/schema/{class}/properties`` that complete a class of an earlier release. Pure."""
    held = {entry["name"] for entry in found.get("properties") or ()}
    return [{"name": name, **PROPERTIES[name]} for name in ADDED_LATER if name not in held]


def check_definition(found: Mapping[str, Any], contract: CollectionContract) -> None:
    """Compare a class with its contract: whether it can hold the points and find them again.

    Additional properties are allowed, and what changes only speed, memory and distribution: the kind, compression and
    settings of the vector index (Weaviate keeps the original vectors with the objects), shards and replicas.

    Raises:
        FatalError: "schema_mismatch", naming both values.
    """

    def mismatch(field: str, found: Any, expected: Any) -> FatalError:
        return schema_mismatch(StoreName.WEAVIATE, contract, field, found=found, expected=expected)

    stated = _DIMENSION.search(found.get("description") or "")
    if stated is not None and int(stated[1]) != contract.dimension:
        raise mismatch("dimension", int(stated[1]), contract.dimension)
    if found.get("vectorConfig"):
        raise mismatch("vectors", sorted(found["vectorConfig"]), "one without a name")
    index = found.get("vectorIndexConfig") or {}
    if found.get("vectorizer") != "none":
        raise mismatch("vectorizer", found.get("vectorizer"), "none")
    if index.get("distance") != DISTANCE:
        raise mismatch("distance", index.get("distance"), DISTANCE)
    if (index.get("multivector") or {}).get("enabled"):
        raise mismatch("vectors", "multivectors", "one vector per object")
    if index.get("skip"):  # vectors are stored, but no search finds them
        raise mismatch("vectorIndexConfig.skip", True, False)
    if (found.get("multiTenancyConfig") or {}).get("enabled"):  # every write would have to name a tenant
        raise mismatch("multiTenancyConfig.enabled", True, False)
    properties = {entry["name"]: entry for entry in found.get("properties") or ()}
    for name, settings in PROPERTIES.items():
        if name not in properties and name in ADDED_LATER:
            continue
        if name not in properties:
            raise mismatch(f"property {name}", None, settings["dataType"])
        for setting in ("dataType", "tokenization"):
            value, expected = properties[name].get(setting) or None, settings.get(setting)
            if value != expected:
                raise mismatch(f"{setting} of property {name}", value, expected)
        if name in JOB_FILTERS and not _is_filterable(properties[name]):
            raise mismatch(f"indexFilterable of property {name}", False, True)


def _is_filterable(found: Mapping[str, Any]) -> bool:
    """True when filters find values of a property; null is Weaviate's default, that they do. Pure."""
    return found.get("indexFilterable") is not False or found.get("indexRangeFilters") is True
