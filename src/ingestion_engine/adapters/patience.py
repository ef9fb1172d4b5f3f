"""Patience: repeat a request to a vector store while the vectors that it carries stay in memory.

Giving a partition back is the answer to an outage, but it throws away every vector that is not written yet, and
embedding is the expensive part of a job. So a worker first waits: for the pause that the store requests, else for
growing pauses, and not forever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ingestion_engine.domain.errors import RequestTooLarge, TlsFailed, TransientError
from ingestion_engine.runtime.retry import RetryPolicy
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.waits import Wait

T = TypeVar("T")

log = get_logger(__name__)

FAILING_S = 60.0
"""Longest time in seconds for which a request is repeated, as for the embedder. Afterwards the partition is returned,
which lets the driver pause the whole job and show why."""
LIMITED_S = 300.0
"""The same for a store that requests a pause (Retry-After): it works, and other requests make progress. A write limit
per minute that several workers share needs some minutes for each of them."""
PAUSES = RetryPolicy(first_s=0.5, longest_s=8.0, deadline_s=float("inf"))
"""A store that comes back is noticed within ``longest_s``; the limits above take the place of the deadline."""
CHECK_S = 2.0
"""Seconds of a pause between two checks whether the work may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Repeats requests that fail for the moment. For one event loop; clock and sleep can be injected."""

    check: Callable[[], Awaitable[object]]
    """Called every few seconds of a pause; raises what ends the work, such as LeaseLost or JobAborted."""
    ends_at: float = float("inf")
    """No pause ends later than this, by the clock."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def repeat(self, request: Callable[[], Awaitable[T]]) -> T:
        """Return the first result of an idempotent request.

        Raises:
            TransientError: the last one, when repeating it would take too long; RequestTooLarge and TlsFailed at once.
            IngestionError: any other error of the request or of ``check``, at once.
        """
        began = self.clock()
        pauses = PAUSES.pauses(self.clock)
        with Wait() as wait:
            while True:
                try:
                    result = await request()
                except (RequestTooLarge, TlsFailed):
                    raise
                except TransientError as error:
                    requested_s = error.context.get("retry_after_s")
                    limit_s = FAILING_S if requested_s is None else LIMITED_S
                    pause_s = max(next(pauses), requested_s or 0.0)
                    if self.clock() + pause_s > min(began + limit_s, self.ends_at):
                        raise
                    wait.begin(error.message)
                    log.warning("waiting for a store", extra={"pause_s": round(pause_s, 1), **error.log_fields()})
                    await self._pause(pause_s)
                else:
                    return result

    async def _pause(self, seconds: float) -> None:
        end = self.clock() + seconds
        while (left_s := end - self.clock()) > 0:
            await self.sleep(min(left_s, CHECK_S))
            try:
                await self.check()
            except TransientError:
                log.debug("cannot check the lease during a pause; the next write checks it")
