"""Aliases: a name that stands for a collection, and moves to a new version of it when that version is complete.

``alias/{name}.json`` in the state store is authoritative; the vector stores follow it, in this order::

    file, not settled ─► every store ─► file, settled

After a crash between two of these steps, the next attempt of the job or the service rolls the move forward, whichever
comes first: all steps are idempotent, and the file changes by conditional writes only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from ingestion_engine.domain.errors import CollectionMissing, FatalError, IngestionError, StateConflict
from ingestion_engine.domain.ports import StateStore, Stored, VectorStore
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.state.collections import alias_path, read_contract
from ingestion_engine.state.json_files import parse_json
from ingestion_engine.state.update import update_value

_TUPLES = frozenset({"previous", "dropping"})
_FIELDS = (
    "name",
    "collection",
    "previous",
    "dropping",
    "settled",
    "removed",
    "job_id",
    "job_created_at",
    "moved_at",
)

ROLLBACKS_MAX: Final = 32
"""Rollbacks whose idempotency keys an alias remembers, some 80 bytes each: far more than are under way at a time."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """A rollback that was ordered under an idempotency key."""

    key: str
    """Hash of the key and of who used it."""
    to: str | None
    """The version that the request named; None when it named none."""


@dataclass(frozen=True, slots=True)
class Alias:
    """The collection that a name stands for, and its former ones."""

    name: str
    collection: str
    previous: tuple[str, ...]
    """Former collections, newest first; each once, never the current one."""
    settled: bool
    """True when every store of the collection has followed the last move."""
    job_id: str
    """The job that moved it last; a rollback does not change it."""
    job_created_at: str
    """When that job was created, RFC 3339; jobs that were created earlier no longer move the alias."""
    moved_at: str
    dropping: tuple[str, ...] = ()
    """Former versions that are being dropped; the alias must not move back to them."""
    removed: bool = False
    """True while the alias itself is being removed; it stands for no collection any more."""
    rollbacks: tuple[Rollback, ...] = ()
    """The newest ``ROLLBACKS_MAX`` rollbacks with an idempotency key, newest first. Here, and not in the database: one
    conditional write moves the alias and remembers the key, so a crash leaves both or neither."""
    version: str = ""
    """Version in the state store, for the next conditional write; empty before the first one."""

    def remember(self, rollback: Rollback) -> Alias:
        """Return the alias with one more rollback that it remembers; the oldest one is forgotten. Pure."""
        return replace(self, rollbacks=(rollback, *self.rollbacks)[:ROLLBACKS_MAX])

    def all_versions(self) -> tuple[str, ...]:
        """Return the current collection, the former ones, and those that are being dropped. Pure."""
        return (self.collection, *self.previous, *self.dropping)


def read_alias(store: StateStore, name: str) -> Alias | None:
    """Return an alias, also one that is being removed; None when there is none. One request.

    Raises:
        FatalError: "state_corrupt".
    """
    stored = store.get(alias_path(name))
    return None if stored is None else _parse_alias(name, stored)


def _parse_alias(name: str, stored: Stored) -> Alias:
    path = alias_path(name)
    data = parse_json(path, stored.data)
    try:
        values: dict[str, Any] = {field: tuple(data[field]) if field in _TUPLES else data[field] for field in _FIELDS}
        # Former releases write none, also when they change an alias that has some.
        values["rollbacks"] = tuple(Rollback(one["key"], one["to"]) for one in data.get("rollbacks", ()))
    except (KeyError, TypeError) as error:
        raise FatalError("state_corrupt", f"{path!r} in the state store is incomplete: {error}.", path=path) from error
    return Alias(**values, version=stored.version)


def find_alias(store: StateStore, name: str) -> Alias | None:
    """Return an alias that stands for a collection now, or None. One request."""
    alias = read_alias(store, name)
    return None if alias is None or alias.removed else alias


def write_alias(store: StateStore, alias: Alias) -> Alias:
    """Write an alias over the version that was read, and return it. One request. Raises StateConflict."""
    path, body = alias_path(alias.name), _dump_alias(alias)
    if alias.version:
        return replace(alias, version=store.replace(path, body, alias.version))
    return replace(alias, version=store.create(path, body))


def _dump_alias(alias: Alias) -> bytes:
    body: dict[str, Any] = {"format": 1, **{field: getattr(alias, field) for field in _FIELDS}}
    if alias.rollbacks:
        body["rollbacks"] = alias.rollbacks
    return orjson.dumps(body)


def update_alias(store: StateStore, name: str, change: Callable[[Alias | None], Alias | None]) -> Alias | None:
    """Replace an alias by the result of ``change``, atomically against other writers; return what is stored now.

    ``change`` receives None when there is no alias, and returns None or its argument to leave it as it is. It is called
    again after every conflict. Cost and errors as ``update_value``.
    """

    def apply(data: bytes | None) -> bytes | None:
        alias = None if data is None else _parse_alias(name, Stored(data, ""))
        changed = change(alias)
        return None if changed is None or changed == alias else _dump_alias(changed)

    stored = update_value(store, alias_path(name), apply)
    return None if stored is None else _parse_alias(name, stored)


def record_move(
    store: StateStore,
    name: str,
    collection: str,
    *,
    job_id: str,
    job_created_at: str,
    now: str,
    check: Callable[[], None],
) -> Alias:
    """Move an alias, not settled yet, to the collection that a job has made; return the stored alias. Once per job.

    An alias that a job has moved once is not moved by it again: it may have been rolled back since.

    Args:
        store: The state store.
        name: Name of the alias.
        collection: The collection that the job has made.
        job_id: Id of the job.
        job_created_at: When the job was created, RFC 3339.
        now: Current time, RFC 3339.
        check: Called between reading and writing; raises when the attempt of the job may not write any more. An attempt
            that was suspended in the meantime fails here, or by the conditional write.

    Raises:
        FatalError: "alias_superseded": a later job has moved the alias; "collection_dropped": the collection is being
            dropped.
    """

    def move(alias: Alias | None) -> Alias:
        if alias is not None and not alias.removed:
            if alias.job_id == job_id:
                return alias
            if (alias.job_created_at, alias.job_id) > (job_created_at, job_id):
                raise FatalError(
                    "alias_superseded",
                    f"Alias {name!r} was moved to {alias.collection!r} by the later job {alias.job_id!r}.",
                    hint=f"Submit a job with this alias and collection {collection!r} to move the alias to it.",
                    alias=name,
                    collection=alias.collection,
                )
        if alias is not None and collection in alias.dropping:
            message = f"Collection {collection!r} is being dropped as a former version of alias {name!r}."
            raise FatalError("collection_dropped", message, alias=name, collection=collection)
        check()
        return Alias(
            name=name,
            collection=collection,
            previous=() if alias is None or alias.removed else put_first(alias, collection),
            settled=False,
            job_id=job_id,
            job_created_at=job_created_at,
            moved_at=now,
            dropping=() if alias is None else alias.dropping,
            rollbacks=() if alias is None or alias.removed else alias.rollbacks,
        )

    moved = update_alias(store, name, move)
    assert moved is not None
    return moved


def put_first(alias: Alias, collection: str) -> tuple[str, ...]:
    """Return the former versions of an alias after a move to a collection. Pure."""
    if collection == alias.collection:
        return alias.previous
    return (alias.collection, *(name for name in alias.previous if name != collection))


async def settle_alias(store: StateStore, stores: Mapping[StoreName, VectorStore], name: str) -> Alias | None:
    """Move the alias in all vector stores, then mark it as settled; return it, or None when it does not exist any more.

    Stores without the collection do not have the alias afterwards. A call that is overtaken by another move starts
    again with that move, so that the last call leaves the newest one: whoever has changed a store reads the file again
    afterwards. Idempotent.

    Not ``update_value``: the stores are changed between reading and writing.

    Args:
        store: The state store.
        stores: The configured vector stores.
        name: Name of the alias.

    Raises:
        CollectionMissing: the collection, or a store's part of it, does not exist.
        FatalError: "alias_name_taken".
        TransientError: a store is unavailable; the others may have followed.

    Cost: three or four requests to the state store, one to each vector store.
    """
    while True:
        alias = await asyncio.to_thread(read_alias, store, name)
        if alias is None:
            return None
        try:
            if alias.removed:
                for vector_store in stores.values():
                    await vector_store.drop_alias(name)
            else:
                await _point_stores(stores, alias, await asyncio.to_thread(read_contract, store, alias.collection))
        except IngestionError:
            if await _is_newest(store, alias):
                raise
            continue
        if alias.settled or alias.removed:
            if not await _is_newest(store, alias):
                continue
            if not alias.removed:
                return alias
            await asyncio.to_thread(store.delete, alias_path(name))
            return None
        try:
            return await asyncio.to_thread(write_alias, store, replace(alias, settled=True))
        except StateConflict:
            continue


async def _is_newest(store: StateStore, alias: Alias) -> bool:
    """Return whether nobody has written an alias since it was read. One request."""
    stored = await asyncio.to_thread(store.get, alias_path(alias.name))
    return stored is not None and stored.version == alias.version


async def _point_stores(
    stores: Mapping[StoreName, VectorStore], alias: Alias, contract: CollectionContract | None
) -> None:
    if contract is None:
        message = f"Alias {alias.name!r} stands for collection {alias.collection!r}, which does not exist."
        raise CollectionMissing("collection_missing", message, alias=alias.name, collection=alias.collection)
    for name, store in stores.items():
        if name in contract.stores:
            await store.set_alias(alias.name, alias.collection)
        else:
            await store.drop_alias(alias.name)
