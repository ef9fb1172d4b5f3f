"""Qdrant's update requests: from the JSON of its REST API to the engine's operations, checked before any is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import qdrant_edge as edge

from ingestion_devstack.qdrant.errors import (
    RequestRefusedError,
    bad_format,
    check_fields,
    empty_update,
    engine_errors,
    invalid,
    require,
    typed_or_none,
    unsupported,
    wrong_input,
)
from ingestion_devstack.qdrant.filters import check_id, parse_filter, parse_ids, parse_optional_filter

UNNAMED: Final = ""
"""The name under which the engine keeps a collection's only, unnamed vector."""

Sizes = Mapping[str, int]
"""Dimension of every vector of a collection, by name."""
Parser = Callable[[Any, Sizes], edge.UpdateOperation]

_SHARD_KEY: Final = ("shard_key",)
_POINT: Final = frozenset({"id", "vector", "payload"})
_MODES: Final = {
    "upsert": None,  # the engine's own default, without the cost of a condition
    "insert_only": edge.UpdateMode.InsertOnly,
    "update_only": edge.UpdateMode.UpdateOnly,
}


def parse_upsert(body: Any, sizes: Sizes) -> edge.UpdateOperation:
    """Parse `{points: […]}` or `{batch: {ids, vectors, payloads}}`, with `update_filter` and `update_mode`.

    Raises:
        RequestRefusedError: malformed, a vector of another dimension or name, or a part that is not supported.

    Cost: about 20 µs per point of 384 dimensions, most of it the engine's conversion of the vector.
    """
    if type(body) is not dict or not ("points" in body or "batch" in body):
        raise bad_format("Invalid PointInsertOperations format")
    kind = "batch" if "batch" in body else "points"
    check_fields(body, (kind, "update_filter", "update_mode"), "struct PointsList", rejected=_SHARD_KEY)
    mode = body.get("update_mode") or "upsert"
    if mode not in _MODES:
        raise bad_format(f"unknown variant `{mode}`, expected one of `upsert`, `insert_only`, `update_only`")
    points = _parse_batch(body["batch"], sizes) if kind == "batch" else _parse_points(body["points"], sizes)
    if not points:
        raise empty_update()
    return edge.UpdateOperation.upsert_points(points, parse_optional_filter(body, "update_filter"), _MODES[mode])


def parse_delete(body: Any, _: Sizes) -> edge.UpdateOperation:
    """Parse `{points: [ids]}` or `{filter}`: deletion of points; ids that do not exist are no error."""
    chosen, operation = _parse_selector(body), edge.UpdateOperation
    return operation.delete_points(chosen) if isinstance(chosen, list) else operation.delete_points_by_filter(chosen)


def parse_set_payload(body: Any, _: Sizes) -> edge.UpdateOperation:
    """Parse `{payload, points | filter, key?}`: the given fields are set, others stay."""
    payload, chosen, key = _parse_payload(body)
    with engine_errors():
        if isinstance(chosen, list):
            return edge.UpdateOperation.set_payload(chosen, payload, key)
        return edge.UpdateOperation.set_payload_by_filter(chosen, payload, key)


def parse_overwrite_payload(body: Any, _: Sizes) -> edge.UpdateOperation:
    """Parse `{payload, points | filter, key?}`: the payload becomes exactly what is given."""
    payload, chosen, key = _parse_payload(body)
    with engine_errors():
        if isinstance(chosen, list):
            return edge.UpdateOperation.overwrite_payload(chosen, payload, key)
        return edge.UpdateOperation.overwrite_payload_by_filter(chosen, payload, key)


def parse_delete_payload(body: Any, _: Sizes) -> edge.UpdateOperation:
    """Parse `{keys, points | filter}`: the named fields go."""
    check_fields(body, ("keys", "points", "filter"), "struct DeletePayload", rejected=_SHARD_KEY)
    keys = require(body, "keys")
    if type(keys) is not list:
        raise bad_format("keys: invalid type: expected a sequence")
    chosen = _parse_ids_or_filter(body)
    with engine_errors():
        if isinstance(chosen, list):
            return edge.UpdateOperation.delete_payload(chosen, keys)
        return edge.UpdateOperation.delete_payload_by_filter(chosen, keys)


def parse_clear_payload(body: Any, _: Sizes) -> edge.UpdateOperation:
    """Parse `{points: [ids]}` or `{filter}`: the whole payload goes."""
    chosen, operation = _parse_selector(body), edge.UpdateOperation
    return operation.clear_payload(chosen) if isinstance(chosen, list) else operation.clear_payload_by_filter(chosen)


def parse_update_vectors(body: Any, sizes: Sizes) -> edge.UpdateOperation:
    """Parse `{points: [{id, vector}], update_filter?}`: vectors of existing points."""
    check_fields(body, ("points", "update_filter"), "struct UpdateVectors", rejected=_SHARD_KEY)
    items = require(body, "points")
    if type(items) is not list:
        raise bad_format("points: invalid type: expected a sequence")
    if not items:
        raise invalid("points", "must specify points to update")
    points = []
    for item in items:
        check_fields(item, ("id", "vector"), "struct PointVectors")
        vector = check_vector(require(item, "vector"), sizes)
        with engine_errors():
            points.append(edge.PointVectors(check_id(require(item, "id")), vector))
    return edge.UpdateOperation.update_vectors(points, parse_optional_filter(body, "update_filter"))


