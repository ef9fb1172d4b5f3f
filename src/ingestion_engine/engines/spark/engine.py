"""The Spark engine: a sliding window of small Spark jobs; a dead executor becomes a report to retry.

Each partition is one RDD slice in a Spark job of its own, run from a thread of the driver; as one ends, the next
begins. One job of many slices would be a barrier (a window waits for its slowest partition) and would fail as a
whole: Spark returns nothing of a job in which one task died. A job from one shared RDD took 0.12 to 0.16 s on two cores
at load 5, a job with an RDD of its own 0.48 s: little compared with the seconds of a partition.

Only the driver retries: ``spark.task.maxFailures`` is 1 and speculation is off, so a killed worker process or executor
fails exactly its own job. (Spark repeats a task when its executor was lost for other reasons, such as an evicted pod;
the runs do not overlap, and a second run changes nothing.)

A run that has to stop cancels the Spark jobs that no executor has begun: in a full cluster they would wait forever.
Running tasks end by themselves, as workers see an abort marker within seconds; a task that Spark kills can leave a
Python process that still writes, so those that do not end in time are reported as abandoned.
"""

from __future__ import annotations

import itertools
import math
import queue
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.records import PartitionReport
from ingestion_engine.engines.feed import Feed, abandoned_report
from ingestion_engine.engines.slots import Slots
from ingestion_engine.engines.spark.failures import read_failure
from ingestion_engine.engines.spark.start import open_context
from ingestion_engine.pipeline.worker import Process, process_partition

if TYPE_CHECKING:
    from pyspark import SparkContext

JOBS_AT_ONCE: Final = 256
"""Maximum threads of the driver, each with a thread in the JVM; a wider window puts several slices into one job."""

SETTLE_S: Final = 3.0
"""Seconds that a stop waits for Spark's events to reach the status tracker, which lags behind (a guess)."""

Batch = tuple[PartitionId, ...]


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
    """

    def __init__(self, window: int, process: Process = process_partition) -> None:
        self._slices = math.ceil(window / JOBS_AT_ONCE)
        self._jobs = math.ceil(window / self._slices)
        self._process = process

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end; ``read_failure`` makes the reports of a job that failed.

        Raises:
            FatalError: "java_missing".
            SparkEndedError: the JVM or its SparkContext has ended.
        """
        run = _Run(open_context(), JobUri.parse(spec_uri), self._process, slices=self._slices)
        feed = Feed(partition_ids, should_stop)
        running: dict[Batch, str] = {}
        places = Slots(self._jobs)
        try:
            while feed.has_more or running:
                while len(running) < self._jobs and (batch := self._take_batch(feed)):
                    running[batch] = run.start(batch, places.take(batch))
                if not running:
                    continue
                ended = run.wait(feed.wait_s)
                if ended is not None:
                    del running[ended.batch]
                    places.give_back(ended.batch)
                    yield from self._reports(run, ended)
                if (feed.stopped_s() or 0.0) >= SETTLE_S:
                    run.cancel([group for group in running.values() if not run.has_begun(group)])
                if feed.is_overdue:
                    yield from (abandoned_report(partition_id) for batch in running for partition_id in batch)
                    return
        finally:
            # Jobs are left only after a crash or an overdue stop; the epoch of the next attempt outranks what they
            # still write.
            run.cancel(running.values())

    def _take_batch(self, feed: Feed) -> Batch:
        batch: list[PartitionId] = []
        while len(batch) < self._slices and (partition_id := feed.take()) is not None:
            batch.append(partition_id)
        return tuple(batch)

    def _reports(self, run: _Run, ended: _Ended) -> Iterator[PartitionReport]:
        from py4j.protocol import Py4JJavaError

        if isinstance(ended.outcome, list):
            yield from ended.outcome
            return
        if not isinstance(ended.outcome, Py4JJavaError) or run.is_over():
            raise SparkEndedError(f"Spark ended ({type(ended.outcome).__name__}).") from ended.outcome
        yield from map(read_failure(ended.outcome), ended.batch)


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
        self._ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()

    def start(self, batch: Batch, place: int) -> str:
        """Start a Spark job in a thread and in one of the window's places; return the name of its job group."""
        from pyspark import InheritableThread

        group = f"{self._name}-{next(self._numbers)}"

        def work() -> None:
            try:
                outcome: list[PartitionReport] | BaseException = self._collect(batch, group, place)
            except BaseException as error:  # the driver decides what it means
                outcome = error
            self._ended.put(_Ended(batch, outcome))

        thread = InheritableThread(target=work, name=group, daemon=True)
        run = thread.run

        def run_or_report() -> None:
            try:
                run()
            except BaseException as error:  # PySpark prepares the thread in the JVM, which may have ended
                self._ended.put(_Ended(batch, error))

        thread.run = run_or_report  # type: ignore[method-assign]  # PySpark's own wrapper runs before ``work``
        thread.start()
        return group

    def _collect(self, batch: Batch, group: str, place: int) -> list[PartitionReport]:
        self._context.setJobGroup(group, f"partition {batch[0]}")
        first_slot = place * self._width
        uris = [str(self._uri.with_slot(first_slot + number)) for number in range(len(batch))]
        work = _make_work(self._process, list(zip(uris, map(str, batch), strict=True)))
        reports = self._context.runJob(self._slices, work, list(range(len(batch))))
        return [PartitionReport.from_json(orjson.loads(report)) for report in reports]

    def wait(self, timeout_s: float) -> _Ended | None:
        """Return the next Spark job that has ended; None when none ends in time."""
        try:
            return self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None

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
            yield orjson.dumps(process(*calls[number]).to_json())

    return work
