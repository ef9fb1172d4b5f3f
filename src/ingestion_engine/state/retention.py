"""Removing ledgers of jobs that ended long ago: what still needs one, how old it is, and its removal in steps.

A ledger is needed while an open plan names its job (the next job on the collection merges its reports into the object
table), and while its job is the last that held the collection and has not released it. Nothing else reads the ledger of
a job that has ended: a retry has its own list of keys, the object table and aliases only name jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.runtime.timestamps import Moment, parse_timestamp
from ingestion_engine.state.collections import has_open_plan
from ingestion_engine.state.json_files import read_json
from ingestion_engine.state.lease import read_lease

LEDGERS: Final = "jobs/"
"""Folder of all ledgers in the state store."""

STEP_DELETES: Final = 50
"""Values that are deleted in one step; between two steps the caller may stop."""


def find_need(store: StateStore, collection: str, job_id: str) -> str | None:
    """Return why the ledger of a job that has ended is still needed; None when it is not. Two requests."""
    if has_open_plan(store, collection, job_id):
        return "its outcome is not in the object table yet"
    try:
        lease = read_lease(store, collection)
    except FatalError as error:
        return error.message
    if lease is not None and lease.job_id == job_id and not lease.released:
        return "it has not released its collection"
    return None


def read_collection(store: StateStore, job_id: str) -> str | None:
    """Return the collection that a ledger's spec names; None when there is no spec. One request.

    Raises:
        FatalError: "state_corrupt".
    """
    path = f"{LEDGERS}{job_id}/spec.json"
    spec = read_json(store, path)
    if spec is None:
        return None
    request = spec.get("request")
    collection = request.get("collection") if isinstance(request, dict) else None
    if not isinstance(collection, str):
        raise FatalError("state_corrupt", f"{path!r} in the state store names no collection.", path=path)
    return collection


def find_last_sign(store: StateStore, job_id: str) -> Moment | None:
    """Return the newest moment that summary and progress of a ledger name; None without any. Two requests."""
    names = (("summary.json", "finished_at"), ("progress.json", "updated_at"))
    found = [_read_moment(store, f"{LEDGERS}{job_id}/{file}", field) for file, field in names]
    return max((moment for moment in found if moment is not None), default=None)


def _read_moment(store: StateStore, path: str, field: str) -> Moment | None:
    try:
        value: Any = (read_json(store, path) or {}).get(field)
        return parse_timestamp(value)
    except (FatalError, TypeError, ValueError):
        return None


def delete_ledger(store: StateStore, job_id: str) -> Iterator[int]:
    """Delete everything below ``jobs/{job_id}/``; yield the number of values after each step. Idempotent.

    What tells the age of the ledger is deleted last, so that a removal that a crash has cut short is recognised.

    Cost: one listing, one request per value. Memory: all paths.
    """
    root = f"{LEDGERS}{job_id}/"
    last = (f"{root}progress.json", f"{root}summary.json")
    paths = sorted(store.list(root), key=lambda path: (path in last, path))
    for start in range(0, len(paths), STEP_DELETES):
        step = paths[start : start + STEP_DELETES]
        for path in step:
            store.delete(path)
        yield len(step)
