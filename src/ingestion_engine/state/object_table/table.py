"""The object table: all objects of a collection, over all jobs; one row per object.

The table is a set of key-sorted Parquet runs in ``collections/{c}/objects/runs/`` and a ``manifest.json``, which lists
them from oldest to newest and is replaced by conditional writes. A job appends one run. Readers merge the runs; the
newest row of a key is valid. Compaction merges small runs. Reading, diffing and committing are therefore streams, with
memory bounded by the number of runs times one row group.

States of a row: ``present`` (the points in the stores match ``points_digest``), ``failed`` (this version could not be
ingested; ``chunk_count`` and ``points_digest`` describe the older points that stayed, if any) and ``removed`` (a
tombstone that hides older rows until a compaction reaches the oldest run; never shown to readers).

Other tools can read the runs directly. In DuckDB (tested: 1.1 and 2.0; ``INSTALL httpfs`` for S3; a ``file://`` state
store appends ``=`` to every file name)::

    SET VARIABLE root = 's3://bucket/prefix/collections/handbook/';
    SET VARIABLE runs = (
        SELECT list(getvariable('root') || run.path ORDER BY position)
        FROM (SELECT unnest(runs) AS run, generate_subscripts(runs, 1) AS position
              FROM read_json(getvariable('root') || 'objects/manifest.json', maximum_object_size = 100000000)));
    CREATE TEMP VIEW objects AS
        SELECT * EXCLUDE (filename)
        FROM (SELECT * FROM read_parquet(getvariable('runs'), filename = true)
              QUALIFY row_number() OVER (
                  PARTITION BY key ORDER BY list_position(getvariable('runs'), filename) DESC) = 1)
        WHERE state <> 'removed';
    SELECT state, count(*), sum(chunk_count) FROM objects GROUP BY state;

All calls block. All raise ``TransientError`` while the state store is unavailable; every writing call can then be
repeated.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ingestion_engine.domain.errors import LeaseLost
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import RowState, TableRow
from ingestion_engine.runtime.timestamps import format_seconds, parse_timestamp, utc_now
from ingestion_engine.state.cursors import decode_cursor, encode_cursor
from ingestion_engine.state.object_table.external_sort import sort_rows
from ingestion_engine.state.object_table.manifest import Manifest, Retired, Run, read_manifest, update_manifest
from ingestion_engine.state.object_table.runs import (
    COLUMNS,
    ROW_GROUP_ROWS,
    KeyRange,
    RunFile,
    iter_rows,
    iter_tables,
    merge_tables,
    read_run,
    write_run,
)

_RUNS = "objects/runs/"
_PAGE_SCAN_ROWS = 200_000
"""Rows that are scanned for one page before it is returned incomplete: well under a second."""
_FOLDER_SCAN_ROWS = 1_000_000
"""The same for a page of a folder, which reads three columns: half a second."""
_SLASH = "/"
_AFTER_SLASH = "0"
"""The character after the slash: no key of a folder follows its name with this one for the slash."""
_LEAST = "\0"
"""What follows a key with this one is the next possible key."""


class ObjectTable:
    """The object table of one collection. Reading is always safe; writing requires the lease of the collection.

    Args:
        store: The state store.
        collection: The collection's name.
        now: Returns the current time, to measure how long files have been unused.
        row_group_rows: Rows per row group of new runs; readers hold one row group per run.
    """

    def __init__(
        self,
        store: StateStore,
        collection: str,
        *,
        now: Callable[[], datetime] = utc_now,
        row_group_rows: int = ROW_GROUP_ROWS,
    ) -> None:
        self._store = store
        self.collection = collection
        self._root = f"collections/{collection}/"
        self._manifest_path = f"{self._root}objects/manifest.json"
        self._now = now
        self._row_group_rows = row_group_rows

    # -- reading ------------------------------------------------------------------------------------------------------

    def scan(self, prefix: str = "", columns: Sequence[str] | None = None) -> Iterator[TableRow]:
        """Return the rows with keys that start with a prefix, in key order, as of now; later writes are not visible.

        Args:
            prefix: Prefix of keys, compared code point by code point.
            columns: Fields to read besides ``key``; None means all. Other fields are empty ("", 0, False, None).

        Raises:
            StateMissing: from the iterator, if it is still read a day after the table was compacted.

        Memory: one row group per run. Cost: one request, then one per run and per row group (16,384 rows) in the range.
        """
        wanted = COLUMNS if columns is None else columns
        tables = self._read_visible(KeyRange(prefix), wanted)
        return (row for table in tables for row in iter_rows(table))

    def scan_object_ids(self) -> Iterator[list[str]]:
        """Yield the object ids of all rows, in batches. Reads three columns. Memory: one row group per run."""
        return (table["object_id"].to_pylist() for table in self._read_visible(KeyRange(""), ("object_id",)))

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Return the number of objects by state, of those of which something was left out, and of chunks, for a prefix.

        ``{"present": objects, "failed": objects, "with_warnings": objects, "chunks": chunks in the stores}``. Reads
        four columns.
        """
        import pyarrow.compute as pc

        counts = {RowState.PRESENT.value: 0, RowState.FAILED.value: 0, "with_warnings": 0, "chunks": 0}
        for table in self._read_visible(KeyRange(prefix), ("key", "state", "chunk_count", "warnings")):
            for entry in pc.value_counts(table["state"]).to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
            counts["with_warnings"] += table.num_rows - table["warnings"].null_count
            counts["chunks"] += pc.sum(table["chunk_count"]).as_py() or 0
        return counts

    def page(
        self, prefix: str, state: RowState | None, cursor: str | None, limit: int, *, warned: bool = False
    ) -> tuple[list[TableRow], str | None]:
        """Return one page of rows in key order, and the cursor of the next page.

        Args:
            prefix: Only keys that start with this prefix.
            state: Only rows in this state; None means any state.
            cursor: Cursor of the previous page; None means the first page. It stays valid after later writes.
            limit: Maximum number of rows, at least 1.
            warned: Only objects of which something was left out.

        Returns:
            The rows and the cursor; None when there are no more rows. A page may have fewer rows than ``limit``, even
            none, and still a cursor, because at most 200,000 rows are scanned.

        Raises:
            SubmissionError: "validation_error": the cursor was not made by this method.
        """
        if limit < 1:
            raise ValueError("The limit must be at least 1.")
        rows: list[TableRow] = []
        scanned = 0
        after = None if cursor is None else decode_cursor(cursor)
        for table in self._read_visible(KeyRange(prefix, after), COLUMNS):
            if scanned >= _PAGE_SCAN_ROWS and after is not None:
                return rows, encode_cursor(after)
            matching = _choose(table, state, warned=warned)
            rows.extend(iter_rows(matching.slice(0, limit + 1 - len(rows))))
            if len(rows) > limit:
                return rows[:limit], encode_cursor(rows[limit - 1].key)
            scanned += table.num_rows
            after = table["key"][-1].as_py()
        return rows, None

    def find(self, key: str) -> TableRow | None:
        """Return the row of a key; None when there is none. Cost: as the first row of ``scan``."""
        row = next(self.scan(key), None)
        return row if row is not None and row.key == key else None

    def list_folder(
        self, prefix: str, state: RowState | None, cursor: str | None, limit: int, *, warned: bool = False
    ) -> tuple[list[str], list[TableRow], str | None]:
        """Return one page of a folder: its folders, its objects, both in key order, and the cursor of the next page.

        A folder is what keys with the same text between ``prefix`` and the next slash have in common, with the slash;
        it is listed once, when one of its objects fulfils the conditions. Arguments and errors are those of
        ``page``; ``limit`` is the number of folders and objects together. A page may be incomplete too, because at
        most 1,000,000 rows are scanned.

        Cost: three columns of the row groups in which the page's folders begin and its objects are, however many
        objects the folders have; then all columns of the row groups with its objects.
        """
        if limit < 1:
            raise ValueError("The limit must be at least 1.")
        runs = read_manifest(self._store, self._manifest_path).runs
        keys = KeyRange(prefix, start="" if cursor is None else decode_cursor(cursor))
        folders: list[str] = []
        objects: list[str] = []
        following: str | None = None
        scanned = 0
        for table in self._read_visible(keys, ("key", "state", "warnings"), runs):
            if scanned >= _FOLDER_SCAN_ROWS:
                following = keys.start
                break
            scanned += table.num_rows
            shown = _choose(table, state, warned=warned)["key"].to_pylist()
            index = bisect_left(shown, keys.start)
            while index < len(shown) and len(folders) + len(objects) < limit:
                key = shown[index]
                slash = key.find(_SLASH, len(prefix))
                if slash < 0:
                    objects.append(key)
                    keys.start = key + _LEAST
                    index += 1
                else:
                    folders.append(key[: slash + 1])
                    keys.start = key[:slash] + _AFTER_SLASH
                    index = bisect_left(shown, keys.start, lo=index)
            if index < len(shown):
                following = keys.start
                break
            keys.start = max(keys.start, table["key"][-1].as_py() + _LEAST)
        rows = list(self._find_all(objects, runs))
        return folders, rows, None if following is None else encode_cursor(following)

    def _find_all(self, wanted: Sequence[str], runs: Sequence[Run]) -> Iterator[TableRow]:
        """Yield the rows of some keys, which are in increasing order; only row groups with one of them are read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not wanted:
            return
        keys = KeyRange(start=wanted[0])
        sought = pa.array(wanted, pa.string())
        for table in self._read_visible(keys, COLUMNS, runs):
            yield from iter_rows(table.filter(pc.is_in(table["key"], value_set=sought)))
            index = bisect_right(wanted, table["key"][-1].as_py())
            if index == len(wanted):
                return
            keys.start = wanted[index]

    def _read_visible(
        self, keys: KeyRange, columns: Sequence[str], manifest_runs: Sequence[Run] | None = None
    ) -> Iterator[Any]:
        """Return the merged tables of some runs, without tombstones; None means those of the current manifest."""
        import pyarrow.compute as pc

        needed = [name for name in COLUMNS if name in {"key", "state", *columns}]
        listed = read_manifest(self._store, self._manifest_path).runs if manifest_runs is None else manifest_runs
        runs = [run for run in listed if keys.touches(run.min_key, run.max_key)]

        def visible() -> Iterator[Any]:
            for table in merge_tables([self._read_run(run, needed, keys) for run in runs]):
                shown = table.filter(pc.not_equal(table["state"], RowState.REMOVED.value))
                if shown.num_rows:
                    yield shown

        return visible()

    def _read_run(self, run: Run, columns: Sequence[str] = COLUMNS, keys: KeyRange | None = None) -> Iterator[Any]:
        path = f"{self._root}{run.path}"
        return read_run(
            lambda start, length: self._store.get_range(path, start, length),
            run.bytes,
            columns=columns,
            keys=keys or KeyRange(),
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def fence(self, epoch: int) -> None:
        """Refuse all lower epochs from now on; call it with a new lease, before reading the table. Idempotent.

        Raises:
            LeaseLost: a higher epoch has written or fenced the table.
        """
        self._update(lambda manifest: replace(self._checked(manifest, epoch), epoch=epoch))

    def append_run(self, rows: Iterable[TableRow], *, epoch: int, job_id: str) -> int:
        """Add rows as the newest run and return their number; nothing happens when there are none.

        Idempotent: the same rows under the same epoch and job are added once, also when the call is repeated after a
        crash or a lost answer. Atomic: readers see all rows or none.

        Args:
            rows: Rows in strictly increasing key order; consumed once.
            epoch: Epoch of the writer.
            job_id: Job of the writer; part of the file name.

        Raises:
            ValueError: the keys are not strictly increasing; nothing was written.
            LeaseLost: a higher epoch has written or fenced the table; it is unchanged.

        Memory: one row group. Disk: the run. Cost: an upload and three requests.
        """
        with tempfile.TemporaryDirectory(prefix="ingest-run-") as folder:
            return self._append(self._write(folder, iter_tables(rows)), epoch, job_id)

    def append_unsorted(self, rows: Iterable[TableRow], *, epoch: int, job_id: str) -> int:
        """Add rows in any order as the newest run; of rows with equal keys the last one is kept. See ``append_run``.

        Returns:
            The number of different keys.

        Memory: 32,768 rows as Arrow and one small row group per spill; measured in
        benchmarks/reports/object_table.md. Disk: twice the rows.
        """
        with tempfile.TemporaryDirectory(prefix="ingest-run-") as folder:
            return self._append(self._write(folder, sort_rows(rows, Path(folder))), epoch, job_id)

    def compact(self, *, max_runs: int = 8) -> int:
        """Merge the newest runs into one when there are more than ``max_runs``; return the number of runs.

        Only runs that are small compared with later ones are merged, so that a row is rewritten a logarithmic number of
        times over the life of the table. Tombstones are dropped when the oldest run is merged. The merged files stay
        until ``clean``. Idempotent; readers see no difference.

        Memory: one row group per merged run. Cost: reads and writes the merged runs.
        """
        runs = read_manifest(self._store, self._manifest_path).runs
        if len(runs) <= max_runs:
            return len(runs)
        start = _choose_start(runs, max_runs)
        merged = runs[start:]
        with tempfile.TemporaryDirectory(prefix="ingest-compact-") as folder:
            tables = merge_tables([self._read_run(run) for run in merged])
            file = self._write(folder, tables if start else _drop_tombstones(tables))
            replacement = () if not file.rows else (self._upload(file, max(run.epoch for run in merged), "compact"),)
        since = format_seconds(self._now())

        def swap(manifest: Manifest) -> Manifest:
            # Another writer may have appended since, but only after these runs; if they are gone, it has compacted.
            if manifest.runs[start : start + len(merged)] != merged:
                return manifest
            now = (*manifest.runs[:start], *replacement, *manifest.runs[start + len(merged) :])
            paths = {run.path for run in now}
            retired = tuple(Retired(run.path, since, merged=True) for run in merged if run.path not in paths)
            kept = tuple(entry for entry in manifest.retired if entry.path not in paths)
            return replace(manifest, runs=now, retired=(*kept, *retired))

        return len(self._update(swap).runs)

    def clean(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Delete files that have been unused for longer than ``older_than``; return their number.

        Files that no manifest names (their writer died) are recorded now and deleted by a later call.
        Idempotent. Cost: one listing, one request per file, two for the manifest.
        """
        listed = [path.removeprefix(self._root) for path in self._store.list(f"{self._root}{_RUNS}")]
        manifest = read_manifest(self._store, self._manifest_path)
        now = self._now()
        used = {run.path for run in manifest.runs}
        expired = {entry.path for entry in manifest.retired if now - parse_timestamp(entry.since) > older_than} - used
        for path in sorted(expired):
            self._store.delete(f"{self._root}{path}")

        def note(manifest: Manifest) -> Manifest:
            kept = tuple(entry for entry in manifest.retired if entry.path not in expired)
            known = {run.path for run in manifest.runs} | {entry.path for entry in manifest.retired} | expired
            orphans = tuple(
                Retired(path, format_seconds(now), merged=False) for path in sorted(listed) if path not in known
            )
            return replace(manifest, retired=(*kept, *orphans))

        self._update(note)
        return len(expired)

    def _write(self, folder: str, tables: Iterable[Any]) -> RunFile:
        return write_run(Path(folder) / "run.parquet", tables, self._row_group_rows)

    def _append(self, file: RunFile, epoch: int, job_id: str) -> int:
        if not file.rows:
            return 0
        path = _run_path(epoch, job_id, file)
        if _has_seen(self._checked(read_manifest(self._store, self._manifest_path), epoch), path):
            return file.rows
        run = self._upload(file, epoch, job_id)

        def add(manifest: Manifest) -> Manifest:
            if _has_seen(self._checked(manifest, epoch), path):
                return manifest
            retired = tuple(entry for entry in manifest.retired if entry.path != path)
            return Manifest(epoch, (*manifest.runs, run), retired)

        self._update(add)
        return file.rows

    def _upload(self, file: RunFile, epoch: int, writer: str) -> Run:
        assert file.min_key is not None
        assert file.max_key is not None
        path = _run_path(epoch, writer, file)
        self._store.upload(f"{self._root}{path}", file.path)
        return Run(
            path=path,
            rows=file.rows,
            min_key=file.min_key,
            max_key=file.max_key,
            epoch=epoch,
            bytes=file.size_bytes,
        )

    def _update(self, change: Callable[[Manifest], Manifest]) -> Manifest:
        return update_manifest(self._store, self._manifest_path, change)

    def _checked(self, manifest: Manifest, epoch: int) -> Manifest:
        if manifest.epoch > epoch:
            raise LeaseLost(
                "lease_lost",
                f"Epoch {manifest.epoch} has taken over the object table of {self.collection!r} from epoch {epoch}.",
                collection=self.collection,
                epoch=epoch,
                stored_epoch=manifest.epoch,
            )
        return manifest


