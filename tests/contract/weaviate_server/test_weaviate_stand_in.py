"""Guarantees of the embedded Weaviate alone: refusals by name, survival of its process, an index for uuid filters."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from weaviate.classes.query import Filter, MetadataQuery, Sort
from weaviate.exceptions import UnexpectedStatusCodeError, WeaviateInsertManyAllFailedError, WeaviateQueryError

from ingestion_devstack.weaviate.schema import complete_class
from support import servers
from support.weaviate_client_side import Client, Target, by, embedded, insert, item, make, number, only_embedded, uid

# The only way to create an unnamed vector, which the product uses, with this client is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Dep024:DeprecationWarning")

REFUSED = "is not supported by the embedded Weaviate"


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda shelf: shelf.query.bm25("apple"), "bm25_search"),
        (lambda shelf: shelf.query.hybrid("apple"), "hybrid_search"),
        (lambda shelf: shelf.query.near_text("apple"), "near_text"),
        (lambda shelf: shelf.query.near_object(uid(10)), "near_object"),
        (lambda shelf: shelf.query.near_vector([1.0, 0.0, 0.0], auto_limit=1), "autocut"),
        (lambda shelf: shelf.query.near_vector([1.0, 0.0, 0.0], distance=0.5), "distance"),
        (lambda shelf: shelf.query.near_vector([1.0, 0.0, 0.0], certainty=0.5), "certainty"),
        (lambda shelf: shelf.query.fetch_objects(sort=Sort.by_property("epoch")), "sort_by"),
        (lambda shelf: shelf.with_tenant("t").query.fetch_objects(), "tenant"),
        (lambda shelf: shelf.aggregate.over_all(group_by="object_id"), "group_by"),
        (lambda shelf: shelf.query.fetch_objects(filters=Filter.not_(by("epoch").equal(1))), "OPERATOR_NOT"),
        (lambda shelf: shelf.query.fetch_objects(filters=by("epoch").equal("1")), "a text as the operand"),
        (lambda shelf: shelf.query.fetch_objects(filters=by("key").is_none(True)), "OPERATOR_IS_NULL"),
        (lambda shelf: shelf.query.fetch_objects(filters=by("key", length=True).equal(1)), "len"),
        (lambda shelf: shelf.query.fetch_objects(filters=by("metadata").contains_all(["x"])), "CONTAINS_ALL"),
        (lambda shelf: shelf.query.fetch_objects(filters=by("metadata").like("x")), "Like on anything but"),
        (lambda shelf: shelf.query.fetch_objects(filters=by("text").not_equal("x")), "OPERATOR_NOT_EQUAL on text"),
    ],
)
def test_unsupported_calls_are_refused_by_name(
    target: Target, shelf: Any, call: Callable[[Any], Any], named: str
) -> None:
    """An error of the call that names the field, operator or operand."""
    only_embedded(target)
    with pytest.raises(WeaviateQueryError, match=f"{named}.*{REFUSED}"):
        call(shelf)


def test_unsupported_parameters_are_501(target: Target, http: httpx.Client) -> None:
    """The text names the parameter."""
    only_embedded(target)
    response = http.post("/objects", params={"consistency_level": "ALL"}, json={})
    assert response.status_code == 501
    assert f"the parameter `consistency_level` {REFUSED}" in response.json()["error"][0]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/graphql"),
        ("POST", "/batch/objects"),
        ("PUT", "/schema/{name}"),
        ("GET", "/objects"),
        ("PUT", "/objects/{name}/00000000-0000-0000-0000-000000000001"),
        ("POST", "/schema/{name}/tenants"),
    ],
)
def test_unsupported_paths_are_501(target: Target, http: httpx.Client, name: str, method: str, path: str) -> None:
    """The text names the path."""
    only_embedded(target)
    response = http.request(method, path.format(name=name))
    assert response.status_code == 501
    assert f"{method} /v1{path.format(name=name)} {REFUSED}" in response.json()["error"][0]["message"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"multiTenancyConfig": {"enabled": True}}, "`multiTenancyConfig` of a class"),
        ({"vectorConfig": {"one": {"vectorizer": {"none": {}}}, "two": {"vectorizer": {"none": {}}}}}, "several named"),
        ({"vectorIndexType": "flat"}, "a vector index of type flat"),
        ({"vectorIndexConfig": {"distance": "dot"}}, "the distance dot"),
        ({"vectorIndexConfig": {"multivector": {"enabled": True}}}, "`multivector` of a vector index"),
        ({"properties": [{"name": "x", "dataType": ["geoCoordinates"]}]}, "the data type ['geoCoordinates']"),
        ({"properties": [{"name": "x", "dataType": ["text"], "tokenization": "trigram"}]}, "tokenization 'trigram'"),
    ],
)
def test_unsupported_definitions_are_refused_by_name(
    target: Target, http: httpx.Client, name: str, change: dict[str, Any], named: str
) -> None:
    """422 with the name of the setting."""
    only_embedded(target)
    response = http.post("/schema", json={"class": name, **change})
    assert response.status_code == 422
    message = response.json()["error"][0]["message"]
    assert named in message
    assert REFUSED in message


def test_unsupported_values_are_refused_by_name(target: Target, client: Client, name: str) -> None:
    """In a batch as the error of their object; a single object is refused as a whole."""
    only_embedded(target)
    collection = make(client, name)
    errors = insert(collection, item(1, key="k"), item(2, nested={"a": 1}), item(3, numbers=[1, 2]))
    assert errors.keys() == {1, 2}
    assert all(REFUSED in text for text in errors.values())
    with pytest.raises(UnexpectedStatusCodeError, match=f"text array|{REFUSED}"):
        collection.data.insert({"numbers": [1, 2]}, uuid=uid(4))
    assert len(collection) == 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_everything_acknowledged_is_there_after_a_restart(tmp_path: Path, end: str) -> None:
    """SIGTERM ends with exit code 0; nothing is lost by it or by SIGKILL: classes, aliases, objects, deletions."""
    with servers.stopping(servers.start_weaviate(tmp_path)) as server:
        with embedded(server).connect() as before:
            collection = make(before, "Kept")
            make(before, "Dropped")
            before.alias.create(alias_name="Other", target_collection="Kept")
            insert(collection, *(item(n, [1.0, float(n)], epoch=n, object_id=uid(n)) for n in range(1, 301)))
            collection.data.delete_many(where=by("epoch").greater_than(200))
            collection.data.update(uid(1), properties={"key": "changed"})
            before.collections.delete("Dropped")
            insert(collection, item(500, [1.0, 500.0], epoch=500))
            if end == "kill":
                server.kill()
        if end == "stop":
            assert server.stop() == 0
    with servers.stopping(servers.start_weaviate(tmp_path)) as server, embedded(server).connect() as after:
        assert not after.collections.exists("Dropped")
        collection = after.collections.use("Other")
        assert len(collection) == 201
        assert [number(o) for o in collection.query.near_vector([1.0, 500.0], limit=1).objects] == [500]
        assert collection.query.fetch_object_by_id(uid(1)).properties["key"] == "changed"
        assert [number(o) for o in collection.query.fetch_objects(filters=by("object_id").equal(uid(7))).objects] == [7]
        with pytest.raises(WeaviateInsertManyAllFailedError, match="Existing nodes have vectors with length 2"):
            insert(collection, item(600, [1.0], epoch=1))


def write_former_layout(directory: Path) -> None:
    """Write the files of an earlier stand-in: a class with one object, a class without a file, an alias."""
    directory.mkdir()
    properties = [{"name": "key", "dataType": ["text"], "tokenization": "field", "indexFilterable": True}]
    with sqlite3.connect(directory / "catalog.db") as db:
        db.execute("CREATE TABLE classes(number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, body BLOB)")
        db.execute("CREATE TABLE aliases(name TEXT PRIMARY KEY, class TEXT)")
        for number, name in ((3, "Docs"), (4, "Unused")):
            db.execute("INSERT INTO classes VALUES (?, ?, ?)", (number, name, json.dumps(complete(name, properties))))
        db.execute("INSERT INTO aliases VALUES ('Live', 'Docs')")
    with sqlite3.connect(directory / "class-3.db") as db:
        db.execute("CREATE TABLE objects(doc INTEGER PRIMARY KEY, id BLOB, created INTEGER, updated INTEGER)")
        db.execute("CREATE TABLE bodies(doc INTEGER PRIMARY KEY, props BLOB NOT NULL, vectors BLOB)")
        db.execute("INSERT INTO objects VALUES (9, ?, 1000, 2000)", [UUID(int=5).bytes])
        vectors = b"\x00\x08\x00\x00\x00" + np.array([1.0, 0.5], dtype="<f4").tobytes()
        db.execute("INSERT INTO bodies VALUES (9, ?, ?)", [b'{"key":"a"}', vectors])


def complete(name: str, properties: list[dict[str, Any]]) -> dict[str, Any]:
    return complete_class({"class": name, "vectorizer": "none", "properties": properties})


def test_a_directory_of_an_earlier_stand_in_is_taken_over(tmp_path: Path) -> None:
    """Classes, aliases, objects, times and vectors are the same; the former files are gone; a restart reads the new."""
    write_former_layout(tmp_path / "weaviate")
    for _ in range(2):
        with servers.stopping(servers.start_weaviate(tmp_path)) as server, embedded(server).connect() as client:
            assert sorted(client.collections.list_all()) == ["Docs", "Unused"]
            (found,) = (
                client.collections.use("Live")
                .query.fetch_objects(include_vector=True, return_metadata=MetadataQuery(creation_time=True))
                .objects
            )
            assert (number(found), found.properties, found.vector) == (5, {"key": "a"}, {"default": [1.0, 0.5]})
            assert found.metadata.creation_time == dt.datetime.fromtimestamp(1, dt.UTC)
        assert not list((tmp_path / "weaviate").glob("c*.db"))


def test_a_filter_on_a_uuid_uses_its_index(tmp_path: Path) -> None:
    """`object_id = X and epoch < n`, which follows every write of the product, is a search in one index."""
    with servers.stopping(servers.start_weaviate(tmp_path)) as server, embedded(server).connect() as client:
        collection = make(client, "Indexed")
        insert(collection, *(item(n, epoch=n, object_id=uid(n % 50)) for n in range(1, 2001)))
        where = by("object_id").contains_any([uid(7)]) & by("epoch").less_than(1000)
        assert collection.aggregate.over_all(total_count=True, filters=where).total_count == 20
    with sqlite3.connect(tmp_path / "weaviate" / "weaviate.db") as db:
        sql = "SELECT count(*) FROM objects_1 WHERE json_extract(props, '$.object_id') IN (?)"
        details = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", [uid(7)])]
    assert details == ["SEARCH objects_1 USING INDEX objects_1_object_id (<expr>=?)"]


def test_searches_rank_as_a_plain_computation_does(client: Client, name: str) -> None:
    """After inserts, replacements and deletions, with and without a filter."""
    rng = np.random.default_rng(3)
    collection, left = make(client, name), {}
    for n in rng.integers(1, 200, size=400).tolist():
        left[n] = rng.standard_normal(8).astype(np.float32)
    insert(collection, *(item(n, rng.standard_normal(8).tolist(), epoch=0) for n in range(1, 200, 3)))
    insert(collection, *(item(n, vector.tolist(), epoch=n) for n, vector in left.items()))
    collection.data.delete_many(where=by("epoch").less_than(20))
    query = rng.standard_normal(8)
    exact = {n: float(vector @ query / np.linalg.norm(vector)) for n, vector in left.items() if n >= 20}
    ranked = sorted(exact, key=lambda n: -exact[n])
    found = collection.query.near_vector(query.tolist(), limit=500).objects
    assert [number(o) for o in found] == ranked
    low = collection.query.near_vector(query.tolist(), limit=5, filters=by("epoch").less_than(100)).objects
    assert [number(o) for o in low] == [n for n in ranked if n < 100][:5]
