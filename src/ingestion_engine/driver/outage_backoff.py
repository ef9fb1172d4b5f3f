"""OutageBackoff: waiting while something that the job needs is away. Outages pause a job, they never fail it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ingestion_engine.domain.errors import IngestionError, TransientError
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.runtime.telemetry import get_logger

T = TypeVar("T")

log = get_logger(__name__)

LONGEST_PAUSE_S = 60.0
"""Back-off between two tries grows up to this: long enough to spare a server that restarts, short beside an outage."""
LOOK_S = 0.5
"""While pausing, a stop is noticed within about this time."""


class OutageBackoff:
    """One driver's back-off: doubles with every failure in a row, starts anew after a success.

    Args:
        monitor: Says when the job has to stop, and shows why it waits.
        first_pause_s: Pause after the first failure.
        sleep: Waits for that many seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self, monitor: Monitor, first_pause_s: float, sleep: Callable[[float], None], clock: Callable[[], float]
    ) -> None:
        self._monitor = monitor
        self._first_pause_s = first_pause_s
        self._sleep = sleep
        self._clock = clock
        self._pause_s = 0.0
        self._until = 0.0

    def retry_until_available(self, act: Callable[[], T]) -> T:
        """Do something that needs a dependency; while it is away, wait and do it again.

        Raises:
            FatalError: from the act, or what stopped the job meanwhile.
        """
        while True:
            self._monitor.check()
            try:
                result = act()
            except TransientError as error:
                log.warning("waiting for a dependency", extra=error.log_fields())
                self.pause_for(error)
            else:
                self.reset()
                return result

    def reset(self) -> None:
        """Note that something worked."""
        self._pause_s = 0.0

    def back_off(self, why: str, retry_after_s: float | None = None) -> None:
        """Note a failure: ``wait`` will wait longer, at least as long as the server asked for."""
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 if self._pause_s else self._first_pause_s)
        self._until = self._clock() + max(self._pause_s, retry_after_s or 0.0)
        self._monitor.pause(why)

    def wait(self) -> None:
        """Return when the pause is over, or soon after the job has to stop."""
        while not self._monitor.should_stop() and (left_s := self._until - self._clock()) > 0:
            self._sleep(min(left_s, LOOK_S))

    def pause_for(self, error: BaseException) -> None:
        """Back off because of an error, and wait.

        Raises:
            FatalError: what stopped the job meanwhile.
        """
        context = error.context if isinstance(error, IngestionError) else {}
        self.back_off(str(error), context.get("retry_after_s"))
        self.wait()
        self._monitor.check()
        self._monitor.resume()
