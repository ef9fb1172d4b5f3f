"""One suite for every VectorStore: the stand-ins, or the servers of INGEST_QDRANT__URL and INGEST_WEAVIATE__URL."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.adapters.exact_search import search_exactly
from ingestion_engine.adapters.qdrant.store import QdrantStore
from ingestion_engine.adapters.weaviate.messages import escape, unescape
from ingestion_engine.adapters.weaviate.store import WeaviateStore
from ingestion_engine.domain.errors import FatalError, PointsRefused
from ingestion_engine.domain.ids import ObjectId, PointId, make_object_id, make_point_id
from ingestion_engine.domain.ports import SearchFilter, VectorStore
from ingestion_engine.domain.records import SearchHit
from ingestion_engine.domain.spec import CollectionContract, StoreName
from support.vector_stores import DIMENSION, EVERYTHING, make_point, make_settings, make_vector, read_all

ODD_METADATA = {"team": "docs", "a=b": "c=d", "100%": "%3D", "empty": "", "größe": " zwei  Worte ", "k": "v"}


class TestCollections:
    """Creating, checking and dropping a collection."""

    async def test_life_of_a_collection(self, store: VectorStore, contract: CollectionContract) -> None:
        """Missing, created, created again, listed, dropped, dropped again."""
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
        """The error names both values, also before the first write."""
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
        """Every call that reads or deletes raises the error."""
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

    async def test_a_collection_created_by_another_client(
        self, stores: dict[StoreName, VectorStore], contract: CollectionContract
    ) -> None:
        """Another distance in Qdrant, another tokenisation in Weaviate: refused, naming field and values."""
        qdrant, weaviate = stores[StoreName.QDRANT], stores[StoreName.WEAVIATE]
        assert isinstance(qdrant, QdrantStore)
        assert isinstance(weaviate, WeaviateStore)
        await qdrant._call(
            "PUT", f"/collections/{contract.collection}", {"vectors": {"size": DIMENSION, "distance": "Dot"}}
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
        """A check returns the server's version."""
        assert (await store.check())[0].isdigit()


