"""A clock by which things are removed for good: after a jump ahead it is not believed at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment

JUMP_S: Final = 3_600.0
"""Advance of the clock over the time that has passed from which on it is not believed: it has been set wrongly, or has
been corrected."""

BELIEVED_S: Final = 86_400.0
"""Time after which such a clock is believed, in which somebody can correct it."""

_log = get_logger(__name__)


class BelievedClock:
    """Returns the time unless it has jumped ahead.

    Args:
        now: Returns the current time.
        clock: Monotonic seconds.
    """

    def __init__(self, now: Callable[[], Moment], clock: Callable[[], float]) -> None:
        self._now = now
        self._clock = clock
        self._clocks: tuple[Moment, float] | None = None
        self._jumped_at: float | None = None

    def read(self) -> Moment | None:
        """Return the current time; None while the clock is ahead of the time that has passed since the last reading."""
        now, clock = self._now(), self._clock()
        before, at = self._clocks or (now, clock)
        ahead_s = (now - before).total_seconds() - (clock - at)
        if ahead_s < JUMP_S:
            self._clocks, self._jumped_at = (now, clock), None
            return now
        if self._jumped_at is None:
            self._jumped_at = clock
            _log.warning("nothing is removed: the clock has jumped", extra={"ahead_s": round(ahead_s), "now": str(now)})
        if clock - self._jumped_at >= BELIEVED_S:
            self._clocks = None
        return None
