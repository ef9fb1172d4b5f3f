"""An attempt: what every phase of one run of a job's driver shares, and how a plan is run and its outcome merged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ingestion_engine.domain.errors import FatalError, LeaseLost, TransientError
from ingestion_engine.domain.ports import Engine, StateStore, VectorStore
from ingestion_engine.domain.records import PlannedObject
from ingestion_engine.domain.spec import JobSpec, StoreName
from ingestion_engine.driver.commit import OpenAttempt, merge_attempt, open_attempt
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.ledger_writer import LedgerWriter
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import OutageBackoff
from ingestion_engine.driver.plan.listing import ListingOutOfOrderError
from ingestion_engine.driver.plan.plan_thread import PlanThread
from ingestion_engine.driver.rounds import Rounds
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable

FindObjects = Callable[[], Iterator[PlannedObject]]

log = get_logger(__name__)


@dataclass(slots=True)
class Attempt:
    """One attempt of one job while it works on the collection."""

    spec: JobSpec
    spec_uri: str
    number: int
    parser_version: str
    state: StateStore
    stores: Mapping[StoreName, VectorStore]
    engine: Engine
    ledger: Ledger
    table: ObjectTable
    counts: Counts
    monitor: Monitor
    outages: OutageBackoff
    writer: LedgerWriter
    run_async: Callable[[Coroutine[Any, Any, Any]], Any]
    """Runs a coroutine of the adapters to its end, always on the same event loop."""
    rounds: Rounds = field(init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.rounds = self.make_rounds(self.counts, self._check_budget)

    def make_rounds(self, counts: Counts, on_done: Callable[[], None]) -> Rounds:
        """Return rounds of this attempt that keep their own counts."""
        return Rounds(
            self.engine,
            self.spec_uri,
            self.number,
            self.ledger,
            self.monitor,
            counts,
            self.writer,
            self.outages,
            self._numbers,
            on_done,
        )

    def plan_thread(
        self, find: FindObjects, counts: Counts, opened: OpenAttempt | None = None, *, kind: str = ""
    ) -> PlanThread:
        """Return a plan of what ``find`` yields; with ``opened`` one whose outcome is to be merged."""

        def before_first_segment() -> None:
            if opened is not None:
                # A driver that was frozen here may wake after its successor has read all open plans.
                lease = self.monitor.lease
                if lease is not None:
                    lease.check()
                open_attempt(self.state, self.spec.request.collection, opened)

        return PlanThread(self.spec, self.number, self.ledger, find, counts, before_first_segment, self._numbers, kind)

    def run_plan(self, plan: PlanThread, rounds: Rounds) -> None:
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
        plan_json = {
            "format": 1,
            "attempt": self.number,
            "written_at": timestamp_now(),
            "counts": self.counts.to_json(),
        }
        self.outages.retry_until_available(lambda: self.ledger.write_plan(plan_json))
        log.info("planned", extra={"listed": tally.listed, "planned": self.counts.planned, "deletes": tally.deletes})
        self._check_budget()
        if plan.delete_ids:
            self.monitor.phase = "deleting"
            rounds.run(iter(plan.delete_ids))

    def run_open(self, opened: OpenAttempt, find: FindObjects) -> BaseException | None:
        """Run a plan that writes points, and merge its outcome; return why planning has to start over, if it has."""
        plan = self.plan_thread(find, self.counts, opened)
        try:
            self.run_plan(plan, self.rounds)
        except FatalError:
            self._merge(plan, opened, complete=False)
            raise
        self._merge(plan, opened, complete=plan.error is None)
        return plan.error

    def _merge(self, plan: PlanThread, opened: OpenAttempt, *, complete: bool) -> None:
        """Make the outcome part of the object table, also of a job that failed or was canceled."""
        if not plan.started:
            return
        self.monitor.phase = "finishing"
        if isinstance(self.monitor.stopped, LeaseLost):
            return
        with self.monitor.finishing():
            self.writer.flush()
            self.append_rows(opened, complete=complete)
        plan.started = False

    def append_rows(self, attempt: OpenAttempt, *, complete: bool) -> None:
        """Make the outcome of an attempt, this one or a dead one, rows of the object table."""
        collection, epoch = self.spec.request.collection, self.monitor.epoch
        self.outages.retry_until_available(
            lambda: merge_attempt(
                self.state, collection, attempt, writer_epoch=epoch, complete=complete, now=timestamp_now()
            )
        )

    def only_keys(self) -> frozenset[str] | None:
        """Return the keys that the job is about; None when it has no such list."""
        if self.spec.only_keys_path is None:
            return None
        path = self.spec.only_keys_path
        stored = self.outages.retry_until_available(lambda: self.state.get(path))
        if stored is None:
            raise FatalError("spec_missing", f"The list of keys {path!r} is not in the state store.")
        return frozenset(orjson.loads(stored.data))

    def _check_budget(self) -> None:
        failed, planned = self.counts.total_failed, self.counts.planned
        if self.counts.tally.complete and not self.is_within_budget():
            self.monitor.stop(over_budget(failed, planned))

    def is_within_budget(self) -> bool:
        """True when no more objects failed than the job allows."""
        return self.spec.request.failure_budget.allows(self.counts.total_failed, self.counts.planned)


def over_budget(failed: int, planned: int) -> FatalError:
    """Return what ends a job with too many failures. Pure."""
    return FatalError(
        "failure_budget_exceeded",
        f"{failed} of {planned} objects failed, more than the failure budget allows.",
        hint="Look at the job's failures; raise failure_budget if so many are expected.",
        failed=failed,
        planned=planned,
    )
