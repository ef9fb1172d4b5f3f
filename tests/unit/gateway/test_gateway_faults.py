"""What the gateway does when servers, clients or the gateway itself fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import httpx
import orjson
import pytest

from ingestion_engine.gateway import app, serve
from ingestion_engine.runtime.adaptive_limit import AdaptiveLimit, Outcome, Passage
from support.gateway import World, gateway_settings, running_parts, start
from support.scripted_ollama import EMBEDDED, HANG_UP, Answer, Script, ScriptedOllama, error, serving
from support.waiting import eventually

_REFUSAL = error(400, "the input length exceeds the context length")
_RUNNER_GONE = error(400, 'do embedding request: Post "http://127.0.0.1:1/v1/embeddings": EOF')


async def _never(_: bytes) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


def _always(answer: Answer) -> Script:
    return lambda _: answer


async def _state_of(world: World, number: int) -> str:
    found = (await world.http.get("/gateway/servers")).json()["servers"]
    return str(found[number]["state"])


_FAILURES: dict[str, Script] = {
    "hangs up": _always(HANG_UP),
    "500": _always(error(500, "llama runner process has terminated: exit status 2")),
    "503": _always(error(503, "server busy, please try again.  maximum pending requests exceeded")),
    "400 of a dead runner": _always(_RUNNER_GONE),
    "page of a proxy": _always(Answer(502, b"<html>Bad Gateway</html>", {"content-type": "text/html"})),
    "page with status 200": _always(Answer(200, b"<html>Welcome</html>", {"content-type": "text/html"})),
    "truncated": _always(Answer(200, EMBEDDED[:20])),
    "too few vectors": _always(Answer(200, b'{"model":"m","embeddings":[]}')),
    "unauthorized": _always(Answer(401, b"", {})),
}


@pytest.mark.parametrize("script", _FAILURES.values(), ids=_FAILURES)
async def test_a_request_that_failed_is_served_by_another_server(script: Script) -> None:
    """The client sees the answer only; the failing server pauses."""
    async with start(2) as world:
        world.servers[0].embed = script
        for _ in range(4):
            response = await world.embed()
            assert (response.status_code, response.content) == (200, EMBEDDED)
        assert len(world.servers[0].embedded) == 1
        assert await _state_of(world, 0) != "up"
        assert await _state_of(world, 1) == "up"


async def test_a_server_that_hangs_fails_at_the_callers_limit() -> None:
    """Counted from the moment at which the request is sent."""
    async with start(2) as world:
        world.servers[0].embed = world.servers[1].embed = _never
        [busy, free] = world.servers
        first = asyncio.create_task(world.embed(ingest_timeout="0.2"))
        await eventually(lambda: bool(busy.embedded or free.embedded))
        if free.embedded:
            busy, free = free, busy
        free.embed = _always(Answer())
        assert (await first).content == EMBEDDED
        assert busy.canceled == 1
        assert len(busy.embedded) == len(free.embedded) == 1


async def test_each_server_is_tried_once_and_the_last_answer_returned() -> None:
    """With nothing left the client gets an answer of a server, or 503 with what happened."""
    async with start(3) as world:
        for server in world.servers:
            server.embed = _always(error(500, "llama runner process has terminated"))
        response = await world.embed()
        assert (response.status_code, response.json()) == (500, {"error": "llama runner process has terminated"})
        assert [len(server.embedded) for server in world.servers] == [1, 1, 1]
    async with start(2) as world:
        for server in world.servers:
            server.embed = _always(HANG_UP)
        response = await world.embed()
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"].count("closed the connection without a response") == 2


@pytest.mark.parametrize("answer", [_RUNNER_GONE, HANG_UP], ids=["400 EOF", "hangs up"])
async def test_a_text_that_stops_every_server_meets_three_then_two_at_a_time(answer: Answer) -> None:
    """The reply says how many servers failed it; other requests are served as ever."""

    def fail(body: bytes) -> Answer:
        return answer if b"poison" in body else Answer()

    async with start(5) as world:
        for server in world.servers:
            server.embed = fail
        for failed in ("3", "2", "2"):
            response = await world.embed("poison")
            assert response.status_code == (answer.status or 503)
            assert response.headers["ingest-failed-servers"] == failed
            assert "ingest-failed-servers" not in (await world.embed("text")).headers
        assert sum(b"poison" in request.body for server in world.servers for request in server.embedded) == 7


async def test_a_server_without_room_has_not_failed_the_request() -> None:
    """503 says nothing about the text."""
    async with start(1) as world:
        world.servers[0].embed = _always(error(503, "server busy"))
        assert "ingest-failed-servers" not in (await world.embed()).headers


async def test_a_client_that_hardly_waits_stops_no_server() -> None:
    """The servers are as fast as always."""
    async with start(2) as world:
        for server in world.servers:
            server.embed = _never
        for number in range(3):
            assert (await world.embed(f"text {number}", ingest_timeout="0.05")).status_code == 503
            assert [server.failures for server in world.gateway.pool.servers] == [0, 0]


async def test_a_compressed_body_is_refused() -> None:
    """Its texts cannot be counted, and a proxy before a server might read it."""
    async with start(1) as world:
        for path in ("/api/embed", "/api/show"):
            response = await world.http.post(path, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
            assert response.status_code == 415
            assert response.json()["error"].endswith("without Content-Encoding.")
        assert not world.servers[0].embedded


async def test_a_refusal_is_an_answer() -> None:
    """The text is at fault: no other server would take it, and the server is not blamed."""
    async with start(2) as world:
        for server in world.servers:
            server.embed = _always(_REFUSAL)
        response = await world.embed()
        assert (response.status_code, response.content) == (400, _REFUSAL.body)
        assert sum(len(server.embedded) for server in world.servers) == 1
        assert (await world.http.get("/readyz")).json()["status"] == "ok"


async def test_an_unknown_400_blames_a_server_only_if_another_one_serves_the_request() -> None:
    """A client with invalid options must not stop all servers, and a broken server must not fail all requests."""
    invalid = error(400, "words of a later release")
    async with start(2) as world:
        for server in world.servers:
            server.embed = _always(invalid)
        for _ in range(3):
            assert (await world.embed()).content == invalid.body
        assert (await world.http.get("/readyz")).json()["status"] == "ok"
        world.servers[1].embed = _always(Answer())
        while await _state_of(world, 0) == "up":
            assert (await world.embed()).content == EMBEDDED


@pytest.mark.parametrize(
    "answer",
    [
        error(500, 'option "num_ctx" must be of type integer'),
        error(400, 'time: invalid duration "x"'),
        error(400, "json: cannot unmarshal string into Go struct field EmbedRequest.dimensions of type int"),
    ],
    ids=lambda answer: str(answer.status),
)
async def test_a_client_with_fields_of_wrong_types_stops_no_server(answer: Answer) -> None:
    """Ollama answers some of them with 500; no other server would serve the request."""
    async with start(2) as world:
        for server in world.servers:
            server.embed = _always(answer)
        response = await world.embed()
        assert (response.status_code, response.content) == (answer.status, answer.body)
        assert sum(len(server.embedded) for server in world.servers) == 1
        assert (await world.http.get("/readyz")).json()["status"] == "ok"


async def test_a_model_that_is_removed_from_one_server_is_served_by_the_other() -> None:
    """The list of models was read some seconds ago."""
    missing = error(404, "model 'm:latest' not found")
    async with start(2) as world:
        world.servers[0].models = {}
        world.servers[0].embed = _always(missing)
        for _ in range(4):
            assert (await world.embed()).content == EMBEDDED
        assert len(world.servers[0].embedded) <= 1


async def test_a_digest_that_no_server_serves_is_a_failed_precondition() -> None:
    """412 names what is served; the right digest is served."""
    async with start() as world:
        world.servers[0].models = {"m:latest": "a" * 64}
        response = await world.embed(ingest_model_digest="b" * 64)
        assert response.status_code == 412
        assert "a" * 64 in response.json()["error"]
        assert (await world.embed(ingest_model_digest="a" * 64)).status_code == 200


async def _leave(world: World, *, flow: str, until: Callable[[], bool] = lambda: True) -> None:
    """Send a request and hang up once the gateway has it, and a fact is true."""
    body = orjson.dumps({"model": "m", "input": ["x"]})
    head = f"POST /api/embed HTTP/1.1\r\nhost: x\r\ningest-flow: {flow}\r\ncontent-length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port)
    writer.write(head.encode() + body)
    queue = world.gateway.dispatcher.queue
    before = len(queue) + queue.in_flight
    await eventually(lambda: len(queue) + queue.in_flight > before and until())
    writer.close()


async def test_a_client_that_leaves_frees_its_place_at_the_server() -> None:
    """The request at the server is canceled, so that the server stops working on it."""
    async with start(embed={"in_flight": 1}) as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        await _leave(world, flow="a", until=lambda: server.open == 1)
        await eventually(lambda: server.canceled == 1)
        server.gate.set()
        assert (await world.embed()).status_code == 200
        assert world.gateway.dispatcher.queue.in_flight == 0
        assert 'outcome="disconnected"} 1.0' in (await world.http.get("/metrics")).text


async def test_a_client_that_leaves_the_queue_is_never_sent() -> None:
    """Its place in the queue is free at once."""
    async with start(embed={"in_flight": 1}) as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        first = asyncio.create_task(world.embed())
        await eventually(lambda: server.open == 1)
        await _leave(world, flow="b")
        await eventually(lambda: len(world.gateway.dispatcher.queue) == 0)
        server.gate.set()
        await first
        assert len(server.embedded) == 1


async def test_a_dropped_flow_is_refused() -> None:
    """Its waiting requests and new ones get 410; other flows and the request in flight are served."""
    async with start(embed={"in_flight": 1}) as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        served = asyncio.create_task(world.embed(ingest_flow="job-1"))
        await eventually(lambda: server.open == 1)
        queued = [asyncio.create_task(world.embed(ingest_flow=flow)) for flow in ("job-1", "job-1", "job-2")]
        await eventually(lambda: len(world.gateway.dispatcher.queue) == 3)
        [flow] = [(await world.http.get("/gateway/flows/job-1")).json()]
        assert (flow["queued"], flow["in_flight"], flow["of"]) == (2, 1, 2)
        assert (await world.http.delete("/gateway/flows/job-1")).json() == {"flow": "job-1", "dropped": 2}
        assert [(await queued[0]).status_code, (await queued[1]).status_code] == [410, 410]
        assert (await world.embed(ingest_flow="job-1")).status_code == 410
        server.gate.set()
        assert [(await served).status_code, (await queued[2]).status_code] == [200, 200]


async def test_a_full_queue_refuses_the_flow_that_fills_it() -> None:
    """With 503 and a pause; a flow with less in it is served."""
    async with start(embed={"in_flight": 1}, gateway={"queue_bytes": 1000}) as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        first = asyncio.create_task(world.embed())
        await eventually(lambda: server.open == 1)
        text = "x" * 200
        greedy = [asyncio.create_task(world.embed(text, ingest_flow="greedy")) for _ in range(6)]
        done, _ = await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED)
        response = done.pop().result()
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        modest = asyncio.create_task(world.embed(text, ingest_flow="modest"))
        await eventually(lambda: "modest" in {flow.flow for flow in world.gateway.dispatcher.queue.flows(0)})
        assert world.gateway.dispatcher.queue.waiting_bytes <= 1000
        server.gate.set()
        assert (await modest).status_code == 200
        await asyncio.gather(first, *greedy)


async def test_a_body_that_the_queue_cannot_hold_is_not_read() -> None:
    """Refused by its length, so that clients that come again and again cost no memory."""
    async with start(embed={"in_flight": 1}, gateway={"queue_bytes": 1000}) as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        first = asyncio.create_task(world.embed())
        await eventually(lambda: server.open == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port)
        writer.write(b"POST /api/embed HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n{")
        assert (await _read_until(reader, b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        writer.close()
        server.gate.set()
        assert (await first).status_code == 200


async def test_a_flow_that_does_not_end_its_bodies_leaves_room_for_others() -> None:
    """It may hold as much as is free; what is beyond is refused, and a body of another flow is read."""
    half = 100_000
    async with start(gateway={"queue_bytes": 2 * half}) as world:
        head = "POST /api/embed HTTP/1.1\r\nhost: x\r\ningest-flow: {}\r\ncontent-length: {}\r\n\r\n"
        slow, refused = [await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port) for _ in range(2)]
        slow[1].write(head.format("slow", half).encode() + b" " * (half - 1))
        refused[1].write(head.format("slow", half).encode() + b" " * (half - 1))
        assert (await _read_until(refused[0], b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        body = b'{"model":"m","input":"x"}' + b" " * (half // 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port)
        writer.write(head.format("other", len(body)).encode() + body[:-1])
        await writer.drain()
        writer.write(body[-1:])
        assert (await _read_until(reader, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        slow[1].write(b" ")
        assert not (await _read_until(slow[0], b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        for _, connection in ((reader, writer), slow, refused):
            connection.close()


async def _read_until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    async with asyncio.timeout(20):
        return await reader.readuntil(end)


async def test_a_waiting_client_that_names_its_flow_hears_that_the_gateway_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interim responses until the answer, which is then whole; other clients get none."""
    monkeypatch.setattr(app, "HEARTBEAT_S", 0.02)
    async with start() as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        head = "POST /api/embed HTTP/1.1\r\nhost: x\r\n{}content-length: 25\r\n\r\n"
        body = b'{"model":"m","input":"x"}'
        connections = []
        for own in ("ingest-flow: job-1\r\n", ""):
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port)
            writer.write(head.format(own).encode() + body)
            connections.append((reader, writer))
        interim = b"HTTP/1.1 102 Processing\r\n\r\n"
        for _ in range(3):
            assert await _read_until(connections[0][0], b"\r\n\r\n") == interim
        await eventually(lambda: server.open == 2)
        server.gate.set()
        last = interim
        while last == interim:
            last = await _read_until(connections[0][0], b"\r\n\r\n")
        assert last.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await _read_until(connections[1][0], b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        for reader, writer in connections:
            assert await reader.readexactly(len(EMBEDDED)) == EMBEDDED
            writer.close()


async def test_a_client_that_does_not_send_its_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """408 after the time for its size."""
    monkeypatch.setattr(app, "BODY_TIMEOUT_S", 0.05)
    async with start() as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port)
        writer.write(b"POST /api/embed HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert (await _read_until(reader, b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_client_that_does_not_send_its_headers_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a complete request is idle."""
    monkeypatch.setattr(app, "KEEP_ALIVE_S", 0.05)
    async with start() as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port)
        writer.write(b"POST /api/embed HTTP/1.1\r\nhost: ")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_a_client_that_does_not_read_its_reply_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request has ended for the queue and the server, and its connection is closed after the time for the size."""
    monkeypatch.setattr(app, "BODY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(app, "SLOWEST_BYTES_PER_S", 1e9)
    large = Answer(200, b'{"embeddings":[' + b" " * 8_000_000 + b"]}")
    async with start(embed={"in_flight": 1}) as world:
        [server] = world.servers
        server.embed = _always(large)
        with socket.create_connection(("127.0.0.1", httpx.URL(world.url).port or 0)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = b'{"model":"m","input":"x"}'
            client.sendall(b"POST /api/embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            await eventually(lambda: len(server.embedded) == 1 and world.gateway.dispatcher.queue.in_flight == 0)
            server.embed = _always(Answer())
            assert (await world.embed()).status_code == 200


async def test_the_time_to_load_a_model_does_not_count_as_the_time_of_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server says it behind the vectors; else one server would seem to be many."""
    loads: list[float] = []
    end = AdaptiveLimit.end

    def note(limit: AdaptiveLimit, passage: Passage, outcome: Outcome, *, load_s: float = 0.0) -> None:
        loads.append(load_s)
        end(limit, passage, outcome, load_s=load_s)

    monkeypatch.setattr(AdaptiveLimit, "end", note)
    times = b',"total_duration":816257394,"load_duration":800682442,"prompt_eval_count":3}'
    async with start() as world:
        for tail in (times, b',"load_duration": 2500000}', b',"load_duration":-1}', b"}"):
            world.servers[0].embed = _always(Answer(body=b'{"embeddings":[[1]]' + tail))
            assert (await world.embed()).status_code == 200
    assert loads == [0.800682442, 0.0025, 0.0, 0.0]


