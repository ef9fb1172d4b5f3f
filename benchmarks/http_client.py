"""Minimal HTTP/1.1 client for load on loopback: keep-alive, one request at a time on each connection, no framework.

It must cost little compared with the program under test. Interim answers (1xx) are counted and skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_CHUNKED = object()
_UNTIL_CLOSED = object()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with its whole body."""

    status: int
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes
    interim: int = 0
    """Number of interim answers before it."""


class ConnectionLost(Exception):
    """The server closed the connection, reset it, or sent nothing that can be read."""


class Connection(asyncio.Protocol):
    """A connection that is opened by the first request and opened again after it was lost."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._transport: Any = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self._head: tuple[int, dict[str, str]] | None = None
        self._length: Any = 0
        self._interim = 0

    async def request(self, method: str, path: str, head: bytes = b"", body: bytes = b"") -> Answer:
        """Send a request and return its answer; a canceled call closes the connection.

        Args:
            method: HTTP method.
            path: Path with query.
            head: Further header lines, each with its line end.
            body: Body of the request.

        Raises:
            ConnectionLost: There is no whole answer.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None:
            try:
                await loop.create_connection(lambda: self, self._host, self._port)
            except OSError as error:
                raise ConnectionLost(str(error)) from None
        self._waiting = loop.create_future()
        self._interim = 0
        start = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n".encode()
        self._transport.writelines((start, head, b"\r\n", body))
        try:
            return await self._waiting
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._buffer.clear()
        self._head = None

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._head is not None and self._length is _UNTIL_CLOSED:
            self._finish(bytes(self._buffer))
        elif self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionLost(str(error or "closed")))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._head is None:
            if not self._read_head():
                return
        if self._length is _CHUNKED:
            body = self._read_chunks()
            if body is not None:
                self._finish(body)
        elif self._length is not _UNTIL_CLOSED and len(self._buffer) >= self._length:
            body = bytes(memoryview(self._buffer)[: self._length])
            del self._buffer[: self._length]
            self._finish(body)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        status = int(first.split(" ", 2)[1])
        if 100 <= status < 200:
            self._interim += 1
            return True
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._head = (status, headers)
        if "chunked" in headers.get("transfer-encoding", ""):
            self._length = _CHUNKED
        else:
            self._length = int(headers["content-length"]) if "content-length" in headers else _UNTIL_CLOSED
        return True

    def _read_chunks(self) -> bytes | None:
        parts, at = [], 0
        while True:
            end = self._buffer.find(b"\r\n", at)
            if end < 0:
                return None
            size = int(self._buffer[at:end].split(b";")[0], 16)
            if len(self._buffer) < end + 2 + size + 2:
                return None
            if not size:
                del self._buffer[: end + 4]
                return b"".join(parts)
            parts.append(bytes(self._buffer[end + 2 : end + 2 + size]))
            at = end + 2 + size + 2

    def _finish(self, body: bytes) -> None:
        assert self._head is not None
        status, headers = self._head
        self._head = None
        if headers.get("connection", "").lower() == "close":
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(status, headers, body, self._interim))
