"""Between Weaviate's protocol messages and plain values: incoming objects, outgoing results. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from weaviate.proto.v1 import base_pb2, batch_pb2, properties_pb2, search_get_pb2

from ingestion_devstack.weaviate.database import IncomingObject
from ingestion_devstack.weaviate.records import StoredObject
from ingestion_devstack.weaviate.schema import (
    Definition,
    find_property,
    lower_first,
    no_such_property,
    vector_spaces,
)

_Value = properties_pb2.Value


class RequestRefusedError(ValueError):
    """The request cannot be served; the text says what and why.

    gRPC status UNKNOWN, as every untyped error of Weaviate.
    """


class UnsupportedError(RequestRefusedError):
    """A feature of Weaviate that the embedded one lacks. gRPC status UNIMPLEMENTED."""

    def __init__(self, feature: str) -> None:
        """Name the feature."""
        super().__init__(f"{feature} is not supported by the embedded Weaviate; point the settings at a real server")


# -- objects that come in ----------------------------------------------------------------------------------------


def read_object(message: Any) -> IncomingObject:
    """One `weaviate.v1.BatchObject`.

    Raises:
        RequestRefusedError: references, a tenant or a multi-vector.
    """
    properties = message.properties
    if properties.single_target_ref_props or properties.multi_target_ref_props:
        raise UnsupportedError("a cross-reference")
    if message.tenant:
        raise UnsupportedError("multi-tenancy")
    vectors = {}
    if message.vector_bytes:
        vectors[""] = message.vector_bytes
    elif message.vector:
        vectors[""] = struct.pack(f"<{len(message.vector)}f", *message.vector)
    for vector in message.vectors:
        if vector.type == base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32:
            raise UnsupportedError("a multi-vector")
        vectors[vector.name] = vector.vector_bytes
    return IncomingObject(message.collection, message.uuid, _read_properties(properties), vectors)


def _read_properties(message: Any) -> dict[str, Any]:
    props = {name: _read_struct_value(value) for name, value in message.non_ref_properties.fields.items()}
    for numbers in message.number_array_properties:
        raw = numbers.values_bytes
        values = struct.unpack(f"<{len(raw) // 8}d", raw) if raw else numbers.values
        props[numbers.prop_name] = list(values)
    for arrays in (message.int_array_properties, message.text_array_properties, message.boolean_array_properties):
        for array in arrays:
            props[array.prop_name] = list(array.values)
    for nested in message.object_properties:
        props[nested.prop_name] = _read_properties(nested.value)
    for nested in message.object_array_properties:
        props[nested.prop_name] = [_read_properties(item) for item in nested.values]
    for name in message.empty_list_props:
        props[name] = []
    return props


def _read_struct_value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind in ("string_value", "number_value", "bool_value"):
        return getattr(value, kind)
    if kind == "list_value":
        return [_read_struct_value(item) for item in value.list_value.values]
    if kind == "struct_value":
        return {name: _read_struct_value(item) for name, item in value.struct_value.fields.items()}
    return None


# -- results that go out -----------------------------------------------------------------------------------------

_SCALARS: Final[dict[str, Callable[[Any], Any]]] = {
    "text": lambda value: _Value(text_value=value),
    "int": lambda value: _Value(int_value=value),
    "number": lambda value: _Value(number_value=value),
    "boolean": lambda value: _Value(bool_value=value),
    "date": lambda value: _Value(date_value=value),
    "uuid": lambda value: _Value(uuid_value=value),
    "blob": lambda value: _Value(blob_value=value),
}
_LISTS: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "text[]": lambda values: {"text_values": properties_pb2.TextValues(values=values)},
    "date[]": lambda values: {"date_values": properties_pb2.DateValues(values=values)},
    "uuid[]": lambda values: {"uuid_values": properties_pb2.UuidValues(values=values)},
    "boolean[]": lambda values: {"bool_values": properties_pb2.BoolValues(values=values)},
    "int[]": lambda values: {"int_values": properties_pb2.IntValues(values=struct.pack(f"<{len(values)}q", *values))},
    "number[]": lambda values: {
        "number_values": properties_pb2.NumberValues(values=struct.pack(f"<{len(values)}d", *values))
    },
}


def select_properties(request: Any, definition: Definition) -> list[Definition]:
    """The properties a search returns for each object.

    Raises:
        RequestRefusedError: an unknown property, or references.
    """
    everything = [prop for prop in definition.get("properties") or () if prop["dataType"][0] != "blob"]
    if not request.HasField("properties"):
        return everything
    wanted = request.properties
    if wanted.ref_properties:
        raise UnsupportedError("a cross-reference")
    if wanted.return_all_nonref_properties:
        return everything
    out = []
    for name in (*wanted.non_ref_properties, *(nested.prop_name for nested in wanted.object_properties)):
        prop = find_property(definition, lower_first(name))
        if prop is None:
            place = (
                f"extract properties request: get property by name {lower_first(name)} for class {definition['class']}"
            )
            raise RequestRefusedError(f"{place}: {no_such_property(definition, lower_first(name))}")
        out.append(prop)
    return out


def write_value(prop: Definition, value: Any) -> Any:
    """One property value as `weaviate.v1.Value`; None is Weaviate's explicit null."""
    if value is None:
        return _Value(null_value=0)
    kind = prop["dataType"][0]
    if (scalar := _SCALARS.get(kind)) is not None:
        return scalar(value)
    if (array := _LISTS.get(kind)) is not None:
        return _Value(list_value=properties_pb2.ListValue(**array(value)))
    fields = prop["nestedProperties"]
    if kind == "object":
        return _Value(object_value=_write_object(fields, value))
    items = properties_pb2.ObjectValues(values=[_write_object(fields, item) for item in value])
    return _Value(list_value=properties_pb2.ListValue(object_values=items))


