"""Qdrant's collections and aliases, as the product and the official client use them.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_QDRANT__URL (and
INGEST_QDRANT__API_KEY).
"""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models

from support.qdrant_client_side import DIMENSION, Server, embedded_only, error_of, points_of

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")  # loopback


def test_the_root_and_the_probes_need_no_key(server: Server) -> None:
    """`GET /` names the version; the probes answer plain text; none of them requires the key."""
    root = httpx.get(f"{server.url}/").json()
    assert root["title"] == "qdrant - vector search engine"
    assert root["version"].startswith("1.19.")
    assert httpx.get(f"{server.url}/healthz").text == "healthz check passed"
    assert httpx.get(f"{server.url}/livez").text == "healthz check passed"
    assert httpx.get(f"{server.url}/readyz").text == "all shards are ready"


def test_a_missing_and_a_wrong_key_are_401_with_a_bare_text(server: Server) -> None:
    """The body of a 401 is a plain sentence, not JSON."""
    if server.api_key is None:
        pytest.skip("this server requires no key")
    missing = httpx.get(f"{server.url}/collections")
    assert (missing.status_code, missing.text) == (401, "Must provide an API key or an Authorization bearer token")
    wrong = httpx.get(f"{server.url}/collections", headers={"api-key": "no"})
    assert (wrong.status_code, wrong.text) == (401, "Invalid API key or JWT")
    bearer = httpx.get(f"{server.url}/collections", headers={"authorization": f"Bearer {server.api_key}"})
    assert bearer.status_code == 200


def test_a_path_that_is_not_served_is_404(http: httpx.Client) -> None:
    """Also a known path with another method."""
    assert http.get("/nothing").status_code == 404
    assert http.put("/collections").status_code == 404


def test_slashes_are_trimmed(http: httpx.Client) -> None:
    """A trailing slash and doubled slashes change nothing."""
    assert http.get("/collections/").status_code == 200
    assert http.get("//collections").status_code == 200


def test_a_collection_is_created_described_listed_and_deleted(client: QdrantClient) -> None:
    """The official client reads every answer, and info shows the settings of the request."""
    fresh = f"contract_{uuid.uuid4().hex}"
    assert not client.collection_exists(fresh)
    vectors = models.VectorParams(size=3, distance=models.Distance.DOT)
    assert client.create_collection(fresh, vectors)
    info = client.get_collection(fresh)
    assert info.config.params.vectors == vectors
    assert (info.status, info.points_count, info.payload_schema) == (models.CollectionStatus.GREEN, 0, {})
    assert fresh in [item.name for item in client.get_collections().collections]
    assert client.delete_collection(fresh)
    assert not client.collection_exists(fresh)


def test_errors_about_collections(http: httpx.Client, name: str) -> None:
    """404, 409 and the malformed, with the real texts; deleting nothing is `false`, not an error."""
    body = {"vectors": {"size": 4, "distance": "Cosine"}}
    assert error_of(http.get("/collections/nope")) == (404, "Not found: Collection `nope` doesn't exist!")
    assert error_of(http.put(f"/collections/{name}", json=body)) == (
        409,
        f"Wrong input: Collection `{name}` already exists!",
    )
    deleted = http.delete("/collections/nope")
    assert (deleted.status_code, deleted.json()["result"], deleted.json()["status"]) == (200, False, "ok")
    status, text = error_of(http.put("/collections/x_bad", json={"vectors": {"size": 4, "distance": "Cosinus"}}))
    assert status == 400
    assert text.startswith("Format error in JSON body: ")
    status, text = error_of(http.put("/collections/x_bad", json={"vectors": {"size": 65537, "distance": "Dot"}}))
    assert (status, text) == (
        422,
        "Validation error in JSON body: [vectors.size: value 65537 invalid, must be from 1 to 65536]",
    )
    assert http.put("/collections/a:b", json=body).status_code == 422


STRICT_MODE = {
    "enabled": True,
    "max_timeout": 9,
    "max_query_limit": 8,
    "condition_max_size": 2,
    "filter_max_conditions": 2,
    "search_allow_exact": False,
    "upsert_max_batchsize": 5,
    "max_payload_index_count": 1,
    "unindexed_filtering_retrieve": False,
    "unindexed_filtering_update": False,
}


