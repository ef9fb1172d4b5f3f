"""The monitor: writes progress and log, and checks abort marker, lease and deadline, once a second in a thread.

Its thread never ends before the attempt: an unexpected error in one step is logged, and the next step follows. An
attempt that cannot be checked for ``BLIND_S`` ends with that error as the cause.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from ingestion_engine.domain.errors import FatalError, IngestionError, JobAborted, LeaseLost, TransientError
from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.driver.attempt_trace import AttemptTrace
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.progress import ProgressMeter
from ingestion_engine.driver.samples import ThroughputSamples
from ingestion_engine.driver.wait_causes import LEASE, name_causes
from ingestion_engine.runtime.background import start_background
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now, utc_now
from ingestion_engine.state.lease import HeldLease
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

TICK_S = 1.0
"""Seconds between two writes of the progress: at most one write per second (docs/architecture.md)."""
LOG_TICKS = 5
"""The log tail is written with every fifth tick."""
LOG_EVERY_S = 10.0
"""Shortest interval in seconds between two lines of progress in the log."""
LOG_AT_LEAST_EVERY_S = 60.0
"""Longest interval: it grows with the age of the attempt, a tenth of it, so that a day fits into the log's end."""
PARTITIONS_TICKS = 5
"""The progress of running partitions is read with every fifth tick, and with each tick while they wait."""
BLIND_S = 30.0
"""Seconds of unexpected errors in every check after which the attempt ends: a cancel request, or a lease that another
attempt holds, would go unnoticed. As long as a lease lives without a heartbeat."""


