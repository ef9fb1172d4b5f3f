"""Request bodies of `POST /api/embed` and `POST /api/show`.

Imitates Ollama 0.33, `api/types.go` and `server/routes.go`: unknown fields are ignored, null means "not given". Texts
of syntax errors are not Go's. Fields of the real server that the stand-in does not serve are refused with 501.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

_NOT_SERVED = ("dimensions", "keep_alive", "options")
_GO_TYPES: dict[type, str] = {str: "string", bool: "bool"}
_JSON_TYPES: dict[type, str] = {str: "string", bool: "bool", int: "number", float: "number", list: "array"}

T = TypeVar("T")


class BadRequestError(Exception):
    """The body cannot be used; answered with `status` and the message."""

    def __init__(self, message: str, status: int = 400) -> None:
        """Keep the HTTP status of the answer beside the message."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """A checked `POST /api/embed`."""

    model: str
    texts: tuple[str, ...]
    truncate: bool


def read_embed_call(raw: bytes) -> EmbedCall:
    """Return the checked body of `POST /api/embed`.

    Raises:
        BadRequestError: with the real server's text, or 501 for a field that is not served.
    """
    body = _read_object(raw, "EmbedRequest")
    for name in _NOT_SERVED:
        if body.get(name) not in (None, {}):
            raise BadRequestError(f'The Ollama stand-in does not serve the field "{name}".', status=501)
    return EmbedCall(
        model=_read_field(body, "EmbedRequest.model", kind=str) or "",
        texts=_read_input(body.get("input")),
        truncate=_read_field(body, "EmbedRequest.truncate", kind=bool) is not False,
    )


def read_show_call(raw: bytes) -> str:
    """Return the model's name from the body of `POST /api/show`; empty if absent.

    Raises:
        BadRequestError: with the real server's text.
    """
    return _read_field(_read_object(raw, "ShowRequest"), "ShowRequest.model", kind=str) or ""


def _read_object(raw: bytes, struct: str) -> dict[str, Any]:
    """Parse a JSON object; `struct` is the name of the Go type, for its error texts."""
    if not raw.strip():
        raise BadRequestError("missing request body")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"The body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequestError(f"json: cannot unmarshal {_JSON_TYPES[type(value)]} into Go value of type api.{struct}")
    return value


def _read_field(body: dict[str, Any], field: str, *, kind: type[T]) -> T | None:
    """Return a field's value, None if absent or null; `field` is the name in Go's error texts, as Struct.name."""
    value = body.get(field.partition(".")[2])
    if value is None or isinstance(value, kind):
        return value
    shown = _JSON_TYPES.get(type(value), "object")
    raise BadRequestError(f"json: cannot unmarshal {shown} into Go struct field {field} of type {_GO_TYPES[kind]}")


def _read_input(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise BadRequestError("invalid input type")
