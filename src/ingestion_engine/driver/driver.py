"""The driver: list, diff, plan, run, commit. One attempt of one job, in one process, on the cluster.

What it writes, in this order::

    lease (a new epoch) → open plan → plan segments → [workers: points, removal of stale points, reports] → deletions
    → rows of the object table → open plan removed → lease released → summary

After a crash between any two steps the next attempt completes the work: it first merges the reports of the open plan
into the object table and then plans anew, so everything already done is found unchanged. See docs/decisions/0002.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ingestion_engine.domain.errors import FatalError, IngestionError, LeaseLost, TransientError
from ingestion_engine.domain.ids import PartitionId, SegmentKind
from ingestion_engine.domain.ports import Embedder, Engine, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.records import (
    COMPARISONS,
    REMOVALS,
    UNFINISHED,
    Action,
    ObjectRef,
    ObjectResult,
    PartitionReport,
    PlannedObject,
)
from ingestion_engine.domain.spec import MODES_ON_EXISTING, CollectionContract, JobSpec, Mode, StoreName
from ingestion_engine.driver.alias_move import AliasMove
from ingestion_engine.driver.commit import OpenAttempt, attempt_reports, find_open_attempts, merge_attempt, open_attempt
from ingestion_engine.driver.comparison import compare_stores, count_points
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.ledger_writer import LedgerWriter
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import OutageBackoff, Probe
from ingestion_engine.driver.outcome import (
    comparison_incomplete,
    describe_emptiness,
    final_error,
    final_state,
    over_budget,
    stores_differ,
)
from ingestion_engine.driver.plan.diff import DiffRules, diff_objects
from ingestion_engine.driver.plan.listing import ListingOutOfOrderError, check_order, sort_listing
from ingestion_engine.driver.plan.parity_plan import ParityPlan, ParityScope
from ingestion_engine.driver.plan.plan_thread import FindObjects, PlanThread, SegmentNames
from ingestion_engine.driver.plan.selection import Selection
from ingestion_engine.driver.preflight import (
    check_certificates,
    check_contract,
    ensure_collections,
    prepare_collection,
    require_contract,
    wanted_contract,
)
from ingestion_engine.driver.probes import Probes
from ingestion_engine.driver.rounds import RoundHooks, Rounds
from ingestion_engine.engines.feed import is_abandoned
from ingestion_engine.pipeline.point_tally import PointTally
from ingestion_engine.pipeline.stored_copies import holds_version
from ingestion_engine.pipeline.upsert import delete_stale_points
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import format_seconds, timestamp_now, utc_now
from ingestion_engine.state.collections import write_verified
from ingestion_engine.state.deletions import refuse_deletion
from ingestion_engine.state.lease import HeldLease, Lease, acquire
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from ingestion_engine.state.trial import try_operations

log = get_logger(__name__)

CHECK_EVERY_KEYS = 1_000
"""Keys of a listing, one page, between two checks whether the job has to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAttempt:
    """What identifies one attempt of one job."""

    spec: JobSpec
    spec_uri: str
    """URI of the spec as workers receive it."""
    number: int
    """Number of the attempt, from 1."""
    parser_version: str
    """Version of the parsers; part of every fingerprint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The systems that an attempt works with."""

    state: StateStore
    source: ObjectSource
    embedder: Embedder
    stores: Mapping[StoreName, VectorStore]
    engine: Engine


