"""Load of several flows on an embedder or a gateway: each answer is compared with the vectors of its texts.

A flow behaves as the workers of one job do: a number of requests in flight, each sent again after a failure, with the
flow's headers. A flow with a rate is a stream of searches instead: it sends whether or not earlier ones are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import uvloop
from http_client import Answer, Connection, ConnectionLost
from sim_ollama import VECTORS, render_vectors

RETRY_S = 0.2
"""Pause before a request is sent again, unless the answer has ``Retry-After``."""
SILENCE_S = 30.0
"""Time without an answer after which a request is sent again; longer than any wait in these loads."""
TRIES = 200
FILLER = "The quick brown fox jumps over the lazy dog, and nobody knows why it does so every day. "
_EMBEDDINGS = b'"embeddings":['


@dataclass(frozen=True, slots=True)
class Flow:
    """One job, or one stream of searches."""

    name: str
    weight: int = 5
    band: str = "job"
    texts: int = 8
    """Texts of each request."""
    chars: int = 200
    """Characters of each text."""
    in_flight: int = 8
    joins_s: float = 0.0
    """When it joins, in seconds after the start of the load."""
    leaves_s: float | None = None
    """When it sends its last request; None means at the end of the load."""
    requests: int | None = None
    """How many requests it has; None means that it always has one more."""
    rate: float | None = None
    """Requests per second; None means that a request is sent as soon as one is answered."""
    timeout_s: int | None = None
    """How long the gateway may wait for one server."""
    headers: bool = True
    """False for a client that knows nothing of flows."""


@dataclass(slots=True)
class Asked:
    """One request of a flow, which may have been sent several times."""

    flow: str
    texts: int
    chars: int
    sent: float
    """Monotonic clock, as all times."""
    answered: float | None = None
    tries: int = 0
    refusals: list[str] = field(default_factory=list)
    """What the tries before the last ended with."""
    right: bool = False
    """True when the answer has exactly the vectors of the texts."""
    queue_ms: float | None = None
    interim: int = 0

    @property
    def took_ms(self) -> float:
        """Milliseconds from the first sending to the answer."""
        assert self.answered is not None
        return (self.answered - self.sent) * 1000


@dataclass(frozen=True, slots=True)
class Load:
    """Result of ``run_load``."""

    started: float
    ended: float
    """End of the time in which requests were sent; answers may have come later."""
    asked: list[Asked]

    def of(self, flow: str) -> list[Asked]:
        """Return the requests of a flow that were answered."""
        return [one for one in self.asked if one.flow == flow and one.answered is not None]

    @property
    def lost(self) -> int:
        """Number of requests that were never answered rightly."""
        return sum(not one.right for one in self.asked)


def run_load(urls: Sequence[str], flows: Sequence[Flow], seconds: float, *, model: str, drain: bool = True) -> Load:
    """Run flows against the URLs, each request at one of them in turn.

    Args:
        urls: Servers or gateways.
        flows: What to send.
        seconds: How long new requests are sent.
        model: ``sim-N``, or a model of a real server.
        drain: Wait for the answers of all requests; False drops those that are under way at the end.
    """
    return uvloop.run(send_flows(urls, flows, seconds, model=model, drain=drain))


async def send_flows(
    urls: Sequence[str], flows: Sequence[Flow], seconds: float, *, model: str, drain: bool = True
) -> Load:
    """Do what ``run_load`` does, on the running loop."""
    _render(model)  # so that the first answer is compared as fast as the others
    started = time.monotonic()
    asked: list[Asked] = []
    senders = [_Sender(urls, flow, model, asked) for flow in flows]
    tasks = [
        asyncio.create_task(sender.run(started, min(seconds, flow.leaves_s or seconds)))
        for sender, flow in zip(senders, flows, strict=True)
    ]
    try:
        if drain:
            await asyncio.gather(*tasks)
        else:
            await asyncio.wait(tasks, timeout=seconds)
    finally:
        for task in tasks:
            task.cancel()
        for sender in senders:
            sender.close()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not drain:
        asked = [one for one in asked if one.answered is not None]
    return Load(started, started + seconds, asked)


def _render(model: str) -> list[bytes] | None:
    """Return the vectors of a simulated model; None for a real one, whose vectors are only counted."""
    return render_vectors(int(model.removeprefix("sim-"))) if model.startswith("sim-") else None


class _Sender:
    """Sends the requests of one flow."""

    def __init__(self, urls: Sequence[str], flow: Flow, model: str, asked: list[Asked]) -> None:
        self._urls, self._flow, self._model, self._asked = urls, flow, model, asked
        self._turn = itertools.count(zlib.crc32(flow.name.encode()))
        self._numbers = itertools.count()
        self._free: dict[str, list[Connection]] = {url: [] for url in urls}
        self._open: set[Connection] = set()
        self._filler = FILLER * (flow.chars // len(FILLER) + 1)
        self._rendered = _render(model)
        lines = {"ingest-flow": flow.name, "ingest-band": flow.band, "ingest-weight": str(flow.weight)}
        if flow.timeout_s is not None:
            lines["ingest-timeout"] = str(flow.timeout_s)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()) if flow.headers else ""
        self._head = (head + "content-type: application/json\r\n").encode()

    async def run(self, started: float, seconds: float) -> None:
        await asyncio.sleep(started + self._flow.joins_s - time.monotonic())
        until = started + seconds
        if self._flow.rate is None:
            await asyncio.gather(*(self._keep_asking(until) for _ in range(self._flow.in_flight)))
            return
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                at = started + self._flow.joins_s + number / self._flow.rate
                if at >= until:
                    return
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                group.create_task(self._ask(next(self._numbers)))

    async def _keep_asking(self, until: float) -> None:
        while time.monotonic() < until:
            number = next(self._numbers)
            if self._flow.requests is not None and number >= self._flow.requests:
                return
            await self._ask(number)

    async def _ask(self, number: int) -> None:
        flow = self._flow
        texts = [f"{flow.name} {number} {i} {self._filler}"[: flow.chars] for i in range(flow.texts)]
        body = orjson.dumps({"model": self._model, "input": texts, "truncate": False})
        one = Asked(flow.name, flow.texts, flow.texts * flow.chars, time.monotonic())
        self._asked.append(one)
        while one.tries < TRIES:
            one.tries += 1
            answer = await self._try(one, body)
            if isinstance(answer, Answer) and answer.status == 200:
                one.answered = time.monotonic()
                one.right = self._is_right(answer.body, texts)
                one.interim += answer.interim
                queued = answer.headers.get("ingest-queue-ms")
                one.queue_ms = None if queued is None else float(queued)
                return
            pause = RETRY_S
            if isinstance(answer, Answer):
                one.refusals.append(f"{answer.status} {answer.body[:200].decode(errors='replace')}")
                pause = min(float(answer.headers.get("retry-after", RETRY_S)), 1.0)
            else:
                one.refusals.append(answer)
            await asyncio.sleep(pause)

    async def _try(self, one: Asked, body: bytes) -> Answer | str:
        url = self._urls[next(self._turn) % len(self._urls)]
        connection = self._free[url].pop() if self._free[url] else Connection(url)
        self._open.add(connection)
        try:
            async with asyncio.timeout(SILENCE_S):
                answer = await connection.request("POST", "/api/embed", self._head, body)
        except (ConnectionLost, TimeoutError) as error:
            return f"{type(error).__name__} {error}"
        finally:
            self._free[url].append(connection)
        return answer

    def _is_right(self, body: bytes, texts: Sequence[str]) -> bool:
        if self._rendered is None:
            return body.count(b"],[") + 1 == len(texts)
        wanted = b",".join([self._rendered[zlib.crc32(text.encode()) % VECTORS] for text in texts]) + b"]"
        at = body.find(_EMBEDDINGS)
        return at >= 0 and body.startswith(wanted, at + len(_EMBEDDINGS))

    def close(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.close()
