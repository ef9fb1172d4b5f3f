"""A span for every request, in its caller's trace or a new one. Only part of the service when it traces."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.runtime.tracing import open_span

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that a span names; a client may send any other word."""

_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Called by machines every few seconds; not traced."""


class RequestTraces:
    """ASGI middleware. Spans have the pattern of the path, status and request id, and nothing of the request itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        with open_span(method, {"http.request.method": method}, parent=_find_parent(scope), kind="server") as span:

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    route = getattr(scope.get("route"), "path", "unmatched")
                    ids = [value.decode() for name, value in message["headers"] if name == b"x-request-id"]
                    span.rename(f"{method} {route}")
                    span.set({"http.route": route, "http.response.status_code": status, "request_id": ids[-1]})
                    if status >= 500:
                        span.fail(str(status))
                await send(message)

            await self._app(scope, receive, send_noted)


def _find_parent(scope: Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"traceparent"]
    return values[0].decode("latin-1") if len(values) == 1 else None
