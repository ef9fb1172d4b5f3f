"""A fault at every call of a change of an alias: state store and vector stores agree in the end, on the old or the new.

As ``test_every_step_of_the_service.py``, for what clients change without a job.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.state.aliases import read_alias
from ingestion_engine.state.collections import list_contracts
from support.control import World as Service
from support.doubles import Crash
from support.every_step import Fault, Step, Watch, Watched
from support.world import World

SLICES = 4
"""``make test`` runs the first of this many slices of all runs, ``make nightly`` the others."""
PARTS = [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, SLICES))]
KINDS = ("crash before", "crash after", "outage", "lost", "denied", "defect")
CHANGES = {
    "rollback": ("POST", "/aliases/docs/rollback"),
    "prune": ("DELETE", "/aliases/docs/versions?keep=0"),
    "remove": ("DELETE", "/aliases/docs"),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hundreds of runs log thousands of errors."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def make_world() -> World:
    """``docs`` stands for docs_2; docs_1 is its former version."""
    world = World()
    for number in range(2):
        world.bucket.put(f"doc-{number}.txt", f"Paragraph {number}.\n\nAnother paragraph {number}.")
        assert world.run(alias="docs", collection=f"docs_{number + 1}")["state"] == "succeeded"
    return world


def outcome(world: World) -> dict[str, Any]:
    """Return what the stores and the state store hold of aliases and collections."""
    alias = read_alias(world.state, "docs")
    paths = [path for path in world.state.values if path.startswith(("collections/", "alias/"))]
    return {
        "alias": alias and (alias.collection, alias.previous, alias.settled, alias.dropping),
        "contracts": sorted(list_contracts(world.state)),
        "stores": [(dict(store.aliases), sorted(store.collections)) for store in world.stores.values()],
        "paths": sorted({path.split("/")[1] for path in paths}),
    }


async def serve_change(world: World, folder: Path, change: str | None, watch: Watch) -> None:
    """Let a service make a change, and sweep."""
    service = Service(folder, world.state, world.bucket, world.embedder, world.qdrant, world.weaviate)
    parts = service.parts(
        now=service.clock,
        state=Watched(world.state, "state", watch),
        stores={name: Watched(store, name.value, watch) for name, store in world.stores.items()},
    )
    try:
        async with service.serve(parts) as plane:
            watch.steps.clear()
            if change is not None:
                method, path = CHANGES[change]
                await plane.client.request(method, path)
            if watch.dead:
                raise Crash
            if change is None:
                await plane.services.aliases.sweep()
    except (Crash, BaseExceptionGroup):
        assert watch.dead


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", PARTS)
async def test_a_fault_at_any_call_of_a_change_leaves_the_old_or_the_new(
    change: str, part: int, tmp_path: Path
) -> None:
    """Never something between them, and what was dropped is dropped everywhere."""
    world = await asyncio.to_thread(make_world)
    before = outcome(world)
    watch = Watch(None)
    await serve_change(world, tmp_path / "undisturbed", change, watch)
    after = outcome(world)
    assert before != after
    runs: list[tuple[str, Step]] = [(kind, step) for step in sorted(watch.steps) for kind in KINDS][part::SLICES]
    assert len(runs) > 8
    broken = {}
    for number, (kind, step) in enumerate(runs):
        world = await asyncio.to_thread(make_world)
        watch = Watch(Fault(kind, step))
        await serve_change(world, tmp_path / f"{number}", change, watch)
        assert watch.met, step
        await serve_change(world, tmp_path / f"{number}-again", None, Watch(None))
        found = outcome(world)
        if found not in (before, after):
            broken[f"{kind}: {step}"] = found
    assert not broken
