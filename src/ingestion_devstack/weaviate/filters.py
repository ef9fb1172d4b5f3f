"""Weaviate's filters as SQL over the stand-in's tables (see `weaviate_storage`). Pure.

Scalar properties and field-tokenised text have a column of their own and become ordinary comparisons, which SQLite
answers from an index. Tokenised text and lists have none: such a leaf becomes a call of `wv_match(leaf, properties)`,
evaluated only on rows that the rest of the filter lets through.

Semantics kept from Weaviate: a missing value equals nothing and is not-equal to everything; Equal on tokenised text
means that every term of the operand occurs; stop words are dropped from operands of word-tokenised text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from weaviate.proto.v1 import base_pb2

from ingestion_devstack.weaviate.operands import (
    COMPARE,
    COMPARISONS,
    FilterError,
    FilterSearchError,
    Leaf,
    OnlyStopwordsError,
    Operand,
    column_value,
    convert_number,
    date_value,
    go_name,
    term_test,
)
from ingestion_devstack.weaviate.schema import Definition, find_property, no_such_property
from ingestion_devstack.weaviate.values import NESTED, STOPWORDS, tokenize, tokenize_pattern

_PB = base_pb2.Filters
_CONTAINS: Final = (_PB.OPERATOR_CONTAINS_ANY, _PB.OPERATOR_CONTAINS_ALL, _PB.OPERATOR_CONTAINS_NONE)
_LENGTH = re.compile(r"len\((\w+)\)")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A filter ready to run: `sql` is a condition on `objects AS o`.

    Attributes:
        columns: columns that deserve an index, because the condition is quick with one.
        leaves: what `wv_match` calls, by number.
    """

    sql: str
    params: list[Any]
    columns: frozenset[str]
    leaves: tuple[Leaf, ...]


@dataclass(slots=True)
class _Part:
    sql: str
    params: list[Any]
    equal: frozenset[str] = frozenset()
    ranged: frozenset[str] = frozenset()

    @property
    def wanted(self) -> frozenset[str]:
        return self.equal | self.ranged


def compile_filter(filters: Any, definition: Definition, columns: dict[str, str]) -> Compiled:
    """Translate the protocol's filter tree.

    Args:
        filters: `weaviate.v1.Filters`.
        definition: of the class.
        columns: property → column, for properties that have one.

    Raises:
        FilterError, FilterSearchError: Weaviate would refuse it, too.
    """
    compiler = _Compiler(definition, columns)
    part = compiler.tree(filters)
    return Compiled(part.sql, part.params, part.wanted, tuple(compiler.leaves))


