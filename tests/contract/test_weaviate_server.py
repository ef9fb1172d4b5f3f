"""What Weaviate does, as the official client and plain HTTP see it.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_WEAVIATE__URL and
INGEST_WEAVIATE__GRPC_URL (and INGEST_WEAVIATE__API_KEY); tests of persistence and of what the stand-in lacks need
the former.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import grpc
import httpx
import numpy as np
import pytest
import weaviate
from weaviate.classes.config import Configure, DataType, Property, Tokenization
from weaviate.classes.data import DataObject
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.classes.query import Filter, MetadataQuery, Metrics, Sort
from weaviate.exceptions import (
    UnexpectedStatusCodeError,
    WeaviateDeleteManyError,
    WeaviateInsertManyAllFailedError,
    WeaviateQueryError,
)
from weaviate.proto.v1 import aggregate_pb2, base_pb2, batch_delete_pb2, batch_pb2, search_get_pb2, weaviate_pb2_grpc

import servers
from ingestion_engine.devstack.weaviate_filters import compile_filter
from ingestion_engine.devstack.weaviate_records import NewObject
from ingestion_engine.devstack.weaviate_schema import complete_class
from ingestion_engine.devstack.weaviate_storage import Collection
from ingestion_engine.devstack.weaviate_vectors import VectorSpace

# The only way to ask this client for an unnamed vector, which older collections have, is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Dep024:DeprecationWarning")

Client = weaviate.WeaviateClient
by = Filter.by_property


def uid(number: int) -> str:
    return str(UUID(int=number))


def number(obj: Any) -> int:
    return UUID(str(obj.uuid)).int


@dataclass(frozen=True, slots=True)
class Target:
    url: str
    grpc_address: str
    api_key: str | None
    is_embedded: bool

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def connect(self, *, api_key: str | None = None, skip_init_checks: bool = True) -> Client:
        rest, (grpc_host, grpc_port) = urlsplit(self.url), self.grpc_address.rsplit(":", 1)
        key = api_key or self.api_key
        return weaviate.connect_to_custom(
            rest.hostname or "",
            rest.port or 80,
            rest.scheme == "https",
            grpc_host,
            int(grpc_port),
            False,
            auth_credentials=Auth.api_key(key) if key else None,
            skip_init_checks=skip_init_checks,
            additional_config=AdditionalConfig(timeout=Timeout(init=10)),
        )


def embedded(server: servers.RunningServer) -> Target:
    return Target(server.url, f"127.0.0.1:{server.ports['grpc']}", server.secrets["WEAVIATE_API_KEY"], True)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    url = os.environ.get("INGEST_WEAVIATE__URL")
    if url:
        address = urlsplit(os.environ["INGEST_WEAVIATE__GRPC_URL"]).netloc
        yield Target(url, address, os.environ.get("INGEST_WEAVIATE__API_KEY"), False)
        return
    with servers.stopping(servers.start_weaviate(tmp_path_factory.mktemp("weaviate"))) as server:
        yield embedded(server)


@pytest.fixture(scope="module")
def client(target: Target) -> Iterator[Client]:
    with target.connect() as connected:
        yield connected


@pytest.fixture(scope="module")
def http(target: Target) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=target.url + "/v1", headers=target.headers) as session:
        yield session


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    """A class name that is free, dropped afterwards."""
    unique = "T" + secrets.token_hex(8)
    yield unique
    client.collections.delete(unique)


@pytest.fixture
def alias(client: Client) -> Iterator[str]:
    unique = "A" + secrets.token_hex(8)
    yield unique
    client.alias.delete(alias_name=unique)


PROPERTIES = [
    Property(name="object_id", data_type=DataType.UUID),
    Property(name="epoch", data_type=DataType.INT),
    Property(name="key", data_type=DataType.TEXT, tokenization=Tokenization.FIELD),
    Property(name="text", data_type=DataType.TEXT),
    Property(name="lower", data_type=DataType.TEXT, tokenization=Tokenization.LOWERCASE),
    Property(name="white", data_type=DataType.TEXT, tokenization=Tokenization.WHITESPACE),
    Property(name="ratio", data_type=DataType.NUMBER),
    Property(name="flag", data_type=DataType.BOOL),
    Property(name="at", data_type=DataType.DATE),
    Property(name="metadata", data_type=DataType.TEXT_ARRAY, tokenization=Tokenization.FIELD),
    Property(name="pages", data_type=DataType.INT_ARRAY),
    Property(name="owners", data_type=DataType.UUID_ARRAY),
    Property(name="hidden", data_type=DataType.TEXT, index_filterable=False, index_searchable=False),
]


def make(client: Client, name: str, **kwargs: Any) -> Any:
    """A class with one unnamed vector and a property of every kind."""
    unnamed = Configure.Vectorizer.none()
    return client.collections.create(name, vectorizer_config=unnamed, properties=PROPERTIES, **kwargs)


def insert(collection: Any, *objects: DataObject[Any, Any]) -> dict[int, str]:
    """Errors by index."""
    return {at: error.message for at, error in collection.data.insert_many(list(objects)).errors.items()}


def item(n: int, vector: Any = None, **props: Any) -> DataObject[Any, Any]:
    return DataObject(props, uuid=uid(n), vector=vector)


# -- connection --------------------------------------------------------------------------------------------------


def test_client_connects_with_all_its_checks(target: Target) -> None:
    """The client's start-up checks pass: OIDC is absent, meta has a version with aliases, gRPC is healthy."""
    with target.connect(skip_init_checks=False) as checked:
        assert checked.is_ready()
        assert checked.is_live()
        major, minor = checked.get_meta()["version"].split(".")[:2]
        assert (int(major), int(minor)) >= (1, 32)
        assert checked.get_meta()["grpcMaxMessageSize"] > 10_000_000


