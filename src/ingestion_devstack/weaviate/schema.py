"""Class definitions of the Weaviate stand-in: defaults, validation, changes. Pure; what is durable is in the catalogue.

A definition is the JSON object that `GET /v1/schema/{class}` returns, with every default filled in as Weaviate does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any, Final

from ingestion_devstack.weaviate.values import DATA_TYPES, NESTED, TOKENIZATIONS

Definition = dict[str, Any]

DISTANCES: Final = ("cosine", "dot", "l2-squared", "manhattan", "hamming")
DEFAULT_VECTOR: Final = "default"
"""The name of the one vector of a class made by auto-schema or by the client's `vector_config` without a name."""

_CLASS_NAME = re.compile(r"[A-Z][_0-9A-Za-z]{0,254}")
_PROPERTY_NAME = re.compile(r"[_A-Za-z][_0-9A-Za-z]{0,230}")
_RESERVED: Final = frozenset({"id", "_id", "_additional"})
_QUANTIZED = {"enabled": False}
_HNSW: Final[Definition] = {
    "bq": _QUANTIZED,
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
    "multivector": {
        "aggregation": "maxSim",
        "enabled": False,
        "muvera": {"dprojections": 16, "enabled": False, "ksim": 4, "repetitions": 10},
    },
    "pq": {
        "bitCompression": False,
        "centroids": 256,
        "enabled": False,
        "encoder": {"distribution": "log-normal", "type": "kmeans"},
        "segments": 0,
        "trainingLimit": 100_000,
    },
    "rq": {"bits": 8, "enabled": False, "rescoreLimit": 20},
    "skip": False,
    "skipDefaultQuantization": False,
    "sq": {"enabled": False, "rescoreLimit": 20, "trainingLimit": 100_000},
    "trackDefaultQuantization": False,
    "vectorCacheMaxObjects": 1_000_000_000_000,
}
_FLAT_QUANTIZER = {"cache": False, "enabled": False, "rescoreLimit": -1}
_FLAT: Final[Definition] = {
    "bq": _FLAT_QUANTIZER,
    "distance": "cosine",
    "pq": _FLAT_QUANTIZER,
    "rq": {"bits": 8, **_FLAT_QUANTIZER},
    "skipDefaultQuantization": False,
    "sq": _FLAT_QUANTIZER,
    "trackDefaultQuantization": False,
    "vectorCacheMaxObjects": 1_000_000_000_000,
}
_CLASS: Final[Definition] = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"additions": None, "preset": "en", "removals": None},
        "usingBlockMaxWAND": True,
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


class SchemaError(ValueError):
    """The definition or the change is refused; the text is what Weaviate would say. HTTP 422."""


def upper_first(name: str) -> str:
    """Weaviate's spelling of a class or alias name."""
    return name[:1].upper() + name[1:]


def lower_first(name: str) -> str:
    """Weaviate's spelling of a property name."""
    return name[:1].lower() + name[1:]


def is_class_name(name: str) -> bool:
    """Whether a class or alias may be called so (after `upper_first`)."""
    return _CLASS_NAME.fullmatch(name) is not None


def find_property(definition: Definition, name: str) -> Definition | None:
    """The property of exactly this name."""
    for prop in definition.get("properties") or ():
        if prop["name"] == name:
            found: Definition = prop
            return found
    return None


def no_such_property(definition: Definition, name: str) -> str:
    """The text of the error for a name that is no property."""
    return (
        f"no such prop with name '{name}' found in class '{definition['class']}' in the schema. "
        "Check your schema files for which properties in this class are available"
    )


def vector_spaces(definition: Definition) -> dict[str, str]:
    """Vector name → distance. The unnamed vector of a class without `vectorConfig` has the name ''."""
    named: dict[str, Definition] = definition.get("vectorConfig") or {}
    if named:
        return {name: config["vectorIndexConfig"]["distance"] for name, config in named.items()}
    return {"": definition["vectorIndexConfig"]["distance"]}


