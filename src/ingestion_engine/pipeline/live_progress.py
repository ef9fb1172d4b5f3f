"""Live progress: a partition that runs for long reports how far it is, so that a large object is not silent."""

from __future__ import annotations

import asyncio
import time
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
LOOK_EVERY_S = 1.0
"""Interval in seconds at which a partition looks whether it begins or ceases to wait, which it reports at once."""


@asynccontextmanager
async def report_progress(
    ledger: Ledger, partition_id: PartitionId, measure: Callable[[], RunningPartition]
) -> AsyncIterator[None]:
    """Report how far a partition is until the block ends; then remove the report.

    A report follows every ``REPORT_EVERY_S``, and as soon as a wait is seen twice in a row, or is over. Never disturbs
    the partition: errors are logged. Cost: one request per report, one more at the end if there was any.
    """
    written = asyncio.Event()

    async def report() -> None:
        shown = before = ""
        due = time.monotonic() + REPORT_EVERY_S
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, REPORT_EVERY_S))
            waits = " ".join(current_waits())
            began, ceased = bool(waits and before) and not shown, bool(shown) and not waits
            before = waits
            if time.monotonic() < due and not began and not ceased:
                continue
            due = time.monotonic() + REPORT_EVERY_S
            try:
                written.set()
                await asyncio.to_thread(ledger.write_running, partition_id, replace(measure(), waits_for=waits))
                shown = waits
            except IngestionError as error:
                log.debug("progress not reported", extra={"partition_id": partition_id, **error.log_fields()})
            except Exception:  # progress is shown only, so no defect of it may end the partition
                log.exception("progress not reported: unexpected error", extra={"partition_id": partition_id})

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
