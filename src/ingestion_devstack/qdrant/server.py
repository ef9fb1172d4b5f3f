"""The Qdrant stand-in: Qdrant's REST API over the real Qdrant engine, for one process and one data directory.

    python -m ingestion_devstack.qdrant.server --host 127.0.0.1 --port 6333 --data-dir DIR

The API key, if one is wanted, comes from the environment variable QDRANT_API_KEY. SIGTERM and SIGINT end it after the
running requests, with everything flushed; a start on the same directory finds everything again, also after SIGKILL.

Not here: gRPC, sparse vectors, multivectors, quantization, several shards, strict mode, snapshots, the deprecated
search routes. All of them are refused by name. Searches are exact, without an HNSW graph.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ingestion_devstack.qdrant.errors import RequestRefusedError
from ingestion_devstack.qdrant.http import (
    META_PARAMS,
    NO_PARAMS,
    READ_PARAMS,
    UPDATE_PARAMS,
    Call,
    Guard,
    Handler,
    answer_unknown,
    make_endpoint,
)
from ingestion_devstack.qdrant.reads import (
    count_points,
    query_points,
    retrieve_point,
    retrieve_points,
    scroll_points,
)
from ingestion_devstack.qdrant.store import CollectionStore, DataDirInUseError
from ingestion_devstack.qdrant.updates import UPDATES, parse_operations

VERSION: Final = "1.19.0"
"""The version of the real server whose behaviour this is; qdrant-client compares it with its own."""

_API_KEY_VARIABLE: Final = "QDRANT_API_KEY"
_FLUSH_INTERVAL_S: Final = 5.0
"""The real server's default `flush_interval_sec`."""
_SHUTDOWN_TIMEOUT_S: Final = 10
"""How long running requests may take to end; a guess, a large upsert takes well under a second."""


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
        except Exception:  # the timer must go on; what was answered is in the log already
            logging.getLogger(__name__).exception("flush failed; the write-ahead log still has everything")


def _make_routes(store: CollectionStore) -> list[Route]:
    one = "/collections/{collection_name}"
    points = f"{one}/points"
    table: list[tuple[str, str, Handler, frozenset[str]]] = [
        ("GET", "/collections", _list_collections, NO_PARAMS),
        ("GET", "/aliases", lambda call: {"aliases": call.store.aliases()}, NO_PARAMS),
        ("POST", "/collections/aliases", _change_aliases, META_PARAMS),
        ("GET", one, lambda call: call.collection().describe(), NO_PARAMS),
        ("PATCH", one, _change_collection, META_PARAMS),
        ("DELETE", one, lambda call: call.store.delete(call.name), META_PARAMS),
        ("GET", f"{one}/exists", lambda call: {"exists": call.store.exists(call.name)}, NO_PARAMS),
        ("GET", f"{one}/aliases", lambda call: {"aliases": call.store.aliases(call.name)}, NO_PARAMS),
        ("PUT", f"{one}/index", _create_index, UPDATE_PARAMS),
        ("DELETE", f"{one}/index/{{field_name}}", _delete_index, UPDATE_PARAMS),
        ("PUT", points, partial(_update, "upsert"), UPDATE_PARAMS),
        ("POST", points, _read(retrieve_points), READ_PARAMS),
        ("POST", f"{points}/scroll", _read(scroll_points), READ_PARAMS),
        ("POST", f"{points}/count", _read(count_points), READ_PARAMS),
        ("POST", f"{points}/query", _query, READ_PARAMS),
        ("POST", f"{points}/query/batch", _query_batch, READ_PARAMS),
        ("POST", f"{points}/delete", partial(_update, "delete"), UPDATE_PARAMS),
        ("POST", f"{points}/batch", _update_batch, UPDATE_PARAMS),
        ("PUT", f"{points}/vectors", partial(_update, "update_vectors"), UPDATE_PARAMS),
        ("POST", f"{points}/payload", partial(_update, "set_payload"), UPDATE_PARAMS),
        ("PUT", f"{points}/payload", partial(_update, "overwrite_payload"), UPDATE_PARAMS),
        ("POST", f"{points}/payload/delete", partial(_update, "delete_payload"), UPDATE_PARAMS),
        ("POST", f"{points}/payload/clear", partial(_update, "clear_payload"), UPDATE_PARAMS),
        ("GET", f"{points}/{{id}}", _get_point, READ_PARAMS),
    ]
    create = make_endpoint(store, _create_collection, META_PARAMS, names_collection=True)
    return [
        Route("/", _answer_version, methods=["GET"]),
        Route("/healthz", _answer_health, methods=["GET"]),
        Route("/livez", _answer_health, methods=["GET"]),
        Route("/readyz", _answer_ready, methods=["GET"]),
        *(Route(path, make_endpoint(store, run, params), methods=[verb]) for verb, path, run, params in table),
        Route(one, create, methods=["PUT"]),
    ]


async def _answer_version(_: Request) -> Response:
    return JSONResponse({"title": "qdrant - vector search engine", "version": VERSION})


async def _answer_health(_: Request) -> Response:
    return PlainTextResponse("healthz check passed")


async def _answer_ready(_: Request) -> Response:
    return PlainTextResponse("all shards are ready")


def _list_collections(call: Call) -> Any:
    return {"collections": [{"name": name} for name in call.store.names()]}


def _create_collection(call: Call) -> bool:
    call.store.create(call.name, call.json())
    return True


def _change_collection(call: Call) -> bool:
    call.collection().change(call.json())
    return True


def _change_aliases(call: Call) -> bool:
    call.store.change_aliases(call.json())
    return True


def _create_index(call: Call) -> Any:
    return call.collection().create_index(call.json(), wait=call.wait)


def _delete_index(call: Call) -> Any:
    return call.collection().delete_index(call.path["field_name"], wait=call.wait)


def _read(answer: Any) -> Handler:
    """Return the handler of a read request whose answer needs the shard and the body."""

    def run(call: Call) -> Any:
        body = call.json()
        return call.collection().read(lambda shard: answer(shard, body))

    return run


def _get_point(call: Call) -> Any:
    point = call.collection().read(lambda shard: retrieve_point(shard, call.path["id"]))
    if point is None:
        raise RequestRefusedError(404, f"Not found: Point with id {call.path['id']} does not exists!")
    return point


def _query(call: Call) -> Any:
    body, collection = call.json(), call.collection()
    return collection.read(lambda shard: query_points(shard, body, collection.sizes))


def _query_batch(call: Call) -> Any:
    body, collection = call.json(), call.collection()
    if type(body) is not dict or body.keys() != {"searches"} or type(body["searches"]) is not list:
        raise RequestRefusedError(400, "Format error in JSON body: missing field `searches`")
    searches = body["searches"]
    return collection.read(lambda shard: [query_points(shard, search, collection.sizes) for search in searches])


def _update(operation: str, call: Call) -> Any:
    body, collection = call.json(), call.collection()
    return collection.update([UPDATES[operation](body, collection.sizes)], wait=call.wait)[0]


def _update_batch(call: Call) -> Any:
    body, collection = call.json(), call.collection()
    return collection.update(parse_operations(body, collection.sizes), wait=call.wait)


if __name__ == "__main__":
    sys.exit(main())
