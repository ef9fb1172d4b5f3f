"""Reconciles the row of one admitted job with its ledger first and its engine second."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Final

from ingestion_engine.domain.errors import FatalError, IngestionError, TransientError
from ingestion_engine.domain.ports import EngineStatus, JobEngine
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import FINAL_STATES, EngineState, JobState
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobEvent, JobPhase, find_final_event, find_phase
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.ledgers import Ledgers
from ingestion_engine.services.row_updates import End, end_canceled, end_failed, read_outcome, read_progress

ABSENT_GRACE_S: Final = 5.0
"""Time during which an engine may not know an attempt that it has just accepted (a guess; Ray knew it at once)."""

STOP_REPEAT_S: Final = 3.0
"""Pause between two stop requests; Ray kills a driver three seconds after SIGTERM."""

RETRY_LONGEST_S: Final = 60.0
"""Longest pause before an unavailable system is tried again: the end of an outage is noticed within a minute."""

ACTIVE_STATES: Final = frozenset(JobState) - FINAL_STATES

_LOGS_HINT: Final = "Read the log of the driver with GET /jobs/{id}/logs."

_log = get_logger(__name__)


def back_off_s(failures: int) -> float:
    """Return the pause after a number of consecutive failures: 1, 2, 4 … 60 seconds. Pure."""
    return min(RETRY_LONGEST_S, 2.0 ** min(failures - 1, 10))


class Reconciler:
    """Reconciles jobs. ``reconcile`` must not run twice at the same time for one job.

    Args:
        settings: Deadlines and the maximum number of attempts.
        store: The jobs table.
        ledgers: Ledgers of all jobs.
        engines: Configured engines.
        now: Returns the current time.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        *,
        ledgers: Ledgers,
        engines: Mapping[EngineName, JobEngine],
        now: Callable[[], Moment] = utc_now,
    ) -> None:
        self._settings = settings.dispatch
        self._store = store
        self._ledgers = ledgers
        self._engines = engines
        self._now = now
        self._failures: dict[str, int] = {}

    async def reconcile(self, job: JobRecord) -> None:
        """Update the row of a job from its ledger and its engine. Unavailable systems are noted and tried again later.

        Cost: two small reads of the state store; one engine request when nothing new was read.
        """
        try:
            await self._reconcile(job)
        except IngestionError as error:
            await self._postpone(job, error)
        else:
            self._failures.pop(job.id, None)

    async def _reconcile(self, job: JobRecord) -> None:
        if find_phase(job) is JobPhase.CANCELING:
            await self._ledgers.request_abort(job.id, "canceled")
            await self._store.change(job, JobEvent.MARK_ABORT, abort_written_at=self._now())
        if await self._finish_by_summary(job):
            return
        progress = await self._ledgers.read_progress(job.id)
        values = {} if progress is None else read_progress(job, progress, self._now())
        if values:
            if job.state is JobState.SUBMITTED:
                await self._store.change(job, JobEvent.START, **values)
            else:
                await self._store.update(job.id, {job.state}, **values)
            if job.state is not JobState.CANCELING:
                return
        engine = self._engines.get(job.engine)
        if engine is None:
            raise TransientError("engine_not_configured", f"Engine {job.engine.value!r} is not configured any more.")
        await self._act(job, engine, await engine.status(job.id, job.attempt))

    async def _act(self, job: JobRecord, engine: JobEngine, status: EngineStatus) -> None:
        now = self._now()
        if status.state in {EngineState.ENDED, EngineState.ABSENT}:
            await self._handle_gone(job, status)
        elif job.state is JobState.CANCELING:
            grace = dt.timedelta(seconds=self._settings.cancel_grace_s)
            never_ran = status.state is EngineState.PENDING
            if never_ran or now - (job.cancel_requested_at or now) >= grace:
                await engine.stop(job.id, job.attempt)
                await self._check_later(job, STOP_REPEAT_S, note="A stop of the driver was requested from the engine.")
        elif status.state is EngineState.PENDING:
            await self._handle_pending(job, engine, status)
        elif job.state is JobState.SUBMITTED:
            await self._store.change(job, JobEvent.START, started_at=job.started_at or now, note=None)
        elif job.note is not None and self._failures.get(job.id):
            await self._store.update(job.id, {job.state}, note=(job.progress or {}).get("note"))

    async def _handle_pending(self, job: JobRecord, engine: JobEngine, status: EngineStatus) -> None:
        waited_s = (self._now() - (job.attempt_started_at or self._now())).total_seconds()
        if status.can_start and waited_s < self._settings.pending_timeout_s:
            note = _join(f"Waiting for engine {job.engine.value!r} to start the driver.", status.detail, status.hint)
            if job.note != note:
                await self._store.update(job.id, {job.state}, note=note)
            return
        # The marker first: if the engine starts the driver after all, the driver ends at once.
        await self._ledgers.request_abort(job.id, "never started")
        await engine.stop(job.id, job.attempt)
        timeout = f"did not start the driver within {self._settings.pending_timeout_s:g} s"
        what = timeout if status.can_start else "cannot start the driver"
        message = _join(f"Engine {job.engine.value!r} {what}.", status.detail)
        error = FatalError("engine_never_started", message, hint=status.hint or _LOGS_HINT, attempt=job.attempt)
        await self._finish(job, end_failed(error, self._now()))

    async def _handle_gone(self, job: JobRecord, status: EngineStatus) -> None:
        now = self._now()
        since = now - (job.attempt_started_at or job.admitted_at or job.cancel_requested_at or now)
        if status.state is EngineState.ABSENT and since.total_seconds() < ABSENT_GRACE_S:
            return
        # The driver may have written its summary after the read above and before its end.
        if await self._finish_by_summary(job):
            return
        if job.state is JobState.CANCELING:
            await self._finish(job, end_canceled(now))
        elif job.attempt >= self._settings.max_attempts:
            message = _join(f"All {job.attempt} attempts ended without a result.", status.detail)
            code = "driver_died" if status.can_start else "engine_never_started"
            error = FatalError(code, message, hint=status.hint or _LOGS_HINT, attempt=job.attempt)
            await self._finish(job, end_failed(error, now))
        else:
            what = "driver died" if status.can_start else "driver not started"
            _log.warning(what, extra={"job_id": job.id, "attempt": job.attempt, "detail": status.detail})
            pause = dt.timedelta(seconds=back_off_s(job.attempt))
            follows = f"Attempt {job.attempt + 1} of {self._settings.max_attempts} follows."
            note = _join(follows, status.detail, status.hint)
            await self._store.change(
                job,
                JobEvent.RESTART,
                attempt=job.attempt + 1,
                attempt_started_at=None,
                next_look_at=now + pause,
                note=note,
            )

    async def _finish_by_summary(self, job: JobRecord) -> bool:
        summary = await self._ledgers.read_summary(job.id)
        if summary is None:
            return False
        await self._finish(job, read_outcome(job, summary, self._now()))
        engine = self._engines.get(job.engine)
        if engine is not None and summary.get("attempt", job.attempt) != job.attempt:
            # An earlier driver, considered dead, has finished the job: its successor has nothing to do.
            await engine.stop(job.id, job.attempt)
        return True

    async def _finish(self, job: JobRecord, end: End) -> None:
        if await self._store.change(job, find_final_event(end.state), **end.values):
            code = (end.values.get("error") or {}).get("code")
            _log.info("job ended", extra={"job_id": job.id, "state": end.state.value, "error_code": code})

    async def _postpone(self, job: JobRecord, error: IngestionError) -> None:
        failures = self._failures.get(job.id, 0) + 1
        self._failures[job.id] = failures
        _log.warning("job not reconciled", extra={"job_id": job.id, "failures": failures, **error.log_fields()})
        await self._check_later(job, back_off_s(failures), note=_join(error.message, error.hint, "Retrying."))

    async def _check_later(self, job: JobRecord, pause_s: float, *, note: str) -> None:
        moment = self._now() + dt.timedelta(seconds=pause_s)
        await self._store.update(job.id, {job.state}, next_look_at=moment, note=note)


def _join(*sentences: str) -> str:
    """Return the sentences that are not empty as one text. Pure."""
    return " ".join(filter(None, sentences))