class Monitor:
    """Watches a job from ``with`` entry to exit.

    Args:
        spec: Spec of the job.
        attempt: Number of the attempt.
        ledger: Ledger of the job.
        counts: Counts of the job.
        log_text: Returns the end of the driver's log when it has changed, else None.
        begun: Monotonic time in seconds at which the attempt began; None means now.
        clock: Returns monotonic time in seconds.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._attempt = attempt
        self._ledger = ledger
        self._counts = counts
        self._log_text = log_text
        self._clock = clock
        self._started = clock() if begun is None else begun
        self.meter = ProgressMeter(counts)
        self._lock = threading.Lock()
        """Guards what several threads write: the lease, the error that ends the job, and the pauses."""
        self._ended = threading.Event()
        self._finishing = False
        self._pauses: dict[object, str] = {}
        self._pause_codes: dict[object, frozenset[str]] = {}
        self._thread: threading.Thread | None = None
        self._lease: HeldLease | None = None
        self._ticks = 0
        self._logged_at = self._started
        self._unwritten_log: str | None = None
        self._former_counts: Mapping[str, int] | None = None
        """Counts of the last attempt, until those of this one are complete: nothing done is lost meanwhile."""
        self._former_percent = 0.0
        self._is_continued = attempt == 1
        self._blind_since: float | None = None
        self._waiting_since: float | None = None
        self.waited_s = 0.0
        """Seconds in which a partition repeated a request; the job was not paused."""
        self.wait_seconds: dict[str, float] = {}
        """Seconds in which the job was paused or waited, by what it waited for, over all attempts."""
        self.phase_seconds: dict[str, float] = {}
        """Seconds in each phase, over all attempts."""
        self._samples = ThroughputSamples()
        self._waits_counted_at = self._started
        self._failing: dict[str, str] = {}
        """The last unexpected error of each part of a step, so that an error that persists is logged once."""
        self.trace = AttemptTrace(spec, attempt)
        self.phase = "planning"
        self.note: str | None = None
        """What the job waits for, when it is not an outage; shown as its note."""
        self.stopped: FatalError | None = None
        self.epoch = 0

    @property
    def phase(self) -> str:
        """What the attempt is doing, as its progress shows it."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._phase = phase
        self.trace.enter(phase)

    @property
    def lease(self) -> HeldLease | None:
        """The lease while the driver holds it, else None."""
        return self._lease

    @lease.setter
    def lease(self, lease: HeldLease | None) -> None:
        # Once this returns, the monitor does not check the former lease any more: the driver may release it.
        with self._lock:
            self._lease = lease
        if lease is not None:
            self.epoch = lease.epoch

    def __enter__(self) -> Self:
        self._thread = start_background(self._run, name="ingest-monitor", on_failure=self._stop_unexpectedly)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._guard("progress", self._write_progress)
        self._guard("log", self._write_log)
        self.trace.enter(None)

    def stop(self, error: FatalError) -> None:
        """Record the error that ends the job; the first one stays, but a lost lease replaces any other."""
        with self._lock:
            if self.stopped is None or isinstance(error, LeaseLost):
                self.stopped = error

    def should_stop(self) -> bool:
        """True when no new work may begin."""
        return self.stopped is not None

    def is_interrupted(self) -> bool:
        """True when ``check`` raises: the job has to stop, and nothing durable is being finished."""
        stopped = self.stopped
        return stopped is not None and (not self._finishing or isinstance(stopped, LeaseLost))

    def check(self) -> None:
        """Raise the error that ends the job, if there is one; while finishing, only a lost lease."""
        if self.is_interrupted():
            assert self.stopped is not None
            raise self.stopped

    def confirm_lease(self) -> None:
        """Return while this attempt may write. A request only when the lease has not been renewed in time.

        Not left to the next tick: a driver that was frozen must not write before it notices.

        Raises:
            LeaseLost: another attempt has the lease.
            TransientError: the state store is unavailable, so that nobody knows who has it.
        """
        lease = self._lease
        if lease is None:
            return
        try:
            try:
                lease.check()
            except TransientError:
                lease.renew()
        except FatalError as error:
            self.stop(error)
            raise

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Keep an abort or a deadline from interrupting the ``with`` block, which makes the outcome durable."""
        before, self._finishing = self._finishing, True
        try:
            yield
        finally:
            self._finishing = before

    def pause(self, why: str, by: object = None, *, codes: frozenset[str] = frozenset()) -> None:
        """Show that the job is paused, and why.

        Args:
            why: Reason, for humans.
            by: What paused it; several may have paused it at the same time.
            codes: Codes of the errors that are the reason.
        """
        with self._lock:
            self._pauses[by] = why
            self._pause_codes[by] = codes

    def resume(self, by: object = None) -> None:
        """Show that the job is running again, unless something else has paused it too."""
        with self._lock:
            self._pauses.pop(by, None)
            self._pause_codes.pop(by, None)
        self.meter.start()

    def continue_from(self, before: Mapping[str, Any]) -> None:
        """Show the counts and the percent of the last progress of the job until this attempt has planned."""
        self._is_continued = True
        self._former_counts = before.get("counts")
        self._former_percent = float(before.get("percent") or 0.0)
        timings = before.get("timings") or {}
        for name, held in (("wait_seconds", self.wait_seconds), ("phase_seconds", self.phase_seconds)):
            for cause, seconds in (timings.get(name) or {}).items():
                held[cause] = held.get(cause, 0.0) + seconds
        self._samples.continue_from(before.get("throughput"))
        self.meter.continue_from(self._former_percent)

    def elapsed_s(self) -> float:
        """Return the seconds since the attempt began."""
        return round(self._clock() - self._started, 3)

    def _run(self) -> None:
        while not self._ended.wait(TICK_S):
            self.step()

    def step(self) -> None:
        """Check the job and write its progress once. Never raises an Exception."""
        self._ticks += 1
        self._guard("deadline", self._check_deadline)
        now = self._clock()
        error = self._guard("lease and abort marker", self._check_job)
        if error is None or isinstance(error, IngestionError):
            self._blind_since = None
        elif self._blind_since is None:
            self._blind_since = now
        elif now - self._blind_since >= BLIND_S:
            self._stop_unexpectedly(error)
        is_due = self._ticks % PARTITIONS_TICKS == 0 or self._waiting_since is not None
        if is_due and self.phase == "running":
            self._guard("running partitions", self._read_running)
        self._note_waits()
        self._count_waits()
        self._guard("samples", self._take_sample)
        self._guard("progress", self._write_progress)
        self._guard("log of progress", self._log_progress)
        if self._ticks % LOG_TICKS == 0:
            self._guard("log", self._write_log)

    def _guard(self, part: str, act: Callable[[], None]) -> Exception | None:
        """Call a part of a step and return its error, if any; an error is logged when it is new and when it ends."""
        try:
            act()
        except Exception as error:  # the monitor's thread must outlive any defect in one of its parts
            text = f"{type(error).__name__}: {error}"
            if self._failing.get(part) == text:
                return error
            self._failing[part] = text
            if isinstance(error, IngestionError):
                log.warning("the monitor could not do a part of its work", extra={"part": part, **error.log_fields()})
            else:
                log.exception("the monitor failed unexpectedly", extra={"part": part})
            return error
        if self._failing.pop(part, None) is not None:
            log.info("the monitor works again", extra={"part": part})
        return None

    def _stop_unexpectedly(self, cause: BaseException) -> None:
        self.stop(
            FatalError(
                "unexpected_error",
                f"The driver could not check its job any more: {type(cause).__name__}: {cause}.",
                hint="Read the log of the job, and submit it again; it continues where it stopped.",
            )
        )

    def _check_deadline(self) -> None:
        limit_s = self._spec.request.max_runtime_s
        if self.elapsed_s() > limit_s:
            message = f"The attempt ran longer than the max_runtime_s of {limit_s} seconds."
            hint = "Submit the job again; it continues where it stopped."
            self.stop(FatalError("max_runtime_exceeded", message, hint=hint))

    def look_for_abort(self) -> None:
        """Stop the attempt if the job has been canceled. One request; errors of the state store are raised."""
        if self._ledger.is_aborted():
            self.stop(JobAborted("job_aborted", "The job was canceled."))

    def _check_job(self) -> None:
        try:
            with self._lock:
                if self._lease is not None:
                    self._lease.check()
            self.look_for_abort()
        except FatalError as error:
            self.stop(error)

    def _write_progress(self) -> None:
        if isinstance(self.stopped, LeaseLost):
            return  # a later attempt reports the progress of the job
        if not self._is_continued:
            return  # the progress of the last attempt has not been read yet
        self._ledger.write_progress(self.progress())

    def _describe_waits(self) -> str | None:
        waits = self._counts.running_waits()
        return f"Partitions wait: {' '.join(waits)}" if waits else None

    def _describe_stop(self) -> str | None:
        """Return why the job stops: what workers have begun may last for a minute more."""
        is_ending = self.stopped is not None and not isinstance(self.stopped, LeaseLost) and not self._ended.is_set()
        return f"The job stops: {self.stopped.message}" if self.stopped is not None and is_ending else None

    def _read_running(self) -> None:
        self._counts.set_running(self._ledger.read_running(self._counts.is_unfinished))

    def _note_waits(self) -> None:
        """Log when partitions begin to wait, and when none waits any more."""
        waits, now = self._counts.running_waits(), self._clock()
        if waits and self._waiting_since is None:
            self._waiting_since = now
            log.warning("partitions wait", extra={"error": " ".join(waits)})
        elif not waits and self._waiting_since is not None:
            waited_s, self._waiting_since = now - self._waiting_since, None
            self.waited_s += waited_s
            if not self._pauses:  # else they gave up: the pause goes on with the same cause
                log.info("no partition waits any more", extra={"waited_s": round(waited_s, 1)})

    def find_causes(self) -> set[str]:
        """Return what the job waits for now, each by one word; empty while it works."""
        with self._lock:
            codes = {code for codes in self._pause_codes.values() for code in codes or ("other",)}
        causes = name_causes(codes, self._counts.running_waits())
        return causes | {LEASE} if self.phase == "waiting" and self.note is not None else causes

    def _count_waits(self) -> None:
        """Add the time since the last call to what the job waits for now; exact to one tick."""
        now = self._clock()
        seconds, self._waits_counted_at = max(0.0, now - self._waits_counted_at), now
        causes = self.find_causes()
        for cause in causes:
            self.wait_seconds[cause] = round(self.wait_seconds.get(cause, 0.0) + seconds, 3)
        if not causes:
            self.phase_seconds[self.phase] = round(self.phase_seconds.get(self.phase, 0.0) + seconds, 3)

    def _take_sample(self) -> None:
        """Add the totals of now to the samples; until the counts are complete, those of the last attempt stand."""
        if self._former_counts is None and self._is_continued:
            counts, running = self._counts, self._counts.running_totals()
            self._samples.add(
                utc_now().timestamp(),
                chunks=counts.chunks + running["chunks"],
                bytes_read=counts.bytes_read + running["bytes_read"],
                done=counts.finished,
            )

    def timings(self) -> dict[str, Any]:
        """Return where the time of the job and of its workers went, as stored."""
        waits, phases = dict(self.wait_seconds), dict(self.phase_seconds)
        elapsed_s = self.elapsed_s()
        return {**self._counts.timings(), "wait_seconds": waits, "phase_seconds": phases, "elapsed_s": elapsed_s}

    def _log_progress(self) -> None:
        age_s, since_s = self.elapsed_s(), self._clock() - self._logged_at
        if since_s < min(LOG_AT_LEAST_EVERY_S, max(LOG_EVERY_S, age_s / 10)):
            return
        self._logged_at = self._clock()
        progress = self.progress()
        counts = {name: progress["counts"][name] for name in ("done", "failed", "planned", "deleted", "chunks")}
        shown = {name: progress[name] for name in ("phase", "percent", "eta_s", "note") if progress[name] is not None}
        rate = progress["rates"]["chunks_per_s"]
        log.info("progress", extra={**shown, **counts, "chunks_per_s": rate, "elapsed_s": age_s})

    def _write_log(self) -> None:
        """Write the log's end when it has changed; what could not be written is written with the next call."""
        text = self._log_text()
        if text is not None:
            self._unwritten_log = text
        if self._unwritten_log is not None:
            self._ledger.write_log(self._attempt, self._unwritten_log)
            self._unwritten_log = None

    def progress(self) -> dict[str, Any]:
        """Return the job's progress now, as stored in ``progress.json``."""
        with self._lock:
            notes = list(dict.fromkeys(self._pauses.values()))
        waits = self._describe_waits()
        # While the state store is unavailable, nobody can tell that partitions wait.
        is_waiting = waits is not None or bool(self._failing)
        self.meter.observe(self._clock(), is_paused=bool(notes), is_waiting=is_waiting)
        measured = self.meter.measure(is_paused=bool(notes))
        counts, percent = self._counts.to_json(), measured.percent
        if self._counts.tally.complete:
            self._former_counts = None
        if self._former_counts is not None:
            counts, percent = {**counts, **self._former_counts}, self._former_percent
        return {
            "format": 1,
            "attempt": self._attempt,
            "phase": "paused" if notes else self.phase,
            "updated_at": timestamp_now(),
            "planning_complete": self._counts.tally.complete,
            "counts": counts,
            "percent": percent,
            "rates": dict(measured.rates),
            "eta_s": None if self.stopped is not None else measured.eta_s,
            "timings": self.timings(),
            "throughput": self._samples.to_json(),
            "waits_for": min(self.find_causes(), default=None),
            "note": self._describe_stop() or " ".join(notes) or self.note or waits,
        }
