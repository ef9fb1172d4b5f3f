"""HTTP of the Qdrant stand-in: the envelope of its answers, errors, the API key, bodies and query parameters.

Imitates Qdrant 1.19: src/actix/mod.rs (slashes, `validation_error_handler`, the limit on a body), src/actix/auth.rs
(the key and the public paths), src/actix/helpers.rs (the envelope).
"""

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
from ingestion_devstack.qdrant.errors import RequestRefusedError, out_of_range, wrong_format
from ingestion_devstack.qdrant.store import CollectionStore

_log = logging.getLogger(__name__)

BODY_LIMIT_BYTES: Final = 32 * 1024 * 1024
"""The real server's default `service.max_request_size_mb`."""

_PUBLIC: Final = frozenset({"/", "/healthz", "/livez", "/readyz"})
_BAD_NAME_CHARS: Final = '<>:"/\\|?*\0\x1f'
_LONGEST_NAME: Final = 255
_REPEATED_SLASHES: Final = re.compile("/{2,}")


@dataclass(frozen=True, slots=True)
class Call:
    """The parts of one request that a handler uses."""

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
        """Whether the answer reports the update as applied; the default is false."""
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
            raise wrong_format(str(error)) from error


Handler = Callable[[Call], Any]


def make_endpoint(
    store: CollectionStore, handler: Handler, *, params: frozenset[str], is_new_name: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that answers with the result of `handler`, run in a thread, in Qdrant's envelope.

    `params` are the supported query parameters; `is_new_name` applies the stricter rules for new names.
    """

    async def answer(request: Request) -> Response:
        started = time.perf_counter()
        try:
            body = await _read_body(request)
            _check_params(request.query_params, params)
            _check_name(request.path_params.get("collection_name"), is_new=is_new_name)
            call = Call(store, request.path_params, query=request.query_params, body=body)
            result = await asyncio.to_thread(handler, call)
        except RequestRefusedError as refusal:
            answer = answer_error(refusal.status, refusal.text, time.perf_counter() - started)
            if refusal.retry_after_s is not None:
                answer.headers["retry-after"] = str(refusal.retry_after_s)
            return answer
        except Exception:  # the top of a service: the client gets an answer, the log the reason
            _log.exception("request failed", extra={"method": request.method, "path": request.url.path})
            return answer_error(500, "Service internal error: see the log", time.perf_counter() - started)
        return _Json({"result": result, "status": "ok", "time": time.perf_counter() - started})

    return answer


def answer_error(status: int, text: str, time_s: float = 0.0) -> Response:
    """Return an error in Qdrant's envelope."""
    return _Json({"status": {"error": text}, "time": time_s}, status)


async def answer_unknown(request: Request, _: Exception) -> Response:
    """Answer an unsupported path or method: 404 as in the real server, with a text that names the path."""
    return answer_error(404, f"Not found: {request.method} {request.url.path} is not served by this stand-in")


class Guard:
    """Trims slashes from the path, as the real server does, and requires the API key unless the path is public."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        """`api_key` None: no key is required."""
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
        authorization = request.headers.get("authorization", "")
        bearer = authorization.removeprefix("Bearer ") if authorization.startswith("Bearer ") else None
        given = request.headers.get("api-key", bearer)
        if given is None:
            return "Must provide an API key or an Authorization bearer token"
        return None if hmac.compare_digest(given.encode(), self._api_key) else "Invalid API key or JWT"


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


async def _read_body(request: Request) -> bytes:
    """Return the body; one that is too large is read to its end, so that the client receives the answer."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestRefusedError(400, "Content-Encoding is not supported by this stand-in")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= BODY_LIMIT_BYTES:
            chunks.append(chunk)
    if size > BODY_LIMIT_BYTES:
        text = f"JSON payload ({size} bytes) is larger than allowed (limit: {BODY_LIMIT_BYTES} bytes)."
        raise RequestRefusedError(400, text)
    return b"".join(chunks)


def _check_params(query: Mapping[str, str], supported: frozenset[str]) -> None:
    for name, value in query.items():
        if name not in supported:
            raise _bad_param(f"unknown field `{name}`")
        if name == "wait" and value not in ("true", "false"):
            raise _bad_param("provided string was not `true` or `false`")
        if name == "timeout" and not (value.isascii() and value.isdecimal()):
            raise _bad_param("invalid digit found in string")


def _bad_param(text: str) -> RequestRefusedError:
    return RequestRefusedError(400, f"Deserialize error in query parameters: {text}")


def _check_name(name: str | None, *, is_new: bool) -> None:
    if name is None:
        return
    if not 1 <= len(name) <= _LONGEST_NAME:
        text = f'value "{name}" invalid, must be from 1 to {_LONGEST_NAME} characters'
        raise out_of_range("collection_name", text, "path parameters")
    bad = next((char for char in _BAD_NAME_CHARS if char in name), None) if is_new else None
    if bad is not None:
        raise out_of_range("collection_name", f'collection name cannot contain "{bad}" char', "path parameters")
