"""What clients may send over a socket: malformed, pipelined, too large, on many connections. Others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from support.gateway import World, start

GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a header without end": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000,
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "a length that is no number": b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST /api/embed HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "broken chunks": b"POST /api/embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a path that is no path": b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
}


def make_request(text: str) -> bytes:
    body = json.dumps({"model": "m", "input": [text]}).encode()
    return b"POST /api/embed HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def connect(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = world.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def read_status(reader: asyncio.StreamReader) -> int:
    """Read one response to its end and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
    await reader.readexactly(int(lengths[0]))
    return int(head.split()[1])


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE.keys())
async def test_what_is_no_request_ends_its_connection_only(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused with 400, or its connection is closed; nothing arrives at a server, or is logged as an error."""
    async with start(1) as world:
        reader, writer = await connect(world)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer == b"" or answer.split()[1] in (b"400", b"431")
        writer.close()
        assert (await world.embed("text")).status_code == 200
        assert len(world.servers[0].embedded) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_pipelined_requests_are_answered_in_order() -> None:
    """The second waits until the first has its answer; whatever it is."""
    async with start(1) as world:
        reader, writer = await connect(world)
        writer.write(make_request("one") + b"GET /api/generate HTTP/1.1\r\nHost: a\r\n\r\n" + make_request("two"))
        assert [await read_status(reader) for _ in range(3)] == [200, 501, 200]
        writer.close()


async def test_a_body_without_a_length_is_bounded() -> None:
    """Chunks are read up to the limit, then the request is refused; the memory is free again."""
    async with start(1) as world:

        async def endless() -> object:
            for _ in range(40):
                yield b"x" * 1_000_000

        response = await world.http.post("/api/embed", content=endless())
        assert response.status_code == 413
        assert (await world.embed("text")).status_code == 200
        assert len(world.servers[0].embedded) == 1


async def test_a_thousand_connections_that_do_nothing_hold_up_nobody() -> None:
    """Half of them have sent a part of a request."""
    async with start(1) as world, contextlib.AsyncExitStack() as stack:
        for number in range(1000):
            _, writer = await connect(world)
            stack.callback(writer.close)
            if number % 2:
                writer.write(make_request("never complete")[:60])
        assert (await world.embed("text")).status_code == 200
        assert len(world.servers[0].embedded) == 1


async def test_five_hundred_waiting_requests_are_all_answered() -> None:
    """On a connection each, while the server takes one after the other; half of the clients leave."""
    async with start(1) as world, contextlib.AsyncExitStack() as stack:
        server = world.servers[0]
        server.gate = asyncio.Event()
        readers = []
        for number in range(500):
            reader, writer = await connect(world)
            writer.write(make_request(f"text {number}"))
            await writer.drain()
            if number % 2:
                writer.transport.abort()
            else:
                stack.callback(writer.close)
                readers.append(reader)
        server.gate.set()
        statuses = await asyncio.wait_for(asyncio.gather(*(read_status(reader) for reader in readers)), 60)
        assert statuses == [200] * 250
