"""The monitor: writes progress and log, and checks abort marker, lease and deadline, once a second in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from ingestion_engine.domain.errors import FatalError, IngestionError, JobAborted, LeaseLost, TransientError
from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.driver.counts import Counts, RateMeter
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.lease import HeldLease
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

TICK_S = 1.0
"""Seconds between two writes of the progress: at most one write per second (docs/architecture.md)."""
LOG_TICKS = 5
"""The log tail is written with every fifth tick."""


class Monitor:
    """Watches a job from ``with`` entry to exit.

    Args:
        spec: Spec of the job.
        attempt: Number of the attempt.
        ledger: Ledger of the job.
        counts: Counts of the job.
        log_text: Returns the end of the driver's log when it has changed, else None.
        begun: Monotonic time in seconds at which the attempt began; None means now.
    """

    def __init__(
        self,
        spec: JobSpec,
        attempt: int,
        ledger: Ledger,
        *,
        counts: Counts,
        log_text: Callable[[], str | None],
        begun: float | None = None,
    ) -> None:
        self._spec = spec
        self._attempt = attempt
        self._ledger = ledger
        self._counts = counts
        self._log_text = log_text
        self._started = time.monotonic() if begun is None else begun
        self._meter = RateMeter()
        self._ended = threading.Event()
        self._finishing = False
        self._note: str | None = None
        self._paused = False
        self._thread = threading.Thread(target=self._run, name="ingest-monitor", daemon=True)
        self._lease: HeldLease | None = None
        self.phase = "planning"
        self.stopped: FatalError | None = None
        self.epoch = 0

    @property
    def lease(self) -> HeldLease | None:
        """The lease while the driver holds it, else None."""
        return self._lease

    @lease.setter
    def lease(self, lease: HeldLease | None) -> None:
        self._lease = lease
        if lease is not None:
            self.epoch = lease.epoch

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if not isinstance(self.stopped, LeaseLost):
            self._write(with_log=True)

    def stop(self, error: FatalError) -> None:
        """Record the error that ends the job; the first one stays, but a lost lease replaces any other."""
        if self.stopped is None or isinstance(error, LeaseLost):
            self.stopped = error

    def should_stop(self) -> bool:
        """True when no new work may begin."""
        return self.stopped is not None

    def check(self) -> None:
        """Raise the error that ends the job, if there is one; while finishing, only a lost lease."""
        if self.stopped is not None and (not self._finishing or isinstance(self.stopped, LeaseLost)):
            raise self.stopped

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Keep an abort or a deadline from interrupting the ``with`` block, which makes the outcome durable."""
        before, self._finishing = self._finishing, True
        try:
            yield
        finally:
            self._finishing = before

    def pause(self, why: str) -> None:
        """Show that the job is paused, and why."""
        self._paused, self._note = True, why

    def resume(self) -> None:
        """Show that the job is running again."""
        self._paused, self._note = False, None
        self._meter.start()

    def elapsed_s(self) -> float:
        """Return the seconds since the attempt began."""
        return round(time.monotonic() - self._started, 3)

    def _run(self) -> None:
        ticks = 0
        while not self._ended.wait(TICK_S):
            ticks += 1
            self._check_job()
            if not isinstance(self.stopped, LeaseLost):
                self._write(with_log=ticks % LOG_TICKS == 0)

    def _check_job(self) -> None:
        try:
            if self._lease is not None:
                self._lease.check()
            if self._ledger.is_aborted():
                self.stop(JobAborted("job_aborted", "The job was canceled."))
        except FatalError as error:
            self.stop(error)
        except TransientError as error:
            log.warning("cannot check lease and abort marker", extra=error.log_fields())
        limit_s = self._spec.request.max_runtime_s
        if self.elapsed_s() > limit_s:
            message = f"The attempt ran longer than the max_runtime_s of {limit_s} seconds."
            hint = "Submit the job again; it continues where it stopped."
            self.stop(FatalError("max_runtime_exceeded", message, hint=hint))

    def _write(self, *, with_log: bool) -> None:
        try:
            self._ledger.write_progress(self._progress())
            if with_log and (text := self._log_text()) is not None:
                self._ledger.write_log(self._attempt, text)
        except IngestionError as error:
            log.warning("cannot write progress", extra=error.log_fields())

    def _progress(self) -> dict[str, Any]:
        rates, eta_s = self._meter.measure(self._counts)
        return {
            "format": 1,
            "attempt": self._attempt,
            "phase": "paused" if self._paused else self.phase,
            "updated_at": timestamp_now(),
            "planning_complete": self._counts.tally.complete,
            "counts": self._counts.to_json(),
            "rates": rates,
            "eta_s": eta_s if self._counts.tally.complete else None,
            "note": self._note,
        }
