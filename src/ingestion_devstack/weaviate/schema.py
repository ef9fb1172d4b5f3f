"""Class definitions of the Weaviate stand-in: defaults and validation. Pure.

Imitates Weaviate 1.35, usecases/schema/class.go and usecases/schema/property.go: names, defaults and texts of errors.
A definition is the JSON object that `GET /v1/schema/{class}` returns, with its defaults filled in. A class has one
vector with the distance cosine, without a name or with one, and no vectorizer; other settings are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from ingestion_devstack.weaviate.errors import SchemaError, unsupported
from ingestion_devstack.weaviate.values import DATA_TYPES

Definition = dict[str, Any]

DEFAULT_VECTOR: Final = "default"
"""Name of the vector of a class made by the client's `vector_config` without a name."""

_CLASS_NAME = re.compile(r"[A-Z][_0-9A-Za-z]{0,254}")
_PROPERTY_NAME = re.compile(r"[_A-Za-z][_0-9A-Za-z]{0,230}")
_RESERVED: Final = frozenset({"id", "_id", "_additional"})
_DISTANCES: Final = ("cosine", "dot", "l2-squared", "manhattan", "hamming")
_INDEX_TYPES: Final = ("hnsw", "flat", "dynamic", "hfresh")
_TOKENIZATIONS: Final = ("word", "field")
_HNSW: Final[Definition] = {
    "cleanupIntervalSeconds": 300,
    "distance": "cosine",
    "dynamicEfFactor": 8,
    "dynamicEfMax": 500,
    "dynamicEfMin": 100,
    "ef": -1,
    "efConstruction": 128,
    "filterStrategy": "acorn",
    "flatSearchCutoff": 40000,
    "maxConnections": 32,
    "skip": False,
    "vectorCacheMaxObjects": 1_000_000_000_000,
}
"""Settings that the client reads; only the distance has a meaning here, searches are exact."""
_DEFAULTS: Final[Definition] = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"additions": None, "preset": "en", "removals": None},
    },
    "multiTenancyConfig": {"autoTenantActivation": False, "autoTenantCreation": False, "enabled": False},
    "replicationConfig": {"asyncEnabled": False, "deletionStrategy": "TimeBasedResolution", "factor": 1},
    "shardingConfig": {
        "actualCount": 1,
        "actualVirtualCount": 128,
        "desiredCount": 1,
        "desiredVirtualCount": 128,
        "function": "murmur3",
        "key": "_id",
        "strategy": "hash",
        "virtualPerPhysical": 128,
    },
}
_COMPRESSIONS: Final = ("bq", "pq", "rq", "sq", "skipDefaultQuantization")
"""Settings of an index that only change its memory and speed: they are kept and shown."""
_DISTRIBUTION: Final = {"shardingConfig": ("desiredCount",), "replicationConfig": ("factor",)}
"""The settings of shards and replicas that are kept and shown; there is one shard and no replica."""
_VECTOR_FIELDS: Final = ("vectorizer", "vectorIndexType", "vectorIndexConfig")
_CLASS_FIELDS: Final = ("class", "description", "properties", "vectorConfig", *_VECTOR_FIELDS, *_DISTRIBUTION)
_PROPERTY_FIELDS: Final = (
    *("name", "dataType", "description", "tokenization", "indexFilterable", "indexSearchable", "indexRangeFilters"),
    *("moduleConfig", "skip_vectorization", "vectorize_property_name"),  # for vectorizers, of which there are none
)


def upper_first(name: str) -> str:
    """Return Weaviate's spelling of a class or alias name."""
    return name[:1].upper() + name[1:]


def lower_first(name: str) -> str:
    """Return Weaviate's spelling of a property name."""
    return name[:1].lower() + name[1:]


def is_class_name(name: str) -> bool:
    """Return whether a class or alias may have this name (after `upper_first`)."""
    return _CLASS_NAME.fullmatch(name) is not None


def find_property(definition: Definition, name: str) -> Definition | None:
    """Return the property of exactly this name."""
    return next((prop for prop in definition.get("properties") or () if prop["name"] == name), None)


def no_such_property(definition: Definition, name: str) -> str:
    """Return the text of the error for a name that is not a property."""
    return (
        f"no such prop with name '{name}' found in class '{definition['class']}' in the schema. "
        "Check your schema files for which properties in this class are available"
    )


def vector_name(definition: Definition) -> str:
    """Return the name of the vector of a class; '' for the unnamed one."""
    return next(iter(definition.get("vectorConfig") or ()), "")


