"""A server that speaks Ollama's API over the real all-MiniLM-L6-v2 model: the embedded stand-in.

Run: `python -m ingestion_devstack.ollama.server --host 127.0.0.1 --port 11434`. It answers what the engine and
Ollama's own clients call to embed: `GET|HEAD /`, `/api/version`, `/api/tags`, `/api/ps`, and `POST /api/show`,
`/api/embed`, `/api/embeddings`, `/api/pull`. Status codes and error texts follow server/routes.go of v0.33.
Everything else is 404, as an unknown path is there.

Known differences: a text over the context is cut between its tokens, not through detokenised text; a call with one
text too long is refused before any inference; Host headers are not checked; models cannot be created, copied or
deleted; there is no chat or generation.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ingestion_devstack.ollama.catalog import Catalog, InvalidNameError
from ingestion_devstack.ollama.faults import EmbedStats, FaultPlan
from ingestion_devstack.ollama.hash_model import HashModel
from ingestion_devstack.ollama.minilm import MiniLm
from ingestion_devstack.ollama.model import EmbeddingModel, RefusedTextError, TokenWindow, Vector, normalize
from ingestion_devstack.ollama.requests import (
    BadRequestError,
    Body,
    EmbedCall,
    read_embed_call,
    read_legacy_call,
)
from ingestion_devstack.ollama.responses import (
    CLIENT_GONE,
    ERROR_HANDLERS,
    Json,
    answer_error,
    answer_invalid_name,
    answer_lines,
    unless_gone,
)
from ingestion_devstack.ollama.runner import Embedded, Runner

_VERSION = "0.33.0"
"""The version of the server whose behaviour this repeats."""
_TEST_DIMENSIONS = (384, 768)
_STOP_S = 1
"""Seconds that open requests get at SIGTERM; a text takes less than 0.2 s."""
_MAX_THREADS = 8
"""More cores than this are left to the rest of the stack."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a stand-in server is set up."""

    data_dir: Path | None = None
    """Holds `model.onnx` and `tokenizer.json` where the packages that carry them are not installed."""
    threads: int = 2
    """Texts of one request embedded at a time."""
    faults: bool = False
    """Serve `/_faults` and `/_stats`."""
    test_models: bool = False
    """Serve `hash-384` and `hash-768`."""


