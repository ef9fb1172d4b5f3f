"""What is in the collections: contracts from the state store, counts from the stores, objects from the object table."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.errors import IngestionError, SubmissionError
from ingestion_engine.domain.ports import StateStore, VectorStore
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.state_access import require_contract, state_needed
from ingestion_engine.state.collections import list_contracts, read_contract, read_verified
from ingestion_engine.state.object_table.table import ObjectTable

TIME_LIMIT_S: Final = 5.0
"""For one store's count or one table's statistics; what is late is shown as not known."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PointCount:
    """How many points a store holds; None with the reason when that is not known."""

    points: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class CollectionDetail:
    """A collection as contract, stores and object table show it."""

    name: str
    contract: CollectionContract
    stores: dict[StoreName, PointCount]
    objects: dict[str, int] | None
    """Objects by state, and ``chunks``; None when not asked for or not readable."""
    verified: dict[str, Any] | None = None
    """The last comparison of the whole collection: ``job_id``, ``at``, ``differences``; None when there was none, or
    when not asked for."""


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """Rows of the object table as JSON types, and the cursor of the next page."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class CollectionService:
    """Collections, read only.

    Args:
        state: Holds contracts and object tables; None when no state store is configured.
        stores: Stores that are configured.
    """

    def __init__(self, state: StateStore | None, stores: Mapping[StoreName, VectorStore]) -> None:
        self._state = state
        self._stores = stores

    async def list_names(self) -> list[str]:
        """Return the names of all collections, sorted. Raises SubmissionError "state_unavailable" (503)."""
        state = self._state
        if state is None:
            return []
        with state_needed():
            return await asyncio.to_thread(list_contracts, state)

    async def describe_all(self, names: Sequence[str]) -> list[CollectionDetail]:
        """Return contracts and counts of collections; ones that vanish meanwhile are left out, tables are not read."""
        state = self._state
        if state is None:
            return []
        with state_needed():
            contracts = await asyncio.gather(*(asyncio.to_thread(read_contract, state, name) for name in names))
        found = [contract for contract in contracts if contract is not None]
        counts = await asyncio.gather(*(self._count(contract) for contract in found))
        return [
            CollectionDetail(name=contract.collection, contract=contract, stores=count, objects=None)
            for contract, count in zip(found, counts, strict=True)
        ]

    async def require(self, name: str) -> CollectionContract:
        """Return a collection's contract. Raises as ``describe``. One read of the state store."""
        return await require_contract(self._state, name)

    async def describe(self, name: str) -> CollectionDetail:
        """Return everything about one collection.

        Raises:
            SubmissionError: "collection_not_found" (404), "state_unavailable" (503).

        Cost: one count per store; two reads of the state store and three columns of the object table.
        """
        contract = await require_contract(self._state, name)
        assert self._state is not None
        with state_needed():
            counts, objects, verified = await asyncio.gather(
                self._count(contract),
                self._count_objects(contract.collection),
                asyncio.to_thread(read_verified, self._state, contract.collection),
            )
        return CollectionDetail(
            name=contract.collection, contract=contract, stores=counts, objects=objects, verified=verified
        )

    async def list_objects(
        self, name: str, *, prefix: str, state: str | None, limit: int, cursor: str | None
    ) -> ObjectPage:
        """Return one page of a collection's objects in key order.

        Raises:
            SubmissionError: as ``describe``; "validation_error" for a foreign cursor; "object_table_unreadable" (501)
            where the
                service was installed without pyarrow.
        """
        contract = await require_contract(self._state, name)
        assert self._state is not None
        table = ObjectTable(self._state, contract.collection)
        try:
            with state_needed():
                rows, following = await asyncio.to_thread(
                    table.page, prefix=prefix, state=state, cursor=cursor, limit=limit
                )
        except ImportError as error:
            raise SubmissionError(
                "object_table_unreadable",
                "this service cannot read object tables",
                hint="install pyarrow beside it",
                status=501,
            ) from error
        return ObjectPage([dataclasses.asdict(row) for row in rows], following)

    async def _count(self, contract: CollectionContract) -> dict[StoreName, PointCount]:
        counts = await asyncio.gather(*(self._count_store(name, contract.collection) for name in contract.stores))
        return dict(zip(contract.stores, counts, strict=True))

    async def _count_store(self, name: StoreName, collection: str) -> PointCount:
        store = self._stores.get(name)
        if store is None:
            return PointCount(None, f"this service has no {name.value}")
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                return PointCount(await store.count(collection), None)
        except TimeoutError:
            return PointCount(None, f"no answer within {TIME_LIMIT_S:g} s")
        except IngestionError as error:
            return PointCount(None, error.message)

    async def _count_objects(self, name: str) -> dict[str, int] | None:
        assert self._state is not None
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                return await asyncio.to_thread(ObjectTable(self._state, name).stats)
        except (TimeoutError, ImportError, IngestionError) as error:
            _log.warning("object table not read", extra={"collection": name, "error": str(error)})
            return None
