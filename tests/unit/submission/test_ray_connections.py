"""Connections of the client of Ray's Jobs API after requests that were canceled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from ingestion_engine.submission.ray.jobs import RayJobsClient
from support.waiting import eventually

BODY = b'{"ray_version": "2.60.0"}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)


class Head:
    """A dashboard that answers once it may."""

    def __init__(self) -> None:
        self.may_answer = False
        self.open: set[asyncio.Transport] = set()
        self.waiting: list[asyncio.Transport] = []
        self.asked = 0

    def answer(self) -> None:
        """Answer what waits, and from now on every request at once."""
        self.may_answer = True
        for transport in self.waiting:
            transport.write(HEAD + BODY)
        self.waiting.clear()


class HeadProtocol(asyncio.Protocol):
    """One connection to the dashboard; requests come in one piece."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.head.open.add(transport)

    def data_received(self, data: bytes) -> None:
        self.head.asked += 1
        self.head.waiting.append(self.transport)
        if self.head.may_answer:
            self.head.answer()

    def connection_lost(self, error: Exception | None) -> None:
        self.head.open.discard(self.transport)


@asynccontextmanager
async def a_head() -> AsyncIterator[tuple[Head, RayJobsClient]]:
    head = Head()
    server = await asyncio.get_running_loop().create_server(lambda: HeadProtocol(head), "127.0.0.1", 0)
    client = RayJobsClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    yield head, client
    await client.close()
    server.close()
    await server.wait_closed()


def ticks_of_a_request() -> range:
    """More steps of the event loop than a request takes until it waits for its answer."""
    return range(40)


async def test_a_canceled_request_keeps_no_connection() -> None:
    """Whatever step of connecting it is canceled at; the next one is answered, and nothing is left open."""
    async with a_head() as (head, client):
        for ticks in ticks_of_a_request():
            task = asyncio.create_task(client.get_version())
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await eventually(lambda: not head.open)
        assert head.asked > 0, "no request has come as far as its head"
        head.answer()
        assert await client.get_version() == "2.60.0"
        assert len(head.open) == 1


async def test_a_cancellation_leaves_the_requests_of_others_alone() -> None:
    """They end on the connections that they have; then these are closed."""
    async with a_head() as (head, client):
        other, canceled = (asyncio.create_task(client.get_version()) for _ in range(2))
        await eventually(lambda: head.asked == 2)
        canceled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await canceled
        head.answer()
        assert await other == "2.60.0"
        await eventually(lambda: not head.open)


async def test_connections_are_used_again() -> None:
    """Without a cancellation, one after another."""
    async with a_head() as (head, client):
        head.answer()
        for _ in range(3):
            await client.get_version()
        assert (len(head.open), head.asked) == (1, 3)


async def test_a_refused_connection_is_no_reason_for_others() -> None:
    """Errors of httpx pass as before."""
    client = RayJobsClient("http://head", transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    before = client._connections
    with pytest.raises(Exception, match="Ray failed"):
        await client.get_version()
    assert client._connections is before
    await client.close()
