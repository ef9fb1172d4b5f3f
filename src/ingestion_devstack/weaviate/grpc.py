"""The gRPC side of the Weaviate stand-in: batches of objects, reads and searches, counts, batch deletion, health.

Imitates Weaviate 1.35, adapters/handlers/grpc/v1: service.go, batch_parse_request.go, parse_search_request.go,
prepare_reply.go, parse_aggregate_request.go, batch_delete.go; limits and texts of usecases/traverser/explorer.go.
Errors carry status UNKNOWN and Weaviate's text, as those of the real server do; every field of a message that is not
supported here is refused by name with UNIMPLEMENTED. The official client retries neither.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import grpc
import numpy as np
from weaviate.proto.v1 import (
    aggregate_pb2,
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    health_weaviate_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

from ingestion_devstack.weaviate.collection import StoredObject
from ingestion_devstack.weaviate.database import Database, IncomingObject
from ingestion_devstack.weaviate.errors import (
    PropertyError,
    RequestRefusedError,
    UnknownClassError,
    UnsupportedError,
    WrongDimensionError,
)
from ingestion_devstack.weaviate.filters import Condition, FilterSearchError, compile_filter
from ingestion_devstack.weaviate.schema import (
    DEFAULT_VECTOR,
    Definition,
    find_property,
    lower_first,
    no_such_property,
    vector_name,
)
from ingestion_devstack.weaviate.values import parse_uuid

MAX_MESSAGE_BYTES: Final = 104_858_000
"""Announced by `/v1/meta` as grpcMaxMessageSize; the client sizes its requests by it."""
MAXIMUM_RESULTS: Final = 10_000
"""Weaviate's QUERY_MAXIMUM_RESULTS: the bound of offset + limit, and of one batch delete."""
DEFAULT_LIMIT: Final = 10
"""Weaviate's QUERY_DEFAULTS_LIMIT."""
_THREADS: Final = 8
"""Enough to decode and encode messages while another request has the database's lock."""
_LIST: Final = "explorer: list class: search: "
_NEAR: Final = "explorer: get class: concurrentTargetVectorSearch): explorer: get class: "
_SEARCH_FIELDS: Final = (
    *("collection", "properties", "metadata", "limit", "offset", "after", "filters", "near_vector"),
    *("uses_123_api", "uses_125_api", "uses_127_api"),
)
_METADATA_FIELDS: Final = (
    *("uuid", "vector", "vectors", "creation_time_unix", "last_update_time_unix", "distance", "certainty"),
    *("score", "explain_score", "is_consistent"),
)
_Value = properties_pb2.Value
_Reply = TypeVar("_Reply")


