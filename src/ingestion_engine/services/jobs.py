"""What clients do with jobs: submit, get, list, follow, cancel, retry. Engines are ports."""

from __future__ import annotations

import asyncio
import datetime as dt
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from ingestion_engine.domain.errors import IngestionError, SubmissionError, TransientError
from ingestion_engine.domain.ids import hash_json
from ingestion_engine.domain.ports import JobEngine
from ingestion_engine.domain.records import EmbeddingWait
from ingestion_engine.domain.spec import EngineName, JobRequest, Mode
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.telemetry import get_logger, make_readable
from ingestion_engine.runtime.tracing import annotate, current_traceparent
from ingestion_engine.runtime.validation import describe_faults
from ingestion_engine.services.audit.change import begin_change, note_change
from ingestion_engine.services.collection_access import CollectionAccess
from ingestion_engine.services.job_drain import DrainSwitch
from ingestion_engine.services.job_feed import JobFeed
from ingestion_engine.services.job_ids import JobIds
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobEvent, JobPhase, find_phase
from ingestion_engine.services.job_store import IdempotencyTaken, JobFilter, JobStore, TooManyWaiting
from ingestion_engine.services.ledgers import FailurePage, Ledgers
from ingestion_engine.services.log_position import LogPosition, read_after
from ingestion_engine.services.plan_estimates import LOOK_AT, PlanEstimate, estimate_plan
from ingestion_engine.services.preflight import Preflight
from ingestion_engine.services.state_access import state_needed, state_not_configured

STATE_TIME_LIMIT_S: Final = 3.0
"""Time that the cancellation of a waiting job waits for the state store; the caller waits for it."""

IDEMPOTENCY_KEY_MAX: Final = 256
"""Maximum length in characters; the size of the column."""

_ALWAYS_PASSED: Final = dt.datetime.fromtimestamp(0, dt.UTC)
"""A deadline that has passed by the clock of every copy of the service."""

