"""The Qdrant stand-in: a part of Qdrant's REST API over the real Qdrant engine, one process and one data directory.

    python -m ingestion_devstack.qdrant.server --host 127.0.0.1 --port 6333 --data-dir DIR

It imitates Qdrant 1.19: the paths of its openapi.json (src/actix/api) that the ingestion engine calls, and the basic
calls of the official client: collections with one unnamed dense vector, payload indexes, aliases; points are upserted,
retrieved, scrolled, counted, searched and deleted, by id and by filter. The errors module and the others name the
sources of their texts and rules. Searches are exact, without an HNSW graph. All other requests are refused by name.

The API key, if one is required, comes from the environment variable QDRANT_API_KEY. SIGTERM and SIGINT end the process
after the running requests, with everything flushed; a start on the same directory restores everything, also after
SIGKILL.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ingestion_devstack.qdrant.http import Call, Guard, Handler, answer_unknown, make_endpoint
from ingestion_devstack.qdrant.points import (
    count_points,
    parse_deletion,
    parse_upsert,
    parse_vectors,
    query_points,
    retrieve_points,
    scroll_points,
)
from ingestion_devstack.qdrant.store import CollectionStore, DataDirInUseError

VERSION: Final = "1.19.0"
"""Version of the imitated server; qdrant-client compares it with its own."""

_API_KEY_VARIABLE: Final = "QDRANT_API_KEY"
_FLUSH_INTERVAL_S: Final = 5.0
"""The real server's default `flush_interval_sec`."""
_SHUTDOWN_TIMEOUT_S: Final = 10
"""Time for running requests to end; a guess, a large upsert takes well under a second."""
_UPDATE_PARAMS: Final = frozenset({"wait", "timeout"})
_OTHER_PARAMS: Final = frozenset({"timeout"})


def make_app(store: CollectionStore, api_key: str | None) -> Starlette:
    """Return the application; it flushes `store` while it runs and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        flushing = asyncio.create_task(_flush_regularly(store))
        try:
            yield
        finally:
            flushing.cancel()
            await asyncio.to_thread(store.close)

    return Starlette(
        routes=_make_routes(store),
        middleware=[Middleware(Guard, api_key=api_key)],
        exception_handlers={404: answer_unknown, 405: answer_unknown},
        lifespan=lifespan,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; return the exit code (0; 1 if the data directory or the port is taken)."""
    parser = argparse.ArgumentParser(prog="qdrant_server", description="Qdrant's REST API over the embedded engine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        store = CollectionStore(options.data_dir)
    except DataDirInUseError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    app = make_app(store, os.environ.get(_API_KEY_VARIABLE) or None)
    server = _Server(
        uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            access_log=False,
            log_level="warning",
            timeout_keep_alive=60,  # longer than pooled clients idle between batches
            timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
        ),
    )
    server.run()
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Ends by itself after a signal; uvicorn would raise the signal again and so not exit with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _flush_regularly(store: CollectionStore) -> None:
    while True:
        await asyncio.sleep(_FLUSH_INTERVAL_S)
        try:
            await asyncio.to_thread(store.flush)
        except Exception:  # the timer must go on; every answered update is in the log already
            logging.getLogger(__name__).exception("flush failed; the write-ahead log still has everything")


