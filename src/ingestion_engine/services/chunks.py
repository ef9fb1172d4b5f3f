"""Chunks of one object as every store holds them, side by side."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ingestion_engine.domain.errors import (
    CollectionMissing,
    FatalError,
    IngestionError,
    SubmissionError,
    TransientError,
)
from ingestion_engine.domain.ids import ObjectId, PointId, make_object_id
from ingestion_engine.domain.ports import StateStore, VectorStore
from ingestion_engine.domain.records import StoredPoint, TableRow
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.domain.states import Agreement
from ingestion_engine.domain.vectors import are_close
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.collection_access import CollectionAccess
from ingestion_engine.services.state_access import needs_pyarrow, require_contract, state_needed
from ingestion_engine.state.cursors import bad_cursor, decode_cursor, encode_cursor
from ingestion_engine.state.object_table.table import ObjectTable

STORE_TIME_LIMIT_S: Final = 20.0
"""Time limit of one store for one page; a person waits for the answer."""

PROBE_POINTS: Final = 100
"""Points read to see whether an object has further ones: with their vectors some hundred kB (a guess)."""

SURPLUS_POINTS: Final = 200
"""Points of a page beyond its number of chunks: several points with one number, which only damage leaves behind."""

VECTOR: Final = "vector"
"""Name of the vector among the fields that differ."""

_POSITION: Final = re.compile(r"[0-9]{1,15}\Z")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChunkCopy:
    """What one store has of a chunk."""

    present: bool | None
    """None when the store could not be read."""
    epoch: int | None = None
    job_id: str | None = None
    """Job that wrote it."""
    ingested_at: str | None = None
    values: Mapping[str, Any] | None = None
    """Values of the fields of the payload that differ from the other store; a field that it lacks is left out."""


@dataclass(frozen=True, slots=True)
class ChunkDetail:
    """A chunk of an object, and the copy in each store."""

    point_id: PointId
    payload: Mapping[str, Any]
    """The payload in the first store that has the point, in the order of the contract."""
    agreement: Agreement
    differences: tuple[str, ...]
    """Fields of the payload on which the stores differ, sorted, and ``vector``."""
    stores: dict[StoreName, ChunkCopy]

    @property
    def index(self) -> int | None:
        """Number of the chunk in its object, from 0; None when its payload has no valid one."""
        return read_number(self.payload)


@dataclass(frozen=True, slots=True)
class ChunkPage:
    """Chunks of one object, in the order of the document."""

    collection: str
    key: str
    row: TableRow | None
    """The object's row in the object table; None when it has none (yet)."""
    items: list[ChunkDetail]
    errors: dict[StoreName, IngestionError]
    """Stores that could not be read, or that have lost the collection."""
    next_cursor: str | None


class ChunkService:
    """Reads the chunks of objects, from every store at once. Shared by all requests.

    Args:
        state: The state store with contracts and object tables; None when none is configured.
        stores: Configured vector stores.
    """

    def __init__(self, state: StateStore | None, stores: Mapping[StoreName, VectorStore]) -> None:
        self._state = state
        self._stores = stores

    async def list_chunks(
        self, name: str, key: str, access: CollectionAccess, *, limit: int, cursor: str | None
    ) -> ChunkPage:
        """Return one page of an object's chunks, compared between the stores.

        A page has the chunks of ``limit`` numbers (``chunk_index``); that of an object with fewer points has all of
        them, also points without a number. A store that cannot be read is an error of the page, not of the request.

        Args:
            name: Collection or alias.
            key: Key of the object, exactly.
            access: What the caller may use.
            limit: Chunks per page.
            cursor: ``next_cursor`` of the previous page; None for the first one.

        Raises:
            SubmissionError: "collection_not_found"; "object_not_found" (404): neither the object table nor a store has
                it; "validation_error" for a foreign cursor; "object_table_unreadable" (501); "state_unavailable",
                and "stores_unavailable" when no store can be read (503).

        Cost: two reads of the state store and a row group per run; one to four requests per store. Memory: a page of
        points with their vectors, twice.
        """
        contract = await require_contract(self._state, name, access)
        first = _read_position(cursor)
        row = await self._find_row(contract.collection, key)
        object_id = ObjectId(row.object_id) if row is not None else make_object_id(contract.bucket or "", key)
        reader = _Reader(contract, self._stores, object_id)
        copies, following = await reader.read_page(first, limit, expected=0 if row is None else row.chunk_count)
        unread = frozenset(reader.errors) - reader.lost
        if unread == frozenset(contract.stores):
            raise _no_store(reader.errors)
        if row is None and not copies and not unread and first == 0 and following is None:
            raise SubmissionError(
                "object_not_found",
                f"Collection {contract.collection!r} has no object {key!r}.",
                hint=f"List its objects with GET /collections/{contract.collection}/objects.",
                status=404,
                field="key",
            )
        items = [compare(point_id, held, contract.stores, unread=unread) for point_id, held in copies.items()]
        items.sort(key=lambda item: (item.index is None, item.index or 0, item.point_id))
        return ChunkPage(
            collection=contract.collection,
            key=key,
            row=row,
            items=items,
            errors=reader.errors,
            next_cursor=None if following is None else encode_cursor(str(following)),
        )

    async def _find_row(self, collection: str, key: str) -> TableRow | None:
        assert self._state is not None
        with state_needed(), needs_pyarrow():
            return await asyncio.to_thread(ObjectTable(self._state, collection).find, key)


