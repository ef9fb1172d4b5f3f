"""Qdrant's filters: from the JSON of its REST API to the engine's conditions. Geo conditions are refused."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
import qdrant_edge as edge

from ingestion_devstack.qdrant.errors import (
    bad_format,
    bad_id,
    check_fields,
    count_or_none,
    engine_errors,
    invalid,
    require,
    unsupported,
)

_LISTS: Final = ("must", "should", "must_not")
_CLAUSES: Final = (*_LISTS, "min_should")
_FIELD: Final = ("key", "match", "range", "values_count", "is_empty", "is_null")
_GEO: Final = ("geo_bounding_box", "geo_radius", "geo_polygon")
_BOUNDS: Final = ("lt", "gt", "gte", "lte")
_TEXT_MATCHES: Final = {
    "text": edge.MatchText,
    "text_any": edge.MatchTextAny,
    "phrase": edge.MatchPhrase,
    "prefix": edge.MatchPrefix,
}
_NO_MATCH: Final = "data did not match any variant of untagged enum MatchInterface"
_NO_CONDITION: Final = (
    'Expected some form of condition, which can be a field condition (like {"key": ..., "match": ... }), or some '
    "other mentioned in the documentation: https://qdrant.tech/documentation/concepts/filtering/#filtering-conditions"
)


def parse_filter(value: Any, path: str = "filter") -> edge.Filter:
    """Return the engine's filter; `path` names it in validation errors.

    Raises:
        RequestRefusedError: an unknown clause, condition or type, or a geo condition.
    """
    clauses = check_fields(value, _CLAUSES, "struct Filter")
    with engine_errors():
        lists = {name: _parse_conditions(clauses.get(name), f"{path}.{name}") for name in _LISTS}
        least = clauses.get("min_should")
        min_should = None if least is None else _parse_min_should(least, f"{path}.min_should")
        return edge.Filter(**lists, min_should=min_should)


def parse_optional_filter(body: dict[str, Any], field: str = "filter", path: str = "filter") -> edge.Filter | None:
    """Return the filter in a field of a body, None if there is none; `path` names it in validation errors."""
    value = body.get(field)
    return None if value is None else parse_filter(value, path)


def parse_ids(values: Any) -> list[Any]:
    """Return a list of point ids (unsigned 64-bit integers or UUIDs as text).

    Raises:
        RequestRefusedError: not a list, or something else in it.
    """
    if type(values) is not list:
        raise bad_format("invalid type: expected a sequence of point ids")
    return [check_id(value) for value in values]


def check_id(value: Any) -> Any:
    """Return the id if its type and range are right; the engine itself checks that a text is a UUID."""
    if (type(value) is int and 0 <= value < 1 << 64) or type(value) is str:
        return value
    raise bad_id(value)


def _parse_conditions(value: Any, path: str) -> list[Any] | None:
    if value is None:
        return None
    items = value if type(value) is list else [value]  # one condition may stand for a list of one
    return [_parse_condition(item, f"{path}[{index}]") for index, item in enumerate(items)]


def _parse_min_should(value: Any, path: str) -> edge.MinShould:
    body = check_fields(value, ("conditions", "min_count"), "struct MinShould")
    count = count_or_none(body, "min_count", 0)
    conditions = _parse_conditions(require(body, "conditions"), f"{path}.conditions")
    if count is None:
        raise bad_format("missing field `min_count`")
    if count == 0:
        raise invalid(f"{path}.min_count", "min_count must be greater than 0")
    return edge.MinShould(conditions or [], count)


def _parse_condition(value: Any, path: str) -> Any:
    if type(value) is not dict:
        raise bad_format(_NO_CONDITION)
    if "key" in value:
        return _parse_field(value, path)
    if not value or value.keys() <= set(_CLAUSES):
        return parse_filter(value, path)
    kind, content = next(iter(value.items()))
    if len(value) != 1:
        raise bad_format(_NO_CONDITION)
    if kind == "has_id":
        return edge.HasIdCondition(set(parse_ids(content)))
    if kind == "has_vector":
        return edge.HasVectorCondition(content)
    if kind in ("is_empty", "is_null"):
        key = _text(require(check_fields(content, ("key",), "struct PayloadField"), "key"))
        return edge.IsEmptyCondition(key) if kind == "is_empty" else edge.IsNullCondition(key)
    if kind == "nested":
        nested = check_fields(content, ("key", "filter"), "struct Nested")
        inner = parse_filter(require(nested, "filter"), f"{path}.nested.filter")
        return edge.NestedCondition(_text(require(nested, "key")), inner)
    if kind == "slice":
        raise unsupported("the filter condition `slice`")
    raise bad_format(_NO_CONDITION)


def _parse_field(value: dict[str, Any], path: str) -> edge.FieldCondition:
    if type(value["key"]) is not str:
        raise bad_format("Filter condition 'key' must be a string")
    body = check_fields(value, _FIELD, "struct FieldCondition", rejected=_GEO)
    if all(content is None for name, content in body.items() if name != "key"):
        raise invalid(f"{path}.__all__", "Validation error: At least one field condition must be specified [{}]")
    count, flags = body.get("values_count"), {name: body.get(name) for name in ("is_empty", "is_null")}
    bounds = None if count is None else check_fields(count, _BOUNDS, "struct ValuesCount")
    return edge.FieldCondition(
        body["key"],
        match=None if body.get("match") is None else _parse_match(body["match"]),
        range=None if body.get("range") is None else _parse_range(body["range"]),
        values_count=None if bounds is None else edge.ValuesCount(**bounds),
        **flags,
    )


def _parse_match(value: Any) -> Any:
    names = ("value", "any", "except", *_TEXT_MATCHES)
    body = check_fields(value, names, "struct Match")
    if len(body) != 1:
        raise bad_format(_NO_MATCH)
    kind, content = next(iter(body.items()))
    if not _fits_match(kind, content):
        raise bad_format(_NO_MATCH)
    if kind == "value":
        # A Python bool would become the integer 1 or 0; numpy's is taken for what it is.
        return edge.MatchValue(cast("bool", np.bool_(content)) if type(content) is bool else content)
    if kind in _TEXT_MATCHES:
        return _TEXT_MATCHES[kind](content)
    return edge.MatchAny(content) if kind == "any" else edge.MatchExcept(content)


def _fits_match(kind: str, content: Any) -> bool:
    if kind == "value":
        return type(content) in (str, int, bool)
    if kind in _TEXT_MATCHES:
        return type(content) is str
    return type(content) is list and {type(item) for item in content} in (set(), {str}, {int})


def _parse_range(value: Any) -> Any:
    bounds = {name: bound for name, bound in check_fields(value, _BOUNDS, "struct Range").items() if bound is not None}
    kinds = {type(bound) for bound in bounds.values()}
    if kinds <= {int, float}:
        return edge.RangeFloat(**bounds)
    if kinds == {str}:
        for bound in bounds.values():
            _check_datetime(bound)
        return edge.RangeDateTime(**bounds)
    raise bad_format("data did not match any variant of untagged enum RangeInterface")


def _check_datetime(text: str) -> None:
    try:
        edge.RangeDateTime(gte=text)
    except ValueError as error:
        raise bad_format(
            f"'{text}' does not match accepted datetime format (RFC3339). Example: 2014-01-01T00:00:00Z",
        ) from error


def _text(value: Any) -> str:
    if type(value) is not str:
        raise bad_format("invalid type: expected a string")
    return value
