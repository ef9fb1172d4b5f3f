"""What the work of this process waits for at the moment, so that a wait inside a partition is shown in its job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

SLOW_S = 10.0
"""Seconds after which a request that has no response yet is a wait (a guess: a batch on a busy embedder takes less)."""

_current: dict[object, str] = {}
"""Reasons by their holder; one assignment each, so that threads need no lock."""


class Wait(ExitStack):
    """Holds the reason of one piece of work, from its first failure to the end of the ``with`` block."""

    def begin(self, why: str) -> Self:
        """Show a reason, in place of a former one of the same work."""
        if self not in _current:
            self.callback(_current.pop, self, None)
        _current[self] = why
        return self


def current_waits() -> list[str]:
    """Return what this process waits for, each reason once."""
    return list(dict.fromkeys(list(_current.values())))


@contextmanager
def slow_request(server: str) -> Iterator[None]:
    """Show a request as a wait from ``SLOW_S`` on until the block ends; call it in an event loop.

    A server that hangs fails no request before its time limit, half a minute or more, and the job would be silent.
    """
    with Wait() as wait:
        why = f"{server} has not responded for {SLOW_S:g} s."
        timer = asyncio.get_running_loop().call_later(SLOW_S, wait.begin, why)
        try:
            yield
        finally:
            timer.cancel()
