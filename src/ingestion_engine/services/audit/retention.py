"""Removes entries of the audit log that are older than they are kept."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.audit.log import AuditLog, floor_day
from ingestion_engine.services.believed_clock import BelievedClock
from ingestion_engine.services.leadership import Leadership

_log = get_logger(__name__)


class AuditRetention:
    """Removes whole days, so that there is one removal a day. For one event loop.

    Args:
        log: The audit log.
        leadership: The right of this copy of the service to dispatch.
        days: How long entries are kept; 0 means for ever.
        now: Returns the current time.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        log: AuditLog,
        leadership: Leadership,
        *,
        days: int,
        now: Callable[[], Moment],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._leadership = leadership
        self._days = days
        self._believed = BelievedClock(now, clock)
        self._done_for: Moment | None = None

    async def sweep(self) -> None:
        """Remove what is due; nothing while the clock has jumped ahead. No query when this day is done."""
        now = self._believed.read()
        if now is None or not self._days:
            return
        limit = floor_day(now - dt.timedelta(days=self._days))
        if limit == self._done_for:
            return
        removed = await self._log.remove_before(limit, lead=self._leadership.require())
        self._done_for = limit
        if removed:
            _log.info("old audit entries removed", extra={"entries": removed, "before": str(limit)})
