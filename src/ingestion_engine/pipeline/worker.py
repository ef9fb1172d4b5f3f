"""Worker: the function that engines run for each partition. It takes two strings, returns one report, never raises."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
import time
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from ingestion_engine import __version__
from ingestion_engine.adapters.connect import open_embedder, open_source, open_state_store, open_stores
from ingestion_engine.adapters.patience import Patience
from ingestion_engine.adapters.request_counts import count_requests
from ingestion_engine.domain.errors import CollectionMissing, FatalError, IngestionError, LeaseLost, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import Embedder, StateStore
from ingestion_engine.domain.records import COMPARISONS, UNEXPECTED_ERROR, Partition, PartitionReport, ReportStatus
from ingestion_engine.domain.spec import MODES_WITHOUT_EMBEDDER, CollectionContract, EngineName, JobSpec, flow_of
from ingestion_engine.pipeline.chunking.tokens import TokenLimit
from ingestion_engine.pipeline.live_progress import report_progress
from ingestion_engine.pipeline.parity.check_partition import ParityRun
from ingestion_engine.pipeline.parsing.process.pool import close_parsers, warm_parsers
from ingestion_engine.pipeline.partition_trace import describe_report, record_steps, trace_partition
from ingestion_engine.pipeline.point_tally import PointTally
from ingestion_engine.pipeline.runner import PartitionRun
from ingestion_engine.pipeline.upsert import SchemaWatch
from ingestion_engine.pipeline.worker_context import WorkerContext
from ingestion_engine.runtime.background import start_background
from ingestion_engine.runtime.gc_tuning import freeze_startup_objects
from ingestion_engine.runtime.loop_watch import end_when_frozen
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.settings import CREATION_FIELDS, Settings
from ingestion_engine.runtime.spec_uri import load_settings_for
from ingestion_engine.runtime.telemetry import (
    configure_logging,
    context_without_fields,
    get_logger,
    is_configured,
    log_fields,
    set_process_fields,
)
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.runtime.tracing import join_trace
from ingestion_engine.state.collections import read_contract
from ingestion_engine.state.lease import LeaseCheck, read_lease
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable

T = TypeVar("T")

Process = Callable[[str, str], PartitionReport]
"""The function that engines run: (spec URI, partition id) → report. It never raises."""

log = get_logger(__name__)


def process_partition(spec_uri: str, partition_id: str) -> PartitionReport:
    """Write every object of one partition to every store, and return the report. Never raises.

    It returns DONE only after the report is durable in the ledger, so a driver that dies loses nothing. RETRY means
    that a dependency is unavailable; it does not count against the objects. FATAL stops the job. A partition may run
    more than once: a second run changes nothing.

    Cost: the first call in a process opens clients and one event loop, and keeps them until the process ends.
    """
    pid = PartitionId(partition_id)
    return report_of(pid, lambda: _loop().run(_process(spec_uri, pid)))


def choose_home(spec: JobSpec, slot: int | None) -> int | None:
    """Return the number, modulo the number of servers, of the first embedding server of a process; None without a slot.

    A process prefers as many servers from there on as it may have requests in flight, and the next slot starts behind
    them, so that the processes of a job spread evenly without knowing of one another. The first slot's server depends
    on the job, so that small concurrent jobs do not share the first servers. Pure.
    """
    return None if slot is None else zlib.crc32(spec.job_id.encode()) + slot * spec.limits.embed_in_flight


def warm_worker(spec_uri: str) -> None:
    """Import and open the dependencies of a job's partitions in this process. Errors are logged, not raised.

    An engine runs it on a worker while the driver still plans. Idempotent; writes nothing, embeds nothing.
    """
    try:
        _loop().run(_warm(spec_uri))
    except Exception as error:  # the first partition meets the same error and reports it
        log.warning("worker not warmed up", extra={"error": f"{type(error).__name__}: {error}"})


def report_of(partition_id: PartitionId, work: Callable[[], PartitionReport]) -> PartitionReport:
    """Return the report of a partition's work; every exception becomes a report."""
    try:
        return work()
    except Exception as error:  # no exception leaves a worker, so one that reaches the engine was raised by Python
        return report_error(partition_id, error)


