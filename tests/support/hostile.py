"""A service in a process of its own, and clients that want its connections, its time or its memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support.servers import RunningServer, answers, free_port, start_command

MAIN = Path(__file__).with_name("replica_main.py")

ANSWER_S = 5.0
"""Generous bound of one answer of ``/livez``, beside other tests; decision 50 has what was measured."""


@contextlib.contextmanager
def run_service(
    folder: Path, *, files: int | None = None, source: Path | None = None, **env: str
) -> Iterator[RunningServer]:
    """Run ``ingest serve`` over doubles; yield it when it answers.

    Args:
        folder: Its database, state and log.
        files: Limit on open files of the process, soft and hard.
        source: ``src`` of another release.
        env: Further variables.
    """
    port = free_port()
    variables = {
        "INGEST_STATE_URL": f"file://{folder}/state",
        "INGEST_DATA_DIR": str(folder),
        "INGEST_API__PORT": str(port),
        "DRILL_ENGINE": str(folder / "engine"),
        **env,
    }
    (folder / "engine").mkdir(exist_ok=True)
    roots = [str(source or MAIN.parents[2] / "src"), str(MAIN.parents[1])]
    limits = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
    command = [*limits, "env", f"PYTHONPATH={os.pathsep.join(roots)}", sys.executable, str(MAIN)]
    url = f"http://127.0.0.1:{port}"
    server = start_command(
        "service", command, url=url, log=folder / "service.log", env=variables, is_ready=answers(url + "/livez")
    )
    server.ports["http"] = port
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Client:
    """A connection that is used byte by byte."""

    port: int
    source: str | None = None
    """Address of the client; None means any."""

    async def __aenter__(self) -> Self:
        local = None if self.source is None else (self.source, 0)
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=local, limit=2**16)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read_status(self) -> int:
        """Return the status of the next answer; 0 when the connection ends without one."""
        with contextlib.suppress(ConnectionError):
            line = await self.reader.readline()
            return int(line.split()[1]) if line else 0
        return 0

    async def is_closed(self) -> bool:
        """Return True once the service has closed the connection; reads what comes before."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(2**16):
                pass
        return True


def request(method: str = "GET", path: str = "/livez", *headers: str, body: bytes = b"") -> bytes:
    """Return a request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def probe(port: int, times: int = 5, *, source: str | None = None, pause_s: float = 0.05) -> list[float]:
    """Return the seconds of each of several ``GET /livez``, each on a connection of its own."""
    seen = []
    for _ in range(times):
        began = time.monotonic()
        async with asyncio.timeout(ANSWER_S), Client(port, source) as client:
            client.send(request())
            status = await client.read_status()
        assert status == 200, f"GET /livez: {status}"
        seen.append(time.monotonic() - began)
        await asyncio.sleep(pause_s)
    return seen


@contextlib.asynccontextmanager
async def many(port: int, number: int, act: Callable[[Client], Awaitable[Any]]) -> AsyncIterator[list[Client]]:
    """Open connections, do something with each, and keep them open; those that the service closes are closed."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []

        async def open_one() -> None:
            client = await stack.enter_async_context(Client(port))
            clients.append(client)
            with contextlib.suppress(ConnectionError):
                await act(client)

        for start in range(0, number, 100):
            await asyncio.gather(*(open_one() for _ in range(start, min(number, start + 100))))
        yield clients
