"""Several gateways in processes of their own, killed, frozen and restarted, in front of simulated servers.

What the servers logged shows that the limits held; what the client got shows that no request was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from embed_log import Outcome, Record, peak_in_flight, peak_texts
from sim_ollama import Costs, SimulatedOllama, open_simulation

from ingestion_engine.adapters.ollama.gateway_embedder import GatewayEmbedder
from ingestion_engine.domain.records import EmbeddingFlow
from support.servers import RunningServer, answers, free_port, start_command
from support.waiting import eventually

MODEL = "sim-768"
MAIN = Path(__file__).parents[1] / "support" / "gateway_main.py"
TEXTS = 4
"""Texts of a request."""
COSTS = Costs(request_ms=300)
IN_FLIGHT = 4
RATE = 40
"""With these costs, three of four requests in flight reach it: both limits are felt, and the processor is idle."""
JITTER_S = 0.3
"""How much later than another an arrival at a server may be seen: this process is the servers, the client and the
starter of gateways. In a window that is shorter by this, no more texts than the limit may arrive. The property test
is exact."""


@dataclass
class Group:
    """Processes of gateways with one list, and how many servers each says that it owns."""

    servers: Sequence[str]
    logs: Path
    count: int
    dead_s: float
    urls: list[str] = field(default_factory=list)
    processes: dict[str, RunningServer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.urls = [f"http://127.0.0.1:{free_port()}" for _ in range(self.count)]

    async def start(self, *urls: str) -> None:
        """Start the processes of these URLs, and return when they answer."""
        for server in await asyncio.gather(*(asyncio.to_thread(self._start, url) for url in urls)):
            self.processes[server.url] = server

    def _start(self, url: str) -> RunningServer:
        port = url.rpartition(":")[2]
        env = {
            "INGEST_OLLAMA__URLS": ",".join(self.servers),
            "INGEST_GATEWAY__URL": ",".join(self.urls),
            "INGEST_GATEWAY__PORT": port,
            "INGEST_EMBED__IN_FLIGHT": str(IN_FLIGHT),
            "INGEST_EMBED__TEXTS_PER_SECOND": str(RATE),
            "INGEST_EMBED__BATCH_TEXTS": str(TEXTS),
        }
        command = [sys.executable, str(MAIN), str(self.dead_s)]
        return start_command(
            "gateway", command, url=url, log=self.logs / f"{port}.log", env=env, is_ready=answers(f"{url}/livez")
        )

    def kill(self, url: str) -> None:
        self.processes[url].process.kill()

    def send(self, url: str, number: signal.Signals) -> None:
        self.processes[url].process.send_signal(number)

    def stop(self) -> None:
        for server in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                server.process.send_signal(signal.SIGCONT)
            server.process.kill()
            server.process.wait()

    async def _read(self, url: str) -> dict[str, Any]:
        """Return what a gateway states; nothing owned and nothing in flight when it does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(timeout=1) as http:
                stated: dict[str, Any] = (await http.get(f"{url}/gateway/id")).json()
                return stated
        return {"owns": [], "in_flight": 0}

    async def seconds_until(self, *owned: int, among: Sequence[str] = ()) -> float:
        """Return how long it takes until the numbers of owned servers, in ascending order, are these."""
        start = time.monotonic()
        while sorted([len((await self._read(url))["owns"]) for url in among or self.urls]) != list(owned):
            assert time.monotonic() < start + 60, self._tail()
            await asyncio.sleep(0.02)
        return time.monotonic() - start

    async def wait_for_use(self, *urls: str) -> None:
        """Return when each of these has requests in flight: a client avoids one that was dead for some seconds."""
        start = time.monotonic()
        while not all([(await self._read(url))["in_flight"] for url in urls]):
            assert time.monotonic() < start + 60, self._tail()
            await asyncio.sleep(0.02)

    def _tail(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-1500:] for log in sorted(self.logs.glob("*.log")))


