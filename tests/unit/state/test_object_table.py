"""The object table: newest rows win, writers are fenced, crashes neither lose nor double a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import LeaseLost, SubmissionError, TransientError
from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import ReadWarning, RowState, TableRow, dump_warnings, load_warnings
from ingestion_engine.state.object_table import external_sort, runs
from ingestion_engine.state.object_table.manifest import read_manifest
from ingestion_engine.state.object_table.table import ObjectTable
from support.faulty_state import Crash, FaultyStore

MANIFEST = "collections/docs/objects/manifest.json"
RUNS = "collections/docs/objects/runs/"


def row(key: str, version: int = 1, state: str = "present", **changes: object) -> TableRow:
    failed = state == "failed"
    base = TableRow(
        key=key,
        etag=f"etag-{version}",
        size_bytes=version * 2**40,
        last_modified="2026-01-01T00:00:00Z",
        object_id=make_object_id("docs", key),
        state=RowState(state),
        error_code="parse_failed" if failed else None,
        reason="broken, über" if failed else None,
        retryable=failed,
        fingerprint="f" * 16,
        chunk_count=version,
        points_digest="0" * 32,
        vectors_digest="0" * 32,
        epoch=version,
        job_id=f"job-{version}",
        updated_at="2026-01-01T00:00:00Z",
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


class Time:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return LocalStateStore(f"file://{tmp_path}/state")


@pytest.fixture
def table(store: StateStore) -> ObjectTable:
    return ObjectTable(store, "docs")


def append(table: ObjectTable, rows: Iterable[TableRow], epoch: int) -> int:
    return table.append_run(rows, epoch=epoch, job_id=f"job-{epoch}")


def test_an_unknown_collection_is_an_empty_table(table: ObjectTable) -> None:
    """Reading needs no earlier write."""
    assert list(table.scan()) == []
    assert table.stats() == {"present": 0, "failed": 0, "with_warnings": 0, "chunks": 0}
    assert table.page("", None, None, 10) == ([], None)
    assert (table.compact(), table.clean()) == (0, 0)


def test_rows_come_back_equal(table: ObjectTable) -> None:
    """Every field of every kind of row survives, in key order."""
    keys = ["", " ", "A", "a", "a b", "a/", "a/b", "a//b", "é", "ü", "\u200b", "\uffff", "😀", "nul\x00"]
    rows = [row(key, 3, "failed" if number % 3 else "present") for number, key in enumerate(sorted(keys))]
    assert append(table, rows, 3) == len(rows)
    assert list(table.scan()) == rows
    assert [r.key.encode() for r in table.scan()] == sorted(key.encode() for key in keys)


def test_the_newest_run_wins_and_tombstones_hide(table: ObjectTable) -> None:
    """A key's last row is true; removed objects are not shown and may come back."""
    append(table, [row("a"), row("b"), row("c")], 1)
    append(table, [row("b", 2), row("c", 2, "removed")], 2)
    assert list(table.scan()) == [row("a"), row("b", 2)]
    append(table, [row("b", 3, "failed"), row("c", 3)], 3)
    assert list(table.scan()) == [row("a"), row("b", 3, "failed"), row("c", 3)]
    assert table.stats() == {"present": 2, "failed": 1, "with_warnings": 0, "chunks": 7}


def test_a_scan_does_not_see_what_comes_after_it(table: ObjectTable) -> None:
    """Planning reads a snapshot, also while the table is appended to and compacted."""
    append(table, [row("a"), row("b")], 1)
    scan = table.scan()
    append(table, [row("b", 2)], 2)
    table.compact(max_runs=1)
    assert list(scan) == [row("a"), row("b")]


def test_prefixes_cut_by_characters(table: ObjectTable) -> None:
    """A prefix is compared with the key as it is, wherever runs begin and end."""
    keys = ["a", "a/", "a/1", "a/2", "a0", "b", "\U0010ffff", "\U0010ffffx"]
    append(table, [row(key) for key in keys], 1)
    append(table, [row("a/3", 2), row("c", 2)], 2)
    everything = sorted([*keys, "a/3", "c"])
    for prefix in ["", "a", "a/", "a/1", "a/9", "b", "bb", "\U0010ffff", "z"]:
        wanted = [key for key in everything if key.startswith(prefix)]
        assert [r.key for r in table.scan(prefix)] == wanted
        assert table.stats(prefix)["present"] == len(wanted)


