"""Request bodies of `POST /api/embed` and `POST /api/show`.

Imitates Ollama 0.33, `api/types.go` and `server/routes.go`: unknown fields are ignored, null means "not given". Texts
of syntax errors are not Go's. Fields of the real server that the stand-in does not serve are refused with 501.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

_NOT_SERVED = ("dimensions", "keep_alive", "options")
_NOT_SHOWN = ("system", "template", "options")
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


@dataclass(frozen=True, slots=True)
class ShowCall:
    """A checked `POST /api/show`."""

    model: str
    """Empty if absent."""
    verbose: bool


def read_embed_call(raw: bytes) -> EmbedCall:
    """Return the checked body of `POST /api/embed`.

    Raises:
        BadRequestError: with the real server's text, or 501 for a field that is not served.
    """
    body = _read_object(raw, "EmbedRequest")
    _refuse_fields(body, _NOT_SERVED)
    return EmbedCall(
        model=_read_field(body, "EmbedRequest.model", kind=str) or "",
        texts=_read_input(body.get("input")),
        truncate=_read_field(body, "EmbedRequest.truncate", kind=bool) is not False,
    )


def read_show_call(raw: bytes) -> ShowCall:
    """Return the checked body of `POST /api/show`.

    Raises:
        BadRequestError: with the real server's text, or 501 for a field that is not served.
    """
    body = _read_object(raw, "ShowRequest")
    _refuse_fields(body, _NOT_SHOWN)
    model = _read_field(body, "ShowRequest.model", kind=str) or _read_field(body, "ShowRequest.name", kind=str)
    return ShowCall(model=model or "", verbose=_read_field(body, "ShowRequest.verbose", kind=bool) is True)


_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
"""Form of the model and of the tag."""


def is_model_name(name: str) -> bool:
    """Return whether a name has the form `[[host/]namespace/]model[:tag]`, with white space around it or not. Pure.

    Imitates Ollama, types/model/name.go.
    """
    path, colon, tag = name.strip().rpartition(":")
    if not colon or "/" in tag:
        path, colon, tag = name.strip(), "", ""
    *before, model = path.split("/")
    kinds = zip(reversed(before), (_NAMESPACE, _HOST), strict=False)
    return (
        len(before) <= 2
        and (not colon or _NAME.fullmatch(tag) is not None)
        and _NAME.fullmatch(model) is not None
        and all(kind.fullmatch(part) for part, kind in kinds)
    )


def _refuse_fields(body: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if body.get(name) not in (None, {}, ""):
            raise BadRequestError(f'The Ollama stand-in does not serve the field "{name}".', status=501)


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
