"""The product's clients of the gateway against a real one: the embedder port, flows, readiness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from ingestion_engine.adapters.ollama import tokenizers
from ingestion_engine.adapters.ollama.embedder import OllamaEmbedder
from ingestion_engine.adapters.ollama.gateway_client import GatewayClient
from ingestion_engine.adapters.ollama.gateway_embedder import GatewayEmbedder
from ingestion_engine.domain.errors import FatalError, FlowDropped, TransientError
from ingestion_engine.domain.records import Band, EmbeddingFlow
from ingestion_engine.gateway import app, dispatcher
from ingestion_engine.runtime.retry import RetryPolicy
from support.gateway import gateway_settings, running_gateway, start
from support.scripted_ollama import DIGEST, ScriptedOllama
from support.servers import RunningServer

MODEL = "hash-384"
SHORT = RetryPolicy(first_s=0.01, longest_s=0.02, deadline_s=0.2)


@contextlib.asynccontextmanager
async def embedder_of(url: str, flow: EmbeddingFlow, silence_s: float = 30.0) -> AsyncIterator[GatewayEmbedder]:
    embedder = GatewayEmbedder([url], in_flight=8, flow=flow, retry=SHORT, describe_retry=SHORT, silence_s=silence_s)
    try:
        yield embedder
    finally:
        await embedder.close()


async def wait_until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 - the gateway has no event for it
            await asyncio.sleep(0.01)


async def test_the_gateway_is_the_same_embedder(ollama_server: RunningServer) -> None:
    """Description, vectors and refusals are those of the server behind it."""
    direct = OllamaEmbedder([ollama_server.url], in_flight=1)
    texts = ["one", "two", "three"]
    try:
        described = await direct.describe(MODEL)
        expected = await direct.embed(MODEL, texts)
    finally:
        await direct.close()
    async with (
        running_gateway(gateway_settings([ollama_server.url])) as url,
        embedder_of(url, EmbeddingFlow("job-1")) as embedder,
    ):
        assert await embedder.describe(MODEL) == described
        assert np.array_equal(await embedder.embed(MODEL, texts, digest=described.digest), expected)
        with pytest.raises(FatalError) as missing:
            await embedder.embed("no-such-model", texts)
        assert missing.value.code == "model_not_found"
        with pytest.raises(FatalError, match=r"no-such-model:latest. not found"):
            await embedder.describe("no-such-model")


async def test_the_digest_of_a_collection_is_described_while_any_server_has_it() -> None:
    """As without a gateway, so that its jobs and searches go on while most servers have a newer model."""
    servers = [ScriptedOllama() for _ in range(3)]
    for server in servers:
        server.shown = b'{"model_info": {"bert.embedding_length": 2}}'
    servers[2].models = {"m:latest": "1" * 64}
    async with start(servers) as world, embedder_of(world.url, EmbeddingFlow("job-1")) as embedder:
        await wait_until(lambda: all(world.gateway.pool.models.is_known(url) for url in world.urls))
        assert (await embedder.describe("m")).digest == DIGEST
        assert (await embedder.describe("m", digest="1" * 64)).digest == "1" * 64
        assert (await embedder.describe("m", digest="2" * 64)).digest == DIGEST


async def test_the_tokenizer_comes_through_the_gateway(
    ollama_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So chunks are cut at the same places with and without a gateway."""
    counted: list[list[int]] = []
    direct = OllamaEmbedder([ollama_server.url], in_flight=1)
    async with (
        running_gateway(gateway_settings([ollama_server.url])) as url,
        embedder_of(url, EmbeddingFlow("job-1")) as through,
    ):
        for embedder in (direct, through):
            monkeypatch.setattr(tokenizers, "_word_pieces", {})
            count = await embedder.load_tokenizer(await embedder.describe("all-minilm"))
            assert count is not None
            counted.append([count(text) for text in ("why is the sky blue?", "Überprüfung", "하늘", "QUJDRA==")])
            assert await embedder.load_tokenizer(await embedder.describe(MODEL)) is None
    await direct.close()
    assert counted[0] == counted[1]
    assert counted[0][0] == 8


async def test_vectors_of_another_model_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no server serves the digest of the collection any more, the job stops as it does without a gateway."""
    monkeypatch.setattr(dispatcher, "HOPE_S", 0.1)
    async with start(1) as world, embedder_of(world.url, EmbeddingFlow("job-1")) as embedder:
        await embedder.embed("m", ["text"], digest=DIGEST)
        with pytest.raises(FatalError) as fault:
            await embedder.embed("m", ["text"], digest="1" * 64)
        assert fault.value.code == "model_digest_differs"


async def test_what_flows_wait_for_is_shown_and_a_dropped_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may wait much longer than the limit on silence; the flow that is dropped does not touch the others."""
    monkeypatch.setattr(app, "HEARTBEAT_S", 0.05)
    async with start(1, embed={"in_flight": 1}) as world:
        server = world.servers[0]
        server.gate = asyncio.Event()
        client = GatewayClient([world.url])
        async with (
            embedder_of(world.url, EmbeddingFlow("job-1", weight=5), 0.5) as first,
            embedder_of(world.url, EmbeddingFlow("job-2", weight=10), 0.5) as second,
            embedder_of(world.url, EmbeddingFlow("search", Band.SEARCH), 0.5) as search,
        ):
            held = asyncio.create_task(first.embed("m", ["held"], digest=DIGEST))
            await wait_until(lambda: server.open == 1)
            await client.check(world.url)
            waiting = [asyncio.create_task(embedder.embed("m", ["waits"])) for embedder in (second, second, search)]
            await wait_until(lambda: len(world.gateway.dispatcher.queue) == 3)
            flows = await client.read_flows()
            assert set(flows) == {"job-1", "job-2", "search"}
            assert (flows["job-1"].in_flight, flows["job-1"].queued) == (1, 0)
            assert (flows["job-2"].queued, flows["job-2"].ahead, flows["job-2"].of) == (2, 1, 2)
            assert (flows["search"].queued, flows["search"].ahead) == (1, 0)
            (status,) = await client.read_status()
            assert (status.url, status.status) == (world.url, "ok")
            assert [(one.url, one.state, one.in_flight, one.owned) for one in status.servers] == [
                (world.urls[0], "up", 1, True)
            ]
            assert {one.flow: (one.band, one.weight, one.queued, one.in_flight) for one in status.flows} == {
                "job-1": ("job", 5, 0, 1),
                "job-2": ("job", 10, 2, 0),
                "search": ("search", 5, 1, 0),
            }
            await asyncio.sleep(1.0)  # twice the limit on silence
            await client.drop_flow("job-2")
            for task in waiting[:2]:
                with pytest.raises(FlowDropped):
                    await task
            with pytest.raises(FlowDropped):
                await second.embed("m", ["later"])
            server.gate.set()
            assert (await held).shape == (await waiting[2]).shape == (1, 2)
            assert (await client.read_flows())["job-1"].share > 0
            await client.drop_flow("job-that-never-was")
        await client.close()


async def test_a_gateway_without_servers_says_so() -> None:
    """Its readiness is what the service shows."""
    async with running_gateway(gateway_settings(["http://127.0.0.1:9"])) as url:
        client = GatewayClient([url])
        with pytest.raises(TransientError, match=r"responded 503: No Ollama server is available\."):
            await client.check(url)
        await client.close()
