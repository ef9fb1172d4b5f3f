"""Watches: the stream of changes of one resource, one JSON event per line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ingestion_devstack.kubernetes.errors import ApiError, Resource, expired
from ingestion_devstack.kubernetes.http import is_true, read_number
from ingestion_devstack.kubernetes.selectors import Match
from ingestion_devstack.kubernetes.store import Change, Object, ObjectStore, VersionExpiredError
from ingestion_devstack.kubernetes.tables import make_table

_DEFAULT_TIMEOUT_S: Final = 1800
"""A real server ends a watch after 30 to 60 minutes."""
_BOOKMARK_S: Final = 60.0
"""How often a watch that allows it is told the current version."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a list or watch is about."""

    resource: Resource
    namespace: str | None
    """None: all."""
    matches: Match
    as_table: bool

    def holds(self, value: Object | None) -> bool:
        """Whether an object belongs to it; None does not."""
        return (
            value is not None and self.namespace in (None, value["metadata"].get("namespace")) and self.matches(value)
        )


def open_watch(store: ObjectStore, selection: Selection, query: Mapping[str, str]) -> AsyncIterator[bytes]:
    """The events after the version that the request names; without one, what is there now comes first.

    Raises:
        ApiError: 400 for parameters that make no sense.
    """
    if is_true(query, "sendInitialEvents") or "sendInitialEvents" in query:
        message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList "
        raise ApiError(422, "Invalid", f"{message}feature gate is enabled", details={})
    timeout = read_number(query, "timeoutSeconds")
    version = read_number(query, "resourceVersion")
    bookmarks = is_true(query, "allowWatchBookmarks")
    return _stream(store, selection, version, float(timeout or _DEFAULT_TIMEOUT_S), bookmarks)


async def _stream(
    store: ObjectStore, selection: Selection, version: int | None, timeout_s: float, bookmarks: bool
) -> AsyncIterator[bytes]:
    encode, deadline = _make_encoder(selection), time.monotonic() + timeout_s
    if not version:  # absent or 0: start with what is there
        version = store.version
        for value in store.select(selection.resource.plural, selection.namespace):
            if selection.holds(value):
                yield encode("ADDED", value)
    next_bookmark = time.monotonic() + _BOOKMARK_S
    while True:
        try:
            changes = store.changes_since(version)
        except VersionExpiredError as error:
            yield orjson.dumps({"type": "ERROR", "object": expired(str(error)).status()}) + b"\n"
            return
        for change in changes:
            version = change.version
            event = _as_event(change, selection)
            if event is not None:
                yield encode(*event)
        left = deadline - time.monotonic()
        if left <= 0 or store.ending:
            return
        if bookmarks and time.monotonic() >= next_bookmark:
            next_bookmark = time.monotonic() + _BOOKMARK_S
            yield encode("BOOKMARK", _bookmark(selection.resource, version))
        if not changes:
            await _wait(store, min(left, _BOOKMARK_S))


async def _wait(store: ObjectStore, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(store.wait_for_change(), timeout_s)
    except TimeoutError:
        return


def _as_event(change: Change, selection: Selection) -> tuple[str, Object] | None:
    """How one change looks to those who watch a selection; None when it does not concern them."""
    if change.key[0] != selection.resource.plural:
        return None
    before, after = selection.holds(change.before), selection.holds(change.after)
    if after:
        assert change.after is not None
        return ("MODIFIED" if before else "ADDED"), change.after
    if before:
        assert change.before is not None
        last = change.after or change.before
        metadata = {**last["metadata"], "resourceVersion": str(change.version)}
        return "DELETED", {**last, "metadata": metadata}
    return None


def _bookmark(resource: Resource, version: int) -> Object:
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}


def _make_encoder(selection: Selection) -> Callable[[str, Object], bytes]:
    first = True

    def encode(kind: str, value: Object) -> bytes:
        nonlocal first
        if selection.as_table and kind != "BOOKMARK":
            version = value["metadata"]["resourceVersion"]
            value = make_table(selection.resource, [value], {"resourceVersion": version}, head=first)
            first = False
        return orjson.dumps({"type": kind, "object": value}) + b"\n"

    return encode
