"""An Ollama server whose every answer to an embedding request is scripted, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import orjson
from aiohttp import web

EMBEDDED = b'{"model":"m","embeddings":[[1.00000000000000000001,-0E1]],"prompt_eval_count":1}'
"""Numbers that no JSON library writes like this: they show that a body was not parsed and written again."""
DIGEST = "0" * 64


def embed_all(body: bytes) -> Answer:
    """The default answer: one vector per text; of one text, and of what is no request, ``EMBEDDED``."""
    try:
        texts = orjson.loads(body)["input"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return Answer()
    count = len(texts) if isinstance(texts, list) else 1
    vector = EMBEDDED[EMBEDDED.index(b"[[") + 1 : EMBEDDED.index(b"]]") + 1]
    return Answer(200, EMBEDDED.replace(vector, b",".join([vector] * count)))


@dataclass(frozen=True)
class Answer:
    """One answer; None as status hangs up instead."""

    status: int | None = 200
    body: bytes = EMBEDDED
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


def error(status: int, text: str) -> Answer:
    return Answer(status, orjson.dumps({"error": text}))


HANG_UP = Answer(None)
Script = Callable[[bytes], Awaitable[Answer] | Answer]


@dataclass
class Received:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedOllama:
    """One server; ``embed`` answers its embedding requests, ``models`` is what it lists."""

    def __init__(self) -> None:
        self.embed: Script = embed_all
        self.models = {"m:latest": DIGEST}
        self.lists_models = True
        self.shown = b'{"model_info" : {"n": 1e2}}'
        self.received: list[Received] = []
        self.open = 0
        """Embedding requests that arrived and have neither an answer nor been canceled."""
        self.most_open = 0
        self.canceled = 0
        self.gate: asyncio.Event | None = None
        """While it is there and not set, embedding requests wait."""

    @property
    def embedded(self) -> list[Received]:
        return [request for request in self.received if request.path == "/api/embed"]

    @property
    def tags(self) -> list[dict[str, object]]:
        return [
            {"name": name, "model": name, "digest": digest, "size": 1, "details": {"family": "bert"}}
            for name, digest in self.models.items()
        ]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.method, request.path, headers, body))
        if request.path == "/api/embed":
            answer = await self._embed(body)
        elif request.path == "/api/tags":
            answer = Answer(200, orjson.dumps({"models": self.tags})) if self.lists_models else HANG_UP
        elif request.path == "/api/show":
            answer = Answer(200, self.shown)
        elif request.path == "/api/ps":
            answer = Answer(200, orjson.dumps({"models": self.tags[:1]}))
        else:
            answer = Answer(200, b'{"version": "0.33.0"}')
        if answer.status is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def _embed(self, body: bytes) -> Answer:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self.gate is not None:
                await self.gate.wait()
            answer = self.embed(body)
            return answer if isinstance(answer, Answer) else await answer
        except asyncio.CancelledError:
            self.canceled += 1
            raise
        finally:
            self.open -= 1


@contextlib.asynccontextmanager
async def serving(server: ScriptedOllama) -> AsyncIterator[str]:
    """Serve on loopback until the block ends; the URL."""
    protocol = web.Server(server.handle, handler_cancellation=True, access_log=None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = await asyncio.get_running_loop().create_server(protocol, sock=listener)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listening.close()
            await protocol.shutdown(0)


@contextlib.asynccontextmanager
async def serving_all(*servers: ScriptedOllama) -> AsyncIterator[list[str]]:
    """Serve several servers; their URLs."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(server)) for server in servers]
