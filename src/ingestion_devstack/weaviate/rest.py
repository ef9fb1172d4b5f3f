"""The REST side of the Weaviate stand-in: meta, schema, aliases, single objects, nodes.

Status codes and bodies are those of the real server, as its Python client and curl see them.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ingestion_devstack.weaviate.catalog import AliasClashesWithClassError, UnknownAliasError
from ingestion_devstack.weaviate.database import Database, UnknownClassError
from ingestion_devstack.weaviate.grpc import MAX_MESSAGE_BYTES
from ingestion_devstack.weaviate.rest_objects import ObjectRoutes
from ingestion_devstack.weaviate.schema import SchemaError, upper_first

VERSION: Final = "1.35.3"
"""What `/v1/meta` says: new enough for aliases (1.32), older than the batch stream (1.36), which is not implemented."""
_NODE: Final = "node1"
_OPEN: Final = frozenset({"/v1", "/v1/", "/v1/.well-known/live", "/v1/.well-known/ready"})
"""Paths that need no key."""
_UNSUPPORTED: Final = (
    *(f"/v1/{name}{{rest:path}}" for name in ("batch", "graphql", "backups", "classifications", "replication")),
    *(f"/v1/{name}{{rest:path}}" for name in ("users", "authz", "tokenize", "cluster", "tasks")),
    *(f"/v1/schema/{{name}}/{rest}" for rest in ("tenants{rest:path}", "shards/{shard}", "properties/{rest:path}")),
    "/v1/objects/{name}/{uuid}/{rest:path}",
)
"""Paths of the real server answered with 501 and a text that says so."""
_OIDC: Final = "/v1/.well-known/openid-configuration"


def json_response(content: Any, status: int = 200) -> Response:
    """`content` as JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def error_response(message: str, status: int) -> Response:
    """Weaviate's error body."""
    return json_response({"error": [{"message": message}]}, status)


