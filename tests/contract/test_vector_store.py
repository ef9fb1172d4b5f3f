"""One suite for every VectorStore: the stand-ins, or the servers of INGEST_QDRANT__URL and INGEST_WEAVIATE__URL."""

from __future__ import annotations

import contextlib
import functools
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servers
from answering import serving
from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.adapters.exact_search import search_exactly
from ingestion_engine.adapters.qdrant import QdrantStore
from ingestion_engine.adapters.weaviate import WeaviateStore
from ingestion_engine.adapters.weaviate_messages import escape, unescape
from ingestion_engine.adapters.weaviate_schema import make_definition
from ingestion_engine.domain.errors import FatalError, PointsRefused, TransientError
from ingestion_engine.domain.ids import ObjectId, PointId, make_object_id, make_point_id
from ingestion_engine.domain.ports import SearchFilter, VectorStore
from ingestion_engine.domain.records import Point, SearchHit, StoredPoint
from ingestion_engine.domain.spec import Chunking, CollectionContract, StoreName
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from ingestion_engine.runtime.settings import QdrantSettings, Settings, WeaviateSettings, load_settings

DIMENSION = 16
EVERYTHING = SearchFilter()
ODD_METADATA = {"team": "docs", "a=b": "c=d", "100%": "%3D", "empty": "", "größe": " zwei  Worte ", "k": "v"}


def make_settings(request: pytest.FixtureRequest) -> Settings:
    """The servers of the environment where they are named, else the stand-ins of this run."""
    settings = load_settings()
    if settings.qdrant.url is None:
        server = request.getfixturevalue("qdrant_server")
        qdrant = QdrantSettings(url=server.url, api_key=server.secrets["QDRANT_API_KEY"])
        settings = settings.model_copy(update={"qdrant": qdrant})
    if settings.weaviate.url is None:
        server = request.getfixturevalue("weaviate_server")
        grpc_url = f"http://127.0.0.1:{server.ports['grpc']}"
        key = server.secrets["WEAVIATE_API_KEY"]
        weaviate = WeaviateSettings(url=server.url, grpc_url=grpc_url, api_key=key)
        settings = settings.model_copy(update={"weaviate": weaviate})
    return settings


@pytest.fixture
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[dict[StoreName, VectorStore]]:
    opened = open_stores(make_settings(request), list(StoreName))
    yield opened
    for store in opened.values():
        await store.close()


@pytest.fixture(params=list(StoreName))
def store(request: pytest.FixtureRequest, stores: dict[StoreName, VectorStore]) -> VectorStore:
    return stores[request.param]


@pytest.fixture
async def contract(stores: dict[StoreName, VectorStore]) -> AsyncIterator[CollectionContract]:
    """A collection that exists in no store yet."""
    contract = make_contract(f"contract_{uuid.uuid4().hex[:12]}")
    yield contract
    for store in stores.values():
        await store.drop_collection(contract.collection)


def make_contract(name: str, **changes: Any) -> CollectionContract:
    fields: dict[str, Any] = {
        "collection": name,
        "stores": tuple(StoreName),
        "model": "hash-16",
        "model_digest": "d" * 64,
        "dimension": DIMENSION,
        "embedding_id": "e" * 16,
        "prefix": "",
        "query_prefix": "",
        "options": {},
        "chunking": Chunking(),
        "created_at": "2026-11-01T00:00:00Z",
        "created_by": "job-1",
    }
    return CollectionContract(**{**fields, **changes})


def make_vector(seed: int, dimension: int = DIMENSION) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_point(key: str, number: int, *, epoch: int = 1, **changes: Any) -> Point:
    object_id = make_object_id("docs", key)
    payload: dict[str, Any] = {
        "object_id": object_id,
        "bucket": "docs",
        "key": key,
        "uri": f"s3://docs/{key}",
        "etag": "0123456789abcdef-3",
        "content_type": "text/plain",
        "text": f"Passage {number} of {key}.\nIt has two lines, “quotes” and an emoji 😀.",
        "content_hash": f"{number:064x}",
        "chunk_index": number,
        "start_char": number * 100,
        "end_char": number * 100 + 57,
        "embedding_id": "0123456789abcdef-fedcba9876543210",
        "epoch": epoch,
        "job_id": "job-01jd00000000000000000000",
        "ingested_at": "2026-11-23T21:43:05Z",
    }
    point_id = make_point_id(object_id, f"{number:064x}", 0)
    return Point(point_id, {**payload, **changes}, make_vector(hash_of(key) + number))