@dataclass(slots=True)
class Driver:
    """One attempt of one job. ``run`` may be called once."""

    attempt: JobAttempt
    ports: Ports
    log_text: Callable[[], str | None] = lambda: None
    """Returns the end of the driver's log when it has changed since the last call, else None."""
    check_environment: Callable[[], None] = lambda: None
    """Raises FatalError "worker_mismatch" when this process differs from the service that accepted the job."""
    created: bool = field(default=True, init=False)
    """False when the job's collection is new and was not created, because there is nothing to ingest."""
    begun: float | None = None
    """Monotonic time in seconds at which the attempt began; None means now."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    spec: JobSpec = field(init=False)
    state: StateStore = field(init=False)
    ledger: Ledger = field(init=False)
    table: ObjectTable = field(init=False)
    counts: Counts = field(init=False)
    monitor: Monitor = field(init=False)
    outages: OutageBackoff = field(init=False)
    writer: LedgerWriter = field(init=False)
    rounds: Rounds = field(init=False)
    segments: SegmentNames = field(init=False)
    _async: asyncio.Runner = field(init=False)
    _has_writers: bool = field(init=False, default=False)
    """True when a partition did not end when the job had to stop: its worker may still write."""

    def __post_init__(self) -> None:
        self.spec, self.state = self.attempt.spec, self.ports.state
        self.ledger = Ledger(self.state, self.spec.job_id)
        self.table = ObjectTable(self.state, self.spec.request.collection)
        self.counts = Counts(points=PointTally(self.spec.request.stores).to_json())
        self.monitor = Monitor(
            self.spec,
            self.attempt.number,
            self.ledger,
            counts=self.counts,
            log_text=self.log_text,
            begun=self.begun,
            clock=self.clock,
        )
        self._async = asyncio.Runner()
        self.outages = self._make_backoff(
            Probes(
                spec=self.spec,
                state=self.state,
                source=self.ports.source,
                embedder=self.ports.embedder,
                stores=self.ports.stores,
                run_async=self._async.run,
            )
        )
        self.writer = LedgerWriter(self.ledger, self.attempt.number, self.outages.retry_until_available)
        self.segments = SegmentNames(self.attempt.number)
        self.rounds = self._make_rounds(self.counts, self._check_budget)

    def run(self) -> dict[str, Any] | None:
        """Do the job and return its summary, durable in the ledger; None when another attempt owns the job now.

        Raises:
            BaseException: a defect, or the engine is lost; no summary is written and the next attempt takes over.
        """
        done_before = self.outages.retry_until_available(lambda: self.ledger.read_summary(self.attempt.number))
        if done_before is not None:
            return done_before
        started_at = timestamp_now()
        error: IngestionError | None = None
        with self._async, self.monitor:
            try:
                self._continue_progress()
                self.outages.retry_until_available(self.monitor.look_for_abort)  # canceled before it began
                self.monitor.check()
                self._run_attempt()
            except LeaseLost as lost:
                log.warning("another attempt took over", extra={**lost.log_fields(), **self._summarize_attempt()})
                return None
            except FatalError as fatal:
                error = fatal
                log.error("job stopped", extra=fatal.log_fields())
            except Exception:  # a defect, or the engine is lost: the log tells how far the attempt came
                log.exception("attempt failed unexpectedly", extra=self._summarize_attempt())
                raise
            except BaseException as stop:  # SIGTERM, as SystemExit
                log.warning("attempt interrupted", extra={"by": type(stop).__name__, **self._summarize_attempt()})
                raise
            finally:
                self._async.run(self._close())
            try:
                return self._finish(started_at, error)
            except LeaseLost as lost:
                log.warning("a later attempt has ended the job", extra=lost.log_fields())
                return None

    def _continue_progress(self) -> None:
        """Show at least the progress that the job's former attempt has shown."""
        if self.attempt.number > 1:
            before = self.outages.retry_until_available(self.ledger.read_progress) or {}
            self.monitor.continue_from(before)

    def _run_attempt(self) -> None:
        request, limits = self.spec.request, self.spec.limits
        # A later attempt continues what was begun, so it waits for the certificate as for any outage.
        self.outages.refuses_tls = self.attempt.number == 1
        wanted, is_new = self._check_request()
        if request.mode is Mode.PLAN:
            self._plan_only(check_contract(self.state, wanted) or wanted)
            return
        if is_new and not request.allow_mass_delete and self._finds_nothing():
            if request.alias is not None:
                self._alias_move(request.alias).refuse_mass_loss()
            self.created = False
            self._plan_only(wanted)
            return
        self.outages.retry_until_available(lambda: try_operations(self.state, f"jobs/{self.spec.job_id}/"))
        self.monitor.phase = "waiting"
        lease = self.outages.retry_until_available(
            lambda: acquire(
                self.state,
                request.collection,
                self.spec.job_id,
                attempt=self.attempt.number,
                ttl_s=limits.lease_ttl_s,
                grace_s=limits.lease_grace_s,
                should_stop=self._check_stop,
                on_wait=self._show_wait,
                clock=self.clock,
                sleep=self.sleep,
                wall_clock=self.wall_clock,
            )
        )
        self.monitor.note = None
        try:
            with lease.keep_alive():
                self.monitor.lease = lease
                try:
                    self.outages.retry_until_available(lambda: self.table.fence(lease.epoch))
                    self._refuse_deletion()  # ordered since, but not begun: that takes the lease
                    contract = self._prepare(wanted)
                    self.outages.refuses_tls = False
                    self._recover()
                    self._run_phases(lease, contract)
                    self._move_alias(lease, contract)
                    self._flush()
                except LeaseLost:
                    raise
                except FatalError:
                    self._flush()
                    raise
                finally:
                    self.monitor.lease = None
        except LeaseLost:
            raise
        except FatalError:
            if not self._has_writers:
                lease.release()  # no worker of this attempt is running any more, so a successor need not wait
            raise
        lease.release()

    def _flush(self) -> None:
        """Write what is buffered of reports and failures; requires the lease, so that no successor has begun."""
        with self.monitor.finishing():
            self.writer.flush()

    def _show_wait(self, holder: Lease, left_s: float | None) -> None:
        """Show what the attempt waits for: a driver that is dead, or one that is still at work."""
        whose = f"attempt {holder.attempt}"
        if holder.job_id != self.spec.job_id:
            whose += f" of job {holder.job_id!r}"
        if left_s is None:
            note = (
                f"Waiting until {whose}, which is still running, releases collection {self.spec.request.collection!r}."
            )
        else:
            until = format_seconds(utc_now() + dt.timedelta(seconds=left_s))
            note = f"Waiting for the lease of {whose}, which ended without releasing it, until {until}."
        self.monitor.note = note
        fields = {"holder_job": holder.job_id, "holder_attempt": holder.attempt, "wait_s": left_s}
        log.info("waiting for the lease", extra=fields)

    def _make_backoff(self, probe: Probe | None = None) -> OutageBackoff:
        """Return a back-off for one thread; without a probe for any thread but the driver's own."""
        return OutageBackoff(
            self.monitor,
            first_pause_s=self.spec.limits.outage_retry_s,
            sleep=self.sleep,
            clock=self.clock,
            probe=probe or (lambda _code: None),
        )

    def _check_stop(self) -> bool:
        self.monitor.check()
        return False

    # -- before anything is written -----------------------------------------------------------------------------------

    def _check_request(self) -> tuple[CollectionContract, bool]:
        """Check the request against this environment, the bucket, the model and the collection; write nothing.

        Returns:
            The contract, and whether it is the one of a new collection.
        """
        self.monitor.phase = "planning"
        self.check_environment()
        self._refuse_deletion()
        if self.spec.request.mode in MODES_ON_EXISTING:
            return self.outages.retry_until_available(lambda: require_contract(self.state, self.spec.request)), False
        source = self.spec.request.source
        self.outages.retry_until_available(
            lambda: self.ports.source.check_bucket(source.bucket, source.narrowest_prefix())
        )
        model = self.outages.retry_until_available(
            lambda: self._async.run(self.ports.embedder.describe(self.spec.model))
        )
        wanted = wanted_contract(self.spec, model)
        existing = self.outages.retry_until_available(lambda: check_contract(self.state, wanted))
        if self.spec.request.alias is not None:
            self._alias_move(self.spec.request.alias).check()
        return wanted, existing is None

    def _finds_nothing(self) -> bool:
        """Return whether the listing has no object to ingest. Reads it up to the first one."""
        source = self.spec.request.source
        selection = Selection(source, self._only_keys())

        def find() -> bool:
            parts = (self.ports.source.list_objects(source.bucket, prefix) for prefix in selection.prefixes)
            listing = self._until_stopped(itertools.chain.from_iterable(parts))
            return not any(selection.matches(ref.key) and not ref.is_directory_marker for ref in listing)

        return self.outages.retry_until_available(find)

    def _refuse_deletion(self) -> None:
        """Return when the collection is not being deleted. Raises FatalError ("collection_deleting")."""
        self.outages.retry_until_available(lambda: refuse_deletion(self.state, self.spec.request.collection))

    def _prepare(self, wanted: CollectionContract) -> CollectionContract:
        """Create or check the collection in every store, as far as the mode needs it."""
        mode, stores = self.spec.request.mode, self.ports.stores
        if self.outages.refuses_tls:  # ports that only workers use would be tried after hours of embedding
            self.outages.retry_until_available(lambda: self._async.run(check_certificates(stores)))
        if mode in (Mode.VERIFY, Mode.DELETE):
            return wanted
        if mode is Mode.REPAIR:
            self.outages.retry_until_available(lambda: self._async.run(ensure_collections(stores, wanted)))
            return wanted
        has_objects = self.outages.retry_until_available(lambda: next(iter(self.table.scan()), None) is not None)
        return self.outages.retry_until_available(
            lambda: self._async.run(prepare_collection(self.state, stores, wanted, mode=mode, has_objects=has_objects))
        )

    def _recover(self) -> None:
        """Merge every attempt on this collection that ended without a merge, those of this job included."""
        self.monitor.phase = "planning"
        if self.attempt.number > 1:
            self.counts.continue_from(self.outages.retry_until_available(self.writer.count_former_attempts))
        for dead in self.outages.retry_until_available(
            lambda: find_open_attempts(self.state, self.spec.request.collection)
        ):
            log.info("recovering an attempt", extra={"job_id": dead.job_id, "attempt": dead.attempt})
            if dead.job_id == self.spec.job_id:
                self.writer.rewrite_failures(dead)
            self._append_rows(dead, complete=False)

    # -- phases -------------------------------------------------------------------------------------------------------

    def _run_phases(self, lease: HeldLease, contract: CollectionContract) -> None:
        """Run the phases of the job's mode; plan again after an outage during planning or an unordered listing."""
        fingerprint = contract.fingerprint(self.attempt.parser_version, self.spec.request.metadata)
        opened = OpenAttempt(
            job_id=self.spec.job_id,
            attempt=self.attempt.number,
            epoch=lease.epoch,
            fingerprint=fingerprint,
            opened_at=timestamp_now(),
        )
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
                self.outages.reset()
                return
            if isinstance(error, ListingOutOfOrderError):
                log.info("the listing is not in byte order; sorting it first")
                sort_first = True
            else:
                self.outages.pause_for(error)
            self.counts.start_over()

    def _find_changes(self, fingerprint: str, *, sort_first: bool) -> FindObjects:
        """Return the work of a sync: the difference between the listing and the object table."""
        request, source = self.spec.request, self.ports.source
        only = self._only_keys()
        selection = Selection(request.source, only)
        rules = DiffRules(
            job_id=self.spec.job_id,
            bucket=request.source.bucket,
            fingerprint=fingerprint,
            full=request.mode is Mode.FULL or request.plan_full,
            delete_missing=request.delete_missing and only is None,
            retry_failed=request.retry_failed,
            selects=selection.matches,
            leaves_out=selection.leaves_out,
            epoch=self.monitor.epoch,
        )

        def find() -> Iterator[PlannedObject]:
            parts = (source.list_objects(request.source.bucket, prefix) for prefix in selection.prefixes)
            listing = self._until_stopped(itertools.chain.from_iterable(parts))
            ordered = sort_listing(listing) if sort_first else check_order(listing)
            return diff_objects(ordered, self.table.scan(request.source.prefix), rules, tally=self.counts.tally)

        return find

    def _until_stopped(self, listing: Iterable[ObjectRef]) -> Iterator[ObjectRef]:
        """Yield a listing. Raises what stops the job: millions of keys may pass without one to work on."""
        for number, ref in enumerate(listing):
            if number % CHECK_EVERY_KEYS == 0:
                self.monitor.check()
            yield ref

    def _plan_only(self, contract: CollectionContract) -> None:
        fingerprint = contract.fingerprint(self.attempt.parser_version, self.spec.request.metadata)
        try:
            find = self._find_changes(fingerprint, sort_first=False)
            self.outages.retry_until_available(self._make_plan(find, self.counts).measure)
        except ListingOutOfOrderError:
            self.counts.start_over()
            find = self._find_changes(fingerprint, sort_first=True)
            self.outages.retry_until_available(self._make_plan(find, self.counts).measure)

    def _compare(self, opened: OpenAttempt, contract: CollectionContract) -> BaseException | None:
        """Verify or repair; return the error after which planning has to start over, if any."""
        request = self.spec.request
        self.writer.delete_failures()
        action = Action.REPAIR if request.mode is Mode.REPAIR else Action.VERIFY
        plan = self._parity_plan(contract, self.counts)
        # A guess at the parts of the whole that comparing, searching and, for a repair, ingesting again take.
        parts = (0.5, 0.6) if action is Action.REPAIR else (0.9, 1.0)
        error = self._compare_stores(plan, action, self.rounds, parts=parts)
        if error is None and action is Action.REPAIR:
            self.writer.flush()
            results = (r for report in attempt_reports(self.ledger, opened.attempt) for r in report.results)
            error = self._run_open(opened, lambda: plan.find_undecided(results))
        elif error is None and plan.scope.is_whole and comparison_incomplete(self.counts) is None:
            found = self.counts.different + self.counts.foreign_points
            self.outages.retry_until_available(
                lambda: write_verified(
                    self.state, request.collection, self.spec.job_id, at=timestamp_now(), differences=found
                )
            )
        return error

    def _prove_parity(self, contract: CollectionContract) -> None:
        """Return when every store holds exactly the points that the object table lists. Requires the lease.

        Raises:
            FatalError: "stores_differ" or "comparison_incomplete", with the totals; each object that differs or could
                not be compared is among the job's failures.
        """
        counts = Counts()
        rounds = self._make_rounds(counts, lambda: None)
        parts = (0.97, 1.0)
        while (
            error := self._compare_stores(self._parity_plan(contract, counts), Action.VERIFY, rounds, parts=parts)
        ) is not None:
            self.outages.pause_for(error)
            counts.start_over()
        found = stores_differ(counts) or comparison_incomplete(counts)
        if found is not None:
            raise found

    def _compare_stores(
        self, plan: ParityPlan, action: Action, rounds: Rounds, *, parts: tuple[float, float]
    ) -> BaseException | None:
        """Compare the stores; ``parts`` are the parts of the job that are done after the comparison and the search."""

        def run(find: FindObjects, kind: SegmentKind) -> BaseException | None:
            thread = self._make_plan(find, plan.counts, kind=kind)
            self._run_plan(thread, rounds, until=parts[kind is SegmentKind.STRAY_SEARCHES])
            return thread.error

        def count() -> dict[str, int]:
            held = count_points(self.ports.stores, self.spec.request.collection)
            return self._async.run(held)

        return compare_stores(plan, action, run=run, count_points=lambda: self.outages.retry_until_available(count))

    def _parity_plan(self, contract: CollectionContract, counts: Counts) -> ParityPlan:
        """Return the streams of what the job compares or removes in a collection, counting in ``counts``."""
        request = self.spec.request
        if request.mode in MODES_ON_EXISTING:
            scope = ParityScope.of_source(request.source, self._only_keys())
        else:
            # Parity is proven for the whole collection, whatever part of it this job has ingested.
            scope = ParityScope(bucket=request.source.bucket)
        return ParityPlan(
            self.table,
            contract,
            scope,
            counts=counts,
            parser_version=self.attempt.parser_version,
            read_metadata=self._read_metadata,
        )

    def _read_metadata(self, job_id: str) -> Mapping[str, str]:
        """Return the metadata of a former job's request; empty when its spec cannot be read any more.

        The plan thread calls this while the driver's own back-off may be in use.
        """
        try:
            return self._make_backoff().retry_until_available(Ledger(self.state, job_id).read_spec).request.metadata
        except FatalError as error:
            log.warning("metadata of a former job is unknown", extra={"former_job": job_id, **error.log_fields()})
            return {}

    def _move_alias(self, lease: HeldLease, contract: CollectionContract) -> None:
        """Point the job's alias to the collection, if the job has one, is within its budget and the stores agree."""
        alias = self.spec.request.alias
        if alias is None or over_budget(self.counts, self.spec.request.failure_budget) is not None:
            return
        move = self._alias_move(alias)
        move.refuse_mass_loss()
        self._prove_parity(contract)
        move.check()
        self.monitor.phase = "finishing"
        self.monitor.check()
        with self.monitor.finishing():
            move.move(lease.renew)  # asks the state store: the service may have ended the job since the last renewal
        log.info("alias moved", extra={"alias": alias, "collection": contract.collection})

    def _alias_move(self, alias: str) -> AliasMove:
        return AliasMove(
            alias,
            self.spec,
            self.state,
            stores=self.ports.stores,
            monitor=self.monitor,
            outages=self.outages,
            run_async=self._async.run,
        )

    # -- plans --------------------------------------------------------------------------------------------------------

    def _make_rounds(self, counts: Counts, on_done: Callable[[], None]) -> Rounds:
        """Return rounds of this attempt that keep their own counts."""
        return Rounds(
            self._run_partitions,
            self.ledger,
            self.segments,
            counts=counts,
            writer=self.writer,
            monitor=self.monitor,
            outages=self.outages,
            hooks=RoundHooks(on_done, discard=self._discard),
        )

    def _run_partitions(self, ids: Iterable[PartitionId | None]) -> Iterator[PartitionReport]:
        for report in self.ports.engine.run(self.attempt.spec_uri, ids, should_stop=self.monitor.should_stop):
            if is_abandoned(report):
                log.warning("a partition did not end", extra={"partition_id": report.partition_id})
                self._has_writers = True
            yield report

    def _discard(self, planned: PlannedObject, failed: ObjectResult) -> bool:
        """Remove the points of an object whose worker has died, unless a former version is whole; True if it did."""
        lease, stores, collection = self.monitor.lease, self.ports.stores, self.spec.request.collection
        if planned.action in COMPARISONS | REMOVALS or lease is None:
            return False
        epoch = None if planned.action in UNFINISHED else lease.epoch
        tally = PointTally(stores)

        async def discard() -> bool:
            if await holds_version(stores, collection, failed, but_epoch=epoch):
                return False
            lease.check()
            await delete_stale_points(stores, collection, [failed.object_id], before_epoch=lease.epoch + 1, tally=tally)
            return True

        was_discarded = self.outages.retry_until_available(lambda: self._async.run(discard()))
        self.counts.add_points(tally.to_json())
        return was_discarded

    def _make_plan(
        self,
        find: FindObjects,
        counts: Counts,
        opened: OpenAttempt | None = None,
        *,
        kind: SegmentKind = SegmentKind.WORK,
    ) -> PlanThread:
        """Return a plan of what ``find`` yields; with ``opened`` a plan with an outcome to merge."""

        def before_first_segment() -> None:
            if opened is not None:
                lease = self.monitor.lease
                assert lease is not None
                open_attempt(self.state, lease, opened)

        def on_planned() -> None:
            self.monitor.meter.close_plan()
            tally = counts.tally
            fields = {"listed": tally.listed, "planned": counts.planned, "unchanged": tally.unchanged}
            fields |= {"deletes": tally.deletes, "partitions": counts.partitions_planned, "bytes": tally.bytes_planned}
            log.info("planned", extra={"kind": kind.name.lower(), **fields})

        return PlanThread(
            self.spec,
            self.ledger,
            self.segments,
            counts=counts,
            find_objects=find,
            before_first_segment=before_first_segment,
            on_planned=on_planned,
            kind=kind,
        )

    def _run_plan(self, plan: PlanThread, rounds: Rounds, *, until: float = 1.0) -> None:
        """Run a plan to its end; returns with ``plan.error`` set when planning has to start over.

        Args:
            plan: The plan.
            rounds: Rounds that run its partitions.
            until: Part of the whole job, 0 to 1, that is done when the plan is.

        Raises:
            FatalError: what stopped the job; no partition is running any more.
        """
        self.monitor.phase = "running"
        self.monitor.meter.begin_plan(plan.counts, until)
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
        plan_json = {
            "format": 1,
            "attempt": self.attempt.number,
            "written_at": timestamp_now(),
            "counts": self.counts.to_json(),
        }
        self.outages.retry_until_available(lambda: self.ledger.write_plan(plan_json))
        self._check_budget()
        if plan.delete_ids:
            self.monitor.phase = "deleting"
            rounds.run(iter(plan.delete_ids))

    def _run_open(self, opened: OpenAttempt, find: FindObjects) -> BaseException | None:
        """Run a plan that writes points, and merge its outcome.

        Returns:
            The error after which planning has to start over; None when the plan ran to its end.
        """
        plan = self._make_plan(find, self.counts, opened)
        try:
            self._run_plan(plan, self.rounds, until=1.0 if self.spec.request.alias is None else 0.8)
        except FatalError:
            self._merge(plan, opened, complete=False)
            raise
        self._merge(plan, opened, complete=plan.error is None)
        return plan.error

    def _merge(self, plan: PlanThread, opened: OpenAttempt, *, complete: bool) -> None:
        """Make the outcome part of the object table, also for a job that failed or was canceled."""
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
        """Write the outcome of an attempt, this one or a dead one, as rows of the object table."""
        collection, epoch = self.spec.request.collection, self.monitor.epoch
        self.outages.retry_until_available(
            lambda: merge_attempt(
                self.state, collection, attempt, writer_epoch=epoch, complete=complete, now=timestamp_now()
            )
        )

    def _only_keys(self) -> frozenset[str] | None:
        """Return the keys that the job is restricted to; None when it has no such list."""
        path = self.spec.only_keys_path
        if path is None:
            return None
        return self.outages.retry_until_available(lambda: self.ledger.read_only_keys(path))

    # -- end ----------------------------------------------------------------------------------------------------------

    def _check_budget(self) -> None:
        error = over_budget(self.counts, self.spec.request.failure_budget)
        if self.counts.tally.complete and error is not None:
            self.monitor.stop(error)

    def _finish(self, started_at: str, error: IngestionError | None) -> dict[str, Any]:
        """Decide the job's final state and write the summary."""
        error = error or final_error(self.spec.request, self.counts)
        state = final_state(self.spec.request, self.counts, error)
        summary = self.ledger.make_summary(
            state=state,
            attempt=self.attempt.number,
            epoch=self.monitor.epoch,
            started_at=started_at,
            counts=self.counts.to_json(),
            timings=self.monitor.timings(),
            error=None if error is None else error.record(),
            note=None if error is not None else describe_emptiness(self.spec.request, self.counts, self.created),
        )
        if summary["note"] is not None:
            log.warning("nothing found", extra={"note": summary["note"]})
        with self.monitor.finishing():
            self.outages.retry_until_available(lambda: self.ledger.write_summary(summary))
        log.info("job ended", extra={"state": state.value, **self._summarize_attempt(), **self.counts.to_json()})
        return summary

    def _summarize_attempt(self) -> dict[str, Any]:
        """Return what the attempt took and did, as fields of its last log line."""
        outages = {
            "outages": self.outages.number,
            "paused_s": round(self.outages.paused_s, 1),
            "waited_s": round(self.monitor.waited_s, 1),
        }
        work = {
            name: getattr(self.counts, name) for name in ("done", "failed", "partitions_done", "partitions_repeated")
        }
        return {"attempt": self.attempt.number, "elapsed_s": self.monitor.elapsed_s(), **outages, **work}

    async def _close(self) -> None:
        await self.ports.source.close()
        await self.ports.embedder.close()
        for store in self.ports.stores.values():
            await store.close()
