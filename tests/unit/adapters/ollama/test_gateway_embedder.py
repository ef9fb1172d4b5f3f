"""The embedder through gateways that a test scripts: headers, waits, failures, and what the service asks beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pytest

from ingestion_engine.adapters.connect import open_embedder
from ingestion_engine.adapters.ollama.embedder import OllamaEmbedder
from ingestion_engine.adapters.ollama.gateway_client import GatewayClient, sum_flows
from ingestion_engine.adapters.ollama.gateway_embedder import GatewayEmbedder
from ingestion_engine.adapters.ollama.gateways import LONGEST_COOL_DOWN_S, Gateways
from ingestion_engine.adapters.ollama.server_urls import ServerAddress, ServerNames
from ingestion_engine.domain.errors import FatalError, FlowDropped, RequestFailed, TextTooLong, TransientError
from ingestion_engine.domain.records import Band, EmbeddingFlow, EmbeddingWait
from ingestion_engine.runtime.retry import RetryPolicy
from ingestion_engine.runtime.server_urls import parse_servers
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.waits import current_waits

FLOW = EmbeddingFlow("job-1", weight=7)
SHORT = RetryPolicy(first_s=0.01, longest_s=0.02, deadline_s=0.2)
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
VECTORS = {"embeddings": [[1.0, 0.0], [0.0, 1.0]]}

Step = float | bytes
"""Seconds to wait, or bytes to send."""


def answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> bytes:
    content = orjson.dumps(body)
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@dataclass
class Upstream:
    """A gateway that does what a script says: one script per request for embeddings, the last one again and again."""

    scripts: list[list[Step]]
    url: str = ""
    heads: list[str] = field(default_factory=list)
    """Head of every request."""
    flows: list[dict[str, Any]] = field(default_factory=list)
    ready: bytes = answer(200, {"status": "ok"})

    @property
    def embeds(self) -> list[str]:
        return [head for head in self.heads if "/api/embed" in head]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            self.heads.append(head)
            for step in self._choose(head):
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await asyncio.wait_for(reader.read(), step) if step > 5 else await asyncio.sleep(step)
        writer.close()

    def _choose(self, head: str) -> list[Step]:
        if "/api/tags" in head:
            return [answer(200, {"models": [{"name": "m:latest", "model": "m:latest", "digest": "d1"}]})]
        if "/api/show" in head:
            info = {"general.architecture": "bert", "bert.embedding_length": 2, "bert.context_length": 8}
            return [answer(200, {"model_info": info, "capabilities": ["embedding"]})]
        if "/gateway/flows" in head:
            return [answer(200, {"flows": self.flows})]
        if "/api/embed" not in head:
            return [self.ready]
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


@contextlib.asynccontextmanager
async def upstreams(*scripts: list[list[Step]]) -> AsyncIterator[list[Upstream]]:
    """Gateways on loopback, each with its scripts."""
    made = [Upstream(list(of_one)) for of_one in scripts]
    async with contextlib.AsyncExitStack() as exits:
        for upstream in made:
            server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
            exits.callback(server.close)
            upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


@contextlib.asynccontextmanager
async def embedding(made: list[Upstream], **options: Any) -> AsyncIterator[GatewayEmbedder]:
    values: dict[str, Any] = {"in_flight": 8, "flow": FLOW, "retry": SHORT, "describe_retry": SHORT, "silence_s": 0.3}
    embedder = GatewayEmbedder([upstream.url for upstream in made], **{**values, **options})
    try:
        yield embedder
    finally:
        await embedder.close()


async def embed(embedder: GatewayEmbedder, **options: Any) -> Any:
    async with asyncio.timeout(20):
        return await embedder.embed("m", ["a", "b"], **options)


async def test_a_request_says_whose_it_is() -> None:
    """Flow, band, weight, digest and the time limit at one server; never how long it may wait in the queue."""
    async with upstreams([[answer(200, VECTORS)]]) as made, embedding(made) as embedder:
        vectors = await embed(embedder, digest="d1")
        assert np.array_equal(vectors, np.array(VECTORS["embeddings"], dtype=np.float32))
        assert embedder.calls == 1
        (head,) = made[0].embeds
        for line in ("flow: job-1", "band: job", "weight: 7", "model-digest: d1", "timeout: 60"):
            assert f"ingest-{line}\r\n" in head
        await embed(embedder)
        assert "model-digest" not in made[0].embeds[1]
    async with upstreams([[answer(200, VECTORS)]]) as made:
        async with embedding(made, flow=EmbeddingFlow("search", Band.SEARCH)) as embedder:
            await embed(embedder)
        assert "ingest-band: search\r\n" in made[0].embeds[0]


async def test_settings_choose_between_gateways_and_servers() -> None:
    """A spec without a gateway uses none, whatever the node has."""
    settings = Settings(gateway={"url": "http://g:1"}, ollama={"urls": "http://o:1"})
    direct = settings.with_endpoints(Settings().endpoints())
    for chosen, kind in ((settings, GatewayEmbedder), (direct, OllamaEmbedder)):
        embedder = open_embedder(chosen, 1, flow=FLOW)
        assert type(embedder) is kind
        await embedder.close()


async def test_waiting_in_the_queue_is_no_failure() -> None:
    """However long it takes; it is neither repeated nor shown as a slow system."""
    script: list[Step] = [*[0.2, PROCESSING] * 4, answer(200, VECTORS)]
    async with upstreams([script], [script]) as made, embedding(made) as embedder:
        asked = asyncio.create_task(embed(embedder))
        await asyncio.sleep(0.5)
        assert current_waits() == []
        await asked
        assert sum(len(upstream.embeds) for upstream in made) == 1


async def test_failures_far_apart_are_no_long_outage() -> None:
    """The time in the queue before a failure is not the outage's, so that a partition is not put back for it."""
    late: list[Step] = [*[0.1, PROCESSING] * 6, answer(500, {"error": "a server failed"})]
    once = RetryPolicy(first_s=0.01, longest_s=0.02, deadline_s=0.5)
    async with upstreams([late, late, [answer(200, VECTORS)]]) as made:
        async with embedding(made, retry=once, silence_s=0.3) as embedder:
            assert (await embed(embedder)).shape == (2, 2)
        assert len(made[0].embeds) == 3
    async with upstreams([late]) as made:  # but not for ever
        async with embedding(made, retry=once, silence_s=0.3) as embedder:
            with pytest.raises(TransientError, match="a server failed"):
                await embed(embedder)
        assert 3 <= len(made[0].embeds) <= 6


