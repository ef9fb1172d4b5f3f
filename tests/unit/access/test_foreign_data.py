"""What belongs to others: a restricted key reaches it by no route, neither by its name nor through an alias."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.services.job_ids import name_version
from ingestion_engine.state.aliases import Alias, read_alias, write_alias
from ingestion_engine.state.collections import read_contract
from ingestion_engine.state.deletions import Deletion, write_deletion
from support.control import BODY, Plane, World, bearer, make_collection, write_keys

ULID = "01hzx3v4m5n6p7q8r9s0t1v2w3"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def plane(world: World, tmp_path: Path) -> AsyncIterator[Plane]:
    """Collections of two teams, and the keys ``team`` (by names), ``docs`` (by bucket) and ``admin``."""
    make_collection(world, "team_notes", bucket="docs")
    make_collection(world, "hr", bucket="people")
    make_collection(world, "old")  # by an older version, which recorded no bucket
    make_collection(world, f"team_live_{ULID}", bucket="docs")
    point(world, "team_hr", "hr")
    point(world, "team_live", f"team_live_{ULID}", "hr")
    keys = write_keys(
        tmp_path,
        {"name": "admin"},
        {"name": "team", "collections": ["team_notes", "team_hr", "team_live", "team_new"]},
        {"name": "docs", "buckets": ["docs"]},
    )
    async with world.serve(api={"keys_file": keys}) as plane:
        yield plane


def point(world: World, name: str, collection: str, *previous: str) -> None:
    """Make an alias in the state store and in both stores."""
    moved_at = "2026-01-01T00:00:00.000Z"
    write_alias(world.state, Alias(name, collection, previous, True, "job-1", moved_at, moved_at))
    for store in (world.qdrant, world.weaviate):
        store.aliases[name] = store.spell(collection)


async def call(plane: Plane, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = await plane.client.request(method, path, json=body, headers=bearer(who))
    return answer.status_code, answer.json() if answer.content else None


ROUTES = [
    ("POST", "/search", {"collection": "{}", "query": "cats"}),
    ("GET", "/collections/{}", None),
    ("GET", "/collections/{}/objects", None),
    ("GET", "/collections/{}/chunks?key=0.txt", None),
    ("DELETE", "/collections/{}", None),
    ("DELETE", "/collections/{}/objects?prefix=a", None),
    ("GET", "/aliases/{}", None),
    ("POST", "/aliases/{}/rollback", None),
    ("DELETE", "/aliases/{}/versions?keep=0", None),
    ("DELETE", "/aliases/{}", None),
]


def fill(body: dict[str, str] | None, name: str) -> dict[str, str] | None:
    return None if body is None else {field: value.format(name) for field, value in body.items()}


@pytest.mark.parametrize(("who", "name"), [("team", "team_hr"), ("docs", "team_hr"), ("docs", "hr"), ("docs", "old")])
async def test_what_is_foreign_is_answered_like_what_is_missing(
    world: World, plane: Plane, who: str, name: str
) -> None:
    """In the same words but for the name, by every route, and nothing is changed."""
    for method, path, body in ROUTES:
        foreign = await call(plane, who, method, path.format(name), fill(body, name))
        missing = await call(plane, who, method, path.format("team_new"), fill(body, "team_new"))
        assert foreign[0] == 404, (method, path)
        assert repr(foreign).replace(name, "team_new") == repr(missing)
    assert "hr" in world.qdrant.collections
    assert read_contract(world.state, "hr") is not None
    alias = read_alias(world.state, "team_hr")
    assert alias is not None
    assert not alias.removed


async def test_lists_hide_what_is_foreign(plane: Plane) -> None:
    """Collections, aliases, and the names of an alias's former versions."""
    pages = {}
    for who in ("team", "docs", "admin"):
        _, collections = await call(plane, who, "GET", "/collections")
        _, aliases = await call(plane, who, "GET", "/aliases")
        pages[who] = (
            [one["name"] for one in collections["items"]],
            {one["name"]: one["previous"] for one in aliases["items"]},
        )
    version = f"team_live_{ULID}"
    assert pages["team"] == ([version, "team_notes"], {"team_live": []})
    assert pages["docs"] == ([version, "team_notes"], {"team_live": []})
    assert pages["admin"] == (["hr", "old", version, "team_notes"], {"team_hr": [], "team_live": ["hr"]})