def _merge(default: Definition, given: Definition | None) -> Definition:
    out = copy.deepcopy(default)
    for key, value in (given or {}).items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = _merge(out[key], value)
        elif value is not None or key not in out:
            out[key] = value
    return out


def _vector_index(kind: str, given: Definition | None) -> Definition:
    if kind not in ("hnsw", "flat"):
        raise SchemaError(f'unrecognized or unsupported vectorIndexType "{kind}"')
    config = _merge(_HNSW if kind == "hnsw" else _FLAT, given)
    if config["distance"] not in DISTANCES:
        choices = ", ".join(f'"{name}"' for name in DISTANCES)
        raise SchemaError(f'unrecognized distance metric "{config["distance"]}", choose one of [{choices}]')
    if config.get("multivector", {}).get("enabled"):
        raise SchemaError("multi-vectors are not supported by the embedded Weaviate")
    return config


def complete_property(given: Definition) -> Definition:
    """The property with defaults.

    Raises:
        SchemaError: name, type or tokenisation is not possible here.
    """
    name = given.get("name")
    kinds = given.get("dataType")
    if not name:
        raise SchemaError("property must contain name")
    if not kinds:
        raise SchemaError("property must contain dataType")
    name = lower_first(str(name))
    if not _PROPERTY_NAME.fullmatch(name):
        raise SchemaError(
            f"'{name}' is not a valid property name. Property names in Weaviate are restricted to valid GraphQL names, "
            "which must be “/[_A-Za-z][_0-9A-Za-z]{0,230}/”"
        )
    if name in _RESERVED:
        raise SchemaError(f"'{name}' is a reserved property name")
    kind = {"string": "text", "string[]": "text[]"}.get(kinds[0], kinds[0])
    if len(kinds) > 1 or kind[:1].isupper() or kind in ("geoCoordinates", "phoneNumber", "blobHash"):
        raise SchemaError(f"property '{name}': data type {kinds} is not supported by the embedded Weaviate")
    if kind not in DATA_TYPES:
        raise SchemaError(f"property '{name}': invalid dataType: [{kind}]: unknown primitive data type '{kind}'")
    return _with_indexes({**given, "name": name, "dataType": [kind]}, kind)


def _with_indexes(prop: Definition, kind: str) -> Definition:
    is_text = kind in ("text", "text[]")
    tokenization = prop.pop("tokenization", None) or ("word" if is_text else None)
    if tokenization and not is_text:
        raise SchemaError(f"tokenization is not allowed for data type '{kind}'")
    if is_text and tokenization not in TOKENIZATIONS:
        raise SchemaError(f"tokenization '{tokenization}' is not supported by the embedded Weaviate")
    if prop.pop("textAnalyzer", None):
        raise SchemaError("textAnalyzer is not supported by the embedded Weaviate")
    for key, default in (("indexFilterable", True), ("indexSearchable", is_text), ("indexRangeFilters", False)):
        prop[key] = default if prop.get(key) is None else bool(prop[key])
    if prop["indexSearchable"] and not is_text:
        raise SchemaError(
            "`indexSearchable` is allowed only for text/text[] data types. For other data types set false"
        )
    if tokenization:
        prop["tokenization"] = tokenization
    if kind in NESTED:
        prop["nestedProperties"] = [complete_property(field) for field in prop.get("nestedProperties") or ()]
        if not prop["nestedProperties"]:
            raise SchemaError(
                f"property '{prop['name']}': At least one nested property is required for data type object/object[]"
            )
    prop.pop("moduleConfig", None)
    return {key: value for key, value in prop.items() if value is not None}


def complete_properties(class_name: str, given: Iterable[Definition], existing: Iterable[str] = ()) -> list[Definition]:
    """Properties to add, completed.

    Raises:
        SchemaError: one is not possible, or its name is taken (compared without case).
    """
    taken = {name.lower() for name in existing}
    out = []
    for raw in given:
        prop = complete_property(raw)
        if prop["name"].lower() in taken:
            name = prop["name"]
            raise SchemaError(
                f'class "{class_name}": conflict for property "{name}": already in use or provided multiple times'
            )
        taken.add(prop["name"].lower())
        out.append(prop)
    return out


