"""Traces through the gateway: searches and clients that ask for it have a span there, requests of jobs have none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ingestion_engine.adapters.ollama.gateway_embedder import GatewayEmbedder
from ingestion_engine.domain.records import Band, EmbeddingFlow
from ingestion_engine.runtime import tracing
from ingestion_engine.runtime.settings import Settings
from support.collector import Collector, collecting
from support.gateway import start

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector to which this process exports."""
    with collecting() as made:
        tracing.start_tracing(Settings(tracing={"endpoint": made.url, "sample_ratio": 0}), "gateway")
        yield made
        tracing.stop_tracing()


async def test_a_request_that_comes_with_a_trace_has_a_span(collector: Collector) -> None:
    """With what it waited and how often it was tried; never with its text."""
    async with start() as world:
        assert (await world.embed("a secret text", traceparent=PARENT)).status_code == 200
        assert (await world.embed("a secret text")).status_code == 200
        assert (await world.embed("a secret text", traceparent="nonsense")).status_code == 200
        refused = await world.embed("a secret text", traceparent=PARENT, ingest_weight="many")
        assert refused.status_code == 400
    tracing.stop_tracing()
    served, failed = collector.wait_for("POST /api/embed", 2)
    assert len(collector.spans) == 2
    assert (served.trace_id, served.parent_id) == (PARENT[3:35], PARENT[36:52])
    assert served.attributes["http.response.status_code"] == 200
    assert (served.attributes["ingest.texts"], served.attributes["ingest.tries"]) == (1, 1)
    assert failed.error
    assert not any(b"secret" in body for body in collector.bodies)


@pytest.mark.parametrize("band", [Band.SEARCH, Band.JOB])
async def test_searches_take_their_trace_along_and_jobs_do_not(collector: Collector, band: Band) -> None:
    """A partition has hundreds of requests; one search has one."""
    async with start() as world:
        embedder = GatewayEmbedder([str(world.http.base_url)], in_flight=1, flow=EmbeddingFlow("flow", band))
        try:
            with tracing.open_span("caller", parent=PARENT):
                await embedder.embed("m", ["text"])
        finally:
            await embedder.close()
    tracing.stop_tracing()
    (caller,) = collector.wait_for("caller")
    inside = [span for span in collector.spans if span.name == "POST /api/embed"]
    assert [span.parent_id for span in inside] == ([caller.span_id] if band is Band.SEARCH else [])
