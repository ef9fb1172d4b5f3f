"""A typed client of Ray's Jobs REST API.

Behaviour of Ray 2.60.0 that it handles:

- The trailing slash of ``/api/jobs/`` is required; without it the response is 404.
- A repeated ``submission_id`` gives 500 with a traceback, like "no agent available". So after any 5xx response or
  time-out of a submission the job is looked up first.
- Error bodies are ``text/plain``, mostly Python tracebacks: at most their last line goes into a message, and only for
  400. A 400 without a traceback comes from a server that is not a Ray dashboard, and refuses nothing.
- The 404 of an unknown object is the text ``Job ID does not exist`` or ``Package URI does not exist``, and nothing
  else; every other 404 comes from another server.
- Without a token every path gives 401, with a wrong one 403.
- ``stop`` is asynchronous; for a job that has ended it returns false, which is not an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import httpx

from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.runtime.http_connections import LentConnections
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.tls import find_tls_failure, make_context

REQUEST_TIMEOUT_S: Final = 10.0
"""Time limit of a small request; a healthy head responds in tens of milliseconds."""

SUBMIT_TIMEOUT_S: Final = 30.0
"""Time limit of a submission: the first one after the start of a head took 1.7 s on two cores; agents start slower."""

_OWN_DENIAL: Final = "authentication token"
"""In the body of Ray's own 401 and 403 responses."""
_TRACEBACK: Final = "Traceback (most recent call last)"
"""In the body of each of Ray's own 400 responses to a submission."""

LOG_TAIL_BYTES: Final = 1024 * 1024
"""Maximum size of the end of a log that is returned."""

RESPONSE_MAX_BYTES: Final = 4 * LOG_TAIL_BYTES
"""Maximum size of the end of a response that is kept in memory: the API returns logs whole, however large. Escapes of
JSON make a log of Latin letters a few percent larger, one of other letters up to six times."""

LOG_TIMEOUT_S: Final = 60.0
"""Time limit for a whole log: 1 GB at 17 MB/s."""


class RayJobStatus(StrEnum):
    """Status of a job, as Ray names it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """True when the job has ended."""
        return self in {RayJobStatus.STOPPED, RayJobStatus.SUCCEEDED, RayJobStatus.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """One submission, as Ray reports it."""

    submission_id: str
    status: RayJobStatus
    error_type: str | None
    """``JOB_ENTRYPOINT_COMMAND_ERROR``, ``RUNTIME_ENV_SETUP_FAILURE`` and the like; None without an error."""
    exit_code: int | None
    message: str = ""
    """Ray's own text about the status; may hold a traceback or output of the driver."""