def _write_object(fields: list[Definition], value: dict[str, Any]) -> Any:
    present = {field["name"]: write_value(field, value[field["name"]]) for field in fields if field["name"] in value}
    return properties_pb2.Properties(fields=present)


def write_result(item: StoredObject, selected: list[Definition], request: Any, definition: Definition) -> Any:
    """One hit as `weaviate.v1.SearchResult`."""
    fields = {prop["name"]: write_value(prop, item.props.get(prop["name"])) for prop in selected}
    properties = search_get_pb2.PropertiesResult(
        target_collection=definition["class"],
        non_ref_props=properties_pb2.Properties(fields=fields) if fields else None,
    )
    return search_get_pb2.SearchResult(properties=properties, metadata=_write_metadata(item, request, definition))


def _write_metadata(item: StoredObject, request: Any, definition: Definition) -> Any:
    wanted, out = request.metadata, search_get_pb2.MetadataResult()
    if wanted.uuid:
        out.id, out.id_as_bytes = item.uuid, item.id
    named = definition.get("vectorConfig") or {}
    if wanted.vector and "" in item.vectors:
        out.vector_bytes = item.vectors[""]
    for name in named if wanted.vector else wanted.vectors:
        if name in item.vectors:
            out.vectors.add(name=name, vector_bytes=item.vectors[name], type=base_pb2.Vectors.VECTOR_TYPE_SINGLE_FP32)
    if wanted.creation_time_unix:
        out.creation_time_unix, out.creation_time_unix_present = item.created_ms, True
    if wanted.last_update_time_unix:
        out.last_update_time_unix, out.last_update_time_unix_present = item.updated_ms, True
    out.score_present = wanted.score
    out.explain_score_present = wanted.explain_score
    if item.distance is not None:
        if wanted.distance:
            out.distance, out.distance_present = item.distance, True
        if wanted.certainty and _is_cosine(request, definition):
            out.certainty, out.certainty_present = 1.0 - item.distance / 2.0, True
    return out


def _is_cosine(request: Any, definition: Definition) -> bool:
    search = request.near_vector if request.HasField("near_vector") else request.near_object
    return distance_of(search, definition)[1] == "cosine"


def distance_of(search: Any, definition: Definition) -> tuple[str, str]:
    """(vector name, distance) a near-search works on.

    Raises:
        RequestRefusedError: several vectors and no choice, or one that does not exist.
    """
    spaces = vector_spaces(definition)
    chosen = list(search.targets.target_vectors) or list(search.target_vectors)
    if len(chosen) > 1:
        raise UnsupportedError("a search over several target vectors")
    if not chosen:
        if len(spaces) > 1:
            text = f"class {definition['class']} has multiple vectors, but no target vectors were provided"
            raise RequestRefusedError(f"extract target vectors: {text}")
        return next(iter(spaces.items()))
    if not chosen[0] or chosen[0] not in spaces:
        available = " ".join(name for name in spaces if name)
        raise RequestRefusedError(
            f"extract target vectors: class {definition['class']} does not have named vector {chosen[0]} configured. "
            f"Available named vectors [{available}]"
        )
    return chosen[0], spaces[chosen[0]]


def batch_reply(errors: Iterable[str | None], took_s: float) -> Any:
    """`weaviate.v1.BatchObjectsReply` naming the refused objects by index."""
    listed = [
        batch_pb2.BatchObjectsReply.BatchError(index=index, error=error)
        for index, error in enumerate(errors)
        if error is not None
    ]
    return batch_pb2.BatchObjectsReply(took=took_s, errors=listed)
