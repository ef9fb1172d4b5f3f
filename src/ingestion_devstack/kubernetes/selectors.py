"""Label and field selectors of list and watch requests. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ingestion_devstack.kubernetes.errors import bad_request

Match = Callable[[Mapping[str, Any]], bool]
"""True for an object that is selected."""

_SET_TERM: Final = re.compile(r"^(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^)]*)\)$")
_KEY: Final = re.compile(r"^([A-Za-z0-9.\-]+/)?[A-Za-z0-9]([A-Za-z0-9._\-]*[A-Za-z0-9])?$")
_BETWEEN_TERMS: Final = re.compile(r",(?![^(]*\))")


def parse_label_selector(text: str) -> Match:
    """Read `a=b,c!=d,e in (f,g),h notin (i),j,!k`; the empty text selects everything.

    Raises:
        ApiError: 400 for anything else.
    """
    terms = [_parse_term(term.strip()) for term in _BETWEEN_TERMS.split(text) if term.strip()]

    def matches(value: Mapping[str, Any]) -> bool:
        labels = value.get("metadata", {}).get("labels") or {}
        return all(term(labels) for term in terms)

    return matches


def _parse_term(term: str) -> Callable[[Mapping[str, str]], bool]:
    by_set = _SET_TERM.match(term)
    if by_set:
        key, wanted = by_set["key"], {value.strip() for value in by_set["values"].split(",")}
        _check_key(key, term)
        if by_set["operator"] == "in":
            return lambda labels: labels.get(key) in wanted
        return lambda labels: labels.get(key) not in wanted
    for operator in ("!=", "==", "="):
        key, found, value = (part.strip() for part in term.partition(operator))
        if found:
            _check_key(key, term)
            if operator == "!=":
                return lambda labels: labels.get(key) != value
            return lambda labels: labels.get(key) == value
    absent = term.removeprefix("!")
    _check_key(absent, term)
    return (lambda labels: absent not in labels) if term.startswith("!") else (lambda labels: absent in labels)


def _check_key(key: str, term: str) -> None:
    if not _KEY.match(key):
        raise bad_request(f"unable to parse requirement: <nil>: Invalid value: {term!r}: not a label requirement")


def parse_field_selector(text: str, known: Mapping[str, tuple[str, ...]]) -> Match:
    """Read `metadata.name=x,metadata.namespace!=y`.

    Args:
        text: the selector; empty selects everything.
        known: the fields this resource can be selected by, each with its path in the object.

    Raises:
        ApiError: 400 for a field that cannot be selected by, as the real server answers.
    """
    terms: list[Match] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        operator = "!=" if "!=" in part else "==" if "==" in part else "="
        field, found, wanted = part.partition(operator)
        if not found:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        if field not in known:
            raise bad_request(f"field label not supported: {field}")
        terms.append(_field_term(known[field], wanted, operator != "!="))
    return lambda value: all(term(value) for term in terms)


def _field_term(path: tuple[str, ...], wanted: str, equal: bool) -> Match:
    def matches(value: Mapping[str, Any]) -> bool:
        found: Any = value
        for step in path:
            found = found.get(step) if isinstance(found, Mapping) else None
        return (str(found or "") == wanted) is equal

    return matches