def report_error(partition_id: PartitionId, error: Exception) -> PartitionReport:
    """Return the report of a partition that ended with an error, and log it: RETRY, or FATAL if the job must stop."""
    if isinstance(error, IngestionError) and not isinstance(error, TransientError):
        log.error("partition stopped the job", extra={"partition_id": partition_id, **error.log_fields()})
        return _stopped_report(partition_id, ReportStatus.FATAL, error)
    if isinstance(error, TransientError):
        log.warning("partition will be retried", extra={"partition_id": partition_id, **error.log_fields()})
        return _stopped_report(partition_id, ReportStatus.RETRY, error)
    # A defect of the product or of a library: the driver repeats the partition, then tries its objects one by one.
    log.error("partition failed unexpectedly", extra={"partition_id": partition_id}, exc_info=error)
    unexpected = TransientError(UNEXPECTED_ERROR, f"{type(error).__name__}: {error}")
    return PartitionReport(partition_id, ReportStatus.RETRY, 0, error=unexpected.record())


def _stopped_report(partition_id: PartitionId, status: ReportStatus, error: IngestionError) -> PartitionReport:
    """Return the report of a partition that an error stopped, with what it had sent to the embedder until then."""
    return PartitionReport(
        partition_id,
        status,
        0,
        chunks_embedded=error.context.get("texts_embedded", 0),
        embed_calls=error.context.get("embed_requests", 0),
        embed_refusals=error.context.get("embed_refusals", 0),
        texts_in_vain=error.context.get("texts_in_vain", 0),
        error=error.record(),
    )


async def run_partition(ledger: Ledger, context: WorkerContext, partition_id: PartitionId) -> PartitionReport:
    """Process one partition in an open context; a DONE report is durable when this returns.

    The report of a partition that is put back has the results of the objects that are finished.

    Raises:
        TransientError, FatalError: nothing has been finished.
    """
    partition = await asyncio.to_thread(ledger.read_partition, partition_id)
    tally = PointTally(context.contract.stores)
    with count_requests() as requests:
        try:
            report = await _run_any(ledger, context, partition, tally=tally)
        except Exception as error:  # as in ``report_of``, with what stores have deleted
            report = report_error(partition_id, error)
    report = replace(report, requests=requests.to_json(), points=tally.to_json())
    if report.status is ReportStatus.DONE:
        await asyncio.to_thread(ledger.create_report, report)
    return report


async def _run_any(ledger: Ledger, context: WorkerContext, partition: Partition, tally: PointTally) -> PartitionReport:
    now = timestamp_now()
    if partition.searches or partition.objects[0].action in COMPARISONS:
        return await ParityRun(context, partition, ingested_at=now, tally=tally).run()
    run = PartitionRun(context, partition, ingested_at=now, tally=tally)
    try:
        async with report_progress(ledger, partition.id, run.measure):
            return await run.run()
    except Exception as error:  # as in ``report_of``, with what the run had finished
        return run.add_finished(report_error(partition.id, error))
    finally:
        record_steps(run.watch)


def check_worker(spec: JobSpec, settings: Settings) -> None:
    """Check that this process may work on the job.

    Releases of one minor version work on each other's jobs. Ollama servers, gateways and settings of new collections
    may differ: those of the job are used.

    Raises:
        FatalError: "worker_mismatch", naming the differences: the package, Python, or a setting of this environment.
    """
    differences: list[str] = []
    if not spec.accepts_package(__version__):
        differences.append(f"package version: job {spec.package_version}, here {__version__}")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if spec.python_version != python:
        differences.append(f"Python: job {spec.python_version}, here {python}")
    for group_name, values in spec.endpoints.items():
        group = getattr(settings, group_name, None)
        for name, value in values.items():
            if group_name in ("ollama", "gateway") or name in CREATION_FIELDS:
                continue
            if group is None or name not in type(group).model_fields:
                continue  # a later release of this minor version may have more settings
            here = getattr(group, name)
            here = list(here) if isinstance(here, tuple) else here
            theirs, ours = _leave_out_account(value), _leave_out_account(here)
            if name in group.model_fields_set and ours != theirs:
                differences.append(f"INGEST_{group_name}__{name}".upper() + f": job {theirs}, here {ours}")
    if differences:
        raise FatalError(
            "worker_mismatch",
            "This worker differs from the service that accepted the job: " + "; ".join(differences) + ".",
            hint="Install the same package and Python on the cluster, and unset the named settings or make them equal.",
            differences=differences,
        )


