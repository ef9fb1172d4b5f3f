"""The Ray engine: a bounded window of remote tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.records import PartitionReport, ReportStatus
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

    def run(self, spec_uri: str, partition_ids: Iterable[PartitionId]) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end.

        A task that ends without a report becomes a RETRY with ``process_died``.
        """
        import ray

        task = make_task(self._process, self._task_cpus)
        uri = JobUri.parse(spec_uri)
        waiting = iter(partition_ids)
        running: dict[Any, PartitionId | None] = dict.fromkeys(self._warming)
        self._warming = []
        slots = Slots(self._window)
        more = True
        while more or running:
            while more and len(running) < self._window:
                partition_id = next(waiting, None)
                if partition_id is None:
                    more = False
                else:
                    of_worker = str(uri.with_slot(slots.take(partition_id)))
                    running[task.remote(of_worker, str(partition_id))] = partition_id
            if running:
                ended, _ = ray.wait(list(running), num_returns=1)
                for reference in ended:
                    ended_id = running.pop(reference)
                    if ended_id is not None:
                        slots.give_back(ended_id)
                        yield _report(reference, ended_id)


def _report(reference: Any, partition_id: PartitionId) -> PartitionReport:
    import ray

    try:
        report: PartitionReport = ray.get(reference)
    except ray.exceptions.RayError as error:
        died = TransientError("worker_died", f"The worker process ended without a report ({type(error).__name__}).")
        return PartitionReport(partition_id, ReportStatus.RETRY, 0, error=died.record(), process_died=True)
    return replace(report, partition_id=partition_id)  # pickled as a plain string
