"""The Spark engine: a sliding window of small Spark jobs; a dead executor becomes a report to retry.

Each partition is one RDD slice in a Spark job of its own, run from a thread of the driver; as one ends, the next
begins. One job of many slices would be a barrier (a window waits for its slowest partition) and would fail as a
whole: Spark returns nothing of a job in which one task died. A job from one shared RDD took 0.12 to 0.16 s on two cores
at load 5, a job with an RDD of its own 0.48 s: little compared with the seconds of a partition.

Only the driver retries: ``spark.task.maxFailures`` is 1 and speculation is off, so a killed worker process or executor
fails exactly its own job. (Spark repeats a task when its executor was lost for other reasons, such as an evicted pod;
the runs do not overlap, and a second run changes nothing.)

An abort cancels the Spark jobs that no executor has begun: in a full cluster they would wait forever. Running tasks end
by themselves: workers see the abort marker within seconds, whereas a task that Spark kills can leave a Python process
that still writes, and no writer may be left when the driver releases its lease.
"""

from __future__ import annotations

import itertools
import math
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.slots import Slots
from ingestion_engine.engines.spark.start import open_context
from ingestion_engine.pipeline.worker import Process, process_partition
from ingestion_engine.runtime.telemetry import get_logger

if TYPE_CHECKING:
    from py4j.protocol import Py4JJavaError
    from pyspark import SparkContext

JOBS_AT_ONCE: Final = 256
"""Maximum threads of the driver, each with a thread in the JVM; a wider window puts several slices into one job."""

ABORT_CHECK_S: Final = 1.0
"""The abort marker is checked when nothing has ended for this many seconds."""

SETTLE_S: Final = 3.0
"""Seconds that an abort waits for Spark's events to reach the status tracker, which lags behind (a guess)."""

PYTHON_EXCEPTION: Final = "org.apache.spark.api.python.PythonException"

Batch = tuple[PartitionId, ...]

log = get_logger(__name__)


class SparkEndedError(RuntimeError):
    """Spark ended while the driver was running; the attempt is over, and the service starts the next one."""


@dataclass(frozen=True, slots=True)
class _Ended:
    batch: Batch
    outcome: list[PartitionReport] | BaseException