def hash_of(text: str) -> int:
    return sum(text.encode()) * 1009


async def read_all(store: VectorStore, collection: str, page: int = 500) -> list[StoredPoint]:
    return [point async for point in store.scroll(collection, with_vectors=True, page=page)]


class TestCollections:
    """Making, checking and dropping a collection."""

    async def test_life_of_a_collection(self, store: VectorStore, contract: CollectionContract) -> None:
        """Missing, made, made again, listed, dropped, dropped again."""
        name = contract.collection
        with pytest.raises(FatalError) as missing:
            await store.check_collection(contract)
        assert (missing.value.code, missing.value.context["collection"]) == ("collection_missing", name)
        await store.ensure_collection(contract)
        await store.ensure_collection(contract)
        await store.check_collection(contract)
        assert name.lower() in [listed.lower() for listed in await store.list_collections()]
        assert await store.count(name) == 0
        await store.drop_collection(name)
        await store.drop_collection(name)
        assert name.lower() not in [listed.lower() for listed in await store.list_collections()]

    async def test_another_dimension_is_a_mismatch(self, store: VectorStore, contract: CollectionContract) -> None:
        """Both values are named, also when nothing was written yet."""
        await store.ensure_collection(contract)
        other = contract.model_copy(update={"dimension": 768})
        for check in (store.ensure_collection, store.check_collection):
            with pytest.raises(FatalError) as mismatch:
                await check(other)
            assert mismatch.value.code == "schema_mismatch"
            assert (mismatch.value.context["found"], mismatch.value.context["expected"]) == (DIMENSION, 768)
            assert "16" in mismatch.value.message
            assert "768" in mismatch.value.message

    async def test_missing_collection_everywhere(self, store: VectorStore, contract: CollectionContract) -> None:
        """Every call that reads or deletes says so."""
        name, object_id = contract.collection, make_object_id("docs", "a")
        calls: list[Callable[[], Any]] = [
            lambda: store.count(name),
            lambda: store.read_points(name, [make_point("a", 0).id], with_vectors=False),
            lambda: store.delete_object_points(name, [object_id], before_epoch=2),
            lambda: store.search(name, make_vector(1), limit=3, where=EVERYTHING),
            lambda: read_all(store, name),
        ]
        for call in calls:
            with pytest.raises(FatalError) as missing:
                await call()
            assert missing.value.code == "collection_missing"

    async def test_a_collection_made_by_somebody_else(
        self, stores: dict[StoreName, VectorStore], contract: CollectionContract
    ) -> None:
        """Another distance in Qdrant, another tokenisation in Weaviate: refused, naming field and values."""
        qdrant, weaviate = stores[StoreName.QDRANT], stores[StoreName.WEAVIATE]
        assert isinstance(qdrant, QdrantStore)
        assert isinstance(weaviate, WeaviateStore)
        await qdrant._call(
            "PUT", f"/collections/{contract.collection}", None, {"vectors": {"size": DIMENSION, "distance": "Dot"}}
        )
        foreign = {"class": contract.collection.capitalize(), "vectorizer": "none", "properties": []}
        created = await weaviate._request("POST", "/v1/schema", foreign)
        assert created.status_code == 200
        for store, words in ((qdrant, ("distance", "Dot", "Cosine")), (weaviate, ("property object_id", "uuid"))):
            with pytest.raises(FatalError) as mismatch:
                await store.check_collection(contract)
            assert mismatch.value.code == "schema_mismatch"
            assert all(word in mismatch.value.message for word in words)

    async def test_version(self, store: VectorStore) -> None:
        """A check answers with the server's version."""
        assert (await store.check())[0].isdigit()