def test_probes_need_no_key_and_there_is_no_oidc(target: Target) -> None:
    for path, status in (
        (".well-known/live", 200),
        (".well-known/ready", 200),
        (".well-known/openid-configuration", 404),
    ):
        assert httpx.get(f"{target.url}/v1/{path}").status_code == status


def test_unknown_paths_are_json_404(http: httpx.Client) -> None:
    response = http.get("/nope")
    assert (response.status_code, response.json()["message"]) == (404, "path /v1/nope was not found")


def test_wrong_key_is_refused_on_both_protocols(target: Target) -> None:
    """401 over HTTP, an error of the call over gRPC that names the key."""
    if target.api_key is None:
        assert httpx.get(f"{target.url}/v1/meta").status_code == 200
        return
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.get(f"{target.url}/v1/schema", headers=headers).status_code == 401
    with grpc.insecure_channel(target.grpc_address) as channel:
        stub = weaviate_pb2_grpc.WeaviateStub(channel)
        calls = (
            (stub.Search, search_get_pb2.SearchRequest(collection="X")),
            (stub.BatchObjects, batch_pb2.BatchObjectsRequest()),
            (stub.Aggregate, aggregate_pb2.AggregateRequest(collection="X")),
            (stub.BatchDelete, batch_delete_pb2.BatchDeleteRequest(collection="X")),
        )
        for call, request in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call(request, metadata=(("authorization", "Bearer wrong"),))
            assert "unauthorized: invalid api key" in caught.value.details()


# -- schema ------------------------------------------------------------------------------------------------------


def test_class_lives_under_its_capitalised_name(client: Client, name: str) -> None:
    make(client, name[:1].lower() + name[1:])
    assert client.collections.exists(name)
    assert name in client.collections.list_all()
    config = client.collections.use(name).config.get()
    assert config.name == name
    assert [prop.name for prop in config.properties if prop.index_filterable] != []
    tokenizations = {prop.name: prop.tokenization for prop in config.properties}
    assert tokenizations["key"] == Tokenization.FIELD
    assert tokenizations["text"] == Tokenization.WORD
    assert config.vector_index_config is not None
    assert config.vector_index_config.distance_metric == "cosine"
    client.collections.delete(name)
    assert not client.collections.exists(name)


def test_class_names_collide_without_case(client: Client, http: httpx.Client, name: str) -> None:
    make(client, name)
    again = http.post("/schema", json={"class": name})
    assert (again.status_code, again.json()["error"][0]["message"]) == (422, f"class name {name} already exists")
    similar = http.post("/schema", json={"class": name.upper()})
    assert similar.status_code == 422
    assert f'found similar class "{name}"' in similar.json()["error"][0]["message"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"class": "No-good"}, "is not a valid class name"),
        ({"properties": [{"name": "x", "dataType": ["wibble"]}]}, "unknown primitive data type 'wibble'"),
        ({"properties": [{"name": "x-y", "dataType": ["text"]}]}, "is not a valid property name"),
        ({"properties": [{"name": "id", "dataType": ["text"]}]}, "'id' is a reserved property name"),
        ({"properties": [{"name": "a", "dataType": ["int"], "tokenization": "word"}]}, "tokenization is not allowed"),
        (
            {"properties": [{"name": "a", "dataType": ["int"]}, {"name": "A", "dataType": ["int"]}]},
            "conflict for property",
        ),
        ({"vectorizer": "text2vec-nope"}, 'no module with name "text2vec-nope" present'),
        ({"vectorIndexType": "nope"}, "unrecognized or unsupported vectorIndexType"),
        ({"vectorIndexConfig": {"distance": "nope"}}, 'unrecognized distance metric "nope"'),
        ({"replicationConfig": {"factor": 3}}, "could not find enough weaviate nodes"),
    ],
)
def test_impossible_classes_are_refused(http: httpx.Client, name: str, change: dict[str, Any], text: str) -> None:
    response = http.post("/schema", json={"class": name, **change})
    assert response.status_code == 422
    assert text in response.json()["error"][0]["message"]


