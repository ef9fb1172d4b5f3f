"""Where a log-in leads back to: to a page of the console, and nowhere else."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode, urlsplit

from fastapi import Request

LOG_IN_PATH: Final = "/console/login"
BACK_CHANNEL_PATH: Final = "/console/oidc/backchannel-logout"
"""Where the provider itself reports log-outs; no page."""
HOME: Final = "/"

_PAGE: Final = re.compile(r"/(?:console(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*/?)?(?:\?[A-Za-z0-9._~%!$&'()*+,;=:@/?-]*)?")
"""Path and query of a page. No second slash at the beginning, no backslash and no control character, which browsers
read as the address of another host."""

_PAGE_MAX: Final = 2000


def choose_page(wanted: str | None) -> str:
    """Return the page that was wanted, or the first one when it is none of the console's. Pure."""
    if wanted is None or len(wanted) > _PAGE_MAX or _PAGE.fullmatch(wanted) is None:
        return HOME
    is_log_in = wanted.partition("?")[0].startswith((LOG_IN_PATH, "/console/oidc", "/console/logout"))
    return HOME if is_log_in else wanted


def log_in_url(wanted: str | None = None, *, path: str = LOG_IN_PATH) -> str:
    """Return the address of the log-in that leads back to a page. Pure."""
    page = choose_page(wanted)
    return path if page == HOME else f"{path}?{urlencode({'next': page})}"


def find_page(request: Request) -> str:
    """Return the page that a request is for: its own address, or that of the page whose script or form has sent it."""
    if request.method == "GET" and "hx-request" not in request.headers:
        query = request.url.query
        return choose_page(request.url.path + (f"?{query}" if query else ""))
    shown = request.headers.get("hx-current-url") or request.headers.get("referer") or ""
    parts = urlsplit(shown)
    if parts.netloc != request.url.netloc:
        return HOME
    return choose_page(parts.path + (f"?{parts.query}" if parts.query else ""))
