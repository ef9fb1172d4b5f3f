"""The driver's back-off while a dependency is unavailable. Outages pause a job, they never fail it.

One outage is one sequence of pauses, however many partitions meet it. While the driver waits, it probes the dependency
with a cheap request, and continues as soon as that succeeds::

    failure ─► pause ─► probe … probe succeeds, or the pause is over ─► try ─► success: the outage is over
                 ▲                                                       └─► failure: the next, longer pause

See docs/decisions/0022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ingestion_engine.domain.errors import FatalError, IngestionError, TlsFailed, TransientError
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.runtime.telemetry import get_logger

T = TypeVar("T")

log = get_logger(__name__)

LONGEST_PAUSE_S = 60.0
"""Longest pause between two tries, in seconds: long enough for a restarting server, short compared with an outage."""
STOP_CHECK_S = 0.5
"""Interval in seconds at which a pause checks whether the job has to stop."""
SHORTEST_SLEEP_S = 0.01
"""Shortest sleep in seconds, so that a pause that ends at this moment does not spin."""
PROBE_EVERY_S = 2.0
"""Interval in seconds between two probes of a pause: the end of an outage is noticed within it (a guess)."""

Probe = Callable[[str], bool | None]
"""Asks the dependency that raised an error with this code: True when it answers, False when it is unavailable, None
when it cannot be asked."""


@dataclass(slots=True)
class _Outage:
    """One outage: from the first failure to the first success after a pause."""

    began_at: float
    pause_s: float
    """Length of the pause, unless a probe ends it earlier or shows that the dependency is still unavailable."""
    paused_at: float
    probe_at: float
    not_before: float
    """A probe does not end the pause before: a server requested the time, or an earlier probe was wrong."""
    least_s: float
    """Shortest pause; grows with every probe that succeeded although the next try failed again."""
    steps: int
    """Number of pauses."""
    is_paused: bool = field(default=True, init=False)
    ended_by_probe: bool = field(default=False, init=False)
    is_down: bool = field(default=False, init=False)
    """True when the last probe found a dependency unavailable."""
    codes: set[str] = field(default_factory=set, init=False)


class OutageBackoff:
    """Pauses the driver; the pause doubles with every pause of an outage and starts again after a success.

    For one thread.

    Args:
        monitor: Reports when the job must stop, and shows why it is paused.
        first_pause_s: First pause of an outage, in seconds.
        sleep: Waits for a number of seconds.
        clock: Returns monotonic time in seconds.
        probe: Asks a dependency whether it is available again.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        first_pause_s: float,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        probe: Probe = lambda _code: None,
    ) -> None:
        self._monitor = monitor
        self._first_pause_s = first_pause_s
        self._sleep = sleep
        self._clock = clock
        self._probe = probe
        self._outage: _Outage | None = None
        self._steps = 0
        self.number = 0
        """Number of outages so far."""
        self.paused_s = 0.0
        """Seconds of all pauses that are over."""
        self.refuses_tls = False
        """True while nothing is written: a certificate that is not accepted then ends the job instead of pausing it."""

    @property
    def step(self) -> int:
        """Number of pauses so far; tells work that began before a pause from work that began after it."""
        return self._steps

    def retry_until_available(self, act: Callable[[], T]) -> T:
        """Call a function until it returns without a TransientError, and return its result; pause between two calls.

        Raises:
            FatalError: raised by the function, or what stopped the job meanwhile; "tls_failed" while ``refuses_tls``.
        """
        codes: set[str] = set()
        while True:
            self._monitor.check()
            try:
                self._monitor.confirm_lease()
                result = act()
            except TransientError as error:
                if self.refuses_tls and isinstance(error, TlsFailed):
                    raise FatalError(error.code, error.message, hint=error.hint, **error.context) from error
                codes.add(error.code)
                self.pause_for(error)
            else:
                # Success of another dependency is no news of the one that is unavailable.
                if codes and self._outage is not None and self._outage.codes <= codes:
                    self.reset()
                return result

    def reset(self, began_at_step: int | None = None) -> None:
        """Record a success: the outage is over, unless the work began before its last pause.

        Args:
            began_at_step: ``step`` when the work began; None means after the last pause.
        """
        outage = self._outage
        if outage is None or (began_at_step is not None and began_at_step < self._steps):
            return
        self._outage = None
        self._monitor.resume(by=self)
        codes, seconds = ", ".join(sorted(outage.codes)), round(self._clock() - outage.began_at, 1)
        self._monitor.trace.record_outage(outage.codes, seconds, outage.steps)
        log.info("outage over", extra={"error_codes": codes, "outage_s": seconds, "pauses": outage.steps})

    def back_off(
        self, why: str, retry_after_s: float | None = None, *, code: str = "", began_at_step: int | None = None
    ) -> None:
        """Record a failure, which begins a pause; the failures of one outage share its pauses.

        A failure during a pause, or of work that began before the last pause, only adds to what is known of the outage.

        Args:
            why: Reason, shown in the job's progress.
            retry_after_s: Time in seconds that the server requested; None if it requested none.
            code: Code of the error, by which the dependency is probed.
            began_at_step: ``step`` when the work began; None means after the last pause.
        """
        now = self._clock()
        outage = self._outage
        is_known = outage is not None and (
            outage.is_paused or (began_at_step is not None and began_at_step < self._steps)
        )
        if not is_known:
            self.number += outage is None
            outage = self._outage = self._begin_pause(outage, now)
        assert outage is not None
        outage.not_before = max(outage.not_before, now + (retry_after_s or 0.0))
        if is_known and code in outage.codes:
            return
        outage.codes.add(code)
        self._monitor.pause(why, by=self, codes=frozenset(outage.codes))
        log.warning(
            "paused: a dependency is unavailable",
            extra={"error_code": code, "error": why, "pause_s": outage.pause_s, "pauses": outage.steps},
        )

    def _begin_pause(self, before: _Outage | None, now: float) -> _Outage:
        self._steps += 1
        pause_s, least_s = self._first_pause_s, 0.0
        if before is not None:
            pause_s = min(LONGEST_PAUSE_S, before.pause_s * 2)
            least_s = before.least_s
            if before.ended_by_probe:
                least_s = min(LONGEST_PAUSE_S, least_s * 2 or self._first_pause_s)
        return _Outage(
            began_at=now if before is None else before.began_at,
            pause_s=pause_s,
            paused_at=now,
            # Not at once: a dependency that drops one request answers the next one, and is asked again by the work.
            probe_at=now + min(PROBE_EVERY_S, pause_s) / 2,
            not_before=now + least_s,
            least_s=least_s,
            steps=1 if before is None else before.steps + 1,
        )

    def is_paused(self) -> bool:
        """Return whether the driver must not begin new work; at most one probe. Does not wait."""
        outage = self._outage
        if outage is None or not outage.is_paused:
            return False
        now = self._clock()
        if now >= outage.probe_at:
            answers = [self._probe(code) for code in sorted(outage.codes)]
            now = self._clock()
            outage.probe_at = now + PROBE_EVERY_S
            outage.is_down = False in answers
            outage.ended_by_probe = all(answers) and now >= outage.not_before
        if outage.ended_by_probe or now >= self._ends_at(outage):
            outage.is_paused = False
            self._monitor.resume(by=self)
            self.paused_s += now - outage.paused_at
            paused_s = round(now - outage.paused_at, 1)
            log.info("trying again", extra={"paused_s": paused_s, "answers_again": outage.ended_by_probe})
        return outage.is_paused

    @staticmethod
    def _ends_at(outage: _Outage) -> float:
        # Work that would meet the same outage is not begun; but a probe may be wrong, so one try a minute is.
        pause_s = LONGEST_PAUSE_S if outage.is_down else outage.pause_s
        return max(outage.paused_at + pause_s, outage.not_before)

    def wait(self) -> None:
        """Wait until the pause is over, or until soon after the job has to stop."""
        while self.wait_a_moment():
            pass

    def wait_a_moment(self) -> bool:
        """Wait for at most ``STOP_CHECK_S`` of a pause; return False, at once, when there is nothing to wait for."""
        if self._monitor.is_interrupted() or not self.is_paused():
            return False
        outage = self._outage
        assert outage is not None
        left_s = min(outage.probe_at, self._ends_at(outage)) - self._clock()
        self._sleep(min(STOP_CHECK_S, max(left_s, SHORTEST_SLEEP_S)))
        return True

    def pause_for(self, error: BaseException) -> None:
        """Record an error as a failure, and wait until the pause is over.

        Raises:
            FatalError: what stopped the job meanwhile.
        """
        context = error.context if isinstance(error, IngestionError) else {}
        code = error.code if isinstance(error, IngestionError) else ""
        self.back_off(str(error), context.get("retry_after_s"), code=code)
        self.wait()
        self._monitor.check()
