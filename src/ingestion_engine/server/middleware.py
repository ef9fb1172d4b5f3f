"""For every request: an id, a log line, metrics, a limit on the body, and a response for unexpected errors."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.api.metrics import Metrics
from ingestion_engine.api.problems import answer_problem, make_problem
from ingestion_engine.console.returning import BACK_CHANNEL_PATH
from ingestion_engine.runtime.settings import LimitsSettings
from ingestion_engine.runtime.telemetry import get_logger, log_fields

BODY_MAX_BYTES: Final = 1024 * 1024
"""The largest realistic request, with thousands of globs, is far smaller."""

FORM_MAX_BYTES: Final = 256 * 1024
"""Of a form of the console: it is read before its sender is known, and a full megabyte takes half a second. The largest
one lists 1,000 versions of an alias."""

LOG_IN_MAX_BYTES: Final = 16 * 1024
"""Of the forms of a log-in and a log-out, which everybody can send: a key, or a token."""

_LOG_INS: Final = frozenset({"/console/login", "/console/logout", BACK_CHANNEL_PATH})

_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Called by machines every few seconds; logged only when they fail."""

_log = get_logger(__name__)


class RequestContext:
    """ASGI middleware; streams pass through it unbuffered.

    A valid ``X-Request-Id`` of the client is kept; the response carries the id in any case.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, limits: LimitsSettings) -> None:
        self._app = app
        self._metrics = metrics
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = _choose_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        with log_fields(request_id=request_id):
            try:
                most = _find_limit(scope["path"])
                if _declares_more_than(
                    most, scope
                ):  # refused before it is sent: clients that ask first need not send it
                    problem = make_problem(413, "request_too_large", _describe_limit(most))
                    await answer_problem(problem)(scope, receive, send_marked)
                else:
                    await self._app(scope, _Body(receive, self._limits, most).receive, send_marked)
            except Exception:  # top of the service: the client receives a problem, the reason is logged
                _log.exception("request failed", extra={"path": scope["path"]})
                if status:
                    raise
                detail = "An unexpected error occurred; the log of the service has it under this request id."
                problem = make_problem(500, "internal_error", detail, context={"request_id": request_id})
                await answer_problem(problem)(scope, receive, send_marked)
            finally:
                self._record(scope, status=status, seconds=time.monotonic() - began)

    def _record(self, scope: Scope, *, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.count_request(scope["method"], route, status=status, seconds=seconds)
        if scope["path"] in _QUIET and status < 500:
            return
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
        }
        _log.info("request", extra=fields)


class _Body:
    """The body of a request, within limits of size and time."""

    def __init__(self, receive: Receive, limits: LimitsSettings, most: int) -> None:
        self._receive = receive
        self._limits = limits
        self._most = most
        self._taken = 0
        self._is_whole = False
        self._ends_at: float | None = None

    async def receive(self) -> Message:
        """Return the next part, or wait for the client's end after the last one.

        Raises:
            HTTPException: the body is too large (413) or too slow (408).
        """
        if self._is_whole:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if self._ends_at is None:
            self._ends_at = now + self._limits.body_timeout_s
        try:
            async with asyncio.timeout_at(min(now + self._limits.body_pause_s, self._ends_at)):
                message = await self._receive()
        except TimeoutError:
            detail = "The body of the request did not arrive in time."
            raise HTTPException(408, detail, headers={"Connection": "close"}) from None
        self._taken += len(message.get("body", b""))
        if self._taken > self._most:
            raise HTTPException(413, _describe_limit(self._most))
        self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def _find_limit(path: str) -> int:
    """Return the maximum number of bytes of a request's body. Pure."""
    if path in _LOG_INS:
        return LOG_IN_MAX_BYTES
    return FORM_MAX_BYTES if path.startswith("/console/") else BODY_MAX_BYTES


def _describe_limit(most: int) -> str:
    return f"The body of this request has at most {most} bytes."


def _declares_more_than(most: int, scope: Scope) -> bool:
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return any(value.isdigit() and int(value[:20]) > most for value in lengths)


def _choose_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return secrets.token_hex(8)
