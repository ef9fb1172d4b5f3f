"""The dispatcher: one task that admits queued jobs, submits them to their engines and has running ones reconciled.

All of its state is in the jobs table, so a restart continues where it stopped: an admitted job is submitted again under
the same reference, which the engine recognises. Of several copies of the service on one database, one dispatches
(``leadership``); when another one takes over, all work under way is canceled.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.errors import (
    DatabaseUnavailable,
    FatalError,
    IngestionError,
    SubmissionError,
    TransientError,
)
from ingestion_engine.domain.ports import JobEngine
from ingestion_engine.domain.spec import EngineName, JobRequest, JobSpec
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger, log_fields
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.admission import WaitReason, admit_jobs
from ingestion_engine.services.embedding_waits import EmbeddingWaits
from ingestion_engine.services.job_drain import DrainSwitch
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import NEEDS_DRIVER, TRANSITIONS, JobEvent, JobPhase, find_phase
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.job_traces import open_submission, trace_of
from ingestion_engine.services.leadership import DispatchedJobs, Leadership, NotLeading
from ingestion_engine.services.ledgers import Ledgers
from ingestion_engine.services.reconciler import RETRY_LONGEST_S, Reconciler, back_off_s
from ingestion_engine.services.row_checks import find_fault
from ingestion_engine.services.shares import Grant, choose_share, grant_parallelism, limit_jobs, limit_requests
from ingestion_engine.services.specs import make_spec, refreeze

ROUND_PAUSE_S: Final = 0.05
"""Shortest pause between two rounds: jobs that are submitted together are admitted together."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outage:
    """An engine that could not accept a job."""

    until: Moment
    """The next attempt to submit is made then."""
    failures: int
    """Number of consecutive failures."""
    message: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits for a driver."""

    engine: EngineName
    since: Moment
    """When it was submitted to the service."""
    reason: WaitReason


class Dispatcher:
    """Admits, submits and follows jobs.

    Args:
        settings: Limits, deadlines and pauses.
        store: The jobs table.
        ledgers: Ledgers of all jobs.
        engines: Configured engines.
        waits: What jobs have at the gateways; without it, nothing.
        now: Returns the current time.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        *,
        ledgers: Ledgers,
        engines: Mapping[EngineName, JobEngine],
        waits: EmbeddingWaits | None = None,
        now: Callable[[], Moment] = utc_now,
    ) -> None:
        self._settings = settings
        self.leadership = Leadership(
            store, on_gained=self.wake, on_lost=self._drop_work, may_lead=settings.dispatch.enabled
        )
        self._jobs = DispatchedJobs(store, self.leadership)
        self._drain = DrainSwitch(store)
        self._ledgers = ledgers
        self._engines = engines
        self._now = now
        self._wake = asyncio.Event()
        self._reconciler = Reconciler(settings, self._jobs, ledgers=ledgers, engines=engines, waits=waits, now=now)
        self._active = ActiveJobs(store)
        self._unfit: dict[str, Moment] = {}
        self._wanted: dict[str, int] = {}
        self._outages: dict[EngineName, Outage] = {}
        self.waiting: dict[str, Waiting] = {}
        """Jobs that wait for a driver, by id, as of the last round; empty while another copy dispatches."""
        self._working: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Start the next round now instead of after the pause."""
        self._wake.set()

    async def run(self) -> None:
        """Dispatch until canceled; errors are logged and do not end it."""
        keeping = asyncio.create_task(self.leadership.keep())
        try:
            while True:
                self._wake.clear()
                try:
                    if self.leadership.is_held:
                        await self.step()
                except (DatabaseUnavailable, NotLeading):
                    pass  # both are logged where they begin
                except Exception:  # the top of a service loop: the next round starts from the table again
                    _log.exception("dispatcher round failed")
                await asyncio.sleep(ROUND_PAUSE_S)
                # Not wait_for: in Python 3.11 it loses a cancellation that arrives together with the wake-up.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.dispatch.poll_s):
                        await self._wake.wait()
        finally:
            tasks = [keeping, *self._working.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.leadership.close()

    async def step(self) -> None:
        """Run one round: start due reconciliations and submissions without waiting for them, then admit jobs.

        Cost: one query for ids and revisions of all active jobs, and the rows that changed since the last time.
        """
        active = await self._active.read()
        now = self._now()
        unfit = await self._set_aside(active, now)
        self._wanted = {
            job.id: self._wanted.get(job.id) or self._want_parallelism(job)
            for job in active
            if job.spec is None and job.id not in unfit
        }
        for job in active:
            due = job.next_look_at is None or job.next_look_at <= now
            phase = find_phase(job)
            if phase is JobPhase.WAITING or not due or job.id in self._working:
                continue
            if phase in NEEDS_DRIVER and not self._reconciler.is_overdue(job):
                if job.id not in unfit:
                    self._start(job, self._submit(job))
            else:
                self._start(job, self._reconciler.reconcile(job))
        waiting = self._find_held_back(active, unfit, now)
        self.waiting = waiting | await self._admit_all([job for job in active if job.id not in waiting])

    def _find_held_back(self, active: list[JobRecord], unfit: Mapping[str, str], now: Moment) -> dict[str, Waiting]:
        """Return the waiting jobs that are not to be admitted now, and hold up no other job."""
        held = {}
        for job in active:
            if not _is_waiting(job):
                continue
            if job.id in unfit:
                held[job.id] = Waiting(job.engine, job.created_at, WaitReason.UNREADABLE)
            elif job.next_look_at is not None and job.next_look_at > now:
                held[job.id] = Waiting(job.engine, job.created_at, WaitReason.PUT_BACK)
        return held

    async def _admit_all(self, active: list[JobRecord]) -> dict[str, Waiting]:
        """Admit what the capacity allows, and return what waits for a driver."""
        now = self._now()
        unavailable = {name: outage.message for name, outage in self._outages.items() if outage.until > now}
        drain = await self._drain.read() if any(map(_is_waiting, active)) else None
        decisions = admit_jobs(
            active,
            limit=limit_requests(self._settings),
            wanted=self._want,
            max_jobs=limit_jobs(self._settings),
            max_per_owner=self._settings.limits.running_jobs_per_key,
            unavailable=unavailable,
            draining=None if drain is None else drain.note,
        )
        # The driver of a job that is admitted is submitted once its engine is available again.
        waiting = {
            job.id: Waiting(job.engine, job.created_at, WaitReason.ENGINE_UNAVAILABLE)
            for job in active
            if job.engine in unavailable and find_phase(job) in NEEDS_DRIVER
        }
        notes: dict[str, str | None] = {}
        for decision in decisions:
            if decision.grant is None:
                if decision.reason is not None:
                    waiting[decision.job.id] = Waiting(decision.job.engine, decision.job.created_at, decision.reason)
                if (decision.note, decision.reason) != (decision.job.note, decision.job.waits_for):
                    notes[decision.job.id] = decision.note
                continue
            try:
                await self._admit(decision.job, decision.grant)
            except (DatabaseUnavailable, NotLeading):
                raise
            except Exception:  # a defect that one job reveals holds up no other
                _log.exception("job not admitted", extra={"job_id": decision.job.id})
        if notes:
            await self._jobs.note_waiting(notes, {job_id: waiting[job_id].reason.value for job_id in notes})
        return waiting

    async def _set_aside(self, active: list[JobRecord], now: Moment) -> dict[str, str]:
        """Return the jobs that need a driver but cannot be read, with the reason; fail them when they stay so.

        They are given ``pending_timeout_s``: during an upgrade, a later version of the service may take over.
        """
        faults = self._active.faults
        unfit = {job.id: faults[job.id] for job in active if job.id in faults and _needs_start(job)}
        self._unfit = {job_id: self._unfit.get(job_id, now) for job_id in unfit}
        patience = dt.timedelta(seconds=self._settings.dispatch.pending_timeout_s)
        for job in active:
            if (fault := unfit.get(job.id)) is None or job.id in self._working:
                continue
            if now - self._unfit[job.id] >= patience:
                error = FatalError("job_unreadable", fault, hint="Submit the job again.")
                _log.error("job failed", extra={"job_id": job.id, **error.log_fields()})
                self._start(job, self._reconciler.fail(job, error))
            elif job.note != fault:
                _log.error("job set aside", extra={"job_id": job.id, "reason": fault})
                await self._jobs.update(job, note=fault, waits_for=WaitReason.UNREADABLE.value)
        return unfit

    async def settle(self) -> None:
        """Wait until all reconciliations and submissions that were started have ended."""
        while self._working:
            await asyncio.gather(*self._working.values(), return_exceptions=True)
            await asyncio.sleep(0)

    def _start(self, job: JobRecord, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guard(job, work))
        self._working[job.id] = task
        task.add_done_callback(lambda _: self._working.pop(job.id, None))

    async def _guard(self, job: JobRecord, work: Coroutine[Any, Any, None]) -> None:
        """Keep an unexpected error of one job from the others, and try the job again later."""
        try:
            with log_fields(job_id=job.id):
                await work
        except (DatabaseUnavailable, NotLeading):
            pass  # both are logged where they begin; the job is not the cause
        except Exception as error:  # a defect that one job reveals ends only this try
            _log.exception("job not dispatched", extra={"job_id": job.id})
            await self._postpone(
                job, 5, f"Internal error ({type(error).__name__}); the log of the service has the details."
            )

    def _drop_work(self) -> None:
        """Cancel all work under way: another copy does it now, from what the table says."""
        self.waiting = {}
        for task in self._working.values():
            task.cancel()

    def _want_parallelism(self, job: JobRecord) -> int:
        return grant_parallelism(self._settings, JobRequest.model_validate(job.request))

    def _want(self, job: JobRecord, free: int) -> Grant:
        """Return the grant that a job needs: the one frozen at its first admission, else one that suits ``free``."""
        if (frozen := job.grant) is not None:
            return frozen
        parallelism = self._wanted[job.id]
        return Grant(parallelism=parallelism, share=choose_share(self._settings, parallelism, free))

    async def _admit(self, job: JobRecord, grant: Grant) -> None:
        # Less than in its spec only if the limit was lowered since: the engine then provides fewer slots.
        limit = limit_requests(self._settings)
        parallelism = grant.parallelism if limit is None else max(1, min(grant.parallelism, limit // grant.share))
        spec = job.spec or make_spec(
            self._settings,
            JobRequest.model_validate(job.request),
            engine=job.engine,
            job_id=job.id,
            parallelism=grant.parallelism,
            share=grant.share,
            only_keys_path=job.only_keys_path,
        ).model_dump(mode="json")
        outage = self._outages.get(job.engine)
        now = self._now()
        admitted = await self._jobs.change(
            job,
            JobEvent.ADMIT,
            admitted_at=now,
            parallelism=parallelism,
            attempt=job.attempt + 1,
            spec=spec,
            # While the engine is tried again, the job shows why it has not started yet.
            note=None if outage is None else outage.message,
            next_look_at=None,
            deadline_at=self._reconciler.find_deadline(job, now),
        )
        if admitted:
            _log.info("job admitted", extra={"job_id": job.id, "parallelism": parallelism, "share": grant.share})
            self.wake()

    async def _submit(self, job: JobRecord) -> None:
        """Write the spec and submit the attempt to its engine; both may have happened before.

        The spec receives the versions and endpoints of this service: those of its first attempt may be outdated.
        """
        engine = self._engines.get(job.engine)
        outage = self._outages.get(job.engine)
        if outage is not None and outage.until > self._now():
            return
        spec = refreeze(self._settings, JobSpec.model_validate(job.spec), trace=trace_of(self._settings, job))
        if (values := spec.model_dump(mode="json")) != job.spec:
            changed = await self._jobs.update(job, spec=values)
            if changed is None:
                return
            job = changed
        try:
            if engine is None:
                raise TransientError(
                    "engine_not_configured",
                    f"Engine {job.engine.value!r} is not configured any more.",
                    maybe_started=True,
                )
            spec_uri = await self._ledgers.write_spec(spec)
        except IngestionError as error:
            await self._postpone(job, 5, error.message)
            return
        try:
            self.leadership.require()
            with open_submission(job):
                await engine.submit(job.id, job.attempt, spec_uri, job.parallelism or 1)
        except TransientError as error:
            await self._note_outage(job, error)
        except SubmissionError as error:
            _log.warning("job refused by its engine", extra={"job_id": job.id, **error.log_fields()})
            await self._jobs.change(job, JobEvent.FAIL, error=error.record(), finished_at=self._now(), note=None)
        else:
            self._outages.pop(job.engine, None)
            await self._note_submitted(job, engine)

    async def _note_submitted(self, job: JobRecord, engine: JobEngine) -> None:
        """Note that the engine has the driver, in the row as it is now: the job may have been canceled meanwhile."""
        now = self._now()
        reference = engine.reference(job.id, job.attempt)
        _log.info("job submitted", extra={"job_id": job.id, "attempt": job.attempt, "reference": reference})
        columns = {"attempt_started_at": now, "submitted_at": job.submitted_at or now, "next_look_at": None}
        row: JobRecord | None = job
        while row is not None and row.attempt == job.attempt:
            phase = find_phase(row)
            if phase not in TRANSITIONS[JobEvent.ACCEPT].paths:
                break
            if phase is not JobPhase.CANCELING:
                columns["deadline_at"] = self._reconciler.find_deadline(row, now)
                if row.attempt == 1:
                    columns["note"] = None
            if await self._jobs.change(row, JobEvent.ACCEPT, **columns) is not None:
                return
            former, row = row, await self._jobs.get(job.id)
            if row is not None and row.revision == former.revision:
                return  # another copy dispatches now; it submits the attempt again and finds it
            columns = {name: columns[name] for name in ("attempt_started_at", "submitted_at", "next_look_at")}
        await self._disown(job, row, engine)

    async def _disown(self, job: JobRecord, row: JobRecord | None, engine: JobEngine) -> None:
        """See to a driver that was submitted although its job's row has moved on meanwhile."""
        if row is not None and row.attempt == job.attempt and not row.state.is_final:
            return  # another copy has submitted the same attempt and noted it
        if row is not None and find_phase(row) is JobPhase.WAITING:
            return  # another copy has released the job: its next submission finds this driver
        _log.warning("driver without a job is stopped", extra={"job_id": job.id, "attempt": job.attempt})
        if row is None or row.state.is_final:
            await self._ledgers.request_abort(job.id, "the job has ended")
        await engine.stop(job.id, job.attempt)

    async def _note_outage(self, job: JobRecord, error: TransientError) -> None:
        """Pause submissions to an engine; a job that it cannot have started releases its share."""
        now = self._now()
        last = self._outages.get(job.engine)
        failures = 1 if last is None else last.failures + 1
        requested_s = min(RETRY_LONGEST_S, error.context.get("retry_after_s") or 0.0)
        until = now + dt.timedelta(seconds=max(back_off_s(failures), requested_s))
        if last is not None and last.until > now:
            # A concurrent submission of another job has found the same outage.
            failures, until = last.failures, last.until
        moment = until.strftime("%H:%M:%SZ")
        hint = f" {error.hint}" if error.hint else ""
        message = f"{error.message}{hint} Submission {failures} failed; the next one follows at {moment}."
        self._outages[job.engine] = Outage(until, failures, message)
        _log.warning("engine unavailable", extra={"job_id": job.id, "engine": job.engine.value, **error.log_fields()})
        if find_phase(job) is JobPhase.ADMITTED and not error.context.get("maybe_started"):
            released = {"admitted_at": None, "parallelism": None, "attempt": job.attempt - 1, "deadline_at": None}
            await self._jobs.change(job, JobEvent.RELEASE, note=message, **released)
        else:
            await self._jobs.update(job, note=message, next_look_at=until)

    async def _postpone(self, job: JobRecord, pause_s: float, note: str) -> None:
        moment = self._now() + dt.timedelta(seconds=pause_s)
        with contextlib.suppress(DatabaseUnavailable, NotLeading):
            await self._jobs.update(job, note=note, next_look_at=moment)