def _make_routes(store: CollectionStore) -> list[Route]:
    one = "/collections/{collection_name}"
    points = f"{one}/points"
    updates: list[tuple[str, str, Handler]] = [
        ("PUT", f"{one}/index", _create_index),
        ("PUT", points, _update(parse_upsert)),
        ("PUT", f"{points}/vectors", _update(parse_vectors)),
        ("POST", f"{points}/delete", _delete),
    ]
    others: list[tuple[str, str, Handler]] = [
        ("GET", "/collections", lambda call: {"collections": [{"name": name} for name in call.store.names()]}),
        ("GET", "/aliases", lambda call: {"aliases": call.store.aliases()}),
        ("POST", "/collections/aliases", lambda call: call.store.change_aliases(call.json())),
        ("GET", one, lambda call: call.collection().describe()),
        ("DELETE", one, lambda call: call.store.delete(call.name)),
        ("GET", f"{one}/exists", lambda call: {"exists": call.store.exists(call.name)}),
        ("GET", f"{one}/aliases", lambda call: {"aliases": call.store.aliases(call.name)}),
        ("POST", points, _retrieve),
        ("POST", f"{points}/scroll", _read(scroll_points)),
        ("POST", f"{points}/count", _read(count_points)),
        ("POST", f"{points}/query", _query),
    ]
    create = make_endpoint(
        store, lambda call: call.store.create(call.name, call.json()), params=_OTHER_PARAMS, is_new_name=True
    )
    return [
        Route("/", _answer_version, methods=["GET"]),
        Route("/healthz", _answer_health, methods=["GET"]),
        Route("/livez", _answer_health, methods=["GET"]),
        Route("/readyz", _answer_ready, methods=["GET"]),
        *(
            Route(path, make_endpoint(store, handler, params=params), methods=[method])
            for table, params in ((updates, _UPDATE_PARAMS), (others, _OTHER_PARAMS))
            for method, path, handler in table
        ),
        Route(one, create, methods=["PUT"]),
    ]


async def _answer_version(_: Request) -> Response:
    return JSONResponse({"title": "qdrant - vector search engine", "version": VERSION})


async def _answer_health(_: Request) -> Response:
    return PlainTextResponse("healthz check passed")


async def _answer_ready(_: Request) -> Response:
    return PlainTextResponse("all shards are ready")


def _create_index(call: Call) -> Any:
    body, collection = call.json(), call.collection()
    collection.check_strictly(lambda strict, indexes: strict.check_index(indexes), call.query)
    return collection.create_index(body, wait=call.wait)


def _read(answer: Callable[[Any, Any], Any]) -> Handler:
    """Return the handler of a read request that needs the shard and the body."""

    def run(call: Call) -> Any:
        body, collection = call.json(), call.collection()
        fields = body if type(body) is dict else {}
        collection.check_strictly(lambda strict, indexes: strict.check_read(fields, indexes), call.query)
        return collection.read(lambda shard: answer(shard, body))

    return run


def _retrieve(call: Call) -> Any:
    body, collection = call.json(), call.collection()
    ids = _items(body, "ids")
    collection.check_strictly(lambda strict, _: strict.check_retrieval(len(ids)), call.query)
    return collection.read(lambda shard: retrieve_points(shard, body))


def _query(call: Call) -> Any:
    size = call.collection().size
    return _read(lambda shard, body: query_points(shard, body, size))(call)


def _update(parse: Callable[[Any, int], Any]) -> Handler:
    """Return the handler of a write of points that `parse` makes of the body and the dimension."""

    def run(call: Call) -> Any:
        body, collection = call.json(), call.collection()
        points = _items(body, "points")
        collection.check_strictly(lambda strict, _: strict.check_upsert(len(points)), call.query)
        return collection.update(parse(body, collection.size), wait=call.wait)

    return run


def _delete(call: Call) -> Any:
    body, collection = call.json(), call.collection()
    operation = parse_deletion(body, collection.size)
    points = len(_items(body, "points"))
    if body.get("filter") is not None:
        points = collection.read(lambda shard: count_points(shard, {"filter": body["filter"]}))["count"]
    collection.check_strictly(lambda strict, indexes: strict.check_deletion(body, indexes, points), call.query)
    return collection.update(operation, wait=call.wait)


def _items(body: Any, field: str) -> list[Any]:
    """Return a list of the body; what is malformed is refused by who reads it."""
    items = body.get(field) if type(body) is dict else None
    return items if type(items) is list else []


if __name__ == "__main__":
    sys.exit(main())