class OllamaStandIn:
    """The routes and what they share; one per server."""

    def __init__(self, options: ServerOptions) -> None:
        """Find the model files; nothing is loaded yet.

        Raises:
            MissingModelFilesError: the weights or the tokenizer are not there.
        """
        self._options = options
        self._models: list[EmbeddingModel] = [MiniLm(options.data_dir)]
        if options.test_models:
            self._models += [HashModel(dimension) for dimension in _TEST_DIMENSIONS]
        self._stats = EmbedStats()
        self._faults = FaultPlan()
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="embed")
        self._catalog = Catalog([])
        self.stopping = asyncio.Event()
        """Set when the server ends: calls in flight are answered 503 after the text they are at."""

    def make_app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/", self.greet),
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.ps),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/pull", self.pull, methods=["POST"]),
            Route("/api/embed", self.embed, methods=["POST"]),
            Route("/api/embeddings", self.embed_legacy, methods=["POST"]),
        ]
        if self._options.faults:
            routes += [Route("/_faults", self.arm_fault, methods=["POST"]), Route("/_stats", self.stats)]
        return Starlette(routes=routes, exception_handlers=ERROR_HANDLERS, lifespan=self._run)

    @contextlib.asynccontextmanager
    async def _run(self, _app: Starlette) -> AsyncIterator[None]:
        self._catalog = Catalog(
            [Runner(model, self._pool, self._options.threads, self._stats) for model in self._models]
        )
        yield
        for runner in self._catalog.runners:
            runner.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def greet(self, _request: Request) -> Response:
        """`GET /`."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _request: Request) -> Response:
        """`GET /api/version`."""
        return Json({"version": _VERSION})

    async def tags(self, _request: Request) -> Response:
        """`GET /api/tags`: the models that are there."""
        return Json({"models": await asyncio.to_thread(self._catalog.list_models)})

    async def ps(self, _request: Request) -> Response:
        """`GET /api/ps`: the models in memory."""
        return Json({"models": await asyncio.to_thread(self._catalog.list_loaded)})

    async def show(self, request: Request) -> Response:
        """`POST /api/show`: what a model is."""
        body = Body(await request.body(), "ShowRequest")
        name = body.text("model") or body.text("name")
        if not name.strip():
            return answer_error(400, "model is required")
        try:
            runner = self._catalog.find(name)
        except InvalidNameError:
            return answer_error(400, "invalid model name")
        return Json(self._catalog.show(runner)) if runner else answer_error(404, f"model '{name}' not found")

    async def pull(self, request: Request) -> Response:
        """`POST /api/pull`: succeeds for what is there; nothing can be downloaded."""
        body = Body(await request.body(), "PullRequest")
        try:
            runner = self._catalog.find(body.text("model") or body.text("name"))
        except InvalidNameError:
            return answer_error(400, "invalid model name")
        stream = body.flag("stream", default=True)
        if runner is None:
            missing = {"error": "pull model manifest: file does not exist"}
            return answer_lines([{"status": "pulling manifest"}, missing]) if stream else Json(missing, 500)
        if not stream:
            return Json({"status": "success"})
        digest = await asyncio.to_thread(runner.model.read_digest)
        size = runner.model.size_bytes
        layer = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": size, "completed": size}
        steps = ("verifying sha256 digest", "writing manifest", "success")
        return answer_lines([{"status": "pulling manifest"}, layer, *({"status": step} for step in steps)])

    async def embed(self, request: Request) -> Response:
        """`POST /api/embed`: unit vectors for one or many texts, all or nothing."""
        self._stats.embed_requests += 1
        self._stats.in_flight += 1
        self._stats.max_in_flight = max(self._stats.max_in_flight, self._stats.in_flight)
        try:
            raw = await request.body()
            response = await unless_gone(request, self.stopping, self._embed(raw))
            if response.status_code == CLIENT_GONE:
                self._stats.dropped_requests += 1
            return response
        finally:
            self._stats.in_flight -= 1

    async def _embed(self, raw: bytes) -> Response:
        started = time.perf_counter()
        if fault := self._faults.next_call():
            self._stats.faulted_requests += 1
            await asyncio.sleep(fault.delay_s)
            if fault.status is not None:
                return Json(fault.body, fault.status)
        call = read_embed_call(raw)
        try:
            runner = self._catalog.find(call.model)
        except InvalidNameError:
            return answer_invalid_name(call.model)
        if runner is None:
            return answer_error(404, f'model "{call.model}" not found, try pulling it first')

        def admit(window: TokenWindow, token_count: int) -> int:
            return window.admit(token_count, truncate=call.truncate)

        try:
            embedded = await runner.embed(call, admit)
            vectors = [_shape(vector, call.dimensions) for vector in embedded.vectors]
        except RefusedTextError as error:
            return answer_error(400, str(error))
        return Json(_describe(call, embedded, vectors, time.perf_counter() - started))

    async def embed_legacy(self, request: Request) -> Response:
        """`POST /api/embeddings`: one vector, not normalised; errors are 500, as there."""
        call = read_legacy_call(await request.body())
        return await unless_gone(request, self.stopping, self._embed_legacy(call))

    async def _embed_legacy(self, call: EmbedCall) -> Response:
        try:
            runner = self._catalog.find(call.model)
        except InvalidNameError:
            return answer_error(400, "invalid model name" if call.model.strip() else "model is required")
        if runner is None:
            return answer_error(404, f'model "{call.model}" not found, try pulling it first')
        try:
            embedded = await runner.embed(call, TokenWindow.admit_whole)
        except RefusedTextError as error:
            return answer_error(500, str(error))
        return Json({"embedding": embedded.vectors[0] if embedded.vectors else []})

    async def arm_fault(self, request: Request) -> Response:
        """`POST /_faults`: arm or disarm a fault."""
        try:
            wanted = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            raise BadRequestError(str(error)) from error
        return Json({"armed": self._faults.arm(wanted)})

    async def stats(self, _request: Request) -> Response:
        """`GET /_stats`: the counters."""
        return Json(self._stats.as_json())


def _shape(vector: Vector, dimensions: int) -> Vector:
    unit = normalize(vector)
    return normalize(unit[:dimensions]) if 0 < dimensions < len(unit) else unit


def _describe(call: EmbedCall, embedded: Embedded, vectors: list[Vector], total_s: float) -> dict[str, Any]:
    answer: dict[str, Any] = {"model": call.model, "embeddings": vectors}
    if vectors:
        answer["total_duration"] = int(total_s * 1e9)
        answer["load_duration"] = int(embedded.load_s * 1e9)
        answer["prompt_eval_count"] = embedded.token_count
    return answer


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ollama_server", description="Ollama's API over all-MiniLM-L6-v2.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11434, help="0: any free port, printed on standard output")
    parser.add_argument("--data-dir", type=Path, help="takes model.onnx and tokenizer.json from here if present")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, _MAX_THREADS), help="texts at a time")
    parser.add_argument("--nice", type=int, default=5, help="lowers the priority, so that the machine stays usable")
    parser.add_argument("--faults", action="store_true", help="serves /_faults and /_stats")
    parser.add_argument("--test-models", action="store_true", help="serves hash-384 and hash-768")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then return; exit code 0.

    Raises:
        MissingModelFilesError: the packages with the model are not installed.
    """
    arguments = _parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, lambda *_: None
        )  # uvicorn raises the signal again after a clean stop; it must not kill us
    options = ServerOptions(
        data_dir=arguments.data_dir,
        threads=max(arguments.threads, 1),
        faults=arguments.faults,
        test_models=arguments.test_models,
    )
    stand_in = OllamaStandIn(options)
    os.nice(max(arguments.nice, 0))
    with socket.create_server((arguments.host, arguments.port), backlog=2048) as listener:
        host, port = listener.getsockname()[:2]
        sys.stdout.write(f"Ollama stand-in on http://{host}:{port}\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            stand_in.make_app(), log_level="warning", access_log=False, timeout_graceful_shutdown=_STOP_S
        )
        _Server(config, stand_in.stopping).run(sockets=[listener])


if __name__ == "__main__":
    main()
