"""The alias move at the end of a job, which requires that both stores are proven to hold the same points."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.domain.ports import StateStore, VectorStore
from ingestion_engine.domain.records import RowState
from ingestion_engine.domain.spec import JobSpec, StoreName
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import OutageBackoff
from ingestion_engine.driver.plan.plan_thread import is_mass_delete
from ingestion_engine.driver.preflight import check_alias, check_alias_in_stores
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.aliases import find_alias, record_move, settle_alias
from ingestion_engine.state.object_table.table import ObjectTable

log = get_logger(__name__)


class AliasMove:
    """The move of one alias to a job's collection; every step waits while a dependency is unavailable.

    Args:
        alias: Name of the alias.
        spec: Spec of the job; its collection is the target of the alias.
        state: The state store.
        stores: The job's vector stores.
        monitor: Reports when the job must stop.
        outages: Back-off of the driver.
        run_async: Runs a coroutine of the adapters to its end, always on the same event loop.
    """

    def __init__(
        self,
        alias: str,
        spec: JobSpec,
        state: StateStore,
        *,
        stores: Mapping[StoreName, VectorStore],
        monitor: Monitor,
        outages: OutageBackoff,
        run_async: Callable[[Coroutine[Any, Any, Any]], object],
    ) -> None:
        self._alias = alias
        self._spec = spec
        self._collection = spec.request.collection
        self._state = state
        self._stores = stores
        self._monitor = monitor
        self._outages = outages
        self._run_async = run_async

    def check(self) -> None:
        """Return when the alias may be created or moved.

        Raises:
            FatalError: "alias_name_taken"; "aliases_unsupported" by one of the stores.
        """
        self._outages.retry_until_available(lambda: check_alias(self._state, self._alias))
        self._outages.retry_until_available(lambda: self._run_async(check_alias_in_stores(self._stores, self._alias)))

    def refuse_mass_loss(self) -> None:
        """Refuse a version that lacks most of the objects that readers find now, as a mass deletion would be refused.

        Raises:
            FatalError: "mass_delete_refused".
        """
        now = self._outages.retry_until_available(lambda: find_alias(self._state, self._alias))
        if now is None or now.collection == self._collection or self._spec.request.allow_mass_delete:
            return
        before, after = self._count_objects(now.collection), self._count_objects(self._collection)
        if after == 0 < before or is_mass_delete(before - after, before):
            raise FatalError(
                "mass_delete_refused",
                f"Collection {self._collection!r} holds {after} objects, but {now.collection!r} behind alias"
                f" {self._alias!r} holds {before}.",
                hint="Check prefix and filters, or submit again with allow_mass_delete=true if that is intended.",
                deletes=before - after,
                objects=before,
            )

    def move(self, confirm_lease: Callable[[], None]) -> None:
        """Record the move, then wait until the stores follow. Idempotent.

        Args:
            confirm_lease: Raises when this attempt may not write any more, as the state store knows it now.
        """
        self._outages.retry_until_available(
            lambda: record_move(
                self._state,
                self._alias,
                self._collection,
                job_id=self._spec.job_id,
                job_created_at=self._spec.created_at,
                now=timestamp_now(),
                check=confirm_lease,
            )
        )
        self._settle()

    def _settle(self) -> None:
        """Wait until the stores have followed; when the job has to stop meanwhile, leave the rest to the service."""
        while True:
            try:
                self._run_async(settle_alias(self._state, self._stores, self._alias))
            except TransientError as error:
                if self._monitor.should_stop():
                    log.warning("alias not settled", extra={"alias": self._alias, **error.log_fields()})
                    return
                self._outages.pause_for(error)
            else:
                return

    def _count_objects(self, collection: str) -> int:
        return self._outages.retry_until_available(ObjectTable(self._state, collection).stats)[RowState.PRESENT]
