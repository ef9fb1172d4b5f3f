"""What a key may ask for at all: scopes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_engine.access.scopes import Scope
from ingestion_engine.runtime.settings import SettingsError
from ingestion_engine.server.app import create_app
from support.control import BODY, World, bearer, write_keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_key_that_may_search_may_not_delete(world: World, tmp_path: Path) -> None:
    """The refusal names the scope; the request is not carried out."""
    keys = write_keys(tmp_path, {"name": "reader", "scopes": ["search", "read"]})
    async with world.serve(api={"keys_file": keys}, headers=bearer("reader")) as plane:
        assert (await plane.client.get("/jobs")).status_code == 200
        for method, path, scope in [
            ("DELETE", "/collections/notes", "delete"),
            ("POST", "/ray/jobs", "submit"),
            ("GET", "/drain", "admin"),
        ]:
            answer = await plane.client.request(method, path, json=BODY if method == "POST" else None)
            assert (answer.status_code, answer.json()["code"], answer.json()["scope"]) == (403, "scope_missing", scope)


async def test_the_api_declares_what_each_route_needs(world: World) -> None:
    """OpenAPI names the scheme and the scope of every route but those that answer everybody."""
    async with world.serve() as plane:
        api = (await plane.client.get("/openapi.json")).json()
    assert api["components"]["securitySchemes"]["apiKey"]["type"] == "http"
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            needed = operation.get("security", [])
            if path in ("/livez", "/metrics", "/readyz"):
                assert not any(scopes for one in needed for scopes in one.values()), (method, path)
            else:
                (scopes,) = {tuple(one["apiKey"]) for one in needed if "apiKey" in one}
                assert len(scopes) == 1, (method, path)
                assert Scope(scopes[0])


@pytest.mark.parametrize("entry", [{"scopes": ["admin"], "buckets": ["docs"]}, {"scopes": ["root"]}])
def test_a_file_with_scopes_that_make_no_sense_is_refused(
    world: World, tmp_path: Path, entry: dict[str, list[str]]
) -> None:
    """An unknown scope, and one for the whole service beside globs that limit it."""
    keys = write_keys(tmp_path, {"name": "odd", **entry})
    with pytest.raises(SettingsError, match="INGEST_API__KEYS_FILE"):
        create_app(world.settings(api={"keys_file": keys}), world.parts())