_FORCED_NOTE: Final = "Canceled by force: the service ends the job without its driver."

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job, and whether this request created it or an earlier one with the same idempotency key."""

    job: JobRecord
    created: bool


class JobService:
    """Jobs as clients see them.

    Args:
        store: The jobs table.
        preflight: Checks requests.
        ledgers: Ledgers of all jobs; None when no state store is configured.
        engines: Configured engines.
        wake: Wakes the dispatcher; called after every change that it should act on.
        drain: Whether new jobs are accepted.
        feed: Followers of jobs, and what jobs wait for at the gateways.
        max_waiting: Maximum number of jobs of one owner that wait for admission, exact over all copies of the service;
            None means no limit.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        preflight: Preflight,
        ledgers: Ledgers | None,
        engines: Mapping[EngineName, JobEngine],
        wake: Callable[[], None],
        drain: DrainSwitch,
        feed: JobFeed,
        max_waiting: int | None = None,
    ) -> None:
        self.feed = feed
        self._store = store
        self._preflight = preflight
        self._ledgers = ledgers
        self._engines = engines
        self._wake = wake
        self.waits = feed.waits
        self._drain = drain
        self._max_waiting = max_waiting
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._ids = JobIds()

    async def submit(
        self,
        engine: EngineName,
        request: JobRequest,
        *,
        access: CollectionAccess,
        owner: str = "",
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Check a request and store it as a queued job; the dispatcher submits it to its engine later.

        Args:
            engine: Engine that runs it.
            request: What the caller asks for.
            owner: Name of the caller.
            idempotency_key: The caller's name for this request.
            access: What the caller may use.

        Raises:
            SubmissionError: the request is refused; "idempotency_conflict" (409): the key was used for another body;
                "quota_exceeded" (429): too many jobs of the owner wait; "draining" (503): the service is drained and
                refuses new jobs.
        """
        body_hash = hash_json([engine.value, request.model_dump(mode="json")])
        first = await self._find_first(owner, idempotency_key, body_hash)
        if first is not None:
            return Submitted(first, created=False)
        await self._drain.require_open()
        job_id = self._ids.make()
        resolved = await self._preflight.resolve(request, job_id)
        await self._preflight.permit(resolved, request.collection, access)
        request = await self._preflight.complete(resolved)
        await self._preflight.check(engine, request)
        job = JobRecord(
            id=job_id,
            engine=engine,
            collection=request.collection,
            state=JobState.QUEUED,
            request=request.model_dump(mode="json"),
            body_hash=body_hash,
            created_at=self._store.now(),
            traceparent=current_traceparent(),
            owner=owner,
            idempotency_key=idempotency_key,
        )
        return await self._insert(job)

    async def retry(
        self,
        job_id: str,
        *,
        access: CollectionAccess,
        owner: str = "",
        idempotency_key: str | None = None,
        codes: Sequence[str] = (),
    ) -> Submitted:
        """Create a new job for exactly the objects that failed in a job that has ended.

        Args:
            job_id: The job that has ended.
            owner: Name of the caller.
            idempotency_key: Key of the request.
            access: What the caller may use.
            codes: Only objects that failed with one of these codes; empty means all.

        Raises:
            SubmissionError: "job_not_found"; "job_not_final" or "nothing_to_retry" (409); "state_unavailable" (503); as
                ``submit``.
        """
        old = await self.get(job_id)
        body_hash = hash_json(["retry", job_id, *sorted(set(codes))])
        first = await self._find_first(owner, idempotency_key, body_hash)
        if first is not None:
            return Submitted(first, created=False)
        if not old.state.is_final:
            raise SubmissionError(
                "job_not_final",
                f"Job {job_id!r} has not ended; its state is {old.state.value!r}.",
                hint="Wait until it has ended, or cancel it.",
                status=409,
            )
        await self._drain.require_open()
        # An alias only moves to complete collections; if the old job has moved it, it points to its collection already.
        request = read_request(old, alias=None, retry_failed=True)
        await self._preflight.permit(request, old.alias or request.collection, access)
        keys = [] if request.mode is Mode.PLAN else await self._read_failed_keys(job_id, codes)
        await self.get(job_id)  # else it is being removed, and the list may lack keys
        if not keys:
            which = f" with {' or '.join(map(repr, sorted(set(codes))))}" if codes else ""
            raise SubmissionError("nothing_to_retry", f"Job {job_id!r} has no failed objects{which}.", status=409)
        await self._preflight.check(old.engine, request)
        new_id = self._ids.make()
        ledgers = self._require_ledgers()
        with state_needed():
            path = await ledgers.write_only_keys(new_id, keys)
        job = JobRecord(
            id=new_id,
            engine=old.engine,
            collection=old.collection,
            state=JobState.QUEUED,
            request=request.model_dump(mode="json"),
            body_hash=body_hash,
            created_at=self._store.now(),
            traceparent=current_traceparent(),
            owner=owner,
            retry_of=job_id,
            only_keys_path=path,
            idempotency_key=idempotency_key,
        )
        return await self._insert(job)

    async def get(self, job_id: str) -> JobRecord:
        """Return a job. Raises SubmissionError "job_not_found" (404)."""
        job = await self._store.get(job_id)
        if job is None:
            raise job_not_found(job_id)
        return job

    async def list_page(
        self, where: JobFilter, *, limit: int, cursor: str | None
    ) -> tuple[list[JobRecord], str | None]:
        """Return up to ``limit`` jobs, newest first, and the cursor of the next page."""
        return await self._store.list_page(where, limit=limit, cursor=cursor)

    async def estimate(self, plan: JobRecord, *, seen_by: str | None = None) -> PlanEstimate | None:
        """Return how long the work of a plan would take at the pace of earlier jobs; None for anything else.

        Args:
            plan: The job.
            seen_by: Owner to whose jobs the caller is limited.

        Cost: one query for a plan that has succeeded, else none.
        """
        mode = plan.request.get("mode") if isinstance(plan.request, Mapping) else None
        if mode != Mode.PLAN or plan.state is not JobState.SUCCEEDED:
            return None
        ended = (JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED)
        where = JobFilter(engine=plan.engine, states=ended, seen_by=seen_by)
        earlier, _ = await self._store.list_page(where, limit=LOOK_AT, cursor=None)
        return estimate_plan(plan, earlier)

    async def read_failures(
        self, job_id: str, *, limit: int, cursor: str | None, codes: Sequence[str] = ()
    ) -> FailurePage:
        """Return up to ``limit`` failed objects of a job, of all codes or some, and the next cursor.

        With codes, a page may be short or empty before the end: one call reads a bounded number of failures.

        Raises:
            SubmissionError: "job_not_found" (404), "state_unavailable" (503).
        """
        await self.get(job_id)
        with state_needed():
            page = await self._require_ledgers().read_failures(job_id, limit=limit, cursor=cursor, codes=codes)
        await self.get(job_id)  # else it is being removed, and the page may lack failures
        return page

    async def read_log(self, job_id: str, attempt: int | None = None) -> str:
        """Return the end of a driver's log, from its engine or, once the engine has dropped it, from the ledger.

        Args:
            job_id: The job.
            attempt: Number of the attempt; None means the newest.

        Raises:
            SubmissionError: "job_not_found", "log_not_found" (404).
        """
        job = await self.get(job_id)
        attempt = attempt or job.attempt
        engine = self._engines.get(job.engine)
        text = None
        if engine is not None and 1 <= attempt <= job.attempt:
            try:
                text = await engine.logs(job_id, attempt)
            except TransientError as error:
                _log.warning("log not read from engine", extra={"job_id": job_id, **error.log_fields()})
        if text is None and self._ledgers is not None and attempt >= 1:
            with state_needed():
                text = await self._ledgers.read_log(job_id, attempt)
        if text is None:
            raise SubmissionError(
                "log_not_found", f"There is no log of attempt {attempt} of job {job_id!r} yet.", status=404
            )
        return make_readable(text)

    async def read_log_after(self, job_id: str, after: str, attempt: int | None = None) -> tuple[str, LogPosition]:
        """Return what was added to a driver's log after a position, and the position at its end.

        Args:
            job_id: The job.
            after: The position as text; empty for the beginning of what is kept.
            attempt: Number of the attempt to stay with; None means to go on with the next one when one has ended.

        Raises:
            SubmissionError: "job_not_found" (404), "validation_error" (422). A log that does not exist yet is empty.
        """
        job = await self.get(job_id)
        position = LogPosition.parse(after) if after else LogPosition(attempt or job.attempt)
        try:
            text = await self.read_log(job_id, position.attempt)
        except SubmissionError as error:
            if error.code != "log_not_found":
                raise
            text = ""
        has_successor = position.attempt < job.attempt
        added, following = read_after(text, position, is_final=job.state.is_final or has_successor)
        if not added and has_successor and attempt is None:
            return "", LogPosition(position.attempt + 1)
        return added, following if text else position

    async def cancel(self, job_id: str, *, force: bool = False) -> JobRecord:
        """End a waiting job, or request that an admitted one ends; a job that has ended stays as it is. Idempotent.

        Args:
            job_id: The job.
            force: End it now, whatever its engine reports: for a cluster that is gone. Its driver is fenced off, and a
                next job on the collection waits for the lease to expire.

        Raises:
            SubmissionError: "job_not_found".
        """
        while True:
            job, now = await self.get(job_id), self._store.now()
            note_change(subject=job.collection, job_id=job_id, force=force)
            if not job.state.is_final:
                await begin_change()
            event = await self._choose_cancellation(job)
            deadline = _ALWAYS_PASSED if force else None  # None means the usual deadline
            if event is JobEvent.CANCEL_WAITING:
                changed = await self._store.change(job, event, cancel_requested_at=now, finished_at=now, note=None)
            elif event is JobEvent.CANCEL:
                changed = await self._store.change(
                    job,
                    event,
                    cancel_requested_at=now,
                    deadline_at=deadline,
                    next_look_at=None,
                    note=_FORCED_NOTE if force else "Waiting for the driver to end.",
                )
            elif job.state is JobState.CANCELING and force and job.deadline_at != deadline:
                changed = await self._store.update(job, deadline_at=deadline, next_look_at=None, note=_FORCED_NOTE)
            else:
                return job
            if changed is not None:
                break  # else the dispatcher has just changed the job
        _log.info("cancel requested", extra={"job_id": job_id, "force": force})
        self._wake()
        if event is not JobEvent.CANCEL_WAITING:
            await self.waits.drop(job_id)
        return changed

    async def _choose_cancellation(self, job: JobRecord) -> JobEvent | None:
        """Return the event that cancels a job; None for one that is being canceled or has ended."""
        phase = find_phase(job)
        if phase is not JobPhase.WAITING:
            return None if job.state.is_final or job.state is JobState.CANCELING else JobEvent.CANCEL
        if job.spec is not None:
            # It was admitted before and released: should an engine have its driver after all, the marker ends it.
            try:
                async with asyncio.timeout(STATE_TIME_LIMIT_S):
                    await self._require_ledgers().request_abort(job.id, "canceled")
            except (IngestionError, TimeoutError) as error:
                _log.warning("abort marker not written yet", extra={"job_id": job.id, "error": str(error)})
                return JobEvent.CANCEL
        return JobEvent.CANCEL_WAITING

    async def follow(
        self, job_id: str, *, known: str | None = None
    ) -> AsyncIterator[tuple[JobRecord, EmbeddingWait | None] | None]:
        """Yield a job and what it waits for at the gateways, now and after every change of either, until the job has
        ended, or the service ends; None after about 15 s without a change.

        Args:
            job_id: Id of the job.
            known: Version of the job (``JobUpdate.version``) that is not yielded again.
        """
        job = await self.get(job_id)
        follower = self.feed.follow(job, (await self.waits.find(job)).get(job_id), known=known)
        try:
            async for update in follower:
                yield None if update is None else (update.job, update.wait)
        finally:
            follower.close()

    async def _find_first(self, owner: str, key: str | None, body_hash: str) -> JobRecord | None:
        first = await self._store.find_by_key(owner, key)
        if first is not None and first.body_hash != body_hash:
            raise _conflict(first)
        if first is not None:
            note_change(subject=first.collection, job_id=first.id, repeated=True)
        return first

    async def _insert(self, job: JobRecord) -> Submitted:
        try:
            await self._store_within_quota(job)
        except IdempotencyTaken as taken:
            if taken.first.body_hash != job.body_hash:
                raise _conflict(taken.first) from None
            return Submitted(taken.first, created=False)
        annotate({"job_id": job.id, "engine": job.engine.value, "mode": job.request.get("mode")})
        _log.info("job queued", extra={"job_id": job.id, "engine": job.engine.value, "collection": job.collection})
        self._wake()
        return Submitted(job, created=True)

    async def _store_within_quota(self, job: JobRecord) -> None:
        """Store a new job. Raises IdempotencyTaken, and SubmissionError "quota_exceeded" (429)."""
        most = self._max_waiting
        if most is None or not job.owner:
            await begin_change(**_describe_job(job))
            await self._store.insert(job)
            return
        # One at a time for each owner and copy: those that wait for their turn in the database have a connection.
        async with self._turns.setdefault(job.owner, asyncio.Lock()):
            waiting = await self._store.count_waiting(job.owner)
            if waiting >= most:  # most refusals need neither a record of what was tried nor a transaction
                raise await self._refuse(job, waiting, most)
            await begin_change(**_describe_job(job))
            try:
                await self._store.insert_within(job, most)
            except TooManyWaiting as found:  # another copy was faster
                raise await self._refuse(job, found.waiting, most) from None

    async def _refuse(self, job: JobRecord, waiting: int, most: int) -> IdempotencyTaken | SubmissionError:
        """Return why a job exceeds the quota: the same request, sent twice, may itself have been the last to fit."""
        first = await self._store.find_by_key(job.owner, job.idempotency_key)
        if first is not None:
            return IdempotencyTaken(first)
        return SubmissionError(
            "quota_exceeded",
            f"{waiting} jobs of {job.owner!r} wait for their start already, and at most {most} may.",
            hint="Wait until some have started, cancel some, or ask the operator for a higher "
            "INGEST_LIMITS__QUEUED_JOBS_PER_KEY.",
            status=429,
        )

    async def _read_failed_keys(self, job_id: str, codes: Sequence[str]) -> list[str]:
        with state_needed():
            return await self._require_ledgers().read_failed_keys(job_id, codes)

    def _require_ledgers(self) -> Ledgers:
        if self._ledgers is None:
            raise state_not_configured()
        return self._ledgers


def job_not_found(job_id: str) -> SubmissionError:
    """Return the error for a job that does not exist, or that the caller may not see (404). Pure."""
    return SubmissionError(
        "job_not_found",
        f"Job {job_id!r} does not exist.",
        hint="List jobs with GET /jobs; jobs that ended longer ago than INGEST_RETENTION__DAYS are removed.",
        status=404,
    )


def read_request(job: JobRecord, **changes: Any) -> JobRequest:
    """Return the request of an earlier job with changes. Pure. Raises SubmissionError "job_unreadable" (409)."""
    try:
        return JobRequest.model_validate({**job.request, **changes})
    except (TypeError, ValidationError) as error:
        reason = describe_faults(error) if isinstance(error, ValidationError) else "it is no JSON object"
        message = f"The request of job {job.id!r} cannot be read: {reason}."
        raise SubmissionError("job_unreadable", message, hint="Submit a new job.", status=409) from error


def _describe_job(job: JobRecord) -> dict[str, Any]:
    """Return what the audit log has of a new job. Pure."""
    source = job.request.get("source") or {}
    return {
        "subject": job.collection,
        "job_id": job.id,
        "engine": job.engine.value,
        "mode": job.request.get("mode"),
        "bucket": source.get("bucket"),
        "prefix": source.get("prefix"),
        "alias": job.alias,
        "retry_of": job.retry_of,
    }


def _conflict(first: JobRecord) -> SubmissionError:
    return SubmissionError(
        "idempotency_conflict",
        f"The Idempotency-Key was used for another request, which created job {first.id!r}.",
        hint="Use a new key for a new request.",
        status=409,
        job_id=first.id,
    )
