"""Property values of the Weaviate stand-in: validation, canonical form, tokenisation, auto-schema typing. Pure.

Messages are the ones Weaviate gives (observed on 1.40.0-dev), because clients and logs show them to people.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

_ENGLISH: Final = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with"
)
STOPWORDS: Final = frozenset(_ENGLISH.split(" "))
"""The English preset: left out of queries on word-tokenised text, never out of the index."""

TOKENIZATIONS: Final = ("word", "lowercase", "whitespace", "field")
SCALARS: Final = frozenset({"text", "int", "number", "boolean", "date", "uuid", "blob"})
ARRAYS: Final = frozenset({"text[]", "int[]", "number[]", "boolean[]", "date[]", "uuid[]"})
NESTED: Final = frozenset({"object", "object[]"})
DATA_TYPES: Final = SCALARS | ARRAYS | NESTED

_WORD = re.compile(r"[^\W_]+")
_WORD_WITH_WILDCARDS = re.compile(r"(?:[^\W_]|[?*])+")
_HEX32 = re.compile(r"[0-9a-fA-F]{32}")
_UUID36 = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_TYPE_NAMES: Final = {
    "text": "text",
    "int": "integer",
    "number": "number",
    "boolean": "boolean",
    "date": "date",
    "uuid": "uuid",
    "blob": "blob",
}


class PropertyError(ValueError):
    """The value does not fit the property; the text is what Weaviate would say."""


@lru_cache(maxsize=8192)
def parse_uuid(text: str) -> tuple[str, bytes]:
    """Canonical lower-case form and 16 bytes of any spelling Weaviate takes (plain, hex, braces, urn).

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
    lower = bare.lower()
    return lower, bytes.fromhex(lower.replace("-", ""))


def format_uuid(raw: bytes) -> str:
    """The canonical text of 16 bytes."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@lru_cache(maxsize=8192)
def parse_date(text: str) -> tuple[str, int]:
    """Canonical RFC 3339 form (trailing zeros of the fraction dropped) and nanoseconds since 1970 UTC.

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


def tokenize(tokenization: str, text: str) -> list[str]:
    """The terms an inverted index holds for this text."""
    if tokenization == "word":
        return [term.lower() for term in _WORD.findall(text)]
    if tokenization == "lowercase":
        return text.lower().split()
    if tokenization == "whitespace":
        return text.split()
    return [text.strip()]


def tokenize_pattern(tokenization: str, text: str) -> list[str]:
    """Like `tokenize`, for the operand of Like: wildcards survive."""
    if tokenization == "word":
        return [term.lower() for term in _WORD_WITH_WILDCARDS.findall(text)]
    return tokenize(tokenization, text)


def go_type(value: object) -> str:
    """The name Go prints for the type of a decoded value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "float64"
    if isinstance(value, list):
        return "[]interface {}"
    return "map[string]interface {}" if isinstance(value, dict) else "<nil>"


def go_value(value: object) -> str:
    """The value as Go's %v prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return "[" + " ".join(go_value(item) for item in value) + "]"
    return str(value)


def normalise(prop: dict[str, Any], value: Any, class_name: str) -> Any:
    """The value as it is stored and returned.

    Raises:
        PropertyError: with Weaviate's message, naming property and class.
    """
    kind: str = prop["dataType"][0]
    try:
        if kind in NESTED:
            return _nested(prop, kind, value, class_name)
        if kind.endswith("[]"):
            return _array(kind[:-2], value)
        return _scalar(kind, value)
    except PropertyError as error:
        label = kind if kind in NESTED else _TYPE_NAMES[kind.removesuffix("[]")]
        array = " array" if kind in ARRAYS else ""
        raise PropertyError(
            f"invalid {label}{array} property '{prop['name']}' on class '{class_name}': {error}"
        ) from None


def _scalar(kind: str, value: Any) -> Any:
    if kind == "text":
        if not isinstance(value, str):
            raise PropertyError(f"not a string, but {go_type(value)}")
        return value
    if kind == "int":
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise PropertyError(f"requires an integer, the given value is '{go_value(value)}'")
        return int(value)
    if kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PropertyError(f"requires a float, the given value is '{go_value(value)}'")
        return float(value)
    if kind == "boolean":
        if not isinstance(value, bool):
            raise PropertyError(f"not a bool, but {go_type(value)}")
        return value
    if kind == "uuid":
        return _uuid(value)
    if kind == "date":
        return _date(value)
    return _blob(value)


def _uuid(value: Any) -> str:
    try:
        return parse_uuid(value)[0]
    except (PropertyError, TypeError):
        message = f"requires a string of UUID format, but the given value is '{go_value(value)}'"
        raise PropertyError(message) from None


def _date(value: Any) -> str:
    try:
        return parse_date(value)[0]
    except (PropertyError, TypeError):
        message = f"requires a string with a RFC3339 formatted date, but the given value is '{go_value(value)}'"
        raise PropertyError(message) from None


def _blob(value: Any) -> str:
    if not isinstance(value, str):
        raise PropertyError(f"not a blob base64 string, but {go_type(value)}")
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise PropertyError("not a valid blob base64 string") from error
    return value


def _array(kind: str, value: Any) -> list[Any]:
    label = {"int": "integer", "number": "integer"}.get(kind, kind)  # Weaviate says integer for numbers, too
    article = "an" if label == "integer" else "a"
    if not isinstance(value, list):
        raise PropertyError(f"not {article} {label} array, but {go_type(value)}")
    try:
        return [_scalar(kind, item) for item in value]
    except PropertyError as error:
        verb = f"[%!s({go_type(value[0])}={go_value(value[0])})]" if kind in ("int", "number") else go_value(value)
        raise PropertyError(f"invalid {label} array value: {verb}") from error


def _nested(prop: dict[str, Any], kind: str, value: Any, class_name: str) -> Any:
    fields = {field["name"]: field for field in prop.get("nestedProperties") or []}
    if kind == "object":
        return _object(fields, value, class_name)
    if not isinstance(value, list):
        raise PropertyError(f"not an object array, but {go_type(value)}")
    return [_object(fields, item, class_name) for item in value]


def _object(fields: dict[str, dict[str, Any]], value: Any, class_name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PropertyError(f"object must be a map, but got: {go_type(value)}")
    out = {}
    for name, item in value.items():
        if name not in fields:
            raise PropertyError(f"unknown property '{name}'")
        if item is not None:
            out[name] = normalise(fields[name], item, class_name)
    return out


def _is_date(text: str) -> bool:
    try:
        parse_date(text)
    except PropertyError:
        return False
    return True


def _is_uuid(text: str) -> bool:
    try:
        parse_uuid(text)
    except PropertyError:
        return False
    return True


def guess_type(value: Any) -> str:
    """The data type auto-schema gives to a new property. Every number is `number`, a list of mixed text is `text[]`.

    Raises:
        PropertyError: a list of mixed kinds.
    """
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "date" if _is_date(value) else "uuid" if _is_uuid(value) else "text"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, dict):
        return "object"
    if not isinstance(value, list) or not value:
        return "text[]" if isinstance(value, list) else "text"
    kinds = [guess_type(item) for item in value]
    if len(set(kinds)) == 1:
        return kinds[0] + "[]"
    if set(kinds) <= {"text", "date", "uuid"}:
        return "text[]"
    at, other = next((i, kind) for i, kind in enumerate(kinds) if kind != kinds[0])
    raise PropertyError(f"element [{at}]: mismatched data type - '{kinds[0]}' expected, got '{other}'")
