"""Aliases over in-memory ports: the move at a job's end, crashes between its steps, and what the service does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ports import Stored
from ingestion_engine.domain.records import Point
from ingestion_engine.state.aliases import Alias, read_alias
from ingestion_engine.state.collections import list_contracts
from support.control import BODY, Plane
from support.control import World as Service
from support.doubles import Crash, MemoryStore
from support.world import World

WHOLE = "Paragraph 1 of the first part.\n\nAnother paragraph 1."
"""The one chunk of the second object."""


@pytest.fixture
def world() -> World:
    return make_world()


def make_world() -> World:
    """A bucket of three objects, ingested as ``docs_1`` behind the alias ``docs``."""
    made = World()
    for number in range(3):
        made.bucket.put(f"doc-{number}.txt", f"Paragraph {number} of the first part.\n\nAnother paragraph {number}.")
    assert made.run(alias="docs", collection="docs_1")["state"] == "succeeded"
    return made


def change_model(world: World) -> None:
    world.embedder.digest, world.embedder.dimension = "sha256:new", 16


def truth(state: Any) -> Alias:
    alias = read_alias(state, "docs")
    assert alias is not None
    return alias


def stands_for(world: Any) -> tuple[str, str | None, str | None]:
    return truth(world.state).collection, world.qdrant.aliases.get("docs"), world.weaviate.aliases.get("docs")


# -- the driver ------------------------------------------------------------------------------------------------------


def test_a_new_model_goes_behind_the_alias(world: World) -> None:
    """Without an alias both models are named; with one both stores follow, and the version before is kept."""
    change_model(world)
    refused = world.run(collection="docs_1")
    assert refused["error"]["code"] == "contract_mismatch"
    assert "sha256:hash" in refused["error"]["message"]
    assert "sha256:new" in refused["error"]["message"]
    assert "alias" in refused["error"]["hint"]
    assert world.run(alias="docs", collection="docs_2")["state"] == "succeeded"
    assert stands_for(world) == ("docs_2", "docs_2", "docs_2")
    assert truth(world.state).previous == ("docs_1",)
    assert truth(world.state).settled


def test_stores_that_differ_do_not_get_the_alias(world: World) -> None:
    """A point that is lost while the job ends keeps the alias where it was, and the job says why."""
    writes = itertools.count(1)
    kept_upsert = world.weaviate.upsert

    async def forget_one(collection: str, points: list[Point]) -> None:
        await kept_upsert(collection, points)
        if next(writes) == 1:
            del world.weaviate.collections[collection][points[0].id]

    world.weaviate.upsert = forget_one
    summary = world.run(alias="docs", collection="docs_2")
    assert (summary["state"], summary["error"]["code"]) == ("failed", "stores_differ")
    assert stands_for(world) == ("docs_1", "docs_1", "docs_1")


def test_a_job_with_too_many_failures_moves_nothing(world: World) -> None:
    """Only what ended well is put before readers."""
    world.bucket.put("bad.txt", b"")
    budget = {"max_fraction": 0, "min_objects": 0}
    assert world.run(alias="docs", collection="docs_2", failure_budget=budget)["state"] == "failed"
    assert stands_for(world) == ("docs_1", "docs_1", "docs_1")
    assert world.run(alias="docs", collection="docs_2")["state"] == "partially_succeeded"
    assert stands_for(world) == ("docs_2", "docs_2", "docs_2")


def test_an_empty_version_does_not_replace_a_full_one(world: World) -> None:
    """As deleting everything would be refused; unless it is allowed."""
    empty = {"source": {"bucket": "docs", "prefix": "tpyo/"}, "alias": "docs"}
    assert world.run(**empty, collection="docs_2")["error"]["code"] == "mass_delete_refused"
    assert stands_for(world) == ("docs_1", "docs_1", "docs_1")
    assert world.run(**empty, collection="docs_2", allow_mass_delete=True)["state"] == "succeeded"
    assert stands_for(world) == ("docs_2", "docs_2", "docs_2")


@pytest.mark.parametrize("by", ["attempt", "sweep"])
async def test_a_crash_at_any_step_of_the_move_is_rolled_forward(by: str, tmp_path: Path) -> None:
    """Truth, each store, truth again: the next attempt, or the service, completes the move."""
    for step in itertools.count(1):
        world = await asyncio.to_thread(make_world)
        ledger = world.submit(alias="docs", collection="docs_2")
        crash_at_alias_step(world, step)
        try:
            await asyncio.to_thread(world.attempt, ledger)
        except (Crash, BaseExceptionGroup):
            pass
        else:
            assert step == 5
            return
        world.state.before_write = lambda _kind, _path: None
        for store in world.stores.values():
            store.before_write = lambda _kind: None
        if by == "attempt" or step == 1:
            assert (await asyncio.to_thread(world.attempt, ledger, 2))["state"] == "succeeded", step
        else:
            async with serve(world, tmp_path / f"{step}") as plane:
                await plane.services.aliases.sweep()
        assert stands_for(world) == ("docs_2", "docs_2", "docs_2"), step
        assert truth(world.state).settled
        assert truth(world.state).previous == ("docs_1",)


def crash_at_alias_step(world: World, step: int) -> None:
    steps = itertools.count(1)

    def crash_on(*what: str) -> None:
        if any("alias" in word for word in what) and next(steps) == step:
            raise Crash

    world.state.before_write = crash_on
    world.qdrant.before_write = world.weaviate.before_write = crash_on


def test_an_attempt_that_slept_does_not_move_the_alias_back(world: World) -> None:
    """Between its read and its write its successor moves the alias, and somebody rolls it back: that stays."""
    ledger = world.submit(alias="docs", collection="docs_2")
    rolled_back: list[bytes] = []

    def overtake(_kind: str, path: str) -> None:
        if path == "alias/docs.json" and not rolled_back:
            rolled_back.append(path.encode())
            lease = world.state.values["collections/docs_2/lease.json"]
            free = lease.data.replace(b'"released":false', b'"released":true')
            world.state.values["collections/docs_2/lease.json"] = Stored(free, lease.version + "x")
            assert world.attempt(ledger, 2) is not None
            moved = truth(world.state)
            data = world.state.values[path].data.replace(b'"collection":"docs_2"', b'"collection":"docs_1"')
            data = data.replace(b'"previous":["docs_1"]', b'"previous":["docs_2"]')
            world.state.values[path] = Stored(data, moved.version + "x")

    kept = world.state.replace

    def replace(path: str, data: bytes, version: str) -> str:
        overtake("replace", path)
        return kept(path, data, version)

    world.state.replace = replace
    world.attempt(ledger)
    assert rolled_back
    assert truth(world.state).collection == "docs_1"
    assert truth(world.state).previous == ("docs_2",)
    assert stands_for(world) == ("docs_1", "docs_1", "docs_1")


def test_an_earlier_job_does_not_take_the_alias_from_a_later_one(world: World) -> None:
    """Of two jobs on one alias the later one wins, whichever ends last."""
    early = world.submit(alias="docs", collection="docs_2")
    assert world.run(alias="docs", collection="docs_3")["state"] == "succeeded"
    summary = world.attempt(early)
    assert summary is not None
    assert summary["error"]["code"] == "alias_superseded"
    assert stands_for(world) == ("docs_3", "docs_3", "docs_3")


def test_names_of_collections_cannot_be_aliases(world: World) -> None:
    """In the state store or in a store alone, without regard to case; and an alias is no new collection's name."""
    assert world.run(alias="DOCS_1", collection="docs_2")["error"]["code"] == "alias_name_taken"
    world.weaviate.collections["foreign"] = {}
    assert world.run(alias="foreign", collection="docs_2")["error"]["code"] == "alias_name_taken"
    assert "docs_2" not in world.qdrant.collections
    assert world.run(collection="docs")["error"]["code"] == "collection_name_taken"


