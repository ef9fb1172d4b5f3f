"""Bodies as JSON of RFC 8259: UTF-8, no name twice, no NaN, and no deeper than any request can be.

Parsers differ in what they make of the rest, so that a proxy that checks a request may see another one than the service
acts on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

DEPTH_MAX: Final = 100
"""Maximum depth of objects and lists; that of the deepest request is five. Parsers fail at some hundreds or thousands,
as their stack allows."""

_STRINGS: Final = re.compile(r'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_BRACKETS: Final = re.compile(r"[\[\]{}]")

NOWHERE: Final = -1
"""Position of a fault that is not at one character."""


def parse_body(body: bytes) -> Any:
    """Return the value of a JSON text. Pure.

    Raises:
        JSONDecodeError: it is none; ``msg`` says why, ``pos`` is the character or ``NOWHERE``.

    Cost: linear in the length of the body.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError(f"byte {error.start} is not UTF-8", "", NOWHERE) from None
    if _is_too_deep(text):
        raise json.JSONDecodeError("it is nested too deeply", "", NOWHERE)
    try:
        return json.loads(text, object_pairs_hook=_refuse_twice, parse_constant=_refuse_constant)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise json.JSONDecodeError(f"it has a number that is too long ({error})", "", NOWHERE) from None


def _is_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= DEPTH_MAX:
        return False
    depth = 0
    for mark in _BRACKETS.findall(_STRINGS.sub("", text)):
        depth += 1 if mark in "{[" else -1
        if depth > DEPTH_MAX:
            return True
    return False


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value] # set.add returns None on purpose
        raise json.JSONDecodeError(f"an object has the name {twice[:64]!r} twice", "", NOWHERE)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a number of JSON", "", NOWHERE)


class _JsonRequest(Request):
    async def json(self) -> Any:
        """Return the value of the body. Raises JSONDecodeError."""
        return parse_body(await self.body())


class JsonRoute(APIRoute):
    """A route whose body is read by ``parse_body``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json