class TestPoints:
    """Writing and reading back."""

    async def test_both_stores_return_the_same(
        self, stores: dict[StoreName, VectorStore], contract: CollectionContract
    ) -> None:
        """Every field is returned as written, including its type; absent fields stay absent; vectors within 1e-6."""
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
        """The same id again: the whole new payload, the new vector, still one point."""
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

    async def test_reading_without_vectors_and_missing_points(
        self, store: VectorStore, contract: CollectionContract
    ) -> None:
        """Missing ids are omitted; vectors are returned on request only; no ids cause no request."""
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
        """110 points of 1 MB are read in smaller pages."""
        for store in open_stores(make_settings(request), list(StoreName)).values():
            await store.ensure_collection(contract)
            for start in range(0, 110, 22):
                points = [make_point("big", number, text="x" * 1_000_000) for number in range(start, start + 22)]
                await store.upsert(contract.collection, points)
            assert [len(point.payload["text"]) for point in await read_all(store, contract.collection)] == [
                1_000_000
            ] * 110
            await store.close()

    async def test_refused_points_are_found(self, store: VectorStore, contract: CollectionContract) -> None:
        """Two ids that are not UUIDs and a text that is not Unicode are reported; all others are written."""
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
    """Reads and deletes of comparisons: all points of some objects, a range of ids, removal by id."""

    async def test_points_of_some_objects(self, store: VectorStore, contract: CollectionContract) -> None:
        """All points that name one of the objects, with vectors; a range of chunks; none for other objects."""
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
        for limit in (1, 5, 8, 9):
            few = await store.read_object_points(contract.collection, ids, limit=limit)
            assert len({p.id for p in few}) == len(few) == min(limit, 8)
        one = await store.read_object_points(contract.collection, ids[:1], first_chunk=3, limit=2)
        assert [p.payload["chunk_index"] for p in one] == [3]

    async def test_more_than_one_page_of_an_object(self, store: VectorStore, contract: CollectionContract) -> None:
        """1,203 points are returned once each."""
        await store.ensure_collection(contract)
        points = [make_point("long.txt", n) for n in range(1203)]
        await store.upsert(contract.collection, points)
        found = await store.read_object_points(contract.collection, [make_object_id("docs", "long.txt")])
        assert sorted(p.id for p in found) == sorted(p.id for p in points)
        some = await store.read_object_points(contract.collection, [make_object_id("docs", "long.txt")], limit=501)
        assert len({p.id for p in some}) == 501

    async def test_delete_by_id(self, store: VectorStore, contract: CollectionContract) -> None:
        """Exactly these points are removed; missing ids change nothing."""
        await store.ensure_collection(contract)
        points = [make_point("a.txt", n) for n in range(5)]
        await store.upsert(contract.collection, points)
        gone = [points[1].id, points[3].id, PointId(str(uuid.uuid4()))]
        assert await store.delete_points(contract.collection, gone) == 2
        assert await store.delete_points(contract.collection, gone) == 0
        left = {p.id for p in await read_all(store, contract.collection)}
        assert left == {points[n].id for n in (0, 2, 4)}

    async def test_scroll_from_an_id_on(self, store: VectorStore, contract: CollectionContract) -> None:
        """The range starts at the id, with or without a point of that id; ranges of ids cover the collection."""
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
    """Removing points that an object no longer has."""

    async def test_only_lower_epochs_of_one_object(self, store: VectorStore, contract: CollectionContract) -> None:
        """Points of the same and higher epochs are kept; so are objects with similar keys."""
        await store.ensure_collection(contract)
        stale = [make_point("Report.txt", number, epoch=number + 1) for number in range(3)]
        kept = [
            make_point("Report.txt", 7, epoch=4),
            make_point("Report.txt", 8, epoch=9),
            make_point("report.txt", 0, epoch=1),
            make_point("Report.txt ", 0, epoch=1),
        ]
        await store.upsert(contract.collection, stale + kept)
        for removed in (len(stale), 0):
            assert removed == await store.delete_object_points(
                contract.collection, [make_object_id("docs", "Report.txt")], before_epoch=4
            )
            left = {point.id for point in await read_all(store, contract.collection)}
            assert left == {point.id for point in kept}

    async def test_several_objects_at_once(self, store: VectorStore, contract: CollectionContract) -> None:
        """The given objects lose their lower epochs, other objects nothing."""
        await store.ensure_collection(contract)
        points = {(key, epoch): make_point(key, epoch, epoch=epoch) for key in ("a", "b", "c") for epoch in (1, 5)}
        await store.upsert(contract.collection, list(points.values()))
        named = [make_object_id("docs", key) for key in ("a", "c", "not there")]
        assert await store.delete_object_points(contract.collection, named, before_epoch=5) == 2
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
        wanted = [ObjectId(slim.payload["object_id"])]
        assert await store.delete_object_points(contract.collection, wanted, before_epoch=2) == 10_050
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

    async def test_conditions_that_a_store_cannot_express(
        self, store: VectorStore, contract: CollectionContract
    ) -> None:
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


async def test_a_filter_that_lets_through_too_many_hits_fails() -> None:
    """After 10,000 near misses the search fails instead of returning too few hits."""
    asked: list[int] = []

    async def ask(count: int) -> list[SearchHit]:
        asked.append(count)
        return [SearchHit(PointId(str(number)), 1.0, {"key": "b"}) for number in range(count)]

    with pytest.raises(FatalError) as broad:
        await search_exactly(ask, SearchFilter(key_prefix="a"), limit=10, store="weaviate")
    assert broad.value.code == "filter_too_broad"
    assert asked == [10, 80, 640, 5120, 10_000]


@pytest.mark.parametrize("key", ["", "=", "%", "%3D", "%25", "a=b%3Dc%%", "plain"])
def test_metadata_keys_survive(key: str) -> None:
    """No escaped key contains an equals sign, and each can be restored."""
    assert "=" not in escape(key)
    assert unescape(escape(key)) == key
