"""The manifest of an object table: which runs it consists of, replaced as a whole by conditional writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ingestion_engine.domain.errors import FatalError, StateConflict, TransientError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.state.json_files import parse_json

_FORMAT = 1
_MAX_CONFLICTS = 100
"""Each means that somebody else's write went through; so many in a row means that the store's conditions are broken."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run in the state store.

    ``path`` starts at the collection's folder; ``epoch`` is the newest of its rows; ``bytes`` its size.
    """

    path: str
    rows: int
    min_key: str
    max_key: str
    epoch: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Retired:
    """A file that no longer belongs, or never belonged, to the table; kept for a while for those who are reading it."""

    path: str
    since: str
    """RFC 3339 in UTC."""
    merged: bool
    """True when its rows live on in another run.

    False when no manifest ever named it (its writer died, or is at work).
    """


@dataclass(frozen=True, slots=True)
class Manifest:
    """Runs from oldest to newest: of two rows with equal keys the one in the later run is true."""

    epoch: int = 0
    """The highest that wrote or fenced the table; a lower one may not append."""
    runs: tuple[Run, ...] = ()
    retired: tuple[Retired, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON types."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, path: str, data: dict[str, Any]) -> Manifest:
        """The inverse of ``to_json``. Raises FatalError ("state_corrupt") for another format."""
        if data.get("format") != _FORMAT:
            raise FatalError(
                "state_corrupt",
                f"{path} has format {data.get('format')!r}, this version reads {_FORMAT}",
                hint="Use the version of the package that wrote it, or a newer one.",
                path=path,
            )
        return cls(
            epoch=data["epoch"],
            runs=tuple(Run(**run) for run in data["runs"]),
            retired=tuple(Retired(**retired) for retired in data["retired"]),
        )


def read_manifest(store: StateStore, path: str) -> Manifest:
    """Return the manifest, an empty one when there is none. One request."""
    stored = store.get(path)
    return Manifest() if stored is None else Manifest.from_json(path, parse_json(path, stored.data))


def update_manifest(store: StateStore, path: str, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace the manifest by what ``change`` makes of it, and return the new one; atomic against other writers.

    ``change`` is called again after every conflict, so it must be pure, and return its argument when its effect is
    there already.

    Raises:
        TransientError: "manifest_contended"; also when the answer to the write was lost: calling again is safe.

    Cost: two requests per try; one when nothing changes.
    """
    for _ in range(_MAX_CONFLICTS):
        stored = store.get(path)
        before = Manifest() if stored is None else Manifest.from_json(path, parse_json(path, stored.data))
        after = change(before)
        if after == before:
            return before
        data = orjson.dumps(after.to_json())
        try:
            if stored is None:
                store.create(path, data)
            else:
                store.replace(path, data, stored.version)
            return after
        except StateConflict:
            continue
    raise TransientError("manifest_contended", f"{path} changed {_MAX_CONFLICTS} times while it was updated", path=path)
