"""Ollama's API, as a client of the gateway sees it."""

from __future__ import annotations

import asyncio
import gzip
import re
from pathlib import Path

import httpx
import orjson
import pytest

from ingestion_engine.gateway.dispatcher import Call
from support.gateway import start
from support.prometheus_lint import lint
from support.scripted_ollama import EMBEDDED, Answer, ScriptedOllama, error


async def send_raw(url: str, request: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes on a connection of their own; status and JSON of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    body = await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
    writer.close()
    return int(head.split()[1]), orjson.loads(body)


async def test_bodies_are_passed_byte_for_byte() -> None:
    """Numbers, spaces and unknown fields of request and response are neither parsed nor written again."""
    body = b'{ "model":"m",\n "input":["a\\u00e9"], "options":{"x":1.0E-7}, "truncate": false}  '
    async with start() as world:
        response = await world.http.post("/api/embed", content=body, headers={"content-type": "text/json; x=1"})
        [received] = world.servers[0].embedded
        assert (response.status_code, response.content) == (200, EMBEDDED)
        assert (received.body, received.headers["content-type"]) == (body, "text/json; x=1")
        assert received.headers["accept-encoding"] == "identity"
        assert response.headers["ingest-server"] == world.urls[0]
        assert int(response.headers["ingest-queue-ms"]) >= 0


async def test_texts_count_from_the_moment_at_which_they_leave() -> None:
    """The queue is told when a request is written to its connection, not only when it got its server."""
    async with start(embed={"texts_per_second": 5}) as world:
        queue, left = world.gateway.dispatcher.queue, []
        count = queue.sent

        def note(call: Call, now: float) -> None:
            left.append((call.flow, len(world.servers[0].embedded)))
            count(call, now)

        queue.sent = note  # type: ignore[method-assign]  # the test listens
        await world.http.post("/api/embed", json={"model": "m", "input": ["x"]}, headers={"ingest-flow": "job-1"})
        assert left == [("job-1", 0)]


async def test_a_response_that_a_proxy_has_compressed_stays_compressed() -> None:
    """Its header goes with it, so that clients undo it as always."""
    packed = gzip.compress(EMBEDDED)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with start() as world:
        world.servers[0].embed = lambda _: Answer(200, packed, headers)
        async with world.http.stream("POST", "/api/embed", json={"model": "m", "input": "x"}) as response:
            raw = b"".join([chunk async for chunk in response.aiter_raw()])
        assert raw == packed
        assert response.headers["content-encoding"] == "gzip"


async def test_what_ollama_answers_is_answered() -> None:
    """The greeting, the version, the models that can be used, what is loaded, and a model's description."""
    async with start(2) as world:
        assert (await world.http.get("/")).text == "Ollama is running"
        assert (await world.http.head("/")).status_code == 200
        assert (await world.http.get("/api/version")).json() == {"version": "0.33.0"}
        assert (await world.http.get("/api/tags")).json() == {"models": world.servers[0].tags}
        assert (await world.http.get("/api/ps")).json() == {"models": world.servers[0].tags}
        shown = await world.http.post("/api/show", content=b'{"model": "m", "verbose": true}')
        assert shown.content == b'{"model_info" : {"n": 1e2}}'
        requests = [request for server in world.servers for request in server.received if request.path == "/api/show"]
        assert [request.body for request in requests] == [b'{"model": "m", "verbose": true}']


async def test_models_are_listed_with_the_digest_that_is_used() -> None:
    """The digest of most servers; models of one server are listed too."""
    servers = [ScriptedOllama() for _ in range(3)]
    servers[0].models = {"m:latest": "a" * 64, "only:latest": "c" * 64}
    servers[1].models = servers[2].models = {"m:latest": "b" * 64}
    async with start(servers) as world:
        models = (await world.http.get("/api/tags")).json()["models"]
        assert {entry["name"]: entry["digest"][0] for entry in models} == {"m:latest": "b", "only:latest": "c"}


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/api/generate", 501, "The gateway does not serve POST /api/generate."),
        ("POST", "/api/embeddings", 501, "use POST /api/embed."),
        ("POST", "/v1/embeddings", 501, "use POST /api/embed."),
        ("GET", "/api/embed", 405, "Use POST."),
        ("POST", "/api/tags", 405, "Use GET."),
        ("POST", "/gateway/flows/x", 405, "Use GET or DELETE."),
        ("DELETE", "/gateway/flows/", 404, "The gateway does not serve DELETE /gateway/flows/."),
        ("GET", "/favicon.ico", 404, "The gateway does not serve GET /favicon.ico."),
    ],
)
async def test_everything_else_is_refused_by_name(method: str, path: str, status: int, text: str) -> None:
    """In Ollama's form; not 404 for Ollama's API, which clients take for a missing model."""
    async with start() as world:
        response = await world.http.request(method, path)
        assert response.status_code == status
        assert text in response.json()["error"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ingest-flow", "a b"),
        ("ingest-flow", ""),
        ("ingest-flow", "x" * 129),
        ("ingest-band", "urgent"),
        ("ingest-weight", "0"),
        ("ingest-weight", "11"),
        ("ingest-weight", "5.5"),
        ("ingest-timeout", "0"),
        ("ingest-timeout", "nan"),
        ("ingest-timeout", "1e9"),
        ("ingest-model-digest", "../x"),
    ],
)
async def test_a_header_that_cannot_be_read_is_named(name: str, value: str) -> None:
    """A typing error must not change a job's share in silence."""
    async with start() as world:
        response = await world.http.post("/api/embed", json={"model": "m", "input": "x"}, headers={name: value})
        assert response.status_code == 400
        assert name in response.json()["error"].lower()
        assert world.servers[0].embedded == []


