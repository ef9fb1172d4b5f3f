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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ingestion_engine.domain.errors import FatalError, IngestionError, JobAborted, LeaseLost, TransientError
from ingestion_engine.domain.ports import Embedder, Engine, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.records import Action, PlannedObject
from ingestion_engine.domain.spec import ON_WHAT_IS_THERE, CollectionContract, JobSpec, Mode, StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.engines.counts import Counts
from ingestion_engine.engines.ledger_writer import LedgerWriter
from ingestion_engine.engines.listing import ListingOutOfOrderError, check_order, sort_listing
from ingestion_engine.engines.merge import (
    OpenAttempt,
    attempt_reports,
    find_open_attempts,
    merge_attempt,
    open_attempt,
)
from ingestion_engine.engines.monitor import Monitor
from ingestion_engine.engines.parity import ParityPlan, count_points, differences_found
from ingestion_engine.engines.patience import Patience
from ingestion_engine.engines.plan_thread import PlanThread, is_mass_delete
from ingestion_engine.engines.planning import DiffRules, diff_objects
from ingestion_engine.engines.preflight import (
    check_alias,
    check_alias_in_stores,
    check_contract,
    ensure_collections,
    prepare_collection,
    require_contract,
    utc_now,
    wanted_contract,
)
from ingestion_engine.engines.rounds import Rounds
from ingestion_engine.engines.selection import Selection
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.state.aliases import find_alias, record_move, settle_alias
from ingestion_engine.state.collections import write_verified
from ingestion_engine.state.lease import HeldLease, acquire
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table import ObjectTable

