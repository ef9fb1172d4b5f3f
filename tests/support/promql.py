"""What a query of Prometheus selects and groups by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser

TARGET_LABELS = frozenset({"namespace", "instance", "job", "pod"})
"""Labels that the scrape adds."""


@dataclass(frozen=True)
class Selector:
    """A metric as a query selects it, with the labels by which it is filtered or aggregated."""

    metric: str
    labels: frozenset[str]


def find_selectors(query: str) -> list[Selector]:
    """Parse a query, without variables, and return its selectors. Raises ValueError."""
    return list(_walk(promql_parser.parse(query), frozenset()))


def _walk(node: Any, labels: frozenset[str]) -> Iterator[Selector]:
    match type(node).__name__:
        case "VectorSelector":
            yield Selector(node.name, labels | {matcher.name for matcher in node.matchers.matchers})
        case "MatrixSelector":
            yield from _walk(node.vector_selector, labels)
        case "AggregateExpr":
            # Only what is grouped by here can be used outside, so labels do not go further down through functions.
            yield from _walk(node.expr, labels | _labels_of(node.modifier))
        case "BinaryExpr":
            for side in (node.lhs, node.rhs):
                yield from _walk(side, labels | _labels_of(getattr(node.modifier, "matching", None)))
        case "Call":
            for argument in node.args:
                yield from _walk(argument, labels)
        case "ParenExpr" | "SubqueryExpr" | "UnaryExpr":
            yield from _walk(node.expr, labels)
        case "NumberLiteral" | "StringLiteral":
            return
        case other:
            raise ValueError(f"unknown part of a query: {other}")


def _labels_of(modifier: Any) -> frozenset[str]:
    return frozenset() if modifier is None else frozenset(modifier.labels)


def find_faults(query: str, exported: Mapping[str, frozenset[str]]) -> list[str]:
    """Return why a query could never find something: it does not parse, or names an unknown metric or label."""
    try:
        selectors = find_selectors(query)
    except ValueError as error:
        return [f"{error}: {query}"]
    faults = [f"{one.metric} is not exported" for one in selectors if one.metric not in exported]
    for one in selectors:
        unknown = one.labels - exported.get(one.metric, one.labels) - TARGET_LABELS
        faults += [f"{one.metric} has no label {label}" for label in sorted(unknown)]
    return faults