class RayJobsClient:
    """Client of one dashboard. Every method raises ``TransientError`` while the dashboard is unavailable.

    Args:
        address: URL of the dashboard, for example ``http://head:8265``.
        token: Bearer token; None when authentication is off.
        transport: Replaces the network in tests.
        ca_file: PEM file with the authorities to trust; None means the usual ones.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.url = hide_credentials(address.rstrip("/"))
        """Address for messages, without an account."""
        open_http = functools.partial(
            httpx.AsyncClient,
            base_url=address.rstrip("/"),
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=REQUEST_TIMEOUT_S,
            transport=transport,
            verify=make_context(ca_file),
        )
        self._connections = LentConnections(open_http, renew=transport is None)

    async def close(self) -> None:
        """Release connections."""
        await self._connections.close()

    async def get_version(self) -> str:
        """Return Ray's version."""
        return str(_read_field(await self._request("GET", "/api/version"), "ray_version"))

    async def submit(
        self, submission_id: str, entrypoint: str, *, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Start a job, unless the submission id exists already. At most two requests.

        Args:
            submission_id: Id chosen by the caller; the idempotency key.
            entrypoint: Shell command; must not contain values of a request.
            runtime_env: Runtime environment without secrets: everyone with access to the dashboard can read it.
            metadata: Shown on the dashboard.

        Raises:
            SubmissionError: "engine_refused": Ray rejects the request as invalid (400 with a traceback).
            TransientError: not started, as far as is known; ``context["maybe_started"]`` is True when that is
                uncertain.
        """
        body = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": dict(runtime_env),
            "metadata": dict(metadata),
        }
        try:
            answer = await self._request("POST", "/api/jobs/", json=body, timeout_s=SUBMIT_TIMEOUT_S)
        except TransientError as error:
            if error.context.get("maybe_started") and await self._was_started(submission_id):
                return
            raise
        if answer.status_code == httpx.codes.BAD_REQUEST and _TRACEBACK in answer.text:
            raise SubmissionError(
                "engine_refused",
                f"Ray rejected the submission: {_last_line(answer)}",
                hint="Check the INGEST_RAY__* settings.",
            )
        if answer.is_success:
            if _read_json(answer).get("submission_id") != submission_id:
                raise _make_foreign("accepted the submission without its id")
            return
        if answer.is_server_error and await self._was_started(submission_id):
            return
        raise _unexpected(answer, "submission")

    async def _was_started(self, submission_id: str) -> bool:
        """Return whether Ray has a submission, after an ambiguous response.

        Raises:
            TransientError: it is still unknown; ``maybe_started`` is True.
        """
        try:
            return await self.get_job(submission_id) is not None
        except TransientError as error:
            context = {**error.context, "maybe_started": True}
            raise TransientError(error.code, error.message, hint=error.hint, **context) from error

    async def get_job(self, submission_id: str) -> RayJob | None:
        """Return a job, or None when Ray does not know it."""
        answer = await self._request("GET", f"/api/jobs/{submission_id}")
        if _is_unknown(answer, f"Job {submission_id}"):
            return None
        data = _read_json(answer)
        if data.get("submission_id") != submission_id or "status" not in data:
            raise _make_foreign("answered without the job")
        try:
            status = RayJobStatus(data["status"])
        except ValueError as error:
            raise TransientError(
                "engine_unexpected_answer", f"Ray reported the unknown job status {data['status']!r}."
            ) from error
        return RayJob(
            submission_id=submission_id,
            status=status,
            error_type=data.get("error_type"),
            exit_code=data.get("driver_exit_code"),
            message=str(data.get("message") or ""),
        )

    async def stop(self, submission_id: str) -> bool:
        """Request that a job stops; False when it is unknown or has ended. Ray stops it seconds later."""
        answer = await self._request("POST", f"/api/jobs/{submission_id}/stop")
        if _is_unknown(answer, f"Job {submission_id}"):
            return False
        return bool(_read_field(answer, "stopped"))

    async def get_logs(self, submission_id: str) -> str | None:
        """Return the end of the output of a job (at most 1 MiB), or None when Ray has no log of it."""
        try:
            async with asyncio.timeout(LOG_TIMEOUT_S):
                answer = await self._request("GET", f"/api/jobs/{submission_id}/logs")
        except TimeoutError:
            message = f"Ray did not send the whole log within {LOG_TIMEOUT_S:g} s."
            raise TransientError("engine_unreachable", message, maybe_started=True) from None
        if _is_unknown(answer, f"Job {submission_id}"):
            return None
        is_cut = answer.is_success and len(answer.content) == RESPONSE_MAX_BYTES
        text = decode_end(answer.content) if is_cut else str(_read_field(answer, "logs") or "")
        return text[-LOG_TAIL_BYTES:] or None

    async def has_package(self, name: str) -> bool:
        """Return whether a package is in the store of the cluster; Ray then keeps it for at least ten minutes."""
        answer = await self._request("GET", f"/api/packages/gcs/{name}")
        if _is_unknown(answer, f"Package gcs://{name}"):
            return False
        if not answer.is_success:
            raise _unexpected(answer, "package lookup")
        if answer.content:
            raise _make_foreign("has no store of packages")
        return True

    async def put_package(self, name: str, data: bytes) -> None:
        """Store a package. Idempotent."""
        answer = await self._request("PUT", f"/api/packages/gcs/{name}", content=data, timeout_s=SUBMIT_TIMEOUT_S)
        if not answer.is_success:
            raise _unexpected(answer, "package upload")

    async def _request(
        self, method: str, path: str, *, timeout_s: float = REQUEST_TIMEOUT_S, **body: Any
    ) -> httpx.Response:
        with _httpx_errors(self.url):
            async with (
                self._connections.lend() as http,
                http.stream(method, path, timeout=timeout_s, **body) as stream,
            ):
                content = await _read_end(stream.aiter_bytes())
        answer = httpx.Response(stream.status_code, content=content)
        if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            who = "Ray" if _OWN_DENIAL in answer.text else "A proxy in front of Ray, or another server,"
            missing = answer.status_code == httpx.codes.UNAUTHORIZED
            raise TransientError(
                "engine_access_denied",
                f"{who} {'requires a token' if missing else 'rejected the token'} (HTTP {answer.status_code}).",
                hint="Set INGEST_RAY__AUTH_TOKEN to the cluster's token (`ray get-auth-token`); restart the service.",
            )
        return answer


async def _read_end(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the last ``RESPONSE_MAX_BYTES`` of a body, or all of a shorter one. Memory: one piece more."""
    kept: deque[bytes] = deque()
    size_bytes = 0
    async for piece in pieces:
        kept.append(piece)
        size_bytes += len(piece)
        while size_bytes - len(kept[0]) >= RESPONSE_MAX_BYTES:
            size_bytes -= len(kept.popleft())
    return b"".join(kept)[-RESPONSE_MAX_BYTES:]


def decode_end(body: bytes) -> str:
    """Return the text of a JSON string that starts before ``body`` and is the last value of its object. Pure.

    The text starts after the first line break, so that no escape is torn; a text without one may start with the rest of
    an escape.

    Raises:
        TransientError: the body does not end as such an object does.
    """
    body = body.rstrip()
    if not body.endswith(b'"}'):
        raise _make_foreign("answered without JSON")
    # The first character may belong to an escape that began before.
    skipped = min(len(body) - len(body.lstrip(b"\\")) + 1, len(body) - len(b'"}'))
    line_break = _LINE_BREAK.search(body, skipped)
    start = line_break.end() if line_break is not None else skipped
    try:
        text = json.loads(b'"' + body[start:-1], strict=False)
    except ValueError:
        raise _make_foreign("answered without JSON") from None
    return str(text).encode("utf-8", "replace").decode()


_LINE_BREAK: Final = re.compile(rb"(?<!\\)(?:\\\\)*+\\n")
"""A line break in a JSON string, after an even number of backslashes. Takes time in proportion to the body."""


@contextlib.contextmanager
def _httpx_errors(url: str) -> Iterator[None]:
    """Translate httpx's errors by type. A request that was sent may have been executed."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        failure = find_tls_failure(error, f"Ray at {url}", url=url, maybe_started=False)
        if failure is not None:
            raise failure from error
        raise TransientError("engine_unreachable", "Ray cannot be reached.", maybe_started=False) from error
    except httpx.TransportError as error:
        kind = "did not respond in time" if isinstance(error, httpx.TimeoutException) else "closed the connection"
        raise TransientError("engine_unreachable", f"Ray {kind}.", maybe_started=True) from error


def _is_unknown(answer: httpx.Response, what: str) -> bool:
    """Return whether a response is Ray's own 404 for this object; the 404 of another server means nothing. Pure."""
    return answer.status_code == httpx.codes.NOT_FOUND and answer.text.strip() == f"{what} does not exist"


def _read_json(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise _unexpected(answer, "request")
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise _make_foreign("answered without JSON")
    return data


def _read_field(answer: httpx.Response, name: str) -> Any:
    """Return a field that every response of this kind has. Raises TransientError when it is missing."""
    data = _read_json(answer)
    if name not in data:
        raise _make_foreign(f"answered without the field {name!r}")
    return data[name]


def _make_foreign(what: str) -> TransientError:
    """Return the error for a response that no Ray dashboard gives. Pure."""
    return TransientError(
        "engine_unexpected_answer",
        f"INGEST_RAY__ADDRESS does not point to a Ray dashboard: the server {what}.",
        hint="Set it to the URL of the dashboard, for example http://head:8265.",
    )


def _unexpected(answer: httpx.Response, what: str) -> TransientError:
    """Return the error for an error response. Pure.

    Ray itself gives only 5xx here, and so do the load balancers in front of it. 429 comes from a proxy.
    """
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return TransientError("engine_busy", "A proxy in front of Ray limits the rate of requests (HTTP 429).")
    if not answer.is_server_error:
        return _make_foreign(f"answered HTTP {answer.status_code}")
    return TransientError(
        "engine_error", f"Ray failed during the {what} (HTTP {answer.status_code}).", status=answer.status_code
    )


def _last_line(answer: httpx.Response) -> str:
    """Return the last line of a body; for a traceback this is the text of the exception, without internals. Pure."""
    lines = [line.strip() for line in answer.text.splitlines() if line.strip(" .")]
    return lines[-1][:300] if lines else f"HTTP {answer.status_code}"
