"""Single objects over REST: what the client's `data.insert`, `replace`, `update`, `delete_by_id` and `exists` call."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ingestion_devstack.weaviate.database import (
    Database,
    IncomingObject,
    ObjectRefusedError,
    UnknownClassError,
    dimension_message,
)
from ingestion_devstack.weaviate.records import NewObject, StoredObject
from ingestion_devstack.weaviate.schema import lower_first
from ingestion_devstack.weaviate.storage import ClosedError, Collection
from ingestion_devstack.weaviate.values import PropertyError, parse_uuid

_MAXIMUM_RESULTS: Final = 10_000
_DEFAULT_LIMIT: Final = 10


class _Refused(Exception):  # an answer on its way, not a failure of ours
    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _error(message: str, status: int) -> Response:
    return _json({"error": [{"message": message}]}, status)


class ObjectRoutes:
    """`/v1/objects`. Work on the database happens in the thread pool."""

    def __init__(self, database: Database) -> None:
        """Serve `database`."""
        self._database = database

    async def collection(self, request: Request) -> Response:
        """GET lists (of one class, by id), POST inserts."""
        if request.method == "GET":
            return await self._run(lambda: self._list(request))
        body = await self._body(request)
        return body if isinstance(body, Response) else await self._run(lambda: self._insert(body))

    async def item(self, request: Request) -> Response:
        """GET, HEAD, PUT, PATCH, DELETE of one object."""
        name, uuid = request.path_params["name"], request.path_params["uuid"]
        try:
            key = parse_uuid(uuid)[1]
        except PropertyError:
            return _json({"code": 601, "message": f'id in path must be of type uuid: "{uuid}"'}, 422)
        if request.method == "GET":
            return await self._run(lambda: self._get(name, key, request.query_params.get("include", "")))
        if request.method == "HEAD":
            return await self._run(lambda: self._exists(name, key))
        if request.method == "DELETE":
            return await self._run(lambda: self._delete(name, key))
        body = await self._body(request)
        if isinstance(body, Response):
            return body
        change = self._replace if request.method == "PUT" else self._merge
        return await self._run(lambda: change(name, uuid, key, body))

    async def _body(self, request: Request) -> dict[str, Any] | Response:
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            return _json({"code": 400, "message": f'parsing body body from "" failed, because {error}'}, 400)
        if not isinstance(body, dict):
            return _json({"code": 400, "message": 'parsing body body from "" failed, because it is not an object'}, 400)
        if body.get("tenant"):
            return _error("multi-tenancy is not supported by the embedded Weaviate", 422)
        if body.get("id"):
            try:
                parse_uuid(str(body["id"]))
            except PropertyError:
                return _json({"code": 601, "message": f'id in body must be of type uuid: "{body["id"]}"'}, 422)
        return body

    async def _run(self, work: Callable[[], Response]) -> Response:
        def guarded() -> Response:
            try:
                return work()
            except _Refused as refused:
                return refused.response
            except (UnknownClassError, ClosedError):  # dropped since it was looked up
                return Response(status_code=404)

        return await run_in_threadpool(guarded)

    def _collection(self, name: str) -> Collection:
        try:
            return self._database.collection(name)
        except UnknownClassError:
            raise _Refused(Response(status_code=404)) from None

    def _get(self, name: str, key: bytes, include: str) -> Response:
        collection = self._collection(name)
        item = collection.get(key)
        if item is None:
            return Response(status_code=404)
        return _json(_describe(item, collection, with_vectors="vector" in include))

    def _list(self, request: Request) -> Response:
        query = request.query_params
        limit, offset = int(query.get("limit", _DEFAULT_LIMIT)), int(query.get("offset", 0))
        if limit + offset > _MAXIMUM_RESULTS:
            return _error("query maximum results exceeded", 422)
        if query.get("sort"):
            return _error("sorted lists over REST are not supported by the embedded Weaviate; use gRPC", 501)
        after = parse_uuid(query["after"])[1] if query.get("after") else None
        with_vectors = "vector" in query.get("include", "")
        found: list[dict[str, Any]] = []
        for name in [query["class"]] if query.get("class") else list(self._database.catalog.classes):
            collection = self._collection(name)
            page = collection.page(None, limit + offset - len(found), 0, after)
            found += [_describe(item, collection, with_vectors=with_vectors) for item in page]
        found = found[offset : offset + limit]
        return _json({"deprecations": [], "objects": found, "totalResults": len(found)})

    def _exists(self, name: str, key: bytes) -> Response:
        return Response(status_code=204 if self._collection(name).contains(key) else 404)

    def _delete(self, name: str, key: bytes) -> Response:
        try:
            self._database.collection(name).delete([key])
        except UnknownClassError as error:
            place = "could not delete object from vector repo"
            return _error(f"{place}: delete from non-existing index for {error}", 500)  # noqa: S608  # not SQL
        return Response(status_code=204)

    def _insert(self, body: dict[str, Any]) -> Response:
        if not body.get("class"):
            return _error("invalid object: the given class is empty", 422)
        uuid = str(body.get("id") or uuid_module.uuid4())
        incoming = IncomingObject(str(body["class"]), uuid, body.get("properties") or {}, _vectors(body))
        try:
            name, prepared = self._database.prepare(incoming)
        except ObjectRefusedError as error:
            return _error(f"invalid object: {error}", 422)
        collection = self._database.collection(name)
        with collection.lock:
            if collection.contains(prepared.id):
                return _error(f"id '{uuid}' already exists", 422)
            return self._store(collection, prepared)

    def _replace(self, name: str, uuid: str, key: bytes, body: dict[str, Any]) -> Response:
        if body.get("id") and parse_uuid(str(body["id"]))[1] != key:
            return _error("invalid update: field 'id' is immutable", 422)
        collection = self._collection(name)
        with collection.lock:
            if not collection.contains(key):
                return Response(status_code=404)
            incoming = IncomingObject(name, uuid, body.get("properties") or {}, _vectors(body))
            try:
                _, prepared = self._database.prepare(incoming, create=False)
            except ObjectRefusedError as error:
                return _error(f"invalid object: {error}", 422)
            return self._store(collection, prepared)

    def _merge(self, name: str, uuid: str, key: bytes, body: dict[str, Any]) -> Response:
        collection = self._collection(name)
        with collection.lock:
            current = collection.get(key)
            if current is None:
                return Response(status_code=404)
            changes: dict[str, Any] = body.get("properties") or {}
            incoming = IncomingObject(name, uuid, changes, _vectors(body))
            try:
                _, update = self._database.prepare(incoming, create=False)
            except ObjectRefusedError as error:
                return _error(f"msg:bad request code:400 err:{error}", 422)
            removed = {lower_first(prop) for prop, value in changes.items() if value is None}
            props = {prop: value for prop, value in current.props.items() if prop not in removed} | update.props
            merged = NewObject(key, props, current.vectors | update.vectors)
            stored = self._store(collection, merged)
        return Response(status_code=204) if stored.status_code == 200 else stored

    def _store(self, collection: Collection, item: NewObject) -> Response:
        (failed,) = collection.put([item], keep_created=True)
        if failed is not None:
            index = collection.definition["class"].lower()
            place = f'put object: import into index {index}: put local object: shard="main": store object in LSM store'
            return _error(f"{place}: {dimension_message(item, failed)}", 500)
        stored = collection.get(item.id)
        assert stored is not None
        answer = _describe(stored, collection, with_vectors=True)
        del answer["vectorWeights"]
        return _json(answer)


def _vectors(body: dict[str, Any]) -> dict[str, bytes]:
    given = dict(body.get("vectors") or {})
    if body.get("vector"):
        given[""] = body["vector"]
    out = {}
    for name, values in given.items():
        try:
            vector = np.asarray(values, dtype="<f4")
        except (TypeError, ValueError) as error:
            raise _Refused(_error(f"invalid object: vector: {error}", 422)) from None
        if vector.ndim != 1:
            raise _Refused(_error("multi-vectors are not supported by the embedded Weaviate", 422))
        out[name] = vector.tobytes()
    return out


def _describe(item: StoredObject, collection: Collection, *, with_vectors: bool) -> dict[str, Any]:
    out: dict[str, Any] = {
        "class": collection.definition["class"],
        "creationTimeUnix": item.created_ms,
        "id": item.uuid,
        "lastUpdateTimeUnix": item.updated_ms,
        "properties": item.props,
        "vectorWeights": None,
    }
    if with_vectors:
        vectors = {name: np.frombuffer(data, dtype="<f4").tolist() for name, data in item.vectors.items()}
        if "" in vectors:
            out["vector"] = vectors.pop("")
        if vectors:
            out["vectors"] = vectors
    return out