class TestPoints:
    """Writing and reading back."""

    async def test_both_stores_give_back_the_same(
        self, stores: dict[StoreName, VectorStore], contract: CollectionContract
    ) -> None:
        """Field by field what was written, types included; absent fields stay absent; vectors within 1e-6."""
        points = [
            make_point("plain.txt", 0),
            make_point("with all.pdf", 1, title="A Title", page=3, metadata=ODD_METADATA),
            make_point("größe/日本 😀 ", 2, metadata={"k": "v"}, text=" \t leading and trailing \n"),
            make_point("numbers", 3, chunk_index=0, start_char=0, end_char=2**40, epoch=2**40),
        ]
        written = {point.id: point for point in points}
        for store in stores.values():
            await store.ensure_collection(contract)
            await store.upsert(contract.collection, points)
            found = await store.read_points(contract.collection, list(written), with_vectors=True)
            assert len(found) == len(points)
            for point in found:
                expected = written[point.id]
                assert dict(point.payload) == dict(expected.payload)
                for name, value in expected.payload.items():
                    assert type(point.payload[name]) is type(value), name
                assert point.vector is not None
                assert point.vector.dtype == np.float32
                assert np.abs(point.vector - expected.vector).max() < 1e-6

    async def test_upsert_replaces(self, store: VectorStore, contract: CollectionContract) -> None:
        """The same id again: new payload whole, new vector, still one point."""
        await store.ensure_collection(contract)
        old = make_point("a", 0, title="old", metadata={"old": "1"})
        new = replace(make_point("a", 0, epoch=2), vector=make_vector(99))
        await store.upsert(contract.collection, [old])
        await store.upsert(contract.collection, [new])
        await store.upsert(contract.collection, [new])
        (found,) = await store.read_points(contract.collection, [old.id], with_vectors=True)
        assert dict(found.payload) == dict(new.payload)
        assert found.vector is not None
        assert np.abs(found.vector - new.vector).max() < 1e-6
        assert await store.count(contract.collection) == 1

    async def test_reading_without_vectors_and_what_is_not_there(
        self, store: VectorStore, contract: CollectionContract
    ) -> None:
        """Missing ids are left out; no vector unless asked for; no ids, no request."""
        await store.ensure_collection(contract)
        there, absent = make_point("a", 0), make_point("a", 1)
        await store.upsert(contract.collection, [there])
        (found,) = await store.read_points(contract.collection, [absent.id, there.id], with_vectors=False)
        assert (found.id, found.vector) == (there.id, None)
        assert await store.read_points(contract.collection, [], with_vectors=True) == []

    async def test_many_points(self, store: VectorStore, contract: CollectionContract) -> None:
        """1,203 points are several requests: count is exact, reads by id and a scroll are complete and in id order."""
        await store.ensure_collection(contract)
        points = [make_point(f"object-{number % 7}", number) for number in range(1203)]
        await store.upsert(contract.collection, points)
        assert await store.count(contract.collection) == 1203
        found = await read_all(store, contract.collection, page=250)
        assert [point.id for point in found] == sorted(point.id for point in points)
        ids = [point.id for point in points]
        assert len(await store.read_points(contract.collection, ids, with_vectors=False)) == 1203

    async def test_page_size_that_divides_the_points(self, store: VectorStore, contract: CollectionContract) -> None:
        """A scroll ends by itself when the last page is full, and on an empty collection."""
        await store.ensure_collection(contract)
        assert await read_all(store, contract.collection) == []
        await store.upsert(contract.collection, [make_point("a", number) for number in range(20)])
        assert len(await read_all(store, contract.collection, page=10)) == 20

    async def test_large_points_are_split_by_bytes(
        self, request: pytest.FixtureRequest, contract: CollectionContract
    ) -> None:
        """Forty points of 1 MB are more than one request may carry."""
        for store in open_stores(make_settings(request), list(StoreName)).values():
            await store.ensure_collection(contract)
            points = [make_point("big", number, text=chr(97 + number % 26) * 1_000_000) for number in range(40)]
            await store.upsert(contract.collection, points)
            assert await store.count(contract.collection) == 40
            await store.close()

    async def test_a_page_larger_than_a_message(
        self, request: pytest.FixtureRequest, contract: CollectionContract
    ) -> None:
        """110 points of 1 MB are read all the same, in smaller pages."""
        for store in open_stores(make_settings(request), list(StoreName)).values():
            await store.ensure_collection(contract)
            for start in range(0, 110, 22):
                points = [make_point("big", number, text="x" * 1_000_000) for number in range(start, start + 22)]
                await store.upsert(contract.collection, points)
            assert [len(point.payload["text"]) for point in await read_all(store, contract.collection)] == [
                1_000_000
            ] * 110
            await store.close()

    async def test_guilty_points_are_found(self, store: VectorStore, contract: CollectionContract) -> None:
        """Two ids that are no UUIDs, and a text that is no Unicode: named; all others are written."""
        await store.ensure_collection(contract)
        points = [make_point("a", number) for number in range(50)]
        points[3] = replace(points[3], id=PointId("not-a-uuid"))
        points[31] = replace(points[31], id=PointId("neither"))
        points[40] = make_point("a", 40, text="lone \ud800 surrogate")
        with pytest.raises(PointsRefused) as refused:
            await store.upsert(contract.collection, points)
        assert refused.value.code == "points_refused"
        assert refused.value.context["refused"].keys() == {"not-a-uuid", "neither", points[40].id}
        assert all(refused.value.context["refused"].values())
        assert await store.count(contract.collection) == 47

    async def test_vectors_of_another_dimension_are_fatal(
        self, store: VectorStore, contract: CollectionContract
    ) -> None:
        """All vectors of a job come from one model: the collection is the wrong one."""
        await store.ensure_collection(contract)
        await store.upsert(contract.collection, [make_point("a", 0)])
        with pytest.raises(FatalError) as mismatch:
            await store.upsert(contract.collection, [replace(make_point("a", 1), vector=make_vector(1, 8))])
        assert mismatch.value.code == "schema_mismatch"
        with pytest.raises(FatalError) as searched:
            await store.search(contract.collection, make_vector(1, 8), limit=1, where=EVERYTHING)
        assert searched.value.code == "schema_mismatch"


