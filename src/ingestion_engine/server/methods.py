"""Methods of HTTP that a path has: HEAD wherever GET is, and a true ``Allow`` where a method is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from fastapi.responses import StreamingResponse
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.api.problems import answer_problem, make_problem

_SHOWN: Final = 128
"""Characters of a path and of a method that a message repeats."""


class Methods:
    """ASGI middleware: answers HEAD as GET without a body, and refuses other methods of a path with 405.

    The router alone refuses HEAD, and names in ``Allow`` the methods of one of several routes with the same path. A
    stream has no HEAD: it has no end.

    Args:
        app: The application.
        routes: All routes; read at the first request, when all of them have been added.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes
        self._methods: list[tuple[re.Pattern[str], frozenset[str]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        allowed = self.find(scope["path"])
        if not allowed or scope["method"] in allowed - {"HEAD"}:
            await self._app(scope, receive, send)
        elif scope["method"] in allowed:
            await self._answer_head(scope, receive, send)
        else:
            await answer_problem(_refuse(scope, allowed), {"Allow": ", ".join(sorted(allowed))})(scope, receive, send)

    def find(self, path: str) -> frozenset[str]:
        """Return the methods of a path; none for one that no route has. Cost: one comparison per pattern."""
        if not self._methods:
            self._methods = _read_methods(self._routes)
        return frozenset().union(*(methods for pattern, methods in self._methods if pattern.match(path)))

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"  # for the log and the metrics


def _read_methods(routes: Sequence[BaseRoute]) -> list[tuple[re.Pattern[str], frozenset[str]]]:
    found: dict[str, set[str]] = {}
    for context in iter_route_contexts(routes):
        methods = getattr(context.original_route, "methods", None)
        if context.path is None or not methods:
            continue
        known = found.setdefault(context.path, set())
        known.update(methods)
        is_stream = getattr(context.original_route, "response_class", None) is StreamingResponse
        if "GET" in methods and not is_stream:
            known.add("HEAD")
    return [(compile_path(path)[0], frozenset(methods)) for path, methods in found.items()]


def _refuse(scope: Scope, allowed: frozenset[str]) -> dict[str, object]:
    shown = f"{scope['method'][:_SHOWN]} {scope['path'][:_SHOWN]}"
    hint = f"Use one of the allowed methods: {', '.join(sorted(allowed))}."
    return make_problem(405, "method_not_allowed", f"{shown}: Method Not Allowed", hint=hint)
