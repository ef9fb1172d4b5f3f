"""Hints of the service, as the command shows them: commands in place of routes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion_engine.cli.hints import HINTS, choose_hint, names_route

PACKAGE = Path(__file__).resolve().parents[3] / "src" / "ingestion_engine"


def find_routes_in_hints() -> Iterator[tuple[str, str]]:
    """Yield code and hint of every error in the source with a literal hint that names a route."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            for keyword in node.keywords:
                if keyword.arg == "hint" and names_route(text := ast.unparse(keyword.value)):
                    yield ast.unparse(node.args[0]), text


def test_every_hint_that_names_a_route_has_one_for_the_command() -> None:
    """The service's codes and the command's hints cannot drift apart."""
    found = {code.strip("'"): hint for code, hint in find_routes_in_hints()}
    assert "job_not_found" in found
    variables = {"code", "error.code"}  # driver_died and engine_never_started; collection_not_found with its job
    assert set(found) - variables <= set(HINTS)


@pytest.mark.parametrize("code", sorted(HINTS))
def test_no_hint_of_the_command_names_a_route(code: str) -> None:
    """Placeholders are filled, also where the service sends nothing to fill them with."""
    hint = choose_hint(code, "See GET /openapi.json.", {})
    assert hint
    assert not names_route(hint)
    assert "{" not in hint


def test_a_collection_that_is_being_made_names_the_command_to_wait() -> None:
    """The job's id comes with the problem."""
    assert choose_hint("collection_not_found", "GET /jobs/job-1/events", {"job_id": "job-1"}) == (
        "Wait for its job: ingest watch job-1"
    )


def test_other_hints_are_shown_as_they_are() -> None:
    """A hint about settings or about the request is the same for both."""
    assert choose_hint("contract_mismatch", "Use another collection.", {}) == "Use another collection."
    assert choose_hint("validation_error", "Set a prefix.", {}) == "Set a prefix."
    assert choose_hint("unknown", None, {}) is None
