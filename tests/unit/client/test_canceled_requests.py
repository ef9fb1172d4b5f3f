"""Connections of the asynchronous client after requests that were canceled."""

from __future__ import annotations

import asyncio

import pytest

from ingestion_engine.client import AsyncIngestClient
from support.slow_server import run_slow_server
from support.waiting import eventually

STEPS = 40
"""More steps of the event loop than a request takes until it waits for its answer."""


async def test_a_canceled_request_keeps_no_connection() -> None:
    """Whatever step of connecting it is canceled at; the next one is answered, and one connection is open."""
    async with run_slow_server() as (server, url), AsyncIngestClient(url) as client:
        for step in range(STEPS):
            task = asyncio.create_task(client.check_live())
            for _ in range(step):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await eventually(lambda: not server.open)
        assert server.asked > 0, "no request has come as far as the server"
        server.answer()
        await client.check_live()
        await client.check_live()
        assert len(server.open) == 1
    await eventually(lambda: not server.open)


async def test_a_cancellation_leaves_other_requests_alone() -> None:
    """They end on the connections that they have; then these are closed."""
    async with run_slow_server() as (server, url), AsyncIngestClient(url) as client:
        other, canceled = (asyncio.create_task(client.check_live()) for _ in range(2))
        await eventually(lambda: server.asked == 2)
        canceled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await canceled
        server.answer()
        await other
        await eventually(lambda: not server.open)
