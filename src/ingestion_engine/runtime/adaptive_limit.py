"""How many requests to have in flight at one server, learned from what it achieves. Pure; the clock is injected.

A server may be one URL in front of several machines, each of which processes one request at a time. The best number is
then two per machine: one in progress and one queued, so that no machine idles between an answer and the next request,
and nothing waits longer than that. The number of machines at work is what Little's law says: requests in flight,
times the part of their time that they would take alone at the server. So the limit grows as long as more requests in
flight bring more characters per second, and falls when they do not. Decision record 32 compares this rule with others.
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
ALONE_SAMPLES: Final = 5
"""The time per character is the median of the last measurements, so that one slow answer does not double the limit."""
PROBES: Final = ((5.0, 40), (10.0, 80), (20.0, 100), (40.0, 150), (60.0, 150))
"""Time between two requests that are sent alone: in seconds, and at least in durations of a request; the last again and
again. One costs up to one and a half durations, so 150 keep it at 1 %; the first come sooner, because one measurement
of a noisy server is not enough."""
SECOND_OPINION: Final = 0.25
"""A measurement that differs from the median by more, and by more than three times the usual deviation, is repeated
soon; two that do replace all others."""
SECOND_OPINION_S: Final = 2.0
SUSPECT_S: Final = 10.0
"""Least number of seconds between two probes because of a suspicion; doubles while suspicions prove wrong."""
FULL_SHARE: Final = 0.8
"""Part of a round for which the limit must have been reached; else callers were the limit, and nothing is learned."""
QUEUE_SEEN: Final = 0.75
"""With fewer machines at work than this part of the requests in flight, the others were queued: growing is no use."""
GAIN: Final = 0.3
"""Weight of a round in the number of machines once requests are queued; while they are not, the last round counts."""
DEAD_BAND: Final = 0.1
"""A limit that is off by this part, or by less than one, stays."""
IMPOSSIBLE: Final = 1.15
"""More machines at work than this multiple of the requests in flight: a request takes less time than was measured."""
LOST: Final = 0.75
"""A limit that falls below this part of what it was at the last probe: fewer machines, or slower ones? Probe first."""
RELEARN_S: Final = 300.0
"""Seconds for which a limit counts as learned after a round in which requests were queued."""
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
    is_first: bool
    """Whether nothing else was in flight when it began."""
    is_alone: bool
    """Whether nothing else has been in flight since."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """How long a request took by itself."""

    chars: int
    per_char_s: float


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
            most: Upper bound. With two or less there is nothing to learn but failures.
            capacity: Number of requests that the server processes at once, when it is declared: the limit is then twice
                that, at most ``most``, and nothing is learned but failures.
            clock: Monotonic seconds.
        """
        now = clock()
        self._clock = clock
        self._most = most
        enough = most if capacity is None else min(QUEUED_PER_SLOT * capacity, most)
        self._declared = enough if capacity is not None or most <= QUEUED_PER_SLOT else None
        self._limit = self._declared or min(QUEUED_PER_SLOT, most)
        self.in_flight = 0
        """Requests that have begun and not ended."""
        self._ghosts: list[float] = []
        """Times at which abandoned requests stop counting."""
        # How long a request takes by itself.
        self._mean_chars = self._mean_square = 0.0
        self._alone: Passage | None = None
        self._samples: deque[_Sample] = deque(maxlen=ALONE_SAMPLES)
        self._first_guess: _Sample | None = None
        self._odd_sample: _Sample | None = None
        # When one is sent alone to find out.
        self._is_probing = False
        self._probes = 0
        self._next_probe = now + PROBES[0][0]
        self._probed_limit = self._limit
        self._suspicions = 0
        self._next_suspicion = now + SUSPECT_S
        # What was achieved since the limit was set.
        self._changed_at = now
        self._cut_at = float("-inf")
        self._learned_at = float("-inf")
        self._slots = 0.0
        self._low_rounds = 0
        self._round_began: float | None = None
        self._round_count = self._round_chars = 0
        self._round_full_s = self._round_area = self._round_taken_s = 0.0
        self._seen_at = now

    @property
    def limit(self) -> int:
        """The number of requests to have in flight, at least 1."""
        return self._limit

    @property
    def running(self) -> int:
        """Requests that the server probably works on: those in flight, and those abandoned a short time ago."""
        if self._ghosts:
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
        if self._declared is not None or self._limit == self._most:
            return True
        return self._clock() - self._learned_at < RELEARN_S

    @property
    def next_change_at(self) -> float:
        """Clock time at which room appears by itself; infinite when there is no such time."""
        return min(self._ghosts, default=float("inf"))

    def begin(self, chars: int) -> Passage:
        """Record that a request of ``chars`` characters begins, whether or not there was room."""
        now = self._account()
        is_first = self.running == 0
        if self._alone is not None:
            self._alone.is_alone = False
        if self._is_probing and not is_first:  # an urgent one slipped in
            self._is_probing, self._next_probe = False, now + SUSPECT_S
        passage = Passage(chars, now, is_first=is_first, is_alone=is_first)
        self._alone = passage if is_first else None
        self.in_flight += 1
        return passage

    def end(self, passage: Passage, outcome: Outcome, *, load_s: float = 0.0) -> None:
        """Record how a request ended, and adapt the limit.

        Args:
            passage: What ``begin`` returned.
            outcome: How it ended.
            load_s: Seconds of it for which the server loaded the model; they say nothing about other requests.
        """
        now = self._account()
        self.in_flight -= 1
        if self._alone is passage:
            self._alone = None
        if self._is_probing and passage.is_first:
            self._is_probing = False
            self._changed_at, self._round_began = now, None
        if outcome is Outcome.ABANDONED:
            expected_s = passage.chars * (self._time_per_char or 0.0)
            end = max(passage.began + QUEUED_PER_SLOT * expected_s, now + expected_s)
            self._ghosts.append(min(end, now + LONGEST_GHOST_S))
        elif outcome is Outcome.FAILED:
            self._cut(passage, now)
        elif outcome is Outcome.DONE and passage.chars > 0:
            if self._declared is None:
                self._note_time(passage, max(now - load_s, passage.began))
                self._add_to_round(passage, now)
            elif passage.began >= self._changed_at and self._limit < self._declared:
                self._set_limit(min(2 * self._limit, self._declared), now)

    def _account(self) -> float:
        """Add the time since the last event to the round; return the time."""
        now = self._clock()
        seconds = now - self._seen_at
        self._round_area += self.in_flight * seconds
        if self.in_flight >= self._limit:
            self._round_full_s += seconds
        self._seen_at = now
        return now

    # How long a request takes by itself

    @property
    def _time_per_char(self) -> float | None:
        """Seconds per character of a request that is alone; None while no request of a usual size was."""
        usable = [sample.per_char_s for sample in self._samples if self._is_usual(sample.chars)]
        if usable:
            return median(usable)
        guess = self._first_guess
        return guess.per_char_s if guess is not None and self._is_usual(guess.chars) else None

    def _is_usual(self, chars: int) -> bool:
        """Whether a request of this size tells the time of others: each has a fixed cost too, which small ones hide."""
        return 2 * chars * self._mean_chars >= self._mean_square  # half of the mean size, weighted by size

    def _note_time(self, passage: Passage, ended: float) -> None:
        """Learn how long a request takes; ``ended`` is when it would have ended had the model been loaded."""
        now = self._clock()
        weight = 0.1 if self._mean_chars else 1.0
        self._mean_chars += weight * (passage.chars - self._mean_chars)
        self._mean_square += weight * (passage.chars**2 - self._mean_square)
        if not self._is_usual(passage.chars):
            return
        sample = _Sample(passage.chars, (ended - passage.began) / passage.chars)
        if passage.is_alone:
            self._note_alone(sample, now)
        elif passage.is_first and self._first_guess is None:
            self._first_guess = sample
            self._next_probe = max(self._next_probe, now + PROBES[0][1] * (ended - passage.began))

    def _note_alone(self, sample: _Sample, now: float) -> None:
        """Learn from a request that was alone, and choose the time of the next one."""
        duration_s = sample.per_char_s * sample.chars
        if now >= self._next_probe or not self._samples:
            self._probes = min(self._probes + 1, len(PROBES))
        seconds, durations = PROBES[max(self._probes - 1, 0)]
        self._next_probe = now + max(seconds, durations * duration_s)
        self._probed_limit = self._limit
        known = [other.per_char_s for other in self._samples if self._is_usual(other.chars)]
        middle = median(known) if known else sample.per_char_s
        spread = median(abs(other - middle) for other in known) if known else 0.0
        is_odd = abs(sample.per_char_s - middle) > max(SECOND_OPINION * middle, 3 * spread)
        before = self._odd_sample
        if is_odd and before is not None and (sample.per_char_s > middle) == (before.per_char_s > middle):
            self._samples.clear()
            self._samples.append(before)
            self._suspicions = 0
            is_odd = False
        elif is_odd:
            self._next_probe = now + max(SECOND_OPINION_S, 8 * duration_s)
        self._samples.append(sample)
        self._odd_sample = sample if is_odd else None

    def _suspect(self, now: float) -> bool:
        """Ask for a probe, unless there were many; return whether it will come."""
        if now < self._next_suspicion:
            return False
        self._suspicions += 1
        usual_s = (self._time_per_char or 0.0) * self._mean_chars
        self._next_suspicion = now + max(SUSPECT_S, PROBES[0][1] * usual_s) * 2.0 ** min(self._suspicions - 1, 5)
        self._next_probe = min(self._next_probe, now)
        return True

    # What the requests in flight achieve

    def _add_to_round(self, passage: Passage, now: float) -> None:
        """Add a request to the round; at its end, adapt the limit."""
        if self._round_began is None:
            if passage.began >= self._changed_at:  # the ones before were sent under another limit
                self._begin_round(now)
            return
        self._round_count += 1
        self._round_chars += passage.chars
        self._round_taken_s += now - passage.began
        if self._round_count < max(self._limit, 2) or now <= self._round_began or self._round_taken_s <= 0.0:
            return
        seconds, per_char_s = now - self._round_began, self._time_per_char
        is_full = self._round_full_s >= FULL_SHARE * seconds
        chars_per_s = self._round_area / seconds * self._round_chars / self._round_taken_s  # by Little's law
        self._begin_round(now)
        if not is_full:
            return
        if per_char_s is None:
            self._next_probe = min(self._next_probe, now)
        else:
            self._adapt(chars_per_s * per_char_s, now)
        if now >= self._next_probe:
            self._is_probing = True

    def _adapt(self, slots: float, now: float) -> None:
        """Move the limit towards twice the number of machines that were at work in a round."""
        is_queueing = slots < QUEUE_SEEN * self._limit
        if is_queueing:
            self._learned_at = now
        self._slots += (slots - self._slots) * (GAIN if is_queueing and self._slots else 1.0)
        wanted = min(max(QUEUED_PER_SLOT * self._slots, float(QUEUED_PER_SLOT)), float(self._most))
        is_near = abs(wanted - self._limit) <= max(0.75, DEAD_BAND * self._limit)
        self._low_rounds = self._low_rounds + 1 if wanted < self._limit and not is_near else 0
        if slots > IMPOSSIBLE * self._limit and self.is_learned:
            self._suspect(now)
        elif wanted > self._limit and not is_near:
            self._set_limit(min(round(wanted), 2 * self._limit), now)
        elif self._low_rounds >= 2 and (wanted > LOST * self._probed_limit or not self._suspect(now)):
            self._set_limit(round(wanted), now)

    def _cut(self, passage: Passage, now: float) -> None:
        """Halve the limit, once for all requests that were in flight together."""
        if passage.began <= self._cut_at:
            return
        self._cut_at, self._slots = now, 0.0
        self._set_limit(max(self._limit // 2, 1), now)

    def _set_limit(self, limit: int, now: float) -> None:
        self._limit, self._changed_at, self._round_began, self._low_rounds = limit, now, None, 0

    def _begin_round(self, now: float) -> None:
        self._round_began, self._round_count, self._round_chars = now, 0, 0
        self._round_full_s = self._round_area = self._round_taken_s = 0.0
