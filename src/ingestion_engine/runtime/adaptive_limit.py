"""How many requests to have in flight at one server, learned from what it achieves. Pure; the clock is injected.

A server may be one URL in front of several machines. The best number of requests is then two for each of them: one in
progress and one queued, so that no machine idles between an answer and the next request, and nothing waits longer than
that. The number of machines is what Little's law says: characters per second, times the seconds that a character takes
when its request is alone. Decision record 32 compares this rule with others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final

QUEUED_PER_SLOT: Final = 2
"""Requests per machine behind the URL: one in progress and one queued."""
LARGEST_LIMIT: Final = 32
"""Default upper bound."""
PROBE_EVERY_S: Final = 60.0
"""Least number of seconds between two requests that are sent alone, to see how long a request takes by itself."""
PROBE_COST: Final = 150
"""A probe costs up to one and a half times the duration of a request; so many durations between two keep that below
1 %."""
ALONE_SAMPLES: Final = 5
"""The time per character is the median of the last ones."""
FULL_SHARE: Final = 0.8
"""Part of a round for which the limit must have been reached; else callers were the limit, and nothing is learned."""
RELEARN_S: Final = 300.0
"""Seconds for which a limit counts as learned after a round that filled it."""
LONGEST_GHOST_S: Final = 30.0
"""Longest time for which an abandoned request counts as still running."""


class Outcome(StrEnum):
    """How a request ended, as far as the limit is concerned."""

    DONE = "done"
    """With an answer: its characters count."""
    REFUSED = "refused"
    """With a refusal that is its text's fault: it says nothing about the server."""
    FAILED = "failed"
    """With an error or a time-out: the limit is halved."""
    ABANDONED = "abandoned"
    """Nobody waits for the answer any more, but the server is probably still at it."""


@dataclass(slots=True)
class Passage:
    """One request, from its start to its end."""

    chars: int
    began: float
    is_alone: bool
    """Whether nothing else was in flight so far."""
    is_first: bool
    """Whether nothing else was in flight when it began."""