def test_absent_class_is_404_and_deleting_it_is_fine(http: httpx.Client, name: str) -> None:
    assert http.get(f"/schema/{name}").status_code == 404
    assert http.delete(f"/schema/{name}").status_code == 200


def test_properties_can_be_added_once(client: Client, name: str) -> None:
    collection = make(client, name)
    insert(collection, item(1, epoch=1))
    collection.config.add_property(Property(name="later", data_type=DataType.INT))
    insert(collection, item(2, later=7))
    assert [number(o) for o in collection.query.fetch_objects(filters=by("later").equal(7)).objects] == [2]
    assert collection.query.fetch_object_by_id(uid(1)).properties["later"] is None
    with pytest.raises(UnexpectedStatusCodeError, match="conflict for property"):
        collection.config.add_property(Property(name="Later", data_type=DataType.INT))


def test_description_can_be_updated(client: Client, name: str) -> None:
    collection = make(client, name)
    collection.config.update(description="second")
    assert collection.config.get().description == "second"


# -- writing -----------------------------------------------------------------------------------------------------


def test_batch_round_trip_keeps_every_value(client: Client, name: str) -> None:
    """Properties of every type and float32 vectors come back equal, bit by bit."""
    collection = make(client, name)
    vector = np.random.default_rng(7).standard_normal(384).astype(np.float32)
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
    props = {
        "object_id": UUID(int=5), "epoch": 2**40, "key": "  a/b c ", "text": "The quick\nBrown 🦊", "lower": "L",
        "white": "W", "ratio": 0.1, "flag": False, "at": moment, "metadata": ["k=v", " x "], "pages": [1, -2],
        "owners": [UUID(int=9)], "hidden": "",
    }  # fmt: skip
    assert insert(collection, DataObject(props, uuid=uid(1), vector=vector)) == {}
    found = collection.query.fetch_object_by_id(uid(1), include_vector=True)
    assert found.properties == props
    assert np.array_equal(np.asarray(found.vector["default"], dtype=np.float32), vector)


def test_batch_names_refused_objects_by_index_and_stores_the_others(client: Client, name: str) -> None:
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
    collection = make(client, name)
    with pytest.raises(WeaviateInsertManyAllFailedError, match="requires an integer"):
        insert(collection, item(1, epoch="x"))
    assert len(collection) == 0


def test_bad_uuid_is_one_error(target: Target, client: Client, name: str) -> None:
    make(client, name)
    objects = [batch_pb2.BatchObject(collection=name, uuid=text) for text in (uid(1), "nope", "g" * 36)]
    metadata = tuple((key.lower(), value) for key, value in target.headers.items())
    with grpc.insecure_channel(target.grpc_address) as channel:
        stub = weaviate_pb2_grpc.WeaviateStub(channel)
        reply = stub.BatchObjects(batch_pb2.BatchObjectsRequest(objects=objects), metadata=metadata)
    errors = {error.index: error.error for error in reply.errors}
    assert errors == {1: "invalid UUID length: 4", 2: "invalid UUID format"}


def test_batch_replaces_and_a_missing_vector_drops_the_old_one(client: Client, name: str) -> None:
    collection = make(client, name)
    insert(collection, item(1, [1.0, 0.0], epoch=1, key="k"), item(2, [0.0, 1.0], epoch=1))
    insert(collection, item(1, epoch=2))
    found = collection.query.fetch_object_by_id(uid(1), include_vector=True)
    assert {key: value for key, value in found.properties.items() if value is not None} == {"epoch": 2}
    assert found.vector == {}
    assert [number(o) for o in collection.query.near_vector([1.0, 0.0]).objects] == [2]
    assert len(collection) == 2


def test_the_last_of_two_equal_ids_in_a_batch_wins(client: Client, name: str) -> None:
    collection = make(client, name)
    assert insert(collection, item(1, epoch=1), item(1, epoch=2)) == {}
    assert collection.query.fetch_object_by_id(uid(1)).properties["epoch"] == 2
    assert len(collection) == 1


def test_batch_contexts_deliver_everything(client: Client, name: str) -> None:
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
    """Numbers become `number`, and the new class has one named vector called default."""
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
    assert list(config.vector_config or {}) == ["default"]
    assert [number(o) for o in collection.query.near_vector([1.0, 0.0, 0.0]).objects] == [1]


