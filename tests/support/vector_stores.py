"""Vector stores for the contract tests: where they run, collections and points to put there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingestion_engine.domain.ids import make_object_id, make_point_id
from ingestion_engine.domain.ports import SearchFilter, VectorStore
from ingestion_engine.domain.records import Point, StoredPoint
from ingestion_engine.domain.spec import Chunking, CollectionContract, StoreName
from ingestion_engine.runtime.settings import QdrantSettings, Settings, WeaviateSettings, load_settings

DIMENSION = 16
EVERYTHING = SearchFilter()


def make_settings(request: pytest.FixtureRequest) -> Settings:
    """The servers of the environment where they are named, else the stand-ins of this run."""
    settings = load_settings()
    if settings.qdrant.url is None:
        server = request.getfixturevalue("qdrant_server")
        qdrant = QdrantSettings(url=server.url, api_key=server.secrets["QDRANT_API_KEY"])
        settings = settings.model_copy(update={"qdrant": qdrant})
    if settings.weaviate.url is None:
        server = request.getfixturevalue("weaviate_server")
        grpc_url = f"http://127.0.0.1:{server.ports['grpc']}"
        key = server.secrets["WEAVIATE_API_KEY"]
        weaviate = WeaviateSettings(url=server.url, grpc_url=grpc_url, api_key=key)
        settings = settings.model_copy(update={"weaviate": weaviate})
    return settings


def make_contract(name: str, **changes: Any) -> CollectionContract:
    fields: dict[str, Any] = {
        "collection": name,
        "stores": tuple(StoreName),
        "model": "hash-16",
        "model_digest": "d" * 64,
        "dimension": DIMENSION,
        "embedding_id": "e" * 16,
        "prefix": "",
        "query_prefix": "",
        "options": {},
        "chunking": Chunking(),
        "created_at": "2026-11-01T00:00:00Z",
        "created_by": "job-1",
    }
    return CollectionContract(**{**fields, **changes})


def make_vector(seed: int, dimension: int = DIMENSION) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_point(key: str, number: int, *, epoch: int = 1, **changes: Any) -> Point:
    object_id = make_object_id("docs", key)
    payload: dict[str, Any] = {
        "object_id": object_id,
        "bucket": "docs",
        "key": key,
        "uri": f"s3://docs/{key}",
        "etag": "0123456789abcdef-3",
        "content_type": "text/plain",
        "text": f"Passage {number} of {key}.\nIt has two lines, “quotes” and an emoji 😀.",
        "content_hash": f"{number:064x}",
        "chunk_index": number,
        "start_char": number * 100,
        "end_char": number * 100 + 57,
        "embedding_id": "0123456789abcdef-fedcba9876543210",
        "epoch": epoch,
        "job_id": "job-01jd00000000000000000000",
        "ingested_at": "2026-11-23T21:43:05Z",
    }
    point_id = make_point_id(object_id, f"{number:064x}", 0)
    return Point(point_id, {**payload, **changes}, make_vector(hash_of(key) + number))


def hash_of(text: str) -> int:
    return sum(text.encode()) * 1009


async def read_all(store: VectorStore, collection: str, page: int = 500) -> list[StoredPoint]:
    return [point async for point in store.scroll(collection, with_vectors=True, page=page)]
