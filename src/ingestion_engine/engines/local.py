"""The local engine: runs partitions in threads of this process. The reference for every other engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport
from ingestion_engine.pipeline.worker import Process, close_worker, process_partition

AHEAD_PARTITIONS = 1
"""Partitions that run beyond the window, so that one always has text to embed while another begins or ends. The
embedder of the process still limits their requests."""


class LocalEngine:
    """Runs partitions in this process, on the worker's one event loop.

    Args:
        window: Maximum number of partitions at once, without ``AHEAD_PARTITIONS``.
        process: Function that runs a partition.
    """

    def __init__(self, window: int, process: Process = process_partition) -> None:
        self._window = window + AHEAD_PARTITIONS
        self._process = process

    def run(self, spec_uri: str, partition_ids: Iterable[PartitionId]) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end. A crash of the process ends the driver too."""
        ended: queue.SimpleQueue[PartitionReport | BaseException] = queue.SimpleQueue()

        def work(partition_id: PartitionId) -> None:
            try:
                ended.put(self._process(spec_uri, partition_id))
            except BaseException as error:  # workers let none out; a defect there must not leave the driver waiting
                ended.put(error)

        waiting = iter(partition_ids)
        running = 0
        more = True
        try:
            while more or running:
                while more and running < self._window:
                    partition_id = next(waiting, None)
                    if partition_id is None:
                        more = False
                    else:
                        # Daemon threads, so that a driver that has to end does not wait for them.
                        threading.Thread(target=work, args=(partition_id,), name=partition_id, daemon=True).start()
                        running += 1
                if running:
                    outcome = ended.get()
                    running -= 1
                    if isinstance(outcome, BaseException):
                        raise outcome
                    yield outcome
        finally:
            close_worker()
