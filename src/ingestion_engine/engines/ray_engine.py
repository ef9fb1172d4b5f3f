"""The Ray engine: a bounded window of remote tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.slots import Slots, mark_slot
from ingestion_engine.pipeline.worker import Process, process_partition, warm_worker


class RayEngine:
    """Runs partitions as Ray tasks, at most ``window`` at once.

    Tasks run with ``max_retries=0``: retries are the driver's, so that one partition never runs twice at the same
    time behind its back.
    """

    def __init__(self, window: int, process: Process = process_partition, *, task_cpus: float) -> None:
        self._window = window
        self._process = process
        self._task_cpus = task_cpus
        self._warming: list[Any] = []

    def warm_up(self, spec_uri: str) -> None:
        """Connect to Ray and have one worker process get ready while the driver plans; returns meanwhile.

        One, for a job that finds nothing to do would have started the others in vain; the rest start with their
        first partitions. It takes its place in the window, so that Ray starts no process beyond the job's share.
        """
        self._warming = [self._make_task(warm_worker).remote(spec_uri)]

    def run(self, spec_uri: str, partition_ids: Iterable[PartitionId]) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end. A task without an answer becomes a RETRY with
        ``process_died``.
        """
        import ray

        task = self._make_task(self._process)
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
                    marked = mark_slot(spec_uri, slots.take(partition_id))
                    running[task.remote(marked, partition_id)] = partition_id
            if running:
                ended, _ = ray.wait(list(running), num_returns=1)
                for reference in ended:
                    ended_id = running.pop(reference)
                    if ended_id is not None:
                        slots.give_back(ended_id)
                        yield _report(reference, ended_id)

    def _make_task(self, function: Callable[..., Any]) -> Any:
        """Return a function as a task, connected to Ray."""
        import ray

        if not ray.is_initialized():
            ray.init(log_to_driver=False, configure_logging=False)
        return ray.remote(max_retries=0, num_cpus=self._task_cpus)(function)


def _report(reference: Any, partition_id: PartitionId) -> PartitionReport:
    import ray

    try:
        report: PartitionReport = ray.get(reference)
    except ray.exceptions.RayError as error:
        died = TransientError("worker_died", f"The worker process ended without an answer ({type(error).__name__}).")
        return PartitionReport(partition_id, ReportStatus.RETRY, 0, error=died.record(), process_died=True)
    return report