class SparkEngine:
    """Runs partitions on Spark, at most ``window`` at once.

    Args:
        window: Maximum number of partitions at once.
        process: Function that executors run; Spark pickles a function of this package by name.
        find_report: Returns a partition's durable DONE report, if any: a process may die after it has written one.
        is_aborted: Returns True when the job has to stop; called once a second while nothing ends.
    """

    def __init__(
        self,
        window: int,
        process: Process = process_partition,
        *,
        find_report: Callable[[PartitionId], PartitionReport | None] = lambda _: None,
        is_aborted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._slices = math.ceil(window / JOBS_AT_ONCE)
        self._jobs = math.ceil(window / self._slices)
        self._process = process
        self._find_report = find_report
        self._is_aborted = is_aborted

    def run(self, spec_uri: str, partition_ids: Iterable[PartitionId]) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end. A task without a report becomes a RETRY with ``process_died``.

        Raises:
            FatalError: "java_missing".
            SparkEndedError: the JVM or its SparkContext has ended.
        """
        run = _Run(open_context(), JobUri.parse(spec_uri), self._process, slices=self._slices)
        waiting = iter(partition_ids)
        running: dict[Batch, str] = {}
        places = Slots(self._jobs)
        more = True
        try:
            while more or running:
                while more and len(running) < self._jobs:
                    batch = tuple(itertools.islice(waiting, self._slices))
                    if batch:
                        running[batch] = run.start(batch, places.take(batch))
                    more = len(batch) == self._slices
                if running:
                    ended = self._wait(run, running)
                    del running[ended.batch]
                    places.give_back(ended.batch)
                    yield from self._reports(run, ended)
        finally:
            # Jobs are left only after a crash; the epoch of the next attempt outranks what they still write.
            run.cancel(running.values())

    def _wait(self, run: _Run, running: dict[Batch, str]) -> _Ended:
        while True:
            try:
                return run.ended.get(timeout=ABORT_CHECK_S)
            except queue.Empty:
                if not self._check_aborted():
                    continue
            if run.aborted_at is None:
                run.aborted_at = time.monotonic()
            elif time.monotonic() - run.aborted_at >= SETTLE_S:
                run.cancel([group for group in running.values() if not run.has_begun(group)])

    def _check_aborted(self) -> bool:
        try:
            return self._is_aborted()
        except TransientError:
            return False

    def _reports(self, run: _Run, ended: _Ended) -> Iterator[PartitionReport]:
        from py4j.protocol import Py4JJavaError

        if isinstance(ended.outcome, list):
            yield from ended.outcome
            return
        if not isinstance(ended.outcome, Py4JJavaError) or run.is_over():
            raise SparkEndedError(f"Spark ended ({type(ended.outcome).__name__}).") from ended.outcome
        failed = _read_failure(ended.outcome)
        for partition_id in ended.batch:
            yield self._look_up(partition_id) or failed(partition_id)

    def _look_up(self, partition_id: PartitionId) -> PartitionReport | None:
        try:
            return self._find_report(partition_id)
        except TransientError as error:
            log.warning("cannot look up a report", extra={"partition": partition_id, **error.log_fields()})
            return None


class _Run:
    """The Spark jobs of one call of ``SparkEngine.run``."""

    def __init__(self, context: SparkContext, uri: JobUri, process: Process, *, slices: int) -> None:
        self._context = context
        self._uri = uri
        self._process = process
        self._width = slices
        # One RDD of slice numbers for all jobs: making one per job would cost more than running the job.
        self._slices = context.parallelize(range(slices), slices)
        self._name = f"ingest-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        self.ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()
        self.aborted_at: float | None = None
        """Monotonic seconds when the abort was first seen."""

    def start(self, batch: Batch, place: int) -> str:
        """Start a Spark job in a thread and in one of the window's places; return the name of its job group."""
        from pyspark import InheritableThread

        group = f"{self._name}-{next(self._numbers)}"

        def work() -> None:
            try:
                outcome: list[PartitionReport] | BaseException = self._collect(batch, group, place)
            except BaseException as error:
                outcome = error
            self.ended.put(_Ended(batch, outcome))

        InheritableThread(target=work, name=group, daemon=True).start()
        return group

    def _collect(self, batch: Batch, group: str, place: int) -> list[PartitionReport]:
        self._context.setJobGroup(group, f"partition {batch[0]}")
        first_slot = place * self._width
        uris = [str(self._uri.with_slot(first_slot + number)) for number in range(len(batch))]
        work = _make_work(self._process, list(zip(uris, map(str, batch), strict=True)))
        reports = self._context.runJob(self._slices, work, list(range(len(batch))))
        return [PartitionReport.from_json(orjson.loads(report)) for report in reports]

    def has_begun(self, group: str) -> bool:
        """True when an executor has received a task of the group."""
        tracker = self._context.statusTracker()
        jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
        stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
        return any(stage is not None and stage.numActiveTasks + stage.numCompletedTasks > 0 for stage in stages)

    def cancel(self, groups: Iterable[str]) -> None:
        """Cancel job groups; no effect on groups that have ended."""
        for group in list(groups):
            if not self.is_over():
                self._context.cancelJobGroup(group)

    def is_over(self) -> bool:
        """True when the SparkContext or its JVM has ended."""
        from py4j.protocol import Py4JError

        try:
            context = self._context._jsc  # noqa: SLF001 - PySpark has no public API for a stopped context
            return context is None or bool(context.sc().isStopped())
        except (Py4JError, OSError):
            return True


def _make_work(process: Process, calls: Sequence[tuple[str, str]]) -> Callable[[Iterable[int]], Iterator[bytes]]:
    """Return the function that Spark pickles: it contains nothing of the engine, and reports return as JSON.

    Args:
        process: Function that executors run.
        calls: Job URI and partition id for each slice.
    """

    def work(slices: Iterable[int]) -> Iterator[bytes]:
        # Read to the end: Spark reuses a Python process only when it has consumed all of its input.
        for number in slices:
            yield orjson.dumps(process(*calls[number]))

    return work


def _read_failure(error: Py4JJavaError) -> Callable[[PartitionId], PartitionReport]:
    """Return a function from a partition of a failed Spark job to its report.

    An exception raised in Python arrives as a PythonException (Spark 4.3), or as text in the job's own exception (older
    4.x); a dead Python process or executor arrives as another SparkException.
    """
    thrown = error.java_exception
    text = str(thrown.getMessage())
    if thrown.getClass().getName() == PYTHON_EXCEPTION or PYTHON_EXCEPTION in text:
        # Workers let no exception out, so Python itself raised it: the package is missing or has another version.
        mismatch = FatalError(
            "worker_mismatch",
            f"Executors cannot run this package: {_last_words(text)}",
            hint="Install the same package and Python in the executors' image.",
        )
        return lambda partition_id: PartitionReport(partition_id, ReportStatus.FATAL, 0, error=mismatch.record())
    died = TransientError("worker_died", "The worker process ended without a report (Spark failed its task).")
    return lambda partition_id: PartitionReport(
        partition_id, ReportStatus.RETRY, 0, error=died.record(), process_died=True
    )


def _last_words(text: str) -> str:
    """Return the last line of the Python traceback in a Spark message."""
    before_java: Any = itertools.takewhile(lambda line: not line.startswith("\tat "), text.splitlines())
    lines = [line.strip() for line in before_java if line.strip() and not line.strip().startswith("SQLSTATE:")]
    return lines[-1][:300] if lines else "no message"
