"""The class that a collection is in Weaviate: its explicit schema, and how an existing one is compared with it.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.spec import CollectionContract

DISTANCE = "cosine"
_EXACT: dict[str, Any] = {"dataType": ["text"], "tokenization": "field", "indexSearchable": False}
"""Compared as a whole. (Even so Weaviate's filters trim white space at both ends; objects are filtered by
``object_id``.)"""
_STORED: dict[str, Any] = {**_EXACT, "indexFilterable": False}
_WORDS: dict[str, Any] = {
    "dataType": ["text"],
    "tokenization": "word",
    "indexFilterable": False,
    "indexSearchable": True,
}
"""For keyword search by Weaviate's own clients."""
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
"""The payload's fields by name. ``epoch`` has a range index: every write of an object is followed by a filter on it;
``chunk_index`` too: an object of more than 10,000 points can only be read in ranges of it."""

_DIMENSION = re.compile(r"\b(\d+) dimensions\b")


def make_class_name(collection: str) -> str:
    """Return Weaviate's spelling of a collection's name: with a capital first letter."""
    return collection[:1].upper() + collection[1:]


def make_definition(contract: CollectionContract) -> dict[str, Any]:
    """Return the body of ``POST /v1/schema``. Weaviate has no field for the dimension, so the description states it."""
    return {
        "class": make_class_name(contract.collection),
        "description": f"Chunks of documents, embedded by {contract.model} in {contract.dimension} dimensions.",
        "vectorizer": "none",
        "vectorIndexType": "hnsw",
        "vectorIndexConfig": {"distance": DISTANCE},
        "properties": [{"name": name, **settings} for name, settings in PROPERTIES.items()],
    }


def check_definition(found: Mapping[str, Any], contract: CollectionContract) -> None:
    """Compare a class with what it should be, property by property; further properties are let be.

    Raises:
        FatalError: "schema_mismatch", naming both values.
    """
    stated = _DIMENSION.search(found.get("description") or "")
    if stated is not None and int(stated[1]) != contract.dimension:
        raise _mismatch(contract, "dimension", int(stated[1]), contract.dimension)
    if found.get("vectorConfig"):
        raise _mismatch(contract, "vectors", sorted(found["vectorConfig"]), "one without a name")
    distance = (found.get("vectorIndexConfig") or {}).get("distance")
    if found.get("vectorizer") != "none":
        raise _mismatch(contract, "vectorizer", found.get("vectorizer"), "none")
    if distance != DISTANCE:
        raise _mismatch(contract, "distance", distance, DISTANCE)
    properties = {entry["name"]: entry for entry in found.get("properties") or ()}
    for name, settings in PROPERTIES.items():
        if name not in properties:
            raise _mismatch(contract, f"property {name}", None, settings["dataType"])
        for setting in ("dataType", "tokenization"):
            value, expected = properties[name].get(setting) or None, settings.get(setting)
            if value != expected:
                raise _mismatch(contract, f"{setting} of property {name}", value, expected)


def _mismatch(contract: CollectionContract, what: str, found: Any, expected: Any) -> FatalError:
    said = f"collection {contract.collection} in weaviate has {what} {found}, expected {expected}"
    return FatalError(
        "schema_mismatch",
        said,
        hint="Use another collection name, or drop the collection.",
        collection=contract.collection,
        store="weaviate",
        field=what,
        found=found,
        expected=expected,
    )
