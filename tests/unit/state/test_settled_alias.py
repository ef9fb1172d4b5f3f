"""A store that two copies of the service change at once follows the last move of the alias, also where one is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import CollectionMissing, TransientError
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.state.aliases import Alias, read_alias, record_move, settle_alias, write_alias
from support.control import World, make_collection
from support.doubles import MemoryStore

TIME = "2026-01-01T00:00:00Z"


class GatedStore(MemoryStore):
    """Its first change of an alias waits until ``meanwhile`` has ended."""

    async def set_alias(self, alias: str, collection: str) -> None:
        await self.overtake()
        await super().set_alias(alias, collection)

    async def drop_alias(self, alias: str) -> None:
        await self.overtake()
        await super().drop_alias(alias)

    meanwhile: Callable[[], Any] | None = None

    async def overtake(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, qdrant=GatedStore(StoreName.QDRANT))
    for name in ("docs_1", "docs_2", "docs_3"):
        make_collection(made, name)
    return made


def stores_of(world: World) -> dict[StoreName, MemoryStore]:
    return {StoreName.QDRANT: world.qdrant, StoreName.WEAVIATE: world.weaviate}


def write(world: World, collection: str, previous: tuple[str, ...], **fields: Any) -> None:
    now = read_alias(world.state, "docs")
    version = "" if now is None else now.version
    times: dict[str, Any] = {"job_created_at": TIME, "moved_at": TIME}
    values = {"settled": True, "job_id": "job-1", **fields}
    write_alias(world.state, Alias("docs", collection, previous, version=version, **times, **values))


async def settle(world: World) -> Alias | None:
    return await settle_alias(world.state, stores_of(world), "docs")


@pytest.mark.parametrize("settled", [True, False])
async def test_a_slow_copy_does_not_undo_a_move_in_a_store(world: World, settled: bool) -> None:
    """It had read the alias before another copy moved it, and reaches the store afterwards."""
    write(world, "docs_2", ("docs_1",), settled=settled)

    async def move() -> None:
        write(world, "docs_1", ("docs_2",), settled=False)
        await settle(world)

    assert isinstance(world.qdrant, GatedStore)
    world.qdrant.meanwhile = move
    alias = await settle(world)
    assert alias is not None
    assert (alias.collection, world.qdrant.aliases, world.weaviate.aliases) == (
        "docs_1",
        {"docs": "docs_1"},
        {"docs": "docs_1"},
    )


async def test_a_slow_copy_leaves_no_alias_of_a_version_that_was_dropped(world: World) -> None:
    """It has changed one store when the version is dropped, and fails in the other one."""
    write(world, "docs_2", ("docs_1",), settled=False)
    world.qdrant.aliases["docs"] = "docs_1"

    async def move_and_drop() -> None:
        write(world, "docs_1", (), settled=False)
        await settle(world)
        await world.weaviate.drop_collection("docs_2")

    assert isinstance(world.qdrant, GatedStore)
    world.qdrant.meanwhile = move_and_drop
    await settle(world)
    assert (world.qdrant.aliases, world.weaviate.aliases) == ({"docs": "docs_1"}, {"docs": "docs_1"})


async def test_a_slow_removal_does_not_remove_the_alias_of_a_later_job(world: World) -> None:
    """The job creates the alias again while its removal waits for a store."""
    write(world, "docs_2", (), settled=False, removed=True)

    async def create() -> None:
        await asyncio.to_thread(
            lambda: record_move(
                world.state, "docs", "docs_3", job_id="job-2", job_created_at=TIME, now=TIME, check=lambda: None
            )
        )
        await settle(world)

    assert isinstance(world.qdrant, GatedStore)
    world.qdrant.meanwhile = create
    await settle(world)
    alias = read_alias(world.state, "docs")
    assert alias is not None
    assert (alias.collection, world.qdrant.aliases, world.weaviate.aliases) == (
        "docs_3",
        {"docs": "docs_3"},
        {"docs": "docs_3"},
    )


@pytest.mark.parametrize("failure", [TransientError("away", "It is away."), CollectionMissing("missing", "It is not.")])
async def test_what_fails_without_another_writer_is_raised(world: World, failure: Exception) -> None:
    """It does not try again by itself."""
    write(world, "docs_2", (), settled=False)

    async def fail() -> None:
        raise failure

    assert isinstance(world.qdrant, GatedStore)
    world.qdrant.meanwhile = fail
    with pytest.raises(type(failure)):
        await settle(world)
