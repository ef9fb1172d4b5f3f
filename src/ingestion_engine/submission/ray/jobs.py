"""A typed client of Ray's Jobs REST API.

Behaviour of Ray 2.60.0 that it handles:

- The trailing slash of ``/api/jobs/`` is required; without it the response is 404.
- A repeated ``submission_id`` gives 500 with a traceback, like "no agent available". So after any 5xx response or
  time-out of a submission the job is looked up first.
- Error bodies are ``text/plain``, mostly Python tracebacks: at most their last line goes into a message, and only for
  400.
- A 404 without ``does not exist`` comes from a server that is not a Ray dashboard.
- Without a token every path gives 401, with a wrong one 403.
- ``stop`` is asynchronous; for a job that has ended it returns false, which is not an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import httpx

from ingestion_engine.domain.errors import SubmissionError, TransientError

REQUEST_TIMEOUT_S: Final = 10.0
"""Time limit of a small request; a healthy head responds in tens of milliseconds."""

SUBMIT_TIMEOUT_S: Final = 30.0
"""Time limit of a submission: the first one after the start of a head took 1.7 s on two cores; agents start slower."""

LOG_TAIL_BYTES: Final = 1024 * 1024
"""Maximum size of the end of a log that is kept in memory; the API returns logs whole, however large."""


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


class RayJobsClient:
    """Client of one dashboard. Every method raises ``TransientError`` while the dashboard is unavailable.

    Args:
        address: URL of the dashboard, for example ``http://head:8265``.
        token: Bearer token; None when authentication is off.
        transport: Replaces the network in tests.
    """

    def __init__(
        self, address: str, token: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(
            base_url=address.rstrip("/"), headers=headers, timeout=REQUEST_TIMEOUT_S, transport=transport
        )

    async def close(self) -> None:
        """Release connections."""
        await self._client.aclose()

    async def get_version(self) -> str:
        """Return Ray's version."""
        return str(_read_json(await self._request("GET", "/api/version"))["ray_version"])

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
            SubmissionError: "engine_refused": Ray rejects the request as invalid (400).
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
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise SubmissionError(
                "engine_refused",
                f"Ray rejected the submission: {_last_line(answer)}",
                hint="Check the INGEST_RAY__* settings.",
            )
        if answer.is_success:
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
        if _is_unknown(answer):
            return None
        data = _read_json(answer)
        try:
            status = RayJobStatus(data["status"])
        except (KeyError, ValueError) as error:
            raise TransientError(
                "engine_unexpected_answer", f"Ray reported the unknown job status {data.get('status')!r}."
            ) from error
        return RayJob(
            submission_id=submission_id,
            status=status,
            error_type=data.get("error_type"),
            exit_code=data.get("driver_exit_code"),
        )

    async def stop(self, submission_id: str) -> bool:
        """Request that a job stops; False when it is unknown or has ended. Ray stops it seconds later."""
        answer = await self._request("POST", f"/api/jobs/{submission_id}/stop")
        return False if _is_unknown(answer) else bool(_read_json(answer).get("stopped"))

    async def get_logs(self, submission_id: str) -> str | None:
        """Return the end of the output of a job (at most 1 MiB), or None when Ray has no log of it."""
        answer = await self._request("GET", f"/api/jobs/{submission_id}/logs")
        if _is_unknown(answer):
            return None
        text = str(_read_json(answer).get("logs") or "")
        return text[-LOG_TAIL_BYTES:] or None

    async def has_package(self, name: str) -> bool:
        """Return whether a package is in the store of the cluster; Ray then keeps it for at least ten minutes."""
        answer = await self._request("GET", f"/api/packages/gcs/{name}")
        if _is_unknown(answer):
            return False
        if not answer.is_success:
            raise _unexpected(answer, "package lookup")
        return True

    async def put_package(self, name: str, data: bytes) -> None:
        """Store a package. Idempotent."""
        answer = await self._request("PUT", f"/api/packages/gcs/{name}", content=data, timeout_s=SUBMIT_TIMEOUT_S)
        if not answer.is_success:
            raise _unexpected(answer, "package upload")

    async def _request(
        self, method: str, path: str, *, timeout_s: float = REQUEST_TIMEOUT_S, **body: Any
    ) -> httpx.Response:
        with _httpx_errors():
            answer = await self._client.request(method, path, timeout=timeout_s, **body)
        if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            missing = answer.status_code == httpx.codes.UNAUTHORIZED
            raise TransientError(
                "engine_access_denied",
                f"Ray {'requires a token' if missing else 'rejected the token'} (HTTP {answer.status_code}).",
                hint="Set INGEST_RAY__AUTH_TOKEN to the cluster's token (`ray get-auth-token`); restart the service.",
            )
        return answer


@contextlib.contextmanager
def _httpx_errors() -> Iterator[None]:
    """Translate httpx's errors by type. A request that was sent may have been executed."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise TransientError("engine_unreachable", "Ray cannot be reached.", maybe_started=False) from error
    except httpx.TransportError as error:
        kind = "did not respond in time" if isinstance(error, httpx.TimeoutException) else "closed the connection"
        raise TransientError("engine_unreachable", f"Ray {kind}.", maybe_started=True) from error


def _is_unknown(answer: httpx.Response) -> bool:
    """Return whether a response is Ray's own 404; the 404 of another server means nothing. Pure."""
    return answer.status_code == httpx.codes.NOT_FOUND and "does not exist" in answer.text


def _read_json(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise _unexpected(answer, "request")
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise TransientError(
            "engine_unexpected_answer",
            "INGEST_RAY__ADDRESS does not point to a Ray dashboard.",
            hint="Set it to the URL of the dashboard, for example http://head:8265.",
        )
    return data


def _unexpected(answer: httpx.Response, what: str) -> TransientError:
    if answer.status_code == httpx.codes.NOT_FOUND:
        return TransientError(
            "engine_unexpected_answer",
            "INGEST_RAY__ADDRESS does not point to a Ray dashboard (HTTP 404).",
            hint="Set it to the URL of the dashboard, for example http://head:8265.",
        )
    return TransientError(
        "engine_error", f"Ray failed during the {what} (HTTP {answer.status_code}).", status=answer.status_code
    )


def _last_line(answer: httpx.Response) -> str:
    """Return the last line of a body; for a traceback this is the text of the exception, without internals. Pure."""
    lines = [line.strip() for line in answer.text.splitlines() if line.strip(" .")]
    return lines[-1][:300] if lines else f"HTTP {answer.status_code}"
