"""A typed, synchronous client of the HTTP API: ``IngestClient("http://127.0.0.1:8080")``.

::

    with IngestClient(url) as client:
        job = client.submit({"source": {"bucket": "docs"}, "collection": "docs"})
        for state in client.watch(job["job_id"]):
            print(state["state"], state["counts"])

Results are JSON objects, as described by ``GET /openapi.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
import orjson

from ingestion_engine.domain.states import FINAL_STATES
from ingestion_engine.runtime.tls import find_tls_failure, make_context

REQUEST_TIMEOUT_S: Final = 30.0
"""A search waits up to 20 s for a slow store; all other requests take milliseconds."""

EVENT_TIMEOUT_S: Final = 45.0
"""Three intervals of the heartbeat of an event stream."""

LOG_POLL_S: Final = 1.0
"""Pause between two requests for what was added to a log; drivers write it every five seconds."""

LOG_QUIET_POLLS: Final = 2
"""Responses without a line that end the log of a job that has ended: its last lines may follow its outcome."""

RECONNECT_S: Final = 1.0
"""Pause before a broken event stream is opened again."""


class ApiError(Exception):
    """A request that the service refused, with the members of its problem+json.

    Args:
        status: HTTP status.
        problem: Body of the response.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", "http_error"))
        self.hint: str | None = problem.get("hint")
        self.field: str | None = problem.get("field")
        self.errors: list[dict[str, Any]] = list(problem.get("errors") or [])


