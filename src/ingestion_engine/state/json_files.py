"""JSON values and JSON-lines files in the state store, read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from ingestion_engine.domain.errors import FatalError, StateConflict
from ingestion_engine.domain.ports import StateStore

_FIRST_BLOCK_BYTES = 64 * 1024
"""First ranged read of a JSON-lines file: one page of failures fits. Later reads grow fourfold up to the maximum."""
_LARGEST_BLOCK_BYTES = 1024 * 1024
"""Large enough that the latency of a request is small compared with its transfer (a guess)."""


def parse_json(path: str, data: bytes) -> dict[str, Any]:
    """Return the JSON object stored in a value of the state store. Pure.

    Raises:
        FatalError: "state_corrupt", naming the path.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FatalError("state_corrupt", f"{path!r} in the state store is not JSON: {error}.", path=path) from error
    if not isinstance(value, dict):
        raise FatalError("state_corrupt", f"{path!r} in the state store is not a JSON object.", path=path)
    return value


def read_json(store: StateStore, path: str) -> dict[str, Any] | None:
    """Return the JSON object at a path, or None when absent. One request. Raises FatalError ("state_corrupt")."""
    stored = store.get(path)
    return None if stored is None else parse_json(path, stored.data)


def write_json(store: StateStore, path: str, value: Any) -> None:
    """Write a JSON value, replacing an existing one. One request."""
    store.put(path, orjson.dumps(value))


def create_once(store: StateStore, path: str, data: bytes) -> None:
    """Write a value that must not exist yet, unless it holds exactly these bytes already. Idempotent.

    Raises:
        StateConflict: the path holds other bytes, which stay.

    Cost: one request; two when the value exists already.
    """
    try:
        store.create(path, data)
    except StateConflict:
        # The answer to an earlier write of this process may have been lost, so equal bytes are a success.
        stored = store.get(path)
        if stored is None or stored.data != data:
            raise


def dump_lines(values: Sequence[Any]) -> bytes:
    """Return values or dataclasses as JSON lines, each terminated by a line feed. Pure."""
    return b"".join(orjson.dumps(value) + b"\n" for value in values)


def iter_lines(store: StateStore, path: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in bytes, line without its line feed) from the line that starts at ``start`` on; lazy.

    The file must not be empty. Memory: one block and one line. Cost: one ranged read per block of up to 1 MiB.

    Raises:
        ValueError: no line starts at ``start``.
        StateMissing: the file does not exist.
    """
    position = line_start = start
    pending = b""
    block = _FIRST_BLOCK_BYTES
    while True:
        # The byte before the block is read too: it proves that a line starts here, and no read ever starts at the end
        # of the file, which S3 answers with an error (416).
        overlap = 1 if position else 0
        data = store.get_range(path, position - overlap, block + overlap)
        if overlap and position == start and data[:1] != b"\n":
            raise ValueError(f"No line of {path!r} starts at byte {start}.")
        position += len(data) - overlap
        *lines, pending = (pending + data[overlap:]).split(b"\n")
        for line in lines:
            yield line_start, line
            line_start += len(line) + 1
        if len(data) < block + overlap:
            return
        block = min(block * 4, _LARGEST_BLOCK_BYTES)


def list_segments(store: StateStore, folder: str) -> list[str]:
    """Return the names of all ``{folder}{name}.jsonl``, sorted. Memory: all names."""
    suffix = ".jsonl"
    names = (path.removeprefix(folder) for path in store.list(folder))
    return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix) and "/" not in name)
