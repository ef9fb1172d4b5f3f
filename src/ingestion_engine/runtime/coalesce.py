"""RequestCoalescer: what several tasks ask at the same time becomes one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(slots=True)
class _Batch(Generic[Q, A]):
    questions: list[Q] = field(default_factory=list)
    answers: list[A] = field(default_factory=list)
    """One, as soon as it is there."""
    error: Exception | None = None


class RequestCoalescer(Generic[Q, A]):
    """Asks for all who wait at once: one request is on its way, and the next one gathers meanwhile.

    Args:
        request: Answers several questions by one answer for all of them.
    """

    def __init__(self, request: Callable[[Sequence[Q]], Awaitable[A]]) -> None:
        self._request = request
        self._gathering: _Batch[Q, A] = _Batch()
        self._turn = asyncio.Lock()

    async def request(self, question: Q) -> A:
        """Return the answer to a request that holds this question. Raises what the request raises, for all in it."""
        batch = self._gathering
        batch.questions.append(question)
        async with self._turn:
            if batch is self._gathering:
                self._gathering = _Batch()
            # The first one in asks. When it is canceled meanwhile, the next one does.
            if not batch.answers and batch.error is None:
                try:
                    batch.answers.append(await self._request(batch.questions))
                except Exception as error:  # whatever it is, each who asked is told
                    batch.error = error
        if batch.error is not None:
            raise batch.error
        return batch.answers[0]