async def test_pages_name_nothing_foreign(plane: Plane) -> None:
    """The cursor neither, and no page is empty before the end."""
    names, cursor = [], ""
    while True:
        _, page = await call(plane, "docs", "GET", f"/collections?limit=1&cursor={cursor}")
        names += [one["name"] for one in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
        assert cursor == names[-1]
    assert names == [f"team_live_{ULID}", "team_notes"]


@pytest.mark.parametrize("who", ["team", "docs"])
async def test_foreign_versions_are_neither_restored_nor_dropped(world: World, plane: Plane, who: str) -> None:
    """Although the alias and its current version belong to the key."""
    for method, path in [("POST", "/aliases/team_live/rollback"), ("DELETE", "/aliases/team_live/versions?keep=0")]:
        status, problem = await call(plane, who, method, path)
        assert (status, problem["code"]) == (403, "not_allowed")
        assert "hr" not in problem["detail"]
    unknown = await call(plane, who, "POST", "/aliases/team_live/rollback", {"to": "nothing"})
    foreign = await call(plane, who, "POST", "/aliases/team_live/rollback", {"to": "hr"})
    assert repr(foreign) == repr(unknown).replace("nothing", "hr")
    assert foreign[0] == 422
    assert "hr" in world.qdrant.collections
    alias = read_alias(world.state, "team_live")
    assert alias is not None
    assert (alias.collection, alias.previous) == (f"team_live_{ULID}", ("hr",))


@pytest.mark.parametrize(
    ("who", "body"),
    [
        ("team", {"collection": "team_hr"}),
        ("docs", {"collection": "team_hr"}),
        ("docs", {"collection": "hr"}),
        ("docs", {"collection": "hr", "mode": "verify"}),
        ("docs", {"collection": "hr", "mode": "plan"}),
        ("docs", {"collection": "old", "mode": "repair"}),
        ("docs", {"alias": "team_hr"}),
        ("team", {"alias": "team_hr", "collection": "team_new"}),
    ],
)
async def test_jobs_write_nothing_foreign(plane: Plane, who: str, body: dict[str, str]) -> None:
    """Neither a collection behind an alias nor one of another bucket; and no alias is taken from others."""
    status, problem = await call(plane, who, "POST", "/ray/jobs", {"source": {"bucket": "docs"}, **body})
    assert (status, problem["code"]) == (403, "not_allowed")
    assert "people" not in repr(problem)
    assert (await call(plane, "admin", "GET", "/jobs"))[1]["items"] == []


async def test_without_the_state_store_a_restricted_key_submits_nothing(
    world: World, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its names stand for is not known then; an unrestricted key's job is checked by its driver."""

    def away(path: str) -> None:
        raise TransientError("state_unavailable", "It is away.")

    monkeypatch.setattr(world.state, "get", away)
    status, problem = await call(plane, "docs", "POST", "/ray/jobs", BODY)
    assert (status, problem["code"]) == (503, "state_unavailable")
    assert (await call(plane, "admin", "POST", "/ray/jobs", BODY))[0] == 202


async def test_a_key_of_an_alias_retries_the_jobs_behind_it(world: World, plane: Plane) -> None:
    """The collection has the name that the service gave it, which no glob of the key matches."""
    body = {"source": {"bucket": "docs"}, "alias": "team_new"}
    _, job = await call(plane, "team", "POST", "/ray/jobs", body)
    assert job["collection"].startswith("team_new_")
    await call(plane, "team", "POST", f"/jobs/{job['job_id']}/cancel")
    status, problem = await call(plane, "team", "POST", f"/jobs/{job['job_id']}/retry")
    assert (status, problem["code"]) == (409, "nothing_to_retry"), "it is allowed, but there is nothing to do"
    make_collection(world, job["collection"], bucket="docs")
    assert (await call(plane, "team", "GET", f"/collections/{job['collection']}"))[0] == 200


async def test_an_alias_gives_its_own_versions_only(world: World, plane: Plane) -> None:
    """A version that was made for another alias stays foreign, through whichever alias it is reached."""
    foreign = name_version("secret", f"job-{ULID}")
    make_collection(world, foreign, bucket="docs")
    point(world, "team_new", foreign)
    assert (await call(plane, "team", "GET", "/aliases/team_new"))[0] == 404
    assert (await call(plane, "team", "GET", f"/collections/{foreign}"))[0] == 403


async def test_a_deletion_in_progress_is_known_to_those_who_may_use_the_collection(world: World, plane: Plane) -> None:
    """Also when its contract is gone already; a key of another bucket learns nothing of it."""
    stores = (StoreName.QDRANT,)
    write_deletion(world.state, Deletion("going", stores, "2026-01-01T00:00:00Z", bucket="docs"))
    write_deletion(world.state, Deletion("leaving", stores, "2026-01-01T00:00:00Z", bucket="people"))
    assert (await call(plane, "docs", "DELETE", "/collections/leaving"))[0] == 404
    assert (await call(plane, "docs", "DELETE", "/collections/going"))[1]["deleted"]


async def test_messages_do_not_name_foreign_aliases(world: World, plane: Plane) -> None:
    """An alias of others may stand for a collection of the key."""
    point(world, "secret", "team_notes")
    status, problem = await call(plane, "team", "DELETE", "/collections/team_notes")
    assert (status, problem["code"]) == (409, "collection_in_use")
    point(world, "board", f"team_live_{ULID}")
    live = read_alias(world.state, "team_live")
    assert live is not None
    moved = dataclasses.replace(live, collection="team_notes", previous=(f"team_live_{ULID}",))
    write_alias(world.state, moved)
    status, other = await call(plane, "team", "DELETE", "/aliases/team_live/versions?keep=0")
    assert (status, other["code"]) == (409, "version_in_use")
    assert "secret" not in repr(problem) + repr(other)
    assert "board" not in repr(other)