def test_single_objects_over_rest(client: Client, name: str) -> None:
    """Insert refuses an existing id, update merges and keeps the vector, replace drops it, delete is idempotent."""
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
    data.replace(uid(1), properties={"epoch": 3})
    replaced = query.fetch_object_by_id(uid(1), include_vector=True)
    assert ({key: value for key, value in replaced.properties.items() if value is not None}, replaced.vector) == (
        {"epoch": 3},
        {},
    )
    for call in (data.update, data.replace):
        with pytest.raises(UnexpectedStatusCodeError) as caught:
            call(uid(9), properties={"epoch": 1})
        assert caught.value.status_code == 404
    assert (data.exists(uid(1)), data.exists(uid(9))) == (True, False)
    assert (data.delete_by_id(uid(1)), data.delete_by_id(uid(1)), data.exists(uid(1))) == (True, True, False)


def test_plain_http_reads_objects(client: Client, http: httpx.Client, name: str) -> None:
    collection = make(client, name)
    insert(collection, item(1, [1.0, 2.0], epoch=1), item(2, epoch=2))
    one = http.get(f"/objects/{name}/{uid(1)}", params={"include": "vector"}).json()
    assert (one["class"], one["id"], one["properties"], one["vector"]) == (name, uid(1), {"epoch": 1}, [1, 2])
    page = http.get("/objects", params={"class": name, "limit": 5, "after": uid(1)}).json()
    assert [found["id"] for found in page["objects"]] == [uid(2)]
    assert http.get(f"/objects/{name}/{uid(3)}").status_code == 404
    assert http.get(f"/objects/{name}/nope").status_code == 422
    assert http.head(f"/objects/{name}/{uid(1)}").status_code == 204
    assert http.post("/objects", content=b"[", headers={"content-type": "application/json"}).status_code == 400
    nodes = http.get(f"/nodes/{name}", params={"output": "verbose"}).json()["nodes"]
    assert [shard["class"] for node in nodes for shard in node["shards"]] == [name]


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(client: Client) -> Iterator[Any]:
    """Ten objects, numbers 10 to 19, with a value in every property; 20 has none; 21 has odd white space."""
    name = "T" + secrets.token_hex(8)
    collection = make(client, name)
    errors = insert(
        collection,
        *(
            item(
                n,
                [1.0, float(n), 0.0],
                object_id=uid(n % 3), epoch=n, key=f"Dir/File {n}", text=f"word{n} the apple Pie-{n}", lower=f"Low {n}",
                white=f"White Space{n}", ratio=n / 2, flag=n % 2 == 0, at=f"2024-01-{n}T00:00:00Z",
                metadata=[f"k={n}", "Common X"], pages=[n, n + 1], owners=[uid(n)], hidden="h",
            )
            for n in range(10, 20)
        ),
        item(20),
        item(21, key="  padded ", metadata=[" p=q "], text="fox's den"),
    )  # fmt: skip
    assert errors == {}
    yield collection
    client.collections.delete(name)


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
        (by("epoch").equal("12"), [12]),
        (by("epoch").contains_any([12, 13, 99]), [12, 13]),
        (Filter.not_(by("epoch").less_than(18)), [18, 19, *REST]),
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
        (by("text").not_equal("apple"), REST),
        (by("text").like("WORD1?"), TEN),
        (by("text").contains_any(["word12", "den"]), [12, 21]),
        (by("text").contains_all(["word12", "apple"]), [12]),
        (by("lower").equal("LOW 12"), [12]),
        (by("white").equal("White"), TEN),
        (by("white").equal("white"), []),
        (by("metadata").equal("k=12"), [12]),
        (by("metadata").equal("p=q"), [21]),
        (by("metadata").contains_all(["k=12", "Common X"]), [12]),
        (by("metadata").contains_none(["Common X"]), REST),
        (by("metadata").like("k=1*"), TEN),
        (by("pages").equal(12), [11, 12]),
        (by("pages").not_equal(12), [n for n in TEN if n not in (11, 12)] + REST),
        (by("pages").greater_than(18), [18, 19]),
        (by("owners").equal(uid(12)), [12]),
        (Filter.by_id().equal(uid(12)), [12]),
        (Filter.by_id().contains_any([uid(12), uid(20), uid(99)]), [12, 20]),
        (Filter.by_id().not_equal(uid(12)), [n for n in TEN if n != 12] + REST),
        (Filter.all_of([by("epoch").greater_than(10), by("flag").equal(True), by("text").like("*1[46]")]), []),
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
        (by("epoch").equal("x"), "could not parse string 'x' as int"),
        (by("epoch").equal(1.5), "received a floating point number 1.5"),
        (by("epoch").equal(True), "expected value to be int, got bool"),
        (by("flag").equal("true"), "expected value to be bool, got string"),
        (by("key").equal(5), "expected value to be string, got 'int'"),
        (by("object_id").equal("x"), "invalid UUID length: 1"),
        (by("object_id").like("0*"), 'operator "Like" cannot be used on uuid/uuid[] props'),
        (by("at").equal("x"), "trying parse time as RFC3339 string"),
        (by("text").equal("the"), "only stopwords provided"),
        (by("hidden").equal("h"), "requires inverted index"),
        (by("key").is_none(True), "Nullstate must be indexed to be filterable"),
        (by("key", length=True).equal(3), "Property length must be indexed to be filterable"),
        (Filter.by_creation_time().greater_than(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)), "Timestamps must be indexed"),
    ],
)
def test_wrong_filters_say_why(shelf: Any, where: Any, text: str) -> None:
    with pytest.raises(WeaviateQueryError) as read:
        shelf.query.fetch_objects(filters=where)
    assert text in str(read.value.message)
    with pytest.raises(WeaviateDeleteManyError) as deleted:
        shelf.data.delete_many(where=where)
    assert text in str(deleted.value.message)