def test_columns_that_were_not_read_are_empty(table: ObjectTable) -> None:
    """A narrow scan yields the key and what was asked for."""
    append(table, [row("a", 5, "failed")], 1)
    (narrow,) = table.scan(columns=["etag", "chunk_count"])
    assert (narrow.key, narrow.etag, narrow.chunk_count) == ("a", "etag-5", 5)
    assert (narrow.object_id, narrow.size_bytes, narrow.retryable, narrow.reason) == ("", 0, False, None)


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], [f"{n:05d}" for n in range(5000)] + ["04998"]])
def test_runs_are_sorted_or_refused(table: ObjectTable, store: StateStore, keys: list[str]) -> None:
    """A run out of order is a defect of the caller and leaves nothing behind."""
    with pytest.raises(ValueError, match="increasing"):
        append(table, [row(key) for key in keys], 1)
    assert list(store.list("")) == []


def test_no_rows_make_no_run(table: ObjectTable, store: StateStore) -> None:
    """A job that changed nothing leaves the table as it was."""
    assert append(table, [], 1) == 0
    assert table.append_unsorted([], epoch=1, job_id="job-1") == 0
    assert list(store.list("")) == []


def test_row_groups_are_skipped_by_their_keys(store: StateStore) -> None:
    """A narrow prefix reads a small part of a large run."""

    class Measured(FaultyStore):
        read_bytes = 0

        def get_range(self, path: str, start: int, length: int) -> bytes:
            data = super().get_range(path, start, length)
            self.read_bytes += len(data)
            return data

    measured = Measured(store)
    table = ObjectTable(measured, "docs")
    rows = [row(f"{n // 1000:03d}/{n:06d}", points_digest=make_object_id("d", str(n))) for n in range(60_000)]
    assert append(table, rows, 1) == 60_000
    size = read_manifest(store, MANIFEST).runs[0].bytes
    measured.read_bytes = 0
    assert [r.key for r in table.scan("042/")] == [f"042/{n:06d}" for n in range(42_000, 43_000)]
    assert measured.read_bytes < size / 2
    assert sum(1 for _ in table.scan()) == 60_000


def test_a_folder_is_listed_without_reading_what_is_in_it(store: StateStore) -> None:
    """Of 120,000 objects in three folders and three beside them, a small part is read; a key is found with less."""

    class Measured(FaultyStore):
        read_bytes = 0

        def get_range(self, path: str, start: int, length: int) -> bytes:
            data = super().get_range(path, start, length)
            self.read_bytes += len(data)
            return data

    measured = Measured(store)
    table = ObjectTable(measured, "docs", row_group_rows=2_000)
    keys = [f"{folder}/{n:05d}" for folder in "abc" for n in range(40_000)] + ["a", "b.txt", "d"]
    rows = [row(key, points_digest=make_object_id("d", key)) for key in sorted(keys)]
    append(table, rows, 1)
    size = read_manifest(store, MANIFEST).runs[0].bytes
    measured.read_bytes = 0
    folders, objects, following = table.list_folder("", None, None, 10)
    assert (folders, [r.key for r in objects], following) == (["a/", "b/", "c/"], ["a", "b.txt", "d"], None)
    assert measured.read_bytes < size / 4
    measured.read_bytes = 0
    assert table.find("b/00017") == row("b/00017", points_digest=make_object_id("d", "b/00017"))
    assert (table.find("b"), table.find("b/"), table.find("zz")) == (None, None, None)
    assert measured.read_bytes < size


class TestUnsorted:
    """The external sort before a run."""

    def test_the_last_row_of_a_key_wins(self, table: ObjectTable) -> None:
        """Order of arrival decides between equal keys."""
        rows = [row("b", 1), row("a", 1), row("b", 2), row("b", 3), row("a", 2)]
        assert table.append_unsorted(rows, epoch=1, job_id="job-1") == 2
        assert list(table.scan()) == [row("a", 2), row("b", 3)]

    @pytest.mark.parametrize("total", [9, 10, 11, 160, 399, 2000])
    def test_any_number_of_spills(self, tmp_path: Path, total: int) -> None:
        """Spills of several levels keep the last row of a key; full levels are merged, and their files removed."""
        rows = [row(f"{(n * 7919) % 301:03d}", n) for n in range(total)]
        tables = list(external_sort.sort_rows(rows, tmp_path, spill_rows=10))
        newest = {r.key: r for r in rows}
        assert [r for table in tables for r in runs.iter_rows(table)] == [newest[key] for key in sorted(newest)]
        assert len(list(tmp_path.iterdir())) < external_sort.FAN_IN * 2


