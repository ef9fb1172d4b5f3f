"""What the product relies on in Qdrant's points: written, changed, deleted.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_QDRANT__URL (and
INGEST_QDRANT__API_KEY).
"""

from __future__ import annotations

import os
import threading
import uuid
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from support.qdrant_client_side import DIMENSION, Server, error_of, points_of, vector_of

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")  # loopback


def test_points_come_back_as_they_went_in(client: QdrantClient, name: str) -> None:
    """Payload of every JSON type, both kinds of id, vectors to float32 precision; the same id again replaces."""
    payload = {"t": "ü\n", "i": -3, "f": 1.5, "b": True, "n": None, "l": [1, "a", {"x": []}], "big": 2**53 + 1}
    ident = str(uuid.uuid4())
    points = [models.PointStruct(id=point, vector=vector_of(1), payload=payload) for point in (7, ident)]
    result = client.upsert(name, points, wait=True)
    assert result.status == models.UpdateStatus.COMPLETED
    records = {record.id: record for record in client.retrieve(name, [7, ident, 8], with_vectors=True)}
    assert set(records) == {7, ident}
    for record in records.values():
        assert record.payload == payload
        assert isinstance(record.payload["b"], bool)
        np.testing.assert_allclose(record.vector, vector_of(1), atol=1e-6)
    client.upsert(name, [models.PointStruct(id=7, vector=vector_of(2), payload={"only": 1})])
    assert client.retrieve(name, [7])[0].payload == {"only": 1}


def test_cosine_vectors_are_stored_normalised(client: QdrantClient, name: str) -> None:
    """What comes back has length one."""
    client.upsert(name, [models.PointStruct(id=1, vector=[3.0, 4.0] + [0.0] * 6)])
    vector = client.retrieve(name, [1], with_vectors=True)[0].vector
    np.testing.assert_allclose(vector, [0.6, 0.8] + [0.0] * 6, atol=1e-6)


def test_wait_decides_between_completed_and_acknowledged(http: httpx.Client, name: str) -> None:
    """The default is not to wait."""
    path, body = f"/collections/{name}/points", {"points": [{"id": 1, "vector": vector_of(1)}]}
    assert http.put(path, json=body).json()["result"]["status"] == "acknowledged"
    answer = http.put(path, params={"wait": "true"}, json=body).json()
    assert answer["result"]["status"] == "completed"
    assert isinstance(answer["result"]["operation_id"], int)
    assert answer["status"] == "ok"
    assert error_of(http.put(path, params={"wait": "maybe"}, json=body))[0] == 400


