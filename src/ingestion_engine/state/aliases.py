"""Aliases: a name that stands for a collection, and moves to a newer version of it when that one is whole.

``alias/{name}.json`` is the truth; what the stores know under the name follows it, in this order::

    truth, not settled ─► every store ─► truth, settled

A crash between two of them is rolled forward, by the job's next attempt or by the service, whoever comes first: all
steps are idempotent, and the truth changes by conditional writes only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ingestion_engine.domain.errors import CollectionMissing, FatalError, StateConflict
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


@dataclass(frozen=True, slots=True)
class Alias:
    """What a name stands for."""

    name: str
    collection: str
    previous: tuple[str, ...]
    """What it stood for before, newest first; each once, never the current one."""
    settled: bool
    """True when every store of the collection is known to have followed."""
    job_id: str
    """The job that moved it last; a rollback leaves it."""
    job_created_at: str
    """When that job was created, RFC 3339; a job of earlier creation does not move the alias any more."""
    moved_at: str
    dropping: tuple[str, ...] = ()
    """Former versions on their way out: nothing may come back to them."""
    removed: bool = False
    """True while the alias itself is on its way out: it stands for nothing any more."""
    version: str = ""
    """The state store's, for the next conditional write; "" before the first."""


def read_alias(store: StateStore, name: str) -> Alias | None:
    """Return what is written of an alias, also of one on its way out; None when there is none. One request.

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
    except (KeyError, TypeError) as error:
        raise FatalError("state_corrupt", f"{path} in the state store is not whole: {error}", path=path) from error
    return Alias(**values, version=stored.version)


def find_alias(store: StateStore, name: str) -> Alias | None:
    """Return an alias that stands for a collection now, or None. One request."""
    alias = read_alias(store, name)
    return None if alias is None or alias.removed else alias


def write_alias(store: StateStore, alias: Alias) -> Alias:
    """Write an alias over exactly the version it was read as. One request. Raises StateConflict."""
    path, body = alias_path(alias.name), _dump_alias(alias)
    if alias.version:
        return replace(alias, version=store.replace(path, body, alias.version))
    return replace(alias, version=store.create(path, body))


def _dump_alias(alias: Alias) -> bytes:
    return orjson.dumps({"format": 1, **{field: getattr(alias, field) for field in _FIELDS}})


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
    """Have an alias stand for what a job has made, not settled yet; return what it stands for now. Once per job.

    What a job has moved once it does not move again: somebody may have rolled it back since.

    Args:
        store: The state store.
        name: The alias.
        collection: What the job has made.
        job_id: The job.
        job_created_at: When it was created.
        now: RFC 3339.
        check: Called between reading and writing; raises when the job's attempt may not write any more. So an attempt
            that slept meanwhile is turned away here, or by the version.

    Raises:
        FatalError: "alias_superseded" when a later job has moved it; "collection_dropped" when the collection is on
            its way out.
    """

    def move(alias: Alias | None) -> Alias:
        if alias is not None and not alias.removed:
            if alias.job_id == job_id:
                return alias
            if (alias.job_created_at, alias.job_id) > (job_created_at, job_id):
                raise FatalError(
                    "alias_superseded",
                    f"alias {name} was moved to {alias.collection} by the later job {alias.job_id}",
                    hint=f"{collection} is complete; submit a job with this alias and collection to move to it.",
                    alias=name,
                    collection=alias.collection,
                )
        if alias is not None and collection in alias.dropping:
            said = f"collection {collection} is being dropped as a former version of alias {name}"
            raise FatalError("collection_dropped", said, alias=name, collection=collection)
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
        )

    moved = update_alias(store, name, move)
    assert moved is not None
    return moved


def put_first(alias: Alias, collection: str) -> tuple[str, ...]:
    """Return the former versions of an alias once it stands for a collection. Pure."""
    if collection == alias.collection:
        return alias.previous
    return (alias.collection, *(name for name in alias.previous if name != collection))


async def settle_alias(store: StateStore, stores: Mapping[StoreName, VectorStore], name: str) -> Alias | None:
    """Bring vector stores to what the truth says, and note it there; return it, or None when the alias is gone.

    A store that the collection is not in does not know the alias afterwards. Whoever is overtaken by another move
    starts over with that one, so the last to act leaves the newest. Idempotent.

    Args:
        store: The state store.
        stores: The vector stores at hand.
        name: The alias.

    Raises:
        CollectionMissing: the collection, or a store's part of it, does not exist.
        FatalError: "alias_name_taken".
        TransientError: a store is away; the others may have followed.

    Cost: two or three requests to the state store, one to each vector store.
    """
    while True:
        alias = await asyncio.to_thread(read_alias, store, name)
        if alias is None:
            return None
        if alias.removed:
            for vector_store in stores.values():
                await vector_store.drop_alias(name)
            await asyncio.to_thread(store.delete, alias_path(name))
            return None
        await _point_stores(stores, alias, await asyncio.to_thread(read_contract, store, alias.collection))
        if alias.settled:
            return alias
        try:
            return await asyncio.to_thread(write_alias, store, replace(alias, settled=True))
        except StateConflict:
            continue


async def _point_stores(
    stores: Mapping[StoreName, VectorStore], alias: Alias, contract: CollectionContract | None
) -> None:
    if contract is None:
        said = f"alias {alias.name} stands for {alias.collection}, and there is no such collection"
        raise CollectionMissing("collection_missing", said, alias=alias.name, collection=alias.collection)
    for name, store in stores.items():
        if name in contract.stores:
            await store.set_alias(alias.name, alias.collection)
        else:
            await store.drop_alias(alias.name)
