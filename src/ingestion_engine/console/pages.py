"""Rendering of pages and of parts of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ingestion_engine import __version__
from ingestion_engine.console import formats
from ingestion_engine.console.assets import ASSETS
from ingestion_engine.console.marks import mark_text

NAVIGATION: Final = (
    ("/", "Jobs"),
    ("/console/collections", "Collections"),
    ("/console/search", "Search"),
    ("/console/aliases", "Aliases"),
    ("/console/system", "System"),
)
"""Sections of the console; a page names its section by the URL."""


def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        number=formats.show_number,
        bytes=formats.show_bytes,
        duration=formats.show_duration,
        latency=formats.show_latency,
        age=formats.show_age,
        percent=formats.show_percent,
        moment=formats.show_moment,
        words=formats.show_words,
        key=formats.show_key,
        plural=formats.show_plural,
    )
    environment.globals.update(asset=ASSETS.url, navigation=NAVIGATION, version=__version__, mark_text=mark_text)
    return environment


_ENVIRONMENT: Final = _make_environment()


def render(
    request: Request,
    template: str,
    /,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """Return a page, or a part of one.

    Beside its own values, a template receives ``request``; ``viewer``, the caller, None before the log-in; ``section``,
    the URL of its section in the navigation; ``csrf_input()`` and ``csrf_token``, for forms.

    Args:
        request: The request.
        template: Path of the template.
        status: Status of the response.
        headers: More headers.
        **context: Values of the template.
    """
    text = render_text(request, template, **context)
    return HTMLResponse(text, status_code=status, headers=dict(headers or {}))


def render_text(request: Request, template: str, /, **context: Any) -> str:
    """Return the text of a page, or of a part of one."""
    viewer = getattr(request.state, "viewer", None)
    token = getattr(request.state, "csrf_token", "")
    hidden = Markup('<input type="hidden" name="csrf_token" value="{}">').format(token)
    common = {
        "request": request,
        "viewer": viewer,
        "section": None,
        "csrf_token": token,
        "csrf_input": lambda: hidden,
    }
    return _ENVIRONMENT.get_template(template).render({**common, **context})
