"""Ledgers of all jobs for asynchronous callers; blocking calls run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.errors import StateConflict
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.state.ledger import Ledger

PAGE_ITEMS: Final = 5_000
"""Failures read at once when all keys are collected; about one megabyte."""


@dataclass(frozen=True, slots=True)
class FailurePage:
    """One page of a job's failed objects and the cursor of the next page; None at the end."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class Ledgers:
    """Reads and writes ledgers. All methods raise the errors of the state store.

    Args:
        store: The state store.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def write_spec(self, spec: JobSpec) -> str:
        """Write the spec of a job and return its URI; a spec that exists stays, because drivers may have read it."""
        ledger = Ledger(self._store, spec.job_id)
        try:
            await asyncio.to_thread(ledger.write_spec, spec)
        except StateConflict:
            # Written by an earlier version of the service that serialised it differently.
            return ledger.spec_uri
        return ledger.spec_uri

    async def read_summary(self, job_id: str) -> dict[str, Any] | None:
        """Return the summary of a job, or None while no attempt has ended."""
        return await asyncio.to_thread(Ledger(self._store, job_id).read_summary)

    async def read_progress(self, job_id: str) -> dict[str, Any] | None:
        """Return the progress of a job, or None before its driver has reported any."""
        return await asyncio.to_thread(Ledger(self._store, job_id).read_progress)

    async def request_abort(self, job_id: str, reason: str) -> None:
        """Request that the driver of a job ends, now or when it starts."""
        await asyncio.to_thread(Ledger(self._store, job_id).request_abort, reason)

    async def read_log(self, job_id: str, attempt: int) -> str | None:
        """Return the end of the driver log of an attempt, or None."""
        return await asyncio.to_thread(Ledger(self._store, job_id).read_log, attempt)

    async def read_failures(self, job_id: str, *, limit: int, cursor: str | None) -> FailurePage:
        """Return one page of the failed objects of a job."""
        items, following = await asyncio.to_thread(Ledger(self._store, job_id).read_failures, cursor, limit)
        return FailurePage(items, following)

    async def read_failed_keys(self, job_id: str) -> list[str]:
        """Return the keys of all failed objects of a job, each once, in order. Memory: all keys."""
        return await asyncio.to_thread(self._gather_failed_keys, job_id)

    def _gather_failed_keys(self, job_id: str) -> list[str]:
        ledger = Ledger(self._store, job_id)
        keys: dict[str, None] = {}
        cursor: str | None = None
        while True:
            items, cursor = ledger.read_failures(cursor, PAGE_ITEMS)
            keys.update(dict.fromkeys(item["key"] for item in items))
            if cursor is None:
                return list(keys)

    async def write_only_keys(self, job_id: str, keys: Sequence[str]) -> str:
        """Write the keys to which a job is limited, and return the path for its spec."""
        return await asyncio.to_thread(Ledger(self._store, job_id).write_only_keys, keys)