SILENT: list[Step] = [20.0]
FROZEN: list[Step] = [PROCESSING, 20.0]
CLOSED: list[Step] = [b""]
FULL: list[Step] = [answer(503, {"error": "the queue of the flow is full"}, {"Retry-After": "30"})]
BROKEN: list[Step] = [answer(500, {"error": "no server"})]
PAGE: list[Step] = [answer(200, "<html>")]


@pytest.mark.parametrize("script", [SILENT, FROZEN, CLOSED, FULL, BROKEN, PAGE])
async def test_another_gateway_is_used_at_once(script: list[Step]) -> None:
    """For one that is silent, freezes, dies, is full, or is no gateway; the failed one is then avoided."""
    async with upstreams([script], [script, [answer(200, VECTORS)]]) as made:
        made.reverse()  # whichever is first, one of them answers in the end
        async with embedding(made, retry=RetryPolicy(first_s=0.01, longest_s=0.02, deadline_s=5)) as embedder:
            assert (await embed(embedder)).shape == (2, 2)
            assert embedder.calls == 1
            before = [len(upstream.embeds) for upstream in made]
            for _ in range(4):
                await embed(embedder)
            after = [len(upstream.embeds) for upstream in made]
            assert [now - then for now, then in zip(after, before, strict=True)] == [4, 0]


async def test_two_gateways_cost_no_pause_for_the_dead_one() -> None:
    """The retry policy, which would pause for minutes, is not asked."""
    slow = RetryPolicy(first_s=300, longest_s=300, deadline_s=1000)
    async with upstreams([CLOSED], [[answer(200, VECTORS)]]) as made, embedding(made, retry=slow) as embedder:
        for _ in range(3):
            await embed(embedder)


async def test_a_dropped_flow_is_given_up_at_once() -> None:
    """Neither repeated nor taken to another gateway: its job was canceled."""
    gone: list[Step] = [answer(410, {"error": "the flow 'job-1' was dropped"})]
    async with upstreams([gone], [gone]) as made, embedding(made) as embedder:
        with pytest.raises(FlowDropped, match="responded 410: the flow 'job-1' was dropped"):
            await embed(embedder)
        assert sum(len(upstream.embeds) for upstream in made) == 1