class TestPages:
    """Pages for the API."""

    @pytest.mark.parametrize("limit", [1, 3, 10, 100])
    @pytest.mark.parametrize("state", [None, RowState.PRESENT, RowState.FAILED])
    def test_pages_are_a_disjoint_cover(self, table: ObjectTable, state: RowState | None, limit: int) -> None:
        """Following the cursor shows each matching row once, in key order."""
        append(table, [row(f"ü/{n:02d}", 1, "failed" if n % 4 == 0 else "present") for n in range(20)], 1)
        append(table, [row(f"ü/{n:02d}", 2, "removed") for n in range(0, 20, 5)], 2)
        wanted = [r for r in table.scan("ü") if state in (None, r.state)]
        got: list[TableRow] = []
        cursor: str | None = None
        while True:
            rows, cursor = table.page("ü", state, cursor, limit)
            assert len(rows) <= limit
            got += rows
            if cursor is None:
                break
        assert got == wanted
        assert wanted

    def test_a_page_ends_after_looking_at_many_rows(
        self, store: StateStore, table: ObjectTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A rare state costs several short requests, not one long one."""
        monkeypatch.setattr("ingestion_engine.state.object_table.table._PAGE_SCAN_ROWS", 10)
        rows = [row(f"{n:06d}", 1, "failed" if n == 29 else "present") for n in range(30)]
        append(ObjectTable(store, "docs", row_group_rows=12), rows, 1)
        pages = [table.page("", RowState.FAILED, None, 5)]
        while pages[-1][1] is not None:
            pages.append(table.page("", RowState.FAILED, pages[-1][1], 5))
        assert [page_rows for page_rows, _ in pages] == [[], [], [rows[29]]]

    def test_a_page_of_a_folder_ends_after_looking_at_many_rows(
        self, store: StateStore, table: ObjectTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A rare state costs several short requests; a folder is listed once, although it goes on in the next."""
        monkeypatch.setattr("ingestion_engine.state.object_table.table._FOLDER_SCAN_ROWS", 10)
        rows = [row(f"{n // 15}/{n:06d}", 1, "failed" if n in (14, 15, 29) else "present") for n in range(30)]
        append(ObjectTable(store, "docs", row_group_rows=12), rows, 1)
        pages = [table.list_folder("", RowState.FAILED, None, 5)]
        while pages[-1][2] is not None:
            pages.append(table.list_folder("", RowState.FAILED, pages[-1][2], 5))
        assert [folder for folders, _, _ in pages for folder in folders] == ["0/", "1/"]
        assert len(pages) > 1

    def test_foreign_cursors_are_refused(self, table: ObjectTable) -> None:
        """Not base64, or not UTF-8."""
        for bad in ("!", "_w", "ü"):
            with pytest.raises(SubmissionError):
                table.page("", None, bad, 5)
            with pytest.raises(SubmissionError):
                table.list_folder("", None, bad, 5)


class TestWriters:
    """Several writers, zombies, and crashes between durable steps."""

    def test_a_zombie_cannot_append(self, table: ObjectTable) -> None:
        """A lower epoch is refused once a higher one has written or fenced."""
        append(table, [row("a", 1)], 1)
        table.fence(3)
        table.fence(3)
        with pytest.raises(LeaseLost):
            append(table, [row("a", 2)], 2)
        with pytest.raises(LeaseLost):
            table.fence(2)
        append(table, [row("b", 3)], 3)
        assert list(table.scan()) == [row("a", 1), row("b", 3)]

    def test_two_writers_lose_no_run(self, store: StateStore, table: ObjectTable) -> None:
        """A conflict on the manifest is resolved by reading it again."""

        class Interrupting(FaultyStore):
            def replace(self, path: str, data: bytes, version: str) -> str:
                if not self.writes:
                    self.writes += 1
                    append(table, [row("b", 2)], 2)
                return super().replace(path, data, version)

            def upload(self, path: str, source: Path) -> None:
                self.inner.upload(path, source)

        append(table, [row("a", 1)], 1)
        append(ObjectTable(Interrupting(store), "docs"), [row("c", 2)], 2)
        assert list(table.scan()) == [row("a", 1), row("b", 2), row("c", 2)]
        assert len(read_manifest(store, MANIFEST).runs) == 3

    @pytest.mark.parametrize("lost_answer", [False, True])
    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("write", [1, 2])
    def test_a_crash_while_appending(self, store: StateStore, write: int, after: bool, lost_answer: bool) -> None:
        """All rows or none are seen, and the same append again adds them once."""
        table = ObjectTable(store, "docs")
        append(table, [row("a", 1), row("b", 1)], 1)
        faulty = ObjectTable(FaultyStore(store, write, after=after, lost_answer=lost_answer), "docs")
        new = [row("b", 2), row("c", 2)]
        with pytest.raises(TransientError if lost_answer else Crash):
            append(faulty, new, 2)
        applied = write == 2 and after
        assert list(table.scan()) == ([row("a", 1), *new] if applied else [row("a", 1), row("b", 1)])
        for _ in range(2):
            append(table, new, 2)
            assert list(table.scan()) == [row("a", 1), *new]
            assert len(read_manifest(store, MANIFEST).runs) == 2

    def test_an_append_repeated_after_compaction_is_not_added_again(self, store: StateStore) -> None:
        """A run that was merged into another is remembered until its file is removed."""
        table = ObjectTable(store, "docs")
        append(table, [row("a", 1)], 1)
        append(table, [row("a", 2)], 2)
        table.compact(max_runs=1)
        append(table, [row("a", 2)], 2)
        assert len(read_manifest(store, MANIFEST).runs) == 1

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("write", [1, 2])
    def test_a_crash_while_compacting(self, store: StateStore, write: int, after: bool) -> None:
        """Readers see no difference at any point, and compacting again finishes it."""
        table = ObjectTable(store, "docs")
        for epoch in range(1, 6):
            append(table, [row(f"{epoch}", epoch), row("x", epoch, "removed" if epoch == 5 else "present")], epoch)
        wanted = list(table.scan())
        with pytest.raises(Crash):
            ObjectTable(FaultyStore(store, write, after=after), "docs").compact(max_runs=3)
        assert list(table.scan()) == wanted
        assert table.compact(max_runs=3) <= 3
        assert list(table.scan()) == wanted
        assert [r.key for r in wanted] == ["1", "2", "3", "4", "5"]

    @pytest.mark.parametrize("competing", [False, True])
    def test_compaction_yields_to_another(self, store: StateStore, table: ObjectTable, competing: bool) -> None:
        """When runs were compacted or appended meanwhile, nothing is lost."""

        class Interrupting(FaultyStore):
            def upload(self, path: str, source: Path) -> None:
                self.inner.upload(path, source)
                if competing:
                    table.compact(max_runs=1)
                append(table, [row("a", 9)], 9)

        for epoch in range(1, 5):
            append(table, [row("a", epoch), row(f"k{epoch}", epoch)], epoch)
        ObjectTable(Interrupting(store), "docs").compact(max_runs=2)
        assert list(table.scan()) == [row("a", 9), *(row(f"k{epoch}", epoch) for epoch in range(1, 5))]


class TestCompaction:
    """What compaction rewrites and what it leaves."""

    def test_a_large_old_run_is_left_alone(self, store: StateStore, table: ObjectTable) -> None:
        """Many small jobs on a large collection rewrite small runs only."""
        append(table, [row(f"{n:05d}") for n in range(3000)], 1)
        base = read_manifest(store, MANIFEST).runs[0]
        for epoch in range(2, 40):
            append(table, [row(f"{epoch:05d}", epoch)], epoch)
            assert table.compact(max_runs=4) <= 4
            assert read_manifest(store, MANIFEST).runs[0] == base
        assert len(list(table.scan())) == 3000
        assert {r.key: r.epoch for r in table.scan()}["00039"] == 39

    def test_tombstones_go_with_the_oldest_run_only(self, store: StateStore, table: ObjectTable) -> None:
        """A tombstone stays while an older run may hold the object."""
        append(table, [row(f"{n:05d}") for n in range(1000)], 1)
        append(table, [row("00005", 2, "removed")], 2)
        append(table, [row("00006", 3, "removed")], 3)
        assert table.compact(max_runs=2) == 2
        assert [run.rows for run in read_manifest(store, MANIFEST).runs] == [1000, 2]
        assert len(list(table.scan())) == 998
        assert table.compact(max_runs=1) == 1
        assert read_manifest(store, MANIFEST).runs[0].rows == 998
        assert len(list(table.scan())) == 998

    def test_a_table_may_become_empty(self, store: StateStore, table: ObjectTable) -> None:
        """When everything was removed, no run is left; the epoch still fences."""
        append(table, [row("a", 1)], 1)
        append(table, [row("a", 2, "removed")], 2)
        assert table.compact(max_runs=1) == 0
        assert list(table.scan()) == []
        with pytest.raises(LeaseLost):
            append(table, [row("a", 1)], 1)

    def test_clean_waits_for_readers(self, store: StateStore) -> None:
        """Merged and orphaned files are removed after a day, files in use never."""
        time = Time()
        table = ObjectTable(store, "docs", now=time)
        for epoch in (1, 2):
            append(table, [row("a", epoch)], epoch)
        table.compact(max_runs=1)
        with pytest.raises(Crash):  # uploads a run that no manifest will name
            append(ObjectTable(FaultyStore(store, 1, after=True), "docs"), [row("z", 3)], 3)
        assert len(list(store.list(RUNS))) == 4
        assert table.clean() == 0
        time.now += timedelta(hours=23)
        assert table.clean() == 0
        time.now += timedelta(hours=2)
        assert table.clean() == 3
        assert table.clean() == 0
        (run,) = read_manifest(store, MANIFEST).runs
        assert list(store.list(RUNS)) == [f"collections/docs/{run.path}"]
        assert read_manifest(store, MANIFEST).retired == ()
        assert list(table.scan()) == [row("a", 2)]

    def test_clean_never_removes_a_run_in_use(self, store: StateStore, table: ObjectTable) -> None:
        """Whatever a manifest calls retired, a file that it also names as a run stays."""
        append(table, [row("a", 1)], 1)
        stored = store.get(MANIFEST)
        assert stored is not None
        data = orjson.loads(stored.data)
        data["retired"] = [{"path": data["runs"][0]["path"], "since": "2000-01-01T00:00:00+00:00", "merged": False}]
        store.put(MANIFEST, orjson.dumps(data))
        assert table.clean() == 0
        assert list(table.scan()) == [row("a", 1)]

    def test_an_orphan_noted_by_clean_can_still_be_appended(self, store: StateStore, table: ObjectTable) -> None:
        """An append interrupted before the manifest is completed by its retry, whoever saw the file meanwhile."""
        with pytest.raises(Crash):
            append(ObjectTable(FaultyStore(store, 1, after=True), "docs"), [row("z", 1)], 1)
        table.clean()
        assert append(table, [row("z", 1)], 1) == 1
        assert list(table.scan()) == [row("z", 1)]
        assert read_manifest(store, MANIFEST).retired == ()

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("write", [1, 2, 3])
    def test_a_crash_while_cleaning(self, store: StateStore, write: int, after: bool) -> None:
        """A file is either still known or gone, and the next call finishes."""
        time = Time()
        table = ObjectTable(store, "docs", now=time)
        for epoch in (1, 2):
            append(table, [row("a", epoch)], epoch)
        table.compact(max_runs=1)
        time.now += timedelta(days=2)
        with pytest.raises(Crash):
            ObjectTable(FaultyStore(store, write, after=after), "docs", now=time).clean()
        table.clean()
        assert len(list(store.list(RUNS))) == 1
        assert list(table.scan()) == [row("a", 2)]


def test_a_table_of_earlier_releases_has_no_warnings(table: ObjectTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs lack the column; rows of both kinds of runs are merged, filtered, paged and compacted."""
    with monkeypatch.context() as earlier:
        earlier.setattr(runs, "COLUMNS", tuple(name for name in runs.COLUMNS if name != "warnings"))
        append(table, [row("a"), row("b"), row("c")], epoch=1)
    assert [(kept.key, kept.warnings) for kept in table.scan()] == [("a", None), ("b", None), ("c", None)]
    assert table.page("", None, None, 10, warned=True) == ([], None)
    left_out = dump_warnings([ReadWarning("lines_skipped", 2, "Line 7: „é“")])
    assert left_out is not None
    append(table, [row("b", 2, warnings=left_out), row("d", 2, warnings=left_out)], epoch=2)
    expected = {"a": None, "b": left_out, "c": None, "d": left_out}
    for _ in range(2):
        assert {kept.key: kept.warnings for kept in table.scan()} == expected
        first, cursor = table.page("", RowState.PRESENT, None, 1, warned=True)
        second, end = table.page("", RowState.PRESENT, cursor, 1, warned=True)
        assert ([kept.key for kept in first + second], end) == (["b", "d"], None)
        assert table.compact(max_runs=1) == 1
    assert load_warnings(first[0].warnings) == (ReadWarning("lines_skipped", 2, "Line 7: „é“"),)
