"""Property values of the Weaviate stand-in: validation, canonical form, terms, types guessed by auto-schema. Pure.

Imitates Weaviate 1.35, usecases/objects/validation/properties_validation.go (types and texts of its errors),
entities/tokenizer (terms of the tokenization `word`, stop words of the preset `en`) and
usecases/objects/auto_schema.go. Data types are text, int, number, boolean, date, uuid and text[]; others are refused.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from ingestion_devstack.weaviate.errors import PropertyError

_ENGLISH: Final = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with"
)
STOPWORDS: Final = frozenset(_ENGLISH.split(" "))
"""The English preset: left out of queries on word-tokenised text, never out of the index."""
WHITE_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""Trimmed from both ends of field-tokenised text before it is compared: Go's `unicode.IsSpace`."""
DATA_TYPES: Final = {
    "text": "text",
    "int": "integer",
    "number": "number",
    "boolean": "boolean",
    "date": "date",
    "uuid": "uuid",
    "text[]": "text array",
}
"""Data type → its name in error texts."""

_WORD = re.compile(r"[^\W_]+")
_HEX32 = re.compile(r"[0-9a-fA-F]{32}")
_UUID36 = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@lru_cache(maxsize=8192)
def parse_uuid(text: str) -> str:
    """Return the canonical lower-case form of any spelling that Weaviate accepts (plain, hex, braces, urn).

    Raises:
        PropertyError: not a UUID.
    """
    bare = text
    if len(text) == 45 and text[:9].lower() == "urn:uuid:":
        bare = text[9:]
    elif len(text) == 38:
        bare = text[1:-1]
    elif len(text) == 32:
        if not _HEX32.fullmatch(text):
            raise PropertyError("invalid UUID format")
        bare = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    elif len(text) != 36:
        raise PropertyError(f"invalid UUID length: {len(text.encode())}")
    if not _UUID36.fullmatch(bare):
        raise PropertyError("invalid UUID format")
    return bare.lower()


@lru_cache(maxsize=8192)
def parse_date(text: str) -> tuple[str, int]:
    """Return the canonical RFC 3339 form (no trailing zeros of the fraction) and nanoseconds since 1970 UTC.

    Raises:
        PropertyError: not RFC 3339 with a zone.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise PropertyError(text)
    day, clock, fraction, zone = match.groups()
    zone = "Z" if zone in ("+00:00", "-00:00") else zone
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone == 'Z' else zone}")
    except ValueError as error:
        raise PropertyError(text) from error
    digits = (fraction or "").rstrip("0")
    delta = moment - _EPOCH
    nanos = (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
    return f"{day}T{clock}{'.' + digits if digits else ''}{zone}", nanos


def find_terms(text: str) -> list[str]:
    """Return the terms of a text with tokenization `word`."""
    return [term.lower() for term in _WORD.findall(text)]


def go_type(value: object) -> str:
    """Return the name that Go prints for the type of a decoded value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "float64"
    if isinstance(value, list):
        return "[]interface {}"
    return "map[string]interface {}" if isinstance(value, dict) else "<nil>"


def _go_value(value: object) -> str:
    """Return a value as Go's %v prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return "[" + " ".join(_go_value(item) for item in value) + "]"
    return str(value)


def normalise(prop: dict[str, Any], value: Any, class_name: str) -> Any:
    """Return the value as it is stored and returned.

    Raises:
        PropertyError: with Weaviate's message, naming property and class.
    """
    kind: str = prop["dataType"][0]
    try:
        return _normalise(kind, value)
    except PropertyError as error:
        text = f"invalid {DATA_TYPES[kind]} property '{prop['name']}' on class '{class_name}': {error}"
        raise PropertyError(text) from None


def _normalise(kind: str, value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "text":
        if not isinstance(value, str):
            raise PropertyError(f"not a string, but {go_type(value)}")
        return value
    if kind == "int":
        if not is_number or value != int(value):
            raise PropertyError(f"requires an integer, the given value is '{_go_value(value)}'")
        return int(value)
    if kind == "number":
        if not is_number:
            raise PropertyError(f"requires a float, the given value is '{_go_value(value)}'")
        return float(value)
    if kind == "boolean":
        if not isinstance(value, bool):
            raise PropertyError(f"not a bool, but {go_type(value)}")
        return value
    if kind == "text[]":
        if not isinstance(value, list):
            raise PropertyError(f"not a text array, but {go_type(value)}")
        if not all(isinstance(item, str) for item in value):
            raise PropertyError(f"invalid text array value: {_go_value(value)}")
        return value
    try:
        return parse_uuid(value) if kind == "uuid" else parse_date(value)[0]
    except (PropertyError, TypeError):
        expected = "of UUID format, but" if kind == "uuid" else "with a RFC3339 formatted date, but"
        raise PropertyError(f"requires a string {expected} the given value is '{_go_value(value)}'") from None


def guess_type(value: Any) -> str:
    """Return the data type that auto-schema gives to a new property; every number is `number`."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list):
        return guess_type(value[0]) + "[]" if value and not all(isinstance(item, str) for item in value) else "text[]"
    for kind, parse in (("date", parse_date), ("uuid", parse_uuid)):
        try:
            parse(value)
        except (PropertyError, TypeError):
            continue
        return kind
    return "object" if isinstance(value, dict) else "text"
