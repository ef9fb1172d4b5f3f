"""Every call of an attempt to a system outside, and one fault at one of them.

A step is named by what is called, not by its position in time, so that the same step is found again in every run
although several threads call at the same time.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ingestion_engine.domain.errors import FatalError, JobAborted, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
from ingestion_engine.pipeline.runner import WorkerContext
from ingestion_engine.pipeline.upsert import SchemaWatch
from ingestion_engine.pipeline.worker import report_of, run_partition
from ingestion_engine.state.collections import read_contract
from ingestion_engine.state.lease import LeaseCheck, read_lease
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.doubles import Crash
from support.world import SkippingClock, World

TIMERS = ("ingest-monitor", "lease-")
"""Threads whose calls depend on time; they are not counted as steps, and end with their process."""
UNNAMED = {"close", "spell"}
"""Methods that reach no other system."""
_RANDOM = re.compile(r"(?<=job-)[0-9a-z]{26}|(?<![0-9a-z])[0-9a-f]{16,}(?![0-9a-z])|(?<=trial-)[0-9]+(?=-)")


class Step(NamedTuple):
    """The nth call, from 1, of one method of one system with one argument."""

    system: str
    call: str
    nth: int
    in_worker: bool


class Fault(NamedTuple):
    """What happens at a step.

    ``crash before`` and ``crash after``: all processes of the attempt end around the call. ``death before``, ``death
    after``: only the worker ends. ``outage``: the call fails for now. ``lost``: it is applied, but its answer is lost.
    ``denied``: it is refused for good. ``defect``: it raises what nobody expects. ``abort``: somebody cancels the job.
    ``freeze``: the process stands still until a whole successor has ended, and then goes on.
    """

    kind: str
    step: Step


KINDS = (
    "crash before",
    "crash after",
    "death before",
    "death after",
    "outage",
    "lost",
    "denied",
    "defect",
    "abort",
    "freeze",
)


class Watch:
    """Sees every call of one attempt, and makes one of them fail."""

    def __init__(self, fault: Fault | None, react: Callable[[str], None] = lambda _kind: None) -> None:
        self.fault = fault
        self.met = False
        self.dead = False
        self.steps: list[Step] = []
        self._react = react
        self._seen: Counter[tuple[str, str, bool]] = Counter()
        self._lock = threading.Lock()

    def enter(self, system: str, call: str, run: WorkerRun | None) -> str | None:
        """Note a call; return the kind of the fault that it meets."""
        if self.dead or (run is not None and run.dead):
            raise Crash
        if threading.current_thread().name.startswith(TIMERS):
            return None
        call = _RANDOM.sub("*", call)
        with self._lock:
            self._seen[system, call, run is not None] += 1
            step = Step(system, call, self._seen[system, call, run is not None], run is not None)
            self.steps.append(step)
        if self.fault is None or self.fault.step != step:
            return None
        self.met = True
        return self.fault.kind

    def before(self, kind: str | None, run: WorkerRun | None) -> None:
        """Act before the call is applied."""
        if kind == "outage":
            raise TransientError("unavailable", "The system is unavailable.")
        if kind == "denied":
            raise FatalError("denied", "The system refuses this call.")
        if kind == "defect":
            raise RuntimeError("nobody expected this")
        if kind in {"abort", "freeze"}:
            self._react(kind)
        if kind in {"crash before", "death before"}:
            self._end(kind, run)

    def after(self, kind: str | None, run: WorkerRun | None) -> None:
        """Act when the call has been applied."""
        if kind == "lost":
            raise TransientError("unavailable", "The answer was lost.")
        if kind in {"crash after", "death after"}:
            self._end(kind, run)

    def _end(self, kind: str, run: WorkerRun | None) -> None:
        if kind.startswith("crash"):
            self.dead = True
        elif run is not None:
            run.dead = True
        raise Crash


@dataclass
class WorkerRun:
    """One run of one partition by a worker, which may end without its driver."""

    dead: bool = False


class Watched:
    """Any port, seen by a ``Watch``. Streams meet their fault before or after their first item."""

    def __init__(self, inner: Any, system: str, watch: Watch, run: WorkerRun | None = None) -> None:
        self._inner = inner
        self._system = system
        self._watch = watch
        self._run = run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name in UNNAMED:
            return found
        if inspect.isasyncgenfunction(found):
            return self._async_stream(name, found)
        if inspect.isgeneratorfunction(found):
            return self._stream(name, found)
        return self._async_call(name, found) if inspect.iscoroutinefunction(found) else self._call(name, found)

    def _enter(self, name: str, args: tuple[Any, ...]) -> str | None:
        argument = next((arg for arg in args if isinstance(arg, str)), "")
        return self._watch.enter(self._system, f"{name} {argument}".strip(), self._run)

    def _call(self, name: str, found: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            kind = self._enter(name, args)
            self._watch.before(kind, self._run)
            result = found(*args, **named)
            self._watch.after(kind, self._run)
            return result

        return call

    def _async_call(self, name: str, found: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **named: Any) -> Any:
            kind = self._enter(name, args)
            self._watch.before(kind, self._run)
            result = await found(*args, **named)
            self._watch.after(kind, self._run)
            return result

        return call

    def _stream(self, name: str, found: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def stream(*args: Any, **named: Any) -> Iterator[Any]:
            kind = self._enter(name, args)
            self._watch.before(kind, self._run)
            for item in found(*args, **named):
                yield item
                self._watch.after(kind, self._run)

        return stream

    def _async_stream(self, name: str, found: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
        async def stream(*args: Any, **named: Any) -> AsyncIterator[Any]:
            kind = self._enter(name, args)
            self._watch.before(kind, self._run)
            async for item in found(*args, **named):
                yield item
                self._watch.after(kind, self._run)

        return stream


@dataclass
class WatchedEngine:
    """Runs the worker's own code in this process, one partition after another; a worker may end alone."""

    world: World
    watch: Watch

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        for partition_id in partition_ids:
            if partition_id is None:
                continue
            run = WorkerRun()
            try:
                report = self._work(spec_uri, partition_id, run)
            except (Crash, BaseExceptionGroup):
                if self.watch.dead or not run.dead:
                    raise
                report = PartitionReport(partition_id, ReportStatus.RETRY, 0, process_died=True)
            yield report

    def _work(self, spec_uri: str, partition_id: PartitionId, run: WorkerRun) -> PartitionReport:
        return report_of(partition_id, lambda: asyncio.run(self._process(spec_uri, partition_id, run)))

    async def _process(self, spec_uri: str, partition_id: PartitionId, run: WorkerRun) -> PartitionReport:
        world = self.world
        state: Any = Watched(world.state, "state", self.watch, run)
        ledger = Ledger(state, JobUri.parse(spec_uri).job_id)
        spec = ledger.read_spec()
        collection = spec.request.collection
        lease, contract = read_lease(state, collection), read_contract(state, collection)
        assert lease is not None
        assert contract is not None
        stores: dict[Any, Any] = {n: Watched(s, n.value, self.watch, run) for n, s in world.stores.items()}
        context = WorkerContext(
            spec=spec,
            contract=contract,
            limit=None,
            epoch=lease.epoch,
            source=Watched(world.bucket, "bucket", self.watch, run),  # type: ignore[arg-type]  # any port, by name
            embedder=Watched(world.embedder, "embedder", self.watch, run),  # type: ignore[arg-type]  # as above
            stores=stores,
            lease=LeaseCheck(state, collection, spec.job_id, lease.epoch, max_age_s=0),
            schema=SchemaWatch(stores, contract),
            table=ObjectTable(state, collection),
            large_bytes=world.large_bytes,
        )
        return await run_partition(ledger, context, partition_id)