class AdaptiveLimit:
    """The number of requests to have in flight at one server. For one event loop."""

    def __init__(
        self,
        *,
        most: int = LARGEST_LIMIT,
        capacity: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start at two.

        Args:
            most: Upper bound.
            capacity: Number of requests that the server processes at once, when it is declared: the limit is then twice
                that, at most ``most``, and nothing is learned but failures.
            clock: Monotonic seconds.
        """
        self._clock = clock
        self._most = most
        self._declared = None if capacity is None else min(QUEUED_PER_SLOT * capacity, most)
        self._limit = self._declared or min(QUEUED_PER_SLOT, most)
        self.in_flight = 0
        """Requests that have begun and not ended."""
        self._ghosts: list[float] = []
        """Times at which abandoned requests stop counting."""
        self._alone: Passage | None = None
        self._alone_samples: deque[float] = deque(maxlen=ALONE_SAMPLES)
        self._first_guess: float | None = None
        self._typical_chars = 0.0
        self._next_probe = clock() + PROBE_EVERY_S
        self._is_probing = False
        self._changed_at = clock()
        self._cut_at = float("-inf")
        self._learned_at = float("-inf")
        self._round_began: float | None = None
        self._round_count = 0
        self._round_chars = 0
        self._round_full_s = 0.0
        self._seen_at = clock()
        self._low_rounds = 0

    @property
    def limit(self) -> int:
        """The number of requests to have in flight, at least 1."""
        return self._limit

    @property
    def running(self) -> int:
        """Requests that the server probably works on: those in flight, and those abandoned a short time ago."""
        now = self._clock()
        self._ghosts = [end for end in self._ghosts if end > now]
        return self.in_flight + len(self._ghosts)

    @property
    def room(self) -> int:
        """How many further requests may begin now; negative when more are in flight than the limit."""
        if self._is_probing:
            return 0 if self.running else 1
        return self._limit - self.running

    @property
    def is_learned(self) -> bool:
        """Whether the limit is known to be enough: declared, the upper bound, or found lately by filling it."""
        return self._declared is not None or self._limit == self._most or self._clock() - self._learned_at < RELEARN_S

    @property
    def next_change_at(self) -> float:
        """Clock time at which room appears by itself; infinite when there is no such time."""
        return min(self._ghosts, default=float("inf"))

    def begin(self, chars: int) -> Passage:
        """Record that a request of ``chars`` characters begins."""
        now = self._account()
        is_first = self.running == 0
        passage = Passage(chars, now, is_alone=is_first, is_first=is_first)
        if self._alone is not None:
            self._alone.is_alone = False
        self._alone = passage if is_first else None
        self.in_flight += 1
        return passage

    def end(self, passage: Passage, outcome: Outcome) -> None:
        """Record how a request ended, and adapt the limit."""
        now = self._account()
        self.in_flight -= 1
        if self._alone is passage:
            self._alone = None
        self._is_probing = self._is_probing and not passage.is_first
        if outcome is Outcome.ABANDONED:
            expected = passage.chars * (self._time_per_char or 0.0) * QUEUED_PER_SLOT
            self._ghosts.append(now + min(expected, LONGEST_GHOST_S))
        elif outcome is Outcome.FAILED:
            self._cut(passage, now)
        elif outcome is Outcome.DONE and passage.chars > 0:
            self._note_time(passage, now)
            self._learn(passage, now)

    @property
    def _time_per_char(self) -> float | None:
        return median(self._alone_samples) if self._alone_samples else self._first_guess

    def _account(self) -> float:
        """Add the time since the last event to the round; return the time."""
        now = self._clock()
        if self.in_flight >= self._limit:
            self._round_full_s += now - self._seen_at
        self._seen_at = now
        return now

    def _note_time(self, passage: Passage, now: float) -> None:
        """Learn how long a request takes by itself. A small one says little: each request has a fixed cost too."""
        self._typical_chars += (passage.chars - self._typical_chars) * (0.1 if self._typical_chars else 1.0)
        if passage.chars < self._typical_chars / 2:
            return
        per_char = (now - passage.began) / passage.chars
        if passage.is_alone:
            self._alone_samples.append(per_char)
            self._next_probe = now + max(PROBE_EVERY_S, PROBE_COST * (now - passage.began))
        elif passage.is_first and self._first_guess is None:
            self._first_guess = per_char

    def _learn(self, passage: Passage, now: float) -> None:
        """Add a request to the round; at its end, adapt the limit."""
        if self._declared is not None:
            if passage.began >= self._changed_at and self._limit < self._declared:
                self._set_limit(min(2 * self._limit, self._declared), now)
            return
        if self._round_began is None:
            if passage.began >= self._changed_at:
                self._begin_round(now)
            return
        self._round_count += 1
        self._round_chars += passage.chars
        if self._round_count < max(self._limit, 2) or now <= self._round_began:
            return
        seconds, chars, full_s = now - self._round_began, self._round_chars, self._round_full_s
        self._begin_round(now)
        if full_s < FULL_SHARE * seconds or self._time_per_char is None:
            return
        slots = chars / seconds * self._time_per_char
        self._adapt(slots, now)

    def _adapt(self, slots: float, now: float) -> None:
        target = min(max(round(QUEUED_PER_SLOT * slots), QUEUED_PER_SLOT), self._most)
        if slots < 0.75 * self._limit:
            self._learned_at = now
        if target > self._limit:
            self._low_rounds = 0
            self._set_limit(min(target, 2 * self._limit), now)
        elif target < self._limit:
            self._low_rounds += 1
            if self._low_rounds >= 2:
                self._low_rounds = 0
                self._set_limit(target, now)
        else:
            self._low_rounds = 0
        if now >= self._next_probe:
            self._is_probing = True
            self._next_probe = now + PROBE_EVERY_S

    def _cut(self, passage: Passage, now: float) -> None:
        """Halve the limit, once for all requests that were in flight together."""
        if passage.began < self._cut_at:
            return
        self._cut_at = now
        self._set_limit(max(self._limit // 2, 1), now)

    def _set_limit(self, limit: int, now: float) -> None:
        self._limit, self._changed_at, self._round_began = limit, now, None

    def _begin_round(self, now: float) -> None:
        self._round_began, self._round_count, self._round_chars, self._round_full_s = now, 0, 0, 0.0
