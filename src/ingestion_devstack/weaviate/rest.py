"""The REST side of the Weaviate stand-in: meta, probes, schema, aliases, nodes, and single objects.

Imitates Weaviate 1.35, adapters/handlers/rest: handlers_schema.go, handlers_aliases.go and handlers_objects.go
(statuses and bodies as its Python client and curl see them). Single objects can be inserted, merged and deleted by id:
the client's `data.insert`, `data.update` and `data.delete_by_id`. Other paths and methods of the real server are
answered with 501 and a text that names them.
"""

from __future__ import annotations

import hmac
import re
import uuid as uuid_module
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ingestion_devstack.weaviate.collection import Collection, NewObject
from ingestion_devstack.weaviate.database import Database, IncomingObject
from ingestion_devstack.weaviate.errors import (
    AliasClashesWithClassError,
    ObjectRefusedError,
    PropertyError,
    SchemaError,
    UnknownAliasError,
    UnknownClassError,
    unsupported,
)
from ingestion_devstack.weaviate.grpc import MAX_MESSAGE_BYTES
from ingestion_devstack.weaviate.schema import lower_first, upper_first
from ingestion_devstack.weaviate.values import parse_uuid

VERSION: Final = "1.35.3"
"""Answer of `/v1/meta`: new enough for aliases (1.32), older than the batch stream (1.36), which is not supported."""
_OPEN: Final = frozenset({"/v1/.well-known/live", "/v1/.well-known/ready"})
"""Paths that need no key."""
_OIDC: Final = "/v1/.well-known/openid-configuration"
_REAL: Final = re.compile(
    r"/v1/(?:aliases|authz|backups|batch|classifications|cluster|graphql|meta|nodes|objects|replication|schema|tasks"
    r"|tokenize|users)(?:/.*)?"
)
"""Paths of the real server."""
_INVALID_ID: Final = 601
"""Code in the body of a 422 for an id that is no UUID."""
_NODE: Final = {
    "batchStats": {"queueLength": 0, "ratePerSecond": 0},
    "name": "node1",
    "operationalMode": "ReadWrite",
    "shards": None,
    "status": "HEALTHY",
    "version": VERSION,
}
Work = Callable[[Request, dict[str, Any]], Response]
"""A handler: takes the request and its JSON body ({} without one), and runs in a thread with the database's lock."""


def make_app(database: Database, api_key: str | None) -> ASGIApp:
    """Return the ASGI application; with a key every path but the probes needs it as a bearer token."""
    schema, objects = _Schema(database), _Objects(database)

    def route(path: str, method: str, work: Work, *, param: str = "") -> Route:
        async def answer(request: Request) -> Response:
            for name in request.query_params.keys() - {param}:
                return _error(unsupported(f"the parameter `{name}`"), 501)
            body = await _read_body(request)
            return await run_in_threadpool(_run, database, lambda: work(request, body))

        return Route(path, answer, methods=[method])

    routes = [
        route("/v1/.well-known/live", "GET", lambda *_: Response()),
        route("/v1/.well-known/ready", "GET", lambda *_: Response()),
        route(_OIDC, "GET", lambda *_: Response(status_code=404)),
        route("/v1/meta", "GET", lambda request, _: _describe_server(request)),
        route("/v1/nodes", "GET", lambda *_: _json({"nodes": [_NODE]})),
        route("/v1/schema", "GET", lambda *_: _json({"classes": database.definitions()})),
        route("/v1/schema", "POST", lambda _, body: _json(database.create_class(body))),
        route("/v1/schema/{name}", "GET", schema.get_class),
        route("/v1/schema/{name}", "DELETE", schema.drop_class),
        route("/v1/schema/{name}/properties", "POST", schema.add_property),
        route("/v1/aliases", "GET", schema.list_aliases, param="class"),
        route("/v1/aliases", "POST", schema.add_alias),
        route("/v1/aliases/{name}", "GET", schema.get_alias),
        route("/v1/aliases/{name}", "PUT", schema.move_alias),
        route("/v1/aliases/{name}", "DELETE", schema.drop_alias),
        route("/v1/objects", "POST", objects.insert),
        route("/v1/objects/{name}/{uuid}", "PATCH", objects.merge),
        route("/v1/objects/{name}/{uuid}", "DELETE", objects.delete),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _answer_http_error})
    return app if api_key is None else _Authenticated(app, api_key)


