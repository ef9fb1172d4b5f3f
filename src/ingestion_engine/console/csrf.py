"""Tokens in forms, which pages of other web sites cannot know: cross-site request forgery.

A token is derived from a secret that only a cookie of this browser has: that of its session, or, before the log-in and
where nobody has to log in, one of its own. The checks of ``Host`` and ``Origin`` in the server refuse foreign pages
already; the token holds where a browser or a proxy does not send what they go by.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Final

from fastapi import Request, Response

from ingestion_engine.console.cookies import CSRF, read_cookie, set_cookie
from ingestion_engine.domain.errors import SubmissionError

FIELD: Final = "csrf_token"
"""Field of forms."""

HEADER: Final = "x-csrf-token"
"""Header of requests of scripts."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_SEED: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


def prepare_token(request: Request, session: str | None = None) -> None:
    """Make the token of this browser known to templates, as ``csrf_token``; ``keep_seed`` must end the request.

    Args:
        request: The request.
        session: Cookie of a session that counts; None before the log-in and where nobody has to log in.
    """
    seed = session
    if seed is None:
        seed = read_cookie(request, CSRF)
        if seed is None or _SEED.fullmatch(seed) is None:
            seed = request.state.new_csrf_seed = secrets.token_urlsafe(32)
    request.state.csrf_token = hmac.digest(seed.encode(), b"csrf token", hashlib.sha256).hex()


def keep_seed(request: Request, response: Response) -> None:
    """Have the browser keep the secret that ``prepare_token`` has made, if it has made one."""
    seed = getattr(request.state, "new_csrf_seed", None)
    if seed is not None:
        set_cookie(request, response, CSRF, value=seed, same_site="lax")


async def check_token(request: Request) -> None:
    """Return when a request changes nothing, or has the token of this browser, in a header or a field of its form.

    Raises:
        SubmissionError: "csrf_token_invalid" (403).
    """
    if request.method in SAFE_METHODS:
        return
    given = request.headers.get(HEADER)
    if given is None and request.headers.get("content-type", "").partition(";")[0].strip().lower() in _FORMS:
        given = (await request.form()).get(FIELD)  # type: ignore[assignment]  # a file is no text, which is seen below
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), request.state.csrf_token.encode()):
        raise SubmissionError(
            "csrf_token_invalid",
            "The form is older than the log-in, or it was not made by a page of the console.",
            hint="Load the page again, then repeat what you did.",
            status=403,
        )