def test_state_filters_work_where_the_class_indexes_them(client: Client, name: str) -> None:
    inverted = Configure.inverted_index(index_null_state=True, index_property_length=True, index_timestamps=True)
    collection = make(client, name, inverted_index_config=inverted)
    insert(collection, item(1, key="abc", pages=[1, 2]), item(2, key="", pages=[]), item(3, epoch=1))

    def found(where: Any) -> list[int]:
        return sorted(number(o) for o in collection.query.fetch_objects(filters=where).objects)

    assert found(by("key").is_none(True)) == [2, 3]
    assert found(by("key").is_none(False)) == [1]
    assert found(by("pages", length=True).equal(2)) == [1]
    assert found(by("key", length=True).not_equal(3)) == [2, 3]
    assert found(Filter.by_creation_time().greater_than(dt.datetime(2024, 1, 1, tzinfo=dt.UTC))) == [1, 2, 3]


def test_lists_are_ordered_by_id_and_default_to_ten(shelf: Any) -> None:
    assert [number(o) for o in shelf.query.fetch_objects().objects] == TEN
    assert [number(o) for o in shelf.query.fetch_objects(limit=3, offset=10).objects] == [20, 21]
    assert len(shelf.query.fetch_objects_by_ids([uid(n) for n in range(10, 22)]).objects) == 10
    assert len(shelf.query.fetch_objects_by_ids([uid(n) for n in range(10, 22)], limit=12).objects) == 12
    assert shelf.query.fetch_object_by_id(uid(99)) is None


def test_cursor_walks_everything_once(shelf: Any) -> None:
    assert [number(o) for o in shelf.iterator(cache_size=5)] == [*TEN, *REST]
    assert [number(o) for o in shelf.query.fetch_objects(limit=2, after=uid(11)).objects] == [12, 13]
    with pytest.raises(WeaviateQueryError, match="where cannot be set with after and limit parameters"):
        shelf.query.fetch_objects(limit=2, after=uid(11), filters=by("epoch").equal(1))
    with pytest.raises(WeaviateQueryError, match="is not a valid uuid"):
        shelf.query.fetch_objects(limit=2, after="zz")


def test_offset_plus_limit_has_a_bound(shelf: Any) -> None:
    assert len(shelf.query.fetch_objects(limit=10_000).objects) == 12
    for arguments in ({"limit": 10_001}, {"limit": 1, "offset": 10_000}):
        with pytest.raises(WeaviateQueryError, match="query maximum results exceeded"):
            shelf.query.fetch_objects(**arguments)


def test_only_wanted_properties_come_back(shelf: Any) -> None:
    assert shelf.query.fetch_object_by_id(uid(12), return_properties=["epoch", "key"]).properties == {
        "epoch": 12,
        "key": "Dir/File 12",
    }
    assert shelf.query.fetch_object_by_id(uid(12), return_properties=[]).properties == {}
    assert set(shelf.query.fetch_object_by_id(uid(20)).properties.values()) == {None}
    with pytest.raises(WeaviateQueryError, match="no such prop with name 'nope'"):
        shelf.query.fetch_objects(return_properties=["nope"])


def test_metadata_only_where_asked(shelf: Any) -> None:
    (plain,) = shelf.query.fetch_objects(filters=by("epoch").equal(12)).objects
    assert (plain.metadata.creation_time, plain.metadata.last_update_time, plain.vector) == (None, None, {})
    (full,) = shelf.query.fetch_objects(filters=by("epoch").equal(12), return_metadata=MetadataQuery.full()).objects
    age = dt.datetime.now(dt.UTC) - full.metadata.creation_time
    assert abs(age) < dt.timedelta(minutes=10)
    assert (full.metadata.distance, full.metadata.certainty) == (None, None)


