"""Operands of the stand-in's filters: their conversion to the property's type, and tests of terms. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from weaviate.proto.v1 import base_pb2

from ingestion_devstack.weaviate.schema import Definition
from ingestion_devstack.weaviate.values import PropertyError, parse_date, parse_uuid, tokenize

Leaf = Callable[[dict[str, Any]], bool]
"""Whether one object's properties match."""

_PB = base_pb2.Filters
COMPARISONS: Final[dict[int, str]] = {
    _PB.OPERATOR_EQUAL: "=",
    _PB.OPERATOR_NOT_EQUAL: "=",
    _PB.OPERATOR_GREATER_THAN: ">",
    _PB.OPERATOR_GREATER_THAN_EQUAL: ">=",
    _PB.OPERATOR_LESS_THAN: "<",
    _PB.OPERATOR_LESS_THAN_EQUAL: "<=",
}
COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": lambda a, b: bool(a == b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
}
_GO_NAMES: Final = {bool: "bool", int: "int", float: "float64", str: "string"}
_ONLY_STOPWORDS: Final = (
    "invalid search term, only stopwords provided. Stopwords can be configured in class.invertedIndexConfig.stopwords"
)


class FilterError(ValueError):
    """The filter cannot be parsed for this class; Weaviate says so without a prefix."""


class FilterSearchError(ValueError):
    """The filter fails while it is searched; Weaviate prefixes the place."""


class OnlyStopwordsError(FilterSearchError):
    """Nothing is left of the operand; ContainsAny goes on without it."""

    def __init__(self) -> None:
        super().__init__(_ONLY_STOPWORDS)


@dataclass(slots=True)
class Operand:
    """One leaf of the filter, its operand converted to the property's type."""

    name: str
    kind: str
    operator: int
    values: list[Any]
    prop: Definition = field(default_factory=dict)


def term_test(operand: Operand, tokenization: str, terms: list[str]) -> Leaf:
    """The test of one tokenised property against the operand's terms; all terms must hold."""
    name, operator = operand.name, operand.operator
    if operator == _PB.OPERATOR_LIKE:
        patterns = [like_pattern(term) for term in terms]

    def matches(props: dict[str, Any]) -> bool:
        value = props.get(name)
        texts = value if isinstance(value, list) else [] if value is None else [value]
        tokens = {token for text in texts for token in tokenize(tokenization, text)}
        if operator == _PB.OPERATOR_EQUAL:
            return tokens.issuperset(terms)
        if operator == _PB.OPERATOR_NOT_EQUAL:
            return tokens.isdisjoint(terms)
        if operator == _PB.OPERATOR_LIKE:
            return all(any(pattern.fullmatch(token) for token in tokens) for pattern in patterns)
        test = COMPARE[COMPARISONS[operator]]
        return all(any(test(token.encode(), term.encode()) for token in tokens) for term in terms)

    return matches


def match_like(term: str, text: str | None) -> bool:
    """True when a whole text is like a term; an absent text is like none. Wildcards stop at line feeds, as Go's do."""
    return text is not None and like_pattern(term).fullmatch(text) is not None


@functools.lru_cache(maxsize=256)
def like_pattern(term: str) -> re.Pattern[str]:
    """The regular expression that Weaviate makes of an operand of Like, to be used with ``fullmatch``."""
    return re.compile(re.escape(term).replace(r"\?", ".").replace(r"\*", ".*"))


def go_name(value: object) -> str:
    """The type of an operand as Go prints it."""
    return _GO_NAMES.get(type(value), "[]" + type(value).__name__)


def convert_number(kind: str, value: Any) -> Any:
    """Weaviate's mercy for numbers sent as text or as the other kind of number.

    Raises:
        FilterError: not a number, or a fraction where an integer is needed.
    """
    if kind not in ("int", "number") or isinstance(value, bool):
        return value
    what = "an integer" if kind == "int" else "a number"
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        cause = f'strconv.ParseFloat: parsing "{value}": invalid syntax'
        kind_name = "int" if kind == "int" else "float"
        raise FilterError(
            f"expected {what} value, but could not parse string '{value}' as {kind_name}: {cause}"
        ) from None
    if kind == "number":
        return float(number)
    if isinstance(number, float) and not number.is_integer():
        raise FilterError(f"filtering for integer, but received a floating point number {number:g}")
    return int(number)


def date_value(value: Any) -> int:
    """Nanoseconds since 1970.

    Raises:
        FilterSearchError: not RFC 3339.
    """
    if not isinstance(value, str):
        raise FilterSearchError(f"expected value to be string or time.Time, got '{go_name(value)}'")
    try:
        return parse_date(value)[1]
    except PropertyError:
        raise FilterSearchError(
            f'trying parse time as RFC3339 string: parsing time "{value}" as "2006-01-02T15:04:05Z07:00": '
            f'cannot parse "{value}" as "2006"'
        ) from None


def column_value(kind: str, value: Any) -> Any:
    """The operand as the column holds it.

    Raises:
        FilterSearchError: not of this type.
    """
    if kind == "uuid":
        if not isinstance(value, str):
            raise FilterSearchError(f"expected value to be string, got '{go_name(value)}'")
        try:
            return parse_uuid(value)[1]
        except PropertyError as error:
            raise FilterSearchError(f"parse uuid filter value: {error}") from None
    if kind == "date":
        return date_value(value)
    if kind == "text":
        if not isinstance(value, str):
            raise FilterSearchError(f"expected value to be string, got '{go_name(value)}'")
        return value.strip()
    expected: dict[str, tuple[type, ...]] = {"int": (int,), "number": (int, float), "boolean": (bool,)}
    if kind in expected and (not isinstance(value, expected[kind]) or (kind != "boolean" and isinstance(value, bool))):
        name = {"int": "int", "number": "float64", "boolean": "bool"}[kind]
        raise FilterSearchError(f"expected value to be {name}, got {go_name(value)}")
    return value