async def test_a_server_that_failed_once_is_described_before_its_trial() -> None:
    """Jobs and searches ask for the model first: else nothing would ever send the request that tries the server."""
    async with start() as world:
        [server] = world.servers
        server.embed = _always(HANG_UP)
        assert (await world.embed()).status_code == 503
        server.embed = _always(Answer())
        await eventually(lambda: world.gateway.pool.models.is_known(world.urls[0]))
        assert await _state_of(world, 0) == "half_open"
        ready = await world.http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert (await world.http.get("/api/tags")).json()["models"][0]["name"] == "m:latest"
        assert (await world.http.get("/api/version")).status_code == 200
        assert (await world.http.post("/api/show", json={"model": "m"})).status_code == 200
        assert (await world.http.get("/api/ps")).status_code == 200
        assert (await world.embed()).status_code == 200
        assert (await world.http.get("/readyz")).json()["status"] == "ok"


async def test_a_stop_refuses_what_waits_and_ends_what_runs() -> None:
    """Workers go to another gateway; nothing that was sent to a server is lost."""
    async with start(embed={"in_flight": 1}) as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        running = asyncio.create_task(world.embed())
        await eventually(lambda: server.open == 1)
        waiting = asyncio.create_task(world.embed())
        await eventually(lambda: len(world.gateway.dispatcher.queue) == 1)
        world.gateway.dispatcher.stop(serve.STOPPING)
        refused = await waiting
        assert (refused.status_code, refused.json()) == (503, {"error": serve.STOPPING})
        assert (await world.http.get("/readyz")).status_code == 503
        assert (await world.embed()).status_code == 503
        server.gate.set()
        assert (await running).content == EMBEDDED


