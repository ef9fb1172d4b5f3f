"""Weaviate's reads: filters, cursors, and the nearest vectors.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_WEAVIATE__URL and
INGEST_WEAVIATE__GRPC_URL (and INGEST_WEAVIATE__API_KEY).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from weaviate.classes.query import Filter, MetadataQuery
from weaviate.exceptions import WeaviateDeleteManyError, WeaviateQueryError

from support.weaviate_client_side import Client, by, insert, item, make, number, uid

# The only way to create an unnamed vector, which the product uses, with this client is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Dep024:DeprecationWarning")


TEN = list(range(10, 20))
REST = [20, 21]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (by("object_id").equal(uid(1)), [10, 13, 16, 19]),
        (by("object_id").equal(uid(1).upper()), [10, 13, 16, 19]),
        (by("object_id").equal(uid(1)) & by("epoch").less_than(16), [10, 13]),
        (by("object_id").not_equal(uid(1)), [11, 12, 14, 15, 17, 18, *REST]),
        (by("object_id").contains_any([uid(0), uid(2)]), [11, 12, 14, 15, 17, 18]),
        (by("object_id").greater_than(uid(1)), [11, 14, 17]),
        (by("epoch").equal(12) | by("epoch").greater_or_equal(18), [12, 18, 19]),
        (by("epoch").equal(12.0), [12]),
        (by("epoch").contains_any([12, 13, 99]), [12, 13]),
        (by("ratio").equal(6), [12]),
        (by("ratio").less_or_equal(5.5), [10, 11]),
        (by("flag").equal(True), [10, 12, 14, 16, 18]),
        (by("flag").not_equal(True), [11, 13, 15, 17, 19, *REST]),
        (by("at").greater_than(dt.datetime(2024, 1, 17, tzinfo=dt.UTC)), [18, 19]),
        (by("at").equal("2024-01-12T01:00:00+01:00"), [12]),
        (by("key").equal("Dir/File 12"), [12]),
        (by("key").equal(" Dir/File 12 "), [12]),
        (by("key").equal("dir/file 12"), []),
        (by("key").equal("Dir/File"), []),
        (by("key").equal("padded"), [21]),
        (by("key").not_equal("Dir/File 12"), [n for n in TEN if n != 12] + REST),
        (by("key").like("Dir/*1?"), TEN),
        (by("key").like("dir/*"), []),
        (by("key").like("[D]*"), []),
        (by("key").contains_any(["Dir/File 12", "padded"]), [12, 21]),
        (by("key").greater_than("Dir/File 17"), [18, 19, 21]),
        (by("text").equal("apple"), TEN),
        (by("text").equal("PIE word12"), [12]),
        (by("text").equal("the apple"), TEN),
        (by("text").equal("appl"), []),
        (by("text").equal("fox"), [21]),
        (by("text").contains_any(["word12", "den"]), [12, 21]),
        (by("metadata").equal("k=12"), [12]),
        (by("metadata").equal("p=q"), [21]),
        (Filter.by_id().equal(uid(12)), [12]),
        (Filter.by_id().contains_any([uid(12), uid(20), uid(99)]), [12, 20]),
        (Filter.by_id().not_equal(uid(12)), [n for n in TEN if n != 12] + REST),
        (Filter.any_of([by("epoch").equal(10), by("text").equal("den")]) & by("key").like("*"), [10, 21]),
    ],
)  # fmt: skip
def test_filter(shelf: Any, where: Any, expected: list[int]) -> None:
    """Search and count agree on what matches."""
    found = [number(o) for o in shelf.query.fetch_objects(filters=where, limit=100, return_properties=[]).objects]
    assert sorted(found) == expected
    assert shelf.aggregate.over_all(total_count=True, filters=where).total_count == len(expected)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (by("nope").equal(1), "no such prop with name 'nope' found in class"),
        (by("epoch").equal(1.5), "received a floating point number 1.5"),
        (by("epoch").equal(True), "expected value to be int, got bool"),
        (by("flag").equal("true"), "expected value to be bool, got string"),
        (by("key").equal(5), "expected value to be string, got 'int'"),
        (by("object_id").equal("x"), "invalid UUID length: 1"),
        (by("object_id").like("0*"), 'operator "Like" cannot be used on uuid/uuid[] props'),
        (by("at").equal("x"), "trying parse time as RFC3339 string"),
        (by("text").equal("the"), "only stopwords provided"),
        (by("hidden").equal("h"), "requires inverted index"),
    ],
)
def test_invalid_filters_have_their_texts(shelf: Any, where: Any, text: str) -> None:
    """Reads and deletions have the same text."""
    with pytest.raises(WeaviateQueryError) as read:
        shelf.query.fetch_objects(filters=where)
    assert text in str(read.value.message)
    with pytest.raises(WeaviateDeleteManyError) as deleted:
        shelf.data.delete_many(where=where)
    assert text in str(deleted.value.message)


def test_lists_are_ordered_by_id_and_default_to_ten(shelf: Any) -> None:
    """Also reads by ids have this limit."""
    assert [number(o) for o in shelf.query.fetch_objects().objects] == TEN
    assert [number(o) for o in shelf.query.fetch_objects(limit=3, offset=10).objects] == [20, 21]
    assert len(shelf.query.fetch_objects_by_ids([uid(n) for n in range(10, 22)]).objects) == 10
    assert len(shelf.query.fetch_objects_by_ids([uid(n) for n in range(10, 22)], limit=12).objects) == 12
    assert shelf.query.fetch_object_by_id(uid(99)) is None


def test_cursor_walks_everything_once(shelf: Any) -> None:
    """In the order of ids; a filter cannot be combined with it."""
    assert [number(o) for o in shelf.iterator(cache_size=5)] == [*TEN, *REST]
    assert [number(o) for o in shelf.query.fetch_objects(limit=2, after=uid(11)).objects] == [12, 13]
    with pytest.raises(WeaviateQueryError, match="where cannot be set with after and limit parameters"):
        shelf.query.fetch_objects(limit=2, after=uid(11), filters=by("epoch").equal(1))
    with pytest.raises(WeaviateQueryError, match="is not a valid uuid"):
        shelf.query.fetch_objects(limit=2, after="zz")


def test_offset_plus_limit_has_a_bound(shelf: Any) -> None:
    """10,000 results."""
    assert len(shelf.query.fetch_objects(limit=10_000).objects) == 12
    for arguments in ({"limit": 10_001}, {"limit": 1, "offset": 10_000}):
        with pytest.raises(WeaviateQueryError, match="query maximum results exceeded"):
            shelf.query.fetch_objects(**arguments)


def test_only_wanted_properties_come_back(shelf: Any) -> None:
    """Absent values are null; unknown names are refused."""
    assert shelf.query.fetch_object_by_id(uid(12), return_properties=["epoch", "key"]).properties == {
        "epoch": 12,
        "key": "Dir/File 12",
    }
    assert shelf.query.fetch_object_by_id(uid(12), return_properties=[]).properties == {}
    assert set(shelf.query.fetch_object_by_id(uid(20)).properties.values()) == {None}
    with pytest.raises(WeaviateQueryError, match="no such prop with name 'nope'"):
        shelf.query.fetch_objects(return_properties=["nope"])


def test_metadata_only_on_request(shelf: Any) -> None:
    """Times, distance and vector are absent otherwise."""
    (plain,) = shelf.query.fetch_objects(filters=by("epoch").equal(12)).objects
    assert (plain.metadata.creation_time, plain.metadata.last_update_time, plain.vector) == (None, None, {})
    (full,) = shelf.query.fetch_objects(filters=by("epoch").equal(12), return_metadata=MetadataQuery.full()).objects
    age = dt.datetime.now(dt.UTC) - full.metadata.creation_time
    assert abs(age) < dt.timedelta(minutes=10)
    assert (full.metadata.distance, full.metadata.certainty) == (None, None)


def test_unknown_class_is_named(client: Client, name: str) -> None:
    """By every kind of call."""
    absent = client.collections.use(name)
    for call in (
        absent.query.fetch_objects,
        lambda: absent.aggregate.over_all(total_count=True),
        lambda: absent.query.near_vector([1.0]),
    ):
        with pytest.raises(WeaviateQueryError) as caught:
            call()
        assert f"could not find class {name} in schema" in str(caught.value.message)
    with pytest.raises(WeaviateDeleteManyError, match=f"could not find class {name} in schema"):
        absent.data.delete_many(where=by("epoch").equal(1))


def near(response: Any) -> list[tuple[int, float]]:
    return [(number(o), pytest.approx(o.metadata.distance, abs=1e-5)) for o in response.objects]


def test_near_vector(client: Client, name: str) -> None:
    """Distance and certainty, limit and offset, filter; changes are visible at once."""
    collection = make(client, name)
    assert collection.query.near_vector([1.0, 0.0]).objects == []
    vectors = {1: [1.0, 0.0], 2: [3.0, 4.0], 3: [0.0, 2.0], 4: [-1.0, 0.0]}
    insert(collection, *(item(n, vector, epoch=n) for n, vector in vectors.items()), item(5, epoch=5))
    want = MetadataQuery(distance=True, certainty=True)
    search = collection.query.near_vector
    everything = search([2.0, 0.0], return_metadata=want)
    assert near(everything) == [(1, 0.0), (2, 0.4), (3, 1.0), (4, 2.0)]
    assert [o.metadata.certainty for o in everything.objects] == pytest.approx([1.0, 0.8, 0.5, 0.0], abs=1e-5)
    assert near(search([2.0, 0.0], limit=2, offset=1, return_metadata=want)) == [(2, 0.4), (3, 1.0)]
    assert near(search([2.0, 0.0], filters=by("epoch").greater_than(2), return_metadata=want)) == [(3, 1.0), (4, 2.0)]
    insert(collection, item(1, [0.0, 1.0], epoch=1))
    collection.data.delete_by_id(uid(2))
    assert {n for n, _ in near(search([0.0, 1.0], limit=2, return_metadata=want))} == {1, 3}
    with pytest.raises(WeaviateQueryError, match="vector lengths don't match"):
        search([1.0, 0.0, 0.0])
    with pytest.raises(WeaviateQueryError, match="query maximum results exceeded"):
        search([1.0, 0.0], limit=10_001)
