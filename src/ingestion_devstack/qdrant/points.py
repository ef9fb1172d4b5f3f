"""Requests about points: from the JSON of Qdrant's REST API to the engine's operations, and back.

Imitates Qdrant 1.19: `PointInsertOperations`, `PointVectors`, `ScrollRequest`, `CountRequest` and `QueryRequest` of
its openapi.json (lib/api/src/rest/schema.rs) and `Filter` of lib/segment/src/types.rs. Supported are upserts of whole
points, new vectors of existing points, deletion by id and by filter, retrieval by id, scrolling in the order of ids,
exact counts and the nearest points to one vector. Filters know `must`, `should`, `must_not`, `has_id`, `range` of
numbers and `match` by `value`, `any` and `prefix`. Everything else is refused by name.
"""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
import qdrant_edge as edge

from ingestion_devstack.qdrant.errors import (
    check_fields,
    check_id,
    check_type,
    empty_update,
    engine_errors,
    out_of_range,
    read_count,
    require,
    unsupported,
    wrong_format,
    wrong_input,
)

_DEFAULT_LIMIT: Final = 10
"""Of scroll and query, as in the real server."""
_SELECTORS: Final = ("with_payload", "with_vector")
_CLAUSES: Final = ("must", "should", "must_not")
_BOUNDS: Final = ("lt", "gt", "gte", "lte")
_NO_MATCH: Final = "data did not match any variant of untagged enum MatchInterface"
_NO_VECTOR: Final = "data did not match any variant of untagged enum VectorStruct"


def parse_upsert(body: Any, size: int) -> edge.UpdateOperation:
    """Parse `{points: […]}` for vectors of `size` dimensions.

    Raises:
        RequestRefusedError: malformed, a vector of another dimension, or a part that is not supported.

    Cost: about 20 µs per point of 384 dimensions, most of it the engine's conversion of the vector.
    """
    items = check_type(require(check_fields(body, ("points",), "struct PointsList"), "points"), list, "a sequence")
    if not items:
        raise empty_update()
    with engine_errors():
        return edge.UpdateOperation.upsert_points([_parse_point(item, size) for item in items])


def parse_vectors(body: Any, size: int) -> edge.UpdateOperation:
    """Parse `{points: [{id, vector}]}`: new vectors of existing points."""
    items = check_type(require(check_fields(body, ("points",), "struct UpdateVectors"), "points"), list, "a sequence")
    if not items:
        raise out_of_range("points", "must specify points to update")
    points = []
    with engine_errors():
        for item in items:
            check_fields(item, ("id", "vector"), "struct PointVectors")
            vector = _check_vector(require(item, "vector"), size)
            points.append(edge.PointVectors(check_id(require(item, "id")), vector))
        return edge.UpdateOperation.update_vectors(points)


def parse_deletion(body: Any, _: int) -> edge.UpdateOperation:
    """Parse `{points: [ids]}` or `{filter}`; ids that do not exist are no error."""
    check_fields(body, ("points", "filter"), "enum PointsSelector")
    if body.get("points") is not None:
        if not (ids := _parse_ids(body["points"])):
            raise empty_update()
        return edge.UpdateOperation.delete_points(ids)
    if body.get("filter") is not None:
        return edge.UpdateOperation.delete_points_by_filter(_parse_filter(body["filter"]))
    raise wrong_format("data did not match any variant of untagged enum PointsSelector")


def retrieve_points(shard: edge.EdgeShard, body: Any) -> list[dict[str, Any]]:
    """Answer `{ids, with_payload?, with_vector?}`; ids that do not exist are left out, payloads by default too."""
    check_fields(body, ("ids", *_SELECTORS), "struct PointRequest")
    ids = _parse_ids(require(body, "ids"))
    with engine_errors():
        records = shard.retrieve(ids, *_parse_selectors(body, payload=False))
    return [_show(record) for record in records]


def scroll_points(shard: edge.EdgeShard, body: Any) -> dict[str, Any]:
    """Answer `{offset?, limit?, filter?, …}`: a page of points in the order of their ids."""
    check_fields(body, ("offset", "limit", "filter", *_SELECTORS), "struct ScrollRequest")
    offset = body.get("offset")
    with_payload, with_vector = _parse_selectors(body, payload=True)
    with engine_errors():
        request = edge.ScrollRequest(
            offset=None if offset is None else check_id(offset),
            limit=read_count(body, "limit", least=1, default=_DEFAULT_LIMIT, path="scroll_request."),
            filter=_parse_optional_filter(body, "scroll_request.filter"),
            with_payload=with_payload,
            with_vector=with_vector,
        )
        records, following = shard.scroll(request)
    return {"points": [_show(record) for record in records], "next_page_offset": following}


def count_points(shard: edge.EdgeShard, body: Any) -> dict[str, int]:
    """Answer `{filter?, exact?}`; the count is always exact."""
    check_fields(body, ("filter", "exact"), "struct CountRequest")
    if body.get("exact") is not None:
        check_type(body["exact"], bool, "a boolean")
    chosen = _parse_optional_filter(body, "count_request.filter")
    with engine_errors():
        return {"count": shard.count(edge.CountRequest(exact=True, filter=chosen))}


def query_points(shard: edge.EdgeShard, body: Any, size: int) -> dict[str, list[dict[str, Any]]]:
    """Answer `{query, filter?, limit?, offset?, …}` with the points nearest to a vector of `size` dimensions.

    Raises:
        RequestRefusedError: another dimension, or a kind of query that is not supported.

    Cost: exact: every vector that passes the filter is compared; there is no HNSW graph.
    """
    check_fields(body, ("query", "filter", "limit", "offset", *_SELECTORS), "struct QueryRequest")
    vector = _parse_query(body.get("query"), size)
    with_payload, with_vector = _parse_selectors(body, payload=False)
    with engine_errors():
        found = shard.query(
            edge.QueryRequest(
                limit=read_count(body, "limit", least=1, default=_DEFAULT_LIMIT, path="internal."),
                offset=read_count(body, "offset", least=0, default=0),
                query=edge.Query.Nearest(vector, None),
                filter=_parse_optional_filter(body, "internal.filter"),
                with_vector=with_vector,
                with_payload=with_payload,
            ),
        )
    return {"points": [_show(hit, version=hit.version, score=np.float32(hit.score)) for hit in found]}


