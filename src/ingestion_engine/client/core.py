"""What all methods of a client share: sending with retries, reading responses, paging, following a job."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import httpx
import orjson
from pydantic import BaseModel, ValidationError

from ingestion_engine import __version__
from ingestion_engine.client.errors import ApiError, ApiUnreachable, make_error
from ingestion_engine.client.events import EventReader
from ingestion_engine.client.retries import Retries
from ingestion_engine.client.steps import Close, Emit, Items, Open, Read, Request, Send, Sleep, Steps, T, T_co
from ingestion_engine.domain.names import reading_unknown_names
from ingestion_engine.domain.states import FINAL_STATES
from ingestion_engine.models.jobs import JobView
from ingestion_engine.runtime.tls import find_tls_failure
from ingestion_engine.runtime.validation import describe_faults

M = TypeVar("M", bound=BaseModel)

REQUEST_TIMEOUT_S: Final = 30.0
"""A search waits up to 20 s for a slow store; all other requests take milliseconds."""

LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=20)
"""No maximum of connections: each job that is followed holds one, and must not keep others from being requested."""

STREAM_SILENCE_S: Final = 20.0
"""Time without a byte after which an event stream is given up; the service sends a heartbeat every 15 s."""

STREAM_PAUSE_S: Final = 1.0
"""Pause before an event stream that ended is opened again, unless the service names another."""

STREAM_PAUSE_MAX_S: Final = 10.0
"""The longest pause that a service may name."""

POLL_S: Final = 2.0
"""Pause between two requests for a job whose events cannot be followed."""

POLL_FAST_S: Final = 0.5
"""The same in the last ``STREAM_SILENCE_S`` before a time limit."""

REFUSED_STREAM_S: Final = 30.0
"""Time for which a job is polled after the service had no stream to give."""

LOG_POLL_S: Final = 1.0
"""Pause between two requests for what was added to a log; drivers write it every five seconds."""

LOG_QUIET_POLLS: Final = 2
"""Responses without a line that end the log of a job that has ended: its last lines may follow its outcome."""

_VOLATILE: Final = {"queued_s": 0.0, "duration_s": None, "limited_by": None, "throughput": None}
"""Fields of a job that change by themselves, or that events do not have; two views of an unchanged job are equal
without them."""

_ERRORS: Final = (httpx.TransportError, httpx.InvalidURL, httpx.DecodingError)


class Page(Protocol[T_co]):
    """A page of a list."""

    @property
    def items(self) -> Sequence[T_co]:
        """Items of the page, in order."""
        ...

    @property
    def next_cursor(self) -> str | None:
        """Cursor of the next page; None at the end."""
        ...


class Core:
    """Requests, as steps.

    Args:
        url: Base URL of the service.
        patience_s: See ``IngestClient``.
        connect_patience_s: See ``IngestClient``.
    """

    def __init__(self, url: str, *, patience_s: float, connect_patience_s: float | None) -> None:
        self.url, self._basic_auth = _split_secrets(url)
        self._patience_s = patience_s
        self._connect_patience_s = connect_patience_s
        self._now: Callable[[], float] = time.monotonic

    # -- one request --------------------------------------------------------------------------------------------------

    def _read(self, model: type[M], request: Request) -> Steps[M]:
        """Send a request and return the body of its response."""
        answer = yield from self._send(request)
        return self._parse(model, request, answer)

    def _read_object(self, request: Request) -> Steps[dict[str, Any]]:
        """Send a request and return the JSON object of its response."""
        answer = yield from self._send(request)
        found = _load_json(answer.content)
        if not isinstance(found, dict):
            raise self._not_the_service(request, answer)
        return found

    def _read_text(self, request: Request) -> Steps[str]:
        answer = yield from self._send(request)
        return answer.text

    def _send(self, request: Request, *, also: frozenset[int] = frozenset()) -> Steps[httpx.Response]:
        """Send a request until it has success, or a status of ``also``, or must not be sent again.

        Raises:
            ApiError: the service refused it.
            ApiUnreachable: the service did not respond.
        """
        retries = self._begin_retries()
        while True:
            try:
                return (yield from self._send_once(request, also=also))
            except (ApiError, ApiUnreachable) as error:
                pause_s = retries.pause_after(error, repeatable=request.repeatable)
                if pause_s is None:
                    raise
            yield Sleep(pause_s)

    def _send_once(self, request: Request, *, also: frozenset[int] = frozenset()) -> Steps[httpx.Response]:
        try:
            answer: httpx.Response = yield Send(request)
        except _ERRORS as error:
            raise self._unreachable(error) from error
        if not answer.is_success and answer.status_code not in also:
            raise make_error(answer, self._place(request))
        return answer

    def _begin_retries(self, patience_s: float | None = None) -> Retries:
        """Return the attempts of a request, or with ``patience_s`` those of something that is followed."""
        if patience_s is not None:
            return Retries(patience_s, outlasts_outages=True, now=self._now)
        return Retries(self._patience_s, self._connect_patience_s, now=self._now)

    def _parse(self, model: type[M], request: Request, answer: httpx.Response) -> M:
        """Return the body of a response; what a newer service adds is kept as further attributes."""
        try:
            return parse_model(model, answer.content)
        except ValidationError as error:
            if not isinstance(_load_json(answer.content), dict):
                raise self._not_the_service(request, answer) from None
            fault = {
                "detail": f"{self._place(request)} returned what this client does not understand: "
                f"{describe_faults(error)}.",
                "hint": f"Use the client of the service's release; this one is {__version__}.",
            }
            raise ApiError(answer.status_code, fault, request_id=answer.headers.get("x-request-id")) from None

    def _not_the_service(self, request: Request, answer: httpx.Response) -> ApiError:
        detail = f"{self._place(request)} did not return JSON; it is not the service."
        return ApiError(answer.status_code, {"detail": detail})

    def _place(self, request: Request) -> str:
        return f"{self.url}{request.path}"

    def _unreachable(self, error: Exception) -> ApiUnreachable:
        failure = find_tls_failure(error, f"the service at {self.url}")
        if failure is not None:
            return ApiUnreachable(failure.message, hint=failure.hint)
        return ApiUnreachable(f"The service at {self.url} is unreachable: {error or type(error).__name__}.")

    # -- several requests ---------------------------------------------------------------------------------------------

    def _walk(self, read: Callable[[Request], Steps[Page[T]]], request: Request) -> Items[T]:
        """Yield the items of all pages, from the page of a request on."""
        while True:
            page = yield from read(request)
            for item in page.items:
                yield Emit(item)
            if page.next_cursor is None:
                return
            request = replace(request, params={**(request.params or {}), "cursor": page.next_cursor})

    def _gather(self, items: Items[T]) -> Steps[list[T]]:
        """Return all items."""
        found: list[T] = []
        yield from _without_items(items, found.append)
        return found

    def _take_last(self, items: Items[T]) -> Steps[T]:
        """Return the last item; there is at least one."""
        found: deque[T] = deque(maxlen=1)
        yield from _without_items(items, found.append)
        return found.pop()

    # -- a job that changes -------------------------------------------------------------------------------------------

    def _follow(self, job_id: str, *, patience_s: float, timeout_s: float | None = None) -> Items[JobView]:
        """Yield a job now and after every change until it has ended, by its events, or by polling where they are stuck.

        A stream follows each successful request for the job: so a job that a proxy hides is shown at once, and what
        happened while no stream was open is not missed.
        """
        deadline = None if timeout_s is None else self._now() + timeout_s
        retries = self._begin_retries(patience_s)
        following = _Following(job_id)
        while True:
            pause_s = POLL_S
            try:
                seen = yield from self._get_job(job_id, read_timeout_s=self._left(deadline))
                retries.reset()
                if following.note(seen):
                    yield Emit(seen)
                if following.has_ended:
                    return
                if self._now() >= following.polls_until and self._left(deadline) >= STREAM_SILENCE_S:
                    yield from self._follow_stream(following, deadline)
                    if following.has_ended:
                        return
                    pause_s = min(following.reader.retry_s or STREAM_PAUSE_S, STREAM_PAUSE_MAX_S)
            except (ApiError, ApiUnreachable) as error:
                pause = retries.pause_after(error, repeatable=True)
                if pause is None and (isinstance(error, ApiError) or self._left(deadline) > 0):
                    raise
                pause_s = pause or 0.0
            left_s = self._left(deadline)
            if left_s <= 0:
                state = "unknown" if following.last is None else following.last.state.value
                raise TimeoutError(f"Job {job_id!r} has not ended within {timeout_s:g} s; it is {state}.")
            if left_s < STREAM_SILENCE_S:
                pause_s = min(pause_s, POLL_FAST_S)
            yield Sleep(min(pause_s, left_s))

    def _left(self, deadline: float | None) -> float:
        """Return the seconds until a deadline; those of a request when there is none."""
        return REQUEST_TIMEOUT_S if deadline is None else min(REQUEST_TIMEOUT_S, max(0.0, deadline - self._now()))

    def _get_job(self, job_id: str, *, read_timeout_s: float = REQUEST_TIMEOUT_S) -> Steps[JobView]:
        request = Request("GET", f"/jobs/{segment(job_id)}", read_timeout_s=max(read_timeout_s, POLL_FAST_S))
        answer = yield from self._send_once(request)
        return self._parse(JobView, request, answer)

    def _follow_stream(self, following: _Following, deadline: float | None) -> Items[JobView]:
        """Yield what a stream of events shows that is new; return at its end, when it is silent, or near the deadline.

        Nothing is raised: the next request for the job shows what is wrong.
        """
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if following.reader.last_id:
            headers["Last-Event-ID"] = following.reader.last_id
        path = f"/jobs/{segment(following.job_id)}/events"
        request = Request("GET", path, headers=headers, repeatable=True, read_timeout_s=STREAM_SILENCE_S)
        following.reader = EventReader(following.reader.last_id)
        heard = False
        try:
            answer: httpx.Response = yield Open(request)
            if not answer.is_success or "text/event-stream" not in answer.headers.get("content-type", ""):
                following.polls_until = self._now() + REFUSED_STREAM_S
                yield Close()
                return
            while self._left(deadline) >= STREAM_SILENCE_S:
                data: bytes | None = yield Read()
                if data is None:
                    break
                heard = heard or bool(data)
                for event in following.reader.feed(data):
                    job = parse_model(JobView, event.data)
                    if following.note(job):
                        yield Emit(job)
                    if following.has_ended:
                        return
        except ValidationError:
            following.polls_until = float("inf")  # a stream of another release: its job can be read, or says why not
        except httpx.ReadTimeout:
            if not heard:
                following.polls_until = float("inf")  # a proxy keeps the events until there are more of them
        except _ERRORS:
            pass
        yield Close()


class _Following:
    """A job that is followed."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.last: JobView | None = None
        self.reader = EventReader()
        self.polls_until = float("-inf")
        """Time before which no stream is opened."""

    @property
    def has_ended(self) -> bool:
        """True when the job has ended."""
        return self.last is not None and self.last.state in FINAL_STATES

    def note(self, job: JobView) -> bool:
        """Take a view of the job; return whether it differs from the one before."""
        before, self.last = self.last, job
        return before is None or before.model_copy(update=_VOLATILE) != job.model_copy(update=_VOLATILE)