async def test_refusals_of_a_text_and_of_a_model_are_ollamas_own() -> None:
    """They come through the gateway unchanged; hints name the servers behind it."""
    refused = [answer(400, {"error": "the input length exceeds the context length"})]
    missing = [answer(404, {"error": 'model "m" not found, try pulling it first'})]
    async with upstreams([refused, missing]) as made, embedding(made) as embedder:
        with pytest.raises(TextTooLong):
            await embed(embedder)
        with pytest.raises(FatalError) as fault:
            await embed(embedder)
        assert (fault.value.code, "each server of the gateway" in fault.value.hint) == ("model_not_found", True)
        assert len(made[0].embeds) == 2


async def test_when_no_gateway_serves_it_is_an_outage() -> None:
    """After the quick retries; the message names the gateway."""
    async with upstreams([CLOSED], [FULL]) as made, embedding(made) as embedder:
        with pytest.raises(TransientError, match="Gateway at http") as fault:
            await embed(embedder)
        assert fault.value.code == "gateway_unavailable"


async def test_a_model_is_described_by_the_first_gateway_that_answers() -> None:
    """One that hangs delays nobody; a model that is not listed is missing."""
    async with upstreams([[]], [[]]) as made:
        hanging = Upstream([])
        hanging._choose = lambda _head: [20.0]  # type: ignore[method-assign]  # a test double
        server = await asyncio.start_server(hanging.serve, "127.0.0.1", 0)
        hanging.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with embedding([hanging, *made]) as embedder, asyncio.timeout(5):
            info = await embedder.describe("m")
            assert (info.digest, info.dimension, info.context_length) == ("d1", 2, 8)
            with pytest.raises(FatalError, match="not listed"):
                await embedder.describe("other")
        server.close()


async def test_a_name_without_addresses_is_an_outage() -> None:
    """``dns+`` names are resolved again and again, so the pods may come later."""
    embedder = GatewayEmbedder(["dns+http://nowhere.invalid:1"], in_flight=1, flow=FLOW, retry=SHORT)
    with pytest.raises(TransientError, match=r"nowhere\.invalid:1 does not resolve"):
        await embedder.embed("m", ["a"])
    await embedder.close()


async def test_all_requests_wait_for_the_first_resolution() -> None:
    """Not only the one that began it: the others would report an outage."""
    begun = asyncio.Event()

    async def resolve(_host: str, _port: int) -> list[str]:
        begun.set()
        await asyncio.sleep(0.1)
        return ["127.0.0.1"]

    never = RetryPolicy(first_s=300, longest_s=300, deadline_s=1)
    async with upstreams([[answer(200, VECTORS)]]) as made:
        port = made[0].url.rpartition(":")[2]
        url = f"dns+http://gateways:{port}"
        embedder = GatewayEmbedder([url], in_flight=8, flow=FLOW, retry=never)
        embedder._names = ServerNames(parse_servers([url]), resolve=resolve)
        first = asyncio.create_task(embed(embedder))
        await begun.wait()
        await asyncio.gather(first, *(embed(embedder) for _ in range(4)))
        await embedder.close()
        assert all(f"host: gateways:{port}\r\n" in head for head in made[0].heads)


async def test_no_request_waits_while_a_known_name_is_resolved_again() -> None:
    """A name server that hangs stops nobody who knows a gateway."""
    resolutions = 0

    async def resolve(_host: str, _port: int) -> list[str]:
        nonlocal resolutions
        resolutions += 1
        if resolutions > 1:
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    async with upstreams([[answer(200, VECTORS)]]) as made, embedding(made) as embedder:
        url = f"dns+{made[0].url}".replace("127.0.0.1", "gateways")
        embedder._names = ServerNames(parse_servers([url]), resolve=resolve, every_s=0.0)
        async with asyncio.timeout(2):
            for _ in range(3):
                await embed(embedder)
        assert resolutions == 2


def test_the_gateway_that_serves_faster_receives_more() -> None:
    """The fewest requests in flight come first; those that failed lately come last, for ten seconds at most."""
    now = 0.0
    gateways = Gateways(clock=lambda: now)
    gateways.set_addresses([ServerAddress("http://a"), ServerAddress("http://b"), ServerAddress("http://c")])
    first, second, third = sorted(gateways.in_order(), key=lambda gateway: gateway.address.url)
    first.in_flight, second.in_flight, third.in_flight = 2, 1, 0
    assert list(gateways.in_order()) == [third, second, first]
    for _ in range(9):
        gateways.note_failure(third)
    assert list(gateways.in_order()) == [second, first, third]
    now = LONGEST_COOL_DOWN_S
    assert next(gateways.in_order()) is third
    gateways.note_success(third)
    gateways.set_addresses([third.address])
    assert list(gateways.in_order()) == [third]


