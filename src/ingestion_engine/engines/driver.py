"""The driver: list, diff, plan, run, commit. One attempt of one job, in one process, on the cluster.

What it writes, in this order::

    lease (a new epoch) → open plan → plan segments → [workers: points, stale points go, reports] → deletions
    → rows of the object table → open plan removed → summary → lease released

A crash between any two leaves what the next attempt completes: it merges the open plan's reports into the object
table first and then
plans anew, so what was done is found done. See docs/decisions.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from ingestion_engine.domain.errors import FatalError, IngestionError, JobAborted, LeaseLost, TransientError
from ingestion_engine.domain.ports import Embedder, Engine, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.spec import CollectionContract, JobSpec, Mode, StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.engines.counts import Counts
from ingestion_engine.engines.ledger_writer import LedgerWriter
from ingestion_engine.engines.listing import ListingOutOfOrderError
from ingestion_engine.engines.merge import OpenAttempt, find_open_attempts, merge_attempt, open_attempt
from ingestion_engine.engines.monitor import Monitor
from ingestion_engine.engines.patience import Patience
from ingestion_engine.engines.plan_thread import PlanThread
from ingestion_engine.engines.planning import DiffRules, Tally
from ingestion_engine.engines.preflight import check_contract, prepare_collection, utc_now, wanted_contract
from ingestion_engine.engines.rounds import Rounds
from ingestion_engine.engines.selection import Selection
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.state.lease import HeldLease, acquire
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table import ObjectTable

log = get_logger(__name__)


@dataclass(slots=True)
class Driver:
    """One attempt of one job. ``run`` may be called once."""

    spec: JobSpec
    spec_uri: str
    attempt: int
    parser_version: str
    state: StateStore
    source: ObjectSource
    embedder: Embedder
    stores: dict[StoreName, VectorStore]
    engine: Engine
    log_text: Callable[[], str | None] = lambda: None
    check_environment: Callable[[], None] = lambda: None
    """Raises FatalError "worker_mismatch" when this process differs from the service that accepted the job."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    ledger: Ledger = field(init=False)
    table: ObjectTable = field(init=False)
    counts: Counts = field(init=False)
    monitor: Monitor = field(init=False)
    patience: Patience = field(init=False)
    writer: LedgerWriter = field(init=False)
    _async: asyncio.Runner = field(init=False)
    _numbers: Iterator[int] = field(init=False)
    _rounds: Rounds = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.state, self.spec.job_id)
        self.table = ObjectTable(self.state, self.spec.request.collection)
        self.counts = Counts()
        self.monitor = Monitor(self.spec, self.attempt, self.ledger, self.counts, self.log_text)
        self.patience = Patience(self.monitor, self.spec.limits.outage_retry_s, self.sleep, self.clock)
        self.writer = LedgerWriter(self.ledger, self.attempt, self.patience.persist)
        self._async = asyncio.Runner()
        self._numbers = itertools.count(1)
        self._rounds = Rounds(
            self.engine,
            self.spec_uri,
            self.attempt,
            self.ledger,
            self.monitor,
            self.counts,
            self.writer,
            self.patience,
            self._numbers,
            self._check_budget,
        )

    def run(self) -> dict[str, Any] | None:
        """Do the job and return its summary, durable in the ledger; None when another attempt owns the job now.

        Raises:
            BaseException: on defects and dead engines; no summary is written and the next attempt takes over.
        """
        done_before = self.patience.persist(self.ledger.read_summary)
        if done_before is not None:
            return done_before
        started_at = utc_now()
        error: IngestionError | None = None
        with self._async, self.monitor:
            try:
                self._attempt()
            except LeaseLost as lost:
                log.warning("another attempt took over", extra=lost.log_fields())
                return None
            except FatalError as fatal:
                error = fatal
                log.error("job stopped", extra=fatal.log_fields())
            finally:
                self._async.run(self._close())
            try:
                return self._finish(started_at, error)
            except LeaseLost as lost:
                log.warning("a later attempt has ended the job", extra=lost.log_fields())
                return None

    def _attempt(self) -> None:
        request = self.spec.request
        wanted = self._check_request()
        if request.mode is Mode.PLAN:
            self._plan_only(check_contract(self.state, wanted) or wanted)
            return
        self.monitor.phase = "waiting"
        limits = self.spec.limits
        lease = self.patience.persist(
            lambda: acquire(
                self.state,
                request.collection,
                self.spec.job_id,
                self.attempt,
                ttl_s=limits.lease_ttl_s,
                grace_s=limits.lease_grace_s,
                should_stop=self._check_stop,
                clock=self.clock,
                sleep=self.sleep,
            )
        )
        try:
            with lease.keep_alive():
                self.monitor.lease = lease
                try:
                    self.patience.persist(lambda: self.table.fence(lease.epoch))
                    contract = self._prepare(wanted)
                    self._recover()
                    self._work(lease, contract)
                finally:
                    self.monitor.lease = None
        except LeaseLost:
            raise
        except FatalError:
            lease.release()  # nothing of ours runs any more, so a successor need not wait
            raise
        lease.release()

    def _check_stop(self) -> bool:
        self.monitor.check()
        return False

    def _check_request(self) -> CollectionContract:
        self.monitor.phase = "planning"
        self.check_environment()
        self.patience.persist(lambda: self.source.check_bucket(self.spec.request.source.bucket))
        model = self.patience.persist(lambda: self._async.run(self.embedder.describe(self.spec.model)))
        wanted = wanted_contract(self.spec, model)
        self.patience.persist(lambda: check_contract(self.state, wanted))
        return wanted

    def _prepare(self, wanted: CollectionContract) -> CollectionContract:
        has_objects = self.patience.persist(lambda: next(iter(self.table.scan()), None) is not None)
        mode = self.spec.request.mode
        return self.patience.persist(
            lambda: self._async.run(
                prepare_collection(self.state, self.stores, wanted, mode=mode, has_objects=has_objects)
            )
        )

    def _recover(self) -> None:
        """Merge every attempt on this collection that ended without doing so, this job's own included."""
        self.monitor.phase = "planning"
        for dead in self.patience.persist(lambda: find_open_attempts(self.state, self.spec.request.collection)):
            log.info("recovering an attempt", extra={"job_id": dead.job_id, "attempt": dead.attempt})
            if dead.job_id == self.spec.job_id:
                self.writer.rewrite_attempt(dead, self.counts)
            self._append_rows(dead, complete=False)

    def _work(self, lease: HeldLease, contract: CollectionContract) -> None:
        fingerprint = contract.fingerprint(self.parser_version, self.spec.request.metadata)
        opened = OpenAttempt(self.spec.job_id, self.attempt, lease.epoch, fingerprint, utc_now())
        sort_first = False
        while True:
            plan = self._new_plan(fingerprint, opened, sort_first=sort_first)
            try:
                self._run_plan(plan)
                complete = plan.error is None
            except FatalError:
                self._merge(plan, opened, complete=False)
                raise
            self._merge(plan, opened, complete=complete)
            if plan.error is None:
                return
            if isinstance(plan.error, ListingOutOfOrderError):
                log.info("the server lists in another order than by bytes; sorting its listing first")
                sort_first = True
            else:
                self.patience.wait_out(plan.error)
            self._start_over()

    def _start_over(self) -> None:
        """Forget the plan but not the work: objects done so far are rows of this job now and are counted from there."""
        self.counts.tally = Tally()
        self.counts.done = self.counts.failed = self.counts.gone = 0

    def _new_plan(self, fingerprint: str, opened: OpenAttempt | None, *, sort_first: bool) -> PlanThread:
        request = self.spec.request
        only = self._only_keys()
        rules = DiffRules(
            self.spec.job_id,
            request.source.bucket,
            fingerprint,
            full=request.mode is Mode.FULL,
            delete_missing=request.delete_missing and only is None,
            retry_failed=request.retry_failed,
            selects=Selection(request.source, only).matches,
        )

        def before_first_segment() -> None:
            assert opened is not None
            open_attempt(self.state, request.collection, opened)

        return PlanThread(
            self.spec,
            self.attempt,
            self.ledger,
            rules,
            lambda: self.source.list_objects(request.source.bucket, request.source.prefix),
            lambda: self.table.scan(request.source.prefix),
            sort_first,
            self.counts,
            before_first_segment,
            self._numbers,
        )

    def _only_keys(self) -> frozenset[str] | None:
        if self.spec.only_keys_path is None:
            return None
        path = self.spec.only_keys_path
        stored = self.patience.persist(lambda: self.state.get(path))
        if stored is None:
            raise FatalError("spec_missing", f"The list of keys {path!r} is not in the state store.")
        return frozenset(orjson.loads(stored.data))

    def _plan_only(self, contract: CollectionContract) -> None:
        fingerprint = contract.fingerprint(self.parser_version, self.spec.request.metadata)
        plan = self._new_plan(fingerprint, None, sort_first=False)
        try:
            self.patience.persist(plan.measure)
        except ListingOutOfOrderError:
            self._start_over()
            self.patience.persist(self._new_plan(fingerprint, None, sort_first=True).measure)

    def _run_plan(self, plan: PlanThread) -> None:
        """Run a plan to its end; returns with ``plan.error`` set when planning has to start over.

        Raises:
            FatalError: nothing is running any more when it is raised.
        """
        self.monitor.phase = "running"
        plan.start()
        try:
            self._rounds.run(plan.partition_ids())
        finally:
            plan.stop.set()
            plan.join()
        if isinstance(plan.error, FatalError):
            raise plan.error
        if plan.error is not None:
            if not isinstance(plan.error, ListingOutOfOrderError | TransientError):
                raise plan.error
            return
        tally = self.counts.tally
        plan_json = {"format": 1, "attempt": self.attempt, "written_at": utc_now(), "counts": self.counts.to_json()}
        self.patience.persist(lambda: self.ledger.write_plan(plan_json))
        log.info("planned", extra={"listed": tally.listed, "planned": self.counts.planned, "deletes": tally.deletes})
        self._check_budget()
        if plan.delete_ids:
            self.monitor.phase = "deleting"
            self._rounds.run(iter(plan.delete_ids))

    def _check_budget(self) -> None:
        failed, planned = self.counts.total_failed, self.counts.planned
        if self.counts.tally.complete and not self.spec.request.failure_budget.allows(failed, planned):
            self.monitor.stop(_over_budget(failed, planned))

    def _merge(self, plan: PlanThread, opened: OpenAttempt, *, complete: bool) -> None:
        """Make the outcome part of the object table, also of a job that failed or was canceled."""
        if not plan.started:
            return
        self.monitor.phase = "finishing"
        if isinstance(self.monitor.stopped, LeaseLost):
            return
        with self.monitor.finishing():
            self.writer.flush()
            self._append_rows(opened, complete=complete)
        plan.started = False

    def _append_rows(self, attempt: OpenAttempt, *, complete: bool) -> None:
        collection, epoch = self.spec.request.collection, self.monitor.epoch
        self.patience.persist(
            lambda: merge_attempt(self.state, collection, attempt, writer_epoch=epoch, complete=complete, now=utc_now())
        )

    def _finish(self, started_at: str, error: IngestionError | None) -> dict[str, Any]:
        failed, tally = self.counts.total_failed, self.counts.tally
        if error is None and not self.spec.request.failure_budget.allows(failed, self.counts.planned):
            error = _over_budget(failed, self.counts.planned)
        if isinstance(error, JobAborted):
            state = JobState.CANCELED
        elif error is not None:
            state = JobState.FAILED
        elif self.spec.request.mode is not Mode.PLAN and (failed or tally.failed_before):
            # Also when the failures are old: not everything that the bucket holds can be found.
            state = JobState.PARTIALLY_SUCCEEDED
        else:
            state = JobState.SUCCEEDED
        summary: dict[str, Any] = {
            "format": 1,
            "job_id": self.spec.job_id,
            "state": state.value,
            "attempt": self.attempt,
            "epoch": self.monitor.epoch,
            "started_at": started_at,
            "finished_at": utc_now(),
            "counts": self.counts.to_json(),
            "timings": {"stage_seconds": self.counts.stage_seconds, "elapsed_s": self.monitor.elapsed_s()},
            "error": None if error is None else error.record(),
        }
        with self.monitor.finishing():
            self.patience.persist(lambda: self.ledger.write_summary(summary))
        log.info("job ended", extra={"state": state.value, **self.counts.to_json()})
        return summary

    async def _close(self) -> None:
        await self.source.close()
        await self.embedder.close()
        for store in self.stores.values():
            await store.close()


def _over_budget(failed: int, planned: int) -> FatalError:
    return FatalError(
        "failure_budget_exceeded",
        f"{failed} of {planned} objects failed, more than the failure budget allows.",
        hint="Look at the job's failures; raise failure_budget if so many are expected.",
        failed=failed,
        planned=planned,
    )
