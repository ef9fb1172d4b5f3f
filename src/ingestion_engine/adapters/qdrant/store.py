"""Qdrant over REST: each collection has one unnamed cosine vector; payloads are stored unchanged."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson

from ingestion_engine.adapters.exact_search import search_exactly
from ingestion_engine.adapters.patience import Patience
from ingestion_engine.adapters.point_batches import EncodedPoint, batch_points, cut, halve_if_too_large, send_or_halve
from ingestion_engine.adapters.qdrant.limits import Limits, least
from ingestion_engine.adapters.qdrant.responses import read_result
from ingestion_engine.adapters.qdrant.schema import INDEXES, check_definition, make_definition
from ingestion_engine.adapters.store_errors import points_refused, store_not_configured
from ingestion_engine.adapters.transport import HttpClient, read_object
from ingestion_engine.domain.errors import FatalError, PointsRefused, RequestTooLarge, TransientError
from ingestion_engine.domain.ids import ObjectId, PointId
from ingestion_engine.domain.ports import SearchFilter, WritePermit
from ingestion_engine.domain.records import Point, SearchHit, StoredPoint
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.settings import QdrantSettings, Settings

if TYPE_CHECKING:
    import numpy.typing as npt

T = TypeVar("T")

WRITE_TIMEOUT_S = 30
"""The server's time limit of a write, unless a permit ends earlier (``LeaseCheck.grant``)."""
CONNECT_TIMEOUT_S = 5.0
GRACE_S = 2.0
"""Time the client waits beyond the server's own time limit, to receive its response."""
BATCH_BYTES = 16 * 1024 * 1024
"""Half of the server's default limit on a request body (``service.max_request_size_mb``, 32)."""
BATCH_POINTS = 500
"""A guess: strict mode can limit it, but no server limits it below this by default."""
READ_POINTS = 500
COUNT_PAGE = 10_000
"""Ids per page where points have to be counted by paging: 40 bytes each."""


