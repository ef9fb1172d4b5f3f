"""The Weaviate class of a collection: its explicit schema, and the comparison with an existing class. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ingestion_engine.adapters.store_errors import schema_mismatch
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.spec import CollectionContract, StoreName

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
    "chunk_index": {**_NUMBER, "indexFilterable": True, "indexRangeFilters": True},
    "start_char": _NUMBER,
    "end_char": _NUMBER,
    "page": _NUMBER,
    "ingested_at": {"dataType": ["date"], "indexFilterable": True, "indexSearchable": False},
}
"""The payload's fields by name. ``epoch`` has a range index because every write of an object is followed by a filter on
it; ``chunk_index`` has one because an object of more than 10,000 points can only be read in ranges of it."""

_DIMENSION = re.compile(r"\b(\d+) dimensions\b")


def make_class_name(collection: str) -> str:
    """Return the class name of a collection: the same name with a capital first letter. Pure."""
    return collection[:1].upper() + collection[1:]


def make_definition(contract: CollectionContract) -> dict[str, Any]:
    """Return the body of ``POST /v1/schema``; Weaviate has no field for the dimension, so the description states it."""
    return {
        "class": make_class_name(contract.collection),
        "description": f"Chunks of documents, embedded by {contract.model} in {contract.dimension} dimensions.",
        "vectorizer": "none",
        "vectorIndexType": "hnsw",
        "vectorIndexConfig": {"distance": DISTANCE},
        "properties": [{"name": name, **settings} for name, settings in PROPERTIES.items()],
    }


def check_definition(found: Mapping[str, Any], contract: CollectionContract) -> None:
    """Compare a class with the expected definition, property by property; additional properties are allowed.

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
    distance = (found.get("vectorIndexConfig") or {}).get("distance")
    if found.get("vectorizer") != "none":
        raise mismatch("vectorizer", found.get("vectorizer"), "none")
    if distance != DISTANCE:
        raise mismatch("distance", distance, DISTANCE)
    properties = {entry["name"]: entry for entry in found.get("properties") or ()}
    for name, settings in PROPERTIES.items():
        if name not in properties:
            raise mismatch(f"property {name}", None, settings["dataType"])
        for setting in ("dataType", "tokenization"):
            value, expected = properties[name].get(setting) or None, settings.get(setting)
            if value != expected:
                raise mismatch(f"{setting} of property {name}", value, expected)