class _Authenticated:
    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"") if scope["type"] == "http" else self._expected
        is_open = scope["path"] in _OPEN or (scope["path"] == _OIDC and not given.startswith(b"Bearer "))
        if is_open or hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        message = "unauthorized: invalid api key"
        if not given.startswith(b"Bearer "):
            methods = "Please authenticate through one of the available methods: [API-keys]"
            message = f"anonymous access not enabled. {methods} "
        await _json({"code": 401, "message": message}, 401)(scope, receive, send)


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _error(message: str, status: int) -> Response:
    return _json({"error": [{"message": message}]}, status)


async def _read_body(request: Request) -> dict[str, Any]:
    """Return the body, {} for an empty one.

    Raises:
        HTTPException: 400, not JSON or not an object.
    """
    content = await request.body()
    try:
        body = orjson.loads(content) if content else {}
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f'parsing body body from "" failed, because {error}') from None
    if not isinstance(body, dict):
        raise HTTPException(400, 'parsing body body from "" failed, because it is not an object')
    return body


def _run(database: Database, work: Callable[[], Response]) -> Response:
    """Return the answer of a handler, which runs alone, or the answer that its error stands for."""
    with database.lock:
        try:
            return work()
        except SchemaError as error:
            return _error(str(error), 422)
        except AliasClashesWithClassError as error:
            return _error(str(error), 500)
        except (UnknownAliasError, UnknownClassError):
            return Response(status_code=404)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405) and _REAL.fullmatch(request.url.path):
        return _error(unsupported(f"{request.method} {request.url.path}"), 501)
    message = f"path {request.url.path} was not found" if error.status_code == 404 else error.detail
    code = _INVALID_ID if error.status_code == 422 else error.status_code
    return _json({"code": code, "message": message}, error.status_code)


def _describe_server(request: Request) -> Response:
    host = f"{request.url.scheme}://{request.url.netloc}"
    return _json({"grpcMaxMessageSize": MAX_MESSAGE_BYTES, "hostname": host, "modules": {}, "version": VERSION})