def _choose(table: Any, state: RowState | None, *, warned: bool) -> Any:
    """Return the rows of a table in one state (None: any), or those of which something was left out. Pure."""
    import pyarrow.compute as pc

    chosen = table if state is None else table.filter(pc.equal(table["state"], state.value))
    return chosen.filter(pc.is_valid(chosen["warnings"])) if warned else chosen


def _run_path(epoch: int, writer: str, file: RunFile) -> str:
    return f"{_RUNS}{epoch:010d}-{writer}-{file.content_hash}.parquet"


def _has_seen(manifest: Manifest, path: str) -> bool:
    """Return whether a run is in the table already, itself or merged into another one. Pure."""
    return any(run.path == path for run in manifest.runs) or any(
        entry.path == path and entry.merged for entry in manifest.retired
    )


def _choose_start(runs: Sequence[Run], max_runs: int) -> int:
    """Return the index of the first run to merge: all but half of ``max_runs``, and older small ones. Pure."""
    target = max(1, min(max_runs, max_runs // 2 + 1))
    start = len(runs)
    rows = 0
    while start and (start + 1 > target or runs[start - 1].rows <= 2 * rows):
        start -= 1
        rows += runs[start].rows
    return start


def _drop_tombstones(tables: Iterable[Any]) -> Iterator[Any]:
    import pyarrow.compute as pc

    for table in tables:
        yield table.filter(pc.not_equal(table["state"], RowState.REMOVED.value))