def flow(key: str, **fields: Any) -> dict[str, Any]:
    values = {"queued": 0, "in_flight": 0, "ahead": 0, "of": 0, "served_chars": 0, "waited_s": 0.0}
    return {"flow": key, "band": "job", "weight": 5, **values, **fields}


def test_flows_of_several_gateways_are_added_up() -> None:
    """The share is that of all characters; the place is the worst one."""
    first = {"flows": [flow("a", queued=3, in_flight=1, ahead=2, of=4, served_chars=100, waited_s=1.6), flow("b")]}
    second = {"flows": [flow("a", queued=1, ahead=1, of=9, served_chars=200), flow("c", served_chars=700)]}
    found = sum_flows([first, second])
    assert found["a"] == EmbeddingWait(queued=4, in_flight=1, ahead=2, of=4, share=0.3, waited_s=2)
    assert (found["b"], found["c"].share) == (EmbeddingWait(), 0.7)


async def test_a_gateway_that_is_not_ready_says_why() -> None:
    """The reason of its own readiness is shown in the service's."""
    async with upstreams([[]]) as made:
        made[0].ready = answer(503, {"status": "unavailable", "reason": "No Ollama server is available."})
        client = GatewayClient([made[0].url])
        with pytest.raises(TransientError, match=r"responded 503: No Ollama server is available\.$"):
            await client.check(made[0].url)
        made[0].ready = answer(502, "<html>")
        with pytest.raises(TransientError, match="responded 502"):
            await client.check(made[0].url)
        await client.close()


async def test_another_form_of_flows_is_an_outage_of_the_gateway() -> None:
    """Of a later version, or of another server at its address: jobs are then shown without what they wait for."""
    async with upstreams([[]]) as made:
        client = GatewayClient([made[0].url])
        for flows in ([{"flow": "a"}], [7], 7):
            made[0].flows = flows  # type: ignore[assignment]  # a test double
            with pytest.raises(TransientError, match="another form"):
                await client.read_flows()
        await client.close()


async def test_gateways_that_are_away_or_another_server_are_said_to_be_unreachable() -> None:
    """With the reason; they hide no other, and their status is no error."""
    async with upstreams([[]]) as made:
        dead = closed_port()
        client = GatewayClient([made[0].url, dead])
        found = {status.url: status for status in await client.read_status()}
        assert found.keys() == {made[0].url, dead}
        assert {status.status for status in found.values()} == {"unreachable"}
        assert "refuses connections" in str(found[dead].reason)
        assert "another form" in str(found[made[0].url].reason)
        await client.close()


async def test_the_service_reads_and_drops_flows_at_every_gateway() -> None:
    """Those that are away do not hide the others when it reads; it is told when one could not drop a flow."""
    async with upstreams([[]], [[]]) as made:
        made[0].flows = [flow("job-1", queued=2, served_chars=10)]
        dead = closed_port()
        client = GatewayClient([*(upstream.url for upstream in made), dead])
        assert await client.read_flows() == {"job-1": EmbeddingWait(queued=2, share=1.0)}
        with pytest.raises(TransientError, match="refuses connections"):
            await client.drop_flow("job/1")
        assert all(upstream.heads[-1].startswith("delete /gateway/flows/job%2f1 ") for upstream in made)
        await client.check(made[0].url)
        with pytest.raises(TransientError, match="refuses connections"):
            await client.check(dead)
        await client.close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(("status", "failed_servers", "requests"), [(400, 3, 2), (503, 1, 4), (400, 9, 1)])
async def test_a_request_that_servers_fail_is_given_up(status: int, failed_servers: int, requests: int) -> None:
    """After four failures at servers; no other gateway is asked when two servers have failed it."""
    headers = {"ingest-failed-servers": str(failed_servers), "retry-after": "1"}
    failed = [answer(status, {"error": "do embedding request: EOF"}, headers)]
    async with upstreams([failed], [failed]) as made, embedding(made) as embedder:
        with pytest.raises(RequestFailed) as given_up:
            await embed(embedder)
    assert given_up.value.code == "gateway_unavailable"
    assert sum(len(upstream.embeds) for upstream in made) == requests


async def test_a_gateway_without_room_is_no_failure_of_servers() -> None:
    """An outage, as before; so is a page of a proxy with 503."""
    async with upstreams([[answer(503, {"error": "full"})]]) as made, embedding(made) as embedder:
        with pytest.raises(TransientError) as outage:
            await embed(embedder)
    assert type(outage.value) is TransientError