def _is_waiting(job: JobRecord) -> bool:
    return find_phase(job) is JobPhase.WAITING


def _needs_start(job: JobRecord) -> bool:
    """Return whether a job waits for admission or for a driver; all others go on without request and spec. Pure."""
    return _is_waiting(job) or find_phase(job) in NEEDS_DRIVER


class ActiveJobs:
    """All jobs that have not ended, kept in memory between rounds; only rows that have changed are read again.

    The table is authoritative: rows written by another copy of the service are read like all others, and after a
    restart all rows are.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._held: dict[str, JobRecord] = {}
        self._unreadable: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        """Why a job among them cannot be started, by id (``find_fault``)."""

    async def read(self) -> list[JobRecord]:
        """Return all jobs that have not ended, oldest first: the order of admission. Rows that cannot be read are left
        out; ``JobStore.unreadable`` names them.

        Cost: one query for ids and revisions; one more per ``READ_ROWS`` rows that have changed.
        """
        revisions = await self._store.list_revisions()
        held = self._held
        changed = [
            job_id
            for job_id, revision in revisions
            if self._unreadable.get(job_id) != revision and (job_id not in held or held[job_id].revision != revision)
        ]
        fresh = {job.id: job for job in await self._store.get_many(changed)} if changed else {}
        lost = {job_id for job_id in changed if job_id in self._store.unreadable}
        self._unreadable = {
            job_id: revision
            for job_id, revision in revisions
            if job_id in lost or self._unreadable.get(job_id) == revision
        }
        # A row that changed again between the two queries is newer than its revision here; it may have ended.
        found = {
            job_id: fresh.get(job_id) or held.get(job_id) for job_id, _ in revisions if job_id not in self._unreadable
        }
        self._held = {job_id: job for job_id, job in found.items() if job is not None and not job.state.is_final}
        checked = {job_id: find_fault(job) for job_id, job in fresh.items() if job_id in self._held}
        known = {job_id: fault for job_id, fault in self.faults.items() if job_id in self._held} | checked
        self.faults = {job_id: fault for job_id, fault in known.items() if fault is not None}
        return list(self._held.values())
