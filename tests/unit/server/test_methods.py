"""HEAD is answered wherever GET is, and a method that a path does not have is refused with those that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.control import World, make_collection


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    make_collection(made)
    return made


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/metrics", "/jobs", "/collections/notes", "/openapi.json", "/docs"]
)
async def test_head_is_get_without_a_body(world: World, path: str) -> None:
    """The same status and headers; monitors and proxies send it."""
    async with world.serve() as plane:
        got = await plane.client.get(path)
        head = await plane.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


async def test_head_of_what_does_not_exist_is_404_without_a_body(world: World) -> None:
    async with world.serve() as plane:
        for path in ("/collections/none", "/nowhere"):
            head = await plane.client.head(path)
            assert (head.status_code, head.content) == (404, b""), path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", "/drain", "DELETE, GET, HEAD, PUT"),
        ("PATCH", "/aliases/docs", "DELETE, GET, HEAD"),
        ("POST", "/collections/notes", "DELETE, GET, HEAD"),
        ("GET", "/ray/jobs", "POST"),
        ("TRACE", "/search", "POST"),
        ("INVENTED", "/jobs/job-1/events", "GET"),
        ("HEAD", "/jobs/job-1/events", "GET"),
    ],
)
async def test_a_method_that_a_path_lacks_is_refused_with_all_that_it_has(
    world: World, method: str, path: str, allowed: str
) -> None:
    """Also those of other routes with the same path; before anything else is looked at."""
    async with world.serve() as plane:
        answer = await plane.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert answer.json()["code"] == "method_not_allowed"
        assert answer.json()["hint"] == f"Use one of the allowed methods: {allowed}."


async def test_requests_with_head_are_counted_as_such(world: World) -> None:
    """And with the route that they name."""
    async with world.serve() as plane:
        await plane.client.head("/collections/notes")
        text = (await plane.client.get("/metrics")).text
    assert 'ingest_http_requests_total{method="HEAD",route="/collections/{name}",status="200"} 1.0' in text
