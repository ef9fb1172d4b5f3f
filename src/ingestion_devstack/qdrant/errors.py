"""How the Qdrant stand-in refuses: the real server's statuses and texts (Qdrant 1.19, its `StorageError` display).

Where a text of the real server comes out of serde (which quotes lines and columns) only its beginning is the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

_MISSED_POINT = re.compile(r"No point with id (\S+)")
_NO_PATH = re.compile(r"invalid JSON path (.*)")
_NO_UUID = re.compile(r"failed to parse (.*) as UUID: ")
_BAD_INPUT_BEGINNINGS = (
    "Vector dimension error",
    "Not existing vector name error",
    "No range index for `order_by`",
    "Payload type does not match",
    "Validation failed",
    "Wrong usage of",
)
"""Beginnings of the engine's messages that the real server answers with 400; it gives no types to tell them apart."""
_JSON_KINDS = {dict: "map", list: "sequence", str: "string", bool: "boolean", int: "integer", float: "floating point"}


T = TypeVar("T")


class RequestRefusedError(Exception):
    """The answer is an error: its HTTP status and the text under `status.error`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class PointMissingError(RequestRefusedError):
    """An update or a query names a point that is not there; with wait=false the real server says nothing."""


def collection_missing(name: str) -> RequestRefusedError:
    """Return the 404 for a name that is neither a collection nor an alias."""
    return RequestRefusedError(404, f"Not found: Collection `{name}` doesn't exist!")


def collection_taken(name: str) -> RequestRefusedError:
    """Return the 409 for a name that is already a collection."""
    return RequestRefusedError(409, f"Wrong input: Collection `{name}` already exists!")


def point_missing(point_id: object) -> PointMissingError:
    """Return the 404 for a point that an update or a query names."""
    return PointMissingError(404, f"Not found: No point with id {point_id} found")


def empty_update() -> RequestRefusedError:
    """Return the 400 for an upsert or deletion of no points at all."""
    return RequestRefusedError(400, "Bad request: Empty update request")


def wrong_input(text: str) -> RequestRefusedError:
    """Return the 400 for a request that is well formed but does not fit the collection."""
    return RequestRefusedError(400, f"Wrong input: {text}")


def bad_format(text: str) -> RequestRefusedError:
    """Return the 400 for a body that is not JSON or not of the expected shape."""
    return RequestRefusedError(400, f"Format error in JSON body: {text}")


def invalid(field: str, text: str, place: str = "JSON body") -> RequestRefusedError:
    """Return the 422 for a value out of its range."""
    return RequestRefusedError(422, f"Validation error in {place}: [{field}: {text}]")


def bad_id(value: object) -> RequestRefusedError:
    """Return the 400 for something that is no point id."""
    shown = str(value).lower() if isinstance(value, bool) else value
    return bad_format(
        f"value {shown} is not a valid point ID, valid values are either an unsigned integer or a UUID",
    )


def unsupported(what: str) -> RequestRefusedError:
    """Return the 400 for something the real server does and this one does not."""
    return wrong_input(f"{what} is not supported by this stand-in")


def check_fields(value: Any, allowed: Collection[str], what: str, rejected: Collection[str] = ()) -> dict[str, Any]:
    """Return `value` as an object that has only `allowed` fields.

    Stricter than the real server, which ignores most fields it does not know.

    Raises:
        RequestRefusedError: not an object, an unknown field, or one of `rejected` (known to the real server, not
            supported here) with a value.
    """
    if type(value) is not dict:
        raise bad_format(f"invalid type: {_JSON_KINDS.get(type(value), 'null')}, expected {what}")
    if not value.keys() <= (names := set(allowed)):
        for name in value.keys() - names:
            if name not in rejected:
                listed = ", ".join(f"`{known}`" for known in allowed)
                raise bad_format(f"unknown field `{name}`, expected one of {listed}")
            if value[name] not in (None, {}, []):
                raise unsupported(f"`{name}`")
    return value


def require(body: Mapping[str, Any], field: str) -> Any:
    """Return a field that must be there."""
    if field not in body:
        raise bad_format(f"missing field `{field}`")
    return body[field]


def typed_or_none(body: Mapping[str, Any], field: str, kind: type[T], expected: str) -> T | None:
    """Return an optional field that must be of one JSON type exactly (so `true` is no integer)."""
    value = body.get(field)
    if value is not None and type(value) is not kind:
        raise bad_format(f"{field}: invalid type: {_JSON_KINDS.get(type(value), 'null')}, expected {expected}")
    return value


def count_or_none(body: Mapping[str, Any], field: str, least: int, path: str = "") -> int | None:
    """Return an optional number: below zero is malformed, below `least` invalid; `path` goes before its name."""
    value = typed_or_none(body, field, int, "usize")
    if value is not None and value < 0:
        raise bad_format(f"{field}: invalid value: integer `{value}`, expected usize")
    if value is not None and value < least:
        raise invalid(path + field, f"value {value} invalid, must be {least} or larger")
    return value


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn the engine's exceptions into refusals; it raises bare `Exception`, so the text decides.

    `TypeError` and `ValueError` come from its conversions of Python values: the body did not have the right shape.
    """
    try:
        yield
    except RequestRefusedError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        text = str(error).splitlines()[0]
        if no_uuid := _NO_UUID.match(text):
            raise bad_id(no_uuid[1]) from error
        if no_path := _NO_PATH.fullmatch(text):
            raise bad_format(f"Invalid json path: '{no_path[1]}'") from error
        raise bad_format(text) from error
    except Exception as error:  # the engine raises this very class; anything else goes on
        if type(error) is not Exception:
            raise
        text = str(error)
        if missed := _MISSED_POINT.match(text):
            raise point_missing(missed[1]) from error
        if text.startswith(_BAD_INPUT_BEGINNINGS):
            raise wrong_input(text) from error
        raise RequestRefusedError(500, f"Service internal error: {text}") from error
