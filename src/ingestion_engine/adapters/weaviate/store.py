"""Weaviate: REST for schemas, gRPC for data, with the message stubs that its Python client ships.

The client itself is not used: closing its batches never raises for failed objects, and they have no per-call deadline.
Importing gRPC and the stubs takes half a second, so ``connect`` imports this module only when the store is configured.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import grpc.aio
import orjson

from ingestion_engine.adapters.exact_search import search_exactly
from ingestion_engine.adapters.patience import Patience
from ingestion_engine.adapters.point_batches import EncodedPoint, batch_points, send_or_halve
from ingestion_engine.adapters.request_counts import counted
from ingestion_engine.adapters.store_errors import collection_missing, points_refused, store_not_configured
from ingestion_engine.adapters.transport import HttpClient, Response, read_object
from ingestion_engine.adapters.weaviate.messages import (
    ObjectWriter,
    filter_ids,
    filter_objects,
    filter_stale,
    filter_where,
    make_near,
    make_read,
    read_result,
)
from ingestion_engine.adapters.weaviate.responses import (
    is_unknown_path,
    read_error,
    translate_entry,
    translate_response,
    weaviate_errors,
)
from ingestion_engine.adapters.weaviate.schema import (
    check_definition,
    find_missing,
    make_class_name,
    make_definition,
)
from ingestion_engine.adapters.weaviate.stubs import (
    aggregate_pb2,
    batch_delete_pb2,
    batch_pb2,
    health_weaviate_pb2,
    weaviate_pb2_grpc,
)
from ingestion_engine.domain.errors import (
    CollectionMissing,
    FatalError,
    IngestionError,
    PointsRefused,
    RequestTooLarge,
    TransientError,
)
from ingestion_engine.domain.ids import ObjectId, PointId
from ingestion_engine.domain.ports import SearchFilter, WritePermit
from ingestion_engine.domain.records import Point, SearchHit, StoredPoint
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.settings import Settings, WeaviateSettings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.tls import read_authorities
from ingestion_engine.runtime.waits import slow_request

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")

log = get_logger(__name__)

TIMEOUT_S = 30.0
"""Time limit of every call, unless a permit ends a write earlier (``LeaseCheck.grant``)."""
CONNECT_TIMEOUT_S = 5.0
BATCH_BYTES = 8 * 1024 * 1024
"""Keeps one call well below the time limit; the server's own limit (``grpcMaxMessageSize``) is about 100 MB."""
BATCH_POINTS = 500
"""Same as for Qdrant, so that both stores receive the same batches."""
READ_POINTS = 100
"""A chunk may have 100,000 characters, 400 kB in the worst case: this many fit into one message of the server."""
PAGE_POINTS = 500
"""Points per page of a longer read; halved when a page does not fit into a message."""
MAX_RECONNECT_MS = 5_000
"""gRPC's own default, two minutes, would keep failing calls long after a server is back."""
DEFAULT_GRPC_PORT = 50051
DEFAULT_MESSAGE_BYTES = 10 * 1024 * 1024
"""Assumed when ``/v1/meta`` states no limit (before 1.27)."""


