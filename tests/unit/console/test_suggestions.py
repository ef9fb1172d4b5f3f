"""Names that forms offer: those of the caller only, few, and never at the price of a slow page."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

from ingestion_engine.access.principal import Principal
from ingestion_engine.console.suggestions import NAMES_MAX, Suggestions, suggest_names
from ingestion_engine.domain.errors import SubmissionError
from support.control import Plane, World, bearer, make_collection, write_keys
from support.stored_objects import write_collection, write_versions

FORMS = ("/console/jobs/new", "/console/search")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world in which every bucket exists."""
    found = World(tmp_path)
    found.bucket.check_bucket = lambda *_: None  # type: ignore[method-assign]  # a double of these tests
    return found


async def read_options(plane: Plane, path: str, key: str | None = None) -> dict[str, list[str]]:
    answer = await plane.client.get(path, headers=bearer(key) if key else None)
    assert answer.status_code == 200, answer.text
    lists = re.findall(r'<datalist id="(\w+)">(.*?)</datalist>', answer.text, re.DOTALL)
    return {name: re.findall(r'<option value="([^"]*)"', options) for name, options in lists}


async def test_forms_offer_what_the_service_knows(world: World) -> None:
    """Collections, aliases, and buckets of collections and of jobs."""
    write_collection(world, "notes")
    (newest,) = write_versions(world, "books", 1)
    async with world.serve() as plane:
        await plane.submit(collection="fresh", source={"bucket": "archive"})
        assert await read_options(plane, "/console/jobs/new") == {
            "buckets": ["archive", "docs"],
            "collections": sorted([newest, "notes"]),
            "aliases": ["books"],
        }
        assert await read_options(plane, "/console/search") == {
            "names": ["books", *sorted([newest, "notes"])],
            "buckets": ["archive", "docs"],
        }


async def test_a_restricted_key_is_offered_nothing_foreign(world: World, tmp_path: Path) -> None:
    """Neither names of others, nor buckets of collections and jobs that it may not see."""
    make_collection(world, "team_notes", bucket="docs")
    make_collection(world, "team_secrets", bucket="vault")
    make_collection(world, "others", bucket="others")
    write_versions(world, "books", 1)
    keys = write_keys(
        tmp_path,
        {"name": "team", "buckets": ["docs", "spare"], "collections": ["team_*"]},
        {"name": "boss"},
        {"name": "writer", "scopes": ["submit", "search"]},
    )
    async with world.serve(api={"keys_file": keys}) as plane:
        for key, bucket in (("boss", "payroll"), ("team", "spare")):
            body = {"source": {"bucket": bucket}, "collection": f"team_of_{key}"}
            assert (await plane.client.post("/ray/jobs", json=body, headers=bearer(key))).status_code == 202
        for path in FORMS:
            every = await read_options(plane, path, "team")
            assert {name for names in every.values() for name in names} == {"team_notes", "docs", "spare"}
            every = await read_options(plane, path, "writer")
            assert not any(every.values()), "who may not list them is not offered them"
        every = await read_options(plane, "/console/jobs/new", "boss")
        assert every["buckets"] == ["docs", "others", "payroll", "spare", "vault"]


async def test_at_most_fifty_names_are_offered_the_last_used_first(world: World) -> None:
    """Not the first in the alphabet only."""
    for number in range(NAMES_MAX + 10):
        make_collection(world, f"c{number:03d}")
    async with world.serve() as plane:
        await plane.submit(collection="c059", embedding={"query_prefix": "find: "})
        offered = (await read_options(plane, "/console/jobs/new"))["collections"]
    assert offered == [*(f"c{number:03d}" for number in range(NAMES_MAX - 1)), "c059"]


async def test_a_state_store_that_hangs_or_fails_keeps_no_page_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form comes without names, and has them when the store answers again; jobs are known all the same."""
    write_collection(world, "notes")
    async with world.serve() as plane:
        await plane.submit(collection="fresh", source={"bucket": "archive"})
        answers = asyncio.Event()
        listing = plane.services.collections.list_names

        async def hang(access: object) -> list[str]:
            await answers.wait()
            return await listing(access)  # type: ignore[arg-type]  # a Principal

        monkeypatch.setattr(plane.services.collections, "list_names", hang)
        began = time.monotonic()
        for path in FORMS:
            assert not any((await read_options(plane, path)).values())
        assert time.monotonic() - began < 5
        answers.set()
        found = await suggest_names(Principal(), plane.services)
        assert (found.collections, found.buckets) == (("notes",), ("archive", "docs"))

    async def fail(_access: object) -> list[str]:
        raise SubmissionError("state_unavailable", "The state store is unavailable.", status=503)

    async with world.serve() as plane:
        monkeypatch.setattr(plane.services.collections, "list_names", fail)
        assert await suggest_names(Principal(), plane.services) == Suggestions(buckets=("archive",))