class ApiUnreachable(Exception):
    """The service does not respond at its URL.

    Args:
        message: One sentence that names the URL and the reason.
        hint: What the reader can do about it; None when the reason is not known.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class IngestClient:
    """Client of the service. Not safe to share by threads.

    Args:
        url: Base URL of the service.
        api_key: API key, sent as a bearer token; None where the service requires none.
        transport: Replacement of the network, for tests.
        ca_file: PEM file with the authorities to trust; None means the usual ones.

    Every method raises ``ApiError`` when the service refuses the request, and ``ApiUnreachable`` when it does not
    respond.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=REQUEST_TIMEOUT_S,
                transport=transport,
                verify=True if ca_file is None else make_context(ca_file),
            )
        except httpx.InvalidURL as error:
            raise ApiUnreachable(f"{url!r} is not a URL: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release connections."""
        self._http.close()

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def submit(
        self, request: Mapping[str, Any], *, engine: str = "ray", idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Submit a job; return ``job_id``, ``engine``, ``state``, ``collection``, ``alias`` and ``links``."""
        return self._call("POST", f"/{engine}/jobs", json=dict(request), headers=_idempotency(idempotency_key))

    def show_manifest(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the SparkApplication that a request would create."""
        return self._call("POST", "/spark/manifest", json=dict(request))

    def get_job(self, job_id: str) -> dict[str, Any]:
        """Return a job."""
        return self._call("GET", f"/jobs/{_segment(job_id)}")

    def list_jobs(
        self,
        *,
        engine: str | None = None,
        states: Sequence[str] = (),
        collection: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Return ``items``, newest first, and ``next_cursor``."""
        params = {"engine": engine, "state": list(states), "collection": collection, "limit": limit, "cursor": cursor}
        return self._call("GET", "/jobs", params=_given(params))

    def list_failures(self, job_id: str, *, limit: int = 100, cursor: str | None = None) -> dict[str, Any]:
        """Return a page of a job's failed objects: ``items`` and ``next_cursor``."""
        params = _given({"limit": limit, "cursor": cursor})
        return self._call("GET", f"/jobs/{_segment(job_id)}/failures", params=params)

    def iter_failures(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield all failed objects of a job. One request per 1,000."""
        cursor: str | None = None
        while True:
            page = self.list_failures(job_id, limit=1000, cursor=cursor)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def read_log(self, job_id: str, attempt: int | None = None) -> str:
        """Return the last part of the log of a job's driver; None means the newest attempt."""
        answer = self._send("GET", f"/jobs/{_segment(job_id)}/logs", params=_given({"attempt": attempt}))
        return answer.text

    def follow_log(
        self,
        job_id: str,
        attempt: int | None = None,
        *,
        patience_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[str]:
        """Yield the log of a job's driver as it is kept, then what is added to it, until the job has ended.

        Polls every ``LOG_POLL_S``, from the last position, also after a restart of the service.

        Args:
            job_id: Id of the job.
            attempt: Number of the attempt; None means the newest, and the ones that follow it.
            patience_s: Seconds that the service may be unreachable before ``ApiUnreachable`` is raised.
            sleep: Waits for a number of seconds.
        """
        path = f"/jobs/{_segment(job_id)}/logs"
        position, quiet, unreachable_s = "", 0, 0.0
        while True:
            try:
                # Before the log: what the driver wrote before the job ended is read after it.
                is_final = self.get_job(job_id)["state"] in FINAL_STATES
                answer = self._send("GET", path, params={**_given({"attempt": attempt}), "after": position})
            except ApiUnreachable:
                if unreachable_s >= patience_s:
                    raise
                unreachable_s += LOG_POLL_S
            else:
                unreachable_s = 0.0
                if answer.text:
                    yield answer.text
                following = answer.headers.get("Log-Position")
                if following is None:  # a service that does not know positions has sent all it has
                    return
                quiet = quiet + 1 if is_final and not answer.text and following == position else 0
                position = following
                if quiet == LOG_QUIET_POLLS:
                    return
            sleep(LOG_POLL_S)

    def cancel(self, job_id: str, *, force: bool = False) -> dict[str, Any]:
        """Cancel a job; return it. With ``force``, the service ends it although its cluster may be gone."""
        params = _given({"force": "true" if force else None})
        return self._call("POST", f"/jobs/{_segment(job_id)}/cancel", params=params)

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> dict[str, Any]:
        """Submit a new job for the failed objects of a job that has ended; return what ``submit`` returns."""
        return self._call("POST", f"/jobs/{_segment(job_id)}/retry", headers=_idempotency(idempotency_key))

    def watch(self, job_id: str, *, patience_s: float = 60.0) -> Iterator[dict[str, Any]]:
        """Yield a job now and after every change, until it has ended; the last one yielded is final.

        Follows the event stream and opens it again when it breaks, also after a restart of the service.

        Args:
            job_id: Id of the job.
            patience_s: Seconds that the service may be unreachable before ``ApiUnreachable`` is raised.
        """
        unreachable_since: float | None = None
        while True:
            try:
                for job in self._stream(job_id):
                    unreachable_since = None
                    yield job
                    if job["state"] in FINAL_STATES:
                        return
            except ApiUnreachable:
                unreachable_since = time.monotonic() if unreachable_since is None else unreachable_since
                if time.monotonic() - unreachable_since > patience_s:
                    raise
            time.sleep(RECONNECT_S)

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return a job when it has ended; it is polled every 0.5 s.

        Raises:
            TimeoutError: the job has not ended within ``timeout_s``.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job = self.get_job(job_id)
            if job["state"] in FINAL_STATES:
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"Job {job_id!r} has not ended within {timeout_s:g} s; it is {job['state']}.")
            time.sleep(0.5)

    # -- collections, search, health ----------------------------------------------------------------------------------

    def list_collections(self) -> list[dict[str, Any]]:
        """Return all collections, each with its number of points per store. One request per 100."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self._call("GET", "/collections", params=_given({"limit": 100, "cursor": cursor}))
            items += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return items

    def get_collection(self, name: str) -> dict[str, Any]:
        """Return the contract of a collection, points per store, objects by state, last job and last comparison."""
        return self._call("GET", f"/collections/{_segment(name)}")

    def delete_collection(self, name: str) -> dict[str, Any]:
        """Delete a collection in every store; return ``deleted``, and a ``note`` when it is not complete yet.

        The service completes it then; calling this again does so too, and raises ``ApiError`` with the code
        "collection_not_found" when nothing is left.
        """
        return self._call("DELETE", f"/collections/{_segment(name)}")

    def list_objects(
        self,
        name: str,
        *,
        prefix: str = "",
        state: str | None = None,
        warnings: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of a collection's objects, or of those with warnings: ``items`` and ``next_cursor``."""
        given = {"prefix": prefix or None, "state": state, "warnings": warnings or None}
        params = _given({**given, "limit": limit, "cursor": cursor})
        return self._call("GET", f"/collections/{_segment(name)}/objects", params=params)

    def delete_objects(
        self,
        name: str,
        *,
        prefix: str,
        everything: bool = False,
        engine: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Submit a job that removes the objects under a prefix from a collection; return what ``submit`` returns.

        An empty prefix is refused unless ``everything`` is True.
        """
        params = _given({"prefix": prefix, "all": "true" if everything else None, "engine": engine})
        path = f"/collections/{_segment(name)}/objects"
        return self._call("DELETE", path, params=params, headers=_idempotency(idempotency_key))

    def search(
        self,
        collection: str,
        query: str,
        *,
        limit: int = 10,
        stores: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the passages nearest to a query, per store."""
        body: dict[str, Any] = {"collection": collection, "query": query, "limit": limit}
        if stores:
            body["stores"] = list(stores)
        if where:
            body["filter"] = dict(where)
        return self._call("POST", "/search", json=body)

    def list_aliases(self) -> list[dict[str, Any]]:
        """Return all aliases, each with its state in every store."""
        items: list[dict[str, Any]] = self._call("GET", "/aliases")["items"]
        return items

    def get_alias(self, name: str) -> dict[str, Any]:
        """Return the collection of an alias, its former versions, and whether each store agrees."""
        return self._call("GET", f"/aliases/{_segment(name)}")

    def roll_back_alias(self, name: str) -> dict[str, Any]:
        """Move an alias to its newest former version; return the alias."""
        return self._call("POST", f"/aliases/{_segment(name)}/rollback")

    def prune_alias(self, name: str, *, keep: int = 1) -> dict[str, Any]:
        """Drop all but the ``keep`` newest former versions; return the alias and the names ``dropped``."""
        return self._call("DELETE", f"/aliases/{_segment(name)}/versions", params={"keep": keep})

    def remove_alias(self, name: str) -> None:
        """Remove an alias; its collections are kept."""
        self._send("DELETE", f"/aliases/{_segment(name)}")

    def check_ready(self, *, within_s: float | None = None) -> dict[str, Any]:
        """Return ``status`` and the state of every dependency, also when the service is not ready.

        ``within_s`` is the time in seconds that the service waits for slow dependencies, at most 30; None means its
        default of 0.6.
        """
        answer = self._open("GET", "/readyz", params=_given({"within_s": within_s}))
        if answer.status_code not in {200, 503}:
            raise _refused(answer)
        return _read_object(answer)

    def get_drain(self) -> dict[str, Any]:
        """Return ``draining``, the order (``drain``), the numbers ``under_way`` and ``waiting``, and the ``jobs``."""
        return self._call("GET", "/drain")

    def start_drain(self, *, refuse: bool = False, reason: str | None = None) -> dict[str, Any]:
        """Let no waiting job start; return what ``get_drain`` returns. With ``refuse``, new jobs are refused."""
        return self._call("PUT", "/drain", json=_given({"refuse": refuse, "reason": reason}))

    def end_drain(self) -> dict[str, Any]:
        """Let waiting jobs start again; return what ``get_drain`` returns."""
        return self._call("DELETE", "/drain")

    # -- requests -----------------------------------------------------------------------------------------------------

    def _stream(self, job_id: str) -> Iterator[dict[str, Any]]:
        timeout = httpx.Timeout(REQUEST_TIMEOUT_S, read=EVENT_TIMEOUT_S)
        try:
            with self._http.stream("GET", f"/jobs/{_segment(job_id)}/events", timeout=timeout) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield orjson.loads(line.removeprefix("data:"))
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return _read_object(self._send(method, path, **options))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._open(method, path, **options)
        if not answer.is_success:
            raise _refused(answer)
        return answer

    def _open(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ApiUnreachable:
        failure = find_tls_failure(error, f"the service at {self.url}")
        if failure is not None:
            return ApiUnreachable(failure.message, hint=failure.hint)
        return ApiUnreachable(f"The service at {self.url} is unreachable: {error or type(error).__name__}.")


def _refused(answer: httpx.Response) -> ApiError:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        # Another server, for example a proxy.
        problem = {"detail": f"{answer.url} returned HTTP {answer.status_code}, not an error of the service."}
    return ApiError(answer.status_code, problem)


def _read_object(answer: httpx.Response) -> dict[str, Any]:
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ApiError(answer.status_code, {"detail": f"{answer.url} did not return JSON; it is not the service."})
    return data


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _idempotency(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


def _segment(text: str) -> str:
    """Return any text as one segment of a path. Pure."""
    return quote(text, safe="") or "%20"
