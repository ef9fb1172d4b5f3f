"""For every request: an id, a log line, metrics, a limit on the body, and a response for unexpected errors."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.api.metrics import Metrics
from ingestion_engine.api.problems import answer_problem, make_problem
from ingestion_engine.runtime.telemetry import get_logger, log_fields

BODY_MAX_BYTES: Final = 1024 * 1024
"""The largest realistic request, with thousands of globs, is far smaller."""

_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Called by machines every few seconds; logged only when they fail."""

_log = get_logger(__name__)


class RequestContext:
    """ASGI middleware; streams pass through it unbuffered.

    A valid ``X-Request-Id`` of the client is kept; the response carries the id in any case.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = _choose_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        taken = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        async def receive_bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_MAX_BYTES:
                raise HTTPException(413, f"The body of a request has at most {BODY_MAX_BYTES} bytes.")
            return message

        with log_fields(request_id=request_id):
            try:
                await self._app(scope, receive_bounded, send_marked)
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


def _choose_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    return secrets.token_hex(8)