def test_sort(shelf: Any) -> None:
    """Missing values are first when ascending and last when descending; text ignores case."""

    def order(sort: Any, **kwargs: Any) -> list[int]:
        return [number(o) for o in shelf.query.fetch_objects(sort=sort, limit=20, **kwargs).objects]

    assert order(Sort.by_property("epoch")) == [20, 21, *TEN]
    assert order(Sort.by_property("epoch", ascending=False)) == [*reversed(TEN), 20, 21]
    assert order(Sort.by_property("flag").by_property("epoch", ascending=False)) == [
        20, 21, 19, 17, 15, 13, 11, 18, 16, 14, 12, 10,
    ]  # fmt: skip
    assert order(Sort.by_id(ascending=False)) == [21, 20, *reversed(TEN)]
    assert order(Sort.by_property("at", ascending=False), filters=by("epoch").greater_than(16)) == [19, 18, 17]
    assert order(Sort.by_property("key"), offset=1)[:3] == [21, 10, 11]
    with pytest.raises(WeaviateQueryError, match="sorting by uuid is currently not supported"):
        order(Sort.by_property("object_id"))


def test_unknown_class_is_named(client: Client, name: str) -> None:
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


# -- vectors -----------------------------------------------------------------------------------------------------


def near(response: Any) -> list[tuple[int, float]]:
    return [(number(o), pytest.approx(o.metadata.distance, abs=1e-5)) for o in response.objects]


def test_near_vector(client: Client, name: str) -> None:
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
    assert near(search([2.0, 0.0], distance=0.5, return_metadata=want)) == [(1, 0.0), (2, 0.4)]
    assert near(search([2.0, 0.0], certainty=0.75, return_metadata=want)) == [(1, 0.0), (2, 0.4)]
    assert near(search([2.0, 0.0], filters=by("epoch").greater_than(2), return_metadata=want)) == [(3, 1.0), (4, 2.0)]
    assert near(collection.query.near_object(uid(3), limit=1, return_metadata=want)) == [(3, 0.0)]
    insert(collection, item(1, [0.0, 1.0], epoch=1))
    collection.data.delete_by_id(uid(2))
    assert {n for n, _ in near(search([0.0, 1.0], limit=2, return_metadata=want))} == {1, 3}
    with pytest.raises(WeaviateQueryError, match="vector lengths don't match"):
        search([1.0, 0.0, 0.0])
    with pytest.raises(WeaviateQueryError, match="query maximum results exceeded"):
        search([1.0, 0.0], limit=10_001)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("l2-squared", [(2, 0.0), (1, 1.0), (3, 4.0)]),
        ("dot", [(3, -9.0), (2, -5.0), (1, -3.0)]),
        ("manhattan", [(2, 0.0), (1, 1.0), (3, 2.0)]),
    ],
)
def test_other_distances(client: Client, http: httpx.Client, name: str, distance: str, expected: Any) -> None:
    created = http.post("/schema", json={"class": name, "vectorIndexConfig": {"distance": distance}})
    assert created.status_code == 200
    collection = client.collections.use(name)
    insert(collection, item(1, [1.0, 1.0]), item(2, [2.0, 1.0]), item(3, [4.0, 1.0]))
    found = collection.query.near_vector([2.0, 1.0], return_metadata=MetadataQuery(distance=True))
    assert near(found) == expected
    with pytest.raises(WeaviateQueryError, match="can't compute and return certainty"):
        collection.query.near_vector([2.0, 1.0], certainty=0.9)


def test_named_vectors(client: Client, name: str) -> None:
    spaces = [Configure.Vectors.self_provided(name="one"), Configure.Vectors.self_provided(name="two")]
    collection = client.collections.create(name, vector_config=spaces)
    errors = insert(
        collection,
        item(1, {"one": [1.0, 0.0], "two": [1.0, 2.0, 3.0]}),
        item(2, {"one": [0.0, 1.0]}),
        item(3, [1.0, 0.0]),
        item(4, {"three": [1.0]}),
    )
    assert errors == {
        2: f"collection {name} configuration does not have single vector index",
        3: f"collection {name} does not have configuration for vector three",
    }
    found = collection.query.near_vector([0.0, 1.0], target_vector="one", include_vector=["two"]).objects
    assert [(number(o), o.vector) for o in found] == [(2, {}), (1, {"two": [1.0, 2.0, 3.0]})]
    assert set(collection.query.fetch_object_by_id(uid(1), include_vector=True).vector) == {"one", "two"}
    with pytest.raises(WeaviateQueryError, match="no target vectors were provided"):
        collection.query.near_vector([0.0, 1.0])
    with pytest.raises(WeaviateQueryError, match="does not have named vector zzz configured"):
        collection.query.near_vector([0.0, 1.0], target_vector="zzz")


