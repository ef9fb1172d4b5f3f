"""A copy's part in the database that stops itself with SIGSTOP when it has executed a statement, once.

Called with a URL and a part of the statement; with a number of milliseconds too, it stores a job of a quota, in a
transaction that may be idle for so long.
"""

from __future__ import annotations

import asyncio
import sys

from ingestion_engine.services import job_store
from ingestion_engine.services.job_states import JobEvent
from ingestion_engine.services.job_store import JobStore
from support.control import queued
from support.replica_main import stop_at


async def main(url: str, statement: str, idle_ms: str | None = None) -> None:
    """Do one of everything, or store a job of a quota."""
    store = await JobStore.open(url)
    stop_at(statement)
    if idle_ms is not None:
        job_store.TURN_IDLE_MS = int(idle_ms)  # type: ignore[misc]  # a constant of the product
        await store.insert_within(queued(1, "c", owner="team"), 1)
    lease = await store.hold_dispatch("stopped", 0.5)
    job = queued(1, "c", idempotency_key="key")
    await store.insert(job)
    await store.note_waiting({job.id: "waits"}, lead=lease)
    now = await store.get(job.id)
    assert now is not None
    await store.change(now, JobEvent.ADMIT, lead=lease, admitted_at=job.created_at, attempt=1)
    await store.release_dispatch("stopped")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
