"""The local engine: a loop. The oracle for every other engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport
from ingestion_engine.pipeline.worker import Process, close_worker, process_partition


class LocalEngine:
    """Runs one partition after another in this process."""

    def __init__(self, process: Process = process_partition) -> None:
        self._process = process

    def run(self, spec_uri: str, partition_ids: Iterable[PartitionId]) -> Iterator[PartitionReport]:
        """Yield one report per partition, in order. A crash of the process ends everything: there is nobody to
        notice.
        """
        try:
            for partition_id in partition_ids:
                yield self._process(spec_uri, partition_id)
        finally:
            close_worker()