def test_one_vector_with_the_default_name_takes_unnamed_ones(client: Client, name: str) -> None:
    collection = client.collections.create(name, vector_config=Configure.Vectors.self_provided())
    assert insert(collection, item(1, [1.0, 0.0]), item(2, {"default": [0.0, 1.0]})) == {}
    assert [number(o) for o in collection.query.near_vector([0.0, 1.0]).objects] == [2, 1]
    with pytest.raises(WeaviateInsertManyAllFailedError, match="Validate vector index default for target vector"):
        insert(collection, item(3, [1.0, 0.0, 0.0]))


# -- counting and deleting ---------------------------------------------------------------------------------------


def test_aggregate(shelf: Any) -> None:
    total = shelf.aggregate.over_all
    assert len(shelf) == 12
    assert total(total_count=True, filters=by("epoch").greater_than(14)).total_count == 5
    numbers = total(return_metrics=[Metrics("epoch").integer(), Metrics("key").text(limit=1)]).properties
    epoch = numbers["epoch"]
    assert (epoch.count, epoch.minimum, epoch.maximum, epoch.mean, epoch.sum_) == (10, 10, 19, 14.5, 145)
    assert numbers["key"].count == 11
    groups = total(group_by="object_id", total_count=True).groups
    assert {group.grouped_by.value: group.total_count for group in groups} == {uid(0): 3, uid(1): 4, uid(2): 3}


def test_delete_many(client: Client, name: str) -> None:
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
    collection = make(client, name)
    for start in range(0, 10_200, 3400):
        insert(collection, *(item(n + 1, epoch=n) for n in range(start, start + 3400)))
    first = collection.data.delete_many(where=by("epoch").greater_or_equal(0))
    second = collection.data.delete_many(where=by("epoch").greater_or_equal(0))
    assert (first.matches, first.successful, second.matches, second.successful) == (10_200, 10_000, 200, 200)


def test_delete_many_without_a_filter_is_refused(target: Target, client: Client, name: str) -> None:
    make(client, name)
    metadata = tuple((key.lower(), value) for key, value in target.headers.items())
    with grpc.insecure_channel(target.grpc_address) as channel:
        stub = weaviate_pb2_grpc.WeaviateStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.BatchDelete(batch_delete_pb2.BatchDeleteRequest(collection=name), metadata=metadata)
    assert caught.value.code() == grpc.StatusCode.UNKNOWN
    assert caught.value.details() == "batch delete params: no filters in batch delete request"


# -- aliases -----------------------------------------------------------------------------------------------------


def test_alias_serves_objects_and_moves_at_once(client: Client, name: str, alias: str) -> None:
    other = name + "B"
    try:
        make(client, name)
        make(client, other)
        client.alias.create(alias_name=alias[:1].lower() + alias[1:], target_collection=name)
        via = client.collections.use(alias)
        assert insert(via, item(1, [1.0, 0.0], epoch=1)) == {}
        via.data.insert({"epoch": 2}, uuid=uid(2))
        assert [o.collection for o in via.query.fetch_objects().objects] == [name, name]
        assert len(via) == len(client.collections.use(name)) == 2
        assert via.data.exists(uid(1))
        assert via.config.get().name == name
        assert via.data.delete_many(where=by("epoch").equal(1)).successful == 1
        assert client.alias.get(alias_name=alias).collection == name
        assert alias in client.alias.list_all(collection=name)
        assert client.alias.update(alias_name=alias, new_target_collection=other)
        assert (len(via), len(client.collections.use(name))) == (0, 1)
        assert not client.alias.update(alias_name="Zz" + alias, new_target_collection=other)
        assert (client.alias.delete(alias_name=alias), client.alias.delete(alias_name=alias)) == (True, False)
        assert not client.alias.exists(alias_name=alias)
    finally:
        client.collections.delete(other)


def test_alias_names_collide(client: Client, http: httpx.Client, name: str, alias: str) -> None:
    make(client, name)
    client.alias.create(alias_name=alias, target_collection=name)
    for taken in (alias, alias.upper()):
        with pytest.raises(UnexpectedStatusCodeError, match="alias already exists"):
            client.alias.create(alias_name=taken, target_collection=name)
        assert http.post("/schema", json={"class": taken}).status_code == 422
    with pytest.raises(UnexpectedStatusCodeError, match=f"class {name} already exists"):
        client.alias.create(alias_name=name, target_collection=name)
    with pytest.raises(UnexpectedStatusCodeError, match="does not exist"):
        client.alias.create(alias_name=alias + "X", target_collection="Absent" + name)


