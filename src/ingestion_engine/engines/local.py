"""The local engine: runs partitions in threads of this process. The reference for every other engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport
from ingestion_engine.engines.feed import Feed, abandoned_report
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

    def run(
        self,
        spec_uri: str,
        partition_ids: Iterable[PartitionId | None],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[PartitionReport]:
        """Yield one report per partition, as they end. A crash of the process ends the driver too."""
        ended: queue.SimpleQueue[tuple[PartitionId, PartitionReport | BaseException]] = queue.SimpleQueue()

        def work(partition_id: PartitionId) -> None:
            try:
                ended.put((partition_id, self._process(spec_uri, partition_id)))
            except BaseException as error:  # workers let none out; a defect there must not leave the driver waiting
                ended.put((partition_id, error))

        feed = Feed(partition_ids, should_stop)
        running: set[PartitionId] = set()
        abandoned = False
        try:
            while feed.has_more or running:
                while len(running) < self._window and (partition_id := feed.take()) is not None:
                    # Daemon threads, so that a driver that has to end does not wait for them.
                    threading.Thread(target=work, args=(partition_id,), name=partition_id, daemon=True).start()
                    running.add(partition_id)
                if not running:
                    continue
                try:
                    ended_id, outcome = ended.get(timeout=feed.wait_s)
                except queue.Empty:
                    if feed.is_overdue:
                        abandoned = True
                        yield from map(abandoned_report, running)
                        return
                    continue
                running.remove(ended_id)
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            if not abandoned:  # closing would wait for the loop on which they run
                close_worker()
