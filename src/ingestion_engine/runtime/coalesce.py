"""RequestCoalescer: concurrent requests of several tasks become one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Batch(Generic[Item, Result]):
    items: list[Item] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    """The result of the batch, once it exists."""
    error: Exception | None = None


class RequestCoalescer(Generic[Item, Result]):
    """Sends one request at a time; items that arrive meanwhile are collected for the next request.

    Args:
        request: Sends one request for several items and returns one result for all of them.
    """

    def __init__(self, request: Callable[[Sequence[Item]], Awaitable[Result]]) -> None:
        self._request = request
        self._gathering: _Batch[Item, Result] = _Batch()
        self._turn = asyncio.Lock()

    async def request(self, item: Item) -> Result:
        """Return the result of a request that includes this item. An error is raised for every item of the request."""
        batch = self._gathering
        batch.items.append(item)
        async with self._turn:
            if batch is self._gathering:
                self._gathering = _Batch()
            # The first task of a batch sends the request; if it is canceled, the next one does.
            if not batch.results and batch.error is None:
                try:
                    batch.results.append(await self._request(batch.items))
                except Exception as error:  # raised for every task of the batch
                    batch.error = error
        if batch.error is not None:
            raise batch.error
        return batch.results[0]