def _vectorizer_name(config: object) -> str:
    if isinstance(config, dict):
        return str(next(iter(config), "none"))
    return str(config or "none")


def _refuse_modules(given: Definition) -> None:
    named = (given.get("vectorConfig") or {}).values()
    for name in (_vectorizer_name(given.get("vectorizer")), *(_vectorizer_name(c.get("vectorizer")) for c in named)):
        if name != "none":
            raise SchemaError(f'vectorizer: no module with name "{name}" present')
    if (given.get("multiTenancyConfig") or {}).get("enabled"):
        raise SchemaError("multi-tenancy is not supported by the embedded Weaviate")
    factor = (given.get("replicationConfig") or {}).get("factor") or 1
    if factor > 1:
        raise SchemaError(
            "init sharding state: could not find enough weaviate nodes for replication: "
            f"1 available, {factor} requested"
        )


def complete_class(given: Definition) -> Definition:
    """The definition with every default, as stored and returned.

    Raises:
        SchemaError: not possible here.
    """
    name = upper_first(str(given.get("class") or ""))
    if not is_class_name(name):
        raise SchemaError(f"'{name}' is not a valid class name")
    _refuse_modules(given)
    named = given.get("vectorConfig") or {}
    if named and given.get("vectorIndexType"):
        raise SchemaError("creating a class with both a class level vector index and named vectors is forbidden")
    out: Definition = {"class": name, **{key: _merge(value, given.get(key)) for key, value in _CLASS.items()}}
    out["shardingConfig"] = copy.deepcopy(_CLASS["shardingConfig"])
    if given.get("description"):
        out["description"] = given["description"]
    out["properties"] = complete_properties(name, given.get("properties") or ()) or None
    if named:
        out["vectorConfig"] = {vector: _named_vector(config) for vector, config in named.items()}
    else:
        out["vectorIndexType"] = given.get("vectorIndexType") or "hnsw"
        out["vectorIndexConfig"] = _vector_index(out["vectorIndexType"], given.get("vectorIndexConfig"))
        out["vectorizer"] = "none"
    return out


def _named_vector(config: Definition) -> Definition:
    kind = config.get("vectorIndexType") or "hnsw"
    index = _vector_index(kind, config.get("vectorIndexConfig"))
    return {"vectorIndexConfig": index, "vectorIndexType": kind, "vectorizer": {"none": {}}}


def update_class(current: Definition, given: Definition) -> Definition:
    """The definition after `PUT /v1/schema/{class}`.

    Raises:
        SchemaError: it changes what cannot change: name, properties' types, vectorizer, index type, distance.
    """
    updated = complete_class(
        {**given, "class": given.get("class") or current["class"], **_mutable_vectors(current, given)}
    )
    if updated["class"] != current["class"]:
        raise SchemaError(
            f'class name is immutable: attempted change from "{current["class"]}" to "{updated["class"]}"'
        )
    before, after = vector_spaces(current), vector_spaces(updated)
    for vector, distance in before.items():
        if after.get(vector) != distance:
            was = f'attempted change from "{distance}" to "{after.get(vector)}"'
            raise SchemaError(f"validate vector index config: distance is immutable: {was}")
    shapes = [
        {prop["name"]: (prop["dataType"], prop.get("tokenization")) for prop in side.get("properties") or ()}
        for side in (current, updated)
    ]
    if shapes[0] != shapes[1]:
        raise SchemaError("properties cannot be updated through updating the class. Use the add property feature")
    return updated


def _mutable_vectors(current: Definition, given: Definition) -> Definition:
    """A class with named vectors is sent back without the class level fields, and the other way round."""
    if current.get("vectorConfig"):
        named = {**current["vectorConfig"], **(given.get("vectorConfig") or {})}
        return {"vectorConfig": named, "vectorIndexType": None, "vectorIndexConfig": None, "vectorizer": None}
    return {"vectorConfig": None}
