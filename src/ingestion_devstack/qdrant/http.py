"""How the Qdrant stand-in speaks HTTP: the envelope of its answers, errors, the API key, bodies and parameters."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ingestion_devstack.qdrant.collection import Collection
from ingestion_devstack.qdrant.errors import RequestRefusedError, bad_format, invalid
from ingestion_devstack.qdrant.store import CollectionStore

_log = logging.getLogger(__name__)

BODY_LIMIT_BYTES: Final = 32 * 1024 * 1024
"""The real server's default `service.max_request_size_mb`."""

UPDATE_PARAMS: Final = frozenset({"wait", "ordering", "timeout"})
READ_PARAMS: Final = frozenset({"consistency", "timeout"})
META_PARAMS: Final = frozenset({"timeout"})
NO_PARAMS: Final[frozenset[str]] = frozenset()

_PUBLIC: Final = frozenset({"/", "/healthz", "/livez", "/readyz"})
_ORDERINGS: Final = ("weak", "medium", "strong")
_BAD_NAME_CHARS: Final = '<>:"/\\|?*\0\x1f'
_LONGEST_NAME: Final = 255
_REPEATED_SLASHES: Final = re.compile("/{2,}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read: what a handler needs of it."""

    store: CollectionStore
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes

    @property
    def name(self) -> str:
        """The name in the path, of a collection or an alias."""
        return self.path["collection_name"]

    @property
    def wait(self) -> bool:
        """Whether the answer says that the update was applied; the default is false."""
        return self.query.get("wait") == "true"

    def collection(self) -> Collection:
        """Return the collection that the path names.

        Raises:
            RequestRefusedError: 404.
        """
        return self.store.get(self.name)

    def json(self) -> Any:
        """Return the body.

        Raises:
            RequestRefusedError: it is not JSON.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise bad_format(str(error)) from error


Handler = Callable[[Call], Any]


def make_endpoint(
    store: CollectionStore,
    handler: Handler,
    params: frozenset[str],
    *,
    names_collection: bool = False,
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that answers with what `handler` returns, run in a thread, in Qdrant's envelope.

    `params` are the query parameters it takes; `names_collection` applies the stricter rules for new names.
    """

    async def answer(request: Request) -> Response:
        started = time.perf_counter()
        try:
            body = await _read_body(request)
            _check_params(request.query_params, params)
            _check_name(request.path_params.get("collection_name"), new=names_collection)
            call = Call(store, request.path_params, request.query_params, body)
            result = await asyncio.to_thread(handler, call)
        except RequestRefusedError as refusal:
            return answer_error(refusal.status, refusal.text, time.perf_counter() - started)
        except Exception:  # the top of a service: the client gets an answer, the log the reason
            _log.exception("request failed", extra={"method": request.method, "path": request.url.path})
            return answer_error(500, "Service internal error: see the log", time.perf_counter() - started)
        return _Json({"result": result, "status": "ok", "time": time.perf_counter() - started})

    return answer


def answer_error(status: int, text: str, time_s: float = 0.0) -> Response:
    """Return an error in Qdrant's envelope."""
    return _Json({"status": {"error": text}, "time": time_s}, status)


async def answer_unknown(request: Request, _: Exception) -> Response:
    """Answer a path or method that is not served: 404 as the real server, but with a text that says so."""
    return answer_error(404, f"Not found: {request.method} {request.url.path} is not served by this stand-in")


class Guard:
    """Trims slashes from the path, as the real server does, and asks for the API key unless the path is public."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        """`api_key` None: no key is needed."""
        self._app = app
        self._api_key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 with a bare text."""
        if scope["type"] == "http":
            scope["path"] = _REPEATED_SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
            refusal = None if scope["path"] in _PUBLIC else self._refuse(Request(scope))
            if refusal is not None:
                await PlainTextResponse(refusal, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refuse(self, request: Request) -> str | None:
        if self._api_key is None:
            return None
        given = request.headers.get("api-key")
        authorization = request.headers.get("authorization", "")
        if given is None and authorization.startswith("Bearer "):
            given = authorization.removeprefix("Bearer ")
        if given is None:
            return "Must provide an API key or an Authorization bearer token"
        return None if hmac.compare_digest(given.encode(), self._api_key) else "Invalid API key or JWT"


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


async def _read_body(request: Request) -> bytes:
    """Return the body; one that is too large is read to its end, so that the client sees the answer."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestRefusedError(400, "Content-Encoding is not supported by this stand-in")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= BODY_LIMIT_BYTES:
            chunks.append(chunk)
    if size > BODY_LIMIT_BYTES:
        if "content-length" in request.headers:
            text = f"JSON payload ({size} bytes) is larger than allowed (limit: {BODY_LIMIT_BYTES} bytes)."
        else:
            text = f"JSON payload has exceeded limit ({BODY_LIMIT_BYTES} bytes)."
        raise RequestRefusedError(400, text)
    return b"".join(chunks)


def _check_params(query: Mapping[str, str], allowed: frozenset[str]) -> None:
    for name, value in query.items():
        if name not in allowed:
            raise _bad_param(f"unknown field `{name}`")
        if name == "wait" and value not in ("true", "false"):
            raise _bad_param("provided string was not `true` or `false`")
        if name == "ordering" and value not in _ORDERINGS:
            raise _bad_param(f"unknown variant `{value}`, expected one of `weak`, `medium`, `strong`")
        if name == "timeout":
            if not (value.isascii() and value.isdecimal()):
                raise _bad_param("invalid digit found in string")
            if int(value) == 0 and allowed is READ_PARAMS:
                raise _bad_param("invalid value: integer `0`, expected a nonzero u64")
            if int(value) == 0 and allowed is META_PARAMS:
                raise invalid("timeout", "value 0 invalid, must be 1 or larger", "query parameters")


def _bad_param(text: str) -> RequestRefusedError:
    return RequestRefusedError(400, f"Deserialize error in query parameters: {text}")


def _check_name(name: str | None, *, new: bool) -> None:
    if name is None:
        return
    if not 1 <= len(name) <= _LONGEST_NAME:
        text = f'value "{name}" invalid, must be from 1 to {_LONGEST_NAME} characters'
        raise invalid("collection_name", text, "path parameters")
    bad = next((char for char in _BAD_NAME_CHARS if char in name), None) if new else None
    if bad is not None:
        raise invalid("collection_name", f'collection name cannot contain "{bad}" char', "path parameters")