FindObjects = Callable[[], Iterator[PlannedObject]]

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
        self._rounds = self._make_rounds(self.counts, self._check_budget)

    def _make_rounds(self, counts: Counts, on_done: Callable[[], None]) -> Rounds:
        return Rounds(
            self.engine,
            self.spec_uri,
            self.attempt,
            self.ledger,
            self.monitor,
            counts,
            self.writer,
            self.patience,
            self._numbers,
            on_done,
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
                    self._move_alias(lease, contract)
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
        if self.spec.request.mode in ON_WHAT_IS_THERE:
            return self.patience.persist(lambda: require_contract(self.state, self.spec.request))
        self.patience.persist(lambda: self.source.check_bucket(self.spec.request.source.bucket))
        model = self.patience.persist(lambda: self._async.run(self.embedder.describe(self.spec.model)))
        wanted = wanted_contract(self.spec, model)
        self.patience.persist(lambda: check_contract(self.state, wanted))
        self._check_alias()
        return wanted

    def _check_alias(self) -> None:
        alias = self.spec.request.alias
        if alias is not None:
            self.patience.persist(lambda: check_alias(self.state, alias))
            self.patience.persist(lambda: self._async.run(check_alias_in_stores(self.stores, alias)))

    def _prepare(self, wanted: CollectionContract) -> CollectionContract:
        mode = self.spec.request.mode
        if mode in (Mode.VERIFY, Mode.DELETE):
            return wanted
        if mode is Mode.REPAIR:
            self.patience.persist(lambda: self._async.run(ensure_collections(self.stores, wanted)))
            return wanted
        has_objects = self.patience.persist(lambda: next(iter(self.table.scan()), None) is not None)
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
        mode = self.spec.request.mode
        sort_first = False
        while True:
            if mode in (Mode.VERIFY, Mode.REPAIR):
                error = self._compare(opened, contract)
            elif mode is Mode.DELETE:
                error = self._run_open(opened, self._parity_plan(contract, self.counts).find_removals)
            else:
                error = self._run_open(opened, self._find_changes(fingerprint, sort_first=sort_first))
            if error is None:
                return
            if isinstance(error, ListingOutOfOrderError):
                log.info("the server lists in another order than by bytes; sorting its listing first")
                sort_first = True
            else:
                self.patience.wait_out(error)
            self._start_over()

    def _start_over(self) -> None:
        """Forget the plan but not the work: objects done so far are rows of this job now and are counted from there."""
        self.counts.start_over()

    def _run_open(self, opened: OpenAttempt, find: FindObjects) -> BaseException | None:
        """Run a plan that writes points, and merge its outcome; return why planning has to start over, if it has."""
        plan = self._plan_thread(find, self.counts, opened)
        try:
            self._run_plan(plan, self._rounds)
        except FatalError:
            self._merge(plan, opened, complete=False)
            raise
        self._merge(plan, opened, complete=plan.error is None)
        return plan.error

    def _compare(self, opened: OpenAttempt, contract: CollectionContract) -> BaseException | None:
        """Verify or repair; return why it has to start over, if it has."""
        request = self.spec.request
        self.patience.persist(lambda: self.ledger.delete_failures(""))
        action = Action.REPAIR if request.mode is Mode.REPAIR else Action.VERIFY
        plan = self._parity_plan(contract, self.counts)
        error = self._run_comparison(plan, action, self._rounds)
        if error is None and action is Action.REPAIR:
            self.writer.flush()
            results = (r for report in attempt_reports(self.ledger, opened) for r in report.results)
            error = self._run_open(opened, lambda: plan.find_undecided(results))
        elif error is None and plan.is_whole:
            found = self.counts.different + self.counts.foreign_points
            self.patience.persist(
                lambda: write_verified(self.state, request.collection, self.spec.job_id, utc_now(), found)
            )
        return error

    def _run_comparison(self, plan: ParityPlan, action: Action, rounds: Rounds) -> BaseException | None:
        """Compare every object, then look for points of none where the stores hold more points than the objects."""
        compared = self._plan_thread(lambda: plan.find_rows(action), plan.counts)
        self._run_plan(compared, rounds)
        if compared.error is not None:
            return compared.error
        collection = self.spec.request.collection
        held = self.patience.persist(lambda: self._async.run(count_points(self.stores, collection)))
        if plan.is_whole and all(plan.counts.points_seen.get(name, 0) == points for name, points in held.items()):
            return None
        searched = self._plan_thread(lambda: plan.find_ranges(max(held.values())), plan.counts, kind="s")
        self._run_plan(searched, rounds)
        return searched.error

    def prove_parity(self, contract: CollectionContract) -> None:
        """Return when every store holds exactly what the object table says. For a caller that holds the lease.

        Raises:
            FatalError: "stores_differ", naming what the comparison found; each object is among the job's failures.
        """
        counts = Counts()
        rounds = self._make_rounds(counts, lambda: None)
        while (error := self._run_comparison(self._parity_plan(contract, counts), Action.VERIFY, rounds)) is not None:
            self.patience.wait_out(error)
            counts.start_over()
        found = differences_found(counts)
        if found is not None:
            raise FatalError("stores_differ", found.message, hint=found.hint, **found.context)

    def _move_alias(self, lease: HeldLease, contract: CollectionContract) -> None:
        """Have the job's alias stand for the collection, if it has one, the job is good enough and the stores agree."""
        alias, spec = self.spec.request.alias, self.spec
        if alias is None or not self._is_within_budget():
            return
        self._refuse_mass_loss(alias, contract.collection)
        self.prove_parity(contract)
        self._check_alias()
        self.monitor.phase = "finishing"
        self.monitor.check()
        with self.monitor.finishing():
            self.patience.persist(
                lambda: record_move(
                    self.state,
                    alias,
                    contract.collection,
                    job_id=spec.job_id,
                    job_created_at=spec.created_at,
                    now=utc_now(),
                    check=lease.check,
                )
            )
            self._settle_alias(alias)
        log.info("alias moved", extra={"alias": alias, "collection": contract.collection})

    def _refuse_mass_loss(self, alias: str, collection: str) -> None:
        """A version that lacks most of what readers find now is taken for a mistake, as deleting so much would be."""
        now = self.patience.persist(lambda: find_alias(self.state, alias))
        if now is None or now.collection == collection or self.spec.request.allow_mass_delete:
            return
        before = self.patience.persist(ObjectTable(self.state, now.collection).stats)["present"]
        after = self.patience.persist(self.table.stats)["present"]
        if after == 0 < before or is_mass_delete(before - after, before):
            raise FatalError(
                "mass_delete_refused",
                f"{collection} holds {after} objects; {now.collection} behind alias {alias} holds {before}.",
                hint="If that is right, submit again with allow_mass_delete=true; otherwise check prefix and filters.",
                deletes=before - after,
                objects=before,
            )

    def _settle_alias(self, alias: str) -> None:
        """Wait until the stores have followed; when asked to stop meanwhile, leave that to the service."""
        while True:
            try:
                self._async.run(settle_alias(self.state, self.stores, alias))
            except TransientError as error:
                if self.monitor.should_stop():
                    log.warning("alias not settled", extra={"alias": alias, **error.log_fields()})
                    return
                self.patience.wait_out(error)
            else:
                return

    def _is_within_budget(self) -> bool:
        return self.spec.request.failure_budget.allows(self.counts.total_failed, self.counts.planned)

    def _parity_plan(self, contract: CollectionContract, counts: Counts) -> ParityPlan:
        request, only = self.spec.request, self._only_keys()
        source = request.source
        asked = request.mode in ON_WHAT_IS_THERE  # proving parity is about the whole collection, whatever was ingested
        return ParityPlan(
            self.table,
            contract,
            source.bucket,
            source.prefix if asked else "",
            Selection(source, only).matches if asked else lambda _key: True,
            not asked or not (source.prefix or source.include or source.exclude or only),
            counts,
            self._read_metadata,
            self.parser_version,
        )

    def _read_metadata(self, job_id: str) -> Mapping[str, str]:
        try:
            return self.patience.persist(Ledger(self.state, job_id).read_spec).request.metadata
        except FatalError as error:
            log.warning("metadata of a former job not known", extra={"former_job": job_id, **error.log_fields()})
            return {}

    def _find_changes(self, fingerprint: str, *, sort_first: bool) -> FindObjects:
        """What a sync has to do: the listing beside the object table."""
        request = self.spec.request
        only = self._only_keys()
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

    def _plan_thread(
        self, find: FindObjects, counts: Counts, opened: OpenAttempt | None = None, *, kind: str = ""
    ) -> PlanThread:
        def before_first_segment() -> None:
            if opened is not None:
                open_attempt(self.state, self.spec.request.collection, opened)

        return PlanThread(self.spec, self.attempt, self.ledger, find, counts, before_first_segment, self._numbers, kind)

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
        try:
            find = self._find_changes(fingerprint, sort_first=False)
            self.patience.persist(self._plan_thread(find, self.counts).measure)
        except ListingOutOfOrderError:
            self._start_over()
            find = self._find_changes(fingerprint, sort_first=True)
            self.patience.persist(self._plan_thread(find, self.counts).measure)

    def _run_plan(self, plan: PlanThread, rounds: Rounds) -> None:
        """Run a plan to its end; returns with ``plan.error`` set when planning has to start over.

        Raises:
            FatalError: nothing is running any more when it is raised.
        """
        self.monitor.phase = "running"
        plan.start()
        try:
            rounds.run(plan.partition_ids())
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
            rounds.run(iter(plan.delete_ids))

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
        if error is None and not self._is_within_budget():
            error = _over_budget(failed, self.counts.planned)
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
            "finished_at": utc_now(),
            "counts": self.counts.to_json(),
            "timings": {"stage_seconds": self.counts.stage_seconds, "elapsed_s": self.monitor.elapsed_s()},
            "error": None if error is None else error.record(),
        }
        with self.monitor.finishing():
            self.writer.flush()
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