class WeaviateStore:
    """The vector store port over Weaviate. For one event loop."""

    name = StoreName.WEAVIATE

    def __init__(
        self,
        url: str,
        grpc_url: str | None = None,
        api_key: str | None = None,
        *,
        batch_points: int = BATCH_POINTS,
        permit: WritePermit | None = None,
        patience: Patience | None = None,
        ca_file: Path | None = None,
        creation: WeaviateSettings | None = None,
    ) -> None:
        """Create the clients; sends no request. ``creation`` has the settings of classes that are created.

        ``grpc_url`` is ``http(s)://host:port``; None means the REST host on port 50051. ``permit`` is asked before
        every request that writes; ``patience`` repeats requests about points, None repeats none. ``ca_file`` is a PEM
        file of authorities; None means the usual ones.
        """
        self._base = url.rstrip("/")
        self._url = hide_credentials(self._base)  # for messages
        rest = urlsplit(self._url)
        parts = urlsplit(grpc_url or f"{rest.scheme}://{rest.hostname}:{DEFAULT_GRPC_PORT}")
        self._target = f"{parts.hostname}:{parts.port or DEFAULT_GRPC_PORT}"
        self._is_secure = parts.scheme == "https"
        self._batch_bytes = BATCH_BYTES
        self._batch_points = batch_points
        self._creation = creation
        self._permit = permit
        self._patience = patience
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        headers = {"content-type": "application/json", **dict(self._metadata)}
        self._rest = HttpClient("weaviate", connect_timeout_s=CONNECT_TIMEOUT_S, headers=headers, ca_file=ca_file)
        self._ca_file = ca_file
        self._channel: Any = None
        self._stub: Any = None
        self._write_batch: Any = None
        self._connecting = asyncio.Lock()

    @classmethod
    def from_settings(
        cls, settings: Settings, permit: WritePermit | None = None, patience: Patience | None = None
    ) -> WeaviateStore:
        """Return the store of ``settings.weaviate``. Raises FatalError ("store_not_configured")."""
        weaviate = settings.weaviate
        if weaviate.url is None:
            raise store_not_configured(cls.name)
        api_key = weaviate.api_key.get_secret_value() if weaviate.api_key else None
        ca_file = settings.tls.ca_file
        return cls(
            weaviate.url,
            weaviate.grpc_url,
            api_key,
            permit=permit,
            patience=patience,
            ca_file=ca_file,
            creation=weaviate,
        )

    async def close(self) -> None:
        """Release connections."""
        await self._rest.close()
        if self._channel is not None:
            await self._channel.close()

    async def check(self) -> str:
        """Return the server's version; checks both ports and the API key. Three requests."""
        meta = await self._get("/v1/meta", None)
        await self.list_collections()
        await self._connect()
        with weaviate_errors(self._target, None):
            check = self._channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_weaviate_pb2.WeaviateHealthCheckRequest.SerializeToString,
                response_deserializer=health_weaviate_pb2.WeaviateHealthCheckResponse.FromString,
            )
            await check(health_weaviate_pb2.WeaviateHealthCheckRequest(), timeout=CONNECT_TIMEOUT_S)
        return str(meta["version"])

    async def ensure_collection(self, contract: CollectionContract) -> None:
        """Create the class with its explicit schema, or check the existing one, and add properties of this release.

        Idempotent.

        Raises:
            FatalError: "schema_mismatch", naming both values; "store_access_denied".
            TransientError: the store is unavailable.

        Cost: one request for an existing class, and one per property that it lacks; five to create it.
        """
        with contextlib.suppress(CollectionMissing):
            return await self._complete(contract)
        response = await self._request("POST", "/v1/schema", make_definition(contract, self._creation))
        if response.status_code not in (200, 422):  # 422: another client has just created it, or it is refused
            raise translate_response(response, self._url, None)
        try:
            await self.check_collection(contract)
        except CollectionMissing as error:
            raise translate_response(response, self._url, None) from error

    async def _complete(self, contract: CollectionContract) -> None:
        """Check the class, and add the properties that classes of earlier releases lack."""
        definition = await self._repeat(lambda: self._read_class(contract.collection))
        check_definition(definition, contract)
        for missing in find_missing(definition):
            path = f"/v1/schema/{make_class_name(contract.collection)}/properties"
            response = await self._request("POST", path, missing)
            if response.status_code not in (200, 422):  # 422: another client has just added it, or it is refused
                raise translate_response(response, self._url, contract.collection)
            log.info("property added", extra={"collection": contract.collection, "property": missing["name"]})

    async def check_collection(self, contract: CollectionContract) -> None:
        """Check that the class exists and matches the contract.

        A write would re-create a dropped class with a guessed schema.

        Raises:
            CollectionMissing: the class does not exist.
            FatalError: "schema_mismatch".

        Cost: one cheap request; three when it is missing.
        """
        check_definition(await self._repeat(lambda: self._read_class(contract.collection)), contract)

    async def _read_class(self, collection: str) -> dict[str, Any]:
        """Return the definition of a class. Raises CollectionMissing, TransientError.

        A starting server has no classes, over REST for a moment, over gRPC for seconds (observed with 1.40, stopped and
        started), and the 404 of a missing class has no body, as that of a proxy may have none. So a class is missing
        only when a server that reports that it is ready lists its classes without it.
        """
        try:
            definition = await self._get(f"/v1/schema/{make_class_name(collection)}", collection)
            if "class" not in definition:
                raise self._invalid("no definition of a class")
            return definition
        except CollectionMissing as error:
            ready = await self._request("GET", "/v1/.well-known/ready")
            if ready.status_code != HTTPStatus.OK:
                problem = f"is not ready and has not loaded collection '{collection}' yet"
                raise self._unavailable(problem, collection) from error
            for found in await self._list_classes():
                if found["class"] == make_class_name(collection):
                    return found
            raise

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same ids; they are applied when this returns. Idempotent.

        Weaviate re-creates a dropped class by itself: call ``check_collection`` regularly before writing.

        Raises:
            PointsRefused: after all other points are written; ``context["refused"]`` is {point id: Weaviate's error}.
            FatalError: "schema_mismatch" (another dimension), "store_access_denied".
            TransientError: the store is unavailable or degraded; some points may be written.

        Cost: one request per 500 points or 8 MB; memory of one request.
        """
        refused: dict[PointId, str] = {}
        await self._repeat(self._connect)
        writer = ObjectWriter(make_class_name(collection))
        limits = {"max_points": self._batch_points, "max_bytes": self._batch_bytes}

        async def send(batch: Sequence[EncodedPoint]) -> None:
            await self._write(collection, batch, refused)

        for batch in batch_points(points, writer.write, refused=refused, **limits):
            await send_or_halve(batch, send, refused)
        if refused:
            raise points_refused(self.name, collection, refused, total=len(points))

    async def _write(self, collection: str, batch: Sequence[EncodedPoint], refused: dict[PointId, str]) -> None:
        request = b"".join(encoded for _, encoded in batch)
        tries = 0

        async def send() -> None:
            nonlocal tries
            tries += 1
            if tries > 1:  # the class may have been dropped during the pause
                await self._read_class(collection)
            reply = await self._call(self._write_batch, request, collection, write=True)
            for entry in reply.errors:
                error = translate_entry(entry.error, self._url, collection)
                if isinstance(error, PointsRefused):
                    refused[batch[entry.index][0]] = error.message
                    continue
                if isinstance(error, CollectionMissing):
                    await self._confirm_missing(error, collection)
                raise error

        await self._repeat(send)

    async def _repeat(self, request: Callable[[], Awaitable[T]]) -> T:
        return await (request() if self._patience is None else self._patience.repeat(request))

    async def delete_object_points(self, collection: str, object_ids: Sequence[ObjectId], *, before_epoch: int) -> int:
        """Remove all points of some objects with a lower epoch, and return how many there were. Idempotent.

        Raises:
            FatalError, TransientError: as ``upsert``.
            CollectionMissing: the class does not exist.

        Cost: one request when there is nothing to remove, else one per 10,000 points and one more.
        """
        filters = filter_stale(object_ids, before_epoch)
        return await self._delete(collection, filters, what=f"{len(object_ids)} objects")

    async def _delete(self, collection: str, filters: Any, *, what: str) -> int:
        """Remove the points that filters match; return how many, without those of a reply that was lost."""
        request = batch_delete_pb2.BatchDeleteRequest(collection=make_class_name(collection), filters=filters)
        removed = 0
        while True:
            reply = await self._send("BatchDelete", request, collection, write=True)
            if reply.matches == 0:
                return removed
            if reply.successful == 0:
                raise self._unavailable(f"deleted none of {reply.matches} points of {what}", collection)
            removed += reply.successful

    async def read_points(self, collection: str, ids: Sequence[PointId], *, with_vectors: bool) -> list[StoredPoint]:
        """Return the points that exist, in any order. One request per 100 ids.

        Raises:
            FatalError, TransientError: as ``delete_object_points``.
        """
        found: list[StoredPoint] = []
        for start in range(0, len(ids), READ_POINTS):
            some = ids[start : start + READ_POINTS]
            results = await self._search(
                collection, with_vectors=with_vectors, limit=len(some), filters=filter_ids(some)
            )
            found += map(read_result, results)
        return found

    async def read_object_points(
        self,
        collection: str,
        object_ids: Sequence[ObjectId],
        *,
        first_chunk: int = 0,
        end_chunk: int | None = None,
        limit: int | None = None,
    ) -> list[StoredPoint]:
        """Return the points of some objects, or those with a chunk_index in [first_chunk, end_chunk), with vectors.

        Raises:
            FatalError, TransientError: as ``delete_object_points``.

        Cost: one request per 500 points, and one more; the server refuses to page beyond 10,000 points.
        """
        filters = filter_objects(object_ids, first_chunk, end_chunk)
        found: list[StoredPoint] = []
        page = PAGE_POINTS
        while limit is None or len(found) < limit:
            page = page if limit is None else min(page, limit - len(found))
            results, page = await self._read_page(
                collection, page, with_vectors=True, offset=len(found), filters=filters
            )
            if not results:
                break
            found += map(read_result, results)
        return found

    async def delete_points(self, collection: str, ids: Sequence[PointId]) -> int:
        """Remove points by id, and return how many existed; absent ids are ignored. Idempotent.

        Cost: one request per 500 ids that are absent, else two.

        Raises:
            FatalError, TransientError: as ``delete_object_points``.
        """
        removed = 0
        for start in range(0, len(ids), PAGE_POINTS):
            filters = filter_ids(ids[start : start + PAGE_POINTS])
            removed += await self._delete(collection, filters, what=f"{len(ids)} points")
        return removed

    async def scroll(
        self, collection: str, *, with_vectors: bool, page: int = 500, start: PointId | None = None
    ) -> AsyncIterator[StoredPoint]:
        """Yield every point once, ordered by id, starting at ``start``. One request per page, and one more.

        Raises:
            FatalError, TransientError: as ``delete_object_points``.
        """
        # The server's cursor is the last id before the page; UUIDs are integers of 128 bits.
        number = 0 if start is None else UUID(start).int
        after = "" if number == 0 else str(UUID(int=number - 1))
        while True:
            results, page = await self._read_page(collection, page, with_vectors=with_vectors, after=after)
            if not results:
                return
            for result in results:
                yield read_result(result)
            after = results[-1].metadata.id

    async def _read_page(self, collection: str, limit: int, **fields: Any) -> tuple[Any, int]:
        """Return up to ``limit`` objects, and the limit halved until the response fits into a message."""
        while True:
            try:
                return await self._search(collection, limit=limit, **fields), limit
            except RequestTooLarge:
                if limit == 1:
                    raise
                limit //= 2

    async def count(self, collection: str) -> int:
        """Return the exact number of points. Raises CollectionMissing, TransientError."""
        request = aggregate_pb2.AggregateRequest(collection=make_class_name(collection), objects_count=True)
        reply = await self._send("Aggregate", request, collection)
        return int(reply.single_result.objects_count)

    async def list_collections(self) -> list[str]:
        """Return the names of all classes, which start with a capital letter."""
        return sorted(entry["class"] for entry in await self._list_classes())

    async def _list_classes(self) -> list[dict[str, Any]]:
        return self._read_list(await self._get("/v1/schema", None), "classes", ("class",))

    def _read_list(self, answer: Mapping[str, Any], name: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return a list of an answer, which Weaviate sends even if it is empty.

        Raises:
            TransientError: something else has answered; an empty list would mean that everything is missing.
        """
        entries = answer.get(name, 0)
        entries = [] if entries is None else entries
        if not isinstance(entries, list) or not all(isinstance(e, dict) and e.keys() >= set(fields) for e in entries):
            raise self._invalid(f"no list of {name}")
        return entries

    def _invalid(self, content: str) -> TransientError:
        message = f"The response of Weaviate at {self._url} has {content}."
        return TransientError("weaviate_answer_invalid", message, url=self._url)

    async def drop_collection(self, collection: str) -> None:
        """Remove a class with its points; an absent class is not an error. One request."""
        name = make_class_name(collection)
        response = await self._request("DELETE", f"/v1/schema/{name}")
        if response.status_code == HTTPStatus.OK and not response.content:  # a page has been sent by something else
            return
        if response.status_code != HTTPStatus.NOT_FOUND or name in await self.list_collections():
            raise translate_response(response, self._url, None)

    def spell(self, name: str) -> str:
        """Return a name with a capital first letter. Pure."""
        return make_class_name(name)

    async def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias to a class. Idempotent. One request; two for a new alias.

        Raises:
            CollectionMissing: the class does not exist.
            FatalError: "alias_name_taken" when a class has the name of the alias, "aliases_unsupported".
            TransientError: the store is unavailable.
        """
        name, target = make_class_name(alias), make_class_name(collection)
        response = await self._request("PUT", f"/v1/aliases/{name}", {"class": target})
        if response.status_code == HTTPStatus.NOT_FOUND:
            response = await self._request("POST", "/v1/aliases", {"alias": name, "class": target})
        if response.status_code == HTTPStatus.OK:
            if "class" not in read_object(response, "weaviate", self._url):
                raise self._invalid("no alias")
            return
        text = read_error(response) or ""
        if f"class {name} already exists" in text:  # with status 500
            message = f"The alias '{alias}' cannot be created: Weaviate at {self._url} has a class of that name."
            raise FatalError("alias_name_taken", message, alias=alias, store="weaviate")
        if "target class" in text and "does not exist" in text:
            raise collection_missing(self.name, collection, self._url)
        raise self._translate_alias_error(response)

    async def list_aliases(self) -> dict[str, str]:
        """Return the class of every alias; names start with a capital letter. One request."""
        response = await self._request("GET", "/v1/aliases")
        if response.status_code != HTTPStatus.OK:
            raise self._translate_alias_error(response)
        answer = read_object(response, "weaviate", self._url)
        return {entry["alias"]: entry["class"] for entry in self._read_list(answer, "aliases", ("alias", "class"))}

    async def drop_alias(self, alias: str) -> None:
        """Remove an alias; an absent alias is not an error. One request; two when it is absent."""
        name = make_class_name(alias)
        response = await self._request("DELETE", f"/v1/aliases/{name}")
        if response.status_code in (HTTPStatus.OK, HTTPStatus.NO_CONTENT) and not response.content:
            return
        if response.status_code != HTTPStatus.NOT_FOUND or name in await self.list_aliases():
            raise self._translate_alias_error(response)

    def _translate_alias_error(self, response: Response) -> IngestionError:
        """Return the product's error for a refusal; a server before 1.32 does not have the path."""
        if is_unknown_path(response):
            message = f"Weaviate at {self._url} does not support aliases."
            hint = "Upgrade to Weaviate 1.32 or later."
            return FatalError("aliases_unsupported", message, hint=hint, store="weaviate")
        return translate_response(response, self._url, None)

    async def search(
        self, collection: str, vector: npt.NDArray[np.float32], *, limit: int, where: SearchFilter
    ) -> list[SearchHit]:
        """Return the nearest points, best first; ``score`` is the cosine similarity, 1 - distance.

        Raises:
            CollectionMissing: the class does not exist.
            FatalError: "schema_mismatch" (another dimension), "filter_too_broad".
            TransientError: the store is unavailable.

        Cost: one request; up to five when values differ only in what Weaviate's filters ignore: white space at either
        end, and ``*`` and ``?`` in a key prefix.
        """
        filters = filter_where(where)
        fields = {"near_vector": make_near(vector)} | ({"filters": filters} if filters is not None else {})

        async def fetch(count: int) -> list[SearchHit]:
            hits = []
            for result in await self._search(collection, with_vectors=False, limit=count, **fields):
                point = read_result(result)
                hits.append(SearchHit(point.id, 1.0 - result.metadata.distance, point.payload))
            return hits

        return await search_exactly(fetch, where, limit=limit, store=self.name.value)

    async def _search(self, collection: str, *, with_vectors: bool, limit: int, **fields: Any) -> Any:
        request = make_read(make_class_name(collection), with_vectors=with_vectors, limit=limit, **fields)
        return (await self._send("Search", request, collection)).results

    async def _send(self, method: str, request: Any, collection: str, *, write: bool = False) -> Any:
        async def send() -> Any:
            stub = await self._connect()
            return await self._call(getattr(stub, method), request, collection, write=write)

        return await self._repeat(send)

    async def _call(
        self, method: Callable[..., Awaitable[Any]], request: Any, collection: str, *, write: bool = False
    ) -> Any:
        limit_s = await self._time_limit(write=write)
        try:
            with (
                counted("weaviate"),
                weaviate_errors(self._target, collection),
                slow_request(f"Weaviate at {self._target}"),
            ):
                return await method(request, timeout=limit_s, metadata=self._metadata)
        except CollectionMissing as error:
            await self._confirm_missing(error, collection)
            raise

    async def _confirm_missing(self, error: CollectionMissing, collection: str) -> None:
        """Raise TransientError when a class that gRPC reports as missing exists, or when the server is not ready."""
        await self._read_class(collection)
        raise self._unavailable(f"has not loaded collection '{collection}' yet", collection) from error

    def _unavailable(self, problem: str, collection: str) -> TransientError:
        message = f"Weaviate at {self._url} {problem}."
        return TransientError("weaviate_unavailable", message, collection=collection, store="weaviate")

    async def _connect(self) -> Any:
        async with self._connecting:
            if self._stub is None:
                meta = await self._get("/v1/meta", None)
                limit = int(meta.get("grpcMaxMessageSize") or DEFAULT_MESSAGE_BYTES)
                self._batch_bytes = min(self._batch_bytes, limit // 2)
                options = [
                    ("grpc.max_send_message_length", limit),
                    ("grpc.max_receive_message_length", limit),
                    ("grpc.initial_reconnect_backoff_ms", 200),
                    ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
                ]
                if self._is_secure:
                    roots = None if self._ca_file is None else read_authorities(self._ca_file)
                    credentials = grpc.ssl_channel_credentials(roots)
                    self._channel = grpc.aio.secure_channel(self._target, credentials, options=options)
                else:
                    self._channel = grpc.aio.insecure_channel(self._target, options=options)
                make_stub: Callable[[Any], Any] = weaviate_pb2_grpc.WeaviateStub
                self._stub = make_stub(self._channel)
                self._write_batch = self._channel.unary_unary(  # its requests are encoded already
                    "/weaviate.v1.Weaviate/BatchObjects",
                    response_deserializer=batch_pb2.BatchObjectsReply.FromString,
                )
        return self._stub

    async def _get(self, path: str, collection: str | None) -> dict[str, Any]:
        response = await self._request("GET", path)
        if response.status_code != HTTPStatus.OK:
            raise translate_response(response, self._url, collection)
        return read_object(response, "weaviate", self._url)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Response:
        content = None if body is None else orjson.dumps(body)
        limit_s = await self._time_limit(write=method != "GET")
        return await self._rest.request(method, self._base, path, body=content, timeout_s=limit_s)

    async def _time_limit(self, *, write: bool) -> float:
        """Return the time limit of a request that begins now, in seconds."""
        return min(TIMEOUT_S, await self._permit()) if write and self._permit is not None else TIMEOUT_S
