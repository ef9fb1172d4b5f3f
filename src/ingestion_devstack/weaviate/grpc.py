"""The gRPC side of the Weaviate stand-in: batch, search, aggregate, batch delete, health.

Errors carry status UNKNOWN and Weaviate's text, as those of the real server do; what only the embedded one cannot do
is UNIMPLEMENTED. Neither is retried by the client.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import grpc
from weaviate.proto.v1 import batch_delete_pb2, health_weaviate_pb2, search_get_pb2, weaviate_pb2_grpc

from ingestion_devstack.weaviate.aggregate import aggregate
from ingestion_devstack.weaviate.database import Database, IncomingObject, UnknownClassError
from ingestion_devstack.weaviate.messages import (
    RequestRefusedError,
    UnsupportedError,
    batch_reply,
    read_object,
)
from ingestion_devstack.weaviate.search import MAXIMUM_RESULTS, compile_where, search
from ingestion_devstack.weaviate.storage import ClosedError

MAX_MESSAGE_BYTES: Final = 104_858_000
"""What `/v1/meta` announces as grpcMaxMessageSize; the client sizes its requests by it."""
_THREADS: Final = 8
"""Enough to keep short requests going beside a long search; classes serialise their own work."""

_Reply = TypeVar("_Reply")


class WeaviateServicer(weaviate_pb2_grpc.WeaviateServicer):
    """`weaviate.v1.Weaviate` over a `Database`."""

    def __init__(self, database: Database, api_key: str | None) -> None:
        """Serve `database`; with a key every call must carry it as a bearer token."""
        self._database = database
        self._api_key = api_key

    def BatchObjects(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Insert or replace objects; refused ones are listed in the reply, never an error of the call."""
        return self._answer(context, lambda: self._batch_objects(request))

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """List, fetch or search objects."""

        def run() -> Any:
            started = time.perf_counter()
            try:
                results = search(self._database, request)
            except UnknownClassError as error:
                raise RequestRefusedError(f"could not find class {error} in schema") from None
            return search_get_pb2.SearchReply(took=time.perf_counter() - started, results=results)

        return self._answer(context, run)

    def Aggregate(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Count and summarise objects."""

        def run() -> Any:
            try:
                return aggregate(self._database, request)
            except UnknownClassError as error:
                raise RequestRefusedError(f"parse params: could not find class {error} in schema") from None

        return self._answer(context, run)

    def BatchDelete(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Delete what matches a filter, at most 10,000 objects per call."""
        return self._answer(context, lambda: self._batch_delete(request))

    def BatchReferences(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Refused."""
        return self._answer(context, lambda: _refuse("a cross-reference"))

    def BatchStream(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Refused; clients use it only from server version 1.36 on."""
        return self._answer(context, lambda: _refuse("the batch stream"))

    def TenantsGet(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Refused."""
        return self._answer(context, lambda: _refuse("multi-tenancy"))

    def _answer(self, context: Any, run: Callable[[], _Reply]) -> _Reply:
        if not self._is_allowed(context):
            context.abort(grpc.StatusCode.UNKNOWN, "extract auth: unauthorized: invalid api key")
        try:
            return run()
        except UnsupportedError as error:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))
        except RequestRefusedError as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except ClosedError:
            context.abort(grpc.StatusCode.UNKNOWN, "the class was dropped while it was used")
        raise AssertionError("abort raises")

    def _is_allowed(self, context: Any) -> bool:
        if self._api_key is None:
            return True
        for name, value in context.invocation_metadata():
            if name == "authorization":
                return hmac.compare_digest(str(value).encode(), f"Bearer {self._api_key}".encode())
        return False

    def _batch_objects(self, request: Any) -> Any:
        started = time.perf_counter()
        errors: list[str | None] = [None] * len(request.objects)
        objects: list[IncomingObject] = []
        places: list[int] = []
        for at, message in enumerate(request.objects):
            try:
                objects.append(read_object(message))
            except RequestRefusedError as error:
                errors[at] = str(error)
            else:
                places.append(at)
        for at, failed in zip(places, self._database.put_batch(objects), strict=True):
            errors[at] = failed
        return batch_reply(errors, time.perf_counter() - started)

    def _batch_delete(self, request: Any) -> Any:
        started = time.perf_counter()
        if request.tenant:
            _refuse("multi-tenancy")
        try:
            collection = self._database.collection(request.collection)
        except UnknownClassError as error:
            raise RequestRefusedError(f"batch delete params: could not find class {error} in schema") from None
        if not request.HasField("filters"):
            raise RequestRefusedError("batch delete params: no filters in batch delete request")
        searching = 'batch delete: cannot find objects: find matching doc ids in shard "main": docIds: '
        where = compile_where(request, collection, searching, "batch delete params: ")
        with collection.lock:
            matches = collection.matches(where)
            ids = [key for _, key in matches[:MAXIMUM_RESULTS]]
            if not request.dry_run:
                collection.delete(ids)
        reply = batch_delete_pb2.BatchDeleteReply(matches=len(matches), successful=len(ids))
        if request.verbose:
            for key in ids:
                reply.objects.add(uuid=key, successful=True, error="")
        reply.took = time.perf_counter() - started
        return reply


def _refuse(feature: str) -> Any:
    raise UnsupportedError(feature)


def _health(_request: Any, _context: Any) -> Any:
    serving = health_weaviate_pb2.WeaviateHealthCheckResponse.SERVING
    return health_weaviate_pb2.WeaviateHealthCheckResponse(status=serving)


def start_grpc(database: Database, host: str, port: int, api_key: str | None) -> grpc.Server:
    """A running server.

    Raises:
        OSError: the port is taken.
    """
    size = MAX_MESSAGE_BYTES
    options = [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="weaviate-grpc"), options=options)
    register: Callable[..., None] = weaviate_pb2_grpc.add_WeaviateServicer_to_server
    register(WeaviateServicer(database, api_key), server)
    check = grpc.unary_unary_rpc_method_handler(
        _health,
        request_deserializer=health_weaviate_pb2.WeaviateHealthCheckRequest.FromString,
        response_serializer=health_weaviate_pb2.WeaviateHealthCheckResponse.SerializeToString,
    )
    handlers = {"Check": check}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {host}:{port}") from error
    if not bound:
        raise OSError(f"cannot listen on {host}:{port}")
    server.start()
    return server
