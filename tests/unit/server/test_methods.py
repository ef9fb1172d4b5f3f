"""HEAD and OPTIONS on every path, and what 405 allows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.control import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("path", ["/livez", "/jobs", "/jobs/{job}", "/openapi.json", "/docs", "/", "/metrics"])
async def test_head_is_get_without_a_body(world: World, path: str) -> None:
    """With the same status and headers, but what is the time's."""
    async with world.serve() as plane:
        path = path.format(job=await plane.submit())
        got, head = await plane.client.get(path), await plane.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.headers["content-security-policy"] == got.headers["content-security-policy"]
        assert (await plane.client.head("/nowhere")).status_code == 404


async def test_head_of_a_stream_ends(world: World) -> None:
    """At once, and nobody follows."""
    async with world.serve() as plane, asyncio.timeout(30):
        answer = await plane.client.head(f"/jobs/{await plane.submit()}/events")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert plane.services.metrics.load.streams == 0


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/drain", "GET, PUT, DELETE, HEAD, OPTIONS"),
        ("/aliases/docs", "GET, DELETE, HEAD, OPTIONS"),
        ("/search", "POST, OPTIONS"),
        ("/livez", "GET, HEAD, OPTIONS"),
    ],
)
async def test_all_methods_of_a_path_are_named(world: World, path: str, allowed: str) -> None:
    """By OPTIONS, and by the refusal of another method, also in its hint."""
    async with world.serve() as plane:
        options = await plane.client.options(path)
        assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")
        for method in ("PATCH", "BREW"):
            refused = await plane.client.request(method, path)
            assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
            assert refused.json()["code"] == "method_not_allowed"
            assert allowed in refused.json()["hint"]
        assert (await plane.client.options("/nowhere")).status_code in (404, 405)
