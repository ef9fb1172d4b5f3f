"""Cookies of the console: their names, and what browsers are told of them.

Over https all have the prefix ``__Host-``, which browsers accept from this very host only, for the whole host, and
never over http (RFC 6265bis section 4.1.3.2): neither a neighbour's subdomain nor the network can set them.
"""

from __future__ import annotations

from typing import Final, Literal

from fastapi import Request, Response

SESSION: Final = "session"
CSRF: Final = "csrf"
LOG_IN: Final = "log_in"
LOG_OUT: Final = "log_out"

_NAMES: Final = {
    SESSION: ("__Host-ingest", "ingest_session"),
    CSRF: ("__Host-ingest-csrf", "ingest_csrf"),
    LOG_IN: ("__Host-ingest-login", "ingest_login"),
    LOG_OUT: ("__Host-ingest-logout", "ingest_logout"),
}
"""Names of each cookie with and without TLS."""

SESSION_COOKIES: Final = _NAMES[SESSION]
"""Names of the cookie of a session, with and without TLS."""

SameSite = Literal["strict", "lax"]


def uses_tls(request: Request) -> bool:
    """Return whether the browser uses https: by this connection, by a trusted proxy's word, or by the public URL."""
    if request.url.scheme == "https":
        return True
    public = request.app.state.services.settings.api.public_url or ""
    return public.startswith("https://") and request.headers.get("host") == public.split("/")[2]


def read_cookie(request: Request, which: str) -> str | None:
    """Return a cookie of the console; None without one."""
    return request.cookies.get(_name(request, which)) or None


def set_cookie(
    request: Request,
    response: Response,
    which: str,
    *,
    value: str,
    same_site: SameSite = "strict",
    max_age_s: int | None = None,
) -> None:
    """Have the browser keep a cookie.

    Args:
        request: The request.
        response: Its response.
        which: ``SESSION``, ``CSRF``, ``LOG_IN`` or ``LOG_OUT``.
        value: Value.
        same_site: With ``strict``, requests that begin on another site do not have it; with ``lax``, only links do.
        max_age_s: Seconds until the browser forgets it; None means when it is closed.
    """
    response.set_cookie(
        _name(request, which),
        value,
        max_age=max_age_s,
        path="/",
        secure=uses_tls(request),
        httponly=True,
        samesite=same_site,
    )


def clear_cookie(request: Request, response: Response, which: str) -> None:
    """Have the browser forget a cookie."""
    response.delete_cookie(_name(request, which), path="/", secure=uses_tls(request), httponly=True, samesite="strict")


def _name(request: Request, which: str) -> str:
    with_tls, without = _NAMES[which]
    return with_tls if uses_tls(request) else without