class WeaviateServicer(weaviate_pb2_grpc.WeaviateServicer):
    """`weaviate.v1.Weaviate` over a `Database`; a method that is not defined here answers UNIMPLEMENTED by itself."""

    def __init__(self, database: Database, api_key: str | None) -> None:
        """Serve `database`; with a key every call must carry it as a bearer token."""
        self._database = database
        self._api_key = api_key

    def BatchObjects(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Insert or replace objects; refused ones are listed in the reply, never an error of the call."""
        return self._answer(context, lambda: _batch_objects(self._database, request))

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """List, fetch or search objects."""
        return self._answer(context, lambda: _search(self._database, request))

    def Aggregate(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Count objects."""
        return self._answer(context, lambda: _count(self._database, request), "parse params: ")

    def BatchDelete(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Delete the objects that match a filter, at most 10,000 per call."""
        return self._answer(context, lambda: _batch_delete(self._database, request), "batch delete params: ")

    def _answer(self, context: Any, run: Callable[[], _Reply], place: str = "") -> _Reply:
        """Return the reply with the time it took; `place` precedes the error for an unknown class."""
        if not self._is_allowed(context):
            context.abort(grpc.StatusCode.UNKNOWN, "extract auth: unauthorized: invalid api key")
        started = time.perf_counter()
        try:
            with self._database.lock:
                reply: Any = run()
        except UnsupportedError as error:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))
        except RequestRefusedError as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except UnknownClassError as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"{place}could not find class {error} in schema")
        reply.took = time.perf_counter() - started
        return reply  # type: ignore[no-any-return]  # generated messages have no types

    def _is_allowed(self, context: Any) -> bool:
        if self._api_key is None:
            return True
        for name, value in context.invocation_metadata():
            if name == "authorization":
                return hmac.compare_digest(str(value).encode(), f"Bearer {self._api_key}".encode())
        return False


def start_grpc(database: Database, *, address: str, api_key: str | None) -> grpc.Server:
    """Return a running server at `host:port`.

    Raises:
        OSError: the port is taken.
    """
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="weaviate-grpc"), options=options)
    register: Callable[..., None] = weaviate_pb2_grpc.add_WeaviateServicer_to_server
    register(WeaviateServicer(database, api_key), server)
    check = grpc.unary_unary_rpc_method_handler(
        _answer_health,
        request_deserializer=health_weaviate_pb2.WeaviateHealthCheckRequest.FromString,
        response_serializer=health_weaviate_pb2.WeaviateHealthCheckResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),))
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    if not bound:
        raise OSError(f"cannot listen on {address}")
    server.start()
    return server


def _answer_health(_request: Any, _context: Any) -> Any:
    serving = health_weaviate_pb2.WeaviateHealthCheckResponse.SERVING
    return health_weaviate_pb2.WeaviateHealthCheckResponse(status=serving)


def _check_message(message: Any, supported: Collection[str]) -> None:
    """Refuse a message with a field that has a value and is not supported here."""
    for field, _ in message.ListFields():
        if field.name not in supported:
            raise UnsupportedError(f"`{field.name}` of {message.DESCRIPTOR.name}")


def _compile_where(request: Any, definition: Definition, *, searching: str, parsing: str = "") -> Condition | None:
    """Return the request's filter, None if there is none; the texts precede errors of searching and of reading it."""
    if not request.HasField("filters"):
        return None
    try:
        return compile_filter(request.filters, definition)
    except UnsupportedError:
        raise
    except FilterSearchError as error:
        raise RequestRefusedError(f"{searching}{error}") from None
    except RequestRefusedError as error:
        raise RequestRefusedError(f"{parsing}{error}") from None


def _batch_objects(database: Database, request: Any) -> Any:
    _check_message(request, ("objects",))
    errors: list[str | None] = [None] * len(request.objects)
    objects: list[IncomingObject] = []
    places: list[int] = []
    for at, message in enumerate(request.objects):
        try:
            objects.append(_read_object(message))
        except RequestRefusedError as error:
            errors[at] = str(error)
        else:
            places.append(at)
    for at, refused in zip(places, database.put_batch(objects), strict=True):
        errors[at] = refused
    listed = [
        batch_pb2.BatchObjectsReply.BatchError(index=at, error=refused)
        for at, refused in enumerate(errors)
        if refused is not None
    ]
    return batch_pb2.BatchObjectsReply(errors=listed)


def _read_object(message: Any) -> IncomingObject:
    _check_message(message, ("uuid", "properties", "collection", "vector_bytes", "vectors"))
    properties = message.properties
    _check_message(properties, ("non_ref_properties", "text_array_properties", "empty_list_props"))
    props = {name: _read_value(value) for name, value in properties.non_ref_properties.fields.items()}
    props |= {array.prop_name: list(array.values) for array in properties.text_array_properties}
    props |= {name: [] for name in properties.empty_list_props}
    vectors = {"": message.vector_bytes} | {vector.name: _read_vector(vector) for vector in message.vectors}
    return IncomingObject(class_name=message.collection, uuid=message.uuid, props=props, vectors=vectors)


def _read_value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind in ("list_value", "struct_value"):
        raise UnsupportedError(f"a property sent as {kind}")
    return None if kind in (None, "null_value") else getattr(value, kind)


def _read_vector(vector: Any) -> bytes:
    if vector.type == base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32:
        raise UnsupportedError("a multi-vector")
    return bytes(vector.vector_bytes)


def _count(database: Database, request: Any) -> Any:
    collection = database.collection(request.collection)
    _check_message(request, ("collection", "objects_count", "filters"))
    where = _compile_where(
        request,
        collection.definition,
        searching="aggregate: shard main: retrieve doc IDs from searcher: ",
        parsing="parse params: extract filters: ",
    )
    reply = aggregate_pb2.AggregateReply()
    reply.single_result.SetInParent()
    if request.objects_count:
        reply.single_result.objects_count = collection.count(where)
    return reply


def _batch_delete(database: Database, request: Any) -> Any:
    _check_message(request, ("collection", "filters", "verbose", "dry_run"))
    collection = database.collection(request.collection)
    searching = 'batch delete: cannot find objects: find matching doc ids in shard "main": docIds: '
    where = _compile_where(request, collection.definition, searching=searching, parsing="batch delete params: ")
    if where is None:
        raise RequestRefusedError("batch delete params: no filters in batch delete request")
    matches = collection.find_ids(where)
    ids = matches[:MAXIMUM_RESULTS]
    if not request.dry_run:
        collection.delete(ids)
    reply = batch_delete_pb2.BatchDeleteReply(matches=len(matches), successful=len(ids))
    if request.verbose:
        for key in ids:
            reply.objects.add(uuid=bytes.fromhex(key.replace("-", "")), successful=True, error="")
    return reply


def _search(database: Database, request: Any) -> Any:
    collection = database.collection(request.collection)
    definition = collection.definition
    _check_message(request, _SEARCH_FIELDS)
    _check_message(request.metadata, _METADATA_FIELDS)
    is_near = request.HasField("near_vector")
    query = _read_query(request.near_vector, definition) if is_near else None
    selected = _select_properties(request, definition)
    index = definition["class"].lower()
    near_place = f"{_NEAR}vector search: object vector search at index {index}: shard main: "
    list_place = f"{_LIST}object search at index {index}: local shard main search {index}_main: "
    searching = f"{near_place}build inverted filter allow list: " if is_near else list_place
    where = _compile_where(request, definition, searching=searching)
    limit = request.limit or DEFAULT_LIMIT
    after = _read_cursor(request)
    if request.offset + limit > MAXIMUM_RESULTS:
        raise RequestRefusedError(
            f"{_NEAR + 'vector search: ' if is_near else _LIST}invalid pagination params: query maximum results "
            f"exceeded: the total limit calculated from the provided offset '{request.offset}' and limit '{limit}' "
            f"exceeds the configured value for QUERY_MAXIMUM_RESULTS '{MAXIMUM_RESULTS}'. "
            "If you've supplied a negative offset or limit, this may be an underflow error"
        )
    if query is None:
        found = collection.page(where, limit=limit, offset=request.offset, after=after)
    else:
        try:
            found = collection.search(query, limit=limit, offset=request.offset, where=where)
        except WrongDimensionError as error:
            raise RequestRefusedError(
                f"{near_place}vector search: knn search: distance between entrypoint and query node: "
                f"{error.expected} vs {error.got}: vector lengths don't match"
            ) from None
    results = [_write_result(item, selected, request=request, definition=definition) for item in found]
    return search_get_pb2.SearchReply(results=results)


def _read_query(near: Any, definition: Definition) -> Any:
    """Return the vector of a `NearVector`: from `vector_bytes`, or the one of `vectors`, which newer clients use."""
    _check_message(near, ("vector_bytes", "vectors", "targets", "target_vectors"))
    name = vector_name(definition)
    for target in (*near.targets.target_vectors, *near.target_vectors):
        if target != name:
            available = f"Available named vectors [{name}]"
            raise RequestRefusedError(
                f"extract target vectors: class {definition['class']} does not have named vector {target} configured. "
                f"{available}"
            )
    packed = [near.vector_bytes] if near.vector_bytes else [_read_vector(vector) for vector in near.vectors]
    if len(packed) != 1:
        raise RequestRefusedError("near_vector: vector is required")
    return np.frombuffer(packed[0], dtype="<f4")


def _read_cursor(request: Any) -> str | None:
    if not request.after:
        return None
    place = "cursor api: invalid 'after' parameter"
    given = {"offset": request.offset > 0, "where": request.HasField("filters")}
    if any(given.values()):
        names = ",".join(name for name, present in given.items() if present)
        raise RequestRefusedError(f"{place}: {names} cannot be set with after and limit parameters")
    try:
        return parse_uuid(request.after)
    except PropertyError as error:
        raise RequestRefusedError(f"{place}: after parameter '{request.after}' is not a valid uuid: {error}") from None


def _select_properties(request: Any, definition: Definition) -> list[Definition]:
    everything: list[Definition] = definition.get("properties") or []
    wanted = request.properties
    _check_message(wanted, ("non_ref_properties", "return_all_nonref_properties"))
    if not request.HasField("properties") or wanted.return_all_nonref_properties:
        return everything
    out = []
    for name in map(lower_first, wanted.non_ref_properties):
        prop = find_property(definition, name)
        if prop is None:
            place = f"extract properties request: get property by name {name} for class {definition['class']}"
            raise RequestRefusedError(f"{place}: {no_such_property(definition, name)}")
        out.append(prop)
    return out


_WRITERS: Final[dict[str, Callable[[Any], Any]]] = {
    "text": lambda value: _Value(text_value=value),
    "int": lambda value: _Value(int_value=value),
    "number": lambda value: _Value(number_value=value),
    "boolean": lambda value: _Value(bool_value=value),
    "date": lambda value: _Value(date_value=value),
    "uuid": lambda value: _Value(uuid_value=value),
    "text[]": lambda values: _Value(
        list_value=properties_pb2.ListValue(text_values=properties_pb2.TextValues(values=values))
    ),
}


def _write_result(item: StoredObject, selected: list[Definition], *, request: Any, definition: Definition) -> Any:
    """Return one hit as `weaviate.v1.SearchResult`; an absent value is Weaviate's explicit null."""
    fields = {}
    for prop in selected:
        value = item.props.get(prop["name"])
        fields[prop["name"]] = _Value(null_value=0) if value is None else _WRITERS[prop["dataType"][0]](value)
    properties = search_get_pb2.PropertiesResult(
        target_collection=definition["class"],
        non_ref_props=properties_pb2.Properties(fields=fields) if fields else None,
    )
    return search_get_pb2.SearchResult(properties=properties, metadata=_write_metadata(item, request, definition))


def _write_metadata(item: StoredObject, request: Any, definition: Definition) -> Any:
    wanted, out, name = request.metadata, search_get_pb2.MetadataResult(), vector_name(definition)
    if wanted.uuid:
        out.id, out.id_as_bytes = item.id, bytes.fromhex(item.id.replace("-", ""))
    if item.vector and wanted.vector and not name:
        out.vector_bytes = item.vector
    elif item.vector and (wanted.vector or (name or DEFAULT_VECTOR) in wanted.vectors):
        out.vectors.add(name=name, vector_bytes=item.vector, type=base_pb2.Vectors.VECTOR_TYPE_SINGLE_FP32)
    if wanted.creation_time_unix:
        out.creation_time_unix, out.creation_time_unix_present = item.created_ms, True
    if wanted.last_update_time_unix:
        out.last_update_time_unix, out.last_update_time_unix_present = item.updated_ms, True
    out.score_present, out.explain_score_present = wanted.score, wanted.explain_score
    if wanted.is_consistent:
        out.is_consistent, out.is_consistent_present = True, True
    if item.distance is not None and wanted.distance:
        out.distance, out.distance_present = item.distance, True
    if item.distance is not None and wanted.certainty:
        out.certainty, out.certainty_present = 1.0 - item.distance / 2.0, True
    return out