class TestObjects:
    """What comparisons need: all points of some objects, a part of the ids, removal by id."""

    async def test_points_of_some_objects(self, store: VectorStore, contract: CollectionContract) -> None:
        """All points that name one of them, with vectors; a range of chunks; nothing for strangers."""
        await store.ensure_collection(contract)
        points = [make_point(key, n) for key in ("a.txt", "b.txt", "c.txt") for n in range(4)]
        await store.upsert(contract.collection, points)
        ids = [make_object_id("docs", key) for key in ("a.txt", "c.txt", "never.txt")]
        found = await store.read_object_points(contract.collection, ids)
        assert {p.id for p in found} == {p.id for p in points if p.payload["key"] != "b.txt"}
        assert all(p.vector is not None for p in found)
        some = await store.read_object_points(contract.collection, ids[:1], first_chunk=1, end_chunk=3)
        assert sorted(p.payload["chunk_index"] for p in some) == [1, 2]
        rest = await store.read_object_points(contract.collection, ids[:1], first_chunk=3)
        assert [p.payload["chunk_index"] for p in rest] == [3]
        assert await store.read_object_points(contract.collection, ids[2:]) == []

    async def test_more_than_one_page_of_an_object(self, store: VectorStore, contract: CollectionContract) -> None:
        """1,203 points come once each."""
        await store.ensure_collection(contract)
        points = [make_point("long.txt", n) for n in range(1203)]
        await store.upsert(contract.collection, points)
        found = await store.read_object_points(contract.collection, [make_object_id("docs", "long.txt")])
        assert sorted(p.id for p in found) == sorted(p.id for p in points)

    async def test_delete_by_id(self, store: VectorStore, contract: CollectionContract) -> None:
        """Exactly these; ids that are not there change nothing."""
        await store.ensure_collection(contract)
        points = [make_point("a.txt", n) for n in range(5)]
        await store.upsert(contract.collection, points)
        gone = [points[1].id, points[3].id, PointId(str(uuid.uuid4()))]
        await store.delete_points(contract.collection, gone)
        await store.delete_points(contract.collection, gone)
        left = {p.id for p in await read_all(store, contract.collection)}
        assert left == {points[n].id for n in (0, 2, 4)}

    async def test_scroll_from_an_id_on(self, store: VectorStore, contract: CollectionContract) -> None:
        """The id itself is the first, whether there is a point of it or not; ranges of ids cover the collection."""
        await store.ensure_collection(contract)
        points = [make_point("a.txt", n) for n in range(40)]
        await store.upsert(contract.collection, points)
        ids = sorted(p.id for p in points)

        async def read_from(start: str) -> list[str]:
            scroll = store.scroll(contract.collection, with_vectors=False, page=7, start=PointId(start))
            return [p.id async for p in scroll]

        assert await read_from(ids[13]) == ids[13:]
        assert await read_from("00000000-0000-0000-0000-000000000000") == ids
        middle = "80000000-0000-0000-0000-000000000000"
        assert await read_from(middle) == [point_id for point_id in ids if point_id >= middle]


