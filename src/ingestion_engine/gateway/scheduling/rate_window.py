"""How many texts may be sent now, so that no window of one second has more than the limit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_S = 1.0
GUARD_S = 0.005
"""Texts count this much longer than a second, because the way to a server takes some requests longer than others.
It costs 0.5 % of the limit."""


@dataclass(slots=True, eq=False)
class Entry:
    """Texts that count until a time."""

    leaves: float
    texts: int
    span_s: float
    """How long they count from the moment at which they are sent."""
    held: bool = False
    """Not sent yet: they count until they are, and from then on."""


class RateWindow:
    """Texts sent in the last second. Exact: a sliding window ``(t - 1 s, t]``, no bucket that saves up for bursts.

    A request with more texts than the limit is sent when the window is empty, and then counts for ``texts / limit``
    seconds, so that the average holds. ``now`` must not go back.

    Cost: O(1) per request; memory: one entry per request of the last second.
    """

    def __init__(self, limit: float | None = None, *, guard_s: float = GUARD_S) -> None:
        """Start empty. ``limit`` is in texts per second; None means no limit, 0 that nothing may be sent."""
        self.limit = limit
        """May be changed at any time; what was sent before keeps counting as it did."""
        self._span_s = WINDOW_S + guard_s
        self._sent: deque[Entry] = deque()
        """Sorted by the time at which they leave the window."""
        self._used = 0

    def used(self, now: float) -> int:
        """Return how many texts count at ``now``."""
        while self._sent and self._sent[0].leaves <= now:
            entry = self._sent.popleft()
            self._used -= entry.texts
            if entry.held:
                entry.leaves = now + entry.span_s
                self._count(entry)
        return self._used

    def fits(self, texts: int, now: float) -> bool:
        """Return whether a request of this size may be sent now."""
        return self.free_at(texts, now) == now

    def add(self, texts: int, now: float, *, held: bool = False) -> Entry:
        """Count a request that is sent now; whether it fits is the caller's question.

        With ``held`` it is sent later: it counts until ``move`` says when, or until its entry is no longer held.
        """
        self.used(now)
        oversize = texts / self.limit if self.limit else 0.0
        span_s = max(self._span_s, oversize)
        entry = Entry(now + span_s, texts, span_s, held=held)
        if texts:
            self._count(entry)
        return entry

    def move(self, entry: Entry, now: float) -> None:
        """Count a request from now on: it was not sent when it was added, but now. It is not held any more.

        Cost: one step for each request that was added since.
        """
        entry.held = False
        if not entry.texts:
            return
        self.used(now)
        later: list[Entry] = []
        while self._sent and self._sent[-1].leaves >= entry.leaves:
            last = self._sent.pop()
            if last is entry:
                self._used -= entry.texts
                break
            later.append(last)
        self._sent.extend(reversed(later))
        entry.leaves = now + entry.span_s
        self._count(entry)

    def _count(self, entry: Entry) -> None:
        self._used += entry.texts
        self._sent.append(entry)
        if len(self._sent) > 1 and self._sent[-2].leaves > entry.leaves:
            self._sent = deque(sorted(self._sent, key=lambda one: one.leaves))

    def free_at(self, texts: int, now: float) -> float | None:
        """Return when a request of this size fits if nothing else is sent before; None if never."""
        return self._opening(texts, now)[0]

    def spare(self, texts: int, now: float) -> int:
        """Return how many texts others may send now without delaying a request of this size that does not fit yet."""
        if self.limit is None or self.limit <= 0:
            return 0
        left_over = self._opening(texts, now)[1]
        return max(0, min(int(self.limit) - self.used(now), left_over))

    def _opening(self, texts: int, now: float) -> tuple[float | None, int]:
        """Return when a request of this size fits, and how many further texts fit at that time."""
        if self.limit is None:
            return now, 0
        if self.limit <= 0:
            return None, 0
        used, at = self.used(now), now
        allowed = self.limit - texts if texts <= self.limit else 0
        for entry in self._sent:
            if used <= allowed:
                break
            used, at = used - entry.texts, entry.leaves
        return at, max(0, int(allowed - used))
