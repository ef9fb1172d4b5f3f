"""Writes the table of routes and scopes in docs/operate/access.md from the routes' own declarations: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant

from ingestion_engine.runtime.settings import Settings
from ingestion_engine.server.app import create_app

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "operate" / "access.md"
BEGIN, END = "<!-- routes: written by `make docs` -->", "<!-- end of routes -->"

EVERYBODY: Final = "everybody"
ANYBODY: Final = "any caller"
"""Needs a credential, but no scope."""

_GUARDS: Final = frozenset({"authenticate", "find_viewer"})
"""Dependencies that identify the caller, of the API and of the console."""

_ORDER: Final = ("search", "read", "submit", "delete", "admin", ANYBODY, EVERYBODY)


def list_routes(app: FastAPI) -> dict[tuple[str, str], str]:
    """Return the scope of every route of an application by method and path; one of ``_ORDER``."""
    found: dict[tuple[str, str], str] = {}
    for route in _walk(app.routes):
        scopes = _find_scopes(route.dependant)
        scope = EVERYBODY if scopes is None else " + ".join(sorted(scopes)) or ANYBODY
        found |= {(method, route.path): scope for method in route.methods if method != "HEAD"}
    return found


def _walk(routes: Any) -> Iterator[Any]:
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from _walk(inner.routes)
        elif hasattr(route, "dependant"):
            yield route


def _find_scopes(dependant: Dependant) -> set[str] | None:
    """Return the scopes that a route demands of its caller; None when it identifies nobody."""
    found: set[str] | None = None
    if getattr(dependant.call, "__name__", "") in _GUARDS:
        found = {*map(str, dependant.parent_oauth_scopes or ()), *map(str, dependant.own_oauth_scopes or ())}
    for inner in dependant.dependencies:
        below = _find_scopes(inner)
        if below is not None:
            found = (found or set()) | below
    return found


def render_rows(routes: dict[tuple[str, str], str]) -> Iterator[str]:
    """Yield the Markdown rows of the routes of the API, then of the console's pages, by scope. Pure."""
    yield "| scope | API | console |"
    yield "|---|---|---|"
    for scope in _ORDER:
        named = sorted((path, method) for (method, path), needed in routes.items() if needed == scope)
        pages = [one for one in named if one[0] == "/" or one[0].startswith("/console")]
        calls = [one for one in named if one not in pages]
        if named:
            yield f"| {scope if scope in (ANYBODY, EVERYBODY) else f'`{scope}`'} | {_join(calls)} | {_join(pages)} |"


def _join(routes: list[tuple[str, str]]) -> str:
    return ", ".join(f"`{method} {path}`" for path, method in routes)


def render_page(text: str) -> str:
    """Return the page with the table between its two marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, *render_rows(list_routes(create_app(Settings()))), END]) + after


def main() -> int:
    """Rewrite the page."""
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
