"""Deletes whole collections: their points in every store and what the state store knows about them.

``state.deletions`` describes the order of the steps. A request does them at once if it can; a sweep completes what an
unavailable store, a crash or the lease of a dead driver has left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ingestion_engine.domain.errors import CollectionNotFound, IngestionError, SubmissionError
from ingestion_engine.domain.ports import StateStore, VectorStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import LeaseSettings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.services.audit.change import begin_change
from ingestion_engine.services.collection_access import CollectionAccess, may_use_stored
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.state_access import require_state, state_needed
from ingestion_engine.state.aliases import find_alias, read_alias
from ingestion_engine.state.collections import delete_collection_state, iter_aliases, read_contract
from ingestion_engine.state.deletions import (
    Deletion,
    iter_deletions,
    read_deletion,
    remove_deletion,
    write_deletion,
)
from ingestion_engine.state.lease import Lease, take_to_delete

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeletionState:
    """How far the deletion of a collection is."""

    collection: str
    deleted: bool
    """True when nothing of it is left."""
    note: str | None
    """Why it is not complete yet; None when it is."""


class DeletionService:
    """Deletions of collections. For one event loop.

    Args:
        state: The state store; None when none is configured.
        stores: Configured vector stores.
        jobs: The jobs table, to find unfinished jobs on a collection.
        lease: How long a lease outlives its driver.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        state: StateStore | None,
        stores: Mapping[StoreName, VectorStore],
        jobs: JobStore,
        *,
        lease: LeaseSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._stores = stores
        self._jobs = jobs
        self._abandoned_after_s = lease.ttl_s + lease.grace_s
        self._clock = clock
        self._seen: dict[str, tuple[Lease, float]] = {}

    async def delete(self, name: str, access: CollectionAccess) -> DeletionState:
        """Delete a collection, or complete its deletion. Idempotent until it is complete.

        Raises:
            CollectionNotFound: there is no such collection, or none that the caller may use (404).
            SubmissionError: "collection_in_use" (409): an alias or an unfinished job uses it; "store_not_configured"
                (422): the service cannot reach one of its stores; "state_unavailable", "state_not_configured" (503).

        Cost: a listing and a read per alias; one request per store and per value of the collection's state.
        """
        state = require_state(self._state)
        with state_needed():
            deletion = await asyncio.to_thread(read_deletion, state, name)
            if deletion is None:
                deletion = await self._order(state, name, access)
            elif not access.may_use_contents(name, deletion.bucket):
                raise _not_found(name)
        return await self._complete(state, deletion)

    async def _order(self, state: StateStore, name: str, access: CollectionAccess) -> Deletion:
        """Check that nothing uses a collection, and write the mark."""
        alias = await asyncio.to_thread(find_alias, state, name)
        if alias is not None:
            if not await asyncio.to_thread(may_use_stored, state, access, alias.collection, alias=name):
                raise _not_found(name)
            hint = f"Remove the alias with DELETE /aliases/{name}, then delete its collections."
            raise _in_use(name, f"is an alias of {alias.collection!r}", hint)
        contract = await asyncio.to_thread(read_contract, state, name)
        if contract is None or not access.may_use_contents(name, contract.bucket):
            raise _not_found(name)
        for store in contract.stores:
            if store not in self._stores:
                raise SubmissionError(
                    "store_not_configured",
                    f"Collection {name!r} has points in store {store.value!r}, which is not configured.",
                    hint=f"Set INGEST_{store.value.upper()}__URL on the service.",
                )
        await self._require_unused(state, name, access)
        await begin_change(subject=name)
        deletion = Deletion(name, contract.stores, timestamp_now(), bucket=contract.bucket)
        await asyncio.to_thread(write_deletion, state, deletion)
        _log.info("deletion of a collection ordered", extra={"collection": name})
        return deletion

    async def _require_unused(self, state: StateStore, name: str, access: CollectionAccess) -> None:
        folded = name.casefold()  # Weaviate ignores case
        for use in await self._jobs.list_uses():
            if use.collection.casefold() == folded:
                hint = "Cancel the job, or wait until it has ended."
                raise _in_use(name, f"is used by job {use.job_id!r}, which is {use.state}", hint)
        for alias_name in await asyncio.to_thread(list, iter_aliases(state)):
            alias = await asyncio.to_thread(read_alias, state, alias_name)
            if alias is None:
                continue
            if name in alias.all_versions() and not access.may_use_collection(alias_name):
                raise _in_use(name, "is a version of an alias of others", "Ask the operator of the service.")
            if alias.collection == name:
                hint = f"Move the alias to another version, or remove it with DELETE /aliases/{alias_name}."
                raise _in_use(name, f"is what alias {alias_name!r} stands for", hint)
            if name in (*alias.previous, *alias.dropping):
                hint = f"Drop former versions with DELETE /aliases/{alias_name}/versions."
                raise _in_use(name, f"is a former version of alias {alias_name!r}", hint)

    async def _complete(self, state: StateStore, deletion: Deletion) -> DeletionState:
        """Do all steps after the mark; the next sweep or request repeats them where one fails now."""
        name = deletion.collection
        try:
            holder = await asyncio.to_thread(take_to_delete, state, name, self._find_abandoned(name))
            if holder is not None:
                return DeletionState(name, deleted=False, note=self._watch(name, holder))
            missing = [store.value for store in deletion.stores if store not in self._stores]
            if missing:
                return DeletionState(name, deleted=False, note=f"Store {missing[0]!r} is not configured.")
            for store in deletion.stores:
                await self._stores[store].drop_collection(name)
            await asyncio.to_thread(delete_collection_state, state, name)
            await asyncio.to_thread(remove_deletion, state, name)
        except IngestionError as error:
            self._seen.pop(name, None)
            _log.warning("collection not deleted yet", extra={"collection": name, **error.log_fields()})
            return DeletionState(name, deleted=False, note=error.message)
        self._seen.pop(name, None)
        _log.info("collection deleted", extra={"collection": name})
        return DeletionState(name, deleted=True, note=None)

    def _find_abandoned(self, name: str) -> Lease | None:
        """Return the lease that has not changed for so long that its driver and all of its writes have ended."""
        lease, since = self._seen.get(name, (None, 0.0))
        return lease if lease is not None and self._clock() - since >= self._abandoned_after_s else None

    def _watch(self, name: str, holder: Lease) -> str:
        """Remember since when a lease has not changed; return why the deletion waits."""
        lease, since = self._seen.get(name, (None, 0.0))
        if lease != holder:
            since = self._clock()
            self._seen[name] = (holder, since)
        left_s = max(0.0, self._abandoned_after_s - (self._clock() - since))
        return (
            f"Job {holder.job_id!r} has not released the collection; it is taken over after {left_s:.0f} s of silence."
        )

    # -- the sweep ----------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Complete deletions that were ordered. Cost: one listing; nothing more when there are none."""
        if self._state is None:
            return
        try:
            await self._sweep(self._state)
        except IngestionError:
            self._seen.clear()  # an outage: a driver that lives could not renew its lease either
            raise

    async def _sweep(self, state: StateStore) -> None:
        for name in await asyncio.to_thread(lambda: sorted(iter_deletions(state))):
            deletion = await asyncio.to_thread(read_deletion, state, name)
            if deletion is not None:
                await self._complete(state, deletion)


def _not_found(name: str) -> CollectionNotFound:
    return CollectionNotFound(
        "collection_not_found",
        f"Collection {name!r} does not exist.",
        hint="List collections with GET /collections.",
        status=404,
        field="collection",
    )


def _in_use(name: str, why: str, hint: str) -> SubmissionError:
    return SubmissionError("collection_in_use", f"Collection {name!r} {why}.", hint=hint, status=409)