class Client:
    """Flows with some requests in flight each, which check what they get, until they are told to stop."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._stopping = asyncio.Event()
        self.served = 0
        self._known: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}

    async def run(self, key: str) -> None:
        embedder = GatewayEmbedder(self._urls, in_flight=4, flow=EmbeddingFlow(key))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(self._ask(embedder, number))
        finally:
            await embedder.close()

    async def _ask(self, embedder: GatewayEmbedder, number: int) -> None:
        while not self._stopping.is_set():
            number += 1
            texts = [f"text {number % 7} {each}" for each in range(TEXTS)]
            vectors = await embedder.embed(MODEL, texts)
            for text, vector in zip(texts, vectors, strict=True):
                assert np.array_equal(self._known.setdefault(text, vector), vector)
            self.served += 1

    def stop(self) -> None:
        self._stopping.set()


@contextlib.asynccontextmanager
async def asking(urls: Sequence[str]) -> AsyncIterator[Client]:
    """Four jobs that ask without pause until the block ends; a request that is lost fails the test."""
    client = Client(urls)
    tasks = [asyncio.create_task(client.run(f"job-{number}")) for number in range(4)]
    try:
        yield client
        client.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert client.served
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_limits(records: Sequence[Record], kills: int) -> None:
    """No more than the limits at any moment, and no work for nothing but what a killed gateway had in flight."""
    assert peak_in_flight(records) <= IN_FLIGHT
    assert peak_texts(records, 1.0 - JITTER_S) <= RATE
    lost = [record for record in records if record.outcome is not Outcome.ANSWERED]
    assert len(lost) <= kills * IN_FLIGHT


async def test_two_gateways_killed_restarted_frozen_and_stopped(tmp_path: Path) -> None:
    """Each time the other takes over, the limits hold at the servers, and the client gets every answer."""
    simulated = SimulatedOllama(COSTS, slots=2)
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_simulation(simulated, 4))
        group = Group(servers, tmp_path, count=2, dead_s=2.0)
        stack.callback(group.stop)
        one, other = group.urls
        await group.start(one, other)
        await group.seconds_until(2, 2)
        client = await stack.enter_async_context(asking(group.urls))
        await group.wait_for_use(one, other)

        group.kill(one)
        assert await group.seconds_until(4, among=[other]) < 10
        await group.start(one)
        await group.seconds_until(2, 2)
        await group.wait_for_use(one, other)

        group.send(other, signal.SIGSTOP)
        assert await group.seconds_until(4, among=[one]) < 10
        await group.wait_for_use(one)
        group.send(other, signal.SIGCONT)
        assert await group.seconds_until(2, 2) < 10

        group.send(one, signal.SIGTERM)
        assert await group.seconds_until(4, among=[other]) < 10
        assert await asyncio.to_thread(group.processes[one].process.wait, 30) == 0
        served = client.served
        await eventually(lambda: client.served >= served + 20)
        client.stop()
    check_limits(list(simulated.log), kills=1)


@pytest.mark.nightly
async def test_three_gateways_with_the_usual_times(tmp_path: Path) -> None:
    """Two of three die, one after the other and together; one stands still for longer than its death takes."""
    simulated = SimulatedOllama(COSTS, slots=2)
    handovers = []
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(open_simulation(simulated, 7))
        group = Group(servers, tmp_path, count=3, dead_s=5.0)
        stack.callback(group.stop)
        await group.start(*group.urls)
        await group.seconds_until(2, 2, 3)
        await stack.enter_async_context(asking(group.urls))
        for number, url in enumerate(group.urls * 2):
            await group.wait_for_use(*group.urls)
            rest = [each for each in group.urls if each != url]
            if number % 2:
                group.send(url, signal.SIGSTOP)
            else:
                group.kill(url)
            handovers.append(await group.seconds_until(3, 4, among=rest))
            if number % 2:
                await asyncio.sleep(number)
                group.send(url, signal.SIGCONT)
            else:
                await group.start(url)
            await group.seconds_until(2, 2, 3)
        last, *rest = group.urls
        for url in rest:
            group.kill(url)
        handovers.append(await group.seconds_until(7, among=[last]))
        await group.start(*rest)
        await group.seconds_until(2, 2, 3)
    assert max(handovers) < 10, handovers
    check_limits(list(simulated.log), kills=5)