# -- the service -----------------------------------------------------------------------------------------------------


def serve(world: World, folder: Path, **settings: Any) -> Any:
    """A service over the world that jobs have worked in."""
    service = Service(folder, world.state, world.bucket, world.embedder, world.qdrant, world.weaviate)
    return service.serve(**settings)


@pytest.fixture
async def plane(world: World, tmp_path: Path) -> AsyncIterator[Plane]:
    """A service; ``docs`` stands for docs_3 of a new model, docs_2 and docs_1 are former versions."""
    assert (await asyncio.to_thread(lambda: world.run(alias="docs", collection="docs_2")))["state"] == "succeeded"
    change_model(world)
    assert (await asyncio.to_thread(lambda: world.run(alias="docs", collection="docs_3")))["state"] == "succeeded"
    async with serve(world, tmp_path) as served:
        yield served


async def call(plane: Plane, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    answer = await plane.client.request(method, path, **options)
    return answer.status_code, answer.json() if answer.content else {}


async def test_an_alias_shows_its_versions_and_whether_stores_agree(plane: Plane) -> None:
    """What somebody changes by hand is shown, then mended by the sweep."""
    status, alias = await call(plane, "GET", "/aliases/docs")
    assert status == 200
    assert (alias["collection"], alias["previous"], alias["settled"]) == ("docs_3", ["docs_2", "docs_1"], True)
    assert alias["stores"]["qdrant"] == {"collection": "docs_3", "agrees": True, "error": None}
    plane.qdrant.aliases["docs"] = "docs_1"
    del plane.weaviate.aliases["docs"]
    _, listed = await call(plane, "GET", "/aliases")
    assert [view["agrees"] for view in listed["items"][0]["stores"].values()] == [False, False]
    await plane.services.aliases.sweep()
    assert stands_for(plane) == ("docs_3", "docs_3", "docs_3")


async def test_the_list_of_aliases_has_pages(plane: Plane, world: World) -> None:
    """Whole without a limit, as before there were pages."""
    for name in ("beta", "alpha"):
        await asyncio.to_thread(world.run, alias=name, collection=f"{name}_1")
    _, whole = await call(plane, "GET", "/aliases")
    assert ([one["name"] for one in whole["items"]], whole["next_cursor"]) == (["alpha", "beta", "docs"], None)
    _, first = await call(plane, "GET", "/aliases?limit=2")
    assert (first["items"], first["next_cursor"]) == (whole["items"][:2], "beta")
    _, last = await call(plane, "GET", "/aliases?limit=2&cursor=beta")
    assert (last["items"], last["next_cursor"]) == (whole["items"][2:], None)
    assert (await call(plane, "GET", "/aliases?limit=0"))[0] == 422


async def test_a_search_by_alias_uses_one_version_throughout(plane: Plane) -> None:
    """The version's own model embeds the query, its own vectors are searched, and the answer names it."""
    status, found = await call(plane, "POST", "/search", json={"collection": "docs", "query": WHOLE})
    assert status == 200
    assert (found["collection"], found["alias"]) == ("docs_3", "docs")
    assert {hits[0]["text"] for hits in found["results"].values()} == {WHOLE}
    assert (await call(plane, "GET", "/collections/docs"))[1]["name"] == "docs_3"
    assert len((await call(plane, "GET", "/collections/docs/objects"))[1]["items"]) == 3


async def test_a_search_goes_on_in_the_new_version_when_the_old_is_dropped_under_it(plane: Plane) -> None:
    """A search that began before a rollback and met a dropped collection starts over with what the alias is now."""
    kept = plane.qdrant.search

    async def drop_first(collection: str, *arguments: Any, **options: Any) -> Any:
        if collection == "docs_3":
            assert (await call(plane, "POST", "/aliases/docs/rollback"))[0] == 200
            plane.embedder.digest, plane.embedder.dimension = "sha256:hash", 8
            await plane.qdrant.drop_collection("docs_3")
            await plane.weaviate.drop_collection("docs_3")
        return await kept(collection, *arguments, **options)

    plane.qdrant.search = drop_first
    status, found = await call(plane, "POST", "/search", json={"collection": "docs", "query": "paragraph"})
    assert (status, found["collection"], found["errors"]) == (200, "docs_2", {})


async def test_a_rollback_undoes_itself(plane: Plane) -> None:
    """Current and previous change places, in the stores too; there must be a whole version to go back to."""
    _, alias = await call(plane, "POST", "/aliases/docs/rollback")
    assert (alias["collection"], alias["previous"]) == ("docs_2", ["docs_3", "docs_1"])
    assert stands_for(plane) == ("docs_2", "docs_2", "docs_2")
    _, alias = await call(plane, "POST", "/aliases/docs/rollback")
    assert (alias["collection"], alias["previous"], alias["settled"]) == ("docs_3", ["docs_2", "docs_1"], True)
    await plane.weaviate.drop_collection("docs_2")
    status, problem = await call(plane, "POST", "/aliases/docs/rollback")
    assert (status, problem["code"]) == (409, "version_missing")
    assert stands_for(plane) == ("docs_3", "docs_3", "docs_3")


async def test_a_rollback_does_not_wait_for_a_store_that_is_away(plane: Plane) -> None:
    """Searches follow at once; while the store has not followed, nothing else moves the alias; the sweep completes."""
    arm_outage(plane.weaviate)
    _, alias = await call(plane, "POST", "/aliases/docs/rollback")
    assert (alias["collection"], alias["settled"], alias["stores"]["weaviate"]["agrees"]) == ("docs_2", False, False)
    for method, path in (("POST", "rollback"), ("DELETE", "versions")):
        assert (await call(plane, method, f"/aliases/docs/{path}"))[1]["code"] == "alias_moving"
    plane.weaviate.before_write = lambda _kind: None
    await plane.services.aliases.sweep()
    assert stands_for(plane) == ("docs_2", "docs_2", "docs_2")
    assert truth(plane.state).settled


def arm_outage(store: MemoryStore) -> None:
    def away(_kind: str) -> None:
        raise TransientError("store_unavailable", "no answer")

    store.before_write = away


async def test_former_versions_are_dropped_with_all_that_is_known_of_them(plane: Plane) -> None:
    """Both stores' collections and their state go; the newest former one stays unless asked otherwise."""
    _, pruned = await call(plane, "DELETE", "/aliases/docs/versions")
    assert (pruned["dropped"], pruned["previous"], pruned["dropping"]) == (["docs_1"], ["docs_2"], [])
    assert list(plane.qdrant.collections) == list(plane.weaviate.collections) == ["docs_2", "docs_3"]
    assert not [path for path in plane.state.values if path.startswith("collections/docs_1/")]
    assert list_contracts(plane.state) == ["docs_2", "docs_3"]
    assert (await call(plane, "DELETE", "/aliases/docs/versions"))[1]["dropped"] == []
    arm_outage(plane.weaviate)
    _, pruned = await call(plane, "DELETE", "/aliases/docs/versions?keep=0")
    assert (pruned["dropped"], pruned["previous"], pruned["dropping"]) == (["docs_2"], [], ["docs_2"])
    plane.weaviate.before_write = lambda _kind: None
    await plane.services.aliases.sweep()
    assert list(plane.weaviate.collections) == list_contracts(plane.state) == ["docs_3"]
    assert truth(plane.state).dropping == ()
    assert (await call(plane, "POST", "/aliases/docs/rollback"))[1]["code"] == "no_previous_version"


async def test_a_version_that_a_job_works_on_is_not_dropped(plane: Plane) -> None:
    """The refusal names the job."""
    chunking = {"max_chars": 60, "overlap_chars": 0}
    plane.embedder.digest = "sha256:hash"
    job_id = await plane.submit(collection="docs_1", chunking=chunking, embedding={"model": "hash"})
    status, problem = await call(plane, "DELETE", "/aliases/docs/versions?keep=0")
    assert (status, problem["code"]) == (409, "version_in_use")
    assert job_id in problem["detail"]
    assert len(plane.qdrant.collections) == 3


async def test_removing_an_alias_leaves_its_collections(plane: Plane) -> None:
    """The name is free again; it is not removed under a job that is to move it."""
    job_id = await plane.submit(alias="docs", collection="")
    assert (await call(plane, "DELETE", "/aliases/docs"))[1]["code"] == "alias_in_use"
    await plane.client.post(f"/jobs/{job_id}/cancel")
    assert (await call(plane, "DELETE", "/aliases/docs"))[0] == 204
    assert read_alias(plane.state, "docs") is None
    assert (plane.qdrant.aliases, plane.weaviate.aliases) == ({}, {})
    assert len(plane.qdrant.collections) == 3
    assert (await call(plane, "GET", "/aliases/docs"))[1]["code"] == "alias_not_found"


async def test_a_job_with_an_alias_gets_a_collection_of_its_own(plane: Plane) -> None:
    """Named after alias and job; the same idempotency key gives the same job; two such jobs run one after another."""
    body = {"source": {"bucket": "docs"}, "alias": "docs"}
    headers = {"Idempotency-Key": "k"}
    status, first = await call(plane, "POST", "/ray/jobs", json=body, headers=headers)
    assert status == 202
    assert first["alias"] == "docs"
    assert first["collection"] == "docs_" + first["job_id"].removeprefix("job-")
    assert (await call(plane, "POST", "/ray/jobs", json=body, headers=headers))[1] == first
    _, second = await call(plane, "POST", "/ray/jobs", json=body)
    assert second["collection"] > first["collection"]
    await plane.look()
    assert (await plane.job(second["job_id"]))[
        "note"
    ] == f"Waiting for job {first['job_id']}, which uses the same alias."
    job = await plane.job(first["job_id"])
    assert (job["collection"], job["alias"], job["request"]["collection"]) == (
        first["collection"],
        "docs",
        job["collection"],
    )


async def test_a_job_that_names_an_alias_works_on_what_it_stands_for(plane: Plane) -> None:
    """Resolved at submission; another model is refused naming both, and the hint names the field ``alias``."""
    chunking = {"max_chars": 60, "overlap_chars": 0}
    job_id = await plane.submit(collection="docs", chunking=chunking, embedding={"model": "hash"})
    job = await plane.job(job_id)
    assert (job["collection"], job["alias"]) == ("docs_3", None)
    body = {**BODY, "collection": "docs", "chunking": chunking, "embedding": {"model": "other"}}
    status, problem = await call(plane, "POST", "/ray/jobs", json=body)
    assert (status, problem["code"], problem["existing"], problem["wanted"]) == (
        409,
        "contract_mismatch",
        "hash",
        "other",
    )
    assert "`alias`" in problem["hint"]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"alias": "docs", "collection": "DOCS"}, 422, "validation_error"),
        ({"alias": "docs", "mode": "plan"}, 422, "validation_error"),
        ({"alias": "docs", "mode": "verify"}, 422, "validation_error"),
        ({"alias": "9"}, 422, "validation_error"),
        ({"alias": "docs_1"}, 409, "alias_name_taken"),
        ({"alias": "Docs"}, 409, "alias_name_taken"),
        ({"collection": "Docs"}, 409, "collection_name_taken"),
    ],
)
async def test_what_an_alias_cannot_be(plane: Plane, change: dict[str, Any], status: int, code: str) -> None:
    """Refused before anything is stored."""
    answered, problem = await call(plane, "POST", "/ray/jobs", json={**BODY, **change})
    assert (answered, problem["code"]) == (status, code)
