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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 30.0

Reply = Callable[[bytes], None]
Handler = Callable[["Request", Reply], None]


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


def make_answer(body: bytes, *, status: str = "200 OK", kind: str = "application/json", headers: str = "") -> bytes:
    """Return the bytes of a whole response, which can be sent any number of times."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def answer_json(value: Any, *, status: str = "200 OK") -> bytes:
    """Return ``make_answer`` for a JSON value."""
    return make_answer(json.dumps(value, separators=(",", ":")).encode(), status=status)


class _Connection(asyncio.Protocol):
    """One client's connection; requests one after another."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._buffer = bytearray()
        self._wanted = 0
        self._head: tuple[str, str, str, int] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._port = transport.get_extra_info("sockname")[1]
        transport.set_write_buffer_limits(high=64 * 1024 * 1024)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._wanted:
            if self._head is None and not self._read_head():
                return
            assert self._head is not None
            method, target, _, start = self._head
            if len(self._buffer) < self._wanted:
                return
            body = bytes(memoryview(self._buffer)[start : self._wanted])
            del self._buffer[: self._wanted]
            self._head, self._wanted = None, 0
            path, _, query = target.partition("?")
            self._handle(Request(method, path, query, body, self._port), self._reply)
            if not self._buffer:
                return

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        method, target, version = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if "transfer-encoding" in headers:
            self._transport.write(make_answer(b"", status="411 Length Required", headers="connection: close\r\n"))
            self._transport.close()
            return False
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._head = (method, target, version, end + 4)
        self._wanted = end + 4 + int(headers.get("content-length", 0))
        return True

    def _reply(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


Extra = contextlib.AbstractAsyncContextManager[dict[str, Any]]


def serve(handle: Handler, ports: int, *, extra: Callable[[], Extra] = lambda: contextlib.nullcontext({})) -> None:
    """Serve until SIGTERM or until standard input closes; first print ``{"urls": [...]}`` on one line.

    Args:
        handle: Called with every request; it must call its second argument once with a whole response, now or later.
        ports: How many loopback ports to listen on; any free ones.
        extra: Context that is open while the server runs; the fields it yields are printed too.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        sockets = [socket.create_server((LOOPBACK, 0), backlog=256) for _ in range(ports)]
        servers = [await loop.create_server(lambda: _Connection(handle), sock=sock) for sock in sockets]
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        await loop.connect_read_pipe(lambda: _Watch(ended), sys.stdin)
        urls = [f"http://{LOOPBACK}:{one.getsockname()[1]}" for one in sockets]
        async with extra() as more:
            print(json.dumps({"urls": urls, **more}), flush=True)
            await ended.wait()
        for server in servers:
            server.close()

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
