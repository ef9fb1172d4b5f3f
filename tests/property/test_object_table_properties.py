"""Any history of runs, compactions and crashes reads like a dictionary."""

from __future__ import annotations

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.records import RowState, TableRow
from ingestion_engine.state.object_table.table import ObjectTable
from support.faulty_state import Crash, FaultyStore

KEYS = st.text(st.sampled_from("ab/ é\uffff😀\x00"), max_size=4)
"""Few letters, so that keys meet again; of one to four UTF-8 bytes, on both sides of the surrogates of UTF-16."""
STATES = st.sampled_from(["present", "failed", "removed"])
CHANGES = st.dictionaries(KEYS, STATES, max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sorted"), CHANGES),
        st.tuples(st.just("unsorted"), st.lists(st.tuples(KEYS, STATES), max_size=20)),
        st.tuples(st.just("compact"), st.integers(1, 4)),
        st.tuples(st.just("crash"), st.tuples(st.integers(1, 2), st.booleans())),
    ),
    max_size=10,
)


def make_row(key: str, state: str, epoch: int, number: int) -> TableRow:
    return TableRow(
        key,
        f"e{epoch}",
        epoch,
        "",
        f"o{key}",
        RowState(state),
        None,
        None,
        False,
        "f",
        number,
        "",
        "",
        epoch,
        f"job-{epoch}",
        "",
        "[]" if number % 2 else None,
    )


@settings(max_examples=60, deadline=None)
@given(STEPS, st.lists(KEYS, max_size=4))
def test_any_history_reads_like_a_dictionary(steps: list[tuple[str, object]], prefixes: list[str]) -> None:
    """After every step the table shows what a dictionary of the newest rows shows: scans, pages, statistics."""
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStateStore(f"file://{folder}")
        table = ObjectTable(store, "docs", row_group_rows=3)
        model: dict[str, TableRow] = {}
        crash_at: tuple[int, bool] | None = None
        for epoch, (kind, data) in enumerate(steps, start=1):
            if kind == "crash":
                crash_at = data  # type: ignore[assignment]
                continue
            faulty = FaultyStore(store, *(crash_at or (0, False)))
            crash_at = None
            writer = ObjectTable(faulty, "docs", row_group_rows=3)

            def step(writer: ObjectTable, kind: str = kind, data: object = data, epoch: int = epoch) -> list[TableRow]:
                if kind == "compact":
                    writer.compact(max_runs=data)  # type: ignore[arg-type]
                    return []
                pairs = sorted(data.items()) if kind == "sorted" else data  # type: ignore[attr-defined]
                rows = [make_row(key, state, epoch, number) for number, (key, state) in enumerate(pairs)]
                appender = writer.append_run if kind == "sorted" else writer.append_unsorted
                assert appender(rows, epoch=epoch, job_id=f"job-{epoch}") == len({r.key for r in rows})
                return rows

            try:
                rows = step(writer)
            except Crash:
                rows = step(table)
            model |= {r.key: r for r in rows}
            check(table, model, prefixes)


def check(table: ObjectTable, model: dict[str, TableRow], prefixes: list[str]) -> None:
    shown = [model[key] for key in sorted(model, key=str.encode) if model[key].state != "removed"]
    assert list(table.scan()) == shown
    for prefix in ["", *prefixes]:
        under = [r for r in shown if r.key.startswith(prefix)]
        assert list(table.scan(prefix)) == under
        assert table.stats(prefix) == {
            "present": sum(r.state == "present" for r in under),
            "failed": sum(r.state == "failed" for r in under),
            "with_warnings": sum(r.warnings is not None for r in under),
            "chunks": sum(r.chunk_count for r in under),
        }
        got: list[TableRow] = []
        cursor: str | None = None
        while True:
            rows, cursor = table.page(prefix, RowState.FAILED, cursor, 2)
            got += rows
            if cursor is None:
                break
        assert got == [r for r in under if r.state == "failed"]
        for state, limit in ((None, 3), (RowState.FAILED, 1)):
            check_folder(table, [r for r in under if state in (None, r.state)], prefix, state, limit=limit)


def check_folder(table: ObjectTable, rows: list[TableRow], prefix: str, state: RowState | None, *, limit: int) -> None:
    """The pages of a folder show each folder and each object in it once, in key order."""
    expected: dict[str, TableRow | None] = {}
    for r in rows:
        name, slash, _ = r.key.removeprefix(prefix).partition("/")
        expected[prefix + name + slash] = None if slash else r
    got: list[tuple[str, TableRow | None]] = []
    cursor: str | None = None
    while True:
        folders, objects, cursor = table.list_folder(prefix, state, cursor, limit)
        assert len(folders) + len(objects) <= limit
        page: list[tuple[str, TableRow | None]] = [*((f, None) for f in folders), *((r.key, r) for r in objects)]
        got += sorted(page, key=lambda entry: entry[0].encode())
        if cursor is None:
            break
    assert got == list(expected.items())