_Copies = dict[PointId, dict[StoreName, StoredPoint]]
"""The copies of points, by store."""


class _Reader:
    """Reads the points of one object from every store; remembers what failed."""

    def __init__(
        self, contract: CollectionContract, stores: Mapping[StoreName, VectorStore], object_id: ObjectId
    ) -> None:
        self._collection = contract.collection
        self._names = contract.stores
        self._stores = stores
        self._object_id = object_id
        self.errors: dict[StoreName, IngestionError] = {}
        self.lost: set[StoreName] = set()
        """Stores of ``errors`` that certainly have no point, because they have lost the collection."""

    async def read_page(self, first: int, limit: int, *, expected: int) -> tuple[_Copies, int | None]:
        """Return the points of a page, and the first number of the next one; None at the end.

        Args:
            first: First number of the page.
            limit: Numbers per page.
            expected: Number of points that the object table has.
        """
        if first == 0 and expected <= limit:
            whole = await self._read_all(0, None, limit + 1)
            if all(len(points) <= limit for points in whole.values()):
                return await self._match(whole), None
        end = first + limit
        copies = await self._match(await self._read_all(first, end, limit + SURPLUS_POINTS))
        return copies, end if end < expected else await self._find_following(end)

    async def _match(self, found: Mapping[StoreName, Sequence[StoredPoint]]) -> _Copies:
        """Return points by id, with the copy of each store.

        A point that one store returns and another does not is also read by its id: its payload there may have another
        number, or name another object.
        """
        copies: _Copies = {}
        for name, points in found.items():
            for point in points:
                copies.setdefault(point.id, {})[name] = point
        for name in self._readable():
            hidden = [point_id for point_id, held in copies.items() if name not in held]
            for point in await self._guard(name, self._read_ids(name, hidden)):
                copies[point.id][name] = point
        return copies

    async def _find_following(self, end: int) -> int | None:
        """Return the first number of the page after ``end``; None when no store has a point from there on."""
        found = await self._read_all(end, None, PROBE_POINTS)
        numbers = [
            number for points in found.values() for p in points if (number := read_number(p.payload)) is not None
        ]
        if not numbers:
            return None
        # A store returns any of its points: only when these are all of them, the lowest one is known.
        return end if any(len(points) >= PROBE_POINTS for points in found.values()) else max(end, min(numbers))

    def _readable(self) -> list[StoreName]:
        return [name for name in self._names if name not in self.errors]

    async def _read_all(self, first: int, end: int | None, most: int) -> dict[StoreName, list[StoredPoint]]:
        names = self._readable()
        reads = (self._guard(name, self._read_range(name, (first, end), most=most)) for name in names)
        found = await asyncio.gather(*reads)
        return dict(zip(names, found, strict=True))

    async def _read_range(self, name: StoreName, numbers: tuple[int, int | None], *, most: int) -> list[StoredPoint]:
        first, end = numbers
        return await self._require(name).read_object_points(
            self._collection, [self._object_id], first_chunk=first, end_chunk=end, limit=most
        )

    async def _read_ids(self, name: StoreName, ids: Sequence[PointId]) -> list[StoredPoint]:
        return await self._require(name).read_points(self._collection, ids, with_vectors=True) if ids else []

    def _require(self, name: StoreName) -> VectorStore:
        store = self._stores.get(name)
        if store is None:
            raise FatalError("store_not_configured", f"Store {name.value!r} is not configured.")
        return store

    async def _guard(self, name: StoreName, reading: Awaitable[list[StoredPoint]]) -> list[StoredPoint]:
        """Return what a store returns; nothing, and the error is kept, when it fails."""
        try:
            async with asyncio.timeout(STORE_TIME_LIMIT_S):
                return await reading
        except TimeoutError:
            message = f"Store {name.value!r} did not respond within {STORE_TIME_LIMIT_S:g} s."
            self.errors[name] = TransientError("store_unavailable", message)
        except IngestionError as error:
            self.errors[name] = error
            if isinstance(error, CollectionMissing):
                self.lost.add(name)
        _log.warning("store not read", extra={"store": name.value, **self.errors[name].log_fields()})
        return []