async def test_what_is_no_request_is_refused_by_the_server() -> None:
    """In its own words, and the server is not blamed for it."""
    async with start() as world:
        world.servers[0].embed = lambda _: error(400, "invalid character 'x' looking for beginning of value")
        for body in (b"xx", b"", b"[1]", b'{"input": 3}'):
            response = await world.http.post("/api/embed", content=body)
            assert response.status_code == 400
            assert "invalid character" in response.json()["error"]
        assert [request.body for request in world.servers[0].embedded] == [b"xx", b"", b"[1]", b'{"input": 3}']
        assert (await world.http.get("/readyz")).json()["status"] == "ok"


async def test_a_body_that_is_too_large_is_refused_without_reading_it() -> None:
    """413 with the limit."""
    async with start() as world:
        status, body = await send_raw(
            world.url, b"POST /api/embed HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n{"
        )
        assert status == 413
        assert "16 MiB" in body["error"]


async def test_a_model_that_no_server_has_is_missing() -> None:
    """In Ollama's words; the models are read again first, so that one that was just pulled is served."""
    async with start(2) as world:
        response = await world.embed(model="nope")
        assert (response.status_code, response.json()) == (
            404,
            {"error": "model 'nope:latest' not found, try pulling it first"},
        )
        for server in world.servers:
            server.models["nope:latest"] = "1" * 64
        assert (await world.embed(model="nope")).status_code == 200


@pytest.mark.parametrize("name", ["", " ", "\t"])
async def test_a_request_without_a_model_is_refused_by_a_server(name: str) -> None:
    """In its own words."""
    refusal = error(404, "model ' ' not found")
    async with start() as world:
        world.servers[0].embed = lambda _: refusal
        response = await world.embed(model=name)
        assert (response.status_code, response.content) == (404, refusal.body)
        assert (await world.http.get("/readyz")).json()["status"] == "ok"


async def test_pages_of_other_sites_are_not_served() -> None:
    """A browser beside the gateway would otherwise let every page use the servers."""
    async with start() as world:
        for origin in ("https://evil.example", "null", "http://[", "http://localhost.evil.example"):
            assert (await world.embed(origin=origin)).status_code == 403
        assert (await world.embed(origin="http://localhost:3000")).status_code == 200


