"""Weaviate's filters as SQL conditions over the table of a class. Pure.

Imitates Weaviate 1.35, adapters/handlers/grpc/v1/filters.go (reading), adapters/repos/db/inverted/searcher.go
(meaning) and adapters/repos/db/inverted/like_regexp.go. Supported are And, Or, the six comparisons, ContainsAny and
Like, on the id and on properties, as far as `_compile_leaf` names them; everything else is refused by name.

Semantics: a missing value equals nothing and is not-equal to everything; white space at both ends of field-tokenised
text is trimmed; Equal on word-tokenised text means that every term of the operand but the stop words occurs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from weaviate.proto.v1 import base_pb2

from ingestion_devstack.weaviate.errors import PropertyError, RequestRefusedError, UnsupportedError
from ingestion_devstack.weaviate.schema import Definition, find_property, no_such_property
from ingestion_devstack.weaviate.values import STOPWORDS, WHITE_SPACE, find_terms, go_type, parse_date, parse_uuid

_PB = base_pb2.Filters
_COMPARISONS: Final[dict[int, str]] = {
    _PB.OPERATOR_EQUAL: "=",
    _PB.OPERATOR_NOT_EQUAL: "=",
    _PB.OPERATOR_GREATER_THAN: ">",
    _PB.OPERATOR_GREATER_THAN_EQUAL: ">=",
    _PB.OPERATOR_LESS_THAN: "<",
    _PB.OPERATOR_LESS_THAN_EQUAL: "<=",
}
_ONLY_STOPWORDS: Final = (
    "invalid search term, only stopwords provided. Stopwords can be configured in class.invertedIndexConfig.stopwords"
)


class FilterSearchError(RequestRefusedError):
    """The filter fails in the search, not while it is read; Weaviate puts the place before the text."""


class Condition(NamedTuple):
    """A condition on the table of a class, with the values of its placeholders."""

    sql: str
    params: list[Any]


def property_path(name: str) -> str:
    """Return the SQL expression of a property's value; names have only letters, digits and underscores."""
    return f"json_extract(props, '$.{name}')"


def compile_filter(node: Any, definition: Definition) -> Condition:
    """Return the condition of a `weaviate.v1.Filters` tree.

    Raises:
        RequestRefusedError: the filter does not fit the class, or a part of it is not supported.
    """
    if node.operator not in (_PB.OPERATOR_AND, _PB.OPERATOR_OR):
        return _compile_leaf(node, definition)
    parts = []
    for at, child in enumerate(node.filters):
        try:
            parts.append(compile_filter(child, definition))
        except FilterSearchError as error:
            raise FilterSearchError(f"nested query: nested clause at pos {at}: {error}") from None
    if not parts:
        raise FilterSearchError("no children for operator")
    return _join(parts, " AND " if node.operator == _PB.OPERATOR_AND else " OR ")


def match_like(term: str, text: str | None) -> bool:
    """Return whether a whole text is like a term; wildcards do not match line feeds, as Go's dot.

    Cost: one step per character of the term and of the text.
    """
    if text is None:
        return False
    ends = {0}  # the lengths of the text's beginnings that the term so far matches
    for char in term:
        if char == "*":
            ends = set(_spread(ends, text))
            continue
        inside = [end for end in ends if end < len(text)]
        ends = {end + 1 for end in inside if text[end] == char or (char == "?" and text[end] != "\n")}
    return len(text) in ends


def _spread(ends: set[int], text: str) -> Iterator[int]:
    """Yield the ends and all places behind them up to the next line feed."""
    is_reached = False
    for place in range(len(text) + 1):
        is_reached = place in ends or (is_reached and text[place - 1] != "\n")
        if is_reached:
            yield place


def match_terms(terms: str, text: str | None) -> bool:
    """Return whether all terms, separated by spaces, occur in a text."""
    return text is not None and set(find_terms(text)).issuperset(terms.split(" "))


def to_nanoseconds(text: str | None) -> int | None:
    """Return a stored date as nanoseconds since 1970."""
    return None if text is None else parse_date(text)[1]


def _join(parts: list[Condition], joiner: str) -> Condition:
    return Condition(f"({joiner.join(part.sql for part in parts)})", [value for part in parts for value in part.params])


