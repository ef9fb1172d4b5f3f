"""The methods of the clients, each described once: its parameters, its request, and the model of its response.

``method`` and ``iteration`` name the operations of the OpenAPI; a test compares them with the service.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ingestion_engine.client.core import (
    LOG_POLL_S,
    LOG_QUIET_POLLS,
    Core,
    dump_request,
    idempotent,
    segment,
)
from ingestion_engine.client.errors import ApiError, ApiUnreachable
from ingestion_engine.client.methods import iteration, method
from ingestion_engine.client.steps import Emit, Items, Request, Sleep, Steps
from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.domain.states import FINAL_STATES
from ingestion_engine.models.aliases import AliasList, AliasView, PrunedAlias
from ingestion_engine.models.audit import AuditEntryView, AuditPage
from ingestion_engine.models.collections import (
    ChunkPageView,
    ChunkView,
    CollectionList,
    CollectionView,
    DeletionView,
    ObjectPage,
    ObjectView,
)
from ingestion_engine.models.jobs import Failure, FailurePageView, JobAccepted, JobPage, JobView
from ingestion_engine.models.operations import DrainView, ReadyView
from ingestion_engine.models.search import Filter, SearchView

JOBS_PAGE = 500
OBJECTS_PAGE = 1000
CHUNKS_PAGE = 200
COLLECTIONS_PAGE = 100
ALIASES_PAGE = 100
"""Items per request of lists that are read to their end: the most that the service returns, or, for collections, whose
points are counted, fewer."""

FOLLOW_PATIENCE_S = 60.0
"""Default of the seconds for which a service may be unreachable while a job is followed: an upgrade takes that long."""


class Routes(Core):
    """The methods of both clients."""

    # -- jobs ---------------------------------------------------------------------------------------------------------

    @method("submit_ray_job", "submit_spark_job")
    def submit(
        self, request: JobRequest | Mapping[str, Any], *, engine: str = "ray", idempotency_key: str | None = None
    ) -> Steps[JobAccepted]:
        """Submit a job; return its id and what it will write. It runs in the background.

        Args:
            request: What to ingest. Of a ``JobRequest``, the fields that were set are sent.
            engine: ``ray`` or ``spark``.
            idempotency_key: Any string; a repeated request with the same key creates no second job. None means one that
                the client makes, so that the request can be sent again when its connection breaks.
        """
        return self._read(
            JobAccepted,
            Request(
                "POST",
                f"/{segment(str(engine))}/jobs",
                json=dump_request(request),
                headers=idempotent(idempotency_key),
                repeatable=True,
            ),
        )

    @method("show_spark_manifest")
    def show_manifest(self, request: JobRequest | Mapping[str, Any]) -> Steps[dict[str, Any]]:
        """Return the SparkApplication that a request would create; creates nothing."""
        sent = Request("POST", "/spark/manifest", json=dump_request(request), repeatable=True)
        return self._read_object(sent)

    @method("get_job")
    def get_job(self, job_id: str) -> Steps[JobView]:
        """Return a job."""
        return self._read(JobView, Request("GET", f"/jobs/{segment(job_id)}", repeatable=True))

    @method("list_jobs")
    def list_jobs(
        self,
        *,
        engine: str | None = None,
        states: Sequence[str] = (),
        collection: str | None = None,
        owner: str | None = None,
        created_after: dt.datetime | str | None = None,
        created_before: dt.datetime | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Steps[JobPage]:
        """Return a page of jobs, newest first.

        Args:
            engine: Only jobs of this engine.
            states: Only jobs in one of these states; empty means all.
            collection: Only jobs that write this collection.
            owner: Only jobs that the API key or the person of this name has submitted.
            created_after: Only jobs created at this moment or later; a text is one of RFC 3339.
            created_before: Only jobs created before this moment.
            limit: Maximum number of jobs, at most 500.
            cursor: ``next_cursor`` of the page before.
        """
        where = {"engine": engine, "state": list(states), "collection": collection, "owner": owner}
        times = _time_params(created_after=created_after, created_before=created_before)
        page = {"limit": limit, "cursor": cursor}
        return self._read(JobPage, Request("GET", "/jobs", params={**where, **times, **page}, repeatable=True))

    @iteration("list_jobs")
    def iter_jobs(
        self,
        *,
        engine: str | None = None,
        states: Sequence[str] = (),
        collection: str | None = None,
        owner: str | None = None,
        created_after: dt.datetime | str | None = None,
        created_before: dt.datetime | str | None = None,
    ) -> Items[JobView]:
        """Yield all jobs that ``list_jobs`` returns, newest first. One request per 500."""
        where = {"engine": engine, "state": list(states), "collection": collection, "owner": owner}
        times = _time_params(created_after=created_after, created_before=created_before)
        request = Request("GET", "/jobs", params={**where, **times, "limit": JOBS_PAGE}, repeatable=True)
        return self._walk(partial(self._read, JobPage), request)

    @iteration("follow_job")
    def watch(self, job_id: str, *, patience_s: float = FOLLOW_PATIENCE_S) -> Items[JobView]:
        """Yield a job now and after every change, until it has ended; the last one yielded is final.

        Follows the job's events, and polls it where a proxy keeps them. Goes on after a restart of the service.

        Args:
            job_id: Id of the job.
            patience_s: Seconds that the service may be unreachable before ``ApiUnreachable`` is raised.
        """
        return self._follow(job_id, patience_s=patience_s)

    @method("follow_job")
    def wait(
        self, job_id: str, *, timeout_s: float | None = None, patience_s: float = FOLLOW_PATIENCE_S
    ) -> Steps[JobView]:
        """Return a job when it has ended, whatever its final state is; see ``watch``.

        Raises:
            TimeoutError: the job has not ended within ``timeout_s`` seconds; it continues.
        """
        return self._take_last(self._follow(job_id, patience_s=patience_s, timeout_s=timeout_s))

    @method("list_failures")
    def list_failures(
        self, job_id: str, *, codes: Sequence[str] = (), limit: int = 100, cursor: str | None = None
    ) -> Steps[FailurePageView]:
        """Return a page of the objects of a job that failed, or that differ between the stores.

        Args:
            job_id: Id of the job.
            codes: Only failures with one of these codes; empty means all. A page may then be short before the last one.
            limit: Maximum number of objects, at most 1,000.
            cursor: ``next_cursor`` of the page before.
        """
        params = {"code": list(codes), "limit": limit, "cursor": cursor}
        path = f"/jobs/{segment(job_id)}/failures"
        return self._read(FailurePageView, Request("GET", path, params=params, repeatable=True))

    @iteration("list_failures")
    def iter_failures(self, job_id: str, *, codes: Sequence[str] = ()) -> Items[Failure]:
        """Yield all objects of a job that ``list_failures`` returns. One request per 1,000."""
        params = {"code": list(codes), "limit": OBJECTS_PAGE}
        request = Request("GET", f"/jobs/{segment(job_id)}/failures", params=params, repeatable=True)
        return self._walk(partial(self._read, FailurePageView), request)

    @method("read_logs")
    def read_log(self, job_id: str, attempt: int | None = None) -> Steps[str]:
        """Return the last part of the log of a job's driver; ``attempt`` None means the newest attempt."""
        path = f"/jobs/{segment(job_id)}/logs"
        return self._read_text(Request("GET", path, params={"attempt": attempt}, repeatable=True))

    @iteration("read_logs")
    def follow_log(
        self, job_id: str, attempt: int | None = None, *, patience_s: float = FOLLOW_PATIENCE_S
    ) -> Items[str]:
        """Yield the log of a job's driver as it is kept, then what is added to it, until the job has ended.

        Polls every second, from the last position, also after a restart of the service.

        Args:
            job_id: Id of the job.
            attempt: Number of the attempt; None means the newest, and the ones that follow it.
            patience_s: Seconds that the service may be unreachable before ``ApiUnreachable`` is raised.
        """
        path = f"/jobs/{segment(job_id)}/logs"
        position, quiet = "", 0
        retries = self._begin_retries(patience_s)
        while True:
            pause_s = LOG_POLL_S
            try:
                # Before the log: what the driver wrote before the job ended is read after it.
                job = yield from self._get_job(job_id)
                params = {"attempt": attempt, "after": position}
                answer = yield from self._send_once(Request("GET", path, params=params))
            except (ApiError, ApiUnreachable) as error:
                pause = retries.pause_after(error, repeatable=True)
                if pause is None:
                    raise
                pause_s = pause
            else:
                retries.reset()
                if answer.text:
                    yield Emit(answer.text)
                following = answer.headers.get("Log-Position")
                if following is None:  # a service that does not know positions has sent all it has
                    return
                unchanged = job.state in FINAL_STATES and not answer.text and following == position
                quiet = quiet + 1 if unchanged else 0
                position = following
                if quiet == LOG_QUIET_POLLS:
                    return
            yield Sleep(pause_s)

    @method("cancel_job")
    def cancel(self, job_id: str, *, force: bool = False) -> Steps[JobView]:
        """Cancel a job; return it. A job that has ended is returned unchanged.

        Args:
            job_id: Id of the job.
            force: End the job although its cluster may be gone.
        """
        path = f"/jobs/{segment(job_id)}/cancel"
        return self._read(JobView, Request("POST", path, params={"force": force or None}, repeatable=True))

    @method("retry_job")
    def retry(
        self, job_id: str, *, codes: Sequence[str] = (), idempotency_key: str | None = None
    ) -> Steps[JobAccepted]:
        """Submit a new job for the failed objects of a job that has ended; return what ``submit`` returns.

        Args:
            job_id: Id of the job.
            codes: Only objects that failed with one of these codes; empty means all.
            idempotency_key: See ``submit``.
        """
        path = f"/jobs/{segment(job_id)}/retry"
        headers = idempotent(idempotency_key)
        request = Request("POST", path, params={"code": list(codes)}, headers=headers, repeatable=True)
        return self._read(JobAccepted, request)

    # -- collections and search ---------------------------------------------------------------------------------------

    @method("list_collections")
    def list_collections(self) -> Steps[list[CollectionView]]:
        """Return all collections, each with its number of points per store. One request per 100."""
        return self._gather(self._walk_collections())

    @iteration("list_collections")
    def iter_collections(self) -> Items[CollectionView]:
        """Yield all collections, by name, each with its number of points per store. One request per 100."""
        return self._walk_collections()

    def _walk_collections(self) -> Items[CollectionView]:
        request = Request("GET", "/collections", params={"limit": COLLECTIONS_PAGE}, repeatable=True)
        return self._walk(partial(self._read, CollectionList), request)

    @method("get_collection")
    def get_collection(self, name: str) -> Steps[CollectionView]:
        """Return the contract of a collection, points per store, objects by state, last job and last comparison."""
        return self._read(CollectionView, Request("GET", f"/collections/{segment(name)}", repeatable=True))

    @method("delete_collection")
    def delete_collection(self, name: str) -> Steps[DeletionView]:
        """Delete a collection in every store; return whether that is complete, otherwise with a note.

        The service completes it then; calling this again does so too, and raises ``NotFound`` when nothing is left.
        """
        return self._read(DeletionView, Request("DELETE", f"/collections/{segment(name)}"))

    @method("list_objects")
    def list_objects(
        self,
        name: str,
        *,
        prefix: str = "",
        state: str | None = None,
        warnings: bool = False,
        delimiter: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Steps[ObjectPage]:
        """Return a page of a collection's objects, ordered by key.

        Args:
            name: Collection or alias.
            prefix: Only objects whose key starts with this prefix.
            state: Only objects in this state: ``present`` or ``failed``.
            warnings: Only objects of which something was left out.
            delimiter: ``/`` lists keys with a slash after the prefix as ``folders`` instead of every object in them.
            limit: Maximum number of objects, at most 1,000.
            cursor: ``next_cursor`` of the page before.
        """
        params = _object_params(prefix=prefix, state=state, warnings=warnings)
        path = f"/collections/{segment(name)}/objects"
        page = {"delimiter": delimiter, "limit": limit, "cursor": cursor}
        return self._read(ObjectPage, Request("GET", path, params={**params, **page}, repeatable=True))

    @iteration("list_objects")
    def iter_objects(
        self, name: str, *, prefix: str = "", state: str | None = None, warnings: bool = False
    ) -> Items[ObjectView]:
        """Yield all objects of a collection, ordered by key. One request per 1,000."""
        params = {**_object_params(prefix=prefix, state=state, warnings=warnings), "limit": OBJECTS_PAGE}
        request = Request("GET", f"/collections/{segment(name)}/objects", params=params, repeatable=True)
        return self._walk(partial(self._read, ObjectPage), request)

    @method("list_chunks")
    def list_chunks(self, name: str, key: str, *, limit: int = 50, cursor: str | None = None) -> Steps[ChunkPageView]:
        """Return a page of the chunks of an object, in the order of the document, compared between the stores.

        Args:
            name: Collection or alias.
            key: Key of the object.
            limit: Maximum number of chunks, at most 200.
            cursor: ``next_cursor`` of the page before.
        """
        params = {"key": key, "limit": limit, "cursor": cursor}
        path = f"/collections/{segment(name)}/chunks"
        return self._read(ChunkPageView, Request("GET", path, params=params, repeatable=True))

    @iteration("list_chunks")
    def iter_chunks(self, name: str, key: str) -> Items[ChunkView]:
        """Yield all chunks of an object; see ``list_chunks``. One request per 200."""
        params = {"key": key, "limit": CHUNKS_PAGE}
        request = Request("GET", f"/collections/{segment(name)}/chunks", params=params, repeatable=True)
        return self._walk(partial(self._read, ChunkPageView), request)

    @method("delete_objects")
    def delete_objects(
        self,
        name: str,
        *,
        prefix: str,
        everything: bool = False,
        engine: str | None = None,
        idempotency_key: str | None = None,
    ) -> Steps[JobAccepted]:
        """Submit a job that removes the objects under a prefix from a collection; return what ``submit`` returns.

        Args:
            name: Collection or alias.
            prefix: Objects whose key starts with it are removed; an empty one is refused without ``everything``.
            everything: Allow an empty prefix, which means every object.
            engine: ``ray`` or ``spark``; None means the first that the service has.
            idempotency_key: See ``submit``.
        """
        return self._read(
            JobAccepted,
            Request(
                "DELETE",
                f"/collections/{segment(name)}/objects",
                params={"prefix": prefix, "all": everything or None, "engine": engine},
                headers=idempotent(idempotency_key),
                repeatable=True,
            ),
        )

    @method("search")
    def search(
        self,
        collection: str,
        query: str,
        *,
        limit: int = 10,
        stores: Sequence[str] | None = None,
        where: Filter | Mapping[str, Any] | None = None,
    ) -> Steps[SearchView]:
        """Return the passages nearest to a query, per store, best first.

        Args:
            collection: Collection or alias.
            query: Question or phrase, embedded with the model of the collection.
            limit: Maximum number of passages per store, at most 100.
            stores: Stores to search; None means all stores of the collection.
            where: Conditions that all passages meet.
        """
        body: dict[str, Any] = {"collection": collection, "query": query, "limit": limit}
        if stores:
            body["stores"] = list(stores)
        if where:
            body["filter"] = dump_request(where)
        return self._read(SearchView, Request("POST", "/search", json=body, repeatable=True))

    # -- aliases ------------------------------------------------------------------------------------------------------

    @method("list_aliases")
    def list_aliases(self) -> Steps[list[AliasView]]:
        """Return all aliases, each with its state in every store."""
        found = yield from self._read(AliasList, Request("GET", "/aliases", repeatable=True))
        return found.items

    @iteration("list_aliases")
    def iter_aliases(self) -> Items[AliasView]:
        """Yield all aliases, by name, each with its state in every store. One request per 100."""
        request = Request("GET", "/aliases", params={"limit": ALIASES_PAGE}, repeatable=True)
        return self._walk(partial(self._read, AliasList), request)

    @method("get_alias")
    def get_alias(self, name: str) -> Steps[AliasView]:
        """Return the collection of an alias, its former versions, and whether each store agrees."""
        return self._read(AliasView, Request("GET", f"/aliases/{segment(name)}", repeatable=True))

    @method("roll_back_alias")
    def roll_back_alias(
        self, name: str, *, to: str | None = None, idempotency_key: str | None = None
    ) -> Steps[AliasView]:
        """Move an alias to a former version; return the alias.

        Args:
            name: The alias.
            to: One of its former versions; None means the newest, so that calling it twice reverts the rollback.
            idempotency_key: See ``submit``: a repeated request with the same key does not move the alias again.
        """
        return self._read(
            AliasView,
            Request(
                "POST",
                f"/aliases/{segment(name)}/rollback",
                json=None if to is None else {"to": to},
                headers=idempotent(idempotency_key),
                repeatable=True,
            ),
        )

    @method("prune_alias")
    def prune_alias(self, name: str, *, keep: int = 1) -> Steps[PrunedAlias]:
        """Drop all but the ``keep`` newest former versions; return the alias and the names ``dropped``."""
        return self._read(PrunedAlias, Request("DELETE", f"/aliases/{segment(name)}/versions", params={"keep": keep}))

    @method("remove_alias")
    def remove_alias(self, name: str) -> Steps[None]:
        """Remove an alias; its collections are kept."""
        yield from self._send(Request("DELETE", f"/aliases/{segment(name)}"))

    # -- operation ----------------------------------------------------------------------------------------------------

    @method("livez")
    def check_live(self) -> Steps[None]:
        """Return when the process of the service responds; no other system is checked."""
        yield from self._send(Request("GET", "/livez", repeatable=True))

    @method("readyz")
    def check_ready(self, *, within_s: float | None = None) -> Steps[ReadyView]:
        """Return the state of every dependency, also when the service is not ready.

        Args:
            within_s: Seconds that the service waits for slow dependencies, at most 30; None means its default of 0.6.
        """
        request = Request("GET", "/readyz", params={"within_s": within_s}, repeatable=True)
        answer = yield from self._send(request, also=frozenset({503}))
        return self._parse(ReadyView, request, answer)

    @method("metrics")
    def read_metrics(self) -> Steps[str]:
        """Return the metrics of the service in the text format of Prometheus."""
        return self._read_text(Request("GET", "/metrics", repeatable=True))

    @method("get_drain")
    def get_drain(self) -> Steps[DrainView]:
        """Return whether the service is drained, and the jobs that are under way."""
        return self._read(DrainView, Request("GET", "/drain", repeatable=True))

    @method("start_drain")
    def start_drain(self, *, refuse: bool = False, reason: str | None = None) -> Steps[DrainView]:
        """Let no waiting job start; return what ``get_drain`` returns.

        Args:
            refuse: Refuse new jobs instead of accepting them to wait.
            reason: Why, for the notes of jobs that wait.
        """
        body = {"refuse": refuse} if reason is None else {"refuse": refuse, "reason": reason}
        return self._read(DrainView, Request("PUT", "/drain", json=body, repeatable=True))

    @method("end_drain")
    def end_drain(self) -> Steps[DrainView]:
        """Let waiting jobs start again; return what ``get_drain`` returns."""
        return self._read(DrainView, Request("DELETE", "/drain", repeatable=True))

    # -- audit log ----------------------------------------------------------------------------------------------------

    @method("list_audit")
    def list_audit(
        self,
        *,
        who: str | None = None,
        operation: str | None = None,
        outcome: str | None = None,
        subject: str | None = None,
        job_id: str | None = None,
        after: dt.datetime | str | None = None,
        before: dt.datetime | str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Steps[AuditPage]:
        """Return a page of the audit log, newest first: who has changed what, and who was refused.

        Args:
            who: Only entries of this caller; empty means callers that are unknown.
            operation: Only entries of this operation, for example ``delete_collection``.
            outcome: ``done``, ``refused``, ``failed`` or ``begun``.
            subject: Only entries about the collection, alias or key of this name.
            job_id: Only entries about this job.
            after: Only entries of this moment or later; a text is one of RFC 3339.
            before: Only entries before this moment.
            limit: Maximum number of entries, at most 1,000.
            cursor: ``next_cursor`` of the page before.
        """
        where = {"who": who, "operation": operation, "outcome": outcome, "subject": subject, "job": job_id}
        times = _time_params(after=after, before=before)
        params = {**where, **times, "limit": limit, "cursor": cursor}
        return self._read(AuditPage, Request("GET", "/audit", params=params, repeatable=True))

    @iteration("list_audit")
    def iter_audit(
        self,
        *,
        who: str | None = None,
        operation: str | None = None,
        outcome: str | None = None,
        subject: str | None = None,
        job_id: str | None = None,
        after: dt.datetime | str | None = None,
        before: dt.datetime | str | None = None,
    ) -> Items[AuditEntryView]:
        """Yield all entries that ``list_audit`` returns, newest first. One request per 1,000."""
        where = {"who": who, "operation": operation, "outcome": outcome, "subject": subject, "job": job_id}
        times = _time_params(after=after, before=before)
        request = Request("GET", "/audit", params={**where, **times, "limit": OBJECTS_PAGE}, repeatable=True)
        return self._walk(partial(self._read, AuditPage), request)


def _object_params(*, prefix: str, state: str | None, warnings: bool) -> dict[str, Any]:
    return {"prefix": prefix or None, "state": state, "warnings": warnings or None}


def _time_params(**moments: dt.datetime | str | None) -> dict[str, str | None]:
    """Return moments as texts of RFC 3339. Pure. Raises ValueError for one without a time zone."""
    shown: dict[str, str | None] = {}
    for name, moment in moments.items():
        if isinstance(moment, dt.datetime):
            if moment.tzinfo is None:
                raise ValueError(f"{name} needs a time zone, for example datetime.now(UTC).")
            shown[name] = moment.isoformat()
        else:
            shown[name] = moment
    return shown
