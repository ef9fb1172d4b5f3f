"""Headers that tell browsers what a response may do: on every response, whoever has made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = tuple[tuple[bytes, bytes], ...]

ALWAYS: Final[Headers] = (
    (b"x-content-type-options", b"nosniff"),
    # Not "no-referrer": with it, browsers send `Origin: null` with the forms of the service's own pages.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"x-frame-options", b"DENY"),
)

DATA_POLICY: Final = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""For everything that is no page: nothing in it is executed, loaded or framed, if a browser shows it after all."""

PAGE_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""For the pages of the console: files of the service only, no script and no style inside of a page."""

DOCS_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""For Swagger UI, which adds styles while it runs."""

STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")
"""A year, as browsers' preload lists require; without subdomains, which are not the service's."""


class ResponseHeaders:
    """ASGI middleware: adds the headers that a response does not have yet. Streams pass through it unbuffered.

    Args:
        app: The application.
        uses_tls: True when browsers reach the service by https only, whatever a request came by.
    """

    def __init__(self, app: ASGIApp, *, uses_tls: bool = False) -> None:
        self._app = app
        self._uses_tls = uses_tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_secure = self._uses_tls or scope["scheme"] == "https"

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                present = {name.lower(): value for name, value in headers}
                added = list_headers(scope["path"], present, is_secure=is_secure)
                message = {**message, "headers": headers + [one for one in added if one[0] not in present]}
            await send(message)

        await self._app(scope, receive, send_marked)


def list_headers(path: str, present: Mapping[bytes, bytes], *, is_secure: bool = False) -> Headers:
    """Return the headers for a response to a request of a path, which has those of ``present`` by itself. Pure."""
    is_page = present.get(b"content-type", b"").startswith(b"text/html")
    policy = (DOCS_POLICY if path.startswith("/docs") else PAGE_POLICY) if is_page else DATA_POLICY
    # A file with a tag is the same for everybody: kept, and asked for with each use.
    caching = b"no-cache" if b"etag" in present else b"no-store"
    secure = (STRICT_TRANSPORT,) if is_secure else ()
    return (*ALWAYS, (b"content-security-policy", policy), (b"cache-control", caching), *secure)