def test_a_column_batch_and_the_modes_of_an_upsert(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """insert_only keeps what is there, update_only adds nothing, update_filter guards only existing points."""
    batch = models.Batch(ids=[1, 2], vectors=[vector_of(1), vector_of(2)], payloads=[{"v": 1}, {"v": 1}])
    client.upsert(name, batch)
    path = f"/collections/{name}/points"

    def upsert(extra: dict[str, Any], value: int, *ids: int) -> None:
        points = [{"id": point, "vector": vector_of(point), "payload": {"v": value}} for point in ids]
        response = http.put(path, params={"wait": "true"}, json={"points": points, **extra})
        assert response.status_code == 200, response.text

    upsert({"update_mode": "insert_only"}, 2, 2, 3)
    upsert({"update_mode": "update_only"}, 3, 3, 4)
    upsert({"update_filter": {"must": [{"key": "v", "match": {"value": 99}}]}}, 4, 1, 5)
    values = {record.id: record.payload["v"] for record in client.scroll(name)[0]}
    assert values == {1: 1, 2: 1, 3: 3, 5: 4}
    wrong = {"batch": {"ids": [1, 2], "vectors": [vector_of(1)]}}
    assert error_of(http.put(path, json=wrong)) == (
        422,
        "Validation error in JSON body: [batch.batch: number of ids and vectors must be equal (2 != 1)]",
    )


@pytest.mark.parametrize("wait", ["true", "false"])
def test_a_vector_of_another_dimension_refuses_the_whole_request(http: httpx.Client, name: str, wait: str) -> None:
    """Also when nobody waits, and also for the good points beside it."""
    points = [{"id": 1, "vector": vector_of(1)}, {"id": 2, "vector": [1.0, 2.0]}]
    refused = http.put(f"/collections/{name}/points", params={"wait": wait}, json={"points": points})
    assert error_of(refused) == (400, "Wrong input: Vector dimension error: expected dim: 8, got 2")
    assert http.post(f"/collections/{name}/points/count", json={}).json()["result"] == {"count": 0}
    query = http.post(f"/collections/{name}/points/query", json={"query": [1.0]})
    assert error_of(query) == (400, "Wrong input: Vector dimension error: expected dim: 8, got 1")


def test_malformed_bodies(http: httpx.Client, name: str) -> None:
    """400 for what cannot be read, 422 for values out of range; nothing is applied."""
    path = f"/collections/{name}/points"
    good = {"id": 1, "vector": vector_of(1)}
    for body in (b"{", b"[]", b'{"points": [{"id": 1}]}'):
        status, text = error_of(http.put(path, content=body, headers={"content-type": "application/json"}))
        assert status == 400
        assert text.startswith("Format error in JSON body: ")
    for point_id in (-1, "x", 1.5, True):
        status, text = error_of(http.put(path, json={"points": [good, {**good, "id": point_id}]}))
        assert status == 400
        assert text.startswith("Format error in JSON body: ")
        assert "is not a valid point ID, valid values are either an unsigned integer or a UUID" in text
    for body in ({"vector": "abc"}, {"vector": ["a"] * DIMENSION}, {"payload": [1]}):
        assert error_of(http.put(path, json={"points": [{**good, **body}]}))[0] == 400
    assert error_of(http.put(path, json={"points": [{**good, "vector": []}]}))[0] == 422
    assert error_of(http.post(f"{path}/scroll", json={"limit": 0})) == (
        422,
        "Validation error in JSON body: [scroll_request.limit: value 0 invalid, must be 1 or larger]",
    )
    assert error_of(http.put(path, json={"points": []})) == (400, "Bad request: Empty update request")
    assert error_of(http.post(f"{path}/delete", json={"points": []})) == (400, "Bad request: Empty update request")
    assert http.post(f"{path}/count", json={}).json()["result"]["count"] == 0


def test_a_body_over_32_mb_is_refused(http: httpx.Client, name: str) -> None:
    """With 400, not 413; the text names both sizes."""
    point = {"id": 1, "vector": vector_of(1), "payload": {"text": "x" * (32 * 1024 * 1024)}}
    try:
        refused = http.put(f"/collections/{name}/points", json={"points": [point]})
    except httpx.TransportError:
        assert os.environ.get("INGEST_QDRANT__URL"), "only the real server may hang up while the body is being sent"
        return
    status, text = error_of(refused)
    assert status == 400
    assert text.startswith("JSON payload (")
    assert text.endswith(" bytes) is larger than allowed (limit: 33554432 bytes).")


def test_points_are_deleted_by_id_and_by_filter(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """Missing ids are no error; neither ids nor filter is."""
    client.upsert(name, points_of(10))
    client.delete(name, [0, 1, 777])
    even = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(gte=5))])
    client.delete(name, models.FilterSelector(filter=even))
    assert [record.id for record in client.scroll(name)[0]] == [2, 3, 4]
    assert error_of(http.post(f"/collections/{name}/points/delete", json={}))[0] == 400


def test_payloads_are_set_overwritten_and_removed(client: QdrantClient, name: str) -> None:
    """By ids, by filter and under a key."""
    client.upsert(name, points_of(3))

    def payload(point: int) -> dict[str, Any] | None:
        return client.retrieve(name, [point])[0].payload

    client.set_payload(name, {"extra": "x"}, points=[1])
    assert payload(1) == {"number": 1, "even": False, "extra": "x"}
    client.set_payload(name, {"deep": 1}, points=[1], key="nested.here")
    assert payload(1)["nested"] == {"here": {"deep": 1}}
    client.overwrite_payload(name, {"new": True}, points=[1])
    assert payload(1) == {"new": True}
    second = models.Filter(must=[models.HasIdCondition(has_id=[2])])
    client.delete_payload(name, ["even"], points=models.FilterSelector(filter=second))
    assert payload(2) == {"number": 2}
    client.clear_payload(name, [2])
    assert payload(2) == {}


def test_an_update_of_a_missing_point_is_404_if_one_waits(http: httpx.Client, name: str) -> None:
    """Points named beside it are updated all the same."""
    path = f"/collections/{name}/points"
    http.put(path, params={"wait": "true"}, json={"points": [{"id": 1, "vector": vector_of(1)}]})
    body = {"payload": {"a": 1}, "points": [1, 99]}
    refused = http.post(f"{path}/payload", params={"wait": "true"}, json=body)
    assert error_of(refused) == (404, "Not found: No point with id 99 found")
    assert http.get(f"{path}/1").json()["result"]["payload"] == {"a": 1}
    assert http.post(f"{path}/payload", json=body).json()["result"]["status"] == "acknowledged"
    vectors = {"points": [{"id": 99, "vector": vector_of(1)}]}
    refused = http.put(f"{path}/vectors", params={"wait": "true"}, json=vectors)
    assert error_of(refused) == (404, "Not found: No point with id 99 found")
    assert error_of(http.post(f"{path}/payload", json={"payload": {}})) == (
        400,
        "Format error in JSON body: Either list of point ids or filter must be provided",
    )


