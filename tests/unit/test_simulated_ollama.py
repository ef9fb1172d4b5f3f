"""The simulated Ollama of the benchmarks: what it counts, and vectors that depend on the text alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from http_server import ask, run_server
from sim_ollama import VECTORS, Pool, render_vectors

from ingestion_engine.adapters.ollama import OllamaEmbedder
from ingestion_engine.runtime.retry import RetryPolicy


def test_an_endpoint_that_always_has_a_request_waiting_is_busy_all_the_time() -> None:
    """Three requests at once are answered one after another, and the busy share is 1."""
    pool = Pool(request_ms=10, text_ms=5)
    assert [pool.schedule(1, 100.0, 2) for _ in range(3)] == pytest.approx([100.02, 100.04, 100.06])
    counters = pool.counters()
    assert (counters["calls"], counters["texts"], counters["busy_share"]) == (3, 6, pytest.approx(1.0))


def test_a_pause_between_two_requests_is_not_busy() -> None:
    """A request of 20 ms, 20 ms of nothing and one more of 20 ms make two thirds."""
    pool = Pool(request_ms=20, text_ms=0)
    pool.schedule(1, 100.0, 1)
    pool.schedule(1, 100.04, 1)
    assert pool.counters()["busy_share"] == pytest.approx(2 / 3)


def test_endpoints_work_side_by_side() -> None:
    """Two ports at the same time are two busy endpoints, not one that is busy twice as long."""
    pool = Pool(request_ms=20, text_ms=0)
    assert [pool.schedule(port, 100.0, 1) for port in (1, 2)] == pytest.approx([100.02, 100.02])
    counters = pool.counters()
    assert (counters["endpoints_used"], counters["busy_share"]) == (2, pytest.approx(1.0))


def test_reset_forgets_and_sets_costs() -> None:
    """After a reset nothing has happened, and the next request costs what was asked."""
    pool = Pool(request_ms=20, text_ms=0)
    pool.schedule(1, 100.0, 1)
    pool.reset(request_ms=0, text_ms=7)
    assert pool.counters()["calls"] == 0
    assert pool.schedule(1, 100.0, 2) == pytest.approx(100.014)


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