def test_strict_mode_refuses_requests_beyond_its_limits(http: httpx.Client, name: str) -> None:
    """Each with what would help; the settings are part of the collection's description."""
    strict = f"{name}_strict"
    path = f"/collections/{strict}"
    body = {"vectors": {"size": DIMENSION, "distance": "Cosine"}, "strict_mode_config": STRICT_MODE}
    assert http.put(path, json=body).status_code == 200
    assert http.get(path).json()["result"]["config"]["strict_mode_config"] == STRICT_MODE
    points = [{"id": point.id, "vector": point.vector, "payload": point.payload} for point in points_of(6)]
    index = {"field_name": "number", "field_schema": "integer"}
    assert http.put(f"{path}/index?wait=true", json=index).status_code == 200
    number = {"key": "number", "match": {"any": [1, 2]}}
    refusals: list[tuple[str, str, dict[str, Any], str]] = [
        ("PUT", "/points", {"points": points}, 'Limit exceeded 6 > 5 for "upsert limit". Help: Reduce the "upsert'),
        ("PUT", "/points?timeout=10", {"points": points[:5]}, 'Limit exceeded 10 > 9 for "timeout". Help: Reduce the'),
        ("POST", "/points/scroll", {"limit": 9}, 'Limit exceeded 9 > 8 for "limit". Help: Reduce the "limit" para'),
        ("POST", "/points/count", {"exact": True}, "Exact search disabled!. Help: Set exact=false."),
        ("POST", "/points/count", {"exact": False, "filter": {"must": [number] * 3}}, "Filter condition limit reached"),
        (
            "POST",
            "/points/scroll",
            {"filter": {"must": {"key": "number", "match": {"any": [1, 2, 3]}}}},
            "Condition size limit reached (3 > 2). Help: Reduce the size of your condition.",
        ),
        (
            "POST",
            "/points/delete",
            {"filter": {"must": {"key": "even", "match": {"value": True}}}},
            'Index required but not found for "even" of one of the following types: [',
        ),
        (
            "PUT",
            "/index",
            {"field_name": "even", "field_schema": "bool"},
            "Collection already has the maximum number of payload indices (1). Help: Please delete",
        ),
    ]
    for method, place, content, words in refusals:
        status, text = error_of(http.request(method, f"{path}{place}", json=content))
        assert (status, text.startswith(f"Bad request: {words}")) == (400, True), text
    assert http.put(f"{path}/points?wait=true&timeout=9", json={"points": points[:5]}).status_code == 200
    under = {"limit": 8, "filter": {"must": [number, number]}}
    assert len(http.post(f"{path}/points/scroll", json=under).json()["result"]["points"]) == 2
    http.delete(path)


def test_rates_of_strict_mode(http: httpx.Client, name: str) -> None:
    """A write beyond the minute's tokens names the time to wait; one beyond all of them asks to be split."""
    strict = f"{name}_rates"
    path = f"/collections/{strict}"
    rates = {"enabled": True, "write_rate_limit": 4}
    body = {"vectors": {"size": DIMENSION, "distance": "Cosine"}, "strict_mode_config": rates}
    assert http.put(path, json=body).status_code == 200
    points = [{"id": point.id, "vector": point.vector, "payload": point.payload} for point in points_of(6)]
    too_many = http.put(f"{path}/points?wait=true", json={"points": points})
    assert (too_many.status_code, "retry-after" in too_many.headers) == (429, False)
    assert error_of(too_many)[1].endswith("please try to split your request")
    assert http.put(f"{path}/points?wait=true", json={"points": points[:4]}).status_code == 200
    too_soon = http.put(f"{path}/points?wait=true", json={"points": points[4:]})
    assert too_soon.status_code == 429
    assert 1 <= int(too_soon.headers["retry-after"]) <= 30
    http.delete(path)


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("PUT", "", {"vectors": {"a": {"size": 4, "distance": "Dot"}}}, "a collection of named vectors"),
    ("PUT", "", {"vectors": {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}, "multiv"),
    ("PUT", "", {"vectors": {"size": 4, "distance": "Dot"}, "sparse_vectors": {"s": {}}}, "`sparse_vectors`"),
    ("PUT", "", {"vectors": {"size": 4, "distance": "Dot"}, "sharding_method": "custom"}, "`sharding_method`"),
    ("PUT", "", {"vectors": {"size": 4, "distance": "Dot", "datatype": "turbo4"}}, "the datatype 'turbo4'"),
    ("PUT", "", {"vectors": {"size": 4, "distance": "Dot"}, "strict_mode_config": {"max_points_count": 1}}, "`max_poi"),
    ("PUT", "/index", {"field_name": "x", "field_schema": "text"}, "the index type 'text'"),
    ("PUT", "/index", {"field_name": "x", "field_schema": {"type": "keyword", "is_tenant": True}}, "`is_tenant`"),
    ("PUT", "/points", {"batch": {"ids": [1], "vectors": [[1.0]]}}, "`batch`"),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"s": {"indices": [1], "values": [1.0]}}}]}, "dense vector"),
    ("PUT", "/points", {"points": [], "update_mode": "insert_only"}, "`update_mode`"),
    ("POST", "/points/scroll", {"order_by": "n"}, "`order_by`"),
    ("POST", "/points/scroll", {"with_payload": {"include": ["n"]}}, "`with_payload`"),
    ("POST", "/points/count", {"exakt": True}, "`exakt`"),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "match": {"text": "x"}}]}}, "`text`"),
    ("POST", "/points/count", {"filter": {"must": [{"is_empty": {"key": "n"}}]}}, "`is_empty`"),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "range": {"gt": "2024-01-01"}}]}}, "a range of"),
    ("POST", "/points/query", {"query": {"recommend": {"positive": [1]}}}, "`recommend`"),
    ("POST", "/points/query", {"query": 3}, "a query by anything but a vector"),
    ("POST", "/points/query", {"prefetch": [{"query": [1.0]}]}, "`prefetch`"),
    ("POST", "/points/query", {"query": [1.0], "score_threshold": 0.5}, "`score_threshold`"),
]