def test_vectors_are_updated_alone(client: QdrantClient, name: str) -> None:
    """The payload stays."""
    client.upsert(name, points_of(2))
    client.update_vectors(name, [models.PointVectors(id=1, vector=vector_of(50))])
    record = client.retrieve(name, [1], with_vectors=True)[0]
    np.testing.assert_allclose(record.vector, vector_of(50), atol=1e-6)
    assert record.payload == {"number": 1, "even": False}


def test_a_batch_of_updates_is_applied_in_order(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """Each sees what the one before did; one that cannot be read refuses them all."""
    results = client.batch_update_points(
        name,
        [
            models.UpsertOperation(upsert=models.PointsList(points=points_of(4))),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"set": 1}, points=[1])),
            models.DeleteOperation(delete=models.PointIdsList(points=[0])),
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"o": 1}, points=[2])),
            models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[3])),
        ],
    )
    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 5
    payloads = {record.id: record.payload for record in client.scroll(name)[0]}
    assert payloads == {1: {"number": 1, "even": False, "set": 1}, 2: {"o": 1}, 3: {}}
    operations = [{"delete": {"points": [1]}}, {"delete": {"points": [-1]}}]
    assert http.post(f"/collections/{name}/points/batch", json={"operations": operations}).status_code == 400
    assert client.count(name).count == 3


def test_payload_indexes_are_made_shown_and_dropped(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """By type and with parameters; the same again is fine; filters use them and give the same answers."""
    client.upsert(name, points_of(6))
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    client.create_payload_index(name, "object_id", keyword)
    schema = client.get_collection(name).payload_schema
    assert {field: index.data_type.value for field, index in schema.items()} == {
        "number": "integer",
        "object_id": "keyword",
    }
    assert schema["number"].points == 6
    assert schema["object_id"].params.is_tenant
    low = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(lt=2))])
    assert client.count(name, low).count == 2
    client.delete_payload_index(name, "number")
    assert set(client.get_collection(name).payload_schema) == {"object_id"}
    path = f"/collections/{name}/index"
    assert error_of(http.put(path, json={"field_name": "x"})) == (
        400,
        "Bad request: Can't auto-detect field type, please specify `field_schema` in the request",
    )
    assert error_of(http.put(path, json={"field_name": "x", "field_schema": "strange"}))[0] == 400


def test_every_path_of_a_missing_collection_is_404(http: httpx.Client) -> None:
    """With the same text, whatever is asked."""
    expected = (404, "Not found: Collection `nope` doesn't exist!")
    path = "/collections/nope/points"
    one = {"points": [{"id": 1, "vector": [1.0]}]}
    assert error_of(http.put(path, json=one)) == expected
    assert error_of(http.post(path, json={"ids": [1]})) == expected
    assert error_of(http.post(f"{path}/scroll", json={})) == expected
    assert error_of(http.post(f"{path}/count", json={})) == expected
    assert error_of(http.post(f"{path}/query", json={"query": [1.0]})) == expected
    assert error_of(http.post(f"{path}/delete", json={"points": [1]})) == expected
    assert error_of(http.post(f"{path}/payload", json={"payload": {}, "points": [1]})) == expected
    index = {"field_name": "a", "field_schema": "keyword"}
    assert error_of(http.put("/collections/nope/index", json=index)) == expected
    assert error_of(http.patch("/collections/nope", json={})) == expected
    assert http.get("/collections/nope/exists").json()["result"] == {"exists": False}


def test_many_writers_at_once_lose_nothing(server: Server, client: QdrantClient, name: str) -> None:
    """Eight threads, disjoint ids, one collection."""

    def write(writer: int) -> None:
        with server.http() as session:
            for batch in range(5):
                ids = range(writer * 1000 + batch * 20, writer * 1000 + batch * 20 + 20)
                points = [{"id": point, "vector": vector_of(point), "payload": {"w": writer}} for point in ids]
                answer = session.put(f"/collections/{name}/points?wait=true", json={"points": points})
                assert answer.json()["result"]["status"] == "completed"

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.count(name).count == 8 * 100


def test_one_point_by_its_path(http: httpx.Client, name: str) -> None:
    """Whole, with its vector; none is 404; no id is 400."""
    path = f"/collections/{name}/points"
    http.put(path, params={"wait": "true"}, json={"points": [{"id": 4, "vector": vector_of(4), "payload": {"a": 1}}]})
    point = http.get(f"{path}/4").json()["result"]
    assert (point["id"], point["payload"], len(point["vector"])) == (4, {"a": 1}, DIMENSION)
    assert error_of(http.get(f"{path}/5")) == (404, "Not found: Point with id 5 does not exists!")
    assert error_of(http.get(f"{path}/xyz")) == (400, 'Wrong input: Can not recognize "xyz" as point id')
