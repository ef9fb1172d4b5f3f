"""Failed objects of one job: JSON-lines segments, read page by page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ingestion_engine.domain.errors import StateMissing
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.state.cursors import bad_cursor, decode_cursor, encode_cursor
from ingestion_engine.state.json_files import dump_lines, iter_lines, list_segments, parse_json

SCANNED: Final = 20_000
"""Failures read at once for those of some codes: about 5 MB of the state store, and 50 ms of a processor."""

_POSITION = re.compile(r"(?P<segment>[A-Za-z0-9-]{1,64})\.(?P<offset>[0-9]{1,15})")


class FailureList:
    """Segments of failed objects under one folder.

    Args:
        store: The state store.
        folder: Path that ends with a slash.
    """

    def __init__(self, store: StateStore, folder: str) -> None:
        self._store = store
        self._folder = folder

    def write(self, segment: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Write a segment, replacing an existing one; nothing when there are no items. One request."""
        if items:
            self._store.put(self._path(segment), dump_lines(items))

    def delete(self, segment_prefix: str) -> None:
        """Delete all segments with a name that starts with a prefix. One listing, one request each."""
        for segment in list_segments(self._store, self._folder):
            if segment.startswith(segment_prefix):
                self._store.delete(self._path(segment))

    def read(
        self, cursor: str | None, limit: int, codes: frozenset[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return one page, in the order of segments and lines, and the cursor of the next one.

        See ``Ledger.read_failures``.
        """
        if limit < 1:
            raise ValueError("The limit must be at least 1.")
        items: list[dict[str, Any]] = []
        first_segment, first_offset = ("", 0) if cursor is None else _parse_position(cursor)
        try:
            for number, (segment, offset, line) in enumerate(self._iter(first_segment, first_offset)):
                if len(items) == limit or (codes is not None and number == SCANNED):
                    return items, encode_cursor(f"{segment}.{offset}")
                item = parse_json(self._path(segment), line)
                if codes is None or item.get("code") in codes:
                    items.append(item)
        except ValueError as error:  # no line starts at the position of the cursor
            raise bad_cursor(cursor) from error
        return items, None

    def _iter(self, first_segment: str, first_offset: int) -> Iterator[tuple[str, int, bytes]]:
        for segment in list_segments(self._store, self._folder):
            if segment < first_segment:
                continue
            start = first_offset if segment == first_segment else 0
            try:
                for offset, line in iter_lines(self._store, self._path(segment), start):
                    yield segment, offset, line
            except StateMissing:  # removed since it was listed: its items are no failures any more
                continue

    def _path(self, segment: str) -> str:
        return f"{self._folder}{segment}.jsonl"


def _parse_position(cursor: str) -> tuple[str, int]:
    match = _POSITION.fullmatch(decode_cursor(cursor))
    if match is None:
        raise bad_cursor(cursor)
    return match["segment"], int(match["offset"])