def test_dropping_by_alias_does_nothing_and_dropping_the_class_leaves_it_dangling(
    client: Client, name: str, alias: str
) -> None:
    make(client, name)
    client.alias.create(alias_name=alias, target_collection=name)
    client.collections.delete(alias)
    assert client.collections.exists(name)
    client.collections.delete(name)
    assert client.alias.exists(alias_name=alias)
    with pytest.raises(WeaviateInsertManyAllFailedError, match="which does not exist"):
        insert(client.collections.use(alias), item(1, epoch=1))
    assert not client.collections.exists(name)


# -- the stand-in alone ------------------------------------------------------------------------------------------


def only_embedded(target: Target) -> None:
    if not target.is_embedded:
        pytest.skip("the real server can do this")


def test_what_the_stand_in_lacks_is_refused_by_name(target: Target, http: httpx.Client, shelf: Any) -> None:
    only_embedded(target)
    for call, feature in (
        (lambda: shelf.query.bm25("apple"), "bm25"),
        (lambda: shelf.query.hybrid("apple"), "hybrid"),
        (lambda: shelf.query.near_text("apple"), "near_text"),
        (lambda: shelf.query.near_vector([1.0, 0.0, 0.0], auto_limit=1), "autocut"),
    ):
        with pytest.raises(WeaviateQueryError, match=f"{feature}.* is not supported by the embedded Weaviate"):
            call()
    response = http.post("/graphql", json={"query": "{}"})
    assert response.status_code == 501
    assert "not supported by the embedded Weaviate" in response.json()["error"][0]["message"]


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


def _stored(tmp_path: Path) -> Collection:
    properties = [{"name": "object_id", "dataType": ["uuid"]}, {"name": "epoch", "dataType": ["int"]}]
    collection = Collection(tmp_path / "c.db", complete_class({"class": "C", "properties": properties}))
    collection.put([NewObject(UUID(int=n).bytes, {"object_id": uid(n % 50), "epoch": n}, {}) for n in range(1, 2001)])
    return collection


def _filter(property_name: str, operator: int, **value: Any) -> Any:
    target = base_pb2.FilterTarget(property=property_name)
    return base_pb2.Filters(operator=operator, target=target, **value)  # type: ignore[arg-type]


def test_filters_on_an_object_use_its_index_and_make_no_other(tmp_path: Path) -> None:
    """`object_id = X and epoch < n` is a search in one index; `epoch < n` alone earns one when first asked."""
    collection = _stored(tmp_path)
    pb = base_pb2.Filters
    older = _filter("epoch", pb.OPERATOR_LESS_THAN, value_int=1000)
    same = _filter("object_id", pb.OPERATOR_EQUAL, value_text=uid(7))
    both = pb(operator=pb.OPERATOR_AND, filters=[older, same])
    indexes = []
    for tree, count in ((both, 20), (older, 999)):
        where = compile_filter(tree, collection.definition, collection.columns)
        assert collection.count(where) == count
        with sqlite3.connect(tmp_path / "c.db") as db:
            plan = db.execute(f"EXPLAIN QUERY PLAN SELECT count(*) FROM objects AS o WHERE {where.sql}", where.params)
            details = " ".join(row[3] for row in plan)
        assert "SEARCH o USING" in details
        indexes.append(set(collection._indexed))
    collection.close()
    assert collection.columns["epoch"] not in indexes[0]
    assert collection.columns["epoch"] in indexes[1]


def test_vector_space_equals_brute_force_through_changes() -> None:
    """After any mix of puts, replacements and drops a search ranks what is left as a plain computation does."""
    rng = np.random.default_rng(3)
    space, left = VectorSpace(8, "cosine"), {}
    for step in range(2000):
        doc = int(rng.integers(0, 400))
        if step % 3 == 2:
            space.drop([doc])
            left.pop(doc, None)
        else:
            left[doc] = rng.standard_normal(8).astype(np.float32)
            space.put(doc, left[doc])
    query = rng.standard_normal(8).astype(np.float32)
    exact = {
        doc: 1 - float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)) for doc, vector in left.items()
    }
    ranked = sorted(exact, key=lambda doc: exact[doc])
    assert [doc for doc, _ in space.search(query, 20, None, None)] == ranked[:20]
    assert [doc for doc, _ in space.search(query, 500, 0.3, None)] == [doc for doc in ranked if exact[doc] <= 0.3]
    allowed = ranked[5:15]
    found = space.search(query, 4, None, [*allowed, 10_000])
    assert [doc for doc, _ in found] == allowed[:4]
    assert [distance for _, distance in found] == pytest.approx([exact[doc] for doc in allowed[:4]], abs=1e-5)