class TestDelete:
    """Removing what an object no longer has."""

    async def test_only_lower_epochs_of_one_object(self, store: VectorStore, contract: CollectionContract) -> None:
        """Its own epoch and higher ones stay; so do objects whose keys look alike."""
        await store.ensure_collection(contract)
        stale = [make_point("Report.txt", number, epoch=number + 1) for number in range(3)]
        kept = [
            make_point("Report.txt", 7, epoch=4),
            make_point("Report.txt", 8, epoch=9),
            make_point("report.txt", 0, epoch=1),
            make_point("Report.txt ", 0, epoch=1),
        ]
        await store.upsert(contract.collection, stale + kept)
        for _ in range(2):
            await store.delete_object_points(
                contract.collection, [make_object_id("docs", "Report.txt")], before_epoch=4
            )
            left = {point.id for point in await read_all(store, contract.collection)}
            assert left == {point.id for point in kept}

    async def test_several_objects_at_once(self, store: VectorStore, contract: CollectionContract) -> None:
        """Those that are named lose their lower epochs, others nothing."""
        await store.ensure_collection(contract)
        points = {(key, epoch): make_point(key, epoch, epoch=epoch) for key in ("a", "b", "c") for epoch in (1, 5)}
        await store.upsert(contract.collection, list(points.values()))
        named = [make_object_id("docs", key) for key in ("a", "c", "not there")]
        await store.delete_object_points(contract.collection, named, before_epoch=5)
        left = {point.id for point in await read_all(store, contract.collection)}
        assert left == {point.id for (key, epoch), point in points.items() if key == "b" or epoch == 5}

    async def test_more_than_one_call_may_delete(self, store: VectorStore, contract: CollectionContract) -> None:
        """10,050 points of one object: Weaviate deletes 10,000 in a call."""
        await store.ensure_collection(contract)
        slim = make_point("many", 0)
        points = [
            replace(slim, id=make_point_id(ObjectId(slim.payload["object_id"]), f"{number:064x}", 0))
            for number in range(10_050)
        ]
        await store.upsert(contract.collection, points)
        assert await store.count(contract.collection) == 10_050
        await store.delete_object_points(contract.collection, [slim.payload["object_id"]], before_epoch=2)
        assert await store.count(contract.collection) == 0


