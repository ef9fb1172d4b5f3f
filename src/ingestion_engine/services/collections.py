"""Collections as clients see them: contracts (state store), counts (vector stores), objects (object table)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.ports import StateStore, VectorStore
from ingestion_engine.domain.records import INTERRUPTED, RowState, TableRow, load_warnings
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.collection_access import CollectionAccess, may_use_stored
from ingestion_engine.services.state_access import needs_pyarrow, require_contract, skip_corrupt, state_needed
from ingestion_engine.state.collections import list_contracts, read_contract, read_verified
from ingestion_engine.state.deletions import iter_deletions, read_deletion
from ingestion_engine.state.object_table.table import ObjectTable

IN_FLIGHT: Final = 16
"""Collections of a list that are read and counted at the same time; bounds the load on the stores (a guess)."""

TIME_LIMIT_S: Final = 5.0
"""Time limit of the count of one store or the statistics of one table; a late one is shown as unknown."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PointCount:
    """Number of points in a store, or the reason why it is unknown."""

    points: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class CollectionDetail:
    """A collection as its contract, its stores and its object table describe it."""

    name: str
    contract: CollectionContract
    stores: dict[StoreName, PointCount]
    objects: dict[str, int] | None
    """Number of objects by state, ``with_warnings``, and of ``chunks``; None when not requested or not readable."""
    deleting: bool = False
    """True while it is being deleted."""
    verified: dict[str, Any] | None = None
    """Last comparison of the whole collection: ``job_id``, ``at``, ``differences``; None without one, or when not
    requested."""


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """Rows of the object table as JSON types, and the cursor of the next page; None at the end."""

    items: list[dict[str, Any]]
    next_cursor: str | None
    folders: list[str] = field(default_factory=list)
    """What keys with a slash after the prefix have in common, with the slash; only when requested."""


def show_row(row: TableRow) -> dict[str, Any]:
    """Return a row as JSON types. Pure."""
    warnings = list(map(dataclasses.asdict, load_warnings(row.warnings)))
    # Of an interrupted object, the table remembers there whether it had failed before.
    is_retryable = row.retryable or row.error_code == INTERRUPTED
    return {**dataclasses.asdict(row), "retryable": is_retryable, "warnings": warnings}


