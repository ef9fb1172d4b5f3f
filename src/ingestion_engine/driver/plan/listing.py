"""Listing: objects in the byte order of their UTF-8 keys, for any order of the server, in bounded memory."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from ingestion_engine.domain.records import ObjectRef

SORT_RUN_OBJECTS = 100_000
"""Objects sorted in memory at a time when the server lists in another order: about 50 MB."""


class ListingOutOfOrderError(Exception):
    """The server does not list in byte order: what was yielded so far is right, the rest must be sorted first."""


def check_order(listing: Iterable[ObjectRef]) -> Iterator[ObjectRef]:
    """Yield the listing while it is strictly increasing by the UTF-8 bytes of the key. Streams.

    Raises:
        ListingOutOfOrderError: at the first object out of order; everything yielded before is right.
    """
    last: bytes | None = None
    for ref in listing:
        key = ref.key.encode("utf-8")
        if last is not None and key <= last:
            raise ListingOutOfOrderError
        last = key
        yield ref


def sort_listing(listing: Iterable[ObjectRef], *, run_objects: int = SORT_RUN_OBJECTS) -> Iterator[ObjectRef]:
    """Yield the listing sorted by the UTF-8 bytes of the key, each key once (the last one listed wins).

    Cost: the whole listing is read before the first object is yielded; memory for one run, temporary files for the
    others (about 150 bytes per object).
    """
    with tempfile.TemporaryDirectory(prefix="ingest-listing-") as folder:
        runs: list[Path] = []
        run: list[tuple[bytes, int, ObjectRef]] = []
        for position, ref in enumerate(listing):
            run.append((ref.key.encode("utf-8"), position, ref))
            if len(run) >= run_objects:
                runs.append(_write_run(Path(folder) / f"{len(runs)}.jsonl", run))
                run = []
        run.sort(key=lambda item: item[:2])
        streams: list[Iterator[tuple[bytes, int, ObjectRef]]] = [_read_run(path) for path in runs]
        held: tuple[bytes, int, ObjectRef] | None = None
        for item in heapq.merge(*streams, iter(run), key=lambda item: item[:2]):
            if held is not None and held[0] != item[0]:
                yield held[2]
            held = item
        if held is not None:
            yield held[2]


def _write_run(path: Path, run: list[tuple[bytes, int, ObjectRef]]) -> Path:
    run.sort(key=lambda item: item[:2])
    with path.open("wb") as file:
        for _, position, ref in run:
            row = [position, ref.bucket, ref.key, ref.etag, ref.size_bytes, ref.last_modified]
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return path


def _read_run(path: Path) -> Iterator[tuple[bytes, int, ObjectRef]]:
    with path.open("rb") as file:
        for line in file:
            position, *fields = orjson.loads(line)
            ref = ObjectRef(*fields)
            yield ref.key.encode("utf-8"), position, ref
