"""What can go wrong with a request, by what a program can do about it.

::

    ApiError              the service refused the request
    ├── InvalidRequest    400, 413, 414, 415, 422: change the request; ``field`` and ``errors`` say where
    ├── Unauthenticated   401: send a valid API key
    ├── NotAllowed        403: the key may not do this
    ├── NotFound          404
    ├── Conflict          409: the state of a job, a collection or an alias does not allow it now
    ├── RateLimited       429: wait for ``retry_after_s``
    └── Unavailable       502, 503, 504: the service, or a system that it needs, is unavailable; try again later
    ApiUnreachable        no response: wrong URL, network, certificate, or the service does not run
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx
from pydantic import ValidationError

from ingestion_engine.models.problems import ProblemError


class ApiError(Exception):
    """A request that the service refused, with the members of its problem+json.

    Args:
        status: HTTP status.
        problem: Body of the response.
        request_id: Id of the request in the log of the service; None when the response has none.
        retry_after_s: Seconds after which the service accepts the request again; None when it does not say.
    """

    def __init__(
        self,
        status: int,
        problem: Mapping[str, Any],
        *,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))
        self.status = status
        self.problem: dict[str, Any] = dict(problem)
        """The body as received, with members that have no attribute."""
        self.code = str(problem.get("code", "http_error"))
        """Stable identifier for programs; ``http_error`` when the response is not one of the service."""
        self.hint: str | None = _text(problem.get("hint"))
        """What to do to fix the error."""
        self.field: str | None = _text(problem.get("field"))
        """Dotted path of the invalid field of the request."""
        self.errors = _read_errors(problem.get("errors"))
        """All errors, when there are several or when the request does not match its schema."""
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.status, self.problem), {**self.__dict__})


class InvalidRequest(ApiError):
    """The request is not valid (400, 413, 414, 415, 422)."""


class Unauthenticated(ApiError):
    """The service requires a valid API key or token (401)."""


class NotAllowed(ApiError):
    """The caller may not do this (403)."""


class NotFound(ApiError):
    """The job, collection, alias or route does not exist, or the caller may not see it (404)."""


class Conflict(ApiError):
    """The present state does not allow the request (409)."""


class RateLimited(ApiError):
    """The caller has sent too many requests, or has too many jobs (429)."""


class Unavailable(ApiError):
    """The service, or a system that it needs, is unavailable (502, 503, 504)."""


class ApiUnreachable(Exception):
    """The service does not respond at its URL.

    Args:
        message: One sentence that names the URL and the reason.
        hint: What the reader can do about it; None when the reason is not known.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    **dict.fromkeys((400, 413, 414, 415, 422), InvalidRequest),
    401: Unauthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
    **dict.fromkeys((502, 503, 504), Unavailable),
}


def make_error(answer: httpx.Response, place: str) -> ApiError:
    """Return the error of a response without success, or of one that is not the service's.

    Args:
        answer: The response, read to its end.
        place: URL of the request, for the message; without user and password.
    """
    status = answer.status_code
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        # Another server, for example a proxy.
        problem = {"detail": f"{place} returned HTTP {status}, not an error of the service."}
    return _BY_STATUS.get(status, ApiError)(
        status,
        problem,
        request_id=_text(problem.get("request_id")) or answer.headers.get("x-request-id"),
        retry_after_s=read_retry_after(answer.headers.get("retry-after"), dt.datetime.now(dt.UTC)),
    )


def is_of_service(error: ApiError) -> bool:
    """Return True for an error of the service itself, False for one of a proxy. Pure."""
    return "code" in error.problem


def read_retry_after(value: str | None, now: dt.datetime) -> float | None:
    """Return the seconds of a header ``Retry-After``, which has a number or a date; None for neither. Pure."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().isdecimal() else _seconds_until(value, now)
    except (ValueError, OverflowError):
        return None


def _seconds_until(date: str, now: dt.datetime) -> float:
    moment = parsedate_to_datetime(date)
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() - now.timestamp())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _read_errors(value: object) -> list[ProblemError]:
    """Return the members ``errors`` of a problem; entries of another form are left out. Pure."""
    found = []
    for entry in value if isinstance(value, list) else ():
        try:
            found.append(ProblemError.model_validate(entry))
        except ValidationError:
            continue
    return found


def _rebuild(kind: type[ApiError], status: int, problem: Mapping[str, Any]) -> ApiError:
    """Return an error that was pickled."""
    return kind(status, problem)