def _compile_leaf(node: Any, definition: Definition) -> Condition:
    operator, test = node.operator, node.WhichOneof("test_value")
    if len(node.on) > 1 or (node.HasField("target") and not node.target.HasField("property")):
        raise UnsupportedError("a filter on references")
    name = node.target.property if node.HasField("target") else "".join(node.on)
    if operator not in _COMPARISONS and operator not in (_PB.OPERATOR_LIKE, _PB.OPERATOR_CONTAINS_ANY):
        raise UnsupportedError(f"the filter operator {_PB.Operator.Name(operator)}")
    if test is None or test == "value_geo" or name.startswith(("len(", "_creation", "_lastUpdate")):
        raise UnsupportedError(f"the filter on {name!r} with {test}")
    is_id = name in ("_id", "id")
    prop: Definition = {"dataType": ["uuid"]} if is_id else _find_filterable(definition, name)
    column = "id" if is_id else property_path(name)
    kind = prop["dataType"][0]
    values = list(getattr(node, test).values) if test.endswith("_array") else [getattr(node, test)]
    if operator == _PB.OPERATOR_LIKE:
        return _compile_like(prop, column, values)
    operands = [_convert(kind.removesuffix("[]"), value) for value in values]
    if operator == _PB.OPERATOR_CONTAINS_ANY:
        if not test.endswith("_array"):
            raise FilterSearchError(f"value type should be []{kind} but is {_go_name(values[0])}")
        return _compile_any(prop, column, operands)
    if test.endswith("_array"):
        raise UnsupportedError(f"{_PB.Operator.Name(operator)} with several values")
    if operator == _PB.OPERATOR_EQUAL:
        return _compile_any(prop, column, operands)
    if kind == "text[]" or prop.get("tokenization") == "word":
        raise UnsupportedError(f"{_PB.Operator.Name(operator)} on {kind} such as {name!r}")
    sql = f"{_compared(kind, column)} {_COMPARISONS[operator]} ?"
    return Condition(f"NOT coalesce({sql}, 0)" if operator == _PB.OPERATOR_NOT_EQUAL else sql, operands)


def _compile_like(prop: Definition, column: str, values: list[Any]) -> Condition:
    kind = prop["dataType"][0]
    if kind == "uuid":
        raise RequestRefusedError('operator "Like" cannot be used on uuid/uuid[] props')
    if kind != "text" or prop["tokenization"] != "field" or len(values) != 1:
        raise UnsupportedError("Like on anything but text with tokenization 'field'")
    return Condition(f"wv_like(?, {_compared(kind, column)})", [_convert(kind, values[0])])


def _find_filterable(definition: Definition, name: str) -> Definition:
    prop = find_property(definition, name)
    if prop is None:
        raise RequestRefusedError(no_such_property(definition, name))
    if not (prop["indexFilterable"] or prop["indexSearchable"] or prop["indexRangeFilters"]):
        raise RequestRefusedError(
            f"Filtering by property '{name}' requires inverted index. Is `indexFilterable` option of property "
            f"'{name}' enabled? Set it to `true` or leave empty"
        )
    return prop


def _compile_any(prop: Definition, column: str, values: list[Any]) -> Condition:
    """Return the condition that a property has one of some values."""
    kind, slots = prop["dataType"][0], ",".join("?" * len(values))
    if prop.get("tokenization") == "word":
        if kind == "text[]":
            raise UnsupportedError("a filter on text[] with tokenization 'word'")
        terms = [" ".join(term for term in find_terms(value) if term not in STOPWORDS) for value in values]
        if not any(terms):
            raise FilterSearchError(_ONLY_STOPWORDS)
        return _join([Condition(f"wv_terms(?, {column})", [one]) for one in terms if one], " OR ")
    if kind == "text[]":
        head = f"SELECT 1 FROM json_each(props, '$.{prop['name']}')"  # noqa: S608  # a checked name
        return Condition(f"EXISTS ({head} WHERE {_compared('text', 'value')} IN ({slots}))", values)
    return Condition(f"{_compared(kind, column)} IN ({slots})", values)


def _compared(kind: str, column: str) -> str:
    """Return the SQL expression that is compared with an operand of `_convert`."""
    if kind == "text":
        return f"trim({column}, '{WHITE_SPACE}')"
    return f"wv_nanoseconds({column})" if kind == "date" else column


def _convert(kind: str, value: Any) -> Any:
    """Return an operand as it is compared.

    Raises:
        FilterSearchError: not of the property's type. RequestRefusedError: a fraction where an integer is needed.
    """
    if kind in ("int", "number"):
        if isinstance(value, str):
            raise UnsupportedError("a text as the operand of a filter on numbers")
        if isinstance(value, bool):
            raise FilterSearchError(f"expected value to be {'int' if kind == 'int' else 'float64'}, got bool")
        if kind == "int" and value != int(value):
            raise RequestRefusedError(f"filtering for integer, but received a floating point number {value:g}")
        return int(value) if kind == "int" else float(value)
    if kind == "boolean":
        if not isinstance(value, bool):
            raise FilterSearchError(f"expected value to be bool, got {_go_name(value)}")
        return value
    if not isinstance(value, str):
        more = " or time.Time" if kind == "date" else ""
        raise FilterSearchError(f"expected value to be string{more}, got '{_go_name(value)}'")
    try:
        return (
            value.strip(WHITE_SPACE) if kind == "text" else parse_uuid(value) if kind == "uuid" else _parse_date(value)
        )
    except PropertyError as error:
        raise FilterSearchError(f"parse uuid filter value: {error}") from None


def _parse_date(value: str) -> int:
    try:
        return parse_date(value)[1]
    except PropertyError:
        raise FilterSearchError(
            f'trying parse time as RFC3339 string: parsing time "{value}" as "2006-01-02T15:04:05Z07:00": '
            f'cannot parse "{value}" as "2006"'
        ) from None


def _go_name(value: object) -> str:
    """Return the type of an operand as Go prints it."""
    return "int" if type(value) is int else go_type(value)
