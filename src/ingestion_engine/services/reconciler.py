"""Reconciles the row of one admitted job with its ledger first and its engine second.

A job whose deadline has passed is ended by the service, whatever its engine reports: its driver is fenced off in the
state store first, so that one that comes back can change nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from ingestion_engine.domain.errors import DatabaseUnavailable, FatalError, IngestionError, TransientError
from ingestion_engine.domain.ports import EngineStatus, JobEngine
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import EngineState, JobState
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.admission import WaitReason
from ingestion_engine.services.embedding_waits import EmbeddingWaits
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobEvent, JobPhase, find_final_event, find_phase
from ingestion_engine.services.leadership import DispatchedJobs
from ingestion_engine.services.ledgers import Ledgers
from ingestion_engine.services.row_checks import read_max_runtime_s
from ingestion_engine.services.row_updates import End, end_canceled, end_failed, read_outcome, read_progress
from ingestion_engine.state.ledger import is_environment_fault

ABSENT_GRACE_S: Final = 5.0
"""Time during which an engine may not know an attempt that it has just accepted (a guess; Ray knew it at once)."""

STOP_REPEAT_S: Final = 3.0
"""Pause between two stop requests; Ray kills a driver three seconds after SIGTERM."""

RETRY_LONGEST_S: Final = 60.0
"""Longest pause before an unavailable system is tried again: the end of an outage is noticed within a minute."""

STOP_TIME_LIMIT_S: Final = 10.0
"""Time that an engine has to accept the last stop request for a job that ends without it (a guess)."""

SLOW_S: Final = 5.0
"""Time without a response of the state store after which a job's note says so; its client repeats for a minute."""

PUT_BACK_S: Final = 60.0
"""First pause after an attempt found an environment that cannot run it; doubles up to ``PUT_BACK_LONGEST_S``. Each try
starts a driver, and only an operator can change the environment."""

PUT_BACK_LONGEST_S: Final = 900.0

_LOGS_HINT: Final = "Read the log of the driver with GET /jobs/{id}/logs."

_log = get_logger(__name__)

T = TypeVar("T")


def back_off_s(failures: int) -> float:
    """Return the pause after a number of consecutive failures: 1, 2, 4 … 60 seconds. Pure."""
    return min(RETRY_LONGEST_S, 2.0 ** min(failures - 1, 10))


