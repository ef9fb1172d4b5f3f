"""Minimal HTTP/1.1 server for the simulated systems: keep-alive, ``Content-Length`` bodies, loopback only.

It must cost little compared with the program under test: one Protocol per connection, one pass over the bytes, no
framework.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 30.0

Handler = Callable[["Request", "Reply"], None]


@dataclass(frozen=True, slots=True)
class Request:
    """One request with its whole body."""

    method: str
    path: str
    """Path without the query."""
    query: str
    body: bytes
    port: int
    """Port of the server; a simulated endpoint is a port."""
    headers: dict[str, str]
    """Headers by their names in lower case."""


class Reply:
    """The answer to one request: called once with a whole response, now or later."""

    __slots__ = ("_connection", "on_gone")

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.on_gone: Callable[[], None] | None = None
        """Called if the client disconnects before the answer."""

    def __call__(self, answer: bytes) -> None:
        self._connection.send(answer, self)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self._connection.abort()


def make_answer(body: bytes, *, status: str = "200 OK", kind: str = "application/json", headers: str = "") -> bytes:
    """Return the bytes of a whole response, which can be sent any number of times."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def make_chunked(body: bytes) -> bytes:
    """Return the bytes of a whole JSON response without a length, in one chunk, as Go's server sends long ones."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


def answer_json(value: Any, *, status: str = "200 OK") -> bytes:
    """Return ``make_answer`` for a JSON value."""
    return make_answer(json.dumps(value, separators=(",", ":")).encode(), status=status)


class _Connection(asyncio.Protocol):
    """One client's connection; requests one after another."""

    def __init__(self, handle: Handler, connections: set[_Connection]) -> None:
        self._handle = handle
        self._connections = connections
        self._buffer = bytearray()
        self._wanted = 0
        self._head: tuple[str, str, dict[str, str], int] | None = None
        self._open_replies: set[Reply] = set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._port = transport.get_extra_info("sockname")[1]
        self._connections.add(self)
        transport.set_write_buffer_limits(high=64 * 1024 * 1024)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        for reply in list(self._open_replies):
            if reply.on_gone is not None:
                reply.on_gone()
        self._open_replies.clear()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            if self._head is None and not self._read_head():
                return
            assert self._head is not None
            method, target, headers, start = self._head
            if len(self._buffer) < self._wanted:
                return
            body = bytes(memoryview(self._buffer)[start : self._wanted])
            del self._buffer[: self._wanted]
            self._head, self._wanted = None, 0
            path, _, query = target.partition("?")
            reply = Reply(self)
            self._open_replies.add(reply)
            self._handle(Request(method, path, query, body, self._port, headers), reply)
            if not self._buffer:
                return

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if "transfer-encoding" in headers:
            self._transport.write(make_answer(b"", status="411 Length Required", headers="connection: close\r\n"))
            self._transport.close()
            return False
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._head = (method, target, headers, end + 4)
        self._wanted = end + 4 + int(headers.get("content-length", 0))
        return True

    def send(self, answer: bytes, reply: Reply) -> None:
        """Send the answer to one request."""
        self._open_replies.discard(reply)
        if not self._transport.is_closing():
            self._transport.write(answer)


class Ports:
    """Loopback ports of one handler, which can be shut and opened again. Used from the event loop only."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._servers: dict[int, asyncio.Server | None] = {}
        self._connections: dict[int, set[_Connection]] = {}

    @property
    def urls(self) -> list[str]:
        """One URL per port, in the order in which they were opened."""
        return [f"http://{LOOPBACK}:{port}" for port in self._servers]

    async def open(self, port: int = 0) -> int:
        """Listen on a port, by default on any free one; return it. Does nothing on a port that is open."""
        if self._servers.get(port) is not None:
            return port
        sock = socket.create_server((LOOPBACK, port), backlog=2048)
        port = sock.getsockname()[1]
        connections = self._connections.setdefault(port, set())
        loop = asyncio.get_running_loop()
        self._servers[port] = await loop.create_server(lambda: _Connection(self._handle, connections), sock=sock)
        return port

    def shut(self, port: int) -> None:
        """Refuse new connections to a port and abort the open ones, as when the server is killed."""
        server, self._servers[port] = self._servers[port], None
        if server is not None:
            server.close()
        for connection in list(self._connections[port]):
            connection.abort()


@contextlib.asynccontextmanager
async def open_ports(handle: Handler, count: int) -> AsyncIterator[Ports]:
    """Listen on ``count`` free loopback ports for the duration of the context."""
    ports = Ports(handle)
    try:
        for _ in range(count):
            await ports.open()
        yield ports
    finally:
        for url in ports.urls:
            ports.shut(int(url.rpartition(":")[2]))


Extra = contextlib.AbstractAsyncContextManager[dict[str, Any]]


def serve(handle: Handler, ports: int, *, extra: Callable[[Ports], Extra] | None = None) -> None:
    """Serve until SIGTERM or until standard input closes; first print ``{"urls": [...]}`` on one line.

    Args:
        handle: Called with every request; it must call its second argument once with a whole response, now or later.
        ports: How many loopback ports to listen on; any free ones.
        extra: Context that is open while the server runs; the fields it yields are printed too.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        await loop.connect_read_pipe(lambda: _Watch(ended), sys.stdin)
        async with open_ports(handle, ports) as opened:
            context: Extra = contextlib.nullcontext({}) if extra is None else extra(opened)
            async with context as more:
                print(json.dumps({"urls": opened.urls, **more}), flush=True)
                await ended.wait()

    import uvloop

    uvloop.run(run())


class _Watch(asyncio.Protocol):
    """Ends the server when the program that started it has ended."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def eof_received(self) -> bool:
        self._ended.set()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended.set()


@contextlib.contextmanager
def run_server(script: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run one of the simulated systems in a process of its own; yields the fields it printed (``urls``)."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{script} did not start")
            yield json.loads(line)
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)


def ask(url: str, value: Any = None) -> Any:
    """POST a JSON value, or GET when None; return the JSON answer."""
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
        return json.loads(answer.read())
