"""Which Ollama server gets the next request: the least loaded of those that did not just fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COOL_DOWN_S = 1.0
"""After one failure; doubles with every further one (a guess: a restart takes seconds, a crash loop minutes)."""
LONGEST_COOL_DOWN_S = 30.0


@dataclass(slots=True)
class Endpoint:
    """One server of the pool and how it has been doing."""

    url: str
    in_flight: int = 0
    failures: int = 0
    """In a row."""
    cool_until: float = 0.0


class EndpointPool:
    """Least-loaded choice with cool-down. For one event loop; the clock can be given."""

    def __init__(
        self, urls: Sequence[str], *, home: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Choose among servers.

        Args:
            urls: At least one server; duplicates count once.
            home: The server, modulo their number, that is preferred to others that are as good, then those behind
                it: processes that do not know of one another keep out of each other's way by another home for each,
                as far apart as they have requests at once. None takes turns.
            clock: Seconds.
        """
        if not urls:
            raise ValueError("a pool needs at least one URL")
        self.endpoints = [Endpoint(url) for url in dict.fromkeys(urls)]
        self._clock = clock
        self._turn = home or 0
        self._takes_turns = home is None

    def choose(self) -> Endpoint:
        """Return the endpoint with the fewest requests in flight, in turns or from home on where they are equal.

        When all are cooling down, the one that is ready first: waiting is the caller's business.
        """
        now = self._clock()
        self._turn += self._takes_turns
        ready = [endpoint for endpoint in self._in_turn() if endpoint.cool_until <= now]
        if not ready:
            return min(self.endpoints, key=lambda endpoint: endpoint.cool_until)
        return min(ready, key=lambda endpoint: endpoint.in_flight)

    def _in_turn(self) -> list[Endpoint]:
        first = self._turn % len(self.endpoints)
        return self.endpoints[first:] + self.endpoints[:first]

    def note_failure(self, endpoint: Endpoint) -> None:
        """Keep requests away from the endpoint for a while, the longer the more often it failed in a row."""
        pause = min(COOL_DOWN_S * 2.0**endpoint.failures, LONGEST_COOL_DOWN_S)
        endpoint.failures = min(endpoint.failures + 1, 16)
        endpoint.cool_until = self._clock() + pause

    def note_success(self, endpoint: Endpoint) -> None:
        """Trust the endpoint again."""
        endpoint.failures = 0
        endpoint.cool_until = 0.0