UPDATES: Final[Mapping[str, Parser]] = {
    "upsert": parse_upsert,
    "delete": parse_delete,
    "set_payload": parse_set_payload,
    "overwrite_payload": parse_overwrite_payload,
    "delete_payload": parse_delete_payload,
    "clear_payload": parse_clear_payload,
    "update_vectors": parse_update_vectors,
}
"""The operations of `POST …/points/batch`, by name."""


def parse_operations(body: Any, sizes: Sizes) -> list[edge.UpdateOperation]:
    """Parse `{operations: […]}`, in order; nothing is applied unless all of them can be read."""
    items = require(check_fields(body, ("operations",), "struct UpdateOperations"), "operations")
    if type(items) is not list:
        raise bad_format("operations: invalid type: expected a sequence")
    operations = []
    for item in items:
        if type(item) is not dict or len(item) != 1:
            raise bad_format("data did not match any variant of untagged enum UpdateOperation")
        name, content = next(iter(item.items()))
        if name == "delete_vectors":
            raise unsupported("the operation `delete_vectors`")
        if name not in UPDATES:
            raise bad_format("data did not match any variant of untagged enum UpdateOperation")
        operations.append(UPDATES[name](content, sizes))
    return operations


def check_vector(vector: Any, sizes: Sizes) -> Any:
    """Return a point's vector in the engine's form, after the checks the real server makes before its log.

    Raises:
        RequestRefusedError: another dimension or name than the collection's (400 with both numbers), an empty vector
            (422), sparse vectors, multivectors and inference objects (not supported).
    """
    if type(vector) is list:
        _check_dense(vector, UNNAMED, sizes)
        return vector
    if type(vector) is not dict:
        raise bad_format("data did not match any variant of untagged enum VectorStruct")
    if vector.keys() & {"text", "image", "object", "indices"} and not vector.keys() <= sizes.keys():
        raise unsupported("anything but dense vectors (sparse vectors, inference objects)")
    for name, dense in vector.items():
        if type(dense) is not list:
            raise unsupported(f"vector `{name}`: anything but a dense vector")
        _check_dense(dense, name, sizes)
    return vector


def _check_dense(vector: list[Any], name: str, sizes: Sizes) -> None:
    size = sizes.get(name)
    if size is None:
        raise wrong_input(f"Not existing vector name error: {name}")
    if len(vector) == size:
        return
    if not vector:
        raise invalid("points.vector.vector", "dense vector must not be empty")
    if type(vector[0]) is list:
        raise unsupported("a multivector")
    raise wrong_input(f"Vector dimension error: expected dim: {size}, got {len(vector)}")


def _parse_points(items: Any, sizes: Sizes) -> list[edge.Point]:
    if type(items) is not list:
        raise bad_format("points: invalid type: expected a sequence")
    points = []
    with engine_errors():
        for item in items:
            if type(item) is not dict or not item.keys() <= _POINT:
                check_fields(item, ("id", "vector", "payload"), "struct PointStruct")
            points.append(_make_point(require(item, "id"), require(item, "vector"), item.get("payload"), sizes))
    return points


def _parse_batch(body: Any, sizes: Sizes) -> list[edge.Point]:
    check_fields(body, ("ids", "vectors", "payloads"), "struct Batch")
    ids, vectors, payloads = require(body, "ids"), require(body, "vectors"), body.get("payloads")
    if type(ids) is not list or type(vectors) not in (list, dict) or type(payloads) not in (list, type(None)):
        raise bad_format("batch: invalid type: expected sequences")
    columns = vectors if type(vectors) is dict else {UNNAMED: vectors}
    for column in columns.values():
        if type(column) is not list:
            raise unsupported("a batch of anything but dense vectors")
        _check_length(len(ids), len(column), "vectors")
    if payloads is not None:
        _check_length(len(ids), len(payloads), "payloads")
    with engine_errors():
        return [
            _make_point(
                point_id,
                {name: column[index] for name, column in columns.items()},
                payloads[index] if payloads is not None else None,
                sizes,
            )
            for index, point_id in enumerate(ids)
        ]


def _check_length(ids: int, others: int, what: str) -> None:
    if ids != others:
        raise invalid("batch.batch", f"number of ids and {what} must be equal ({ids} != {others})")


def _make_point(point_id: Any, vector: Any, payload: Any, sizes: Sizes) -> edge.Point:
    if payload is not None and type(payload) is not dict:
        raise bad_format("payload: invalid type: expected a map")
    return edge.Point(check_id(point_id), check_vector(vector, sizes), payload)


def _parse_payload(body: Any) -> tuple[dict[str, Any], list[Any] | edge.Filter, str | None]:
    check_fields(body, ("payload", "points", "filter", "key"), "struct SetPayload", rejected=_SHARD_KEY)
    payload = require(body, "payload")
    if type(payload) is not dict:
        raise bad_format("payload: invalid type: expected a map")
    return payload, _parse_ids_or_filter(body), typed_or_none(body, "key", str, "a string")


def _parse_ids_or_filter(body: dict[str, Any]) -> list[Any] | edge.Filter:
    """Ids win over the filter where both are given, as in the real server."""
    if body.get("points") is not None:
        if not (ids := parse_ids(body["points"])):
            raise empty_update()
        return ids
    if body.get("filter") is not None:
        return parse_filter(body["filter"])
    raise bad_format("Either list of point ids or filter must be provided")


def _parse_selector(body: Any) -> list[Any] | edge.Filter:
    check_fields(body, ("points", "filter"), "enum PointsSelector", rejected=_SHARD_KEY)
    try:
        return _parse_ids_or_filter(body)
    except RequestRefusedError as error:
        if body.get("points") is None and body.get("filter") is None:
            raise bad_format("data did not match any variant of untagged enum PointsSelector") from error
        raise