class _Schema:
    """Handlers of classes and aliases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_class(self, request: Request, _: dict[str, Any]) -> Response:
        """Return a class, also by an alias."""
        return _json(self._database.collection(request.path_params["name"]).definition)

    def drop_class(self, request: Request, _: dict[str, Any]) -> Response:
        """Delete a class, never by an alias; an absent one is no error."""
        self._database.drop_class(request.path_params["name"])
        return Response()

    def add_property(self, request: Request, body: dict[str, Any]) -> Response:
        """Add a property to a class; its objects have no value for it."""
        return _json(self._database.add_properties(request.path_params["name"], [body])[0])

    def list_aliases(self, request: Request, _: dict[str, Any]) -> Response:
        """Return all aliases, or those of one class."""
        wanted = upper_first(request.query_params.get("class", ""))
        pairs = sorted(self._database.aliases.items())
        listed = [{"alias": alias, "class": target} for alias, target in pairs if wanted in ("", target)]
        return _json({"aliases": listed})

    def add_alias(self, _: Request, body: dict[str, Any]) -> Response:
        """Create an alias."""
        name, target = (upper_first(str(body.get(field) or "")) for field in ("alias", "class"))
        self._database.add_alias(name, target)
        return self._show_alias(name)

    def get_alias(self, request: Request, _: dict[str, Any]) -> Response:
        """Return one alias."""
        return self._show_alias(upper_first(request.path_params["name"]))

    def move_alias(self, request: Request, body: dict[str, Any]) -> Response:
        """Point an alias at another class."""
        name = upper_first(request.path_params["name"])
        self._database.move_alias(name, upper_first(str(body.get("class") or "")))
        return self._show_alias(name)

    def drop_alias(self, request: Request, _: dict[str, Any]) -> Response:
        """Delete an alias."""
        self._database.drop_alias(upper_first(request.path_params["name"]))
        return Response(status_code=204)

    def _show_alias(self, name: str) -> Response:
        if name not in self._database.aliases:
            raise UnknownAliasError(name)
        return _json({"alias": name, "class": self._database.aliases[name]})


class _Objects:
    """Handlers of single objects."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, _: Request, body: dict[str, Any]) -> Response:
        """Insert an object; one whose id exists is refused."""
        if not body.get("class"):
            return _error("invalid object: the given class is empty", 422)
        uuid = str(body.get("id") or uuid_module.uuid4())
        try:
            collection, prepared = self._database.prepare(_read_object(body, str(body["class"]), uuid))
        except ObjectRefusedError as error:
            return _error(f"invalid object: {error}", 422)
        if collection.get(prepared.id) is not None:
            return _error(f"id '{uuid}' already exists", 422)
        answer = {"class": collection.definition["class"], "id": prepared.id, "properties": prepared.props}
        return _store(collection, prepared) or _json(answer)

    def merge(self, request: Request, body: dict[str, Any]) -> Response:
        """Change the given properties of an object; the vector stays unless one is given."""
        collection = self._database.collection(request.path_params["name"])
        if (current := collection.get(uuid := _read_uuid(request))) is None:
            return Response(status_code=404)
        try:
            incoming = _read_object(body, collection.definition["class"], uuid)
            _, update = self._database.prepare(incoming)
        except ObjectRefusedError as error:
            return _error(f"msg:bad request code:400 err:{error}", 422)
        removed = {lower_first(prop) for prop, value in incoming.props.items() if value is None}
        props = {prop: value for prop, value in current.props.items() if prop not in removed} | update.props
        merged = NewObject(uuid, props, update.vector or current.vector)
        return _store(collection, merged) or Response(status_code=204)

    def delete(self, request: Request, _: dict[str, Any]) -> Response:
        """Delete an object; an absent one is no error."""
        uuid = _read_uuid(request)
        try:
            self._database.collection(request.path_params["name"]).delete([uuid])
        except UnknownClassError as error:
            place = "could not delete object from vector repo"
            return _error(f"{place}: delete from non-existing index for {error}", 500)  # noqa: S608  # not SQL
        return Response(status_code=204)


def _read_uuid(request: Request) -> str:
    try:
        return parse_uuid(request.path_params["uuid"])
    except PropertyError:
        text = f'id in path must be of type uuid: "{request.path_params["uuid"]}"'
        raise HTTPException(422, text) from None


def _read_object(body: dict[str, Any], class_name: str, uuid: str) -> IncomingObject:
    for field in body.keys() - {"class", "id", "properties", "vector", "vectors"}:
        raise ObjectRefusedError(unsupported(f"`{field}` of an object"))
    vectors = {}
    for name, values in ({"": body.get("vector") or []} | (body.get("vectors") or {})).items():
        try:
            vector = np.asarray(values, dtype="<f4")
        except (TypeError, ValueError) as error:
            raise ObjectRefusedError(f"vector: {error}") from None
        if vector.ndim != 1:
            raise ObjectRefusedError(unsupported("a multi-vector"))
        vectors[name] = vector.tobytes()
    return IncomingObject(class_name=class_name, uuid=uuid, props=body.get("properties") or {}, vectors=vectors)


def _store(collection: Collection, item: NewObject) -> Response | None:
    """Write an object; return the answer if it is refused."""
    (refused,) = collection.put([item], keep_created=True)
    if refused is None:
        return None
    index = collection.definition["class"].lower()
    place = f'put object: import into index {index}: put local object: shard="main": store object in LSM store'
    return _error(f"{place}: {refused}", 500)
