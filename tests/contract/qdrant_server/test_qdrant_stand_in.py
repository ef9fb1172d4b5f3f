"""Guarantees of the embedded Qdrant about its process."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import models

from support.qdrant_client_side import DIMENSION, Server, end_stand_in, start_stand_in, vector_of

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")  # loopback


def fill(server: Server) -> None:
    """Create one of everything that must outlive the process."""
    with server.http() as session:
        vectors = {"size": DIMENSION, "distance": "Cosine"}
        session.put("/collections/kept", json={"vectors": vectors}).raise_for_status()
        session.put("/collections/gone", json={"vectors": vectors}).raise_for_status()
        for field, schema in (("word", {"type": "keyword", "prefix": True}), ("number", "integer")):
            body = {"field_name": field, "field_schema": schema}
            session.put("/collections/kept/index?wait=true", json=body).raise_for_status()
        points = [{"id": n, "vector": vector_of(n), "payload": {"number": n, "word": f"w{n}"}} for n in range(300)]
        session.put("/collections/kept/points?wait=true", json={"points": points}).raise_for_status()
        under = {"filter": {"must": [{"key": "number", "range": {"lt": 100}}]}}
        session.post("/collections/kept/points/delete?wait=true", json=under).raise_for_status()
        alias = {"create_alias": {"collection_name": "kept", "alias_name": "other"}}
        session.post("/collections/aliases", json={"actions": [alias]}).raise_for_status()
        session.delete("/collections/gone").raise_for_status()


def check_kept(server: Server) -> None:
    client = server.client()
    assert [item.name for item in client.get_collections().collections] == ["kept"]
    assert client.count("other").count == 200
    info = client.get_collection("other")
    assert set(info.payload_schema) == {"word", "number"}
    record = client.retrieve("kept", [200], with_vectors=True)[0]
    assert record.payload == {"number": 200, "word": "w200"}
    np.testing.assert_allclose(record.vector, vector_of(200), atol=1e-6)
    assert client.query_points("kept", vector_of(150), limit=1).points[0].id == 150
    word = models.Filter(must=[models.FieldCondition(key="word", match=models.MatchValue(value="w150"))])
    assert [point.id for point in client.scroll("kept", word)[0]] == [150]
    client.close()


def test_everything_answered_survives_the_process(tmp_path: Path) -> None:
    """Killed after the last answer, then ended by each signal (and exit code 0): the next one finds all of it."""
    server = start_stand_in(tmp_path)
    fill(server)
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGINT, 0)):
        assert end_stand_in(server, number) == code
        server = start_stand_in(tmp_path)
        check_kept(server)
    assert end_stand_in(server, signal.SIGTERM) == 0


def test_a_data_directory_has_one_process(tmp_path: Path) -> None:
    """A second one on the same directory reports it and does not start."""
    first = start_stand_in(tmp_path)
    with pytest.raises(AssertionError, match="in use by another server"):
        start_stand_in(tmp_path)
    assert end_stand_in(first, signal.SIGTERM) == 0