def _without_items(items: Items[T], take: Callable[[T], object]) -> Steps[None]:
    """Perform the steps between items, and give the items to a function instead."""
    with contextlib.closing(items):
        try:
            step = next(items)
            while True:
                if isinstance(step, Emit):
                    take(step.item)
                    step = next(items)
                    continue
                try:
                    result = yield step
                except Exception as error:  # the result of the step
                    step = items.throw(error)
                else:
                    step = items.send(result)
        except StopIteration:
            return


def parse_model(model: type[M], data: bytes) -> M:
    """Return a body as a model: unknown fields are kept, unknown names of enumerations are read as they are.

    Raises ValidationError.
    """
    with reading_unknown_names():
        return model.model_validate_json(data, extra="allow")


def dump_request(request: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a request; of a model the fields that were set, so that all others are the service's. Pure."""
    if isinstance(request, BaseModel):
        return request.model_dump(mode="json", exclude_unset=True)
    return dict(request)


def idempotent(key: str | None) -> dict[str, str]:
    """Return the header that makes a request repeatable, with a key of its own for None."""
    return {"Idempotency-Key": uuid.uuid4().hex if key is None else key}


def segment(text: str) -> str:
    """Return any text as one segment of a path. Pure."""
    return quote(text, safe="") or "%20"


def make_headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of all requests of a client. Raises ValueError for a key that no header can hold. Pure."""
    headers = {"User-Agent": f"ingestion-engine/{__version__}"}
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
            # Without the key: libraries below would show it in their error.
            raise ValueError("The API key contains spaces around it, line breaks or characters beyond ASCII.")
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def make_request(http: httpx.Client | httpx.AsyncClient, request: Request, timeout_s: float) -> httpx.Request:
    """Return a request as ``httpx`` sends it.

    Args:
        http: Client that will send it.
        request: The request.
        timeout_s: Time-out in seconds of requests that have none of their own.
    """
    headers = dict(request.headers or {})
    content = None
    if request.json is not None:
        content, headers["Content-Type"] = orjson.dumps(request.json), "application/json"
    read_s = timeout_s if request.read_timeout_s is None else request.read_timeout_s
    return http.build_request(
        request.method,
        request.path,
        params={name: value for name, value in (request.params or {}).items() if value is not None},
        content=content,
        headers=headers,
        timeout=httpx.Timeout(min(timeout_s, read_s), read=read_s),
    )


def _load_json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _split_secrets(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return a URL without user and password, for requests, messages and logs, and those two. Pure."""
    try:
        parts = urlsplit(url)
        user, password = parts.username, parts.password
        plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    except ValueError:
        return url.rsplit("@", maxsplit=1)[-1].rstrip("/"), None
    return plain, None if user is None else (unquote(user), unquote(password or ""))
