"""Chunks of one object in both real stores at once: paged, compared, with damage in one store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.records import RowState, TableRow
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.domain.states import Agreement
from ingestion_engine.services.chunks import ChunkDetail, ChunkService
from ingestion_engine.services.collection_access import EVERYTHING_ALLOWED
from ingestion_engine.state.collections import create_contract
from ingestion_engine.state.object_table.table import ObjectTable
from support.corpus.keys import AWKWARD_KEYS
from support.doubles import MemoryState
from support.vector_stores import make_point, make_vector


def make_row(key: str, chunks: int) -> TableRow:
    object_id = make_point(key, 0).payload["object_id"]
    at = "2026-01-01T00:00:00Z"
    return TableRow(key, "e", 1, at, object_id, RowState.PRESENT, None, None, False, "f", chunks, "", "", 1, "j", at)


class Chunks:
    """The service over both stores, with objects that a test writes."""

    def __init__(self, stores: dict[StoreName, VectorStore], contract: CollectionContract) -> None:
        self.stores = stores
        self.name = contract.collection
        self.contract = contract.model_copy(update={"bucket": "docs"})
        self.state = MemoryState()
        self.service = ChunkService(self.state, stores)

    async def write(self, objects: dict[str, int]) -> None:
        create_contract(self.state, self.contract)
        rows = [make_row(key, chunks) for key, chunks in sorted(objects.items(), key=lambda item: item[0].encode())]
        ObjectTable(self.state, self.name).append_run(rows, epoch=1, job_id="j")
        points = [make_point(key, number) for key, chunks in objects.items() for number in range(chunks)]
        for store in self.stores.values():
            await store.ensure_collection(self.contract)
            await store.upsert(self.name, points)

    async def read(self, key: str, limit: int) -> list[list[ChunkDetail]]:
        """Return all pages."""
        pages: list[list[ChunkDetail]] = []
        cursor: str | None = None
        while cursor is not None or not pages:
            page = await self.service.list_chunks(self.name, key, EVERYTHING_ALLOWED, limit=limit, cursor=cursor)
            assert page.errors == {}
            pages.append(page.items)
            cursor = page.next_cursor
        return pages


@pytest.fixture
def chunks(stores: dict[StoreName, VectorStore], contract: CollectionContract) -> Chunks:
    return Chunks(stores, contract)


async def test_equal_copies_of_keys_of_any_form(chunks: Chunks) -> None:
    """Each object's own chunks, in order, whatever its key; another key that begins so is another object."""
    await chunks.write(dict.fromkeys(AWKWARD_KEYS, 2))
    for key in AWKWARD_KEYS:
        (page,) = await chunks.read(key, 50)
        assert [(item.index, item.payload["key"], item.agreement) for item in page] == [
            (0, key, Agreement.EQUAL),
            (1, key, Agreement.EQUAL),
        ]
        assert {copy.job_id for item in page for copy in item.stores.values()} == {"job-01jd00000000000000000000"}
        assert {copy.epoch for item in page for copy in item.stores.values()} == {1}
    with pytest.raises(SubmissionError) as unknown:
        await chunks.service.list_chunks(chunks.name, AWKWARD_KEYS[0] + "?", EVERYTHING_ALLOWED, limit=5, cursor=None)
    assert (unknown.value.code, unknown.value.status) == ("object_not_found", 404)


async def test_pages_of_a_long_object_cover_it(chunks: Chunks) -> None:
    """1,203 chunks in pages of 200: each once, in order, without a request for all of them."""
    await chunks.write({"long.txt": 1203, "other.txt": 3})
    pages = await chunks.read("long.txt", 200)
    assert [item.index for page in pages for item in page] == list(range(1203))
    assert max(map(len, pages)) == 200


async def test_what_differs_is_named_for_each_store(chunks: Chunks) -> None:
    """A lost point, another text, another vector, another epoch, a point that the table does not have."""
    await chunks.write({"a.txt": 6})
    qdrant, weaviate = chunks.stores[StoreName.QDRANT], chunks.stores[StoreName.WEAVIATE]
    points = [make_point("a.txt", number) for number in range(7)]
    await qdrant.delete_points(chunks.name, [points[1].id])
    text = {**points[2].payload, "text": "Another text."}
    await weaviate.upsert(chunks.name, [replace(points[2], payload=text)])
    await weaviate.upsert(chunks.name, [replace(points[3], vector=make_vector(99))])
    await qdrant.upsert(chunks.name, [make_point("a.txt", 4, epoch=2)])
    await qdrant.upsert(chunks.name, [points[6]])
    moved = {**points[5].payload, "chunk_index": 70}
    await weaviate.upsert(chunks.name, [replace(points[5], payload=moved)])
    for limit in (50, 7):
        found = {item.point_id: item for page in await chunks.read("a.txt", limit) for item in page}
        seen = [(found[p.id].agreement, found[p.id].differences) for p in points]
        assert seen == [
            (Agreement.EQUAL, ()),
            (Agreement.MISSING, ()),
            (Agreement.DIFFERENT, ("text",)),
            (Agreement.DIFFERENT, ("vector",)),
            (Agreement.DIFFERENT, ("epoch",)),
            (Agreement.DIFFERENT, ("chunk_index",)),
            (Agreement.MISSING, ()),
        ]
        lost = found[points[1].id].stores
        assert (lost[StoreName.QDRANT].present, lost[StoreName.WEAVIATE].present) == (False, True)
        values: Any = {name: copy.values for name, copy in found[points[2].id].stores.items()}
        assert values == {
            StoreName.QDRANT: {"text": points[2].payload["text"]},
            StoreName.WEAVIATE: {"text": "Another text."},
        }
    await weaviate.drop_collection(chunks.name)
    page = await chunks.service.list_chunks(chunks.name, "a.txt", EVERYTHING_ALLOWED, limit=50, cursor=None)
    assert {name: error.code for name, error in page.errors.items()} == {StoreName.WEAVIATE: "collection_missing"}
    assert {item.agreement for item in page.items} == {Agreement.MISSING}


async def test_points_far_beyond_the_object_are_reached(chunks: Chunks) -> None:
    """What damage left behind is shown too, without pages for all numbers between."""
    await chunks.write({"a.txt": 12})
    far = [make_point("a.txt", number) for number in (400, 900_000)]
    await chunks.stores[StoreName.QDRANT].upsert(chunks.name, far)
    pages = await chunks.read("a.txt", 5)
    assert [item.index for page in pages for item in page] == [*range(12), 400, 900_000]
    assert len(pages) == 5