async def test_texts_per_second_count_at_every_try() -> None:
    """A retry embeds its texts again, so it waits for the window like the first try."""
    async with start(2, embed={"texts_per_second": 4}) as world:
        world.servers[0].embed = world.servers[1].embed = _always(error(500, "runner"))
        began = asyncio.get_running_loop().time()
        response = await world.embed("a", "b", "c")
        assert response.status_code == 500
        assert asyncio.get_running_loop().time() - began >= 1.0


async def test_bands_and_weights_reach_the_queue() -> None:
    """A search goes before jobs that have waited for longer."""
    async with start(embed={"in_flight": 1}) as world:
        [server] = world.servers
        server.gate = asyncio.Event()
        first = asyncio.create_task(world.embed("first"))
        await eventually(lambda: server.open == 1)
        job = asyncio.create_task(world.embed("job", ingest_flow="job-1", ingest_weight="10"))
        await eventually(lambda: len(world.gateway.dispatcher.queue) == 1)
        search = asyncio.create_task(world.embed("search", ingest_band="search"))
        await eventually(lambda: len(world.gateway.dispatcher.queue) == 2)
        [flow] = [flow for flow in world.gateway.dispatcher.queue.flows(0) if flow.flow == "job-1"]
        assert flow.weight == 10
        server.gate.set()
        await asyncio.gather(first, job, search)
        order = [orjson.loads(request.body)["input"][0] for request in server.embedded]
        assert order == ["first", "search", "job"]


