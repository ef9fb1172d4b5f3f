"""Weaviate's classes and aliases, as the official client and plain HTTP see them.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_WEAVIATE__URL and
INGEST_WEAVIATE__GRPC_URL (and INGEST_WEAVIATE__API_KEY).
"""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import pytest
from weaviate.classes.config import Tokenization
from weaviate.exceptions import UnexpectedStatusCodeError, WeaviateInsertManyAllFailedError, WeaviateQueryError
from weaviate.proto.v1 import aggregate_pb2, batch_delete_pb2, batch_pb2, search_get_pb2, weaviate_pb2_grpc

from support.weaviate_client_side import Client, Target, by, insert, item, make, number, uid

# The only way to create an unnamed vector, which the product uses, with this client is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Dep024:DeprecationWarning")


def test_client_connects_with_all_its_checks(target: Target) -> None:
    """The client's start-up checks pass: OIDC is absent, meta has a version with aliases, gRPC is healthy."""
    with target.connect(skip_init_checks=False) as checked:
        assert checked.is_ready()
        assert checked.is_live()
        major, minor = checked.get_meta()["version"].split(".")[:2]
        assert (int(major), int(minor)) >= (1, 32)
        assert checked.get_meta()["grpcMaxMessageSize"] > 10_000_000


def test_probes_need_no_key_and_there_is_no_oidc(target: Target) -> None:
    """Probes are 200, the OIDC configuration is 404, both without a key."""
    for path, status in (
        (".well-known/live", 200),
        (".well-known/ready", 200),
        (".well-known/openid-configuration", 404),
    ):
        assert httpx.get(f"{target.url}/v1/{path}").status_code == status


def test_unknown_paths_are_json_404(http: httpx.Client) -> None:
    """The body names the path."""
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


def test_class_lives_under_its_capitalised_name(client: Client, name: str) -> None:
    """Created, listed, described and deleted by the client."""
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
    """The same name and a similar one have different texts."""
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
    ],
)
def test_invalid_classes_are_refused(http: httpx.Client, name: str, change: dict[str, Any], text: str) -> None:
    """422 with the text of the real server."""
    response = http.post("/schema", json={"class": name, **change})
    assert response.status_code == 422
    assert text in response.json()["error"][0]["message"]


def test_absent_class_is_404_and_deleting_it_is_no_error(http: httpx.Client, name: str) -> None:
    """Deleting is idempotent."""
    assert http.get(f"/schema/{name}").status_code == 404
    assert http.delete(f"/schema/{name}").status_code == 200


def test_the_default_class_of_the_client_has_one_named_vector(client: Client, name: str) -> None:
    """Unnamed vectors belong to it; a vector of another length or name is refused."""
    collection = client.collections.create(name)
    assert insert(collection, item(1, [1.0, 0.0]), item(2, {"default": [0.0, 1.0]})) == {}
    assert [number(o) for o in collection.query.near_vector([0.0, 1.0], target_vector="default").objects] == [2, 1]
    assert collection.query.fetch_object_by_id(uid(2), include_vector=["default"]).vector == {"default": [0.0, 1.0]}
    with pytest.raises(WeaviateInsertManyAllFailedError, match="Validate vector index default for target vector"):
        insert(collection, item(3, [1.0, 0.0, 0.0]))
    with pytest.raises(WeaviateInsertManyAllFailedError, match="does not have configuration for vector three"):
        insert(collection, item(4, {"three": [1.0]}))
    with pytest.raises(WeaviateQueryError, match="does not have named vector zzz configured"):
        collection.query.near_vector([0.0, 1.0], target_vector="zzz")


def test_alias_serves_objects_and_moves_at_once(client: Client, name: str, alias: str) -> None:
    """Reads, writes, counts and deletions go to the class of the alias."""
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
    """With other aliases without case, with classes only exactly."""
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
    """A write by such an alias creates no class."""
    make(client, name)
    client.alias.create(alias_name=alias, target_collection=name)
    client.collections.delete(alias)
    assert client.collections.exists(name)
    client.collections.delete(name)
    assert client.alias.exists(alias_name=alias)
    with pytest.raises(WeaviateInsertManyAllFailedError, match="which does not exist"):
        insert(client.collections.use(alias), item(1, epoch=1))
    assert not client.collections.exists(name)


def test_a_property_is_added_once(client: Client, http: httpx.Client, name: str) -> None:
    """Objects that were there have no value for it; a second one of the name is refused."""
    http.post("/schema", json={"class": name, "properties": [{"name": "key", "dataType": ["text"]}]})
    added = http.post(f"/schema/{name}/properties", json={"name": "note", "dataType": ["text"], "tokenization": "word"})
    assert (added.status_code, added.json()["name"]) == (200, "note")
    assert [prop.name for prop in client.collections.get(name).config.get().properties] == ["key", "note"]
    again = http.post(f"/schema/{name}/properties", json={"name": "Note", "dataType": ["text"]})
    assert again.status_code == 422
    assert "conflict for property" in again.json()["error"][0]["message"]
    assert http.post(f"/schema/{name}X/properties", json={"name": "note", "dataType": ["text"]}).status_code == 404