class Reconciler:
    """Reconciles jobs. ``reconcile`` must not run twice at the same time for one job.

    Args:
        settings: Deadlines and the maximum number of attempts.
        jobs: The jobs table, as the dispatcher changes it.
        ledgers: Ledgers of all jobs.
        engines: Configured engines.
        waits: The gateways, where the workers of an ended job may have requests.
        now: Returns the current time.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: DispatchedJobs,
        *,
        ledgers: Ledgers,
        engines: Mapping[EngineName, JobEngine],
        waits: EmbeddingWaits | None = None,
        now: Callable[[], Moment] = utc_now,
    ) -> None:
        self._settings = settings.dispatch
        self._jobs = jobs
        self._ledgers = ledgers
        self._engines = engines
        self._waits = waits or EmbeddingWaits(None)
        self._now = now
        self._failures: dict[str, int] = {}

    async def reconcile(self, job: JobRecord) -> None:
        """Update the row of a job from its ledger and its engine. Unavailable systems are noted and tried again later.

        Cost: two small reads of the state store; one engine request when nothing new was read.
        """
        try:
            await self._reconcile(job)
        except DatabaseUnavailable:
            raise
        except IngestionError as error:
            await self._postpone(job, error)
        else:
            self._failures.pop(job.id, None)

    async def fail(self, job: JobRecord, error: FatalError) -> None:
        """End a job that cannot go on; a driver that it may have is fenced off."""
        try:
            await self._end_without_driver(job, end_failed(error, self._now()))
        except DatabaseUnavailable:
            raise
        except IngestionError as unavailable:
            await self._postpone(job, unavailable)

    def find_deadline(self, job: JobRecord, since: Moment) -> Moment:
        """Return when the service ends a job by itself if an attempt of it begins at ``since``. Pure."""
        return since + dt.timedelta(seconds=read_max_runtime_s(job) + self._settings.end_timeout_s)

    def is_overdue(self, job: JobRecord) -> bool:
        """Return whether the service has to end a job that is admitted. Pure except for the clock."""
        return self._now() >= self._read_deadline(job)

    def _read_deadline(self, job: JobRecord) -> Moment:
        if job.deadline_at is not None:
            return job.deadline_at
        # Admitted by a former version of the service, which had no deadlines.
        if job.state is JobState.CANCELING:
            return (job.cancel_requested_at or job.created_at) + dt.timedelta(seconds=self._settings.end_timeout_s)
        return self.find_deadline(job, job.attempt_started_at or job.admitted_at or job.created_at)

    async def _reconcile(self, job: JobRecord) -> None:
        if find_phase(job) is JobPhase.CANCELING:
            await self._ledgers.request_abort(job.id, "canceled")
            marked = await self._jobs.change(job, JobEvent.MARK_ABORT, abort_written_at=self._now())
            if marked is None:
                return
            job = marked
        if await self._finish_by_summary(job):
            return
        if self.is_overdue(job):
            await self._end_overdue(job)
            return
        values = await self._read_progress(job)
        if values:
            changed = await (
                self._jobs.change(job, JobEvent.START, **values)
                if job.state is JobState.SUBMITTED
                else self._jobs.update(job, **values)
            )
            if changed is None or changed.state is not JobState.CANCELING:
                return
            job = changed
        engine = self._engines.get(job.engine)
        if engine is None:
            raise TransientError("engine_not_configured", f"Engine {job.engine.value!r} is not configured any more.")
        await self._act(job, engine, await engine.status(job.id, job.attempt))

    async def _read_progress(self, job: JobRecord) -> dict[str, Any]:
        """Return the columns that the driver's progress changes; none when it cannot be read: it is written again."""
        try:
            progress = await self._ledgers.read_progress(job.id)
        except FatalError as error:
            if error.code != "state_corrupt":
                raise
            _log.warning("progress not readable", extra={"job_id": job.id, **error.log_fields()})
            return {}
        return {} if progress is None else read_progress(job, progress, self._now())

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
            await self._handle_pending(job, status)
        elif job.state is JobState.SUBMITTED:
            await self._jobs.change(job, JobEvent.START, started_at=job.started_at or now, note=None)
        elif job.note is not None and self._failures.get(job.id):
            await self._jobs.update(job, note=(job.progress or {}).get("note"))

    async def _handle_pending(self, job: JobRecord, status: EngineStatus) -> None:
        waited_s = (self._now() - (job.attempt_started_at or self._now())).total_seconds()
        if status.can_start and waited_s < self._settings.pending_timeout_s:
            note = _join(f"Waiting for engine {job.engine.value!r} to start the driver.", status.detail, status.hint)
            if job.note != note:
                await self._jobs.update(job, note=note)
            return
        timeout = f"did not start the driver within {self._settings.pending_timeout_s:g} s"
        what = timeout if status.can_start else "cannot start the driver"
        message = _join(f"Engine {job.engine.value!r} {what}.", status.detail)
        error = FatalError("engine_never_started", message, hint=status.hint or _LOGS_HINT, attempt=job.attempt)
        await self._end_without_driver(job, end_failed(error, self._now()))

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
        elif job.attempt - job.put_backs >= self._settings.max_attempts:
            message = _join(f"All {job.attempt - job.put_backs} attempts ended without a result.", status.detail)
            code = "driver_died" if status.can_start else "engine_never_started"
            error = FatalError(code, message, hint=status.hint or _LOGS_HINT, attempt=job.attempt)
            await self._finish(job, end_failed(error, now))
        else:
            what = "driver died" if status.can_start else "driver not started"
            _log.warning(what, extra={"job_id": job.id, "attempt": job.attempt, "detail": status.detail})
            pause = dt.timedelta(seconds=back_off_s(job.attempt))
            last = self._settings.max_attempts + job.put_backs
            note = _join(f"Attempt {job.attempt + 1} of {last} follows.", status.detail, status.hint)
            await self._jobs.change(
                job,
                JobEvent.RESTART,
                attempt=job.attempt + 1,
                attempt_started_at=None,
                next_look_at=now + pause,
                deadline_at=self.find_deadline(job, now),
                note=note,
            )

    async def _finish_by_summary(self, job: JobRecord) -> bool:
        try:
            summary = await self._tell_if_slow(job, self._ledgers.read_summary(job.id, job.attempt))
        except FatalError as error:
            if error.code != "state_corrupt":
                raise
            await self._finish(job, end_failed(error, self._now()))
            return True
        if summary is None:
            return False
        end = read_outcome(job, summary, self._now())
        if self._may_put_back(job, summary):
            await self._put_back(job, end)
            return True
        await self._finish(job, end)
        engine = self._engines.get(job.engine)
        if engine is not None and summary.get("attempt", job.attempt) != job.attempt:
            # An earlier driver, considered dead, has finished the job: its successor has nothing to do.
            await engine.stop(job.id, job.attempt)
        return True

    async def _tell_if_slow(self, job: JobRecord, request: Coroutine[Any, Any, T]) -> T:
        """Return the result of a request to the state store; the job's note says when that takes long.

        The row has changed then, so that what follows from this look at it waits for the next one.
        """
        task = asyncio.create_task(request)
        try:
            done, _ = await asyncio.wait({task}, timeout=SLOW_S)
            if not done:
                self._failures.setdefault(job.id, 1)
                note = f"The state store has not responded for {SLOW_S:g} s; the progress shown is older."
                await self._jobs.update(job, note=note)
            return await task
        finally:
            task.cancel()

    def _may_put_back(self, job: JobRecord, summary: Mapping[str, Any]) -> bool:
        """Return whether the summary only says that the environment cannot run the job, and there is time to wait."""
        since = job.submitted_at or job.attempt_started_at or self._now()
        in_time = (self._now() - since).total_seconds() < read_max_runtime_s(job)
        return job.state is not JobState.CANCELING and in_time and is_environment_fault(summary)

    async def _put_back(self, job: JobRecord, end: End) -> None:
        pause_s = min(PUT_BACK_LONGEST_S, PUT_BACK_S * 2.0 ** min(job.put_backs, 10))
        until = self._now() + dt.timedelta(seconds=pause_s)
        error = end.values["error"]
        cause = _join("The cluster cannot run this job.", error["message"], error.get("hint") or "")
        _log.warning("job put back", extra={"job_id": job.id, "attempt": job.attempt, "error": error["message"]})
        await self._jobs.change(
            job,
            JobEvent.PUT_BACK,
            admitted_at=None,
            attempt_started_at=None,
            parallelism=None,
            deadline_at=None,
            next_look_at=until,
            put_backs=job.put_backs + 1,
            waits_for=WaitReason.PUT_BACK.value,
            note=_join(cause, f"The next attempt follows at {until:%H:%M:%SZ}."),
        )

    async def _end_overdue(self, job: JobRecord) -> None:
        """End a job whose deadline has passed; the state store must respond, the engine need not."""
        now = self._now()
        if job.state is JobState.CANCELING:
            note = "Ended by the service: the driver did not confirm its end. A driver that comes back changes nothing."
            await self._end_without_driver(job, end_canceled(now, note))
            return
        limit_s, more_s = read_max_runtime_s(job), self._settings.end_timeout_s
        message = (
            f"Attempt {job.attempt} has no result {more_s:g} s after its limit of {limit_s} s (max_runtime_s), and its "
            f"engine {job.engine.value!r} has not reported its end."
        )
        hint = "Check the cluster, then submit the job again; it continues where it stopped."
        error = FatalError("driver_lost", message, hint=hint, attempt=job.attempt)
        await self._end_without_driver(job, end_failed(error, now))

    async def _end_without_driver(self, job: JobRecord, end: End) -> None:
        """End a job whose driver may still run: fence it off first, so that nothing it does has an effect."""
        summary = await self._ledgers.fence_off(
            job.id,
            job.collection,
            attempt=job.attempt,
            state=end.state,
            error=end.values.get("error"),
            counts=job.counts or {},
        )
        engine = self._engines.get(job.engine)
        if engine is not None:
            try:
                async with asyncio.timeout(STOP_TIME_LIMIT_S):
                    await engine.stop(job.id, job.attempt)
            except (IngestionError, TimeoutError) as error:
                _log.warning("driver not stopped", extra={"job_id": job.id, "error": str(error)})
        await self._waits.drop(job.id)  # what its workers have there would only keep others waiting
        if not summary.get("forced"):  # the driver was faster: what it has written stands
            end = read_outcome(job, summary, self._now())
        await self._finish(job, end)

    async def _finish(self, job: JobRecord, end: End) -> None:
        if await self._jobs.change(job, find_final_event(end.state), **end.values):
            code = (end.values.get("error") or {}).get("code")
            _log.info("job ended", extra={"job_id": job.id, "state": end.state.value, "error_code": code})

    async def _postpone(self, job: JobRecord, error: IngestionError) -> None:
        failures = self._failures.get(job.id, 0) + 1
        self._failures[job.id] = failures
        _log.warning("job not reconciled", extra={"job_id": job.id, "failures": failures, **error.log_fields()})
        can_force = job.state is JobState.CANCELING and not self.is_overdue(job)
        follows = "Retrying. Cancel it with force to end it without its cluster." if can_force else "Retrying."
        await self._check_later(job, back_off_s(failures), note=_join(error.message, error.hint, follows))

    async def _check_later(self, job: JobRecord, pause_s: float, *, note: str) -> None:
        moment = self._now() + dt.timedelta(seconds=pause_s)
        await self._jobs.update(job, next_look_at=moment, note=note)


def _join(*sentences: str) -> str:
    """Return the sentences that are not empty as one text. Pure."""
    return " ".join(filter(None, sentences))
