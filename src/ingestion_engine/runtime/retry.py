"""When to try again: jittered exponential pauses within a bounded time, for blocking and asynchronous callers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on.

    The pauses double; each is drawn from the upper half of its step, so that callers spread out.
    """

    first_s: float = 0.25
    """Longest first pause (a guess: a restarting server needs more, a dropped connection less)."""
    longest_s: float = 8.0
    """No pause is longer, unless the server asks for it."""
    deadline_s: float = 60.0
    """No new try starts later than this after the first one."""

    def pauses(
        self, clock: Callable[[], float] = time.monotonic, draw: Callable[[], float] = random.random
    ) -> Iterator[float]:
        """Yield the pause before each further try, in seconds; end when the next try would start after the deadline."""
        end = clock() + self.deadline_s
        step = self.first_s
        while True:
            pause = step * (0.5 + draw() / 2)
            if clock() + pause > end:
                return
            yield pause
            step = min(step * 2, self.longest_s)


async def retry_async(
    call: Callable[[], Awaitable[Result]],
    retry_on: type[BaseException],
    policy: RetryPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Return the first result of ``call``; raise its last error of type ``retry_on`` when the policy's time is over.

    Any other error is raised at once. ``call`` must be idempotent. Cost: one call per try.
    """
    pauses = policy.pauses(clock)
    while True:
        try:
            return await call()
        except retry_on:
            pause = next(pauses, None)
            if pause is None:
                raise
            await sleep(pause)
