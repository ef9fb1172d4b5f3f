"""Collections in the state store: contracts, names, and open plans.

::

    collections/{c}/collection.json     the contract; written once for the life of the collection
    collections/{c}/open/{job_id}.json  an open plan: its outcome is not yet in the object table
    collections/{c}/verified.json       when it was last verified, and the result
    alias/{name}.json                   another name for a collection (``state.aliases``)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from ingestion_engine.domain.errors import FatalError, LeaseLost
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.spec import CollectionContract
from ingestion_engine.runtime.validation import describe_faults
from ingestion_engine.state.json_files import parse_json, read_json, write_json
from ingestion_engine.state.update import update_value

_ROOT = "collections/"
_CONTRACT = "/collection.json"
_ALIASES = "alias/"
_JSON = ".json"

_DERIVED_FROM = {"embedding_id": ("model_digest", "dimension", "options", "prefix")}
"""A field that follows from other fields is not reported when one of those differs."""
_NOT_COMPARED = frozenset({"format", "created_at", "created_by"})


def _contract_path(collection: str) -> str:
    return f"{_ROOT}{collection}{_CONTRACT}"


def read_contract(store: StateStore, collection: str) -> CollectionContract | None:
    """Return a collection's contract, or None when there is no such collection. One request.

    Raises:
        FatalError: "state_corrupt": this version of the package cannot read it.
    """
    path = _contract_path(collection)
    stored = store.get(path)
    return None if stored is None else _parse_contract(path, stored.data)


def _parse_contract(path: str, data: bytes) -> CollectionContract:
    try:
        return CollectionContract.model_validate(parse_json(path, data))
    except ValidationError as error:
        faults = describe_faults(error)
        raise FatalError(
            "state_corrupt", f"{path!r} in the state store cannot be read: {faults}.", path=path
        ) from error


def create_contract(store: StateStore, contract: CollectionContract) -> CollectionContract:
    """Write a contract unless the collection has one, and return the stored one; the caller compares them.

    Idempotent. Cost: one request; two when there is a contract already.
    """
    path = _contract_path(contract.collection)
    data = orjson.dumps(contract.model_dump(mode="json"))
    stored = update_value(store, path, lambda there: data if there is None else None, seen=None)
    assert stored is not None
    return contract if stored.data == data else _parse_contract(path, stored.data)


def compare_contract(existing: CollectionContract, wanted: CollectionContract) -> None:
    """Return when a job with the ``wanted`` contract may write to a collection with the ``existing`` one. Pure.

    Creator, creation time and the order of stores are not compared.

    Raises:
        FatalError: "contract_mismatch", naming each differing field with both values;
            ``context["differences"]`` is ``{field: {"existing": ..., "wanted": ...}}``.
    """
    left, right = _flatten(existing), _flatten(wanted)
    if existing.bucket is None:
        left["bucket"] = right["bucket"]
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    names = [name for name in names if not set(_DERIVED_FROM.get(name, ())) & {n.split(".")[0] for n in names}]
    if not names:
        return
    differences = {name: {"existing": left.get(name), "wanted": right.get(name)} for name in names}
    listed = "; ".join(f"{name} is {left.get(name)!r}, the job has {right.get(name)!r}" for name in names)
    raise FatalError(
        "contract_mismatch",
        f"Collection {existing.collection!r} has another contract: {listed}.",
        hint="Use the values of the collection, or submit with `alias` to make a new collection behind the alias.",
        collection=existing.collection,
        differences=differences,
    )


def _flatten(contract: CollectionContract) -> dict[str, Any]:
    data = contract.model_dump(mode="json", exclude=set(_NOT_COMPARED))
    data["stores"] = sorted(data["stores"])
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{part}": inner for part, inner in value.items()})
        else:
            flat[name] = value
    return flat


def list_contracts(store: StateStore) -> list[str]:
    """Return the names of all collections, sorted. Cost: one listing of everything under ``collections/``."""
    return sorted(_iter_contracts(store))


def _iter_contracts(store: StateStore) -> Iterator[str]:
    for path in store.list(_ROOT):
        name = path.removeprefix(_ROOT).removesuffix(_CONTRACT)
        if path == _contract_path(name) and "/" not in name:
            yield name


def iter_aliases(store: StateStore) -> Iterator[str]:
    """Yield the names of all aliases, in no particular order. One listing."""
    for path in store.list(_ALIASES):
        name = path.removeprefix(_ALIASES).removesuffix(_JSON)
        if path == alias_path(name) and "/" not in name:
            yield name


def alias_path(name: str) -> str:
    """Return the path of an alias in the state store. Pure."""
    return f"{_ALIASES}{name}{_JSON}"


def list_names(store: StateStore) -> frozenset[str]:
    """Return the names of all collections and aliases. Cost: two listings, one of everything under ``collections/``."""
    return frozenset([*_iter_contracts(store), *iter_aliases(store)])


def find_collision(names: Collection[str], name: str) -> str | None:
    """Return one of ``names`` that differs from ``name`` in case only, or None. Pure.

    Weaviate ignores case in the names of classes. An equal name is not a collision.
    """
    folded = name.casefold()
    return min((other for other in names if other != name and other.casefold() == folded), default=None)


def find_name_collision(store: StateStore, name: str) -> str | None:
    """Return a collection or alias with a name that differs in case only, or None. Cost: as ``list_names``."""
    return find_collision(list_names(store), name)


def find_alias_collision(store: StateStore, alias: str) -> str | None:
    """Return the collection or alias that collides with a new alias, or None.

    A collection collides by an equal name; collections and aliases collide by a name that differs in case only.

    Cost: one request and two listings.
    """
    return alias if read_contract(store, alias) is not None else find_name_collision(store, alias)


def delete_collection_state(store: StateStore, collection: str) -> None:
    """Delete everything in the state store about a collection: the contract first, the lease last. Idempotent.

    Only for a collection that no job writes to and no alias stands for. Cost: one listing, one request per value.
    """
    lease = f"{_ROOT}{collection}/lease.json"
    store.delete(_contract_path(collection))
    for path in [path for path in store.list(f"{_ROOT}{collection}/") if path != lease]:
        store.delete(path)
    store.delete(lease)


def write_verified(store: StateStore, collection: str, job_id: str, at: str, differences: int) -> None:
    """Record when the whole collection was last verified, and the number of differences. One request."""
    data = {"format": 1, "job_id": job_id, "at": at, "differences": differences}
    write_json(store, f"{_ROOT}{collection}/verified.json", data)


def read_verified(store: StateStore, collection: str) -> dict[str, Any] | None:
    """Return the last record of ``write_verified``, or None. One request."""
    return read_json(store, f"{_ROOT}{collection}/verified.json")


def _open_path(collection: str, job_id: str) -> str:
    return f"{_ROOT}{collection}/open/{job_id}{_JSON}"


def open_plan(store: StateStore, collection: str, job_id: str, attempt: int, data: Mapping[str, Any]) -> None:
    """Record that a job may write what its plan names. Idempotent; one request.

    Args:
        store: The state store.
        collection: The collection that the job writes to.
        job_id: Id of the job.
        attempt: Newest attempt of the job; the plan segments of all its attempts belong to the open plan.
        data: JSON values that ``list_open_plans`` returns.

    Raises:
        LeaseLost: a later attempt of the job has opened its plan.
    """
    path = _open_path(collection, job_id)
    record = orjson.dumps({**data, "format": 1, "job_id": job_id, "attempt": attempt})

    def replace_earlier(stored: bytes | None) -> bytes | None:
        if stored == record:
            return None
        if stored is not None and (later := parse_json(path, stored)["attempt"]) > attempt:
            raise LeaseLost(
                "lease_lost",
                f"Attempt {later} of job {job_id!r} writes to collection {collection!r} now.",
                collection=collection,
                epoch=data.get("epoch"),
            )
        return record

    update_value(store, path, replace_earlier, seen=None)


def list_open_plans(store: StateStore, collection: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (job id, data with ``attempt``) of all open plans, oldest epoch first. One listing, one request each."""
    prefix = f"{_ROOT}{collection}/open/"
    found = []
    for path in store.list(prefix):
        data = read_json(store, path)
        if data is not None:
            found.append((path.removeprefix(prefix).removesuffix(_JSON), data))
    return sorted(found, key=lambda entry: (entry[1].get("epoch") or 0, entry[0]))


def has_open_plan(store: StateStore, collection: str, job_id: str) -> bool:
    """Return whether the outcome of a job is not in the object table yet. One request."""
    return store.get(_open_path(collection, job_id)) is not None


def iter_open_jobs(store: StateStore) -> Iterator[str]:
    """Yield the jobs of all open plans. Cost: one listing of everything under ``collections/``."""
    for path in store.list(_ROOT):
        collection, _, name = path.removeprefix(_ROOT).partition("/open/")
        if "/" not in name and path == _open_path(collection, job_id := name.removesuffix(_JSON)):
            yield job_id


def close_plan(store: StateStore, collection: str, job_id: str, attempt: int | None = None) -> None:
    """Record that the outcome of a plan is in the object table. Idempotent. One request; two with ``attempt``.

    Args:
        store: The state store.
        collection: The collection that the job wrote to.
        job_id: Id of the job.
        attempt: Keep the record if it is of another attempt; None means any attempt.
    """
    path = _open_path(collection, job_id)
    if attempt is not None:
        data = read_json(store, path)
        if data is None or data["attempt"] != attempt:
            return
    store.delete(path)