@pytest.mark.parametrize(("method", "path", "body", "named"), REFUSED)
def test_unsupported_requests_are_refused_by_name(
    server: Server, http: httpx.Client, name: str, *, method: str, path: str, body: dict[str, Any], named: str
) -> None:
    """The stand-in ignores no part of a request: unknown and unsupported fields are 400 and named."""
    embedded_only(server)
    collection = name if path else f"{name}_refused"
    status, text = error_of(http.request(method, f"/collections/{collection}{path}", json=body))
    assert status == 400
    assert named in text
    assert text.endswith("is not supported by this stand-in")


def test_unsupported_paths_and_parameters_are_refused(server: Server, http: httpx.Client, name: str) -> None:
    """A path is 404, a query parameter 400."""
    embedded_only(server)
    path = f"/collections/{name}/points"
    for unknown in ("search", "batch", "payload", "query/batch", "query/groups", "facet"):
        status, text = error_of(http.post(f"{path}/{unknown}", json={}))
        assert (status, text) == (404, f"Not found: POST {path}/{unknown} is not served by this stand-in")
    status, text = error_of(http.post(f"{path}/count?consistency=all", json={}))
    assert (status, text) == (400, "Deserialize error in query parameters: unknown field `consistency`")


def test_an_alias_stands_for_its_collection_and_moves_in_one_call(client: QdrantClient, name: str) -> None:
    """Points and info are reached through an alias; a deletion of the collection is not."""
    other, alias = f"{name}_other", f"{name}_alias"
    client.create_collection(other, models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE))
    create = models.CreateAlias(collection_name=name, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
    client.upsert(alias, points_of(3))
    assert client.count(name).count == client.count(alias).count == 3
    assert client.collection_exists(alias)
    assert client.get_collection(alias).points_count == 3
    client.delete_collection(alias)
    assert client.count(alias).count == 3
    swap = models.CreateAlias(collection_name=other, alias_name=alias)
    client.update_collection_aliases(
        [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)),
            models.CreateAliasOperation(create_alias=swap),
        ],
    )
    assert client.count(alias).count == 0
    assert [item.alias_name for item in client.get_collection_aliases(other).aliases] == [alias]
    assert (alias, other) in [(item.alias_name, item.collection_name) for item in client.get_aliases().aliases]
    client.delete_collection(other)
    assert alias not in [item.alias_name for item in client.get_aliases().aliases]


def test_errors_about_aliases(http: httpx.Client, name: str) -> None:
    """To no collection 404, over a collection 409; deleting an absent one is no error."""

    def change(action: dict[str, Any]) -> httpx.Response:
        return http.post("/collections/aliases", json={"actions": [action]})

    missing = change({"create_alias": {"collection_name": "nope", "alias_name": "x"}})
    assert error_of(missing) == (404, "Not found: Collection `nope` doesn't exist!")
    taken = change({"create_alias": {"collection_name": name, "alias_name": name}})
    assert error_of(taken) == (409, f"Wrong input: Collection `{name}` already exists!")
    assert change({"delete_alias": {"alias_name": "no_alias"}}).status_code == 200
    assert change({"create_alias": {"collection_name": name, "alias_name": f"{name}_a"}}).status_code == 200
    body = {"vectors": {"size": 4, "distance": "Dot"}}
    assert error_of(http.put(f"/collections/{name}_a", json=body)) == (
        400,
        f"Wrong input: Can't create collection with name {name}_a. Alias with the same name already exists",
    )