@dataclass
class WatchedAttempt:
    """One attempt of a job whose every call is seen."""

    world: World
    ledger: Ledger
    number: int = 1
    fault: Fault | None = None
    clock: SkippingClock = field(default_factory=SkippingClock)

    def __post_init__(self) -> None:
        self.watch = Watch(self.fault, self._react)

    def run(self) -> dict[str, Any] | None:
        """Run the attempt; return its summary, None when another attempt owns the job.

        Raises:
            Crash, BaseExceptionGroup: the process ended.
        """
        spec, watch, world = self.ledger.read_spec(), self.watch, self.world
        self.driver = Driver(
            JobAttempt(spec=spec, spec_uri=self.ledger.spec_uri, number=self.number, parser_version="parser-1"),
            Ports(
                state=Watched(world.state, "state", watch),  # type: ignore[arg-type]  # any port, by name
                source=Watched(world.bucket, "bucket", watch),  # type: ignore[arg-type]  # as above
                embedder=Watched(world.embedder, "embedder", watch),  # type: ignore[arg-type]  # as above
                stores={name: Watched(store, name.value, watch) for name, store in world.stores.items()},  # type: ignore[misc]  # as above
                engine=WatchedEngine(world, watch),
            ),
            sleep=self.clock.sleep,
            clock=self.clock,
            wall_clock=lambda: 0.0,
        )
        return self.driver.run()

    def _react(self, kind: str) -> None:
        if kind == "abort":
            self.world.state.put(f"jobs/{self.ledger.job_id}/abort", b"changed my mind")
            self.driver.monitor.stop(JobAborted("job_aborted", "The job was canceled."))  # as at its next tick
            return
        limits = self.world.limits
        self.clock.sleep(limits.lease_ttl_s + limits.lease_grace_s)
        successor = WatchedAttempt(self.world, self.ledger, self.number + 1)
        thread = threading.Thread(target=successor.run, name="successor")  # it needs an event loop of its own
        thread.start()
        thread.join()
