"""Weaviate's objects: written, counted and deleted.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_WEAVIATE__URL and
INGEST_WEAVIATE__GRPC_URL (and INGEST_WEAVIATE__API_KEY).
"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import grpc
import httpx
import numpy as np
import pytest
from weaviate.classes.config import Vectorizers
from weaviate.classes.data import DataObject
from weaviate.exceptions import UnexpectedStatusCodeError, WeaviateInsertManyAllFailedError
from weaviate.proto.v1 import batch_delete_pb2, batch_pb2, weaviate_pb2_grpc

from support.weaviate_client_side import Client, Target, by, insert, item, make, number, uid

# The only way to create an unnamed vector, which the product uses, with this client is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Dep024:DeprecationWarning")


def test_batch_round_trip_keeps_every_value(client: Client, name: str) -> None:
    """Properties of every type and float32 vectors come back equal, bit by bit."""
    collection = make(client, name)
    vector = np.random.default_rng(7).standard_normal(384).astype(np.float32)
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
    props = {
        "object_id": UUID(int=5), "epoch": 2**40, "key": "  a/b c ", "text": "The quick\nBrown 🦊",
        "ratio": 0.1, "flag": False, "at": moment, "metadata": ["k=v", " x "], "hidden": "",
    }  # fmt: skip
    assert insert(collection, DataObject(props, uuid=uid(1), vector=vector)) == {}
    found = collection.query.fetch_object_by_id(uid(1), include_vector=True)
    assert found.properties == props
    assert np.array_equal(np.asarray(found.vector["default"], dtype=np.float32), vector)


def test_batch_names_refused_objects_by_index_and_stores_the_others(client: Client, name: str) -> None:
    """Each text names the property and the value."""
    collection = make(client, name)
    insert(collection, item(1, [1.0, 0.0], epoch=1))
    errors = insert(
        collection,
        item(1, [1.0, 0.0], epoch=1),
        item(2, [1.0, 0.0], epoch=1.5),
        item(3, [1.0, 0.0], object_id="no uuid"),
        item(4, [1.0, 0.0], at="2024-01-02"),
        item(5, [1.0, 0.0], text=5),
        item(6, [1.0, 0.0], flag="x"),
        item(7, [1.0, 0.0], metadata="x"),
        item(8, [1.0, 0.0, 0.0], epoch=1),
        item(9, {"other": [1.0, 0.0]}, epoch=1),
    )
    expected = {
        1: f"invalid integer property 'epoch' on class '{name}': requires an integer, the given value is '1.5'",
        2: f"invalid uuid property 'object_id' on class '{name}': "
        "requires a string of UUID format, but the given value is 'no uuid'",
        3: f"invalid date property 'at' on class '{name}': "
        "requires a string with a RFC3339 formatted date, but the given value is '2024-01-02'",
        4: f"invalid text property 'text' on class '{name}': not a string, but float64",
        5: f"invalid boolean property 'flag' on class '{name}': not a bool, but string",
        6: f"invalid text array property 'metadata' on class '{name}': not a text array, but string",
        8: f"collection {name} does not have configuration for vector other",
    }
    assert {at: text for at, text in errors.items() if at != 7} == expected
    assert "new node has a vector with length 3. Existing nodes have vectors with length 2" in errors[7]
    assert [number(o) for o in collection.query.fetch_objects().objects] == [1]


def test_batch_with_nothing_but_errors_raises_in_the_client_only(client: Client, name: str) -> None:
    """The server answers as for any other batch."""
    collection = make(client, name)
    with pytest.raises(WeaviateInsertManyAllFailedError, match="requires an integer"):
        insert(collection, item(1, epoch="x"))
    assert len(collection) == 0


def test_bad_uuid_is_one_error(target: Target, client: Client, name: str) -> None:
    """The other objects of the batch are stored."""
    make(client, name)
    objects = [batch_pb2.BatchObject(collection=name, uuid=text) for text in (uid(1), "nope", "g" * 36)]
    metadata = tuple((key.lower(), value) for key, value in target.headers.items())
    with grpc.insecure_channel(target.grpc_address) as channel:
        stub = weaviate_pb2_grpc.WeaviateStub(channel)
        reply = stub.BatchObjects(batch_pb2.BatchObjectsRequest(objects=objects), metadata=metadata)
    errors = {error.index: error.error for error in reply.errors}
    assert errors == {1: "invalid UUID length: 4", 2: "invalid UUID format"}


def test_batch_replaces_and_a_missing_vector_drops_the_old_one(client: Client, name: str) -> None:
    """Properties that the new object lacks are dropped too."""
    collection = make(client, name)
    insert(collection, item(1, [1.0, 0.0], epoch=1, key="k"), item(2, [0.0, 1.0], epoch=1))
    insert(collection, item(1, epoch=2))
    found = collection.query.fetch_object_by_id(uid(1), include_vector=True)
    assert {key: value for key, value in found.properties.items() if value is not None} == {"epoch": 2}
    assert found.vector == {}
    assert [number(o) for o in collection.query.near_vector([1.0, 0.0]).objects] == [2]
    assert len(collection) == 2


def test_the_last_of_two_equal_ids_in_a_batch_wins(client: Client, name: str) -> None:
    """It counts as one object."""
    collection = make(client, name)
    assert insert(collection, item(1, epoch=1), item(1, epoch=2)) == {}
    assert collection.query.fetch_object_by_id(uid(1)).properties["epoch"] == 2
    assert len(collection) == 1


def test_batch_contexts_deliver_everything(client: Client, name: str) -> None:
    """With a fixed and with a dynamic size; failed objects are listed."""
    collection = make(client, name)
    with client.batch.fixed_size(batch_size=7) as batch:
        for n in range(20):
            batch.add_object(name, {"epoch": n}, uuid=uid(n + 1), vector=[1.0, 0.0])
    with collection.batch.dynamic() as batch:
        for n in range(20, 40):
            batch.add_object({"epoch": n if n != 30 else "x"}, uuid=uid(n + 1), vector=[1.0, 0.0])
    assert client.batch.failed_objects == []
    assert [failed.object_.properties["epoch"] for failed in collection.batch.failed_objects] == ["x"]
    assert len(collection) == 39


def test_unknown_property_and_dropped_class_are_made_by_auto_schema(client: Client, name: str) -> None:
    """Numbers become `number`; the new class has one vector, without a name in 1.39, called default in later ones."""
    collection = make(client, name)
    insert(collection, item(1, [1.0, 0.0], fresh="x"))
    assert "fresh" in {prop.name for prop in collection.config.get().properties}
    client.collections.delete(name)
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert insert(collection, item(1, [1.0, 0.0, 0.0], i=5, s="x", u=uid(3), d=moment, f=True, t=["a"])) == {}
    config = collection.config.get()
    assert {prop.name: str(prop.data_type.value) for prop in config.properties} == {
        "i": "number", "s": "text", "u": "uuid", "d": "date", "f": "boolean", "t": "text[]",
    }  # fmt: skip
    assert list(config.vector_config or {}) in ([], ["default"])
    assert config.vector_config or config.vectorizer == Vectorizers.NONE
    assert [number(o) for o in collection.query.near_vector([1.0, 0.0, 0.0]).objects] == [1]


def test_single_objects_over_rest(client: Client, http: httpx.Client, name: str) -> None:
    """Insert refuses an existing id, update merges and keeps the vector, delete is idempotent."""
    data, query = make(client, name).data, client.collections.use(name).query
    data.insert({"epoch": 1, "key": "k"}, uuid=uid(1), vector=[0.5, 0.5])
    with pytest.raises(UnexpectedStatusCodeError, match="already exists"):
        data.insert({"epoch": 1}, uuid=uid(1))
    with pytest.raises(UnexpectedStatusCodeError, match="requires an integer"):
        data.insert({"epoch": "x"}, uuid=uid(2))
    with pytest.raises(UnexpectedStatusCodeError, match="new node has a vector with length 3"):
        data.insert({"epoch": 1}, uuid=uid(2), vector=[1.0, 1.0, 1.0])
    data.update(uid(1), properties={"ratio": 2.5, "key": None})
    updated = query.fetch_object_by_id(uid(1), include_vector=True)
    assert {key: value for key, value in updated.properties.items() if value is not None} == {"epoch": 1, "ratio": 2.5}
    assert updated.vector == {"default": [0.5, 0.5]}
    data.update(uid(1), vector=[0.5, 0.25])
    assert query.fetch_object_by_id(uid(1), include_vector=True).vector == {"default": [0.5, 0.25]}
    with pytest.raises(UnexpectedStatusCodeError) as caught:
        data.update(uid(9), properties={"epoch": 1})
    assert caught.value.status_code == 404
    assert http.delete(f"/objects/{name}/nope").status_code == 422
    assert http.post("/objects", content=b"[", headers={"content-type": "application/json"}).status_code == 400
    assert (data.delete_by_id(uid(1)), data.delete_by_id(uid(1)), query.fetch_object_by_id(uid(1))) == (
        True,
        True,
        None,
    )


def test_counts(shelf: Any) -> None:
    """With and without a filter."""
    total = shelf.aggregate.over_all
    assert len(shelf) == total(total_count=True).total_count == 12
    assert total(total_count=True, filters=by("epoch").greater_than(14)).total_count == 5


def test_delete_many(client: Client, name: str) -> None:
    """A dry run deletes nothing; a verbose one lists the ids."""
    collection = make(client, name)
    insert(collection, *(item(n, [1.0, 0.0], object_id=uid(n % 2), epoch=n) for n in range(1, 9)))
    where = by("object_id").equal(uid(0)) & by("epoch").less_than(7)
    dry = collection.data.delete_many(where=where, dry_run=True)
    assert (dry.matches, dry.successful, dry.failed, dry.objects) == (3, 3, 0, None)
    assert len(collection) == 8
    done = collection.data.delete_many(where=where, verbose=True)
    assert (done.matches, done.successful) == (3, 3)
    assert sorted(number(o) for o in done.objects) == [2, 4, 6]
    assert all(o.successful and o.error is None for o in done.objects)
    assert collection.data.delete_many(where=where).matches == 0
    assert [number(o) for o in collection.query.fetch_objects().objects] == [1, 3, 5, 7, 8]
    assert {number(o) for o in collection.query.near_vector([1.0, 0.0]).objects} == {1, 3, 5, 7, 8}


def test_delete_many_takes_ten_thousand_at_a_time(client: Client, name: str) -> None:
    """A second call deletes the rest."""
    collection = make(client, name)
    for start in range(0, 10_200, 3400):
        insert(collection, *(item(n + 1, epoch=n) for n in range(start, start + 3400)))
    first = collection.data.delete_many(where=by("epoch").greater_or_equal(0))
    second = collection.data.delete_many(where=by("epoch").greater_or_equal(0))
    assert (first.matches, first.successful, second.matches, second.successful) == (10_200, 10_000, 200, 200)


def test_delete_many_without_a_filter_is_refused(target: Target, client: Client, name: str) -> None:
    """An error of the call, status UNKNOWN."""
    make(client, name)
    metadata = tuple((key.lower(), value) for key, value in target.headers.items())
    with grpc.insecure_channel(target.grpc_address) as channel:
        stub = weaviate_pb2_grpc.WeaviateStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.BatchDelete(batch_delete_pb2.BatchDeleteRequest(collection=name), metadata=metadata)
    assert caught.value.code() == grpc.StatusCode.UNKNOWN
    assert caught.value.details() == "batch delete params: no filters in batch delete request"
