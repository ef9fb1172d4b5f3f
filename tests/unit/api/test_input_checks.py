"""Requests that no model would expect: each is refused with a sentence, quickly, and never ends as a defect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.routing import APIRoute

from ingestion_engine.api.input_checks import LIST_MAX, OBJECT_MAX, check_body
from ingestion_engine.api.problems import ERRORS_MAX
from ingestion_engine.api.routes import aliases, collections, jobs, operations, search
from ingestion_engine.domain.spec import INTEGER_MAX
from ingestion_engine.state.cursors import encode_cursor
from support.control import BODY, World, make_collection

ROUTERS = [module.router for module in (aliases, collections, jobs, operations, search)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    make_collection(made)
    return made


async def post(world: World, path: str, body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with world.serve() as plane:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        answer = await plane.client.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.headers["content-type"] in {"application/problem+json", "application/json"}
        return answer.status_code, answer.json()


async def test_the_reason_of_a_drain_is_one_that_can_be_stored(world: World) -> None:
    """PostgreSQL refused it, and the answer was an unexpected error."""
    async with world.serve() as plane:
        answer = await plane.client.put("/drain", json={"reason": "nul\0"})
        assert (answer.status_code, answer.json()["field"]) == (422, "reason")
        assert (await plane.client.get("/drain")).json()["draining"] is False
        assert (await plane.client.put("/drain")).status_code == 200


def test_every_body_is_checked() -> None:
    """Also those of routes to come."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    bodies = {route.path: route.body_field for route in routes if route.body_field is not None}
    assert {"/search", "/drain"} <= set(bodies)
    for path, body in bodies.items():
        checks = [getattr(part, "func", None) for part in body.field_info.metadata]
        assert check_body in checks, path


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**BODY, "max_runtime_s": INTEGER_MAX + 1}, "max_runtime_s"),
        (
            b'{"source": {"bucket": "docs"}, "collection": "notes", "max_runtime_s": 1' + b"0" * 40 + b"}",
            "max_runtime_s",
        ),
        (
            {**BODY, "failure_budget": {"min_objects": 2**63}},
            "failure_budget.min_objects",
        ),
        (b'{"source": {"bucket": "docs"}, "collection": "notes", "metadata": {"a": "\\ud800"}}', "metadata.a"),
        ({**BODY, "metadata": {"a": "nul\0"}}, "metadata.a"),
        ({**BODY, "metadata": {"nul\0": "a"}}, "metadata"),
        ({**BODY, "source": {"bucket": "docs", "include": ["*"] * (LIST_MAX + 1)}}, "source.include"),
        ({**BODY, "source": {"bucket": "docs", "include": ["*", "\0"]}}, "source.include.1"),
        ({**BODY, **{f"unknown{number}": 1 for number in range(OBJECT_MAX)}}, None),
    ],
)
async def test_a_job_with_values_that_cannot_be_stored_is_refused_by_name(
    world: World, body: bytes | dict[str, Any], field: str | None
) -> None:
    """422 with the field; a list or an object that is too long is refused as a whole."""
    status, problem = await post(world, "/ray/jobs", body)
    assert (status, problem["code"], problem.get("field")) == (422, "validation_error", field)
    assert len(problem["detail"]) < 300
    assert "errors" not in problem


@pytest.mark.parametrize(
    "filter_", [b'{"metadata": {"a": "\\ud800"}}', b'{"key_prefix": "\\udfff"}', b'{"bucket": "\\u0000"}']
)
async def test_a_search_with_a_filter_that_is_no_text_is_refused(world: World, filter_: bytes) -> None:
    """422, before anything is embedded."""
    body = b'{"collection": "notes", "query": "cats", "filter": ' + filter_ + b"}"
    status, problem = await post(world, "/search", body)
    assert (status, problem["code"]) == (422, "validation_error")


async def test_a_body_that_is_nested_as_deeply_as_possible_is_refused(world: World) -> None:
    """The check of a body does not end by the depth of the interpreter's stack."""
    for depth in (400, 900, 100_000):
        status, _ = await post(world, "/ray/jobs", b"[" * depth + b"]" * depth)
        assert status in {400, 422}


async def test_only_the_first_errors_of_a_request_are_listed(world: World) -> None:
    """The detail names the number of all; the response stays small."""
    include = [1] * LIST_MAX
    status, problem = await post(world, "/ray/jobs", {**BODY, "source": {"bucket": "docs", "include": include}})
    assert status == 422
    assert len(problem["errors"]) == ERRORS_MAX
    assert f"and {LIST_MAX - 1} more" in problem["detail"]


@pytest.mark.parametrize("name", ["%2E%2E", "%00", "a%2F..%2Fb", "no-hyphen", "a" * 129, "caf%C3%A9", "a%0A"])
async def test_a_path_that_names_nothing_possible_is_404(world: World, name: str) -> None:
    """Neither the state store nor the database is asked, and no detail shows where they are."""
    async with world.serve() as plane:
        for path, code in (
            ("/collections/{}", "collection_not_found"),
            ("/collections/{}/objects", "collection_not_found"),
            ("/aliases/{}", "alias_not_found"),
        ):
            answer = await plane.client.get(path.format(name))
            assert answer.status_code == 404, (path, answer.text)
            if "%2F" not in name:  # another route, or none
                assert answer.json()["code"] == code
            assert "file://" not in answer.text
        for name_of_job in ("%00", "a%0A", "a" * 65):
            answer = await plane.client.get(f"/jobs/{name_of_job}")
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize(
    "position",
    [
        "0001-01-01T00:00:00+23:59 job-1",
        "9999-12-31T23:59:59-23:59 job-1",
        "2026-01-01T00:00:00+00:00 job-\0",
        "2026-01-01T00:00:00 job-1",
        "\0",
        "a01-0.999999999999999999999999999999",
        "a01-0.1\n",
    ],
)
async def test_a_crafted_cursor_is_refused(world: World, position: str) -> None:
    """422 for every list, never a defect."""
    async with world.serve() as plane:
        job = (await plane.client.post("/ray/jobs", json={**BODY, "collection": "other"})).json()["job_id"]
        for path in ("/jobs", f"/jobs/{job}/failures"):
            answer = await plane.client.get(path, params={"cursor": encode_cursor(position)})
            assert (answer.status_code, answer.json()["code"]) == (422, "validation_error"), (path, answer.text)


async def test_a_name_with_a_line_feed_at_its_end_is_no_bucket(world: World) -> None:
    """A pattern is compared with the whole name."""
    status, problem = await post(world, "/ray/jobs", {**BODY, "source": {"bucket": "team-b\n"}})
    assert (status, problem["field"]) == (422, "source.bucket")
