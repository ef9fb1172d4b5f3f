"""A rollback that a client repeats: with a version, with an idempotency key, after a crash, on another copy."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import orjson
import pytest

from ingestion_engine.domain.errors import StateConflict
from ingestion_engine.services.collection_access import EVERYTHING_ALLOWED
from ingestion_engine.state.aliases import ROLLBACKS_MAX, Alias, read_alias, record_move, write_alias
from ingestion_engine.state.collections import alias_path
from support.control import Plane, World, make_collection
from support.doubles import Crash, MemoryState


@pytest.fixture
def world(tmp_path: Path) -> World:
    """``docs`` stands for docs_3; docs_2 and docs_1 are former versions."""
    return make_world(tmp_path)


def make_world(folder: Path) -> World:
    made = World(folder)
    for name in ("docs_1", "docs_2", "docs_3"):
        make_collection(made, name)
    write_alias(made.state, Alias("docs", "docs_3", ("docs_2", "docs_1"), **MOVED))
    for store in (made.qdrant, made.weaviate):
        store.aliases["docs"] = "docs_3"
    return made


MOVED: dict[str, Any] = {
    "settled": True,
    "job_id": "job-1",
    "job_created_at": "2026-01-01T00:00:00Z",
    "moved_at": "2026-01-01T00:00:00Z",
}


def truth(world: World) -> Alias:
    alias = read_alias(world.state, "docs")
    assert alias is not None
    return alias


def stands_for(world: World) -> tuple[str, str, str]:
    return truth(world).collection, world.qdrant.aliases["docs"], world.weaviate.aliases["docs"]


async def roll_back(plane: Plane, to: str | None = None, *, key: str | None = None) -> tuple[int, dict[str, Any], bool]:
    """Return status, body and whether the response says that it is a repetition."""
    body = {} if to is None else {"json": {"to": to}}
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await plane.client.post("/aliases/docs/rollback", headers=headers, **body)
    return answer.status_code, answer.json(), answer.headers.get("idempotency-replayed") == "true"


async def test_a_rollback_to_a_version_can_be_repeated(world: World) -> None:
    """Any former version can be chosen; where the alias is there already, nothing changes, not even its time."""
    async with world.serve() as plane:
        status, alias, _ = await roll_back(plane, "docs_1")
        assert (status, alias["collection"], alias["previous"]) == (200, "docs_1", ["docs_3", "docs_2"])
        assert stands_for(world) == ("docs_1", "docs_1", "docs_1")
        before = world.state.values[alias_path("docs")]
        assert await roll_back(plane, "docs_1") == (200, alias, False)
        assert world.state.values[alias_path("docs")] == before


async def test_a_rollback_goes_to_no_other_collection(world: World) -> None:
    """Not to one that never was a version, nor to one that is being dropped, nor to what is no name."""
    make_collection(world, "foreign")
    async with world.serve() as plane:
        status, problem, _ = await roll_back(plane, "foreign")
        assert (status, problem["code"], problem["field"]) == (422, "version_unknown", "to")
        assert "'foreign' is neither the current nor a former version of alias 'docs'" in problem["detail"]
        assert (await roll_back(plane, "a b"))[1]["code"] == "validation_error"
        write_alias(
            world.state, Alias("docs", "docs_3", ("docs_2",), dropping=("docs_1",), version=version(world), **MOVED)
        )
        status, problem, _ = await roll_back(plane, "docs_1")
        assert (status, problem["code"]) == (409, "version_missing")
    assert stands_for(world) == ("docs_3", "docs_3", "docs_3")


def version(world: World) -> str:
    return world.state.values[alias_path("docs")].version


async def test_a_repeated_key_does_not_move_the_alias_again(world: World) -> None:
    """Also after it has moved on; another request with the key is refused, and other keys are other requests."""
    async with world.serve() as plane:
        status, first, replayed = await roll_back(plane, key="monday")
        assert (status, first["collection"], replayed) == (200, "docs_2", False)
        assert await roll_back(plane, key="monday") == (200, first, True)
        assert (await roll_back(plane, key="tuesday"))[1]["collection"] == "docs_3"
        status, alias, replayed = await roll_back(plane, key="monday")
        assert (status, alias["collection"], replayed) == (200, "docs_3", True)
        status, problem, _ = await roll_back(plane, "docs_1", key="monday")
        assert (status, problem["code"]) == (409, "idempotency_conflict")
    assert stands_for(world) == ("docs_3", "docs_3", "docs_3")


async def test_a_key_for_where_the_alias_is_already_counts_too(world: World) -> None:
    """Its repetition does not move the alias back to where it was."""
    async with world.serve() as plane:
        assert (await roll_back(plane, "docs_3", key="monday"))[0] == 200
        assert (await roll_back(plane, "docs_1"))[1]["collection"] == "docs_1"
        status, alias, replayed = await roll_back(plane, "docs_3", key="monday")
        assert (status, alias["collection"], replayed) == (200, "docs_1", True)


async def test_a_crash_at_any_step_leaves_a_rollback_that_its_repetition_completes(tmp_path: Path) -> None:
    """On another copy of the service: the file, each store, the file again. It moves exactly once."""
    for step in itertools.count(1):
        world = make_world(tmp_path / f"{step}")
        async with world.serve() as plane:
            crash_at_step(world, step)
            try:
                await roll_back(plane, key="monday")
            except Crash:
                pass
            else:
                assert step == 5
                return
        crash_at_step(world, None)
        async with world.serve() as other:
            status, alias, replayed = await roll_back(other, key="monday")
            assert (status, alias["collection"], alias["settled"], replayed) == (200, "docs_2", True, step > 1)
        assert stands_for(world) == ("docs_2", "docs_2", "docs_2"), step


def crash_at_step(world: World, crashing: int | None) -> None:
    steps = itertools.count(1)

    def crash_on(*what: str) -> None:
        if any("alias" in word for word in what) and next(steps) == crashing:
            raise Crash

    world.state.before_write = crash_on
    world.qdrant.before_write = world.weaviate.before_write = crash_on


@pytest.mark.parametrize("to", [None, "docs_2"])
async def test_the_same_request_on_two_copies_at_once_moves_once(world: World, to: str | None) -> None:
    """The slower copy finds what the faster one has written; both return the same alias."""
    async with world.serve() as plane, world.serve() as other:
        first = await overtaken(world, plane, lambda: roll_back(other, to, key="monday"), to=to, key="monday")
        assert (first[0], first[1]["collection"], first[2]) == (200, "docs_2", True)
        if to is not None:
            again = await overtaken(world, plane, lambda: roll_back(other, "docs_1"), to="docs_1", key=None)
            assert (again[0], again[1]["collection"]) == (200, "docs_1")
    assert truth(world).settled


async def overtaken(world: World, plane: Plane, faster: Any, *, to: str | None, key: str | None) -> Any:
    """Roll back on one copy while another one does it between its read and its write."""
    loop = asyncio.get_running_loop()
    armed = True

    def overtake(kind: str, path: str) -> None:
        nonlocal armed
        if armed and path == alias_path("docs"):
            armed = False
            asyncio.run_coroutine_threadsafe(faster(), loop).result()
            raise StateConflict("state_conflict", f"{kind} of {path}: the other copy was faster")

    world.state.before_write = overtake
    return await roll_back(plane, to, key=key)


async def test_keys_of_others_are_other_keys(world: World) -> None:
    """As with jobs: the key belongs to who uses it."""
    async with world.serve() as plane:
        aliases = plane.services.aliases
        assert not (
            await aliases.roll_back("docs", EVERYTHING_ALLOWED, owner="anna", idempotency_key="monday")
        ).replayed
        assert not (
            await aliases.roll_back("docs", EVERYTHING_ALLOWED, owner="bert", idempotency_key="monday")
        ).replayed
        assert (await aliases.roll_back("docs", EVERYTHING_ALLOWED, owner="anna", idempotency_key="monday")).replayed


async def test_an_alias_remembers_a_bounded_number_of_keys(world: World) -> None:
    """The oldest one is forgotten; no key is stored as it was sent."""
    async with world.serve() as plane:
        for number in range(ROLLBACKS_MAX + 1):
            assert not (await roll_back(plane, key=f"secret-{number}"))[2]
        assert (await roll_back(plane, key="secret-1"))[2]
        assert not (await roll_back(plane, key="secret-0"))[2]
    assert len(truth(world).rollbacks) == ROLLBACKS_MAX
    assert b"secret" not in world.state.values[alias_path("docs")].data


def test_the_keys_outlive_the_next_move_of_a_job() -> None:
    """A job that moves the alias does not make an old key move it again."""
    state = MemoryState()
    aged = Alias("docs", "docs_1", ("docs_0",), **MOVED)
    body = {name: getattr(aged, name) for name in ("name", "collection", "previous", "dropping", "removed", *MOVED)}
    kept = [{"key": "0" * 32, "to": "docs_1"}]
    state.put(alias_path("docs"), orjson.dumps({"format": 1, **body, "rollbacks": kept}))
    later = "2026-02-01T00:00:00Z"
    moved = record_move(state, "docs", "docs_2", job_id="job-2", job_created_at=later, now=later, check=lambda: None)
    assert [one.key for one in moved.rollbacks] == ["0" * 32]
    assert orjson.loads(state.values[alias_path("docs")].data)["rollbacks"] == kept


def test_an_alias_of_a_former_release_is_read_and_stays_readable_by_it() -> None:
    """A file without the list is an alias; one without keys is written as the former release writes it."""
    state = MemoryState()
    former = {"format": 1, "name": "docs", "collection": "docs_1", "previous": [], "dropping": []}
    former |= {"settled": True, "removed": False, **{name: MOVED[name] for name in MOVED if name != "settled"}}
    state.put(alias_path("docs"), orjson.dumps(former))
    alias = read_alias(state, "docs")
    assert alias is not None
    write_alias(state, alias)
    assert orjson.loads(state.values[alias_path("docs")].data) == former
