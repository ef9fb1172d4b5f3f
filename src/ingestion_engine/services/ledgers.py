"""Ledgers of all jobs for asynchronous callers; blocking calls run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.domain.states import JobState
from ingestion_engine.state.lease import fence_lease
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
        """Write the spec for the next attempt of a job, and return its URI."""
        ledger = Ledger(self._store, spec.job_id)
        await asyncio.to_thread(ledger.replace_spec, spec)
        return ledger.spec_uri

    async def read_summary(self, job_id: str, attempt: int) -> dict[str, Any] | None:
        """Return the summary of a job whose newest attempt is ``attempt``, or None while no attempt has ended."""
        return await asyncio.to_thread(Ledger(self._store, job_id).read_summary, attempt)

    async def fence_off(
        self,
        job_id: str,
        collection: str,
        *,
        attempt: int,
        state: JobState,
        error: Mapping[str, Any] | None,
        counts: Mapping[str, int],
    ) -> dict[str, Any]:
        """End a job in its ledger although its driver may still run; return the summary that stands. Idempotent.

        Abort marker (workers and driver stop), then a higher epoch of the lease if the job holds it (nothing of the
        driver becomes durable, and a successor waits as it does after a dead driver), then a summary that no driver
        replaces. A summary that a driver has written before stands.
        """
        return await asyncio.to_thread(
            self._fence_off, job_id, collection, attempt=attempt, state=state, error=error, counts=counts
        )

    def _fence_off(self, job_id: str, collection: str, **fields: Any) -> dict[str, Any]:
        ledger = Ledger(self._store, job_id)
        ledger.request_abort("ended by the service")
        epoch = fence_lease(self._store, collection, job_id)
        return ledger.write_forced_summary(ledger.make_summary(epoch=epoch or 0, **fields))

    async def read_progress(self, job_id: str) -> dict[str, Any] | None:
        """Return the progress of a job, or None before its driver has reported any."""
        return await asyncio.to_thread(Ledger(self._store, job_id).read_progress)

    async def request_abort(self, job_id: str, reason: str) -> None:
        """Request that the driver of a job ends, now or when it starts."""
        await asyncio.to_thread(Ledger(self._store, job_id).request_abort, reason)

    async def read_log(self, job_id: str, attempt: int) -> str | None:
        """Return the end of the driver log of an attempt, or None."""
        return await asyncio.to_thread(Ledger(self._store, job_id).read_log, attempt)

    async def read_failures(
        self, job_id: str, *, limit: int, cursor: str | None, codes: Sequence[str] = ()
    ) -> FailurePage:
        """Return one page of the failed objects of a job; without codes, of all."""
        wanted = frozenset(codes) or None
        items, following = await asyncio.to_thread(Ledger(self._store, job_id).read_failures, cursor, limit, wanted)
        return FailurePage(items, following)

    async def read_failed_keys(self, job_id: str, codes: Sequence[str] = ()) -> list[str]:
        """Return the keys of the failed objects of a job, each once, in order; without codes, of all.

        Memory: all keys.
        """
        return await asyncio.to_thread(self._gather_failed_keys, job_id, frozenset(codes) or None)

    def _gather_failed_keys(self, job_id: str, codes: frozenset[str] | None) -> list[str]:
        ledger = Ledger(self._store, job_id)
        keys: dict[str, None] = {}
        cursor: str | None = None
        while True:
            items, cursor = ledger.read_failures(cursor, PAGE_ITEMS, codes)
            keys.update(dict.fromkeys(item["key"] for item in items))
            if cursor is None:
                return list(keys)

    async def write_only_keys(self, job_id: str, keys: Sequence[str]) -> str:
        """Write the keys to which a job is limited, and return the path for its spec."""
        return await asyncio.to_thread(Ledger(self._store, job_id).write_only_keys, keys)
