"""Who may call: as in Ollama (`server/routes.go`), no page of another web site, and nobody under another name."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ingestion_engine.runtime.host_names import HostRules

_ORIGINS: Final = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})  # noqa: S104 - compared with, not bound to
"""Hosts of pages that may call, with any port."""


class OwnCallers:
    """ASGI middleware: 403 for foreign names in `Host`, which DNS rebinding has, and for foreign origins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._rules = HostRules(accepts_private=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not self._is_own(scope):
            await Response(status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            text = value.decode("latin-1")
            if name == b"host" and not self._rules.accepts(text):
                return False
            if name == b"origin" and not _is_own_origin(text):
                return False
        return True


def _is_own_origin(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in _ORIGINS
    except ValueError:
        return False
