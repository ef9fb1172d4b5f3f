"""Deleting collections: what is refused, what a crash or an outage leaves, and who waits for whom."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.services import collections as collection_service
from ingestion_engine.services.collection_access import EVERYTHING_ALLOWED
from ingestion_engine.services.deletion import DeletionService
from ingestion_engine.state.aliases import Alias, write_alias
from ingestion_engine.state.deletions import Deletion, iter_deletions, write_deletion
from ingestion_engine.state.lease import Lease, acquire, read_lease, take_to_delete
from ingestion_engine.state.object_table.table import ObjectTable
from support.control import BODY, Plane, World, bearer, make_collection, write_keys
from support.doubles import Crash, MemoryState
from support.faulty_state import FaultyStore
from support.world import World as DriverWorld
from support.world import make_world

HELD = Lease(job_id="job-dead", attempt=1, epoch=7, counter=3, released=False, holder="h")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A service with two collections that have points, tables and released leases."""
    world = World(tmp_path)
    for name in ("notes", "other"):
        make_collection(world, name)
        set_lease(world.state, name, replace(HELD, released=True))
        ObjectTable(world.state, name).fence(7)
    return world


def set_lease(state: MemoryState, collection: str, lease: Lease) -> None:
    state.put(f"collections/{collection}/lease.json", lease.to_json())


def left(world: World, name: str = "notes") -> list[str]:
    """Return everything that is left of a collection."""
    state = [path for path in world.state.values if path.startswith((f"collections/{name}/", f"deleting/{name}"))]
    return state + [store.name.value for store in (world.qdrant, world.weaviate) if name in store.collections]


def an_alias(**fields: Any) -> Alias:
    values = {"collection": "notes", "previous": (), "settled": True, "job_id": "job-x", "name": "docs"}
    times = dict.fromkeys(("job_created_at", "moved_at"), "2026-01-01T00:00:00Z")
    return Alias(**{**values, **times, **fields})


async def is_listed_as_healthy(plane: Plane, name: str = "notes") -> bool:
    found = {one["name"]: one for one in (await plane.client.get("/collections")).json()["items"]}
    return name in found and not found[name]["deleting"]


async def test_nothing_is_left_in_either_store_or_in_the_state(world: World) -> None:
    """The other collection stays; repeated, the collection does not exist."""
    others = left(world, "other")
    async with world.serve() as plane:
        answer = await plane.client.delete("/collections/notes")
        assert (answer.status_code, answer.json()) == (200, {"collection": "notes", "deleted": True, "note": None})
        assert left(world) == []
        assert left(world, "other") == others
        assert [one["name"] for one in (await plane.client.get("/collections")).json()["items"]] == ["other"]
        again = await plane.client.delete("/collections/notes")
        assert (again.status_code, again.json()["code"]) == (404, "collection_not_found")
        assert (await plane.client.post("/ray/jobs", json={**BODY, "collection": "notes"})).status_code == 202


@pytest.mark.parametrize(
    ("name", "alias", "said"),
    [
        ("notes", an_alias(), "alias 'docs' stands for"),
        ("notes", an_alias(collection="other", previous=("notes",)), "former version of alias 'docs'"),
        ("notes", an_alias(collection="other", dropping=("notes",)), "former version of alias 'docs'"),
        ("docs", an_alias(), "is an alias of 'notes'"),
    ],
)
async def test_what_an_alias_uses_is_refused(world: World, name: str, alias: Alias, said: str) -> None:
    """The hint names the way; nothing is ordered."""
    write_alias(world.state, alias)
    async with world.serve() as plane:
        answer = await plane.client.delete(f"/collections/{name}")
        assert (answer.status_code, answer.json()["code"]) == (409, "collection_in_use")
        assert said in answer.json()["detail"]
        assert "/aliases/docs" in answer.json()["hint"]
    assert not list(iter_deletions(world.state))


async def test_leftovers_of_a_removed_alias_can_be_deleted(world: World) -> None:
    """Its collections stay when an alias is removed."""
    write_alias(world.state, an_alias(collection="other", previous=("notes",)))
    async with world.serve() as plane:
        assert (await plane.client.delete("/aliases/docs")).status_code == 204
        for name in ("notes", "other"):
            assert (await plane.client.delete(f"/collections/{name}")).json()["deleted"]
    assert left(world) == left(world, "other") == []


