"""The Ollama stand-in: Ollama's API over the real all-MiniLM-L6-v2 model.

    python -m ingestion_devstack.ollama.server --host 127.0.0.1 --port 11434

Imitates Ollama 0.33; status codes and error texts follow `server/routes.go`. It serves what the product and the basic
calls of Ollama's own clients need to embed: `GET|HEAD` of `/`, `/api/version`, `/api/tags`, `/api/ps`, and `POST` of
`/api/show`, `/api/embed`. Every other path is 404, as an unknown path is there; a field of a request that is not served
is 501.

Known differences: a text over the context is cut between its tokens, not through detokenised text; the model stays
loaded; the runner is a part of this process, so none is left behind when the server is killed, as a real
one is.
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
from dataclasses import asdict
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ingestion_devstack.ollama.callers import OwnCallers
from ingestion_devstack.ollama.catalog import Catalog, full_name
from ingestion_devstack.ollama.faults import EmbedStats, FaultPlan
from ingestion_devstack.ollama.hash_model import HashModel
from ingestion_devstack.ollama.minilm import MiniLm
from ingestion_devstack.ollama.model import EmbeddingModel, RefusedTextError, normalize
from ingestion_devstack.ollama.requests import BadRequestError, is_model_name, read_embed_call, read_show_call
from ingestion_devstack.ollama.responses import ERROR_HANDLERS, Json, answer_error, unless_gone
from ingestion_devstack.ollama.runner import RUNNER_DIED, Runner

_VERSION = "0.33.0"
"""The imitated version."""
_TEST_DIMENSIONS = (384, 768)
_STOP_S = 1
"""Time for open requests at SIGTERM; a text takes less than 0.2 s."""
_MAX_THREADS = 8
"""Further cores are left to the rest of the stack."""


class OllamaStandIn:
    """The routes and their shared state; one per server."""

    def __init__(self, *, threads: int, faults: bool, test_models: bool) -> None:
        """Find the model files; nothing is loaded yet.

        Args:
            threads: Texts of one request embedded at a time.
            faults: Serve `/_faults` and `/_stats`.
            test_models: Serve `hash-384` and `hash-768`.

        Raises:
            MissingModelFilesError: the weights or the tokenizer are missing.
        """
        self._threads = threads
        self._with_faults = faults
        self._models: list[EmbeddingModel] = [MiniLm()]
        if test_models:
            self._models += [HashModel(dimension) for dimension in _TEST_DIMENSIONS]
        self._stats = EmbedStats()
        self._faults = FaultPlan()
        self._catalog = Catalog([])
        self.stopping = asyncio.Event()
        """Set when the server stops: calls in flight are answered 503 after the current text."""

    def make_app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/", self.greet),
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.loaded),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/embed", self.embed, methods=["POST"]),
        ]
        if self._with_faults:
            routes += [Route("/_faults", self.arm_fault, methods=["POST"]), Route("/_stats", self.stats)]
        return Starlette(
            routes=routes,
            middleware=[Middleware(OwnCallers)],
            exception_handlers=ERROR_HANDLERS,
            lifespan=self._run,
        )

    @contextlib.asynccontextmanager
    async def _run(self, _app: Starlette) -> AsyncIterator[None]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="embed")
        runners = [Runner(model, pool, threads=self._threads, stats=self._stats) for model in self._models]
        self._catalog = Catalog(runners)
        yield
        pool.shutdown(wait=False, cancel_futures=True)

    async def greet(self, _request: Request) -> Response:
        """`GET /`."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _request: Request) -> Response:
        """`GET /api/version`."""
        return Json({"version": _VERSION})

    async def tags(self, _request: Request) -> Response:
        """`GET /api/tags`: the list of models."""
        return Json({"models": await asyncio.to_thread(self._catalog.list_models)})

    async def loaded(self, _request: Request) -> Response:
        """`GET /api/ps`: the models in memory."""
        return Json({"models": await asyncio.to_thread(self._catalog.list_loaded)})

    async def show(self, request: Request) -> Response:
        """`POST /api/show`: the description of a model."""
        call = read_show_call(await request.body())
        if not call.model.strip():
            return answer_error(400, "model is required")
        if not is_model_name(call.model):
            return answer_error(400, "invalid model name")
        runner = self._catalog.find(call.model)
        if runner is None:
            return answer_error(404, f"model '{full_name(call.model)}' not found")
        return Json(await asyncio.to_thread(self._catalog.show, runner.model, verbose=call.verbose))

    async def embed(self, request: Request) -> Response:
        """`POST /api/embed`: unit vectors for one or many texts, all or nothing."""
        self._stats.embed_requests += 1
        self._stats.in_flight += 1
        try:
            return await unless_gone(request, self.stopping, self._embed(await request.body()))
        finally:
            self._stats.in_flight -= 1

    async def _embed(self, raw: bytes) -> Response:
        started = time.perf_counter()
        if fault := self._faults.next_call(raw):
            await asyncio.sleep(fault.delay_s)
            if fault.status is not None:
                return Json(fault.body, fault.status)
        call = read_embed_call(raw)
        if not call.model.strip():
            return answer_error(404, f"model '{call.model}' not found")
        if not is_model_name(call.model):
            return answer_error(400, "invalid model name")
        runner = self._catalog.find(call.model)
        if runner is None:
            return answer_error(404, f'model "{call.model}" not found, try pulling it first')
        if fault is not None and fault.kills_runner:
            await runner.die()
            return answer_error(400, RUNNER_DIED)
        try:
            embedded = await runner.embed(call)
            vectors = [normalize(vector) for vector in embedded.vectors]
        except RefusedTextError as error:
            return answer_error(400, str(error))
        found: list[Any] = list(vectors)
        if fault is not None and fault.loses_vectors:
            found = [None if fault.marker in text else vector for text, vector in zip(call.texts, vectors, strict=True)]
        answer: dict[str, Any] = {"model": call.model, "embeddings": found}
        if vectors:
            answer["total_duration"] = int((time.perf_counter() - started) * 1e9)
            answer["load_duration"] = int(embedded.load_s * 1e9)
            answer["prompt_eval_count"] = embedded.token_count
        return Json(answer)

    async def arm_fault(self, request: Request) -> Response:
        """`POST /_faults`: arm or disarm a fault."""
        try:
            wanted = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            raise BadRequestError(str(error)) from error
        self._faults.arm(wanted)
        return Json({})

    async def stats(self, _request: Request) -> Response:
        """`GET /_stats`: the counters."""
        return Json(asdict(self._stats))


class _Server(uvicorn.Server):
    """Answers the calls in flight before it stops."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop as uvicorn does, after a signal to the calls in flight."""
        self._stopping.set()
        await super().shutdown(sockets)


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ollama_server", description="Ollama's API over all-MiniLM-L6-v2.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11434, help="0 means any free port, printed")
    parser.add_argument("--nice", type=int, default=5, help="lower the priority, so that the machine stays usable")
    parser.add_argument("--faults", action="store_true", help="serve /_faults and /_stats")
    parser.add_argument("--test-models", action="store_true", help="serve hash-384 and hash-768")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then return; exit code 0.

    Raises:
        MissingModelFilesError: the packages with the model are not installed.
    """
    arguments = _parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its own clean stop
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    stand_in = OllamaStandIn(threads=threads, faults=arguments.faults, test_models=arguments.test_models)
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
