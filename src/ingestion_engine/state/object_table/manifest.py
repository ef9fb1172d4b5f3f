"""The manifest of an object table: the list of its runs, replaced as a whole by conditional writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.state.json_files import parse_json
from ingestion_engine.state.update import update_value

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run in the state store."""

    path: str
    """Relative to the folder of the collection."""
    rows: int
    min_key: str
    max_key: str
    epoch: int
    """Highest epoch of its rows."""
    bytes: int
    """Size in bytes."""


@dataclass(frozen=True, slots=True)
class Retired:
    """A file that no longer belongs, or never belonged, to the table; kept for a while for its readers."""

    path: str
    since: str
    """RFC 3339 in UTC."""
    merged: bool
    """True when its rows are in another run; False when no manifest ever named it (its writer died or is not done)."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Runs from oldest to newest: of rows with equal keys the one in the latest run is valid."""

    epoch: int = 0
    """Highest epoch that wrote or fenced the table; a lower one may not append."""
    runs: tuple[Run, ...] = ()
    retired: tuple[Retired, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON types."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, path: str, data: dict[str, Any]) -> Manifest:
        """Return the manifest of JSON types; the inverse of ``to_json``. Raises FatalError ("state_corrupt")."""
        if data.get("format") != _FORMAT:
            raise FatalError(
                "state_corrupt",
                f"{path!r} has format {data.get('format')!r}; this version reads format {_FORMAT}.",
                hint="Use the version of the package that wrote it, or a newer one.",
                path=path,
            )
        return cls(
            epoch=data["epoch"],
            runs=tuple(Run(**run) for run in data["runs"]),
            retired=tuple(Retired(**retired) for retired in data["retired"]),
        )


def read_manifest(store: StateStore, path: str) -> Manifest:
    """Return the manifest; an empty one when there is none. One request."""
    stored = store.get(path)
    return _parse(path, None if stored is None else stored.data)


def update_manifest(store: StateStore, path: str, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace the manifest by the result of ``change``, atomically against other writers; return the new one.

    ``change`` is called again after every conflict, so it must be pure, and must return its argument when its effect is
    stored already. See ``update_value`` for a lost answer.

    Raises:
        TransientError: "manifest_contended".

    Cost: two requests per try; one when nothing changes.
    """
    after = Manifest()

    def apply(data: bytes | None) -> bytes | None:
        nonlocal after
        before = _parse(path, data)
        after = change(before)
        return None if after == before else orjson.dumps(after.to_json())

    update_value(store, path, apply, contended="manifest_contended")
    return after


def _parse(path: str, data: bytes | None) -> Manifest:
    return Manifest() if data is None else Manifest.from_json(path, parse_json(path, data))