async def test_what_a_job_uses_is_refused(world: World) -> None:
    """Until the job has ended; Weaviate ignores case in names."""
    async with world.serve() as plane:
        job_id = await plane.submit(collection="notes", embedding={"query_prefix": "find: "})
        answer = await plane.client.delete("/collections/notes")
        assert (answer.status_code, answer.json()["code"]) == (409, "collection_in_use")
        assert job_id in answer.json()["detail"]
        await plane.client.post(f"/jobs/{job_id}/cancel")
        assert (await plane.client.delete("/collections/notes")).json()["deleted"]


async def test_a_store_that_the_service_lacks_is_refused(world: World) -> None:
    """Its points would stay forever."""
    async with world.serve(world.parts(stores={StoreName.QDRANT: world.qdrant})) as plane:
        answer = await plane.client.delete("/collections/notes")
        assert (answer.status_code, answer.json()["code"]) == (422, "store_not_configured")
    assert not list(iter_deletions(world.state))


async def test_a_key_of_other_collections_is_refused(world: World, tmp_path: Path) -> None:
    """As for every route of a collection."""
    keys = write_keys(tmp_path, {"name": "team", "collections": ["team*"]})
    async with world.serve(api={"keys_file": keys}) as plane:
        assert (await plane.client.delete("/collections/notes", headers=bearer("team"))).status_code == 403
    assert "qdrant" in left(world)


async def test_an_outage_delays_the_rest(world: World) -> None:
    """202 with the reason; jobs are refused meanwhile, and the sweep completes it."""

    def away(kind: str) -> None:
        raise TransientError("weaviate_unavailable", "Weaviate at http://w failed: refused.")

    world.weaviate.before_write = away
    async with world.serve() as plane:
        answer = await plane.client.delete("/collections/notes")
        assert (answer.status_code, answer.json()["deleted"]) == (202, False)
        assert "Weaviate" in answer.json()["note"]
        assert (await plane.client.get("/collections/notes")).json()["deleting"]
        refused = await plane.client.post("/ray/jobs", json={**BODY, "collection": "notes"})
        assert (refused.status_code, refused.json()["code"]) == (409, "collection_deleting")
        world.weaviate.before_write = lambda _kind: None
        await plane.services.deletions.sweep()
        assert left(world) == []


@pytest.mark.parametrize("by", ["request", "sweep"])
async def test_a_crash_at_any_step_is_completed(by: str, tmp_path: Path) -> None:
    """Every write of the state store and of the stores; half-deleted is never listed as healthy."""
    for step in itertools.count(1):
        world = World(tmp_path / f"{by}-{step}")
        world.folder.mkdir()
        make_collection(world)
        set_lease(world.state, "notes", replace(HELD, released=True))
        ObjectTable(world.state, "notes").fence(7)
        async with world.serve() as plane:
            writes = itertools.count(1)

            def crash(*_: object, step: int = step, writes: Any = writes) -> None:
                if next(writes) == step:
                    raise Crash

            world.state.before_write = world.qdrant.before_write = world.weaviate.before_write = crash
            try:
                await plane.services.deletions.delete("notes", EVERYTHING_ALLOWED)
            except Crash:
                pass
            else:
                assert step > 7
                return
            world.state.before_write = world.qdrant.before_write = world.weaviate.before_write = lambda *_: None
            begun = step > 1
            assert await is_listed_as_healthy(plane) is not begun
            if by == "sweep" and begun:
                await plane.services.deletions.sweep()
            else:
                assert (await plane.client.delete("/collections/notes")).json()["deleted"]
            assert left(world) == []


# -- the lease --------------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_the_lease_of_a_dead_driver_has_to_expire_first(world: World) -> None:
    """Its workers may still write; a heartbeat starts the wait again."""
    clock = Clock()
    set_lease(world.state, "notes", HELD)
    async with world.serve() as plane:
        settings = plane.services.settings.lease
        wait_s = settings.ttl_s + settings.grace_s
        stores = plane.services.parts.stores
        deletions = DeletionService(world.state, stores, plane.services.store, lease=settings, clock=clock)
        first = await deletions.delete("notes", EVERYTHING_ALLOWED)
        assert not first.deleted
        assert "job-dead" in str(first.note)
        clock.now += wait_s - 1
        set_lease(world.state, "notes", replace(HELD, counter=4))
        await deletions.sweep()
        clock.now += wait_s - 1
        await deletions.sweep()
        assert "qdrant" in left(world), "a living driver keeps its collection"
        clock.now += 1
        await deletions.sweep()
        assert left(world) == []


