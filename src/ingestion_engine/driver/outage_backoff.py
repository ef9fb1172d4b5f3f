"""The driver's back-off while a dependency is unavailable. Outages pause a job, they never fail it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ingestion_engine.domain.errors import IngestionError, TransientError
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.runtime.telemetry import get_logger

T = TypeVar("T")

log = get_logger(__name__)

LONGEST_PAUSE_S = 60.0
"""Longest pause between two tries, in seconds: long enough for a restarting server, short compared with an outage."""
STOP_CHECK_S = 0.5
"""Interval in seconds at which a pause checks whether the job has to stop."""


class OutageBackoff:
    """Pauses the driver; the pause doubles with every failure in a row and starts again after a success.

    Args:
        monitor: Reports when the job must stop, and shows why it is paused.
        first_pause_s: Pause after the first failure, in seconds.
        sleep: Waits for a number of seconds.
        clock: Returns monotonic time in seconds.
    """

    def __init__(
        self, monitor: Monitor, *, first_pause_s: float, sleep: Callable[[float], None], clock: Callable[[], float]
    ) -> None:
        self._monitor = monitor
        self._first_pause_s = first_pause_s
        self._sleep = sleep
        self._clock = clock
        self._pause_s = 0.0
        self._until = 0.0

    def retry_until_available(self, act: Callable[[], T]) -> T:
        """Call a function until it returns without a TransientError, and return its result; pause between two calls.

        Raises:
            FatalError: raised by the function, or what stopped the job meanwhile.
        """
        while True:
            self._monitor.check()
            try:
                result = act()
            except TransientError as error:
                log.warning("dependency unavailable; waiting", extra=error.log_fields())
                self.pause_for(error)
            else:
                self.reset()
                return result

    def reset(self) -> None:
        """Record a success: the next failure starts with the first pause again."""
        self._pause_s = 0.0

    def back_off(self, why: str, retry_after_s: float | None = None) -> None:
        """Record a failure and lengthen the pause, to at least the time that the server requested.

        Args:
            why: Reason, shown in the job's progress.
            retry_after_s: Time in seconds that the server requested; None if it requested none.
        """
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 if self._pause_s else self._first_pause_s)
        self._until = self._clock() + max(self._pause_s, retry_after_s or 0.0)
        self._monitor.pause(why)

    def wait(self) -> None:
        """Wait until the pause is over, or until soon after the job has to stop."""
        while not self._monitor.should_stop() and (left_s := self._until - self._clock()) > 0:
            self._sleep(min(left_s, STOP_CHECK_S))

    def pause_for(self, error: BaseException) -> None:
        """Record an error as a failure, and wait until the pause is over.

        Raises:
            FatalError: what stopped the job meanwhile.
        """
        context = error.context if isinstance(error, IngestionError) else {}
        self.back_off(str(error), context.get("retry_after_s"))
        self.wait()
        self._monitor.check()
        self._monitor.resume()
