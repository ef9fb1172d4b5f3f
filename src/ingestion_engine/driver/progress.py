"""The progress of a job: how much of its work is done, how fast, and how long the rest takes.

Work is measured in estimated chunks and bytes, also of the partitions that are still running: an object that is a
thousand times larger than another one is a thousand times as much progress. A job has one or more plans (ingest, then
compare; compare, then search for stray points); each has a part of the hundred percent.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from ingestion_engine.driver.counts import Counts

MOST_PERCENT = 99.9
"""100 % is reserved for jobs that have made their outcome durable."""
LEAST_ACTIVE_S = 3.0
"""Seconds of work before the remaining time is estimated: the first ones start processes (a guess)."""
STALLED_S = 5.0
"""Seconds in which partitions wait and nothing is done, after which that time is no work (a guess)."""
GAP_S = 15.0
"""Seconds between two measurements, a second apart otherwise, after which the state store must have been hanging; that
time is no work if nothing was done in it (a guess)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement; None is unknown."""

    percent: float | None
    eta_s: float | None
    rates: Mapping[str, float]


class ProgressMeter:
    """Measures the progress of one attempt. Safe to share by threads.

    Args:
        counts: Counts of the job.
    """

    def __init__(self, counts: Counts) -> None:
        self._job = counts
        self._lock = threading.Lock()
        self._plan = counts
        self._first = self._until = 0.0
        """Part of the whole job, 0 to 1, at which the current plan begins and ends."""
        self._is_open = True
        self._done = 0.0
        """Largest part of the job that was shown; later estimates never take it back."""
        self._plan_s = self._active_s = 0.0
        """Seconds without pauses since the current plan's and the attempt's first work."""
        self._stalled_s = 0.0
        """Seconds for which partitions have been waiting while nothing was done."""
        self._amount = 0.0
        self._is_active = False
        self._seen_at: float | None = None
        self._chunks_before = self._bytes_before = 0

    def continue_from(self, percent: float) -> None:
        """Continue where an earlier attempt of the job stopped."""
        with self._lock:
            self._done = self._first = self._until = min(percent, MOST_PERCENT) / 100

    def begin_plan(self, counts: Counts, until: float) -> None:
        """Measure a new plan, which ends at this part of the job, 0 to 1."""
        with self._lock:
            counts.begin_plan()
            self._plan = counts
            self._first, self._until = self._done, max(self._done, until)
            self._is_open = True
            self._plan_s = 0.0

    def close_plan(self) -> None:
        """Record that the current plan is complete: its total does not grow any more."""
        with self._lock:
            self._is_open = False

    def start(self) -> None:
        """Record that work has begun. Idempotent."""
        with self._lock:
            if not self._is_active:
                self._is_active = True
                self._chunks_before, self._bytes_before = self._job.chunks, self._job.bytes_read

    def observe(self, now: float, *, is_paused: bool, is_waiting: bool = False) -> None:
        """Add the time since the last call; called at least once a second.

        Args:
            now: Monotonic time in seconds.
            is_paused: True while the job waits for a dependency.
            is_waiting: True while a partition repeats a request; others may go on.
        """
        with self._lock:
            running = self._job.running_totals()
            amount = self._plan.work()[1] + self._job.chunks + running["chunks"] + self._job.bytes_read
            has_progress, self._amount = amount != self._amount, amount
            since_s = now - self._seen_at if self._seen_at is not None and self._is_active and not is_paused else 0.0
            self._seen_at = now
            if (is_waiting or since_s >= GAP_S) and not has_progress:
                self._stalled_s += since_s
                return
            if self._stalled_s < STALLED_S:
                since_s += self._stalled_s
            self._stalled_s = 0.0
            self._plan_s += since_s
            self._active_s += since_s

    def measure(self, *, is_paused: bool) -> Measured:
        """Return the progress now."""
        with self._lock:
            planned, done = self._plan.work()
            running = self._job.running_totals()
            share = self._first
            if not self._is_open:
                share += (self._until - self._first) * (done / planned if planned else 1.0)
                self._done = max(self._done, share)
            return Measured(
                percent=min(MOST_PERCENT, round(self._done * 100, 1)) if self._job.tally.complete else None,
                eta_s=None
                if is_paused or self._is_open or self._stalled_s >= STALLED_S
                else self._estimate(planned, done),
                rates={
                    "chunks_per_s": self._rate(self._job.chunks - self._chunks_before + running["chunks"], 2),
                    "bytes_per_s": self._rate(self._job.bytes_read - self._bytes_before + running["bytes_read"], 1),
                },
            )

    def _rate(self, amount: float, digits: int) -> float:
        return round(amount / self._active_s, digits) if self._active_s > 0 else 0.0

    def _estimate(self, planned: float, done: float) -> float | None:
        """Return the seconds that are left if the rest takes as long per unit of work; later plans in proportion."""
        if planned and (not done or self._plan_s < LEAST_ACTIVE_S):
            return None
        plan_s = self._plan_s * planned / done if done else 0.0
        later = (1 - self._until) / (self._until - self._first) if self._until > self._first else 0.0
        return round(max(0.0, plan_s - self._plan_s) + plan_s * later, 1)
