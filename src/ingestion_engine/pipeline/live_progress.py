"""Live progress: a partition that runs for long reports how far it is, so that a large object is not silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import RunningPartition
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.waits import current_waits
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

REPORT_EVERY_S = 10.0
"""Interval in seconds between two reports of a partition; most partitions end before the first one and cost nothing."""


@asynccontextmanager
async def report_progress(
    ledger: Ledger, partition_id: PartitionId, measure: Callable[[], RunningPartition]
) -> AsyncIterator[None]:
    """Report how far a partition is every ``REPORT_EVERY_S`` until the block ends; then remove the report.

    Never disturbs the partition: errors are logged. Cost: one request per report, one more at the end if there was any.
    """
    written = asyncio.Event()

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            try:
                written.set()
                state = replace(measure(), waits_for=" ".join(current_waits()))
                await asyncio.to_thread(ledger.write_running, partition_id, state)
            except IngestionError as error:
                log.debug("progress not reported", extra={"partition": partition_id, **error.log_fields()})
            except Exception:
                log.exception("progress not reported: unexpected error", extra={"partition": partition_id})

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if written.is_set():
            with suppress(IngestionError):
                await asyncio.to_thread(ledger.delete_running, partition_id)