class _Compiler:
    def __init__(self, definition: Definition, columns: dict[str, str]) -> None:
        self._definition = definition
        self._columns = columns
        self._inverted = definition["invertedIndexConfig"]
        self.leaves: list[Leaf] = []

    def tree(self, node: Any) -> _Part:
        if node.operator not in (_PB.OPERATOR_AND, _PB.OPERATOR_OR, _PB.OPERATOR_NOT):
            return self._leaf(self._operand(node), node)
        # Weaviate parses the whole tree before it searches: an error of parsing wins over one of searching.
        parts, failed = [], None
        for at, child in enumerate(node.filters):
            try:
                parts.append(self.tree(child))
            except FilterSearchError as error:
                failed = failed or FilterSearchError(f"nested query: nested clause at pos {at}: {error}")
        if failed:
            raise failed
        if not parts:
            raise FilterSearchError("no children for operator")
        params = [value for part in parts for value in part.params]
        if node.operator == _PB.OPERATOR_NOT:
            return _Part(f"NOT coalesce({parts[0].sql}, 0)", params)
        if node.operator == _PB.OPERATOR_OR:
            return _Part("(" + " OR ".join(part.sql for part in parts) + ")", params, _union(parts))
        equal = frozenset[str]().union(*(part.equal for part in parts))
        return _Part("(" + " AND ".join(part.sql for part in parts) + ")", params, equal or _union(parts))

    def _operand(self, node: Any) -> Operand:
        which = node.target.WhichOneof("target") if node.HasField("target") else None
        if which in ("single_target", "multi_target", "count") or (which is None and len(node.on) != 1):
            raise FilterError("filters on references are not supported by the embedded Weaviate")
        name = node.target.property if which else node.on[0]
        test = node.WhichOneof("test_value")
        if test is None:
            raise FilterError("unknown value type <nil>")
        if test == "value_geo":
            raise FilterError("geo filters are not supported by the embedded Weaviate")
        value = getattr(node, test)
        values = list(value.values) if test.endswith("_array") else [value]
        if name in ("_id", "id"):
            return Operand("_id", "uuid", node.operator, values)
        if name in ("_creationTimeUnix", "_lastUpdateTimeUnix"):
            return Operand(name, "timestamp", node.operator, values)
        if (length := _LENGTH.fullmatch(name)) is not None:
            return Operand(length[1], "length", node.operator, values, self._property(length[1]))
        prop = self._property(name.split(".")[0].split("[")[0])
        kind = prop["dataType"][0]
        if kind in NESTED:
            raise FilterError(
                "filtering on nested properties is a preview feature, disabled by default; "
                "set WEAVIATE_PREVIEW_NESTED_FILTERING=true to enable"
            )
        if node.operator == _PB.OPERATOR_IS_NULL:
            return Operand(name, "null", node.operator, values, prop)
        if kind.startswith("uuid") and node.operator == _PB.OPERATOR_LIKE:
            raise FilterError('operator "Like" cannot be used on uuid/uuid[] props')
        if not (prop["indexFilterable"] or prop["indexSearchable"] or prop["indexRangeFilters"]):
            raise FilterError(
                f"Filtering by property '{name}' requires inverted index. Is `indexFilterable` option of property "
                f"'{name}' enabled? Set it to `true` or leave empty"
            )
        base = kind.removesuffix("[]")
        return Operand(name, kind, node.operator, [convert_number(base, value) for value in values], prop)

    def _property(self, name: str) -> Definition:
        prop = find_property(self._definition, name)
        if prop is None:
            raise FilterError(no_such_property(self._definition, name))
        return prop

    def _leaf(self, operand: Operand, node: Any) -> _Part:
        if operand.kind in ("null", "length", "timestamp"):
            return self._state(operand)
        if operand.operator in _CONTAINS:
            return self._contains(operand, node)
        if operand.operator not in COMPARISONS and operand.operator != _PB.OPERATOR_LIKE:
            raise FilterError(f"unknown filter operator {operand.operator}")
        if operand.kind in ("text", "text[]"):
            return self._text(operand)
        return self._scalar(operand)

    def _state(self, operand: Operand) -> _Part:
        if operand.kind == "null":
            if not self._inverted.get("indexNullState"):
                raise FilterSearchError(
                    "resolve doc ids for prop/value pair: Nullstate must be indexed to be filterable! "
                    "Add `indexNullState: true` to the invertedIndexConfig"
                )
            name, wanted = operand.name, bool(operand.values[0])
            return self._python(lambda props: (props.get(name) in (None, [], "")) is wanted)
        if operand.kind == "length":
            if not self._inverted.get("indexPropertyLength"):
                raise FilterSearchError(
                    "resolve doc ids for prop/value pair: Property length must be indexed to be filterable! "
                    f"add `IndexPropertyLength: true` to the invertedIndexConfig in {self._definition['class']}.  "
                    "Geo-coordinates, phone numbers and data blobs are not supported by property length."
                )
            name, size = operand.name, operand.values[0]
            test, negate = COMPARE[COMPARISONS[operand.operator]], operand.operator == _PB.OPERATOR_NOT_EQUAL
            return self._python(lambda props: test(len(props.get(name) or ()), size) is not negate)
        if not self._inverted.get("indexTimestamps"):
            raise FilterSearchError(
                "resolve doc ids for prop/value pair: Timestamps must be indexed to be filterable! "
                f"Add `IndexTimestamps: true` to the InvertedIndexConfig in {self._definition['class']}"
            )
        column = "o.created" if operand.name == "_creationTimeUnix" else "o.updated"
        return self._compare(column, operand.operator, date_value(operand.values[0]) // 1_000_000, index=False)

    def _contains(self, operand: Operand, node: Any) -> _Part:
        if not node.WhichOneof("test_value").endswith("_array"):
            raise FilterSearchError(f"value type should be []{operand.kind} but is {go_name(operand.values[0])}")
        if operand.operator != _PB.OPERATOR_CONTAINS_ALL and operand.name in {"_id", *self._columns}:
            column = "o.id" if operand.name == "_id" else f"o.{self._columns[operand.name]}"
            values = [column_value(operand.kind, value) for value in operand.values]
            sql = f"{column} IN ({','.join('?' * len(values))})"
            if operand.operator == _PB.OPERATOR_CONTAINS_NONE:
                return _Part(f"NOT coalesce({sql}, 0)", values)
            return _Part(sql, values, frozenset({column[2:]} - {"id"}))
        parts, failed = [], None
        for at, value in enumerate(operand.values):
            single = Operand(operand.name, operand.kind, _PB.OPERATOR_EQUAL, [value], operand.prop)
            try:
                parts.append(self._leaf(single, node))
            except OnlyStopwordsError as error:
                if operand.operator != _PB.OPERATOR_CONTAINS_ANY:
                    raise FilterSearchError(f"nested query: nested clause at pos {at}: {error}") from None
                failed = error
        if not parts:
            raise failed or FilterSearchError("no values")
        joiner = " AND " if operand.operator == _PB.OPERATOR_CONTAINS_ALL else " OR "
        sql = "(" + joiner.join(part.sql for part in parts) + ")"
        params = [value for part in parts for value in part.params]
        if operand.operator == _PB.OPERATOR_CONTAINS_NONE:
            return _Part(f"NOT coalesce({sql}, 0)", params)
        return _Part(sql, params, _union(parts))

    def _text(self, operand: Operand) -> _Part:
        text = operand.values[0]
        if not isinstance(text, str):
            raise FilterSearchError(f"expected value to be string, got '{go_name(text)}'")
        tokenization = operand.prop["tokenization"]
        like = operand.operator == _PB.OPERATOR_LIKE
        column = self._columns.get(operand.name)
        if column is not None:
            if like:
                return _Part(f"wv_like(?, o.{column})", [text.strip()], frozenset(), frozenset({column}))
            return self._compare(f"o.{column}", operand.operator, text.strip())
        terms = tokenize_pattern(tokenization, text) if like else tokenize(tokenization, text)
        if tokenization == "word" and not like:
            terms = [term for term in terms if term not in STOPWORDS]
        if not terms:
            raise OnlyStopwordsError
        return self._python(term_test(operand, tokenization, terms))

    def _scalar(self, operand: Operand) -> _Part:
        base = operand.kind.removesuffix("[]")
        if operand.operator == _PB.OPERATOR_LIKE:
            raise FilterSearchError(f"Like operator is not supported on data type {operand.kind}")
        value = column_value(base, operand.values[0])
        if operand.name == "_id":
            return self._compare("o.id", operand.operator, value, index=False)
        column = self._columns.get(operand.name)
        if column is not None:
            return self._compare(f"o.{column}", operand.operator, value)
        test, negate = COMPARE[COMPARISONS[operand.operator]], operand.operator == _PB.OPERATOR_NOT_EQUAL
        name = operand.name

        def matches(props: dict[str, Any]) -> bool:
            items = props.get(name)
            items = items if isinstance(items, list) else [] if items is None else [items]
            return any(test(column_value(base, item), value) for item in items) is not negate

        return self._python(matches)

    def _compare(self, column: str, operator: int, value: Any, *, index: bool = True) -> _Part:
        sql = f"{column} {COMPARISONS[operator]} ?"
        if operator == _PB.OPERATOR_NOT_EQUAL:
            return _Part(f"NOT coalesce({sql}, 0)", [value])
        wanted = frozenset({column[2:]}) if index else frozenset[str]()
        if operator == _PB.OPERATOR_EQUAL:
            return _Part(sql, [value], wanted)
        return _Part(sql, [value], frozenset(), wanted)

    def _python(self, leaf: Leaf) -> _Part:
        self.leaves.append(leaf)
        body = "(SELECT b.props FROM bodies AS b WHERE b.doc = o.doc)"
        return _Part(f"wv_match({len(self.leaves) - 1}, {body})", [])


def _union(parts: list[_Part]) -> frozenset[str]:
    return frozenset[str]().union(*(part.wanted for part in parts))
