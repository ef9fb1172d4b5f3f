"""The Spark engine: a sliding window of small Spark jobs.

Each partition is one RDD slice in a Spark job of its own, run from a thread of the driver; as one ends, the next
begins. One job of many slices would be a barrier (a window waits for its slowest partition) and would fail as a
whole: Spark gives back nothing of a job in which one task died. A job from one shared RDD took
0.12 to 0.16 s on two cores at load 5, one with an RDD of its own 0.48 s: little beside a partition's seconds.

Retries are the driver's: ``spark.task.maxFailures`` is 1 and speculation is off, so a killed worker process or
executor fails exactly its own job. (Spark itself repeats a task whose executor was lost through no fault of the
task's, such as an evicted pod; one after the other, and a second run changes nothing.)

Abort cancels the Spark jobs that no executor has begun: they would wait for ever in a full cluster. What runs is left
to end by itself: workers see the abort marker within seconds, while a task that Spark kills can leave a Python
process that still writes, and the driver must be the last to know of a writer when it gives up its lease.
"""

from __future__ import annotations

import itertools
import math
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.slots import Slots, mark_slot
from ingestion_engine.engines.spark.start import open_context
from ingestion_engine.pipeline.worker import Process, process_partition
from ingestion_engine.runtime.telemetry import get_logger

if TYPE_CHECKING:
    from py4j.protocol import Py4JJavaError
    from pyspark import SparkContext

JOBS_AT_ONCE: Final = 256
"""Threads of the driver, each with a twin in the JVM; a wider window puts several slices into one job."""

LOOK_S: Final = 1.0
"""The abort marker is looked at when nothing has ended for so long."""

SETTLE_S: Final = 3.0
"""Spark's events reach the status tracker some time after the fact; an abort waits so long to be sure (a guess)."""

PYTHON_EXCEPTION: Final = "org.apache.spark.api.python.PythonException"

Batch = tuple[PartitionId, ...]

log = get_logger(__name__)


class SparkEndedError(RuntimeError):
    """Spark is gone under a running driver; the attempt is over, and the service starts the next one."""


@dataclass(frozen=True, slots=True)
class _Ended:
    batch: Batch
    outcome: list[PartitionReport] | BaseException


class SparkEngine:
    """Runs partitions on Spark, at most ``window`` at once.

    Args:
        window: Partitions at once.
        process: What runs on executors; Spark pickles it, a function of this package by name.
        find_report: Returns a partition's durable DONE report, if any: a process may die between report and answer.
        is_aborted: True when somebody asked the job to stop; asked once a second while nothing ends.
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
        """Yield one report per partition, as they end. A task without an answer becomes a RETRY with ``process_died``.

        Raises:
            FatalError: "java_missing".
            SparkEndedError: the JVM or its SparkContext is gone.
        """
        run = _Run(open_context(), spec_uri, self._process, self._slices)
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
            # Only on the way out of a crash is anything left; the next attempt's epoch outranks what it still writes.
            run.cancel(running.values())

    def _wait(self, run: _Run, running: dict[Batch, str]) -> _Ended:
        while True:
            try:
                return run.ended.get(timeout=LOOK_S)
            except queue.Empty:
                if not self._ask_aborted():
                    continue
            if run.aborted_at is None:
                run.aborted_at = time.monotonic()
            elif time.monotonic() - run.aborted_at >= SETTLE_S:
                run.cancel([group for group in running.values() if not run.has_begun(group)])

    def _ask_aborted(self) -> bool:
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
            raise SparkEndedError(f"Spark ended ({type(ended.outcome).__name__})") from ended.outcome
        failed = _read_failure(ended.outcome)
        for partition_id in ended.batch:
            yield self._look_up(partition_id) or failed(partition_id)

    def _look_up(self, partition_id: PartitionId) -> PartitionReport | None:
        try:
            return self._find_report(partition_id)
        except TransientError as error:
            log.warning("report not looked up", extra={"partition": partition_id, **error.log_fields()})
            return None


class _Run:
    """The Spark jobs of one call of ``SparkEngine.run``."""

    def __init__(self, context: SparkContext, spec_uri: str, process: Process, slices: int) -> None:
        self._context = context
        self._spec_uri = spec_uri
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
        """Start a Spark job in a thread, in one of the window's places; return the name of its job group."""
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
        work = _make_work(self._spec_uri, self._process, batch, place * self._width)
        reports = self._context.runJob(self._slices, work, list(range(len(batch))))
        return [PartitionReport.from_json(orjson.loads(report)) for report in reports]

    def has_begun(self, group: str) -> bool:
        """True when a task of the group has been given to an executor."""
        tracker = self._context.statusTracker()
        jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
        stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
        return any(stage is not None and stage.numActiveTasks + stage.numCompletedTasks > 0 for stage in stages)

    def cancel(self, groups: Iterable[str]) -> None:
        """Cancel job groups; those that have ended are left as they are."""
        for group in list(groups):
            if not self.is_over():
                self._context.cancelJobGroup(group)

    def is_over(self) -> bool:
        """True when the SparkContext or its JVM is gone."""
        from py4j.protocol import Py4JError

        try:
            context = self._context._jsc  # noqa: SLF001 - PySpark has no public word for a stopped context
            return context is None or bool(context.sc().isStopped())
        except (Py4JError, OSError):
            return True


def _make_work(
    spec_uri: str, process: Process, batch: Batch, first_slot: int
) -> Callable[[Iterable[int]], Iterator[bytes]]:
    """What Spark pickles: nothing of the engine, reports go back as JSON."""
    uris = tuple(mark_slot(spec_uri, first_slot + number) for number in range(len(batch)))

    def work(slices: Iterable[int]) -> Iterator[bytes]:
        # Read to its end: Spark reuses only a Python process that has left nothing of its input.
        for number in slices:
            yield orjson.dumps(process(uris[number], batch[number]))

    return work


def _read_failure(error: Py4JJavaError) -> Callable[[PartitionId], PartitionReport]:
    """What a failed Spark job means for its partitions.

    An exception that left Python arrives as a PythonException (Spark 4.3), or as text in the job's own (older 4.x); a
    dead Python process or executor as another SparkException.
    """
    thrown = error.java_exception
    text = str(thrown.getMessage())
    if thrown.getClass().getName() == PYTHON_EXCEPTION or PYTHON_EXCEPTION in text:
        # The seam lets no exception cross, so this is Python's own: a package missing, another version of it.
        mismatch = FatalError(
            "worker_mismatch",
            f"Executors cannot run this package: {_last_words(text)}",
            hint="Install the same package and Python in the executors' image.",
        )
        return lambda partition_id: PartitionReport(partition_id, ReportStatus.FATAL, 0, error=mismatch.record())
    died = TransientError("worker_died", "The worker process ended without an answer (Spark failed its task).")
    return lambda partition_id: PartitionReport(
        partition_id, ReportStatus.RETRY, 0, error=died.record(), process_died=True
    )


def _last_words(text: str) -> str:
    """The last line of the Python traceback in a message of Spark's."""
    before_java: Any = itertools.takewhile(lambda line: not line.startswith("\tat "), text.splitlines())
    lines = [line.strip() for line in before_java if line.strip() and not line.strip().startswith("SQLSTATE:")]
    return lines[-1][:300] if lines else "no message"
