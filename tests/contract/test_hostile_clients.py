"""Clients that open connections and are slow, silent, greedy or no HTTP: the service goes on, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.hostile import Client, many, probe, request, run_service
from support.servers import RunningServer
from support.waiting import eventually

FILES = 400
"""Open files of the process, as in the probe that found it: 450 half-open requests kept everybody out."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A service with few files and short time-outs."""
    limits = {"HEADER_TIMEOUT_S": "2", "BODY_PAUSE_S": "2", "BODY_TIMEOUT_S": "4", "SEND_TIMEOUT_S": "1"}
    env = {f"INGEST_LIMITS__{name}": value for name, value in limits.items()}
    rates = {"REQUESTS_PER_SECOND": "100000", "ADDRESS_REQUESTS_PER_SECOND": "100000"}
    env |= {f"INGEST_LIMITS__{name}": value for name, value in rates.items()}
    with run_service(tmp_path_factory.mktemp("service"), files=FILES, **env) as server:
        yield server


@pytest.fixture
def port(service: RunningServer) -> int:
    return service.ports["http"]


def count(service: RunningServer, metric: str) -> float:
    """Return a number of the service's metrics."""
    text = httpx.get(f"{service.url}/metrics", timeout=30).text
    found = re.search(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
    assert found is not None, metric
    return float(found[1])


def submit(service: RunningServer) -> str:
    """Return the id of a new job."""
    body = {"source": {"bucket": "docs"}, "collection": "notes"}
    return str(httpx.post(f"{service.url}/ray/jobs", json=body, timeout=30).json()["job_id"])


def closed(service: RunningServer, reason: str) -> float:
    return count(service, f'ingest_http_connections_closed_total{{reason="{reason}"}}')


@contextlib.asynccontextmanager
async def cancelled(running: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run tasks beside what is done inside."""
    tasks = [asyncio.create_task(one) for one in running]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("sent", [b"", b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n"])
async def test_half_open_requests_keep_nobody_out(service: RunningServer, port: int, sent: bytes) -> None:
    """More of them than the process may have files: the oldest make way, and all are ended in time."""

    async def begin(client: Client) -> None:
        client.send(sent)

    async with many(port, FILES + 50, begin) as clients:
        await probe(port)
        async with asyncio.timeout(60):
            await asyncio.gather(*(client.is_closed() for client in clients))
    assert closed(service, "evicted") > 0
    assert closed(service, "header_timeout") > 0


async def test_headers_byte_by_byte_have_an_end(port: int) -> None:
    """Each byte is new, and the request still has to be there in time."""
    begun = request("GET", f"/jobs?cursor={'a' * 500}")

    async def drip(client: Client) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in begun:
                client.send(bytes([byte]))
                await asyncio.sleep(0.2)

    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(60):
        clients = [await stack.enter_async_context(Client(port)) for _ in range(100)]
        async with cancelled(drip(client) for client in clients):
            await probe(port, 10)
            assert set(await asyncio.gather(*(client.read_status() for client in clients))) == {408}


@pytest.mark.parametrize("pause_s", [0.3, 30])
async def test_a_slow_body_has_an_end(port: int, pause_s: float) -> None:
    """Whether it pauses for long or only never ends; the answer says why."""

    async def begin(client: Client) -> None:
        client.send(request("POST", "/ray/jobs", "Content-Type: application/json", "Content-Length: 900", body=b"{"))

    async def drip(client: Client) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                client.send(b" ")
                await asyncio.sleep(pause_s)

    async with many(port, 50, begin) as clients, asyncio.timeout(60), cancelled(drip(client) for client in clients):
        await probe(port, 10)
        assert set(await asyncio.gather(*(client.read_status() for client in clients))) == {408}


async def test_clients_that_do_not_read_are_cut_off(service: RunningServer, port: int) -> None:
    """Their answers take memory; others are answered meanwhile."""
    before = closed(service, "send_timeout")

    async def ask(client: Client) -> None:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a transport that also reads
        for _ in range(100):
            client.send(request("GET", "/static-offline-docs/swagger-ui-bundle.js"))

    async with many(port, 40, ask):
        await probe(port)
        await eventually(lambda: closed(service, "send_timeout") - before == 40)
        await probe(port)


REFUSED = {
    "both lengths": (
        400,
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "two lengths": (400, b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
    "a signed length": (400, b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n\r\nabcd"),
    "chunks of HTTP/1.0": (
        400,
        b"POST /x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "an unknown coding": (501, b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    "a folded header": (400, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n"),
    "a space before the colon": (400, b"GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n"),
    "two hosts": (400, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"),
    "no host": (400, b"GET /livez HTTP/1.1\r\n\r\n"),
    "a NUL": (400, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: \x00\r\n\r\n"),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    "a long header": (431, request("GET", "/livez", f"X-A: {'a' * 40_000}")),
    "an endless header": (431, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 100_000),
    "many headers": (431, request("GET", "/livez", *(f"X-{number}: a" for number in range(120)))),
    "a long URL": (414, request("GET", f"/jobs?cursor={'a' * 9_000}")),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_ambiguous_or_too_large_is_refused(port: int, what: str) -> None:
    """With a problem, the security headers, and the end of the connection; a request behind it is not served."""
    status, sent = REFUSED[what]
    async with Client(port) as client, asyncio.timeout(30):
        client.send(sent + request() if b"\r\n\r\n" in sent else sent)
        answer = await client.reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert answer.count(b"HTTP/1.1 ") == 1
    assert json.loads(body)["status"] == status
    assert b"\r\nconnection: close" in head.lower()
    assert b"x-content-type-options: nosniff" in head.lower()


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(port: int) -> None:
    """Who asks first need not send it; who has sent it reads why, and may go on."""
    async with Client(port) as client, asyncio.timeout(30):
        client.send(request("POST", "/search", "Content-Length: 2000000", "Expect: 100-continue"))
        assert await client.read_status() == 413
    async with Client(port) as client, asyncio.timeout(30):
        length = 1_500_000
        client.send(request("POST", "/search", f"Content-Length: {length}", body=b"a" * length) + request())
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == b"413"
        size = re.search(rb"content-length: ([0-9]+)", head.lower())
        assert size is not None
        assert json.loads(await client.reader.readexactly(int(size[1])))["code"] == "request_too_large"
        assert await client.read_status() == 200


async def test_who_goes_on_sending_after_the_answer_is_cut_off(service: RunningServer, port: int) -> None:
    """A body without an end is not read for ever."""
    before = closed(service, "goes_on")
    async with Client(port) as client, asyncio.timeout(60):
        client.send(request("POST", "/search", "Content-Length: 9000000", body=b"a"))
        assert await client.is_closed()
    assert closed(service, "goes_on") == before + 1


async def test_several_requests_at_once_are_answered_in_order(port: int) -> None:
    """A pipeline, with a body between; what is read ahead counts for the right request."""
    search = request("POST", "/search", "Content-Type: application/json", "Content-Length: 2", body=b"{}")
    async with Client(port) as client, asyncio.timeout(30):
        client.send(request() + search + request("GET", "/x"))
        client.writer.write_eof()
        answer = (await client.reader.read()).decode()
    assert re.findall(r"HTTP/1.1 (\d+)", answer) == ["200", "422", "404"]


async def test_what_is_no_http_does_not_fill_the_log(service: RunningServer, port: int) -> None:
    """Anybody can send it, and it may look like anything in a terminal."""
    before = closed(service, "bad_request")
    for _ in range(20):
        async with Client(port) as client, asyncio.timeout(30):
            client.send(b"\x1b[2Jevil\x00\r\n\r\n")
            assert await client.read_status() == 400
    async with Client(port) as client, asyncio.timeout(30):
        client.send(request("GET", "/%1b[31m%00%0aevil", "X-Request-Id: \x1b[31m", "User-Agent: \x1b[2J"))
        assert await client.read_status() == 404
        client.send(request("GET", "/livez", "Connection: Upgrade", "Upgrade: websocket"))
        await client.reader.readuntil(b"\r\n\r\n")
    assert closed(service, "bad_request") == before + 20
    log = service.log.read_text()
    assert "\\u001b[31m\\u0000\\nevil" in log
    assert "\x1b" not in log
    assert "Invalid HTTP" not in log
    assert "Unsupported upgrade" not in log


def test_while_all_are_at_work_only_probes_are_answered(tmp_path: Path) -> None:
    """So that an orchestrator does not restart what is merely busy."""

    async def fill(port: int, job_id: str) -> None:
        async def follow(client: Client) -> None:
            client.send(request("GET", f"/jobs/{job_id}/events"))
            assert await client.read_status() == 200

        async with many(port, 16, follow):
            await probe(port)
            async with Client(port) as client, asyncio.timeout(30):
                client.send(request("GET", "/jobs"))
                head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
            assert head.split()[1] == b"503"
            assert json.loads(body)["code"] == "too_many_connections"
        await probe(port)

    limits = {"INGEST_LIMITS__CONNECTIONS": "16", "INGEST_LIMITS__STREAMS": "100"}
    with run_service(tmp_path, **limits) as service:
        asyncio.run(fill(service.ports["http"], submit(service)))