class CollectionService:
    """Collections, read only.

    Args:
        state: The state store with contracts and object tables; None when none is configured.
        stores: Configured vector stores.
    """

    def __init__(self, state: StateStore | None, stores: Mapping[StoreName, VectorStore]) -> None:
        self._state = state
        self._stores = stores

    async def list_names(self, access: CollectionAccess) -> list[str]:
        """Return the names of all collections that the caller may use, sorted.

        Cost: one listing; for a caller that is limited to buckets a read per collection, ``IN_FLIGHT`` at once.

        Raises:
            SubmissionError: "state_unavailable" (503).
        """
        if self._state is None:
            return []
        slots = asyncio.Semaphore(IN_FLIGHT)
        with state_needed():
            names = await asyncio.to_thread(list_contracts, self._state)
            allowed = [name for name in names if access.may_use_collection(name)]
            if access.is_limited_to_buckets:
                verdicts = await asyncio.gather(
                    *(self._may_use(self._state, name, access=access, slots=slots) for name in allowed)
                )
                allowed = [name for name, may_use in zip(allowed, verdicts, strict=True) if may_use]
        return allowed

    async def list_buckets(self, names: Sequence[str], access: CollectionAccess) -> list[str]:
        """Return the buckets of some collections, of those that the caller may use, sorted.

        Raises:
            SubmissionError: "state_unavailable" (503).

        Cost: a read per collection, ``IN_FLIGHT`` at once.
        """
        state = self._state
        if state is None:
            return []
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def read(name: str) -> str | None:
            async with slots:
                with skip_corrupt("collection", name):
                    contract = await asyncio.to_thread(read_contract, state, name)
                    if contract is not None and access.may_use_contents(name, contract.bucket):
                        return contract.bucket
            return None

        with state_needed():
            found = await asyncio.gather(*map(read, names))
        return sorted({bucket for bucket in found if bucket})

    @staticmethod
    async def _may_use(state: StateStore, name: str, *, access: CollectionAccess, slots: asyncio.Semaphore) -> bool:
        """Return whether a caller may use a collection; not one whose contract cannot be read, which is logged."""
        async with slots:
            with skip_corrupt("collection", name):
                return await asyncio.to_thread(may_use_stored, state, access, name)
        return False

    async def list_page(
        self, access: CollectionAccess, *, limit: int, after: str, part: str = "", verified: bool = False
    ) -> tuple[list[CollectionDetail], str | None]:
        """Return up to ``limit`` collections that the caller may use, by name, and the name to continue after.

        A collection whose contract cannot be read is left out, and logged; it hides no other. Tables are not read.

        Args:
            access: What the caller may use.
            limit: Maximum number of collections.
            after: Only names after this one.
            part: Only names that contain this text, in upper or lower case.
            verified: Whether to read the last comparison of each.

        Raises:
            SubmissionError: "state_unavailable" (503).

        Cost: two listings; for each collection a read (two with ``verified``), and a count per store, ``IN_FLIGHT`` at
        once. For a caller that is restricted to buckets, also a read for each collection that is left out.
        """
        state = self._state
        if state is None:
            return [], None
        with state_needed():
            going = await asyncio.to_thread(lambda: frozenset(iter_deletions(state)))
        folded = part.casefold()
        names = await self.list_names(access)
        rest = [name for name in names if name > after and folded in name.casefold()]
        found: list[CollectionDetail] = []
        while rest and len(found) <= limit:  # one more tells whether there is a next page
            size = limit + 1 - len(found)
            batch, rest = rest[:size], rest[size:]
            found += await self._describe_all(batch, access, going=going, verified=verified)
        return found[:limit], found[limit - 1].name if len(found) > limit else None

    async def describe_all(self, names: Sequence[str], access: CollectionAccess) -> list[CollectionDetail]:
        """Return those of some collections that exist and that the caller may use, in the same order.

        Tables are not read. Raises and cost: as ``list_page``, for these collections.
        """
        state = self._state
        if state is None:
            return []
        with state_needed():
            going = await asyncio.to_thread(lambda: frozenset(iter_deletions(state)))
        return await self._describe_all(names, access, going=going, verified=True)

    async def _describe_all(
        self, names: Sequence[str], access: CollectionAccess, *, going: frozenset[str], verified: bool
    ) -> list[CollectionDetail]:
        """Return contracts and counts of collections, without those that do not exist or that are not allowed."""
        state = self._state
        assert state is not None
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def describe(name: str) -> CollectionDetail | None:
            async with slots:
                contract = None
                with skip_corrupt("collection", name):
                    contract = await asyncio.to_thread(read_contract, state, name)
                if contract is None or not access.may_use_contents(name, contract.bucket):
                    return None
                counts = await self._count(contract)
                last = await asyncio.to_thread(read_verified, state, name) if verified else None
                deleting = contract.collection in going
                return CollectionDetail(
                    contract.collection, contract, counts, objects=None, deleting=deleting, verified=last
                )

        with state_needed():
            found = await asyncio.gather(*(describe(name) for name in names))
        return [detail for detail in found if detail is not None]

    async def require(self, name: str, access: CollectionAccess) -> CollectionContract:
        """Return a collection's contract. Raises as ``describe``. Two or three reads of the state store."""
        return await require_contract(self._state, name, access)

    async def describe(self, name: str, access: CollectionAccess) -> CollectionDetail:
        """Return all details of one collection, which the caller may use.

        Raises:
            SubmissionError: "collection_not_found" (404), "state_unavailable" (503).

        Cost: one count per store; three reads of the state store and four columns of the object table.
        """
        contract = await require_contract(self._state, name, access)
        assert self._state is not None
        with state_needed():
            counts, objects, verified, deletion = await asyncio.gather(
                self._count(contract),
                self._count_objects(contract.collection),
                asyncio.to_thread(read_verified, self._state, contract.collection),
                asyncio.to_thread(read_deletion, self._state, contract.collection),
            )
        return CollectionDetail(
            name=contract.collection,
            contract=contract,
            stores=counts,
            objects=objects,
            deleting=deletion is not None,
            verified=verified,
        )

    async def list_objects(
        self,
        name: str,
        access: CollectionAccess,
        *,
        prefix: str,
        state: RowState | None,
        warned: bool,
        limit: int,
        cursor: str | None,
        folders: bool = False,
    ) -> ObjectPage:
        """Return one page of a collection's objects in key order, or of those of which something was left out.

        With ``folders``, keys with a slash after the prefix are listed as folders instead, once each.

        Raises:
            SubmissionError: as ``describe``; "validation_error" for a cursor of another list;
                "object_table_unreadable" (501): the service is installed without pyarrow.
        """
        contract = await require_contract(self._state, name, access)
        assert self._state is not None
        table = ObjectTable(self._state, contract.collection)
        with state_needed(), needs_pyarrow():
            if folders:
                found, rows, following = await asyncio.to_thread(
                    table.list_folder, prefix=prefix, state=state, warned=warned, cursor=cursor, limit=limit
                )
            else:
                found = []
                rows, following = await asyncio.to_thread(
                    table.page, prefix=prefix, state=state, warned=warned, cursor=cursor, limit=limit
                )
        return ObjectPage([show_row(row) for row in rows], following, found)

    async def count_objects(self, name: str, access: CollectionAccess, prefix: str = "") -> dict[str, int] | None:
        """Return the numbers of ``ObjectTable.stats`` for a prefix; None when the table cannot be read in time.

        Raises: as ``describe``. Cost: four columns of the object table.
        """
        contract = await require_contract(self._state, name, access)
        return await self._count_objects(contract.collection, prefix)

    async def _count(self, contract: CollectionContract) -> dict[StoreName, PointCount]:
        counts = await asyncio.gather(*(self._count_store(name, contract.collection) for name in contract.stores))
        return dict(zip(contract.stores, counts, strict=True))

    async def _count_store(self, name: StoreName, collection: str) -> PointCount:
        store = self._stores.get(name)
        if store is None:
            return PointCount(None, f"Store {name.value!r} is not configured.")
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                return PointCount(await store.count(collection), None)
        except TimeoutError:
            return PointCount(None, f"No response within {TIME_LIMIT_S:g} s.")
        except IngestionError as error:
            return PointCount(None, error.message)

    async def _count_objects(self, name: str, prefix: str = "") -> dict[str, int] | None:
        assert self._state is not None
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                return await asyncio.to_thread(ObjectTable(self._state, name).stats, prefix)
        except (TimeoutError, ImportError, IngestionError) as error:
            _log.warning("object table not read", extra={"collection": name, "error": str(error)})
            return None
