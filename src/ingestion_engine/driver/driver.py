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

from ingestion_engine.domain.errors import FatalError, IngestionError, JobAborted, LeaseLost
from ingestion_engine.domain.ports import Embedder, Engine, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.records import PlannedObject
from ingestion_engine.domain.spec import MODES_ON_EXISTING, CollectionContract, JobSpec, Mode, StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.driver.alias_move import check_job_alias, move_alias
from ingestion_engine.driver.attempt import Attempt, FindObjects, over_budget
from ingestion_engine.driver.commit import (
    OpenAttempt,
    find_open_attempts,
)
from ingestion_engine.driver.comparison import compare, plan_parity
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.ledger_writer import LedgerWriter
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import OutageBackoff
from ingestion_engine.driver.plan.diff import DiffRules, diff_objects
from ingestion_engine.driver.plan.listing import ListingOutOfOrderError, check_order, sort_listing
from ingestion_engine.driver.plan.parity_plan import differences_found
from ingestion_engine.driver.plan.selection import Selection
from ingestion_engine.driver.preflight import (
    check_contract,
    ensure_collections,
    prepare_collection,
    require_contract,
    wanted_contract,
)
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.lease import HeldLease, acquire
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable

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
    begun: float | None = None
    """Monotonic seconds when the attempt began; None means now."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    ledger: Ledger = field(init=False)
    table: ObjectTable = field(init=False)
    counts: Counts = field(init=False)
    monitor: Monitor = field(init=False)
    outages: OutageBackoff = field(init=False)
    writer: LedgerWriter = field(init=False)
    _async: asyncio.Runner = field(init=False)
    _work: Attempt = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.state, self.spec.job_id)
        self.table = ObjectTable(self.state, self.spec.request.collection)
        self.counts = Counts()
        self.monitor = Monitor(self.spec, self.attempt, self.ledger, self.counts, self.log_text, self.begun)
        self.outages = OutageBackoff(self.monitor, self.spec.limits.outage_retry_s, self.sleep, self.clock)
        self.writer = LedgerWriter(self.ledger, self.attempt, self.outages.retry_until_available)
        self._async = asyncio.Runner()
        self._work = Attempt(
            self.spec,
            self.spec_uri,
            self.attempt,
            self.parser_version,
            self.state,
            self.stores,
            self.engine,
            self.ledger,
            self.table,
            self.counts,
            self.monitor,
            self.outages,
            self.writer,
            self._async.run,
        )

    def run(self) -> dict[str, Any] | None:
        """Do the job and return its summary, durable in the ledger; None when another attempt owns the job now.

        Raises:
            BaseException: on defects and dead engines; no summary is written and the next attempt takes over.
        """
        done_before = self.outages.retry_until_available(self.ledger.read_summary)
        if done_before is not None:
            return done_before
        started_at = timestamp_now()
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
        lease = self.outages.retry_until_available(
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
                    self.outages.retry_until_available(lambda: self.table.fence(lease.epoch))
                    contract = self._prepare(wanted)
                    self._recover()
                    self._run_phases(lease, contract)
                    move_alias(self._work, lease, contract)
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
        if self.spec.request.mode in MODES_ON_EXISTING:
            return self.outages.retry_until_available(lambda: require_contract(self.state, self.spec.request))
        self.outages.retry_until_available(lambda: self.source.check_bucket(self.spec.request.source.bucket))
        model = self.outages.retry_until_available(lambda: self._async.run(self.embedder.describe(self.spec.model)))
        wanted = wanted_contract(self.spec, model)
        self.outages.retry_until_available(lambda: check_contract(self.state, wanted))
        check_job_alias(self._work)
        return wanted

    def _prepare(self, wanted: CollectionContract) -> CollectionContract:
        mode = self.spec.request.mode
        if mode in (Mode.VERIFY, Mode.DELETE):
            return wanted
        if mode is Mode.REPAIR:
            self.outages.retry_until_available(lambda: self._async.run(ensure_collections(self.stores, wanted)))
            return wanted
        has_objects = self.outages.retry_until_available(lambda: next(iter(self.table.scan()), None) is not None)
        return self.outages.retry_until_available(
            lambda: self._async.run(
                prepare_collection(self.state, self.stores, wanted, mode=mode, has_objects=has_objects)
            )
        )

    def _recover(self) -> None:
        """Merge every attempt on this collection that ended without doing so, this job's own included."""
        self.monitor.phase = "planning"
        for dead in self.outages.retry_until_available(
            lambda: find_open_attempts(self.state, self.spec.request.collection)
        ):
            log.info("recovering an attempt", extra={"job_id": dead.job_id, "attempt": dead.attempt})
            if dead.job_id == self.spec.job_id:
                self.writer.rewrite_attempt(dead, self.counts)
            self._work.append_rows(dead, complete=False)

    def _run_phases(self, lease: HeldLease, contract: CollectionContract) -> None:
        fingerprint = contract.fingerprint(self.parser_version, self.spec.request.metadata)
        opened = OpenAttempt(self.spec.job_id, self.attempt, lease.epoch, fingerprint, timestamp_now())
        mode = self.spec.request.mode
        sort_first = False
        while True:
            if mode in (Mode.VERIFY, Mode.REPAIR):
                error = compare(self._work, opened, contract)
            elif mode is Mode.DELETE:
                error = self._work.run_open(opened, plan_parity(self._work, contract, self.counts).find_removals)
            else:
                error = self._work.run_open(opened, self._find_changes(fingerprint, sort_first=sort_first))
            if error is None:
                return
            if isinstance(error, ListingOutOfOrderError):
                log.info("the server lists in another order than by bytes; sorting its listing first")
                sort_first = True
            else:
                self.outages.pause_for(error)
            self.counts.start_over()

    def _find_changes(self, fingerprint: str, *, sort_first: bool) -> FindObjects:
        """What a sync has to do: the listing beside the object table."""
        request = self.spec.request
        only = self._work.only_keys()
        selection = Selection(request.source, only)
        rules = DiffRules(
            self.spec.job_id,
            request.source.bucket,
            fingerprint,
            full=request.mode is Mode.FULL,
            delete_missing=request.delete_missing and only is None,
            retry_failed=request.retry_failed,
            selects=selection.matches,
            leaves_out=selection.leaves_out,
            epoch=self.monitor.epoch,
        )

        def find() -> Iterator[PlannedObject]:
            parts = (self.source.list_objects(request.source.bucket, prefix) for prefix in selection.prefixes)
            listing = itertools.chain.from_iterable(parts)
            ordered = sort_listing(listing) if sort_first else check_order(listing)
            return diff_objects(ordered, self.table.scan(request.source.prefix), rules, self.counts.tally)

        return find

    def _plan_only(self, contract: CollectionContract) -> None:
        fingerprint = contract.fingerprint(self.parser_version, self.spec.request.metadata)
        try:
            find = self._find_changes(fingerprint, sort_first=False)
            self.outages.retry_until_available(self._work.plan_thread(find, self.counts).measure)
        except ListingOutOfOrderError:
            self.counts.start_over()
            find = self._find_changes(fingerprint, sort_first=True)
            self.outages.retry_until_available(self._work.plan_thread(find, self.counts).measure)

    def _finish(self, started_at: str, error: IngestionError | None) -> dict[str, Any]:
        failed, tally = self.counts.total_failed, self.counts.tally
        if error is None and not self._work.is_within_budget():
            error = over_budget(failed, self.counts.planned)
        if error is None and self.spec.request.mode is Mode.VERIFY:
            error = differences_found(self.counts)
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
            "finished_at": timestamp_now(),
            "counts": self.counts.to_json(),
            "timings": {"stage_seconds": self.counts.stage_seconds, "elapsed_s": self.monitor.elapsed_s()},
            "error": None if error is None else error.record(),
        }
        with self.monitor.finishing():
            self.writer.flush()
            self.outages.retry_until_available(lambda: self.ledger.write_summary(summary))
        log.info("job ended", extra={"state": state.value, **self.counts.to_json()})
        return summary

    async def _close(self) -> None:
        await self.source.close()
        await self.embedder.close()
        for store in self.stores.values():
            await store.close()