def _leave_out_account(value: Any) -> Any:
    """Return a setting without the user and password that a URL may have: a spec has none. Pure."""
    return hide_credentials(value) if isinstance(value, str) else value


class _LoopThread:
    """An event loop in its own thread until the process ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.contexts: dict[tuple[str, int], asyncio.Task[WorkerContext]] = {}
        self.state_stores: dict[str, StateStore] = {}
        """State stores by URL; opening one costs about 0.4 s."""
        self.failure: BaseException | None = None
        """What ended the loop: SystemExit and KeyboardInterrupt leave a callback, and no work would ever end."""
        self._is_watched = False
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._lock = threading.Lock()
        start_background(self.loop.run_forever, name="ingest-worker", on_failure=self._fail)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine. Raises RuntimeError when the loop has ended."""
        with self._lock:
            if self.failure is not None:
                work.close()
                raise RuntimeError("The worker's event loop has ended.") from self.failure
            future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
            self._waiting.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._waiting.discard(future)

    def watch(self) -> None:
        """End this worker process when the loop stands still for minutes. Idempotent; call it in the loop."""
        if not self._is_watched:
            self._is_watched = True
            end_when_frozen(self.loop)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self.failure = error
            waiting = list(self._waiting)
        # The tasks that are left would each log a traceback of their own when they are collected, at any moment.
        self.loop.set_exception_handler(lambda _loop, _context: None)
        self.loop.close()
        for future in waiting:
            if not future.done():
                future.set_exception(
                    RuntimeError(f"The worker's event loop has ended: {type(error).__name__}: {error}.")
                )


_shared: _LoopThread | None = None
_shared_lock = threading.Lock()


def _loop() -> _LoopThread:
    global _shared  # noqa: PLW0603 - one loop per process
    with _shared_lock:
        if _shared is None or _shared.failure is not None:
            _shared = _LoopThread()
        return _shared


def close_worker() -> None:
    """Close this process's clients and parser processes; the next partition opens them again. Idempotent."""
    close_parsers()
    if _shared is not None and _shared.failure is None:
        _shared.run(_close_all(_shared.contexts))


async def _process(spec_uri: str, partition_id: PartitionId) -> PartitionReport:
    start_ns = time.time_ns()
    uri = JobUri.parse(spec_uri)
    settings = load_settings_for(uri)
    _begin_log(settings, job_id=uri.job_id, attempt=partition_id.attempt)
    with log_fields(partition_id=partition_id):
        ledger = _open_ledger(settings, uri)
        context = await _attempt_context(settings, ledger, uri, attempt=partition_id.attempt)
        with trace_partition(context.spec, partition_id, start_ns=start_ns) as span:
            report = await run_partition(ledger, context, partition_id)
            describe_report(span, report)
        return report


def _begin_log(settings: Settings, **fields: Any) -> None:
    """Name a job in every log line of this process, which writes its log to standard error if nothing else is set."""
    if not is_configured():
        configure_logging(settings.log_level, json=settings.log_format == "json")
    set_process_fields(**fields)


async def _warm(spec_uri: str) -> None:
    uri = JobUri.parse(spec_uri)
    settings = load_settings_for(uri)
    _begin_log(settings, job_id=uri.job_id)
    spec = await asyncio.to_thread(_open_ledger(settings, uri).read_spec)
    settings = settings.with_endpoints(spec.endpoints)
    await _join_trace(settings, spec)
    if spec.request.mode not in MODES_WITHOUT_EMBEDDER:
        warm_parsers()
    # The imports take long; opening the clients again, for the attempt that then has the lease, is quick.
    await open_source(settings).close()
    for store in open_stores(settings, spec.request.stores).values():
        await store.close()
    embedder = open_embedder(settings, in_flight=1, flow=flow_of(spec))
    try:  # last, because it may wait for a server
        if spec.request.mode not in MODES_WITHOUT_EMBEDDER:
            await embedder.load_tokenizer(await embedder.describe(spec.model))
    finally:
        await embedder.close()


async def _join_trace(settings: Settings, spec: JobSpec) -> None:
    if spec.trace is not None:
        await asyncio.to_thread(join_trace, settings, spec.trace.endpoint, "worker")


