"""The dispatcher: one task that admits queued jobs, submits them to their engines and has running ones reconciled.

All of its state is in the jobs table, so a restart continues where it stopped: an admitted job is submitted again under
the same reference, which the engine recognises. Of several copies of the service on one database, one dispatches.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.errors import IngestionError, SubmissionError, TransientError
from ingestion_engine.domain.ports import JobEngine
from ingestion_engine.domain.spec import EngineName, JobRequest, JobSpec
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.admission import admit_jobs
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import NEEDS_DRIVER, JobEvent, JobPhase, find_phase
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.ledgers import Ledgers
from ingestion_engine.services.reconciler import ACTIVE_STATES, RETRY_LONGEST_S, Reconciler, back_off_s
from ingestion_engine.services.shares import Grant, choose_share, grant_parallelism
from ingestion_engine.services.specs import make_spec

HOLD_S: Final = 6.0
"""Time after which another copy of the service takes over from a dead dispatcher."""

STOP_WAIT_S: Final = 5.0
"""Longest wait at the end for a write under way: as long as SQLite would stay locked without it."""

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


class Dispatcher:
    """Admits, submits and follows jobs.

    Args:
        settings: Limits, deadlines and pauses.
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
        self._settings = settings
        self._store = store
        self._ledgers = ledgers
        self._engines = engines
        self._now = now
        self._reconciler = Reconciler(settings, store, ledgers=ledgers, engines=engines, now=now)
        self._holder = secrets.token_hex(8)
        self._wake = asyncio.Event()
        self._is_dispatching = False
        self._held_at = -HOLD_S
        self._active = ActiveJobs(store)
        self._wanted: dict[str, int] = {}
        self._outages: dict[EngineName, Outage] = {}
        self._working: dict[str, asyncio.Task[None]] = {}

    @property
    def is_dispatching(self) -> bool:
        """True while this copy of the service is the one, of several on one database, that dispatches."""
        return self._is_dispatching

    def wake(self) -> None:
        """Start the next round now instead of after the pause."""
        self._wake.set()

    async def run(self) -> None:
        """Dispatch until canceled; errors are logged and do not end it."""
        holding = asyncio.create_task(self._keep_hold())
        try:
            while True:
                self._wake.clear()
                try:
                    if time.monotonic() - self._held_at >= HOLD_S / 2:  # else `_keep_hold` has renewed it
                        await self._hold()
                    if self._is_dispatching:
                        await self.step()
                except Exception:
                    _log.exception("dispatcher round failed")
                await asyncio.sleep(ROUND_PAUSE_S)
                # Not wait_for: in Python 3.11 it loses a cancellation that arrives together with the wake-up.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.dispatch.poll_s):
                        await self._wake.wait()
        finally:
            tasks = [holding, *self._working.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(Exception):
                await self._store.release_dispatch(self._holder)

    async def step(self) -> None:
        """Run one round: start due reconciliations and submissions without waiting for them, then admit jobs.

        Cost: one query for ids and revisions of all active jobs, and the rows that changed since the last time.
        """
        active = await self._active.read()
        new = [job for job in active if job.spec is None]
        self._wanted = {job.id: self._wanted.get(job.id) or self._want_parallelism(job) for job in new}
        now = self._now()
        for job in active:
            due = job.next_look_at is None or job.next_look_at <= now
            phase = find_phase(job)
            if phase is JobPhase.WAITING or not due or job.id in self._working:
                continue
            self._start(job, self._submit(job) if phase in NEEDS_DRIVER else self._reconciler.reconcile(job))
        unavailable = {name: outage.message for name, outage in self._outages.items() if outage.until > now}
        limit = self._settings.embed_in_flight
        notes: dict[str, str | None] = {}
        for decision in admit_jobs(active, limit=limit, wanted=self._want, unavailable=unavailable):
            if decision.grant is None:
                if decision.note != decision.job.note:
                    notes[decision.job.id] = decision.note
                continue
            try:
                await self._admit(decision.job, decision.grant)
            except Exception:
                _log.exception("job not admitted", extra={"job_id": decision.job.id})
        if notes:
            await self._store.note_waiting(notes)

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
            await work
        except Exception as error:
            _log.exception("job not dispatched", extra={"job_id": job.id})
            await self._postpone(
                job, 5, f"Internal error ({type(error).__name__}); the log of the service has the details."
            )

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
        parallelism = max(1, min(grant.parallelism, self._settings.embed_in_flight // grant.share))
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
        admitted = await self._store.change(
            job,
            JobEvent.ADMIT,
            admitted_at=self._now(),
            parallelism=parallelism,
            attempt=1,
            spec=spec,
            # While the engine is tried again, the job shows why it has not started yet.
            note=None if outage is None else outage.message,
            next_look_at=None,
        )
        if admitted:
            _log.info("job admitted", extra={"job_id": job.id, "parallelism": parallelism, "share": grant.share})
            self.wake()

    async def _submit(self, job: JobRecord) -> None:
        """Write the spec and submit the attempt to its engine; both may have happened before."""
        assert job.spec is not None
        engine = self._engines.get(job.engine)
        outage = self._outages.get(job.engine)
        if outage is not None and outage.until > self._now():
            return
        try:
            if engine is None:
                raise TransientError(
                    "engine_not_configured",
                    f"Engine {job.engine.value!r} is not configured any more.",
                    maybe_started=True,
                )
            spec_uri = await self._ledgers.write_spec(JobSpec.model_validate(job.spec))
        except IngestionError as error:
            await self._postpone(job, 5, error.message)
            return
        try:
            await engine.submit(job.id, job.attempt, spec_uri, job.parallelism or 1)
        except TransientError as error:
            await self._note_outage(job, error)
        except SubmissionError as error:
            _log.warning("job refused by its engine", extra={"job_id": job.id, **error.log_fields()})
            await self._store.change(job, JobEvent.FAIL, error=error.record(), finished_at=self._now(), note=None)
        else:
            self._outages.pop(job.engine, None)
            await self._note_submitted(job, engine)

    async def _note_submitted(self, job: JobRecord, engine: JobEngine) -> None:
        now = self._now()
        reference = engine.reference(job.id, job.attempt)
        _log.info("job submitted", extra={"job_id": job.id, "attempt": job.attempt, "reference": reference})
        await self._store.change(
            job,
            JobEvent.ACCEPT,
            attempt_started_at=now,
            submitted_at=job.submitted_at or now,
            next_look_at=None,
        )
        if job.attempt == 1 and job.note is not None:  # a job that was canceled in the meantime keeps its note
            await self._store.update(job.id, {JobState.SUBMITTED}, note=None)

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
            released: dict[str, Any] = {"admitted_at": None, "parallelism": None, "attempt": 0}
            if await self._store.change(job, JobEvent.RELEASE, note=message, **released):
                return
        await self._store.update(job.id, ACTIVE_STATES, note=message, next_look_at=until)

    async def _postpone(self, job: JobRecord, pause_s: float, note: str) -> None:
        moment = self._now() + dt.timedelta(seconds=pause_s)
        with contextlib.suppress(Exception):
            await self._store.update(job.id, {job.state}, note=note, next_look_at=moment)

    async def _hold(self) -> None:
        """Acquire or renew the right to dispatch, or note that another copy has it."""
        requested_at = time.monotonic()
        holding = asyncio.ensure_future(self._store.hold_dispatch(self._holder, HOLD_S))
        try:
            self._is_dispatching = await asyncio.shield(holding)
        except asyncio.CancelledError:
            # SQLite stays locked for five seconds after a write that was canceled. A database that hangs holds up the
            # end of the service for no longer.
            await asyncio.wait([holding], timeout=STOP_WAIT_S)
            holding.cancel()
            raise
        self._held_at = requested_at if self._is_dispatching else -HOLD_S

    async def _keep_hold(self) -> None:
        """Renew the right to dispatch, also during a long round."""
        while True:
            await asyncio.sleep(HOLD_S / 3)
            try:
                await self._hold()
            except Exception:
                _log.exception("right to dispatch not renewed")


class ActiveJobs:
    """All jobs that have not ended, kept in memory between rounds; only rows that have changed are read again.

    The table is authoritative: rows written by another copy of the service are read like all others, and after a
    restart all rows are.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._held: dict[str, JobRecord] = {}

    async def read(self) -> list[JobRecord]:
        """Return all jobs that have not ended, oldest first: the order of admission.

        Cost: one query for ids and revisions; one more per ``READ_ROWS`` rows that have changed.
        """
        revisions = await self._store.list_revisions()
        held = self._held
        changed = [job_id for job_id, revision in revisions if job_id not in held or held[job_id].revision != revision]
        fresh = {job.id: job for job in await self._store.get_many(changed)} if changed else {}
        # A row that changed again between the two queries is newer than its revision here; it may have ended.
        found = {job_id: fresh.get(job_id) or held.get(job_id) for job_id, _ in revisions}
        self._held = {job_id: job for job_id, job in found.items() if job is not None and not job.state.is_final}
        return list(self._held.values())
