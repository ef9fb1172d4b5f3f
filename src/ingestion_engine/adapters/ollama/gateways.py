"""The gateways that an embedder may use: which of them a request tries first, and which after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ingestion_engine.adapters.ollama.server_urls import ServerAddress

COOL_DOWN_S: Final = 1.0
"""Pause after one failure; doubles with each further one (a guess: a restart takes seconds)."""
LONGEST_COOL_DOWN_S: Final = 10.0
"""Another gateway has taken over the servers of one that died within ten seconds."""


@dataclass(slots=True, eq=False)
class Gateway:
    """One gateway and its recent state."""

    address: ServerAddress
    in_flight: int = 0
    failures: int = 0
    """Consecutive failures."""
    cool_until: float = 0.0
    """Clock time at which the pause after the last failure ends."""


class Gateways:
    """The gateways in the order in which a request tries them. For one event loop; the clock can be injected.

    The one with the fewest requests in flight is first, so that one that serves faster receives more.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateways: dict[ServerAddress, Gateway] = {}
        self._clock = clock
        self._turn = 0

    def set_addresses(self, addresses: Iterable[ServerAddress]) -> None:
        """Replace the gateways; those that stay keep their state."""
        self._gateways = {address: self._gateways.get(address) or Gateway(address) for address in addresses}

    def __len__(self) -> int:
        return len(self._gateways)

    def in_order(self) -> Iterator[Gateway]:
        """Yield each gateway once, at each step the best one that is left; those that failed lately come last."""
        left = list(self._gateways.values())
        self._turn += 1
        first = self._turn % max(1, len(left))
        left = left[first:] + left[:first]
        while left:
            now = self._clock()
            best = min(left, key=lambda gateway: (max(gateway.cool_until, now), gateway.in_flight))
            left.remove(best)
            yield best

    def note_failure(self, gateway: Gateway) -> None:
        """Avoid a gateway for a time that doubles with each consecutive failure."""
        pause = min(COOL_DOWN_S * 2.0**gateway.failures, LONGEST_COOL_DOWN_S)
        gateway.failures = min(gateway.failures + 1, 16)
        gateway.cool_until = self._clock() + pause

    def note_success(self, gateway: Gateway) -> None:
        """Forget the failures of a gateway."""
        gateway.failures = 0
        gateway.cool_until = 0.0
