"""Qdrant's read requests: retrieve, scroll, count and query, from and to the JSON of its REST API."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import qdrant_edge as edge

from ingestion_devstack.qdrant.errors import (
    bad_format,
    check_fields,
    count_or_none,
    engine_errors,
    point_missing,
    require,
    typed_or_none,
    unsupported,
    wrong_input,
)
from ingestion_devstack.qdrant.filters import check_id, parse_ids, parse_optional_filter
from ingestion_devstack.qdrant.updates import UNNAMED, Sizes, check_vector

_DEFAULT_LIMIT: Final = 10
"""Of scroll and query, as in the real server."""
_SELECTORS: Final = ("with_payload", "with_vector", "with_vectors")
_QUERIES: Final = ("recommend", "discover", "context", "fusion", "rrf", "formula", "sample", "relevance_feedback")
_OFFSET_WITH_ORDER: Final = (
    "Cannot use an `offset` when using `order_by`. The alternative for paging is to use `order_by.start_from` and a "
    "filter to exclude the IDs that you've already seen for the `order_by.start_from` value"
)
_NO_QUERY: Final = "Expected some form of vector, id, or a type of query"


def retrieve_points(shard: edge.EdgeShard, body: Any) -> list[dict[str, Any]]:
    """Answer `{ids, with_payload?, with_vector?}`; ids that do not exist are left out, payloads unless asked for."""
    check_fields(body, ("ids", *_SELECTORS), "struct PointRequest", rejected=("shard_key",))
    ids = parse_ids(require(body, "ids"))
    with engine_errors():
        records = shard.retrieve(ids, *_parse_selectors(body, payload=False))
    return [_show(record) for record in records]


def retrieve_point(shard: edge.EdgeShard, text: str) -> dict[str, Any] | None:
    """Answer the point of one id as it stands in a path, whole; None if there is none."""
    point_id: int | str = int(text) if text.isascii() and text.isdecimal() else text
    try:
        records = shard.retrieve([check_id(point_id)], True, True)
    except ValueError as error:
        raise wrong_input(f'Can not recognize "{text}" as point id') from error
    return _show(records[0]) if records else None


def scroll_points(shard: edge.EdgeShard, body: Any) -> dict[str, Any]:
    """Answer `{offset?, limit?, filter?, order_by?, …}`: points in order of id, or of one indexed field."""
    fields = ("offset", "limit", "filter", "order_by", *_SELECTORS)
    check_fields(body, fields, "struct ScrollRequest", rejected=("shard_key",))
    offset, order_by = body.get("offset"), body.get("order_by")
    if offset is not None and order_by is not None:
        raise wrong_input(_OFFSET_WITH_ORDER)
    limit = count_or_none(body, "limit", 1, "scroll_request.")
    with_payload, with_vector = _parse_selectors(body, payload=True)
    with engine_errors():
        request = edge.ScrollRequest(
            offset=None if offset is None else check_id(offset),
            limit=_DEFAULT_LIMIT if limit is None else limit,
            filter=parse_optional_filter(body, path="scroll_request.filter"),
            with_payload=with_payload,
            with_vector=with_vector,
            order_by=None if order_by is None else _parse_order(order_by),
        )
        records, following = shard.scroll(request)
    return {"points": [_show(record) for record in records], "next_page_offset": following}


def count_points(shard: edge.EdgeShard, body: Any) -> dict[str, int]:
    """Answer `{filter?, exact?}`; the count is always exact."""
    check_fields(body, ("filter", "exact"), "struct CountRequest", rejected=("shard_key",))
    typed_or_none(body, "exact", bool, "a boolean")
    chosen = parse_optional_filter(body, path="count_request.filter")
    with engine_errors():
        return {"count": shard.count(edge.CountRequest(exact=True, filter=chosen))}


def query_points(shard: edge.EdgeShard, body: Any, sizes: Sizes) -> dict[str, list[dict[str, Any]]]:
    """Answer a query: nearest to a vector or to a stored point (itself left out), by a field's order, or none (by id).

    Raises:
        RequestRefusedError: 404 for the id of no point; 400 for another dimension, an unknown vector name, prefetches
            and kinds of query that are not supported here.

    Cost: exact: every vector that passes the filter is compared; there is no HNSW graph.
    """
    fields = ("query", "using", "filter", "params", "score_threshold", "limit", "offset", *_SELECTORS)
    check_fields(body, fields, "struct QueryRequest", rejected=("shard_key", "prefetch", "lookup_from"))
    using = typed_or_none(body, "using", str, "a string") or UNNAMED
    limit, offset = count_or_none(body, "limit", 1, "internal."), count_or_none(body, "offset", 0)
    with_payload, with_vector = _parse_selectors(body, payload=False)
    threshold = body.get("score_threshold")
    if threshold is not None and type(threshold) not in (int, float):
        raise bad_format("score_threshold: invalid type: expected f32")
    chosen = parse_optional_filter(body, path="internal.filter")
    with engine_errors():
        query, excluded = _parse_query(shard, body.get("query"), using, sizes)
        if excluded is not None:
            without = edge.Filter(must_not=[edge.HasIdCondition({excluded})])
            chosen = without if chosen is None else edge.Filter(must=[chosen, without])
        found = shard.query(
            edge.QueryRequest(
                limit=_DEFAULT_LIMIT if limit is None else limit,
                offset=offset,
                query=query,
                filter=chosen,
                score_threshold=threshold,
                params=_parse_params(body.get("params")),
                with_vector=with_vector,
                with_payload=with_payload,
            ),
        )
    return {"points": [_show_scored(point) for point in found]}


def _parse_query(shard: edge.EdgeShard, value: Any, using: str, sizes: Sizes) -> tuple[Any, Any]:
    """Return the engine's query, and the id of the point to leave out."""
    if value is None:
        return None, None
    if type(value) is dict:
        if value.keys() & set(_QUERIES):
            raise unsupported(f"the query `{next(iter(value))}`")
        if "order_by" in value:
            check_fields(value, ("order_by",), "struct OrderByQuery")
            return _parse_order(value["order_by"]), None
        check_fields(value, ("nearest",), "struct NearestQuery", rejected=("mmr", "text", "image", "object", "indices"))
        value = require(value, "nearest")
    if type(value) is list:
        if using not in sizes:
            raise wrong_input(f"Not existing vector name error: {using}")
        if not value:
            raise wrong_input(f"Vector dimension error: expected dim: {sizes[using]}, got 0")
        check_vector({using: value}, sizes)
        return edge.Query.Nearest(value, using or None), None
    if type(value) not in (int, str):
        raise bad_format(_NO_QUERY)
    records = shard.retrieve([check_id(value)], False, True)
    if not records:
        raise point_missing(value)
    stored = records[0].vector
    vector = stored.get(using) if isinstance(stored, dict) else stored
    if vector is None:
        raise wrong_input(f"Not existing vector name error: {using}")
    return edge.Query.Nearest(vector, using or None), records[0].id


