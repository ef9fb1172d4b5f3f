"""``--submit``: one small object through a running service, on every engine, from the submission to the search.

::

    object in S3 ─► POST /{engine}/jobs ─► dispatcher ─► engine ─► driver ─► worker ─► embedder ─► both stores ─► search

Everything that is made has a name of its own. It is removed again, also after a failure, a time-out or an interruption:
the object by this process, job and collection by the service. The job stays in the list of jobs, as every job.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from ingestion_engine.adapters.s3.trial import S3Trial
from ingestion_engine.client import ApiError, ApiUnreachable, AsyncIngestClient, NotFound
from ingestion_engine.doctor.context import Context, JobTrial, in_thread
from ingestion_engine.doctor.findings import Finding, State, fail, fail_by, not_configured, ok, skip, warn
from ingestion_engine.doctor.stores import TRIAL_JOB_PREFIX
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.spec import EngineName, StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.jobs import JobView
from ingestion_engine.models.search import SearchView

T = TypeVar("T")

ENGINES: Final = (EngineName.RAY, EngineName.SPARK)
"""Engines that are tried when none is named."""

TEXT: Final = "This is the object of `ingest doctor --submit`. It may be deleted."

PATIENCE_S: Final = 5.0
"""Seconds for which a request that the service refuses for now is repeated."""

END_S: Final = 20.0
"""Seconds to wait for the end of a canceled job, and again after it is ended by force."""

REMOVAL_S: Final = 10.0
"""Seconds that the removal of a collection may take here; after them the service goes on alone."""

_POLL_S: Final = 0.5
_KEY_HINT: Final = (
    "Set INGEST_API_KEY to a key with the scopes submit, read, search and delete, for the bucket and for collections "
    f"`{TRIAL_JOB_PREFIX}*`."
)
_URL_HINT: Final = "Start the service, or set --url (INGEST_API_URL) to its URL."


async def check_job(context: Context) -> list[Finding]:
    """Submit a job to every engine, at once, and search for its object in every store; then remove everything."""
    trial = context.trial
    if trial is None:
        hint = "Add --submit --bucket NAME to run one small job on every engine."
        return [not_configured("No job was submitted.", hint)]
    if context.has_failed("s3"):
        return [skip("because 's3' is not ok")]
    async with AsyncIngestClient(
        trial.url,
        trial.api_key,
        ca_file=context.settings.tls.ca_file,
        patience_s=PATIENCE_S,
        connect_patience_s=0,
    ) as client:
        return await _Trial(context, trial, client).run()


class _Trial:
    """One object, and a collection for each engine."""

    def __init__(self, context: Context, trial: JobTrial, client: AsyncIngestClient) -> None:
        self._settings = context.settings
        self._trial = trial
        self._client = client
        self._engines = trial.engines or ENGINES
        bucket, _, prefix = (context.bucket or "").removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix}{_make_name()}/"
        self._key = f"{self._prefix}trial.txt"
        urls = {StoreName.QDRANT: context.settings.qdrant.url, StoreName.WEAVIATE: context.settings.weaviate.url}
        self._stores = [store for store, url in urls.items() if url] or list(urls)

    async def run(self) -> list[Finding]:
        """Return the results, those of the engines first."""
        refused = await self._try_access()
        if refused is not None:
            return [refused]
        s3 = await in_thread(lambda: S3Trial(self._settings.s3, ca_file=self._settings.tls.ca_file))
        try:
            await _finish(in_thread(lambda: s3.put_text(self._bucket, self._key, TEXT)))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._try_engine(engine)) for engine in self._engines]
            findings = [finding for task in tasks for finding in task.result()]
        except IngestionError as error:
            where = f"s3://{self._bucket}/{self._prefix}*"
            hint = f"Allow s3:PutObject and s3:DeleteObject on {where}, or name another bucket."
            return [fail_by(error, hint)]
        finally:
            left = await _finish(self._remove_object(s3))
        if all(finding.state is State.NOT_CONFIGURED for finding in findings):
            hint = "Set INGEST_RAY__ADDRESS or INGEST_SPARK__NAMESPACE on the service."
            findings = [fail("The service has no engine.", hint, code="engine_not_configured")]
        return findings + left

    async def _try_access(self) -> Finding | None:
        """Return why nothing is tried; None when the service is there, and lets the caller remove what it will make.

        A submission is the only request that nothing tells about before.
        """
        name = _make_name()  # of no collection
        try:
            for request in (self._client.delete_collection, self._search, self._list_jobs):
                try:
                    await request(name)
                except NotFound as error:
                    if error.code != "collection_not_found":
                        return _refuse(error)
        except ApiError as error:
            return _refuse(error)
        except ApiUnreachable as error:
            return fail(str(error), error.hint or _URL_HINT, code="api_unreachable")
        return None

    async def _list_jobs(self, collection: str) -> Sequence[JobView]:
        return (await self._client.list_jobs(collection=collection)).items

    async def _search(self, collection: str) -> SearchView:
        return await self._client.search(collection, TEXT, limit=1, stores=[store.value for store in self._stores])

    async def _try_engine(self, engine: EngineName) -> list[Finding]:
        collection = _make_name()
        finding: Finding | None = None
        left: list[Finding] = []
        try:
            finding = await self._run_job(engine, collection)
        except ApiError as error:
            finding = _refuse(error)
        except ApiUnreachable as error:
            finding = fail(str(error), error.hint or _URL_HINT, code="api_unreachable")
        finally:
            if finding is None or finding.code != "engine_not_configured":
                left = await _finish(self._remove_collection(collection))
        if finding.code == "engine_not_configured" and not self._trial.engines:
            finding = replace(not_configured(finding.detail, finding.hint), code=finding.code)
        return [replace(one, target=engine.value) for one in (finding, *left)]

    async def _run_job(self, engine: EngineName, collection: str) -> Finding:
        """Return the result of one engine. Raises ApiError and ApiUnreachable."""
        limit_s = self._trial.time_limit_s
        request = {
            "source": {"bucket": self._bucket, "prefix": self._prefix},
            "collection": collection,
            "stores": [store.value for store in self._stores],
            "embedding": {"model": self._settings.ollama.model},
            "parallelism": 1,
            "max_runtime_s": max(1, int(limit_s)),
        }
        accepted = await _finish(self._client.submit(request, engine=engine.value, idempotency_key=collection))
        try:
            job = await self._client.wait(accepted.job_id, timeout_s=limit_s)
        except TimeoutError:
            return _describe_wait(await self._client.get_job(accepted.job_id), limit_s)
        if job.state is not JobState.SUCCEEDED or job.counts.get("done") != 1:
            return await self._describe_failure(job)
        missing = await self._find_missing(collection)
        if missing is not None:
            return missing
        stores = " and ".join(store.value.title() for store in self._stores)
        run_s = job.duration_s or 0.0
        return ok(
            f"an object was embedded and found in {stores} {job.queued_s + run_s:.1f} s after its submission, of which "
            f"{job.queued_s:.1f} s passed until the driver ran",
            job_id=job.job_id,
            queued_s=round(job.queued_s, 3),
            duration_s=round(run_s, 3),
        )

    async def _find_missing(self, collection: str) -> Finding | None:
        """Return the result for a store in which the object is not found; None when all have it."""
        found = await self._search(collection)
        for store in self._stores:
            title = store.value.title()
            if store in found.errors:
                reason = str(
                    found.errors[store].get("detail") or found.errors[store].get("reason") or "no reason given"
                )
                return fail(f"{title} cannot be searched: {reason}", f"Check {title}.", code="store_unavailable")
            if [hit.key for hit in found.results.get(store, [])] != [self._key]:
                hint = f"Check that the service, the workers and this process use the same {title}."
                return fail(f"{title} does not have the object that the job has written.", hint, code="stores_differ")
        return None

    async def _describe_failure(self, job: JobView) -> Finding:
        error = job.error or {}
        detail = str(error.get("detail") or error.get("title") or "")
        code, hint = str(error.get("code") or "") or None, str(error.get("hint") or "")
        if not detail:
            failures = (await self._client.list_failures(job.job_id, limit=1)).items
            for failure in failures:
                detail, code, hint = failure.reason or failure.code, failure.code, failure.hint or ""
        detail = detail or job.note or "its object was not found under the prefix"
        text = f"The job ended as {job.state.value}: {detail}"
        return fail(text, hint or f"Check `ingest logs {job.job_id}`.", code=code, job_id=job.job_id)

    async def _remove_collection(self, collection: str) -> list[Finding]:
        """End the job, and remove the collection; return what is left. Never raises for a service that fails."""
        removal = f"Run: ingest collections delete {collection}"
        try:
            for job in await self._list_jobs(collection):
                await self._end_job(job)
            give_up_at = time.monotonic() + REMOVAL_S
            while not (done := await self._client.delete_collection(collection)).deleted:
                if time.monotonic() >= give_up_at:
                    detail = f"Collection {collection!r} is still being removed: {done.note}"
                    return [warn(detail, "Wait: the service removes it as soon as it can.", collection=collection)]
                await asyncio.sleep(_POLL_S)
        except NotFound:
            return []  # it was never made, or is gone
        except (ApiError, ApiUnreachable, TimeoutError) as error:
            reason = str(error) or "the job does not end"
            return [warn(f"Collection {collection!r} may be left: {reason}", removal, collection=collection)]
        return []

    async def _end_job(self, job: JobView) -> None:
        """Cancel a job that has not ended. Raises TimeoutError when even force does not end it."""
        for force in (False, True):
            if job.state.is_final:
                return
            await self._client.cancel(job.job_id, force=force)
            try:
                job = await self._client.wait(job.job_id, timeout_s=END_S)
            except TimeoutError:
                if force:
                    raise

    async def _remove_object(self, s3: S3Trial) -> list[Finding]:
        try:
            await in_thread(lambda: s3.remove(self._bucket, self._key))
        except IngestionError as error:
            detail = f"The object s3://{self._bucket}/{self._key} may be left: {error.message}"
            return [warn(detail, "Delete it, and allow s3:DeleteObject.", target="object")]
        return []


def _make_name() -> str:
    """Return a name that nobody else has, for a collection or a prefix; the second of its creation is part of it."""
    return f"{TRIAL_JOB_PREFIX}{int(time.time())}_{secrets.token_hex(6)}"


def _refuse(error: ApiError) -> Finding:
    """Return the result for a request that the service refused. Pure."""
    hint = error.hint or "Check the log of the service."
    if error.status in (401, 403):
        hint = _KEY_HINT
    elif error.code == "http_error":
        hint = _URL_HINT
    return fail(str(error), hint, code=error.code)


def _describe_wait(job: JobView, limit_s: float) -> Finding:
    """Return the result for a job that has not ended in time: what it waits for, and on what machine to look. Pure."""
    note = f": {job.note}" if job.note else ""
    engine = job.engine.value
    if job.state is JobState.QUEUED:
        detail = f"The job still waits for its start after {limit_s:g} s{note or '.'}"
        hint = "Wait for other jobs, or raise the limit that the note names. Without a note, check `ingest ready`."
    elif job.started_at is None:
        detail = f"The driver has not started within {limit_s:g} s{note or '.'}"
        hint = f"Check that {engine.title()} has free CPUs and memory for a driver, and can install the package."
    elif not note and not job.counts.get("bytes_read"):
        detail = f"The driver runs, but no worker has read the object within {limit_s:g} s: no worker has free CPUs."
        hint = f"Check the nodes of {engine.title()} and what else they run, or add workers."
    else:
        detail = f"The job has not ended within {limit_s:g} s{note or '.'}"
        hint = f"Check `ingest logs {job.job_id}`, or raise --job-timeout."
    state, waits_for = job.state.value, job.waits_for
    return fail(detail, hint, code="check_timeout", job_id=job.job_id, job_state=state, waits_for=waits_for)


async def _finish(work: Awaitable[T]) -> T:
    """Return a result; an interruption waits for it first, because what it makes can only be removed then."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
