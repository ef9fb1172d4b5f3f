"""Adds the console to an application."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request, Response

from ingestion_engine.api.problems import make_problem
from ingestion_engine.console.routes import (
    aliases,
    audit,
    back_channel,
    collections,
    jobs,
    log_in,
    new_job,
    objects,
    search,
    static,
    system,
)
from ingestion_engine.console.routing import make_router, show_problem
from ingestion_engine.console.viewer import ViewerDep

_SECTIONS: Final = (static, log_in, back_channel, new_job, jobs, collections, objects, search, aliases, system, audit)


def install_console(app: FastAPI) -> None:
    """Add all pages; the last route answers what no page has."""
    for section in _SECTIONS:
        app.include_router(section.router)
    app.include_router(_nothing)


_nothing = make_router()


@_nothing.get("/console{path:path}")
async def show_nothing(request: Request, path: str, _viewer: ViewerDep) -> Response:
    """Return the page for a path without a page."""
    detail = f"The console has no page {request.url.path!r}."
    return show_problem(request, make_problem(404, "not_found", detail))
