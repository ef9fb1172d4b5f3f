"""Waiting for a fact of another process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(fact: Callable[[], T], timeout_s: float = 120.0, *, every_s: float = 0.05) -> T:
    """Return the fact when it holds; fail when it does not in time.

    Args:
        fact: Returns something true once it holds.
        timeout_s: A deadline, not a measurement: long enough for the slowest machine.
        every_s: Pause between two checks.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := fact()):
        assert time.monotonic() < deadline, f"the awaited fact did not come true within {timeout_s:g} s"
        time.sleep(every_s)
    return found


async def eventually(fact: Callable[[], T], timeout_s: float = 60.0, *, every_s: float = 0.02) -> T:
    """As ``wait_for``, for a fact of this event loop."""
    deadline = time.monotonic() + timeout_s
    while not (found := fact()):
        assert time.monotonic() < deadline, f"the awaited fact did not come true within {timeout_s:g} s"
        await asyncio.sleep(every_s)
    return found
