"""Points as Weaviate's messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingestion_engine.adapters.weaviate.messages import ObjectWriter
from ingestion_engine.adapters.weaviate.stubs import batch_pb2
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Point


def make_point(number: int, text: str, **shared: Any) -> Point:
    payload = {"object_id": "o", "epoch": 3, "text": text, "chunk_index": number, "page": 1, **shared}
    return Point(PointId(f"id-{number}"), payload, np.arange(number, number + 4, dtype=np.float32))


def read(encoded: bytes) -> list[dict[str, Any]]:
    """Return the objects of a request as a server reads them."""
    found = []
    for entry in batch_pb2.BatchObjectsRequest.FromString(encoded).objects:
        values = entry.properties.non_ref_properties.items()
        lists = {field.prop_name: list(field.values) for field in entry.properties.text_array_properties}
        vector = np.frombuffer(entry.vector_bytes, "<f4").tolist()
        found.append({"id": entry.uuid, "in": entry.collection, "vector": vector, **dict(values), **lists})
    return found


def test_neighbours_of_several_objects_keep_their_own_fields() -> None:
    """Shared fields are encoded again when they change."""
    points = [
        make_point(0, "a", key="one", metadata={"k": "v", "a=b": "c"}),
        make_point(1, "b", key="one", metadata={"k": "v", "a=b": "c"}),
        make_point(2, "c", key="two", title="T"),
        make_point(3, "d", key="one", metadata={}),
    ]
    writer = ObjectWriter("Docs")
    found = read(b"".join(writer.write(point) for point in points))
    for point, entry in zip(points, found, strict=True):
        expected = {**point.payload, "id": point.id, "in": "Docs", "vector": point.vector.tolist()}
        if "metadata" in expected:
            expected["metadata"] = [f"{key.replace('=', '%3D')}={text}" for key, text in expected["metadata"].items()]
        assert entry == expected


@pytest.mark.parametrize("length", [0, 1, *range(40, 60), 100, 127, 128, 16_000, 16_383, 16_384, 70_000, 2_200_000])
def test_entries_of_any_length_are_framed(length: int) -> None:
    """Lengths of one to four bytes, including the borders between them."""
    writer = ObjectWriter("Docs")
    encoded = writer.write(make_point(0, "x" * length)) + writer.write(make_point(1, "y"))
    assert [entry["text"] for entry in read(encoded)] == ["x" * length, "y"]


def test_a_value_that_cannot_be_encoded_fails_only_its_point() -> None:
    """The value may be in a field of the chunk or in a shared field."""
    writer = ObjectWriter("Docs")
    with pytest.raises(ValueError, match="surrogates"):
        writer.write(make_point(0, "\ud800"))
    with pytest.raises(ValueError, match="surrogates"):
        writer.write(make_point(1, "fine", key="\ud800"))
    assert [entry["id"] for entry in read(writer.write(make_point(2, "fine", key="k")))] == ["id-2"]
