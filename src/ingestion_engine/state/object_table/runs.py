"""Runs: Parquet files of table rows in strictly increasing key order, and the streaming merge of several of them.

All functions work on whole Arrow tables (a row group, or a part of one), so that the cost per row is far below that of
Python objects. Keys are compared as UTF-8 bytes, which is also how Python compares strings and Arrow sorts them.
pyarrow is imported where it is used, because the service lists jobs without it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ingestion_engine.domain.records import RowState, TableRow

FETCH = Callable[[int, int], bytes]
"""Returns ``length`` bytes from ``start`` of a run: (start, length)."""

ROW_GROUP_ROWS = 16_384
"""Rows in a reader's memory per run: about 1.5 MB as read, 5 MB decoded (benchmarks/reports/object_table.md)."""
BATCH_ROWS = 4_096
"""Rows converted from or to Python objects at a time: about 3 MB."""
_TAIL_BYTES = 256 * 1024
"""First read of a run: its footer, and all of a small run."""

_LEADING = ("key", "state", "chunk_count")
"""Columns written first, side by side, so that statistics read one short range per row group."""
COLUMNS = (*_LEADING, *(f.name for f in dataclasses.fields(TableRow) if f.name not in _LEADING))
_INTEGERS = frozenset({"size_bytes", "chunk_count", "epoch"})
_BOOLEANS = frozenset({"retryable"})
_NULLABLE = frozenset({"error_code", "reason", "warnings"})
_REPETITIVE = ("state", "error_code", "reason", "fingerprint", "epoch", "job_id", "updated_at", "warnings")
"""Dictionary-encoded columns; other strings are nearly all different, so a dictionary is larger than the values."""


def make_schema() -> Any:
    """Return the ``pyarrow.Schema`` of every run."""
    import pyarrow as pa

    def kind(name: str) -> Any:
        return pa.int64() if name in _INTEGERS else pa.bool_() if name in _BOOLEANS else pa.string()

    return pa.schema([pa.field(name, kind(name), nullable=name in _NULLABLE) for name in COLUMNS])


def iter_tables(rows: Iterable[TableRow], batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    """Yield rows as Arrow tables of up to ``batch_rows``, order kept. Raises UnicodeEncodeError for lone surrogates."""
    import pyarrow as pa

    schema = make_schema()
    values_of = attrgetter(*COLUMNS)
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, batch_rows)):
        columns = zip(*map(values_of, batch), strict=True)
        yield pa.table([pa.array(values, f.type) for values, f in zip(columns, schema, strict=True)], schema=schema)


def iter_rows(table: Any) -> Iterator[TableRow]:
    """Yield the rows of an Arrow table; columns that it does not have are empty ("", 0, False, None)."""
    names = set(table.column_names)
    for start in range(0, table.num_rows, BATCH_ROWS):
        part = table.slice(start, BATCH_ROWS)
        values = (
            _read_column(f.name, part[f.name].to_pylist()) if f.name in names else itertools.repeat(_empty(f.name))
            for f in dataclasses.fields(TableRow)
        )
        yield from map(TableRow, *values)


_ROW_STATES = {state.value: state for state in RowState}
"""Looked up once per row, which is cheaper than calling ``RowState``."""


def _read_column(name: str, values: list[Any]) -> Iterable[Any]:
    return map(_ROW_STATES.__getitem__, values) if name == "state" else values


def _empty(name: str) -> Any:
    return 0 if name in _INTEGERS else False if name in _BOOLEANS else None if name in _NULLABLE else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A run written to a local file."""

    path: Path
    rows: int
    min_key: str | None
    """None when it has no rows."""
    max_key: str | None
    """None when it has no rows."""
    size_bytes: int
    content_hash: str
    """First 16 hex digits of the SHA-256 of its bytes."""


def write_run(path: Path, tables: Iterable[Any], row_group_rows: int = ROW_GROUP_ROWS) -> RunFile:
    """Write Arrow tables as one run. Equal rows give equal bytes under one version of pyarrow.

    Memory: one row group. Keys must be strictly increasing over all tables.

    Raises:
        ValueError: the keys are not strictly increasing; the file is incomplete.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, min_key, max_key = 0, None, None
    pending: list[Any] = []
    pending_rows = 0
    with pq.ParquetWriter(
        path, make_schema(), compression="zstd", use_dictionary=list(_REPETITIVE), write_statistics=["key"]
    ) as writer:
        for table in tables:
            if table.num_rows == 0:
                continue
            _check_order(max_key, table)
            min_key = _key(table, 0) if min_key is None else min_key
            max_key = _key(table, table.num_rows - 1)
            rows += table.num_rows
            pending.append(table)
            pending_rows += table.num_rows
            if pending_rows >= row_group_rows:
                whole = pending_rows - pending_rows % row_group_rows
                joined = pa.concat_tables(pending)
                # The file must not depend on batches: equal rows make equal bytes.
                writer.write_table(joined.slice(0, whole).combine_chunks(), row_group_size=row_group_rows)
                pending, pending_rows = [joined.slice(whole)], pending_rows - whole
        if pending_rows:
            writer.write_table(pa.concat_tables(pending).combine_chunks(), row_group_size=row_group_rows)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return RunFile(
        path=path,
        rows=rows,
        min_key=min_key,
        max_key=max_key,
        size_bytes=path.stat().st_size,
        content_hash=digest[:16],
    )