async def test_an_outage_of_the_state_store_is_no_silence_of_a_driver(world: World) -> None:
    """The driver could not renew its lease either; when the store is back, it may be writing."""
    clock = Clock()
    set_lease(world.state, "notes", HELD)
    async with world.serve() as plane:
        settings = plane.services.settings.lease
        stores = plane.services.parts.stores
        faulty = FaultyStore(world.state)
        deletions = DeletionService(faulty, stores, plane.services.store, lease=settings, clock=clock)
        assert not (await deletions.delete("notes", EVERYTHING_ALLOWED)).deleted
        faulty.away = True
        with pytest.raises(TransientError):
            await deletions.sweep()
        clock.now += settings.ttl_s + settings.grace_s
        faulty.away = False
        await deletions.sweep()
        assert "qdrant" in left(world), "the driver has had no time to renew its lease"
        clock.now += settings.ttl_s + settings.grace_s
        await deletions.sweep()
        assert left(world) == []


def test_the_lease_of_a_deletion_keeps_drivers_out() -> None:
    """A job waits for it; a deletion takes over one that was interrupted, and no lease of a job."""
    state = MemoryState()
    assert take_to_delete(state, "notes", None) is None
    first = read_lease(state, "notes")
    assert first is not None
    assert (first.epoch, first.released) == (1, False)
    assert take_to_delete(state, "notes", None) is None
    set_lease(state, "notes", HELD)
    held = read_lease(state, "notes")
    assert take_to_delete(state, "notes", None) == held
    assert take_to_delete(state, "notes", held) is None
    taken = read_lease(state, "notes")
    assert taken is not None
    assert taken.epoch == HELD.epoch + 1


# -- the driver -------------------------------------------------------------------------------------------------------


def a_driver_world() -> DriverWorld:
    world = make_world()
    assert world.run()["state"] == "succeeded"
    return world


ORDER = Deletion("notes", (StoreName.QDRANT, StoreName.WEAVIATE), "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("mode", ["sync", "full", "plan", "verify", "repair", "delete"])
def test_no_job_works_on_a_collection_that_is_being_deleted(mode: str) -> None:
    """It would write points that nobody removes."""
    world = a_driver_world()
    write_deletion(world.state, ORDER)
    summary = world.run(mode=mode)
    assert (summary["state"], summary["error"]["code"]) == ("failed", "collection_deleting")


def test_a_deletion_that_is_ordered_while_a_job_waits_for_its_lease_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver looks again when it has the lease; nothing is dropped before the deletion has it."""
    world = a_driver_world()

    def order_first(*arguments: Any, **options: Any) -> Any:
        write_deletion(world.state, ORDER)
        return acquire(*arguments, **options)

    monkeypatch.setattr("ingestion_engine.driver.driver.acquire", order_first)
    assert world.run()["error"]["code"] == "collection_deleting"
    lease = read_lease(world.state, "notes")
    assert lease is not None
    assert lease.released, "the deletion need not wait"


# -- pages ------------------------------------------------------------------------------------------------------------


async def test_collections_are_paged_and_counted_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, without gaps; without a limit the list is whole, as it was."""
    world, names = World(tmp_path), [f"c{number:02}" for number in range(25)]
    for name in names:
        make_collection(world, name)
    running = most = 0

    async def count(_name: str) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return 3

    monkeypatch.setattr(collection_service, "IN_FLIGHT", 4)
    world.qdrant.count = count  # type: ignore[method-assign]
    async with world.serve() as plane:
        whole = (await plane.client.get("/collections")).json()
        assert ([one["name"] for one in whole["items"]], whole["next_cursor"]) == (names, None)
        assert most <= 4
        found, cursor = [], None
        while True:
            params = {"limit": 10} | ({} if cursor is None else {"cursor": cursor})
            page = (await plane.client.get("/collections", params=params)).json()
            found.append([one["name"] for one in page["items"]])
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == [names[:10], names[10:20], names[20:]]
        assert (await plane.client.get("/collections", params={"limit": 1001})).status_code == 422
