"""Retry with jittered exponential pauses within a time limit, for blocking and asynchronous callers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ingestion_engine.runtime.waits import Wait

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses and time limit of retries.

    The pauses double; each is drawn from the upper half of its step, so that callers spread out.
    """

    first_s: float = 0.25
    """Upper limit of the first pause (a guess: a restarting server needs more, a dropped connection less)."""
    longest_s: float = 8.0
    """Upper limit of every pause."""
    deadline_s: float = 60.0
    """No attempt starts later than this after the first one."""

    def pauses(self, clock: Callable[[], float] = time.monotonic) -> Iterator[float]:
        """Yield the pause before each further attempt in seconds; end when it would start after the deadline."""
        end = clock() + self.deadline_s
        step = self.first_s
        while True:
            pause = step * (0.5 + random.random() / 2)  # noqa: S311 - spreads callers out; nothing secret
            if clock() + pause > end:
                return
            yield pause
            step = min(step * 2, self.longest_s)


async def retry_async(
    call: Callable[[], Awaitable[Result]],
    retry_on: type[BaseException],
    policy: RetryPolicy,
    *,
    unless: type[BaseException] | tuple[type[BaseException], ...] = (),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Return the first result of ``call``, or raise its last error of type ``retry_on`` at the policy's deadline.

    Any other error, and one of type ``unless``, is raised immediately. ``call`` must be idempotent. Cost: one call per
    attempt.
    """
    pauses = policy.pauses(clock)
    with Wait() as wait:
        while True:
            try:
                return await call()
            except unless:
                raise
            except retry_on as error:
                pause = next(pauses, None)
                if pause is None:
                    raise
                wait.begin(str(error))
                await sleep(pause)