def _check_order(last_key: str | None, table: Any) -> None:
    import pyarrow.compute as pc

    keys = table["key"].combine_chunks()
    rising = pc.all(pc.less(keys.slice(0, len(keys) - 1), keys.slice(1))).as_py() is not False
    if not rising or (last_key is not None and keys[0].as_py() <= last_key):
        raise ValueError("The rows of a run must have strictly increasing keys.")


def _key(table: Any, index: int) -> str:
    key: str = table["key"][index].as_py()
    return key


@dataclass(slots=True)
class KeyRange:
    """The keys that start with ``prefix``, follow ``after`` (None: all of them) and are not before ``start``.

    ``start`` may be raised while runs are read: row groups that end before it are then not read.
    """

    prefix: str = ""
    after: str | None = None
    start: str = ""

    def touches(self, min_key: str, max_key: str) -> bool:
        """Return whether a key in [min_key, max_key] may be in the range. Pure."""
        if max_key < max(self.prefix, self.start) or (self.after is not None and max_key <= self.after):
            return False
        return min_key <= self.prefix or min_key.startswith(self.prefix)

    def cut(self, table: Any) -> Any:
        """Return the part of a sorted table that is in the range, without a copy. Pure."""
        indexes = range(table.num_rows)
        start = bisect_left(indexes, max(self.prefix, self.start), key=lambda i: _key(table, i))
        if self.after is not None:
            start = max(start, bisect_right(indexes, self.after, key=lambda i: _key(table, i)))
        stop = bisect_left(indexes, True, lo=start, key=lambda i: not _key(table, i).startswith(self.prefix))
        return table.slice(start, stop - start)


class _RangedFile(io.RawIOBase):
    """A seekable file over ranged reads, with one buffer that the caller fills in advance."""

    def __init__(self, fetch: FETCH, size_bytes: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size_bytes
        self._position = 0
        self._start = 0
        self._buffer = b""

    def fill(self, start: int, stop: int) -> None:
        """Buffer the bytes [start, stop), by at most one request."""
        if start < self._start or stop > self._start + len(self._buffer):
            self._buffer = b""  # never two buffers in memory
            self._start, self._buffer = start, self._fetch(start, stop - start)

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        self.fill(self._position, stop)
        data = self._buffer[self._position - self._start : stop - self._start]
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def read_run(fetch: FETCH, size_bytes: int, columns: Sequence[str], keys: KeyRange) -> Iterator[Any]:
    """Yield the rows of a run in a range of keys, as one Arrow table per row group in the range; lazy.

    Memory: one row group. Cost: one ranged read for the footer (two when it is over 256 KiB, at 3 million rows) and one
    per row group in the range.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = _RangedFile(fetch, size_bytes)
    file.fill(max(0, size_bytes - _TAIL_BYTES), size_bytes)
    parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False)
    metadata = parquet.metadata
    there = [name for name in columns if parquet.schema_arrow.get_field_index(name) >= 0]
    positions = [parquet.schema_arrow.get_field_index(name) for name in there]
    key_position = parquet.schema_arrow.get_field_index("key")
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        statistics = group.column(key_position).statistics
        if statistics is not None and statistics.has_min_max and not keys.touches(statistics.min, statistics.max):
            continue
        spans = [_span(group.column(position)) for position in positions]
        file.fill(min(start for start, _ in spans), max(stop for _, stop in spans))
        table = keys.cut(parquet.read_row_group(index, columns=there, use_threads=False))
        if table.num_rows:
            yield table if len(there) == len(columns) else _add_missing(table, columns)


def _add_missing(table: Any, columns: Sequence[str]) -> Any:
    """Return a table of a run of an older version with empty columns for those that it does not have."""
    import pyarrow as pa

    schema = make_schema()
    arrays = {
        name: table[name] if name in table.column_names else pa.array([_empty(name)] * table.num_rows, field.type)
        for name, field in ((name, schema.field(name)) for name in columns)
    }
    return pa.table(arrays, schema=pa.schema([schema.field(name) for name in columns]))


def _span(chunk: Any) -> tuple[int, int]:
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start, start + chunk.total_compressed_size


def merge_tables(sources: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """Merge sorted streams of Arrow tables, oldest first; of rows with equal keys the one of the newest stream is kept.

    Memory: twice one table per source. Every step consumes at least one table, so there are at most as many steps as
    tables.
    """
    heads: list[Any] = [next(source, None) for source in sources]
    while True:
        live = [i for i, head in enumerate(heads) if head is not None]
        if len(live) <= 1:
            break
        bound = min(_key(heads[i], heads[i].num_rows - 1) for i in live)
        parts = []
        for i in live:
            head = heads[i]
            count = _count_up_to(head, bound)
            if count:
                parts.append(head.slice(0, count))
                heads[i] = head.slice(count) if count < head.num_rows else next(sources[i], None)
        yield parts[0] if len(parts) == 1 else sort_newest(parts)
    for i in live:
        yield heads[i]
        yield from sources[i]


def _count_up_to(table: Any, bound: str) -> int:
    return bisect_right(range(table.num_rows), bound, key=lambda i: _key(table, i))


def sort_newest(tables: Sequence[Any]) -> Any:
    """Return the rows of Arrow tables sorted by key; of rows with equal keys the last one is kept.

    Memory: twice the tables.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    joined = pa.concat_tables(tables).combine_chunks()
    keys = joined["key"].combine_chunks()
    order = pc.sort_indices(keys)  # documented as stable: rows with equal keys keep their order
    keys = keys.take(order)
    is_last = pa.concat_arrays([pc.not_equal(keys.slice(0, len(keys) - 1), keys.slice(1)), pa.array([True])])
    return joined.take(order.filter(is_last))
