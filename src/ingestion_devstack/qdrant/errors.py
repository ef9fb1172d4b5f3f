"""Refusals of the Qdrant stand-in, with the real server's statuses and texts, and checks of JSON bodies.

Imitates Qdrant 1.19: `validation_error_handler` in src/actix/mod.rs (400 "Format error in JSON body", 422 "Validation
error in JSON body"), the display of `StorageError` in lib/storage/src/content_manager/errors.rs and its statuses in
src/actix/helpers.rs. A text that the real server takes from serde (with line and column) only has the same beginning.

The stand-in is stricter than the real server: a field that it does not support is refused by name, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_MISSING_POINT = re.compile(r"No point with id (\S+)")
_INVALID_UUID = re.compile(r"failed to parse (.*) as UUID: ")
_BAD_INPUT_BEGINNINGS = ("Vector dimension error", "Payload type does not match", "Validation failed", "Wrong usage of")
"""Beginnings of the engine's messages that the real server answers with 400; the engine has no error types."""
_JSON_TYPES = {dict: "map", list: "sequence", str: "string", bool: "boolean", int: "integer", float: "floating point"}


class RequestRefusedError(Exception):
    """The answer is an error: its HTTP status, the text under `status.error`, and Retry-After in seconds if any."""

    def __init__(self, status: int, text: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s


class PointMissingError(RequestRefusedError):
    """An update names a point that does not exist; with wait=false the real server reports no error."""


def collection_missing(name: str) -> RequestRefusedError:
    """Return the 404 for a name that is neither a collection nor an alias."""
    return RequestRefusedError(404, f"Not found: Collection `{name}` doesn't exist!")


def collection_taken(name: str) -> RequestRefusedError:
    """Return the 409 for a name that is already a collection."""
    return RequestRefusedError(409, f"Wrong input: Collection `{name}` already exists!")


def empty_update() -> RequestRefusedError:
    """Return the 400 for an upsert or deletion without points."""
    return RequestRefusedError(400, "Bad request: Empty update request")


def wrong_input(text: str) -> RequestRefusedError:
    """Return the 400 for a request that is well formed but does not fit the collection."""
    return RequestRefusedError(400, f"Wrong input: {text}")


def wrong_format(text: str) -> RequestRefusedError:
    """Return the 400 for a body that is not JSON or not of the expected shape."""
    return RequestRefusedError(400, f"Format error in JSON body: {text}")


def out_of_range(field: str, text: str, place: str = "JSON body") -> RequestRefusedError:
    """Return the 422 for a value out of its range."""
    return RequestRefusedError(422, f"Validation error in {place}: [{field}: {text}]")


def unsupported(what: str) -> RequestRefusedError:
    """Return the 400 for something that the real server supports and this one does not."""
    return wrong_input(f"{what} is not supported by this stand-in")


def check_fields(value: Any, allowed: Sequence[str], what: str) -> dict[str, Any]:
    """Return `value` as an object; a field that is not `allowed` may only be null.

    Raises:
        RequestRefusedError: not an object, or a further field with a value.
    """
    check_type(value, dict, what)
    for name in value.keys() - set(allowed):
        if value[name] is not None:
            raise unsupported(f"`{name}` in {what}")
    return dict(value)


def check_type(value: Any, kind: type, what: str) -> Any:
    """Return a value of exactly one JSON type (`true` is not an integer)."""
    if type(value) is not kind:
        raise wrong_format(f"invalid type: {_JSON_TYPES.get(type(value), 'null')}, expected {what}")
    return value


def require(body: dict[str, Any], field: str) -> Any:
    """Return a required field."""
    if field not in body:
        raise wrong_format(f"missing field `{field}`")
    return body[field]


def read_count(body: dict[str, Any], field: str, *, least: int, default: int, path: str = "") -> int:
    """Return an optional number; `path` precedes the field's name in the error for a value below `least`."""
    value = body.get(field)
    if value is None:
        return default
    if check_type(value, int, f"usize for {field}") < 0:
        raise wrong_format(f"{field}: invalid value: integer `{value}`, expected usize")
    if value < least:
        raise out_of_range(path + field, f"value {value} invalid, must be {least} or larger")
    return int(value)


def check_id(value: Any) -> Any:
    """Return a point id of the right type and range; the engine itself checks that a text is a UUID."""
    if (type(value) is int and 0 <= value < 1 << 64) or type(value) is str:
        return value
    raise _bad_id(str(value).lower() if isinstance(value, bool) else value)


def _bad_id(shown: object) -> RequestRefusedError:
    rule = "valid values are either an unsigned integer or a UUID"
    return wrong_format(f"value {shown} is not a valid point ID, {rule}")


@contextmanager
def engine_errors() -> Iterator[None]:
    """Raise the engine's exceptions as refusals, by their texts: it raises bare `Exception`.

    `TypeError` and `ValueError` come from its conversions of Python values: the body did not have the right shape.
    """
    try:
        yield
    except RequestRefusedError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        text = str(error).splitlines()[0]
        if invalid := _INVALID_UUID.match(text):
            raise _bad_id(invalid[1]) from error
        raise wrong_format(text) from error
    except Exception as error:  # the engine raises this very class; subclasses are passed on
        if type(error) is not Exception:
            raise
        text = str(error)
        if missing := _MISSING_POINT.match(text):
            raise PointMissingError(404, f"Not found: No point with id {missing[1]} found") from error
        if text.startswith(_BAD_INPUT_BEGINNINGS):
            raise wrong_input(text) from error
        raise RequestRefusedError(500, f"Service internal error: {text}") from error