async def test_passwords_in_urls_reach_the_server_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """Neither clients nor logs, metrics, statements; also when a server does not answer."""
    server, closed = ScriptedOllama(), "http://me:sec@ret@127.0.0.1:9"
    async with serving(server) as url:
        settings = gateway_settings([url.replace("//", "//me:sec@ret@"), closed], gateway={"url": closed})
        async with (
            running_parts(settings, dead_s=0.5) as (own, gateway),
            httpx.AsyncClient(base_url=own, timeout=30) as http,
        ):
            await eventually(lambda: gateway.pool.servers[1].last_error is not None)
            await eventually(lambda: gateway.peers.view()["silent"])
            server.embed = _always(error(500, "broken"))
            answers = [await http.post("/api/embed", json={"model": "m", "input": "x"}, headers={"ingest-flow": "f"})]
            answers += [await http.post("/api/show", json={"model": "m"})]
            answers += [await http.get(path) for path in ("/readyz", "/metrics", "/gateway/servers", "/gateway/id")]
    shown = [(answer.status_code, str(answer.headers), answer.text) for answer in answers]
    assert server.embedded[0].headers["authorization"].startswith("Basic ")
    assert "127.0.0.1:9" in answers[2].text
    assert "ret@" not in str([shown, [vars(record) for record in caplog.records]])
