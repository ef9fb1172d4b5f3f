"""Requests that servers have failed: their next failure says nothing about a server. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LASTS_S: Final = 600.0
"""Seconds for which a body is remembered after its last failure; workers repeat a request within a minute."""
MOST: Final = 1_000
"""Bodies to remember at once; they come from clients."""


class Suspects:
    """Bodies that were failed by a server and not served since: a text may stop every model process that reads it.

    A hash of each is kept, not the body.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Suspect nothing yet. ``clock`` is in seconds and does not go back."""
        self._clock = clock
        self._until: dict[int, float] = {}
        """In order of that time."""

    def __contains__(self, body: bytes) -> bool:
        """Return whether a server has failed this body lately."""
        return self._until.get(hash(body), 0.0) > self._clock()

    def note_failure(self, body: bytes) -> None:
        """Suspect a body."""
        key = hash(body)
        self._until.pop(key, None)
        self._until[key] = self._clock() + LASTS_S
        while len(self._until) > MOST:
            del self._until[next(iter(self._until))]

    def note_success(self, body: bytes) -> None:
        """Suspect a body no longer: a server has served or refused it."""
        if self._until:
            self._until.pop(hash(body), None)
