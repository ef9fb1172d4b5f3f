"""Answers of the stand-in: JSON, errors with Ollama's texts, and the end of work whose client disconnected.

Imitates Ollama 0.33, `server/routes.go`, and its web framework gin (plain text for unknown paths and methods).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from ingestion_devstack.ollama.requests import BadRequestError

CLIENT_GONE = 499
"""Status of a request whose client has disconnected."""
_LONGEST_WITH_LENGTH = 2048
"""Bytes; Go's net/http knows the length of an answer only if it fits its buffer, and sends chunks otherwise."""


class Json(Response):
    """A JSON answer; float32 arrays keep every bit (shortest digits that read back to the same float32)."""

    media_type = "application/json; charset=utf-8"

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Leave out the length of a body that Go's server would send in chunks."""
        super().init_headers(headers)
        if len(self.body) > _LONGEST_WITH_LENGTH:
            del self.headers["content-length"]

    def render(self, content: Any) -> bytes:
        """Serialise `content`, numpy arrays included."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


async def unless_gone(request: Request, stopping: asyncio.Event, work: Coroutine[Any, Any, Response]) -> Response:
    """Return the answer of `work`; cancel it when the client disconnects or the server stops first.

    The body must have been read.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_disconnect(request))
    ending = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({working, leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if leaving.done():
            return answer_error(CLIENT_GONE, "request canceled")
        return answer_error(503, "server is shutting down")
    finally:
        leaving.cancel()
        ending.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def answer_error(status: int, message: str) -> Json:
    """Return an error in the one form of the API."""
    return Json({"error": message}, status)


async def _answer_unrouted(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    texts = {404: "404 page not found", 405: "405 method not allowed"}
    return PlainTextResponse(texts.get(status, str(error)), status)


async def _answer_bad_request(_request: Request, error: Exception) -> Response:
    return answer_error(error.status if isinstance(error, BadRequestError) else 400, str(error))


async def _answer_gone(_request: Request, _gone: Exception) -> Response:
    return answer_error(CLIENT_GONE, "request canceled")


async def _answer_failure(_request: Request, error: Exception) -> Response:
    return answer_error(500, f"{type(error).__name__}: {error}")


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    HTTPException: _answer_unrouted,
    BadRequestError: _answer_bad_request,
    ClientDisconnect: _answer_gone,
    Exception: _answer_failure,
}
"""For Starlette: the answer to each exception."""
