"""Keeps the pages of other web sites out: the service has to be addressed by its own name, and from its own pages.

A browser sends what any page asks it to, with the access that it has: on loopback, in a company's network, with the
cookie of a session. Programs send neither ``Origin`` nor ``Sec-Fetch-Site``, and are not affected.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ingestion_engine.api.dependencies import FOREIGN_HOST
from ingestion_engine.api.problems import answer_problem, make_problem
from ingestion_engine.console.cookies import SESSION_COOKIES
from ingestion_engine.runtime.host_names import HostRules, host_of_url, split_host
from ingestion_engine.runtime.settings import ApiSettings

PROBES: Final = frozenset({"/livez", "/readyz"})
"""Called by probes under whatever name they know; they change nothing."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

_PORTS: Final = {"http": 80, "https": 443}
_OWN_SITE: Final = frozenset({"same-origin", "none"})
"""Values of ``Sec-Fetch-Site`` for the service's own pages, and for what the reader enters in the address bar."""


class HostChecks:
    """ASGI middleware: refuses requests to other names (421), and those that pages of other sites send (403).

    Args:
        app: The application.
        settings: Names and public URL of the service.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        public = settings.public_url
        host = host_of_url(public) if public else None
        self._rules = HostRules((*settings.allowed_hosts, *([host] if host else [])))
        self._public_origin = None if public is None else _parse_origin(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hosts = _find(scope, b"host")
        if not self._is_own_host(hosts):
            if scope["path"] not in PROBES or scope["method"] not in SAFE_METHODS:
                await answer_problem(_refuse_host(hosts))(scope, receive, send)
                return
            scope.setdefault("state", {})[FOREIGN_HOST] = True
        elif (reason := self._find_foreign_page(scope, hosts)) is not None:
            await answer_problem(_refuse_origin(reason))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_own_host(self, hosts: list[str]) -> bool:
        # Every browser sends the header; only HTTP/1.0 allows to leave it out, and the parser knows that.
        return not hosts or (len(hosts) == 1 and self._rules.accepts(hosts[0]))

    def _find_foreign_page(self, scope: Scope, hosts: list[str]) -> str | None:
        """Return what shows that a page of another site has sent a request, else None."""
        is_safe = scope["method"] in SAFE_METHODS
        sites = _find(scope, b"sec-fetch-site")
        if sites and not set(sites) <= _OWN_SITE:
            # Other sites may link to a page, but not embed it, read it, or send a form to it.
            if not is_safe or "navigate" not in _find(scope, b"sec-fetch-mode"):
                return f"Sec-Fetch-Site: {sites[0][:32]}"
            return None
        origins = _find(scope, b"origin")
        if not origins or (is_safe and not _has_session(scope)):
            return None
        is_own = len(origins) == 1 and self._is_own_origin(origins[0], hosts)
        return None if is_own else f"Origin: {origins[0][:128]}"

    def _is_own_origin(self, origin: str, hosts: list[str]) -> bool:
        parsed = _parse_origin(origin)
        if parsed is None:
            return False
        if parsed == self._public_origin:
            return True
        host = split_host(hosts[0]) if hosts else None
        if host is None:
            return False
        # The scheme is not compared: a proxy that is not declared hides it.
        scheme, name, port = parsed
        return (name, port) == (host[0], host[1] or _PORTS[scheme])


def _find(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for name, value in scope["headers"] if name == wanted]


def _has_session(scope: Scope) -> bool:
    return any(f"{name}=" in cookie for cookie in _find(scope, b"cookie") for name in SESSION_COOKIES)


def _parse_origin(origin: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an origin; None for ``null`` and what is no HTTP origin. Pure."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme, name.rstrip("."), port or _PORTS[parts.scheme]


def _refuse_host(hosts: list[str]) -> dict[str, object]:
    shown = hosts[0][:128] if hosts else ""
    return make_problem(
        421,
        "host_not_allowed",
        f"The request is addressed to {shown!r}, which is not a name of this service.",
        hint="Use the service's address, or add the name to INGEST_API__ALLOWED_HOSTS.",
    )


def _refuse_origin(reason: str) -> dict[str, object]:
    return make_problem(
        403,
        "origin_not_allowed",
        f"The request comes from a page of another web site ({reason!r}).",
        hint="Open the service's own pages. Behind a proxy that changes the host, set INGEST_API__PUBLIC_URL.",
    )
