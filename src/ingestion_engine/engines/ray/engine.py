"""The Ray engine: a bounded window of remote tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.records import PartitionReport
from ingestion_engine.engines.feed import Feed, abandoned_report
from ingestion_engine.engines.ray.failures import read_failure
from ingestion_engine.engines.ray.start import make_task
from ingestion_engine.engines.slots import Slots
from ingestion_engine.pipeline.worker import Process, process_partition


class RayEngine:
    """Runs partitions as Ray tasks, at most ``window`` at once.

    Tasks run with ``max_retries=0``: only the driver retries, so that a partition never runs twice at the same time.

    Args:
        window: Maximum number of partitions at once.
        process: Function that workers run.
        task_cpus: CPUs that Ray reserves for each task.
        warming: Tasks of ``start.warm_up``. They occupy the window until they end, so that Ray starts no process beyond
            the job's share.
    """

    def __init__(
        self, window: int, process: Process = process_partition, *, task_cpus: float, warming: Sequence[Any] = ()
    ) -> None:
        self._window = window
        self._process = process
        self._task_cpus = task_cpus
        self._warming = list(warming)

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end; ``read_failure`` makes the report of a task that has none."""
        import ray

        task = make_task(self._process, self._task_cpus)
        uri = JobUri.parse(spec_uri)
        feed = Feed(partition_ids, should_stop)
        warming, self._warming = self._warming, []
        running: dict[Any, PartitionId] = {}
        slots = Slots(self._window)
        canceled = False
        while feed.has_more or running:
            while len(running) + len(warming) < self._window and (partition_id := feed.take()) is not None:
                of_worker = str(uri.with_slot(slots.take(partition_id)))
                running[task.remote(of_worker, str(partition_id))] = partition_id
            if not running and not warming:
                continue
            ended, _ = ray.wait([*running, *warming], num_returns=1, timeout=feed.wait_s)
            warming = [reference for reference in warming if reference not in ended]
            for reference in ended:
                ended_id = running.pop(reference, None)
                if ended_id is not None:
                    slots.give_back(ended_id)
                    yield _report(reference, ended_id)
            if feed.stopped_s() is not None and not canceled:
                canceled = True
                # Ends only the tasks that no worker has begun: in a full cluster they would wait forever. A worker
                # that has begun waits for its event loop, and is interrupted only when its partition has ended.
                for reference in running:
                    ray.cancel(reference)
            if feed.is_overdue:
                for reference in running:
                    ray.cancel(reference, force=True)
                yield from map(abandoned_report, running.values())
                return


def _report(reference: Any, partition_id: PartitionId) -> PartitionReport:
    import ray

    try:
        report: PartitionReport = ray.get(reference)
    except ray.exceptions.RayError as error:
        return read_failure(error, partition_id)
    return replace(report, partition_id=partition_id)  # pickled as a plain string
