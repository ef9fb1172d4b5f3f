"""The route of an object's chunks, folders of objects, and marks of differences in search results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PointId, make_object_id
from ingestion_engine.domain.records import Point, RowState, SearchHit, TableRow
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.services.search import ONLY_HERE, SCORE, count_differences, find_differences
from ingestion_engine.state.object_table.table import ObjectTable
from support.control import World, bearer, make_collection, write_keys
from support.doubles import MemoryStore, hash_vector

Q, W = StoreName.QDRANT, StoreName.WEAVIATE


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def write_objects(world: World, objects: dict[str, int]) -> None:
    """Write objects with chunks to both stores and the object table of ``notes``."""
    make_collection(world, bucket="docs")
    rows = []
    for key, chunks in sorted(objects.items(), key=lambda item: item[0].encode()):
        object_id = make_object_id("docs", key)
        at = "2026-01-01T00:00:00Z"
        rows.append(
            TableRow(key, "e", 1, at, object_id, RowState.PRESENT, None, None, False, "f", chunks, "", "", 1, "j", at)
        )
        for number in range(chunks):
            put(world.qdrant, key, number)
            put(world.weaviate, key, number)
    ObjectTable(world.state, "notes").append_run(rows, epoch=1, job_id="j")


def put(store: MemoryStore, key: str, number: int, **changes: Any) -> None:
    text = f"{key} {number}"
    payload = {"object_id": make_object_id("docs", key), "key": key, "text": text, "chunk_index": number, "epoch": 1}
    point = Point(PointId(f"{key}-{number:03d}"), {**payload, **changes}, hash_vector(text, 8))
    store.collections["notes"][point.id] = point


async def test_chunks_of_an_object_are_shown_side_by_side(world: World) -> None:
    """The row, each chunk with what every store has, the values that differ, and nothing of other objects."""
    write_objects(world, {"a/b c.txt": 3, "a/b c.txt2": 2})
    put(world.weaviate, "a/b c.txt", 1, text="other")
    async with world.serve() as plane:
        page = (await plane.client.get("/collections/notes/chunks", params={"key": "a/b c.txt"})).json()
    assert (page["collection"], page["key"], page["object"]["chunk_count"]) == ("notes", "a/b c.txt", 3)
    assert [(item["chunk_index"], item["agreement"], item["differences"]) for item in page["items"]] == [
        (0, "equal", []),
        (1, "different", ["text"]),
        (2, "equal", []),
    ]
    assert page["items"][1]["text"] == "a/b c.txt 1"
    assert page["items"][1]["stores"]["weaviate"]["values"] == {"text": "other"}
    assert (page["errors"], page["next_cursor"]) == ({}, None)


async def test_an_object_before_its_commit_is_shown_without_its_row(world: World) -> None:
    """Its points exist; the table gets it at the end of the job. Pages follow the stores."""
    write_objects(world, {"a": 1})
    for number in range(130):
        put(world.qdrant, "new", number)
    async with world.serve() as plane:
        found: list[int] = []
        params: dict[str, Any] = {"key": "new", "limit": 60}
        while "cursor" not in params or params["cursor"] is not None:
            page = (await plane.client.get("/collections/notes/chunks", params=params)).json()
            assert page["object"] is None
            assert {item["agreement"] for item in page["items"]} == {"missing"}
            found += [item["chunk_index"] for item in page["items"]]
            params["cursor"] = page["next_cursor"]
        assert found == list(range(130))
        missing = await plane.client.get("/collections/notes/chunks", params={"key": "never"})
        assert (missing.status_code, missing.json()["code"]) == (404, "object_not_found")


async def test_a_store_that_is_unavailable_is_said(world: World) -> None:
    """What it has is unknown; when no store can be read there is nothing to show."""
    write_objects(world, {"a": 2})

    def away(_kind: str) -> None:
        raise TransientError("weaviate_unavailable", "Weaviate is unavailable.")

    world.weaviate.before_read = away
    async with world.serve() as plane:
        page = (await plane.client.get("/collections/notes/chunks", params={"key": "a"})).json()
        assert page["errors"] == {"weaviate": {"code": "weaviate_unavailable", "detail": "Weaviate is unavailable."}}
        assert [item["agreement"] for item in page["items"]] == ["unknown", "unknown"]
        assert page["items"][0]["stores"]["weaviate"]["present"] is None
        unseen = (await plane.client.get("/collections/notes/chunks", params={"key": "never"})).json()
        assert (unseen["items"], unseen["object"]) == ([], None), "nobody knows that it does not exist"
        world.qdrant.before_read = away
        none = await plane.client.get("/collections/notes/chunks", params={"key": "a"})
        assert (none.status_code, none.json()["code"]) == (503, "stores_unavailable")


async def test_damaged_points_hide_no_others(world: World) -> None:
    """Payloads without a number, with values of other types, and two points with one number."""
    write_objects(world, {"a": 2})
    for store in (world.qdrant, world.weaviate):
        put(store, "a", 8, chunk_index="x", text=7, page="one", epoch="new")
        put(store, "a", 9, chunk_index=1)
    async with world.serve() as plane:
        page = (await plane.client.get("/collections/notes/chunks", params={"key": "a"})).json()
        assert [(item["chunk_index"], item["point_id"]) for item in page["items"]] == [
            (0, "a-000"),
            (1, "a-001"),
            (1, "a-009"),
            (None, "a-008"),
        ]
        for cursor in ("!", "YWJj", "LTE"):
            refused = await plane.client.get("/collections/notes/chunks", params={"key": "a", "cursor": cursor})
            assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")


async def test_chunks_require_the_scope_and_the_collection(world: World, tmp_path: Path) -> None:
    """A key that may only search, or only use another collection, reads no passages here."""
    write_objects(world, {"a": 1})
    keys = write_keys(
        tmp_path,
        {"name": "searcher", "scopes": ["search"]},
        {"name": "other", "collections": ["other"]},
        {"name": "reader", "scopes": ["read"]},
    )
    async with world.serve(api={"keys_file": keys}) as plane:
        for name, status in (("searcher", 403), ("other", 403), ("reader", 200), ("nobody", 401)):
            answer = await plane.client.get("/collections/notes/chunks?key=a", headers=bearer(name))
            assert answer.status_code == status


async def test_objects_are_listed_by_folder(world: World) -> None:
    """Folders and objects of one level; the cursor goes on; without the delimiter there are no folders."""
    write_objects(world, dict.fromkeys(["a.txt", "b/1", "b/2", "b/c/3", "d", "e/4"], 1))
    async with world.serve() as plane:
        get = plane.client.get
        page = (await get("/collections/notes/objects", params={"delimiter": "/", "limit": 3})).json()
        assert (page["folders"], [item["key"] for item in page["items"]]) == (["b/"], ["a.txt", "d"])
        params = {"delimiter": "/", "limit": 3, "cursor": page["next_cursor"]}
        rest = (await get("/collections/notes/objects", params=params)).json()
        assert (rest["folders"], rest["items"], rest["next_cursor"]) == (["e/"], [], None)
        inner = (await get("/collections/notes/objects", params={"delimiter": "/", "prefix": "b/"})).json()
        assert (inner["folders"], [item["key"] for item in inner["items"]]) == (["b/c/"], ["b/1", "b/2"])
        flat = (await get("/collections/notes/objects")).json()
        assert (flat["folders"], len(flat["items"])) == ([], 6)
        assert (await get("/collections/notes/objects", params={"delimiter": "-"})).status_code == 422


def hit(number: int, score: float, **payload: Any) -> SearchHit:
    return SearchHit(PointId(str(number)), score, {"key": "k", "text": f"text {number}", **payload})


def test_differences_between_stores_are_marked() -> None:
    """Another score, another field, a passage that the other store should have found; not what fell off its end."""
    left = [hit(1, 0.9), hit(2, 0.8), hit(3, 0.7), hit(4, 0.5)]
    right = [hit(1, 0.9000004), hit(2, 0.79), hit(5, 0.6, page=2), hit(6, 0.5005)]
    marks = find_differences({Q: left, W: right}, 4)
    assert marks[Q] == [[], [SCORE], [ONLY_HERE], []], "the fourth one may be the fifth of the other store"
    assert marks[W] == [[], [SCORE], [ONLY_HERE], []]
    assert count_differences({Q: left, W: right}, marks) == 3
    wide = find_differences({Q: left, W: right}, 5)
    assert (wide[Q][3], wide[W][3]) == ([ONLY_HERE], [ONLY_HERE]), "there was room for a fifth one"
    other = [hit(1, 0.9, text="another", page=3)]
    assert find_differences({Q: [hit(1, 0.9)], W: other}, 1) == {Q: [["page", "text"]], W: [["page", "text"]]}
    assert find_differences({Q: left}, 4) == {Q: [[], [], [], []]}


async def test_search_results_are_compared(world: World) -> None:
    """The answer counts the passages that differ; of one store alone there is nothing to compare."""
    write_objects(world, {"a": 2, "b": 1})
    async with world.serve() as plane:
        body = {"collection": "notes", "query": "cats", "limit": 20}
        same = (await plane.client.post("/search", json=body)).json()
        assert same["differences"] == 0
        assert all(hit["differences"] == [] for hits in same["results"].values() for hit in hits)
        put(world.weaviate, "a", 1, text="other")
        del world.qdrant.collections["notes"][PointId("b-000")]
        found = (await plane.client.post("/search", json=body)).json()
        assert found["differences"] == 2
        marks = {hit["point_id"]: hit["differences"] for hit in found["results"]["weaviate"] if hit["differences"]}
        assert marks == {"a-001": ["text"], "b-000": ["only_here"]}
        alone = (await plane.client.post("/search", json={**body, "stores": ["qdrant"]})).json()
        assert alone["differences"] is None