class QdrantStore:
    """The vector store port over Qdrant. For one event loop."""

    name = StoreName.QDRANT

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        batch_points: int = BATCH_POINTS,
        permit: WritePermit | None = None,
        patience: Patience | None = None,
        ca_file: Path | None = None,
        creation: QdrantSettings | None = None,
    ) -> None:
        """Create the client; sends no request. ``creation`` has the settings of collections that are created.

        ``permit`` is asked before every request that writes; ``patience`` repeats requests, None repeats none.
        ``ca_file`` is a PEM file of authorities; None means the usual ones.
        """
        self._base = url.rstrip("/")
        self._url = hide_credentials(self._base)  # for messages
        self._batch_points = batch_points
        self._creation = creation or QdrantSettings()
        self._limits: dict[str, Limits] = {}
        """Limits of the collections that were checked, or that refused a request."""
        self._permit = permit
        self._patience = patience
        headers = {"content-type": "application/json"} | ({"api-key": api_key} if api_key else {})
        self._client = HttpClient("qdrant", connect_timeout_s=CONNECT_TIMEOUT_S, headers=headers, ca_file=ca_file)

    @classmethod
    def from_settings(
        cls, settings: Settings, permit: WritePermit | None = None, patience: Patience | None = None
    ) -> QdrantStore:
        """Return the store of ``settings.qdrant``. Raises FatalError ("store_not_configured")."""
        qdrant = settings.qdrant
        if qdrant.url is None:
            raise store_not_configured(cls.name)
        api_key = qdrant.api_key.get_secret_value() if qdrant.api_key else None
        ca_file = settings.tls.ca_file
        return cls(qdrant.url, api_key, permit=permit, patience=patience, ca_file=ca_file, creation=qdrant)

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    async def check(self) -> str:
        """Return the server's version; checks the API key too. Two requests."""
        await self.list_collections()
        response = await self._client.request("GET", self._base, "/", timeout_s=WRITE_TIMEOUT_S)
        return str(read_object(response, "qdrant", self._url).get("version", "unknown"))

    async def ensure_collection(self, contract: CollectionContract) -> None:
        """Create the collection with its indexes, or check the existing one. Idempotent.

        Raises:
            FatalError: "schema_mismatch", naming both values; "store_access_denied"; "qdrant_refused" when the
                collection's strict mode allows no jobs.
            TransientError: the store is unavailable.

        Cost: one request for an existing collection; two, and one per index, to create it.
        """
        name = contract.collection
        if not (await self._call("GET", f"/collections/{name}/exists", collection=name))["exists"]:
            body = make_definition(contract, self._creation)
            try:
                await self._call("PUT", f"/collections/{name}", body, collection=name, write=True)
            except FatalError as error:
                if error.context.get("status") != HTTPStatus.CONFLICT:  # another client has just created it
                    raise
        info = await self._describe(contract)
        for field in self._limits[name].missing_indexes(info["payload_schema"]):
            index = {"field_name": field, "field_schema": INDEXES[field]}
            await self._call("PUT", f"/collections/{name}/index", index, collection=name, write=True)

    async def check_collection(self, contract: CollectionContract) -> None:
        """Check that the collection exists, matches the contract and allows jobs. One cheap request.

        Raises:
            CollectionMissing: the collection does not exist.
            FatalError: "schema_mismatch"; "qdrant_refused" when the collection's strict mode allows no jobs.
        """
        await self._describe(contract)

    async def _describe(self, contract: CollectionContract) -> dict[str, Any]:
        name = contract.collection
        info = await self._read_limits(name)
        check_definition(info, contract)
        self._limits[name].check(info["payload_schema"], collection=name, url=self._url)
        return info

    async def _read_limits(self, collection: str) -> dict[str, Any]:
        """Return the description of a collection, after its limits were kept for later requests."""
        info: dict[str, Any] = await self._call("GET", f"/collections/{collection}", collection=collection)
        self._limits[collection] = Limits.of(info)
        return info

    async def _within_limits(self, collection: str, act: Callable[[Limits], Awaitable[T]]) -> T:
        """Return the result of requests made within the limits that are known; read them when strict mode refuses."""
        known = self._limits.get(collection, Limits())
        try:
            return await act(known)
        except FatalError as error:
            if not error.context.get("strict_mode"):
                raise
            await self._read_limits(collection)
            if self._limits[collection] == known:
                raise
            return await act(self._limits[collection])

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same ids; they are applied when this returns. Idempotent.

        A batch that Qdrant refuses is halved until the refused points are found.

        Raises:
            PointsRefused: after all other points are written; ``context["refused"]`` is {point id: Qdrant's error}.
            CollectionMissing: the collection does not exist.
            FatalError: "schema_mismatch" (another dimension), "store_access_denied".
            TransientError: the store is unavailable or did not apply a batch in time; some points may be written.

        Cost: one request per 500 points or 16 MB; memory of one request.
        """
        refused: dict[PointId, str] = {}

        async def write(limits: Limits) -> None:
            size = least(self._batch_points, limits.upsert_points, limits.writes_per_minute)
            for batch in batch_points(points, _encode, max_points=size, max_bytes=BATCH_BYTES, refused=refused):
                await send_or_halve(batch, functools.partial(self._write, collection), refused)

        await self._within_limits(collection, write)
        if refused:
            raise points_refused(self.name, collection, refused, total=len(points))

    async def _write(self, collection: str, batch: Sequence[EncodedPoint]) -> None:
        body = b'{"points":[' + b",".join(encoded for _, encoded in batch) + b"]}"
        await self._call("PUT", f"/collections/{collection}/points", body, collection=collection, write=True)

    async def delete_object_points(self, collection: str, object_ids: Sequence[ObjectId], *, before_epoch: int) -> int:
        """Remove all points of some objects with a lower epoch, and return how many there were. Idempotent.

        Qdrant does not say how many points a deletion has removed, so they are counted before.

        Raises:
            FatalError, TransientError: as ``upsert``.

        Cost: two requests; more where strict mode limits conditions, or writes to less than the points to remove.
        """
        removed: list[int] = []

        async def delete(limits: Limits) -> None:
            async def delete_some(some: Sequence[ObjectId]) -> None:
                removed.append(await self._delete_stale(collection, some, before_epoch))

            for some in cut(object_ids, least(len(object_ids), limits.condition_size)):
                await halve_if_too_large(some, delete_some)

        if object_ids:
            await self._within_limits(collection, delete)
        return sum(removed)

    async def _delete_stale(self, collection: str, object_ids: Sequence[ObjectId], before_epoch: int) -> int:
        must = [_is_any("object_id", object_ids), {"key": "epoch", "range": {"lt": before_epoch}}]
        where = {"filter": {"must": must}}
        held = await self._count(collection, where)
        try:
            await self._delete(collection, where)
        except RequestTooLarge:  # the points to remove cost more than a minute's writes
            if len(object_ids) > 1:
                raise
            stale = self._scroll(collection, {**where, "with_payload": False, "with_vector": False})
            return await self.delete_points(collection, [point.id async for point in stale])
        return held

    async def read_points(self, collection: str, ids: Sequence[PointId], *, with_vectors: bool) -> list[StoredPoint]:
        """Return the points that exist, in any order. One request per 500 ids, or as many as strict mode allows.

        Raises:
            FatalError, TransientError: as ``upsert``.
        """

        async def read(some: Sequence[PointId]) -> list[StoredPoint]:
            body = {"ids": some, "with_payload": True, "with_vector": with_vectors}
            return list(map(_read_point, await self._retrieve(collection, body)))

        size = least(READ_POINTS, self._limits.get(collection, Limits()).reads_per_minute)
        return [point for some in cut(ids, size) for part in await halve_if_too_large(some, read) for point in part]

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
            FatalError, TransientError: as ``upsert``.

        Cost: one request per 500 points, at least one; more where strict mode limits pages or conditions.
        """
        further: list[dict[str, Any]] = []
        if first_chunk or end_chunk is not None:
            bounds = {"gte": first_chunk} | ({} if end_chunk is None else {"lt": end_chunk})
            further.append({"key": "chunk_index", "range": bounds})
        page = {} if limit is None else {"limit": min(limit, READ_POINTS)}

        async def read(limits: Limits) -> list[StoredPoint]:
            found: list[StoredPoint] = []
            for some in cut(object_ids, least(len(object_ids), limits.condition_size)):
                where = {"filter": {"must": [_is_any("object_id", some), *further]}, "with_vector": True, **page}
                async with aclosing(self._scroll(collection, where)) as points:
                    async for point in points:
                        found.append(point)
                        if len(found) == limit:
                            return found
            return found

        return await self._within_limits(collection, read) if object_ids else []

    async def delete_points(self, collection: str, ids: Sequence[PointId]) -> int:
        """Remove points by id, and return how many existed; absent ids are ignored. Idempotent.

        Raises:
            FatalError, TransientError: as ``upsert``.

        Cost: two requests per 500 ids, or as many as are allowed.
        """
        removed: list[int] = []

        async def delete(some: Sequence[PointId]) -> None:
            plain = [_plain_id(point_id) for point_id in some]
            held = await self._retrieve(collection, {"ids": plain, "with_payload": False, "with_vector": False})
            await self._delete(collection, {"points": plain})
            removed.append(len(held))

        async def delete_all(limits: Limits) -> None:
            for some in cut(ids, least(READ_POINTS, limits.writes_per_minute, limits.reads_per_minute)):
                await halve_if_too_large(some, delete)

        await self._within_limits(collection, delete_all)
        return sum(removed)

    async def _retrieve(self, collection: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = await self._call("POST", f"/collections/{collection}/points", wanted, collection=collection)
        if not isinstance(found, list):
            raise self._invalid("has no list of points")
        return found

    async def _delete(self, collection: str, selector: Mapping[str, Any]) -> None:
        path = f"/collections/{collection}/points/delete"
        await self._call("POST", path, selector, collection=collection, write=True)

    def scroll(
        self, collection: str, *, with_vectors: bool, page: int = 500, start: PointId | None = None
    ) -> AsyncIterator[StoredPoint]:
        """Yield every point once, ordered by id (numbers before UUIDs), starting at ``start``. One request per page.

        Raises:
            FatalError, TransientError: as ``upsert``.
        """
        first = {} if start is None else {"offset": _plain_id(start)}
        return self._scroll(collection, {"limit": page, "with_vector": with_vectors, **first})

    async def _scroll(self, collection: str, request: Mapping[str, Any]) -> AsyncGenerator[StoredPoint]:
        body: dict[str, Any] = {"limit": READ_POINTS, "with_payload": True, **request}
        path, page = f"/collections/{collection}/points/scroll", body["limit"]

        async def read(limits: Limits) -> Any:
            body["limit"] = least(page, limits.query_limit)
            return await self._call("POST", path, body, collection=collection)

        while True:
            result = await self._within_limits(collection, read)
            with self._reading("a page of points"):
                points = [_read_point(point) for point in result["points"]]
                body["offset"] = result.get("next_page_offset")
            for point in points:
                yield point
            if body["offset"] is None:
                return

    async def count(self, collection: str) -> int:
        """Return the exact number of points. Raises CollectionMissing, TransientError.

        Cost: one request; one per 10,000 points where strict mode allows no exact counts.
        """
        return await self._count(collection, {})

    async def _count(self, collection: str, where: Mapping[str, Any]) -> int:
        async def count(limits: Limits) -> int:
            if not limits.exact:
                page = {**where, "limit": COUNT_PAGE, "with_payload": False, "with_vector": False}
                ids = self._scroll(collection, page)
                return len([None async for _ in ids])
            path = f"/collections/{collection}/points/count"
            result = await self._call("POST", path, {**where, "exact": True}, collection=collection)
            found = result.get("count") if isinstance(result, dict) else None
            if not isinstance(found, int):
                raise self._invalid("has no count")
            return found

        return await self._within_limits(collection, count)

    async def list_collections(self) -> list[str]:
        """Return the names of all collections."""
        result = await self._call("GET", "/collections")
        with self._reading("a list of collections"):
            return sorted(entry["name"] for entry in result["collections"])

    async def drop_collection(self, collection: str) -> None:
        """Remove a collection with its points; an absent collection is not an error."""
        await self._call("DELETE", f"/collections/{collection}", collection=collection, write=True)

    def spell(self, name: str) -> str:
        """Return a name unchanged. Pure."""
        return name

    async def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias to a collection. Idempotent. One request.

        Creating an existing alias moves it, under the lock that searches take (Qdrant 1.19, ``update_aliases``);
        deleting it in the same request, as its manual shows, would lose the alias when the collection is missing.

        Raises:
            CollectionMissing: the collection does not exist.
            FatalError: "alias_name_taken" when a collection has the name of the alias.
            TransientError: the store is unavailable.
        """
        create = {"create_alias": {"collection_name": collection, "alias_name": alias}}
        try:
            await self._call("POST", "/collections/aliases", {"actions": [create]}, collection=collection, write=True)
        except FatalError as error:
            if error.context.get("status") == HTTPStatus.CONFLICT:
                message = f"The alias '{alias}' cannot be created: Qdrant at {self._url} has a collection of that name."
                raise FatalError("alias_name_taken", message, alias=alias, store="qdrant") from error
            raise

    async def list_aliases(self) -> dict[str, str]:
        """Return the collection of every alias. One request."""
        result = await self._call("GET", "/aliases")
        with self._reading("a list of aliases"):
            return {entry["alias_name"]: entry["collection_name"] for entry in result["aliases"]}

    async def drop_alias(self, alias: str) -> None:
        """Remove an alias; an absent alias is not an error. One request."""
        drop = {"delete_alias": {"alias_name": alias}}
        await self._call("POST", "/collections/aliases", {"actions": [drop]}, write=True)

    async def search(
        self, collection: str, vector: npt.NDArray[np.float32], *, limit: int, where: SearchFilter
    ) -> list[SearchHit]:
        """Return the nearest points, best first; ``score`` is the cosine similarity.

        Raises:
            CollectionMissing: the collection does not exist.
            FatalError: "schema_mismatch" (another dimension), "filter_too_broad".
            TransientError: the store is unavailable.

        Cost: one request; up to five when a metadata name has a quote or a backslash: Qdrant's paths have neither.
        """
        body: dict[str, Any] = {"query": np.ascontiguousarray(vector, np.float32), "with_payload": True}
        if must := _conditions(where):
            body["filter"] = {"must": must}

        async def fetch(count: int) -> list[SearchHit]:
            path, request = f"/collections/{collection}/points/query", {**body, "limit": count}
            result = await self._within_limits(
                collection, lambda _: self._call("POST", path, request, collection=collection)
            )
            with self._reading("a list of hits"):
                return [SearchHit(PointId(h["id"]), float(h["score"]), h["payload"] or {}) for h in result["points"]]

        return await search_exactly(fetch, where, limit=limit, store=self.name.value)

    async def _call(
        self, method: str, path: str, body: Any = None, *, collection: str | None = None, write: bool = False
    ) -> Any:
        """Send one request, repeated with patience, and return its result; ``collection`` is named in errors."""
        content = body if body is None or isinstance(body, bytes) else orjson.dumps(body, option=_NUMPY)

        async def send() -> Any:
            return await self._send(method, path, content, collection=collection, write=write)

        return await (send() if self._patience is None else self._patience.repeat(send))

    async def _send(self, method: str, path: str, content: bytes | None, *, collection: str | None, write: bool) -> Any:
        params: dict[str, Any] = {}
        limit_s = WRITE_TIMEOUT_S + GRACE_S
        if write:
            if self._permit is not None:
                limit_s = min(limit_s, await self._permit())
            most_s = self._limits[collection].timeout_s if collection in self._limits else None
            params = {"timeout": least(max(1, int(limit_s - GRACE_S)), most_s)}
            if "/points" in path or path.endswith("/index"):
                params["wait"] = "true"  # by default the server responds before it applies the change
        response = await self._client.request(method, self._base, path, params=params, body=content, timeout_s=limit_s)
        try:
            result = read_result(response, self._url, collection)
            if "wait" in params and not isinstance(result, dict):
                raise self._invalid("does not say whether an update was applied")
            return result
        except PointsRefused as error:
            if path.endswith("/points") and method == "PUT":
                raise
            raise FatalError("qdrant_refused", error.message, collection=collection, store="qdrant") from error

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Translate what the ``with`` block raises over a result of another form than Qdrant documents."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._invalid(f"is not {what}") from error

    def _invalid(self, problem: str) -> TransientError:
        message = f"The response of Qdrant at {self._url} {problem}."
        return TransientError("qdrant_answer_invalid", message, url=self._url)


_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def _encode(point: Point) -> bytes:
    vector = np.ascontiguousarray(point.vector, dtype=np.float32)
    return orjson.dumps({"id": point.id, "vector": vector, "payload": dict(point.payload)}, option=_NUMPY)


def _read_point(point: Mapping[str, Any]) -> StoredPoint:
    vector = point.get("vector")
    return StoredPoint(
        PointId(str(point["id"])),
        point.get("payload") or {},
        None if vector is None or isinstance(vector, dict) else np.array(vector, dtype=np.float32),
    )


def _plain_id(point_id: PointId) -> PointId | int:
    """Return a number for an id of digits: foreign points may have numbers as ids, and a UUID always has hyphens."""
    return int(point_id) if point_id.isdigit() else point_id


def _equals(field: str, value: str) -> dict[str, Any]:
    return {"key": field, "match": {"value": value}}


def _is_any(field: str, values: Sequence[str]) -> dict[str, Any]:
    return {"key": field, "match": {"any": list(values)}}


def _conditions(where: SearchFilter) -> list[dict[str, Any]]:
    named = {"bucket": where.bucket, "content_type": where.content_type}
    must = [_equals(field, value) for field, value in named.items() if value is not None]
    if where.key_prefix:
        must.append({"key": "key", "match": {"prefix": where.key_prefix}})
    # A quoted part of a path may contain any character, including dots, except quotes and backslashes.
    entries = (where.metadata or {}).items()
    return must + [_equals(f'metadata."{name}"', value) for name, value in entries if not set(name) & set('"\\')]
