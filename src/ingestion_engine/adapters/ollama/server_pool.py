"""Choose the Ollama server for the next request: the least loaded of those that did not fail recently."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COOL_DOWN_S = 1.0
"""Pause after one failure; doubles with each further one (a guess: a restart takes seconds, a crash loop minutes)."""
LONGEST_COOL_DOWN_S = 30.0


@dataclass(slots=True)
class Endpoint:
    """One server of the pool and its recent state."""

    url: str
    in_flight: int = 0
    failures: int = 0
    """Consecutive failures."""
    cool_until: float = 0.0
    """Clock time at which the pause after the last failure ends."""


class EndpointPool:
    """Least-loaded choice with cool-down. For one event loop; the clock can be injected."""

    def __init__(
        self, urls: Sequence[str], *, home: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a pool of servers.

        Args:
            urls: At least one server; duplicates count once.
            home: Number, modulo the number of servers, of the first preferred server among equally loaded ones; the
                next servers in order follow it. Processes that do not know of one another spread their load by having
                different homes, as far apart as each has requests in flight. None rotates through the servers.
            clock: Monotonic seconds.
        """
        if not urls:
            raise ValueError("A pool requires at least one URL.")
        self.endpoints = [Endpoint(url) for url in dict.fromkeys(urls)]
        self._clock = clock
        self._turn = home or 0
        self._rotates = home is None

    def choose(self) -> Endpoint:
        """Return the endpoint with the fewest requests in flight; among equals in rotation, or from home on.

        When all are cooling down, it is the one that is ready first; the caller decides whether to wait.
        """
        now = self._clock()
        self._turn += self._rotates
        ready = [endpoint for endpoint in self._in_order() if endpoint.cool_until <= now]
        if not ready:
            return min(self.endpoints, key=lambda endpoint: endpoint.cool_until)
        return min(ready, key=lambda endpoint: endpoint.in_flight)

    def _in_order(self) -> list[Endpoint]:
        first = self._turn % len(self.endpoints)
        return self.endpoints[first:] + self.endpoints[:first]

    def note_failure(self, endpoint: Endpoint) -> None:
        """Avoid the endpoint for a time that doubles with each consecutive failure."""
        pause = min(COOL_DOWN_S * 2.0**endpoint.failures, LONGEST_COOL_DOWN_S)
        endpoint.failures = min(endpoint.failures + 1, 16)
        endpoint.cool_until = self._clock() + pause

    def note_success(self, endpoint: Endpoint) -> None:
        """Clear the endpoint's failures."""
        endpoint.failures = 0
        endpoint.cool_until = 0.0
