"""Connections of the client of Ray's Jobs API after requests that were canceled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from ingestion_engine.submission.ray.jobs import RayJobsClient
from support.slow_server import SlowServer, run_slow_server
from support.waiting import eventually


@asynccontextmanager
async def a_head() -> AsyncIterator[tuple[SlowServer, RayJobsClient]]:
    async with run_slow_server() as (head, url):
        client = RayJobsClient(url)
        yield head, client
        await client.close()


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
    before = client._connections._now
    with pytest.raises(Exception, match="Ray failed"):
        await client.get_version()
    assert client._connections._now is before
    await client.close()