class TestSearch:
    """Nearest points."""

    async def test_order_and_scores(self, store: VectorStore, contract: CollectionContract) -> None:
        """Best first; the score is the cosine similarity; the limit holds; payloads are whole."""
        await store.ensure_collection(contract)
        points = [make_point("a", number, metadata={"n": str(number)}) for number in range(30)]
        await store.upsert(contract.collection, points)
        query = make_vector(12345)
        by_hand = sorted(((float(point.vector @ query), point) for point in points), key=lambda pair: -pair[0])
        hits = await store.search(contract.collection, query, limit=12, where=EVERYTHING)
        assert [hit.point_id for hit in hits] == [point.id for _, point in by_hand[:12]]
        for hit, (score, point) in zip(hits, by_hand[:12], strict=True):
            assert abs(hit.score - score) < 1e-5
            assert dict(hit.payload) == dict(point.payload)

    async def test_filters(self, store: VectorStore, contract: CollectionContract) -> None:
        """All conditions must hold; values match whole and with their case; odd metadata keys work."""
        await store.ensure_collection(contract)
        points = [
            make_point("a", 0, content_type="text/html", metadata={"team": "docs", "a=b": "c=d"}),
            make_point("b", 1, content_type="text/plain", metadata={"team": "docs team"}),
            make_point("c", 2, content_type="text/html", bucket="other", metadata={"team": "Docs", "a.b": "x"}),
            make_point("d", 3),
        ]
        await store.upsert(contract.collection, points)

        async def found(**conditions: Any) -> set[int]:
            where = SearchFilter(**conditions)
            hits = await store.search(contract.collection, make_vector(5), limit=10, where=where)
            return {hit.payload["chunk_index"] for hit in hits}

        assert await found() == {0, 1, 2, 3}
        assert await found(bucket="docs") == {0, 1, 3}
        assert await found(content_type="text/html") == {0, 2}
        assert await found(content_type="text") == set()
        assert await found(metadata={"team": "docs"}) == {0}
        assert await found(metadata={"a=b": "c=d"}) == {0}
        assert await found(metadata={"a.b": "x"}) == {2}
        assert await found(metadata={"team": "docs", "a=b": "nothing"}) == set()
        assert await found(bucket="other", content_type="text/html", metadata={"team": "Docs"}) == {2}

    async def test_key_prefixes(self, store: VectorStore, contract: CollectionContract) -> None:
        """A prefix is compared byte for byte: wildcards, white space, case and line feeds mean themselves."""
        await store.ensure_collection(contract)
        keys = [
            *("2024/a.md", "2024/b*.md", "2024/b?.md", "2024/bc.md", "2024x", "2024", "24/2024/a.md", "A/x", "a/x"),
            *("a b", "a  b", "a", "a ", " a", "a\tb", "a\n", "a\nb", "a\nb\nc", "[a]/x", "a/[x]", "%61/x", "a\\b"),
            *("größe/日本", "größe/日", "gro\u0308ße", "😀/1", "\x1cb", "*", "?", "**", " "),
        ]
        points = [make_point(key, number) for number, key in enumerate(keys)]
        await store.upsert(contract.collection, points)
        prefixes = {key[:length] for key in keys for length in (1, 2, 5, len(key))} | {
            "",
            "x",
            "2024/*",
            "a*",
            "日",
            "\t",
        }
        for prefix in sorted(prefixes):
            where = SearchFilter(key_prefix=prefix)
            hits = await store.search(contract.collection, make_vector(5), limit=len(keys), where=where)
            assert sorted(hit.payload["key"] for hit in hits) == sorted(key for key in keys if key.startswith(prefix))

    async def test_what_a_store_cannot_tell_apart(self, store: VectorStore, contract: CollectionContract) -> None:
        """The few exact hits among many near misses are found, best first; the limit holds; other conditions too."""
        await store.ensure_collection(contract)
        near = [make_point("ab/x", number, metadata={"k": "v"}) for number in range(300)]
        right = [make_point("a*/x", number, metadata={"k": "v ", 'q"\\': "1"}) for number in range(300, 310)]
        await store.upsert(contract.collection, near + right)
        query = make_vector(7)
        expected = [point.id for point in sorted(right, key=lambda point: -float(point.vector @ query))]
        for conditions in ({"key_prefix": "a*/"}, {"metadata": {"k": "v "}}, {"metadata": {'q"\\': "1"}}):
            where = SearchFilter(bucket="docs", **conditions)
            for limit in (4, 10, 50):
                hits = await store.search(contract.collection, query, limit=limit, where=where)
                assert [hit.point_id for hit in hits] == expected[:limit]


async def test_a_filter_that_lets_too_much_through_is_given_up() -> None:
    """After 10,000 near misses the search says so instead of answering with less than there may be."""
    asked: list[int] = []

    async def ask(count: int) -> list[SearchHit]:
        asked.append(count)
        return [SearchHit(PointId(str(number)), 1.0, {"key": "b"}) for number in range(count)]

    with pytest.raises(FatalError) as broad:
        await search_exactly(ask, SearchFilter(key_prefix="a"), 10, "weaviate")
    assert broad.value.code == "filter_too_broad"
    assert asked == [10, 80, 640, 5120, 10_000]


