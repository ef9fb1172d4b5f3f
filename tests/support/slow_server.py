"""An HTTP server whose answers wait until a test wants them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BODY = b'{"ray_version": "2.60.0"}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)


class SlowServer:
    """Answers every request with ``BODY``, once it may."""

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


class _Protocol(asyncio.Protocol):
    """One connection; requests come in one piece."""

    def __init__(self, server: SlowServer) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.open.add(transport)

    def data_received(self, data: bytes) -> None:
        self.server.asked += 1
        self.server.waiting.append(self.transport)
        if self.server.may_answer:
            self.server.answer()

    def connection_lost(self, error: Exception | None) -> None:
        self.server.open.discard(self.transport)


@asynccontextmanager
async def run_slow_server() -> AsyncIterator[tuple[SlowServer, str]]:
    """Run one; yield it with its URL."""
    slow = SlowServer()
    listening = await asyncio.get_running_loop().create_server(lambda: _Protocol(slow), "127.0.0.1", 0)
    yield slow, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()
    await listening.wait_closed()