def _parse_query(value: Any, size: int) -> list[Any]:
    if type(value) is dict:
        value = require(check_fields(value, ("nearest",), "the query"), "nearest")
    if type(value) is not list:
        raise unsupported("a query by anything but a vector")
    if len(value) != size:
        raise wrong_input(f"Vector dimension error: expected dim: {size}, got {len(value)}")
    return value


def _parse_point(item: Any, size: int) -> edge.Point:
    check_fields(item, ("id", "vector", "payload"), "struct PointStruct")
    payload = item.get("payload")
    if payload is not None:
        check_type(payload, dict, "a map")
    return edge.Point(check_id(require(item, "id")), _check_vector(require(item, "vector"), size), payload)


def _check_vector(vector: Any, size: int) -> list[Any]:
    """Return a point's vector after the checks that the real server makes before it writes its log."""
    if type(vector) is dict:
        raise unsupported("anything but one unnamed dense vector per point")
    if type(vector) is not list:
        raise wrong_format(_NO_VECTOR)
    if not vector:
        raise out_of_range("points.vector.vector", "dense vector must not be empty")
    if type(vector[0]) is list:
        raise unsupported("a multivector")
    if len(vector) != size:
        raise wrong_input(f"Vector dimension error: expected dim: {size}, got {len(vector)}")
    return vector


def _parse_ids(values: Any) -> list[Any]:
    return [check_id(value) for value in check_type(values, list, "a sequence of point ids")]


def _parse_optional_filter(body: dict[str, Any], path: str) -> edge.Filter | None:
    """Return the filter of a body, None if there is none; `path` names it in validation errors."""
    return None if body.get("filter") is None else _parse_filter(body["filter"], path)


def _parse_filter(value: Any, path: str = "filter") -> edge.Filter:
    clauses = check_fields(value, _CLAUSES, "struct Filter")
    with engine_errors():
        lists: dict[str, Any] = {name: _parse_conditions(clauses.get(name), f"{path}.{name}") for name in _CLAUSES}
        return edge.Filter(**lists)


def _parse_conditions(value: Any, path: str) -> list[Any] | None:
    if value is None:
        return None
    items = value if type(value) is list else [value]  # one condition may stand for a list of one
    return [_parse_condition(item, f"{path}[{index}]") for index, item in enumerate(items)]


def _parse_condition(value: Any, path: str) -> Any:
    body = check_fields(value, ("key", "match", "range", "has_id", *_CLAUSES), "the condition")
    if "has_id" in body:
        return edge.HasIdCondition(set(_parse_ids(body["has_id"])))
    if "key" not in body:
        return _parse_filter(body, path)
    match, bounds = body.get("match"), body.get("range")
    if match is None and bounds is None:
        raise out_of_range(f"{path}.__all__", "Validation error: At least one field condition must be specified [{}]")
    return edge.FieldCondition(
        check_type(body["key"], str, "a string for the key"),
        match=None if match is None else _parse_match(match),
        range=None if bounds is None else _parse_range(bounds),
    )


def _parse_match(value: Any) -> Any:
    body = check_fields(value, ("value", "any", "prefix"), "struct Match")
    if len(body) != 1:
        raise wrong_format(_NO_MATCH)
    kind, content = next(iter(body.items()))
    if kind == "value" and type(content) in (str, int, bool):
        # A Python bool would become the integer 1 or 0; numpy's bool stays one.
        return edge.MatchValue(cast("bool", np.bool_(content)) if type(content) is bool else content)
    if kind == "prefix" and type(content) is str:
        return edge.MatchPrefix(content)
    if kind == "any" and type(content) is list and {type(item) for item in content} in (set(), {str}, {int}):
        return edge.MatchAny(content)
    raise wrong_format(_NO_MATCH)


def _parse_range(value: Any) -> edge.RangeFloat:
    bounds = {name: bound for name, bound in check_fields(value, _BOUNDS, "struct Range").items() if bound is not None}
    if not {type(bound) for bound in bounds.values()} <= {int, float}:
        raise unsupported("a range of anything but numbers")
    return edge.RangeFloat(**bounds)


def _parse_selectors(body: dict[str, Any], *, payload: bool) -> tuple[Any, bool]:
    """Return `with_payload` (whether, or a list of fields; `payload` is the default) and `with_vector`."""
    with_payload, with_vector = body.get("with_payload"), body.get("with_vector")
    if with_payload is None:
        with_payload = payload
    if type(with_payload) is not bool and not (
        type(with_payload) is list and all(type(name) is str for name in with_payload)
    ):
        raise unsupported("`with_payload` other than a boolean or an array of strings")
    if with_vector is not None and type(with_vector) is not bool:
        raise unsupported("`with_vector` other than a boolean")
    return with_payload, bool(with_vector)


def _show(record: Any, **more: Any) -> dict[str, Any]:
    """Return a point as the API shows it.

    Float32 arrays are written in the shortest digits that read back to the same float32, as in the real server.
    """
    shown: dict[str, Any] = {"id": record.id, **more}
    if record.payload is not None:
        shown["payload"] = record.payload
    if record.vector is not None:
        shown["vector"] = np.asarray(record.vector, dtype=np.float32)
    return shown
