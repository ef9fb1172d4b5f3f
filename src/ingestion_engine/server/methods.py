"""Methods that every path answers: HEAD where it answers GET, OPTIONS with all that it has; 405 names them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.api.problems import answer_problem, make_problem
from ingestion_engine.api.streams import IS_HEAD

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Methods that routes have; HEAD and OPTIONS are answered here."""


class Methods:
    """ASGI middleware.

    Args:
        app: The application.
        routes: Its routes; those that are added later count too.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Cost: for GET and other methods of routes, nothing; else five looks through the routes."""
        method = scope.get("method")
        if method not in ("HEAD", "OPTIONS"):
            await self._serve(scope, receive, send)
            return
        found = self._find(scope)
        if method == "HEAD" and "GET" in found:
            scope.setdefault("state", {})[IS_HEAD] = True
            scope["method"] = "GET"  # of the same scope, in which the route is noted for the log
            try:
                await self._app(scope, receive, _Bodiless(send).send)
            finally:
                scope["method"] = "HEAD"
        elif method == "OPTIONS" and found:
            headers = [(b"allow", join_methods(found).encode())]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body"})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its response, but a refusal of the method with all methods that there are."""
        is_refused = False

        async def send_named(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start" and message["status"] == 405:
                is_refused = True
                await self._refuse(scope, receive, send)
            elif not is_refused:
                await send(message)

        await self._app(scope, receive, send_named)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405 with all methods of a path; that of the first route with it has only its own."""
        allowed = join_methods(self._find(scope))
        detail = f"{scope['method'][:32]} {scope['path'][:200]}: Method Not Allowed"
        problem = make_problem(405, "method_not_allowed", detail, hint=f"Use one of the allowed methods: {allowed}.")
        await answer_problem(problem, {"Allow": allowed})(scope, receive, send)

    def _find(self, scope: Scope) -> list[str]:
        """Return the methods of ``METHODS`` that the routes have for a path."""
        return [
            method
            for method in METHODS
            if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in self._routes)
        ]


class _Bodiless:
    """Passes a response on without its body."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        await self._send({**message, "body": b""} if message["type"] == "http.response.body" else message)


def join_methods(methods: Sequence[str]) -> str:
    """Return the value of ``Allow`` for a path with these methods of routes. Pure."""
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
