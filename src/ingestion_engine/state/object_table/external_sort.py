"""External sort of table rows: any number of rows in any order, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ingestion_engine.domain.records import TableRow
from ingestion_engine.state.object_table.runs import (
    BATCH_ROWS,
    COLUMNS,
    FETCH,
    KeyRange,
    RunFile,
    iter_tables,
    merge_tables,
    read_run,
    sort_newest,
    write_run,
)

SPILL_ROWS = 32_768
"""Rows sorted in memory at a time, as Arrow: about 10 MB, twice that while sorting."""
FAN_IN = 16
"""Spills of one level that are merged into one of the next: open files grow with the logarithm of rows."""
_SPILL_GROUP_ROWS = 2_048
"""Row groups of spills are small because one of each is in memory: 48 spills of 8 million rows take 30 MB."""


def sort_rows(rows: Iterable[TableRow], folder: Path, *, spill_rows: int = SPILL_ROWS) -> Iterator[Any]:
    """Yield all rows as Arrow tables in strictly increasing key order; of rows with equal keys the last one is kept.

    The caller deletes ``folder`` with the files written to it. Memory: ``spill_rows`` rows, then one small row group
    per spill.
    """
    spills = _Spills(folder)
    buffered: list[Any] = []
    count = 0
    for table in iter_tables(rows, min(BATCH_ROWS, spill_rows)):
        buffered.append(table)
        count += table.num_rows
        if count >= spill_rows:
            spills.add(sort_newest(buffered))
            buffered, count = [], 0
    last = [sort_newest(buffered)] if buffered else []
    buffered.clear()
    yield from merge_tables([*spills.open(), iter(last)])


class _Spills:
    """Sorted files, oldest first, with levels that never increase from old to new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spills: list[tuple[int, RunFile]] = []
        self._written = 0

    def add(self, table: Any) -> None:
        self._spills.append((0, self._write(iter([table]))))
        while len(self._spills) >= FAN_IN and self._spills[-FAN_IN][0] == self._spills[-1][0]:
            level, merged = self._spills[-1][0], self._spills[-FAN_IN:]
            spill = self._write(merge_tables([_read(run) for _, run in merged]))
            self._spills[-FAN_IN:] = [(level + 1, spill)]
            for _, run in merged:
                run.path.unlink()

    def open(self) -> list[Iterator[Any]]:
        return [_read(run) for _, run in self._spills]

    def _write(self, tables: Iterator[Any]) -> RunFile:
        self._written += 1
        return write_run(self._folder / f"spill-{self._written}.parquet", tables, _SPILL_GROUP_ROWS)


def _read(run: RunFile) -> Iterator[Any]:
    with run.path.open("rb") as file:
        yield from read_run(_fetch_from(file.fileno()), run.size_bytes, columns=COLUMNS, keys=KeyRange())


def _fetch_from(descriptor: int) -> FETCH:
    return lambda start, length: os.pread(descriptor, length, start)