async def test_the_gateway_is_addressed_by_its_own_name() -> None:
    """A page whose own name points at it is refused, also for reading; names in clusters and networks are not."""
    async with start() as world:
        for host in ("evil.example", "evil.example:11430", "gateway.evil.example", ""):
            response = await world.embed(host=host)
            assert response.status_code == 421, host
            assert "INGEST_GATEWAY__ALLOWED_HOSTS" in response.json()["error"]
            for path in ("/", "/api/tags", "/gateway/flows", "/metrics"):
                assert (await world.http.get(path, headers={"host": host})).status_code == 421
        for host in ("localhost:11430", "10.0.0.9", "gateway", "gateway.ingest.svc.cluster.local:11430"):
            assert (await world.embed(host=host)).status_code == 200, host


async def test_readiness_names_each_server() -> None:
    """What it is used for and why not; 503 when none can be used."""
    servers = [ScriptedOllama() for _ in range(3)]
    servers[2].models = {"m:latest": "1" * 64}
    async with start(servers) as world:
        await world.embed()
        ready = await world.http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["servers"][world.urls[2]]["differs"] == {"m:latest": "1" * 64}
        for server in servers:
            server.embed = lambda _: error(500, "llama runner process has terminated")
        assert (await world.embed()).status_code == 500
        view = (await world.http.get("/readyz")).json()
        assert view["servers"][world.urls[0]]["state"] == "cooling"
        assert "terminated" in view["servers"][world.urls[0]]["reason"]


async def test_a_gateway_without_servers_is_alive_but_not_ready() -> None:
    """It lists no models either: an empty list would say that a model does not exist."""
    server = ScriptedOllama()
    server.lists_models = False
    async with start([server]) as world:
        assert (await world.http.get("/livez")).status_code == 200
        assert (await world.http.get("/readyz")).status_code == 503
        assert (await world.http.get("/api/tags")).status_code == 503


async def test_metrics_show_what_was_served() -> None:
    """Texts and characters by band; the version."""
    async with start() as world:
        await world.embed("four", "five!", ingest_flow="job-1")
        text = (await world.http.get("/metrics")).text
        assert 'ingest_gateway_texts_total{band="job"} 2.0' in text
        assert 'ingest_gateway_chars_total{band="job"} 9.0' in text
        assert f'ingest_gateway_server_texts_total{{server="{world.urls[0]}"}} 2.0' in text
        assert f'ingest_gateway_server_chars_total{{server="{world.urls[0]}"}} 9.0' in text
        assert 'ingest_gateway_flow_share{band="job",flow="job-1"} 1.0' in text
        assert "ingest_gateway_info{" in text


async def test_names_of_flows_make_a_bounded_number_of_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may invent one for every request: Prometheus would keep a series of each for weeks."""
    monkeypatch.setattr("ingestion_engine.gateway.metrics.MOST_NEW_FLOWS", 3)
    seen: set[str] = set()
    async with start() as world:
        for number in range(6):
            await world.embed("four", ingest_flow=f"flow-{number}")
            text = (await world.http.get("/metrics")).text
            seen.update(re.findall(r'flow_share{[^}]*flow="([^"]*)"', text))
    assert seen == {"flow-0", "flow-1", "flow-2", "other"}
    assert lint(text) == []


async def test_every_metric_is_documented() -> None:
    """And every documented one exists."""
    manual = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text(encoding="utf-8")
    table = manual.partition("### Metrics")[2].partition("\n\n`…`")[0]
    documented = {name.removesuffix("_total") for name in re.findall(r"`…_([a-z_]+)`", table)}
    async with start() as world:
        await world.embed("four", ingest_flow='a "flow"\\')
        text = (await world.http.get("/metrics")).text
    assert lint(text) == []
    found = {name.removeprefix("ingest_gateway_") for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)}
    assert {name.removesuffix("_total").removesuffix("_created") for name in found} == documented
