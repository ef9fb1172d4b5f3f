"""The simulated systems of the benchmarks: their counters tell what happened, and clients take them for real."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from http_server import ask, run_server
from sim_ollama import VECTORS, render_vectors

from ingestion_engine.adapters.ollama.embedder import OllamaEmbedder
from ingestion_engine.adapters.qdrant.store import QdrantStore
from ingestion_engine.adapters.s3.source import S3Source
from ingestion_engine.adapters.weaviate.store import WeaviateStore
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Point
from ingestion_engine.domain.spec import Chunking, CollectionContract, StoreName
from ingestion_engine.runtime.retry import RetryPolicy
from ingestion_engine.runtime.settings import S3Settings


async def test_the_adapter_reads_its_answers_and_its_counters_know_every_text() -> None:
    """A text has the same vector in every request, on every endpoint; calls and texts are counted."""
    retry = RetryPolicy(first_s=0.1, longest_s=0.1, deadline_s=5.0)
    with run_server("sim_ollama.py", "--endpoints", "2") as server:
        embedder = OllamaEmbedder(server["urls"], in_flight=2, retry=retry)
        info = await embedder.describe("sim-384")
        first = await embedder.embed("sim-384", ["one", "two", "three"])
        again = await embedder.embed("sim-384", ["three"])
        await embedder.close()
        counters = ask(f"{server['urls'][0]}/sim/counters")
    assert (info.dimension, first.shape) == (384, (3, 384))
    assert np.array_equal(first[2], again[0])
    assert not np.array_equal(first[0], first[1])
    assert (counters["calls"], counters["texts"]) == (2, 4)


def test_rendered_vectors_have_length_one() -> None:
    """What the product's adapter would refuse is never served."""
    vectors = np.array([orjson.loads(vector) for vector in render_vectors(768)], dtype=np.float32)
    assert vectors.shape == (VECTORS, 768)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


async def test_both_sinks_count_every_point_that_the_adapters_write() -> None:
    """Seven points in batches of three are three upserts and seven points in either store, whose schema agrees."""
    contract = CollectionContract(
        collection="docs", stores=tuple(StoreName), model="sim-384", model_digest="0", dimension=4, embedding_id="0",
        options={}, prefix="", query_prefix="", chunking=Chunking(), created_at="2026-01-01T00:00:00Z",
        created_by="job",
    )  # fmt: skip
    payload = {"text": 'it says "vector": twice, "vector":', "epoch": 1}
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    points = [Point(PointId(f"00000000-0000-0000-0000-{n:012d}"), payload, vector) for n in range(7)]
    with run_server("sim_stores.py") as server:
        (url,) = server["urls"]
        for store in (QdrantStore(url, batch_points=3), WeaviateStore(url, server["grpc_url"], batch_points=3)):
            await store.ensure_collection(contract)
            await store.upsert("docs", points)
            await store.check_collection(contract)
            await store.close()
        counters = ask(f"{url}/sim/counters")
    assert {name: (counts["upserts"], counts["points"]) for name, counts in counters.items()} == {
        "qdrant": (3, 7),
        "weaviate": (3, 7),
    }


async def test_the_synthetic_bucket_lists_in_order_and_serves_what_it_lists() -> None:
    """Keys are strictly increasing, a changed object has another etag, and a GET gives the listed etag; all counted."""
    with run_server("sim_s3.py", "--keys", "2500") as server:
        (url,) = server["urls"]
        settings = {"endpoint_url": url, "access_key_id": "synthetic", "secret_access_key": "synthetic"}
        source = S3Source(S3Settings.model_validate(settings))
        before = list(source.list_objects("docs", ""))
        ask(f"{url}/sim/changed", {"one": 1})
        after = list(source.list_objects("docs", ""))
        raw = await source.fetch(after[1], max_bytes=10_000)
        await source.close()
        counters = ask(f"{url}/sim/counters")
    assert len(before) == 2500
    assert all(left.key < right.key for left, right in itertools.pairwise(before))
    assert [new.key for old, new in zip(before, after, strict=True) if old.etag != new.etag] == ["00000/001.md"]
    assert (raw.ref.etag, len(raw.body)) == (after[1].etag, after[1].size_bytes)
    assert (counters["lists"], counters["gets"]) == (6, 1)