def _parse_order(value: Any) -> edge.OrderBy:
    if type(value) is str:
        return edge.OrderBy(value)
    body = check_fields(value, ("key", "direction", "start_from"), "struct OrderBy")
    directions = {"asc": edge.Direction.Asc, "desc": edge.Direction.Desc, None: None}
    direction = body.get("direction")
    if direction not in directions:
        raise bad_format(f"unknown variant `{direction}`, expected `asc` or `desc`")
    return edge.OrderBy(require(body, "key"), directions[direction], body.get("start_from"))


def _parse_params(value: Any) -> edge.SearchParams | None:
    """Check the parameters; every search here is exact, so none of them changes the answer."""
    if value is None:
        return None
    fields = ("hnsw_ef", "exact", "indexed_only")
    body = check_fields(value, fields, "struct SearchParams", rejected=("quantization", "acorn", "idf"))
    given = {name: content for name, content in body.items() if name in fields and content is not None}
    return edge.SearchParams(**given)


def _parse_selectors(body: dict[str, Any], *, payload: bool) -> tuple[Any, Any]:
    with_payload = body.get("with_payload")
    if with_payload is None:
        with_payload = payload
    elif type(with_payload) is dict:
        with_payload = _parse_payload_selector(with_payload)
    elif type(with_payload) is not bool and not _is_texts(with_payload):
        raise bad_format("Expected a boolean, an array of strings, or an object with an include/exclude field")
    with_vector = body.get("with_vector", body.get("with_vectors"))
    if with_vector is None:
        with_vector = False
    elif type(with_vector) is not bool and not _is_texts(with_vector):
        raise bad_format("Expected a boolean, or an array of strings")
    return with_payload, with_vector


def _parse_payload_selector(value: dict[str, Any]) -> Any:
    kinds = {"include": edge.PayloadSelector.Include, "exclude": edge.PayloadSelector.Exclude}
    if len(value) != 1 or not value.keys() <= kinds.keys() or not _is_texts(next(iter(value.values()))):
        raise bad_format("Expected a boolean, an array of strings, or an object with an include/exclude field")
    kind, keys = next(iter(value.items()))
    with engine_errors():
        return kinds[kind](keys)


def _is_texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _show(record: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": record.id}
    if record.payload is not None:
        shown["payload"] = record.payload
    if record.vector is not None:
        shown["vector"] = _show_vector(record.vector)
    if record.order_value is not None:
        shown["order_value"] = record.order_value
    return shown


def _show_scored(point: Any) -> dict[str, Any]:
    return {"id": point.id, "version": point.version, "score": np.float32(point.score)} | _show(point)


def _show_vector(vector: Any) -> Any:
    """Float32 arrays are written in the shortest digits that read back to the same float32, as in the real server."""
    if isinstance(vector, dict):
        return {name: _show_vector(content) for name, content in vector.items()}
    return np.asarray(vector, dtype=np.float32)