def complete_class(given: Definition) -> Definition:
    """Return the definition with its defaults, as stored and returned.

    Raises:
        SchemaError: not valid, or not supported here.
    """
    name = upper_first(str(given.get("class") or ""))
    if not is_class_name(name):
        raise SchemaError(f"'{name}' is not a valid class name")
    _check_fields(given, _CLASS_FIELDS, "a class")
    named = given.get("vectorConfig") or {}
    if named and given.get("vectorIndexType"):
        raise SchemaError("creating a class with both a class level vector index and named vectors is forbidden")
    if len(named) > 1:
        raise SchemaError(unsupported("a class with several named vectors"))
    out: Definition = {"class": name, **_DEFAULTS}
    for group, fields in _DISTRIBUTION.items():
        _check_fields(given.get(group) or {}, fields, f"`{group}`")
        out[group] = {**_DEFAULTS[group], **(given.get(group) or {})}
    if given.get("description"):
        out["description"] = given["description"]
    out["properties"] = complete_properties(name, given.get("properties") or ()) or None
    if named:
        ((vector, config),) = named.items()
        _check_fields(config, _VECTOR_FIELDS, "a named vector")
        out["vectorConfig"] = {vector: {**_complete_vector(config), "vectorizer": {"none": {}}}}
    else:
        out |= {**_complete_vector(given), "vectorizer": "none"}
    return out


def complete_properties(class_name: str, given: Iterable[Definition], existing: Iterable[str] = ()) -> list[Definition]:
    """Return new properties with their defaults.

    Raises:
        SchemaError: one is not valid, or its name is taken (compared without case).
    """
    taken = {name.lower() for name in existing}
    out = []
    for raw in given:
        prop = _complete_property(raw)
        if prop["name"].lower() in taken:
            name = prop["name"]
            raise SchemaError(
                f'class "{class_name}": conflict for property "{name}": already in use or provided multiple times'
            )
        taken.add(prop["name"].lower())
        out.append(prop)
    return out


def _check_fields(given: Definition, supported: tuple[str, ...], what: str) -> None:
    for name, value in given.items():
        if name not in supported and value not in (None, {}, []):
            raise SchemaError(unsupported(f"`{name}` of {what}"))


def _complete_vector(given: Definition) -> Definition:
    vectorizer = given.get("vectorizer") or "none"
    if isinstance(vectorizer, dict):
        vectorizer = next(iter(vectorizer))
    if vectorizer != "none":
        raise SchemaError(f'vectorizer: no module with name "{vectorizer}" present')
    kind, config = given.get("vectorIndexType") or "hnsw", {**_HNSW, **(given.get("vectorIndexConfig") or {})}
    if kind not in _INDEX_TYPES:
        raise SchemaError(f'unrecognized or unsupported vectorIndexType "{kind}"')
    if config["distance"] not in _DISTANCES:
        choices = ", ".join(f'"{name}"' for name in _DISTANCES)
        raise SchemaError(f'unrecognized distance metric "{config["distance"]}", choose one of [{choices}]')
    if kind != "hnsw" or config["distance"] != "cosine":
        raise SchemaError(unsupported(f"a vector index of type {kind} with the distance {config['distance']}"))
    _check_fields(config, (*_HNSW, *_COMPRESSIONS), "a vector index")
    return {"vectorIndexType": kind, "vectorIndexConfig": config}


def _complete_property(given: Definition) -> Definition:
    kinds = given.get("dataType")
    if not given.get("name"):
        raise SchemaError("property must contain name")
    if not kinds:
        raise SchemaError("property must contain dataType")
    name = lower_first(str(given["name"]))
    if not _PROPERTY_NAME.fullmatch(name):
        raise SchemaError(
            f"'{name}' is not a valid property name. Property names in Weaviate are restricted to valid GraphQL names, "
            "which must be “/[_A-Za-z][_0-9A-Za-z]{0,230}/”"
        )
    if name in _RESERVED:
        raise SchemaError(f"'{name}' is a reserved property name")
    _check_fields(given, _PROPERTY_FIELDS, f"the property '{name}'")
    if len(kinds) > 1 or kinds[0] not in DATA_TYPES:
        raise SchemaError(unsupported(f"property '{name}': the data type {kinds}"))
    kind: str = kinds[0]
    prop: Definition = {"name": name, "dataType": [kind]}
    is_text = kind in ("text", "text[]")
    tokenization = given.get("tokenization") or ("word" if is_text else None)
    if tokenization and not is_text:
        raise SchemaError(f"tokenization is not allowed for data type '{kind}'")
    if is_text and tokenization not in _TOKENIZATIONS:
        raise SchemaError(unsupported(f"property '{name}': the tokenization '{tokenization}'"))
    for key, default in (("indexFilterable", True), ("indexSearchable", is_text), ("indexRangeFilters", False)):
        prop[key] = default if given.get(key) is None else bool(given[key])
    if prop["indexSearchable"] and not is_text:
        raise SchemaError(
            "`indexSearchable` is allowed only for text/text[] data types. For other data types set false"
        )
    optional = {"tokenization": tokenization, "description": given.get("description")}
    return prop | {key: value for key, value in optional.items() if value}