def _open_ledger(settings: Settings, uri: JobUri) -> Ledger:
    """Return the job's ledger, in a state store that this process keeps open."""
    state_stores = _loop().state_stores
    if uri.state_url not in state_stores:
        state_stores[uri.state_url] = open_state_store(settings, uri.state_url)
    return Ledger(state_stores[uri.state_url], uri.job_id)


async def _attempt_context(settings: Settings, ledger: Ledger, uri: JobUri, *, attempt: int) -> WorkerContext:
    """Return the context of this attempt, opened once per process; close contexts of an earlier attempt or job."""
    held = _loop().contexts
    key = (uri.spec_uri, attempt)
    if key not in held:
        await _close_all(held)
        held[key] = asyncio.create_task(
            _open_context(settings, ledger, attempt=attempt, slot=uri.slot),
            context=context_without_fields(),  # what it opens outlives the partition
        )
    opening = held[key]
    try:
        return await opening
    except BaseException:
        if held.get(key) is opening:  # another partition of this process may be opening it again
            del held[key]
        raise


async def _open_context(settings: Settings, ledger: Ledger, *, attempt: int, slot: int | None) -> WorkerContext:
    spec = await asyncio.to_thread(ledger.read_spec)
    check_worker(spec, settings)
    settings = settings.with_endpoints(spec.endpoints)
    await _join_trace(settings, spec)
    collection = spec.request.collection
    lease = await asyncio.to_thread(read_lease, ledger.store, collection)
    if lease is None or lease.job_id != spec.job_id or lease.attempt != attempt:
        raise LeaseLost("lease_lost", f"Collection {collection!r} now belongs to another attempt.", attempt=attempt)
    contract = await asyncio.to_thread(read_contract, ledger.store, collection)
    if contract is None:
        raise CollectionMissing("collection_missing", f"Collection {collection!r} has no contract in the state store.")
    grace_s = spec.limits.lease_grace_s
    check = LeaseCheck(ledger.store, collection, job_id=spec.job_id, epoch=lease.epoch, grace_s=grace_s)
    patience = Patience(
        check=lambda: asyncio.to_thread(check.check),
        ends_at=time.monotonic() + spec.request.max_runtime_s,  # the attempt began earlier, so it ends no later
    )
    stores = open_stores(settings, contract.stores, permit=lambda: asyncio.to_thread(check.grant), patience=patience)
    at_once = spec.parallelism if spec.engine is EngineName.LOCAL else 1  # Ray and Spark run one per process
    rate = spec.limits.embed_texts_per_second
    home = choose_home(spec, slot)
    in_flight, flow = spec.limits.embed_in_flight * at_once, flow_of(spec)
    embedder = open_embedder(settings, in_flight, rate and rate * at_once, flow=flow, home=home)
    limit = None if spec.request.mode in MODES_WITHOUT_EMBEDDER else await read_limit(embedder, contract)
    freeze_startup_objects()
    if spec.engine is not EngineName.LOCAL:
        _loop().watch()
    return WorkerContext(
        spec=spec,
        contract=contract,
        limit=limit,
        epoch=lease.epoch,
        source=open_source(settings, spec.request.source.narrowest_prefix()),
        embedder=embedder,
        stores=stores,
        lease=check,
        schema=SchemaWatch(stores, contract),
        table=ObjectTable(ledger.store, collection),
        at_once=at_once,
    )


async def read_limit(embedder: Embedder, contract: CollectionContract) -> TokenLimit | None:
    """Return the longest input of the model; its digest must be the one of the collection's vectors."""
    model = await embedder.describe(contract.model, digest=contract.model_digest)
    if model.digest != contract.model_digest:
        raise FatalError(
            "contract_mismatch",
            f"Collection {contract.collection!r} was embedded with digest {contract.model_digest} of model"
            f" {contract.model!r}; the embedder now serves digest {model.digest}.",
            hint="Serve the former model again, or ingest into a new collection.",
        )
    if model.context_length is None:
        return None
    return TokenLimit(model.context_length, contract.prefix, await embedder.load_tokenizer(model))


async def _close_all(held: dict[tuple[str, int], asyncio.Task[WorkerContext]]) -> None:
    for stale in [held.pop(key) for key in list(held)]:
        if not stale.cancelled() and stale.exception() is None:
            await _close(stale.result())


async def _close(context: WorkerContext) -> None:
    await context.source.close()
    await context.embedder.close()
    for store in context.stores.values():
        await store.close()
