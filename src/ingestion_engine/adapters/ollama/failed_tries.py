"""Counts how often servers failed one request, and gives it up when its texts may be at fault."""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final, TypeVar

from ingestion_engine.domain.errors import RequestFailed, TransientError

T = TypeVar("T")

FAILED_SERVERS: Final = "Ingest-Failed-Servers"
"""Header of a gateway's reply: number of servers that received the request and failed it."""
_OVERLOADED: Final = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    499,  # the request was canceled
    HTTPStatus.SERVICE_UNAVAILABLE,
)


def says_overloaded(status: int, retry_after_s: float | None) -> bool:
    """Return whether a response says that there was no room for the request, whatever its texts. Pure."""
    return status in _OVERLOADED or retry_after_s is not None


def count_failures(error: TransientError) -> int:
    """Return how many servers received a request and failed it, by its error. Pure."""
    context = error.context
    if type(error) is not TransientError:  # dropped flows, certificates
        return 0
    if "failed_servers" in context:
        return int(context["failed_servers"])
    if error.code == "ollama_answer_invalid":
        return 1
    status = context.get("status")
    return int(status is not None and not says_overloaded(status, context.get("retry_after_s")))


class FailedTries:
    """The failures of one request. Use once."""

    def __init__(self, most: int) -> None:
        """``most`` failures of the request are enough."""
        self._most = most
        self._count = 0

    async def attempt(self, call: Awaitable[T]) -> T:
        """Return the result of one try. Raises RequestFailed for the last one, and whatever the try raises."""
        try:
            return await call
        except TransientError as error:
            self._count += count_failures(error)
            if self._count >= self._most:
                raise _give_up(error) from error
            raise

    async def conclude(self, tries: Awaitable[T]) -> T:
        """Return the result of all tries. Raises RequestFailed when the last one was failed by a server."""
        try:
            return await tries
        except RequestFailed:
            raise
        except TransientError as error:
            if count_failures(error):
                raise _give_up(error) from error
            raise


def _give_up(error: TransientError) -> RequestFailed:
    return RequestFailed(error.code, error.message, hint=error.hint, **error.context)