async def read_body(request: Request, name: str) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        HTTPException: 400, not JSON or not an object.
    """
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f'parsing {name} body from "" failed, because {error}') from None
    if not isinstance(body, dict):
        raise HTTPException(400, f'parsing {name} body from "" failed, because it is not an object')
    return body


def make_app(database: Database, api_key: str | None) -> ASGIApp:
    """The ASGI application; with a key every path but the probes needs it as a bearer token."""
    schema = _SchemaRoutes(database)
    objects = ObjectRoutes(database)
    routes = [
        Route("/v1", _links),
        Route("/v1/", _links),
        Route("/v1/.well-known/live", _alive),
        Route("/v1/.well-known/ready", _alive),
        Route(_OIDC, _absent),
        Route("/v1/meta", _meta),
        Route("/v1/nodes", schema.nodes),
        Route("/v1/nodes/{name}", schema.nodes),
        Route("/v1/schema", schema.collection, methods=["GET", "POST"]),
        Route("/v1/schema/{name}", schema.item, methods=["GET", "PUT", "DELETE"]),
        Route("/v1/schema/{name}/properties", schema.properties, methods=["POST"]),
        Route("/v1/schema/{name}/shards", schema.shards),
        Route("/v1/aliases", schema.aliases, methods=["GET", "POST"]),
        Route("/v1/aliases/{name}", schema.alias, methods=["GET", "PUT", "DELETE"]),
        Route("/v1/objects", objects.collection, methods=["GET", "POST"]),
        Route("/v1/objects/{name}/{uuid}", objects.item, methods=["GET", "HEAD", "PUT", "PATCH", "DELETE"]),
    ]
    routes += [Route(path, _unsupported, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]) for path in _UNSUPPORTED]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    return app if api_key is None else _Authenticated(app, api_key)


class _Authenticated:
    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected) or (scope["path"] == _OIDC and not given.startswith(b"Bearer ")):
            await self._app(scope, receive, send)
            return
        message = "unauthorized: invalid api key"
        if not given.startswith(b"Bearer "):
            methods = "Please authenticate through one of the available methods: [API-keys]"
            message = f"anonymous access not enabled. {methods} "
        await json_response({"code": 401, "message": message}, 401)(scope, receive, send)


async def _links(_request: Request) -> Response:
    names = {"/v1/meta": "Meta information about this instance/cluster", "/v1/schema": "view complete schema"}
    return json_response({"links": [{"href": href, "name": name} for href, name in names.items()]})


async def _alive(_request: Request) -> Response:
    return Response(status_code=200)


async def _absent(_request: Request) -> Response:
    return Response(status_code=404)


async def _meta(request: Request) -> Response:
    host = f"{request.url.scheme}://{request.url.netloc}"
    return json_response({"grpcMaxMessageSize": MAX_MESSAGE_BYTES, "hostname": host, "modules": {}, "version": VERSION})


async def _unsupported(request: Request) -> Response:
    message = f"{request.method} {request.url.path} is not supported by the embedded Weaviate; use a real server"
    return error_response(message, 501)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"path {request.url.path} was not found" if error.status_code == 404 else error.detail
    if error.status_code == 405:
        message = f"method {request.method} is not allowed"
    return json_response({"code": error.status_code, "message": message}, error.status_code)


class _SchemaRoutes:
    """Classes, aliases, nodes. Handlers are short and run on the event loop, but for dropping and making classes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._catalog = database.catalog

    async def collection(self, request: Request) -> Response:
        """GET lists the classes, POST makes one."""
        if request.method == "POST":
            body = await read_body(request, "objectClass")
            return _schema_answer(lambda: json_response(self._database.create_class(body)))
        classes = list(self._catalog.classes.values())
        return json_response({"classes": classes})

    async def item(self, request: Request) -> Response:
        """GET (also by alias), PUT, DELETE (never by alias) of one class."""
        name = request.path_params["name"]
        if request.method == "DELETE":
            self._database.drop_class(name)
            return Response(status_code=200)
        if request.method == "PUT":
            body = await read_body(request, "objectClass")
            return _schema_answer(lambda: json_response(self._database.change_class(name, body)))
        definition = self._catalog.classes.get(self._catalog.resolve(name)[0])
        return Response(status_code=404) if definition is None else json_response(definition)

    async def properties(self, request: Request) -> Response:
        """POST adds a property."""
        body = await read_body(request, "body")
        name = request.path_params["name"]
        return _schema_answer(lambda: json_response(self._database.add_properties(name, [body])[0]))

    async def shards(self, request: Request) -> Response:
        """One shard, always ready: there is no queue of vectors to index."""
        definition = self._catalog.classes.get(self._catalog.resolve(request.path_params["name"])[0])
        if definition is None:
            return Response(status_code=404)
        ready = {"name": "main", "per_node_status": {_NODE: "READY"}, "status": "READY", "vectorQueueSize": 0}
        return json_response([ready])

    async def nodes(self, request: Request) -> Response:
        """One healthy node; with `output=verbose` its shards and their numbers of objects."""
        node: dict[str, Any] = {
            "batchStats": {"queueLength": 0, "ratePerSecond": 0},
            "name": _NODE,
            "operationalMode": "ReadWrite",
            "shards": None,
            "status": "HEALTHY",
            "version": VERSION,
        }
        name = request.path_params.get("name")
        if name is not None and upper_first(name) not in self._catalog.classes:
            return error_response(f"class {upper_first(name)} not found", 404)
        if request.query_params.get("output") == "verbose":
            shards = [self._shard(each) for each in ([upper_first(name)] if name else list(self._catalog.classes))]
            node["shards"] = shards
            node["stats"] = {"objectCount": sum(shard["objectCount"] for shard in shards), "shardCount": len(shards)}
        return json_response({"nodes": [node]})

    def _shard(self, name: str) -> dict[str, Any]:
        return {
            "asyncReplicationStatus": [],
            "class": name,
            "compressed": False,
            "loaded": True,
            "name": "main",
            "numberOfReplicas": 1,
            "objectCount": self._database.collection(name).count(),
            "replicationFactor": 1,
            "vectorIndexingStatus": "READY",
            "vectorQueueLength": 0,
        }

    async def aliases(self, request: Request) -> Response:
        """GET lists the aliases (of one class), POST makes one."""
        if request.method == "POST":
            body = await read_body(request, "body")
            alias, target = str(body.get("alias") or ""), str(body.get("class") or "")
            return _schema_answer(lambda: _alias_response(self._catalog.add_alias(alias, target)))
        wanted = request.query_params.get("class")
        listed = [
            {"alias": alias, "class": target}
            for alias, target in sorted(self._catalog.aliases.items())
            if wanted is None or target == upper_first(wanted)
        ]
        return json_response({"aliases": listed})

    async def alias(self, request: Request) -> Response:
        """GET, PUT (another class), DELETE of one alias."""
        name = upper_first(request.path_params["name"])
        if request.method == "PUT":
            target = str((await read_body(request, "body")).get("class") or "")
            return _schema_answer(lambda: _alias_response(self._catalog.move_alias(name, target)))
        if name not in self._catalog.aliases:
            return Response(status_code=404)
        if request.method == "DELETE":
            return _schema_answer(lambda: self._drop_alias(name))
        return _alias_response((name, self._catalog.aliases[name]))

    def _drop_alias(self, name: str) -> Response:
        self._catalog.remove_alias(name)
        return Response(status_code=204)


def _alias_response(pair: tuple[str, str]) -> Response:
    return json_response({"alias": pair[0], "class": pair[1]})


def _schema_answer(run: Callable[[], Response]) -> Response:
    try:
        return run()
    except SchemaError as error:
        return error_response(str(error), 422)
    except AliasClashesWithClassError as error:
        return error_response(str(error), 500)
    except UnknownAliasError:
        return Response(status_code=404)
    except UnknownClassError as error:
        return error_response(f'class "{error}": not found', 422)