def compare(
    point_id: PointId,
    held: Mapping[StoreName, StoredPoint],
    stores: Sequence[StoreName],
    *,
    unread: Collection[StoreName] = (),
) -> ChunkDetail:
    """Return a chunk with its copies compared, as ``verify`` compares them. Pure.

    Args:
        point_id: Id of the point.
        held: The copies that were found, at least one.
        stores: All stores of the collection.
        unread: Stores that could not be read.
    """
    points = [held[name] for name in stores if name in held]
    names = {name for point in points for name in point.payload}
    different = {name for name in names if any(p.payload.get(name) != points[0].payload.get(name) for p in points)}
    if any(not _are_same_vector(points[0], point) for point in points[1:]):
        different.add(VECTOR)
    if len(stores) == 1:
        agreement = Agreement.SINGLE
    elif len(held) + len(unread) < len(stores):
        agreement = Agreement.MISSING
    elif different:
        agreement = Agreement.DIFFERENT
    else:
        agreement = Agreement.UNKNOWN if unread else Agreement.EQUAL
    return ChunkDetail(
        point_id=point_id,
        payload=points[0].payload,
        agreement=agreement,
        differences=tuple(sorted(different)),
        stores={name: _describe_copy(held.get(name), different, is_read=name not in unread) for name in stores},
    )


def read_number(payload: Mapping[str, Any]) -> int | None:
    """Return the number of a chunk in its object, from 0; None when its payload has no valid one. Pure."""
    number = payload.get("chunk_index")
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None


def _describe_copy(point: StoredPoint | None, different: Collection[str], *, is_read: bool) -> ChunkCopy:
    if point is None:
        return ChunkCopy(present=False if is_read else None)
    epoch = point.payload.get("epoch")
    return ChunkCopy(
        present=True,
        epoch=epoch if isinstance(epoch, int) else None,
        job_id=_read_text(point.payload, "job_id"),
        ingested_at=_read_text(point.payload, "ingested_at"),
        values={name: point.payload[name] for name in sorted(different) if name in point.payload},
    )


def _read_text(payload: Mapping[str, Any], name: str) -> str | None:
    value = payload.get(name)
    return value if isinstance(value, str) else None


def _are_same_vector(left: StoredPoint, right: StoredPoint) -> bool:
    if left.vector is None or right.vector is None:
        return left.vector is right.vector
    return are_close(left.vector, right.vector)


def _read_position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    position = decode_cursor(cursor)
    if _POSITION.match(position) is None:
        raise bad_cursor(cursor)
    return int(position)


def _no_store(errors: Mapping[StoreName, IngestionError]) -> SubmissionError:
    return SubmissionError(
        "stores_unavailable",
        "No store could be read. " + " ".join(f"{name}: {error.message}" for name, error in errors.items()),
        hint="Try again later; GET /readyz shows which systems are unavailable.",
        status=503,
    )
