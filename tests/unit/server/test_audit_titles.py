"""What pages call the operations of the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from ingestion_engine.server.app import create_app
from ingestion_engine.server.audit import READING, UNMATCHED
from ingestion_engine.services.audit.refusals import SHARED
from ingestion_engine.services.audit.titles import CONSOLE, TITLES, title_of
from support.control import World

COMMANDS = {"keys.create", "keys.rotate", "keys.revoke", "audit.remove"}
"""Operations without a request."""


def list_operations(app: FastAPI) -> dict[str, str | None]:
    """Return all operations, as the audit log names them, with what OpenAPI calls them."""
    found: dict[str, str | None] = {}
    for route in walk(app.routes):
        name = route.operation_id or route.name
        operation = f"{CONSOLE}{name}" if route.path.startswith("/console") else name
        if operation in found:
            assert not route.methods - {"GET", "HEAD"}, f"two changes are named {operation}"
        found[operation] = found.get(operation) or route.summary
    return found


def walk(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield the routes of an application, also of the routers that it includes."""
    for route in routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from walk(inner.routes)
        elif hasattr(route, "dependant"):
            yield route


def test_every_operation_has_a_title(tmp_path: Path) -> None:
    """That of OpenAPI, where there is one; and no title is without an operation."""
    world = World(tmp_path)
    operations = list_operations(create_app(world.settings(), world.parts()))
    every = {*operations, *COMMANDS, *READING, UNMATCHED, SHARED}
    untitled = {name for name in every if name not in TITLES and name.removeprefix(CONSOLE) not in TITLES}
    assert not untitled
    assert {*TITLES} <= every
    assert {name: TITLES[name] for name, summary in operations.items() if summary} == {
        name: summary for name, summary in operations.items() if summary
    }


def test_forms_have_the_title_of_the_operation_and_unknown_ones_their_name() -> None:
    assert title_of("roll_back_alias") == title_of("console.roll_back_alias") == "Roll back an alias"
    assert title_of("console.search") == "Search a collection"
    assert title_of("console.show_one") == "Show one"
    assert title_of("keys.later") == "Keys later"
