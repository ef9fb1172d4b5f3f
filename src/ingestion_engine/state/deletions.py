"""Collections that are being deleted: ``deleting/{c}.json`` in the state store, written first and removed last.

::

    mark ─► lease ─► every store ─► contract, object table, … ─► lease removed ─► mark removed

After a crash between two of these steps, the service or a repeated request does all of them again: all are idempotent.
No job works on a collection that has a mark, and nothing is dropped while a job holds the lease.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.state.json_files import read_json, write_json

_ROOT = "deleting/"
_JSON = ".json"


@dataclass(frozen=True, slots=True)
class Deletion:
    """The order to delete a collection."""

    collection: str
    stores: tuple[StoreName, ...]
    """Stores that hold its points; the contract, which names them too, is removed earlier than the mark."""
    requested_at: str
    """Time of the request, RFC 3339."""
    bucket: str | None = None
    """Bucket of its objects, which decides who may ask how far the deletion is; None when it is not known."""


def _path(collection: str) -> str:
    return f"{_ROOT}{collection}{_JSON}"


def read_deletion(store: StateStore, collection: str) -> Deletion | None:
    """Return the order to delete a collection, or None when there is none. One request.

    Raises:
        FatalError: "state_corrupt".
    """
    data = read_json(store, _path(collection))
    if data is None:
        return None
    try:
        stores = tuple(StoreName(name) for name in data["stores"])
        bucket = data.get("bucket")
        return Deletion(collection, stores, str(data["requested_at"]), bucket=None if bucket is None else str(bucket))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        path = _path(collection)
        raise FatalError("state_corrupt", f"{path!r} in the state store cannot be read: {error}.", path=path) from error


def write_deletion(store: StateStore, deletion: Deletion) -> None:
    """Order the deletion of a collection. Idempotent. One request."""
    stores = [str(name) for name in deletion.stores]
    data = {"format": 1, "stores": stores, "requested_at": deletion.requested_at, "bucket": deletion.bucket}
    write_json(store, _path(deletion.collection), data)


def remove_deletion(store: StateStore, collection: str) -> None:
    """Record that nothing of a collection is left. Idempotent. One request."""
    store.delete(_path(collection))


def iter_deletions(store: StateStore) -> Iterator[str]:
    """Yield the names of all collections that are being deleted. One listing."""
    for path in store.list(_ROOT):
        name = path.removeprefix(_ROOT).removesuffix(_JSON)
        if path == _path(name) and "/" not in name:
            yield name


def refuse_deletion(store: StateStore, collection: str) -> None:
    """Return when a collection is not being deleted. One request. Raises FatalError ("collection_deleting")."""
    if read_deletion(store, collection) is not None:
        raise FatalError(
            "collection_deleting",
            f"Collection {collection!r} is being deleted.",
            hint="Submit the job again when GET /collections does not list the collection any more.",
            collection=collection,
        )
