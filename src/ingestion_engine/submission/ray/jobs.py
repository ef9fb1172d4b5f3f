"""A typed client of Ray's Jobs REST API.

Seen on Ray 2.60.0; what it corrects for:

- The trailing slash of ``/api/jobs/`` is required; without it the answer is 404.
- A repeated ``submission_id`` is answered with 500 and a traceback, like "no agent available"; so after any 5xx or
  time-out of a submission the
  job is looked up before anything is concluded.
- Error bodies are ``text/plain``, mostly Python tracebacks: at most their last line goes into a message, and only for
  400.
- A 404 that does not say ``does not exist`` comes from something that is not a Ray dashboard.
- Without a token every path answers 401, with a wrong one 403.
- ``stop`` is asynchronous, and false (not an error) for a job that has ended.
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
"""Time for one small request; a healthy head answers in tens of milliseconds."""

SUBMIT_TIMEOUT_S: Final = 30.0
"""Time for a submission: the first one after a head's start took 1.7 s on two cores; starting agents take longer."""

LOG_TAIL_BYTES: Final = 1024 * 1024
"""The API gives a log whole, however large; no more than this much of its end is kept in memory."""


class RayJobStatus(StrEnum):
    """Ray's own words for a job."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """True when Ray does nothing more for the job."""
        return self in {RayJobStatus.STOPPED, RayJobStatus.SUCCEEDED, RayJobStatus.FAILED}


@dataclass(frozen=True, slots=True)
class RayJob:
    """What Ray says of one submission."""

    submission_id: str
    status: RayJobStatus
    error_type: str | None
    """``JOB_ENTRYPOINT_COMMAND_ERROR``, ``RUNTIME_ENV_SETUP_FAILURE`` and the like; None while all is well."""
    exit_code: int | None


class RayJobsClient:
    """Requests to one dashboard. Every method raises ``TransientError`` while it cannot be reached.

    Args:
        address: URL of the dashboard, ``http://head:8265``.
        token: Bearer token; None where authentication is off.
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
        """Start a job; return also when this submission id exists already. At most two requests.

        Args:
            submission_id: Ours; the idempotency key.
            entrypoint: A shell command line: nothing of a user's may be in it.
            runtime_env: Readable by anybody who can reach the dashboard: no secrets.
            metadata: For people who look at the dashboard.

        Raises:
            SubmissionError: "engine_refused": Ray says that the request itself is wrong (400).
            TransientError: not started, as far as known; ``context["maybe_started"]`` is True when that is uncertain.
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
                "engine_refused", f"Ray refuses the job: {_last_line(answer)}", hint="check INGEST_RAY__* settings"
            )
        if answer.is_success:
            return
        if answer.is_server_error and await self._was_started(submission_id):
            return
        raise _unexpected(answer, "the submission")

    async def _was_started(self, submission_id: str) -> bool:
        """Look a submission up after an ambiguous answer; True when Ray has it.

        Raises:
            TransientError: still not known; ``maybe_started`` is True.
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
                "engine_unexpected_answer", "Ray gives a job status that this version does not know"
            ) from error
        return RayJob(submission_id, status, data.get("error_type"), data.get("driver_exit_code"))

    async def stop(self, submission_id: str) -> bool:
        """Ask a job to stop; False when it is unknown or has ended. Ray stops it seconds later."""
        answer = await self._request("POST", f"/api/jobs/{submission_id}/stop")
        return False if _is_unknown(answer) else bool(_read_json(answer).get("stopped"))

    async def get_logs(self, submission_id: str) -> str | None:
        """Return the end of a job's output (at most 1 MiB), or None when Ray has no log of it."""
        answer = await self._request("GET", f"/api/jobs/{submission_id}/logs")
        if _is_unknown(answer):
            return None
        text = str(_read_json(answer).get("logs") or "")
        return text[-LOG_TAIL_BYTES:] or None

    async def has_package(self, name: str) -> bool:
        """True when a package is in the cluster's store; Ray then keeps it for ten minutes at least."""
        answer = await self._request("GET", f"/api/packages/gcs/{name}")
        if _is_unknown(answer):
            return False
        if not answer.is_success:
            raise _unexpected(answer, "looking up the package")
        return True

    async def put_package(self, name: str, data: bytes) -> None:
        """Store a package. Idempotent."""
        answer = await self._request("PUT", f"/api/packages/gcs/{name}", content=data, timeout_s=SUBMIT_TIMEOUT_S)
        if not answer.is_success:
            raise _unexpected(answer, "storing the package")

    async def _request(
        self, method: str, path: str, *, timeout_s: float = REQUEST_TIMEOUT_S, **body: Any
    ) -> httpx.Response:
        with _as_ours():
            answer = await self._client.request(method, path, timeout=timeout_s, **body)
        if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            missing = answer.status_code == httpx.codes.UNAUTHORIZED
            raise TransientError(
                "engine_access_denied",
                f"Ray {'wants a token' if missing else 'refuses our token'} (HTTP {answer.status_code})",
                hint="set INGEST_RAY__AUTH_TOKEN to the cluster's token (`ray get-auth-token`) and restart the service",
            )
        return answer


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """Turn httpx's errors into ours, by type. A request that was sent may have been carried out."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise TransientError("engine_unreachable", "Ray cannot be reached", maybe_started=False) from error
    except httpx.TransportError as error:
        kind = "does not answer in time" if isinstance(error, httpx.TimeoutException) else "broke the connection"
        raise TransientError("engine_unreachable", f"Ray {kind}", maybe_started=True) from error


def _is_unknown(answer: httpx.Response) -> bool:
    """True for Ray's own 404; another server's 404 is not an answer to our question."""
    return answer.status_code == httpx.codes.NOT_FOUND and "does not exist" in answer.text


def _read_json(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise _unexpected(answer, "a request")
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise TransientError(
            "engine_unexpected_answer", "what answers is not a Ray dashboard", hint="check INGEST_RAY__ADDRESS"
        )
    return data


def _unexpected(answer: httpx.Response, what: str) -> TransientError:
    if answer.status_code == httpx.codes.NOT_FOUND:
        return TransientError(
            "engine_unexpected_answer",
            "what answers is not a Ray dashboard (HTTP 404)",
            hint="check INGEST_RAY__ADDRESS: it is the dashboard's URL, http://head:8265",
        )
    return TransientError(
        "engine_error", f"Ray failed at {what} (HTTP {answer.status_code})", status=answer.status_code
    )


def _last_line(answer: httpx.Response) -> str:
    """The last line of a traceback is the exception's own text; the rest is nobody's business."""
    lines = [line.strip() for line in answer.text.splitlines() if line.strip(" .")]
    return lines[-1][:300] if lines else f"HTTP {answer.status_code}"
