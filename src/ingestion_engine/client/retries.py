"""When a request is sent again: what is repeated, after how long, and for how long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import httpx

from ingestion_engine.client.errors import ApiError, ApiUnreachable, RateLimited, Unavailable, is_of_service

PATIENCE_S: Final = 30.0
"""Default of the time in which a request is sent again: longer than a restart of the service."""

PAUSE_FIRST_S: Final = 0.5
PAUSE_MAX_S: Final = 5.0
"""Pauses double from the first to the longest; a restart of the service takes a few seconds."""

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Errors before the first byte of a request."""


class Retries:
    """The attempts of one request, or of one stream that is opened again; a success starts anew.

    Args:
        patience_s: Seconds after the first failure in which a request is sent again.
        connect_patience_s: The same while no connection can be established; None means the same.
        outlasts_outages: Wait also while a system that the service needs is unavailable, however long that may be.
        now: Clock in seconds.
    """

    def __init__(
        self,
        patience_s: float,
        connect_patience_s: float | None = None,
        *,
        outlasts_outages: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience_s = patience_s
        self._connect_patience_s = patience_s if connect_patience_s is None else connect_patience_s
        self._outlasts_outages = outlasts_outages
        self._now = now
        self._failed_at: float | None = None
        self._number = 0

    def reset(self) -> None:
        """Start anew after a success."""
        self._failed_at, self._number = None, 0

    def pause_after(self, error: ApiError | ApiUnreachable, *, repeatable: bool) -> float | None:
        """Return the seconds to wait before the next attempt; None when the request must not be sent again.

        Sent again are: requests that did not reach the service or that it refused unprocessed (429), and repeatable
        ones when their connection broke, when the service says when to try again, and when a proxy has no service.
        """
        cause = error.__cause__
        patience_s, wished_s = self._patience_s, None
        if isinstance(error, ApiUnreachable):
            if error.hint is not None or not isinstance(cause, httpx.TransportError) or _is_defect(cause):
                return None  # a certificate or a URL does not become valid
            if isinstance(cause, _NOT_SENT):
                patience_s = self._connect_patience_s
            elif not repeatable:
                return None
        elif isinstance(error, RateLimited) and error.retry_after_s is not None:
            wished_s = error.retry_after_s
        elif isinstance(error, Unavailable) and repeatable:
            wished_s = error.retry_after_s
            if wished_s is None and is_of_service(error) and not self._outlasts_outages:
                return None
        else:
            return None
        return self._pause(patience_s, wished_s)

    def _pause(self, patience_s: float, wished_s: float | None) -> float | None:
        now = self._now()
        self._failed_at = now if self._failed_at is None else self._failed_at
        self._number += 1
        # Clients that failed together do not come back together.
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        own_s = spread * min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** (self._number - 1))
        pause_s = own_s if wished_s is None else wished_s
        return pause_s if now + pause_s - self._failed_at <= patience_s else None


def _is_defect(error: httpx.TransportError) -> bool:
    """Return True for errors that the same request meets every time. Pure."""
    return isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
