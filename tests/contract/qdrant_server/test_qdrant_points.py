"""Qdrant's points, as the product and the official client write, change and delete them.

Runs against the embedded stand-in, or unchanged against the server named by INGEST_QDRANT__URL (and
INGEST_QDRANT__API_KEY).
"""

from __future__ import annotations

import os
import threading
import uuid

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


def test_vectors_are_updated_alone(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """The payload stays; a missing point is 404 with wait=true only."""
    client.upsert(name, points_of(2))
    client.update_vectors(name, [models.PointVectors(id=1, vector=vector_of(50))])
    record = client.retrieve(name, [1], with_vectors=True)[0]
    np.testing.assert_allclose(record.vector, vector_of(50), atol=1e-6)
    assert record.payload == {"number": 1, "even": False}
    path, missing = f"/collections/{name}/points/vectors", {"points": [{"id": 99, "vector": vector_of(1)}]}
    refused = http.put(path, params={"wait": "true"}, json=missing)
    assert error_of(refused) == (404, "Not found: No point with id 99 found")
    assert http.put(path, json=missing).json()["result"]["status"] == "acknowledged"


def test_payload_indexes_are_created_and_shown(client: QdrantClient, http: httpx.Client, name: str) -> None:
    """By type and with parameters; the same again is no error; filters give the same answers with and without them."""
    client.upsert(name, points_of(6))
    low = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(lt=2))])
    assert client.count(name, low).count == 2
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER)
    path = f"/collections/{name}/index"
    keyword = {"field_name": "object_id", "field_schema": {"type": "keyword", "prefix": True}}
    assert http.put(path, params={"wait": "true"}, json=keyword).status_code == 200
    schema = http.get(f"/collections/{name}").json()["result"]["payload_schema"]
    assert {field: index["data_type"] for field, index in schema.items()} == {
        "number": "integer",
        "object_id": "keyword",
    }
    assert schema["number"]["points"] == 6
    assert schema["object_id"]["params"]["prefix"]
    assert client.count(name, low).count == 2
    assert error_of(http.put(path, json={"field_name": "x"})) == (
        400,
        "Bad request: Can't auto-detect field type, please specify `field_schema` in the request",
    )


def test_every_path_of_a_missing_collection_is_404(http: httpx.Client) -> None:
    """With the same text for every request."""
    expected = (404, "Not found: Collection `nope` doesn't exist!")
    path = "/collections/nope/points"
    one = {"points": [{"id": 1, "vector": [1.0]}]}
    assert error_of(http.put(path, json=one)) == expected
    assert error_of(http.post(path, json={"ids": [1]})) == expected
    assert error_of(http.post(f"{path}/scroll", json={})) == expected
    assert error_of(http.post(f"{path}/count", json={})) == expected
    assert error_of(http.post(f"{path}/query", json={"query": [1.0]})) == expected
    assert error_of(http.post(f"{path}/delete", json={"points": [1]})) == expected
    index = {"field_name": "a", "field_schema": "keyword"}
    assert error_of(http.put("/collections/nope/index", json=index)) == expected
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