class TestOutages:
    """Servers that are away or refuse us."""

    async def test_nobody_listens(self, request: pytest.FixtureRequest) -> None:
        """Every call is transient."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        contract = make_contract("nowhere")
        stores: list[VectorStore] = [QdrantStore(url), WeaviateStore(url, url)]
        rest = make_settings(request).weaviate
        assert rest.url is not None
        key = rest.api_key.get_secret_value() if rest.api_key else None
        half_away = WeaviateStore(rest.url, url, key)
        for store in [*stores, half_away]:
            for call in (
                store.check(),
                store.count("nowhere"),
                store.upsert("nowhere", [make_point("a", 0)]),
                store.search("nowhere", make_vector(1), limit=1, where=EVERYTHING),
            ):
                with pytest.raises(TransientError):
                    await call
        for store in stores:
            with pytest.raises(TransientError):
                await store.ensure_collection(contract)
            await store.close()
        await half_away.close()

    @pytest.mark.parametrize("name", list(StoreName))
    async def test_a_server_that_comes_back(self, name: StoreName, tmp_path: Path) -> None:
        """Killed and started again on the same data: the same adapter works again, and nothing was lost."""
        start = servers.start_qdrant if name is StoreName.QDRANT else servers.start_weaviate
        with servers.stopping(start(tmp_path)) as first:
            (key,) = first.secrets.values()
            ports = {"port": int(first.url.rsplit(":", 1)[1])} | {
                f"{kind}_port": at for kind, at in first.ports.items()
            }
            store: VectorStore = QdrantStore(first.url, key)
            if name is StoreName.WEAVIATE:
                store = WeaviateStore(first.url, f"http://127.0.0.1:{ports['grpc_port']}", key)
            contract = make_contract("survivor")
            await store.ensure_collection(contract)
            await store.upsert("survivor", [make_point("a", 0)])
            first.kill()
            for _ in range(3):
                with pytest.raises(TransientError):
                    await store.upsert("survivor", [make_point("a", 1)])
            with servers.stopping(start(tmp_path, api_key=key, **ports)):
                patient = RetryPolicy(first_s=0.1, longest_s=1.0, deadline_s=20.0)
                write = functools.partial(store.upsert, "survivor", [make_point("a", 1)])
                await retry_async(write, TransientError, patient)
                await store.check_collection(contract)
                assert await store.count("survivor") == 2
                await store.close()

    async def test_a_weaviate_that_has_not_loaded_its_schema(self, tmp_path: Path) -> None:
        """What gRPC misses is asked for over REST: there, or nobody answers, means wait; only missing is missing."""
        with (
            servers.stopping(servers.start_weaviate(tmp_path / "loaded", api_key="key")) as loaded,
            servers.stopping(servers.start_weaviate(tmp_path / "starting", api_key="key")) as starting,
        ):
            whole, half = (
                WeaviateStore(loaded.url, f"http://127.0.0.1:{server.ports['grpc']}", "key")
                for server in (loaded, starting)
            )
            await whole.ensure_collection(make_contract("slow"))

            def calls(name: str) -> list[Callable[[], Any]]:
                return [
                    lambda: half.count(name),
                    lambda: half.read_points(name, [make_point("a", 0).id], with_vectors=False),
                    lambda: half.delete_object_points(name, [make_object_id("docs", "a")], before_epoch=2),
                    lambda: half.search(name, make_vector(1), limit=3, where=EVERYTHING),
                    lambda: read_all(half, name),
                ]

            for call in calls("slow"):
                with pytest.raises(TransientError, match="has not loaded collection slow yet"):
                    await call()
            for call in calls("never"):
                with pytest.raises(FatalError) as missing:
                    await call()
                assert missing.value.code == "collection_missing"
            loaded.kill()
            for call in calls("slow"):
                with pytest.raises(TransientError):
                    await call()
            await whole.close()
            await half.close()

    async def test_a_weaviate_that_is_not_ready(self) -> None:
        """A class is missing only when a server says so after it said that it is ready."""
        contract = make_contract("slow")
        missing, found, ready, starting = (404, {}), (200, make_definition(contract)), (200, {}), (503, {})
        for looks, readiness, error in (
            ([missing], starting, TransientError),
            ([missing, missing], ready, FatalError),
            ([missing, found], ready, None),
        ):
            answers = iter(looks)
            with serving(
                {
                    "/v1/schema/Slow": lambda _, answers=answers: next(answers),
                    "/v1/.well-known/ready": lambda _, readiness=readiness: readiness,
                }
            ) as url:
                store = WeaviateStore(url)
                with contextlib.nullcontext() if error is None else pytest.raises(error):
                    await store.check_collection(contract)
                await store.close()
            assert list(answers) == []

    async def test_wrong_key_is_fatal(self, request: pytest.FixtureRequest) -> None:
        """The key is never in the error."""
        settings = make_settings(request)
        if settings.qdrant.api_key is None or settings.weaviate.api_key is None:
            pytest.fail("run this suite against servers that ask for a key")
        assert settings.qdrant.url is not None
        assert settings.weaviate.url is not None
        wrong = f"wrong-{uuid.uuid4()}"
        stores: list[VectorStore] = [
            QdrantStore(settings.qdrant.url, wrong),
            WeaviateStore(settings.weaviate.url, settings.weaviate.grpc_url, wrong),
        ]
        for store in stores:
            for call in (store.check(), store.count("any"), store.check_collection(make_contract("any"))):
                with pytest.raises(FatalError) as refused:
                    await call
                assert refused.value.code == "store_access_denied"
                assert wrong not in repr(refused.value.record())
            await store.close()

    @pytest.mark.parametrize("name", list(StoreName))
    def test_a_store_without_url_is_not_configured(self, name: StoreName) -> None:
        """The message names the setting."""
        bare = Settings(qdrant=QdrantSettings(), weaviate=WeaviateSettings())
        with pytest.raises(FatalError) as refused:
            open_stores(bare, [name])
        assert refused.value.code == "store_not_configured"
        assert f"INGEST_{name.upper()}__URL" in refused.value.hint


async def test_an_alias_stands_for_one_collection_after_another(
    store: VectorStore, contract: CollectionContract
) -> None:
    """Set twice, moved, listed as the store spells it, dropped twice; what it stands for stays."""
    second = make_contract(f"{contract.collection}_b")
    alias = f"{contract.collection}_alias"
    try:
        await store.ensure_collection(contract)
        await store.ensure_collection(second)
        for target in (contract.collection, contract.collection, second.collection):
            await store.set_alias(alias, target)
            assert (await store.list_aliases())[store.spell(alias)] == store.spell(target)
        await store.upsert(second.collection, [make_point("a.txt", 0)])
        assert await store.count(alias) == 1
        await store.drop_alias(alias)
        await store.drop_alias(alias)
        assert store.spell(alias) not in await store.list_aliases()
        assert store.spell(second.collection) in await store.list_collections()
    finally:
        await store.drop_alias(alias)
        await store.drop_collection(second.collection)


async def test_an_alias_needs_a_collection_and_a_name_of_its_own(
    store: VectorStore, contract: CollectionContract
) -> None:
    """A refused move leaves the alias where it was."""
    alias = f"{contract.collection}_alias"
    await store.ensure_collection(contract)
    with pytest.raises(FatalError) as missing:
        await store.set_alias(alias, f"{contract.collection}_absent")
    assert missing.value.code == "collection_missing"
    with pytest.raises(FatalError) as taken:
        await store.set_alias(contract.collection, contract.collection)
    assert taken.value.code == "alias_name_taken"
    try:
        await store.set_alias(alias, contract.collection)
        with pytest.raises(FatalError):
            await store.set_alias(alias, f"{contract.collection}_absent")
        assert (await store.list_aliases())[store.spell(alias)] == store.spell(contract.collection)
    finally:
        await store.drop_alias(alias)


@pytest.mark.parametrize("key", ["", "=", "%", "%3D", "%25", "a=b%3Dc%%", "plain"])
def test_metadata_keys_survive(key: str) -> None:
    """No escaped key holds an equals sign, and each comes back."""
    assert "=" not in escape(key)
    assert unescape(escape(key)) == key
