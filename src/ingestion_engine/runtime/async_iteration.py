"""Read iterators that block from asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


async def next_items(items: Iterator[T], limit: int | None) -> list[T]:
    """Return the next ``limit`` items, read in a thread; None returns all remaining items, read at once."""
    if limit is None:
        return list(items)
    return await asyncio.to_thread(lambda: list(islice(items, limit)))
