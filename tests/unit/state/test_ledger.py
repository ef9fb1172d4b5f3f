"""The ledger: what is written once stays, what is folded is never lost, and pages are stable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import FatalError, LeaseLost, StateConflict, SubmissionError, TransientError
from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import (
    Action,
    ObjectRef,
    ObjectResult,
    Outcome,
    Partition,
    PartitionReport,
    PlannedObject,
    ReportStatus,
)
from ingestion_engine.domain.spec import EngineName, FrozenLimits, JobRequest, JobSpec, Source
from ingestion_engine.state.json_files import iter_lines
from ingestion_engine.state.ledger import LOG_MAX_BYTES, Ledger
from support.faulty_state import Crash, FaultyStore


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return LocalStateStore(f"file://{tmp_path}/state")


@pytest.fixture
def ledger(store: StateStore) -> Ledger:
    return Ledger(store, "job-a")


def planned(key: str, action: Action = Action.NEW) -> PlannedObject:
    return PlannedObject(ObjectRef("docs", key, "etag-" + key, len(key), "2026-01-01T00:00:00Z"), action)


def report(
    partition_id: str, epoch: int = 1, status: ReportStatus = ReportStatus.DONE, chunks: int = 0
) -> PartitionReport:
    result = ObjectResult(
        key="k",
        outcome=Outcome.DONE,
        etag="e",
        size_bytes=1,
        last_modified="2026-01-01T00:00:00Z",
        object_id=make_object_id("docs", "k"),
        chunk_count=chunks,
    )
    results = (result,) if status == ReportStatus.DONE else ()
    return PartitionReport(
        PartitionId(partition_id), status, epoch, results=results, chunks=chunks, seconds={"embed": 0.5}
    )


def make_spec(**changes: Any) -> JobSpec:
    request = JobRequest(source=Source(bucket="docs", prefix="ü/"), collection="handbook")
    values: dict[str, Any] = {
        "job_id": "job-a",
        "engine": EngineName.RAY,
        "created_at": "2026-01-01T00:00:00Z",
        "package_version": "0.1.0",
        "python_version": "3.11",
        "state_url": "file:///state",
        "request": request,
        "model": "all-minilm",
        "parallelism": 4,
        "limits": FrozenLimits(),
        "endpoints": {"qdrant": {"url": None}},
    }
    return JobSpec(**{**values, **changes})


class TestSpec:
    """The spec of a job is written once."""

    def test_comes_back_equal(self, ledger: Ledger) -> None:
        """What a worker reads is what the service wrote."""
        spec = make_spec()
        ledger.write_spec(spec)
        ledger.write_spec(spec)
        assert ledger.read_spec() == spec

    def test_another_spec_is_refused_and_the_first_stays(self, ledger: Ledger) -> None:
        """A job's spec never changes under its drivers."""
        ledger.write_spec(make_spec())
        with pytest.raises(StateConflict):
            ledger.write_spec(make_spec(model="other"))
        assert ledger.read_spec().model == "all-minilm"

    def test_missing_and_unreadable_specs_are_fatal(self, ledger: Ledger, store: StateStore) -> None:
        """Each has its own code."""
        with pytest.raises(FatalError) as missing:
            ledger.read_spec()
        assert missing.value.code == "spec_missing"
        store.put("jobs/job-a/spec.json", b'{"format": 2}')
        with pytest.raises(FatalError) as invalid:
            ledger.read_spec()
        assert invalid.value.code == "spec_invalid"
        store.put("jobs/job-a/spec.json", b"{")
        with pytest.raises(FatalError) as corrupt:
            ledger.read_spec()
        assert corrupt.value.code == "state_corrupt"

    def test_the_uri_names_store_and_job(self, ledger: Ledger, store: StateStore) -> None:
        """A URI is all that a driver needs to find both."""
        assert JobUri.parse(ledger.spec_uri) == JobUri(store.url, "job-a")


class TestOnlyKeys:
    """The keys to which a retry is limited."""

    def test_keys_come_back_from_the_path_of_the_job(self, ledger: Ledger, store: StateStore) -> None:
        """The path is what the spec names; the stored value is a JSON list in the order given."""
        path = ledger.write_only_keys(("b", "ü", "a"))
        assert path == "jobs/job-a/only_keys.json"
        stored = store.get(path)
        assert stored is not None
        assert stored.data == '["b","ü","a"]'.encode()
        assert ledger.read_only_keys(path) == {"a", "b", "ü"}

    def test_a_missing_list_is_fatal(self, ledger: Ledger) -> None:
        """Without its list the job would process every key, so it must not start."""
        with pytest.raises(FatalError) as missing:
            ledger.read_only_keys("jobs/job-a/only_keys.json")
        assert missing.value.code == "spec_missing"
        assert "only_keys.json" in missing.value.message


class TestPlan:
    """Partitions are read by their ids alone."""

    def test_a_partition_takes_one_ranged_read(self, store: StateStore) -> None:
        """Ids locate and prove the bytes, for keys of any kind."""
        counting = FaultyStore(store)
        ledger = Ledger(counting, "job-a")
        keys = ["a b", "ü/😀", 'quote"', "line\nfeed", "//x/./", " "]
        parts = [tuple(planned(key) for key in keys), (planned("single", Action.DELETE),)]
        ids = ledger.write_plan_segment("a01-00000", parts)
        assert len(set(ids)) == 2
        for partition_id, objects in zip(ids, parts, strict=True):
            counting.reads = 0
            partition = ledger.read_partition(partition_id)
            assert counting.reads == 1
            assert partition == Partition(partition_id, objects)
            assert partition_id.endswith(f".{partition.content_hash()}")

    def test_the_plan_streams_in_order_of_segments(self, ledger: Ledger) -> None:
        """Attempts can be distinguished; segments that were written out of order are not."""
        first = ledger.write_plan_segment("a01-00000", [(planned("a"),), (planned("b"),)])
        third = ledger.write_plan_segment("a02-00000", [(planned("d"),)])
        second = ledger.write_plan_segment("a01-00001", [(planned("c"),)])
        assert [p.id for p in ledger.iter_plan()] == [*first, *second, *third]
        assert [p.objects[0].ref.key for p in ledger.iter_plan(2)] == ["d"]
        assert ledger.write_plan_segment("a03-00000", []) == []
        assert list(ledger.iter_plan(3)) == []

    def test_a_segment_is_never_replaced(self, ledger: Ledger) -> None:
        """A retried write is no error; another plan under the same name is."""
        ids = ledger.write_plan_segment("a01-00000", [(planned("a"),)])
        assert ledger.write_plan_segment("a01-00000", [(planned("a"),)]) == ids
        with pytest.raises(StateConflict):
            ledger.write_plan_segment("a01-00000", [(planned("b"),)])
        assert ledger.read_partition(ids[0]).objects == (planned("a"),)

    def test_wrong_ids_and_bytes_are_fatal(self, ledger: Ledger, store: StateStore) -> None:
        """A worker never works on something other than what was planned."""
        (good,) = ledger.write_plan_segment("a01-00000", [(planned("a"),)])
        segment, offset, length, digest = good.split(".")
        for bad in (
            "",
            "x",
            f"{segment}.{offset}.{length}.{'0' * 16}",
            f"{segment}.1.{length}.{digest}",
            f"{segment}.{offset}.999999.{digest}",
            f"{segment}.9999999.{length}.{digest}",
            f"a09-00000.{offset}.{length}.{digest}",
            f"../{segment}.{offset}.{length}.{digest}",
        ):
            with pytest.raises(FatalError) as error:
                ledger.read_partition(PartitionId(bad))
            assert error.value.code == "plan_corrupt"
        store.put("jobs/job-a/plan/a01-00000.jsonl", b"\x00" * 200)
        with pytest.raises(FatalError):
            ledger.read_partition(good)

    def test_the_summary_of_the_plan(self, ledger: Ledger) -> None:
        """plan.json appears when planning is complete."""
        assert ledger.read_plan() is None
        ledger.write_plan({"listed": 3})
        assert ledger.read_plan() == {"listed": 3}


class TestReports:
    """Every report survives, once."""

    def test_a_partitions_done_report_is_found(self, ledger: Ledger) -> None:
        """Only DONE counts, the latest epoch wins, and no other partition's name is taken for it."""
        assert ledger.find_done_report(PartitionId("a01-1.0.5.aa")) is None
        ledger.create_report(report("a01-1.0.5.aa", 3, ReportStatus.RETRY))
        assert ledger.find_done_report(PartitionId("a01-1.0.5.aa")) is None
        for epoch in (1, 2):
            ledger.create_report(report("a01-1.0.5.aa", epoch))
        ledger.create_report(report("a01-1.0.5.aab", 9))
        assert ledger.find_done_report(PartitionId("a01-1.0.5.aa")) == report("a01-1.0.5.aa", 2)

    def test_the_first_report_of_an_epoch_stays(self, ledger: Ledger) -> None:
        """A second worker with the same partition and epoch changes nothing; another epoch is another report."""
        ledger.create_report(report("a01-0.0.9.ab", chunks=1))
        ledger.create_report(report("a01-0.0.9.ab", chunks=1))
        ledger.create_report(report("a01-0.0.9.ab", chunks=2))
        ledger.create_report(report("a01-0.0.9.ab", epoch=2, chunks=3))
        assert sorted(r.chunks for r in ledger.iter_reports()) == [1, 3]

    def test_done_replaces_retry_but_not_the_other_way(self, ledger: Ledger) -> None:
        """A partition that was put back and then finished in the same epoch is done."""
        ledger.create_report(report("p", status=ReportStatus.RETRY))
        ledger.create_report(report("p", chunks=1))
        ledger.create_report(report("p", status=ReportStatus.FATAL))
        assert [(r.status, r.chunks) for r in ledger.iter_reports()] == [(ReportStatus.DONE, 1)]

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("write", range(1, 6))
    def test_a_crash_while_folding_loses_and_doubles_nothing(self, store: StateStore, write: int, after: bool) -> None:
        """Wherever folding stops, readers see each report once, before and after it is done again."""
        reports = [report(f"a01-00000.{i}.9.ab", chunks=i) for i in range(4)]
        plain = Ledger(store, "job-a")
        for one in [*reports, report("other", chunks=99)]:
            plain.create_report(one)
        with pytest.raises(Crash):
            Ledger(FaultyStore(store, write, after=after), "job-a").fold_reports("a01-00001", reports)
        assert sorted(r.chunks for r in plain.iter_reports()) == [0, 1, 2, 3, 99]
        plain.fold_reports("a01-00001", reports)
        assert sorted(r.chunks for r in plain.iter_reports()) == [0, 1, 2, 3, 99]
        assert list(store.list("jobs/job-a/reports/single/")) == ["jobs/job-a/reports/single/other.1.json"]
        plain.create_report(reports[0])  # a zombie's late write
        assert sorted(r.chunks for r in plain.iter_reports()) == [0, 1, 2, 3, 99]

    def test_a_lost_answer_does_not_stop_folding(self, store: StateStore) -> None:
        """The same fold again is no conflict, another one under the same name is."""
        ledger = Ledger(FaultyStore(store, 1, after=True, lost_answer=True), "job-a")
        with pytest.raises(TransientError):
            ledger.fold_reports("a01-00001", [report("p")])
        ledger.fold_reports("a01-00001", [report("p")])
        with pytest.raises(StateConflict):
            ledger.fold_reports("a01-00001", [report("q")])
        assert [r.partition_id for r in ledger.iter_reports()] == ["p"]

    def test_folding_during_a_read_hides_nothing(self, ledger: Ledger) -> None:
        """A reader that has listed single reports finds them in the segment they moved to."""
        reports = [report(f"p{i}") for i in range(5)]
        for one in reports:
            ledger.create_report(one)
        reading = ledger.iter_reports()
        names = [next(reading).partition_id]
        ledger.fold_reports("a01-00001", reports)
        names += [r.partition_id for r in reading]
        assert sorted(names) == [r.partition_id for r in reports]

    def test_reports_come_back_equal(self, ledger: Ledger) -> None:
        """Folding keeps every field."""
        one = report("p", chunks=7)
        ledger.create_report(one)
        assert list(ledger.iter_reports()) == [one]
        ledger.fold_reports("a01-00001", [one])
        assert list(ledger.iter_reports()) == [one]


class TestFailures:
    """The list of failures, page by page."""

    def read_all(self, ledger: Ledger, limit: int) -> Iterator[list[dict[str, Any]]]:
        cursor: str | None = None
        while True:
            items, cursor = ledger.read_failures(cursor, limit)
            yield items
            if cursor is None:
                return
            assert cursor.replace("-", "").replace("_", "").isalnum()

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
    def test_pages_are_a_disjoint_cover(self, ledger: Ledger, limit: int) -> None:
        """Whatever the size of a page, every item comes once, and only the last page may be short."""
        for number, size in enumerate([3, 1, 0, 4]):
            ledger.write_failures(f"a01-{number:05d}", [{"key": f"{number}/{i}\n"} for i in range(size)])
        pages = list(self.read_all(ledger, limit))
        assert [item["key"] for page in pages for item in page] == [
            f"{number}/{i}\n" for number, size in enumerate([3, 1, 0, 4]) for i in range(size)
        ]
        assert all(len(page) == limit for page in pages[:-1])

    def test_a_cursor_survives_new_and_removed_segments(self, ledger: Ledger) -> None:
        """Paging goes on behind the place it had reached."""
        ledger.write_failures("a01-00000", [{"n": 1}, {"n": 2}])
        ledger.write_failures("a02-00000", [{"n": 4}])
        _, cursor = ledger.read_failures(None, 1)
        ledger.write_failures("a01-00001", [{"n": 3}])
        assert ledger.read_failures(cursor, 9) == ([{"n": 2}, {"n": 3}, {"n": 4}], None)
        ledger.delete_failures("a01-")
        assert ledger.read_failures(cursor, 9) == ([{"n": 4}], None)

    def test_foreign_cursors_are_refused(self, ledger: Ledger) -> None:
        """A cursor is ours or an error that names the field."""
        ledger.write_failures("a01-00000", [{"n": 1}, {"n": 2}])
        _, cursor = ledger.read_failures(None, 1)
        assert cursor is not None
        for bad in ("", "!", "ü", "YTAx", "YTAxLTAwMDAwLjM", "YTAxLTAwMDAwLjk5OTk", cursor + "A", cursor[:-2]):
            with pytest.raises(SubmissionError) as error:
                ledger.read_failures(bad, 9)
            assert error.value.field == "cursor"

    def test_a_page_reads_little_of_a_large_segment(self, store: StateStore) -> None:
        """A page's cost does not depend on the size of its segment."""

        class Measured(FaultyStore):
            read_bytes = 0

            def get_range(self, path: str, start: int, length: int) -> bytes:
                data = super().get_range(path, start, length)
                self.read_bytes += len(data)
                return data

        measured = Measured(store)
        ledger = Ledger(measured, "job-a")
        ledger.write_failures("a01-00000", [{"n": n, "reason": "x" * 200} for n in range(20_000)])
        cursor: str | None = None
        for page in range(3):
            measured.read_bytes = 0
            items, cursor = ledger.read_failures(cursor, 50)
            assert [item["n"] for item in items] == list(range(page * 50, page * 50 + 50))
            assert measured.read_bytes < 100_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 150_000), min_size=1, max_size=6), st.data())
def test_lines_come_back_from_any_line_on(
    tmp_path_factory: pytest.TempPathFactory, sizes: Sequence[int], data: Any
) -> None:
    """Blocks may end anywhere: lines and offsets are those of the file, and a start inside a line is refused."""
    store = LocalStateStore(f"file://{tmp_path_factory.mktemp('lines')}")
    lines = [b"x" * size for size in sizes]
    body = b"".join(line + b"\n" for line in lines)
    store.put("lines", body)
    offsets = [sum(len(line) + 1 for line in lines[:i]) for i in range(len(lines))]
    first = data.draw(st.integers(0, len(lines) - 1))
    assert list(iter_lines(store, "lines", offsets[first])) == list(zip(offsets[first:], lines[first:], strict=True))
    if sizes[first] > 0:
        with pytest.raises(ValueError):
            next(iter_lines(store, "lines", offsets[first] + 1))


class TestEnd:
    """Progress, summary, abort and log."""

    def test_values_come_back(self, ledger: Ledger) -> None:
        """Absent values are None; written ones are equal."""
        assert (ledger.read_progress(), ledger.read_summary(), ledger.read_log(1)) == (None, None, None)
        ledger.write_progress({"phase": "running"})
        ledger.write_progress({"phase": "finishing"})
        ledger.write_summary({"state": "failed", "attempt": 1, "epoch": 4})
        assert ledger.read_progress() == {"phase": "finishing"}
        assert ledger.read_summary() == {"state": "failed", "attempt": 1, "epoch": 4}

    @pytest.mark.parametrize(
        "zombie", [{"attempt": 1, "epoch": 9}, {"attempt": 2, "epoch": 3}, {"attempt": 1, "epoch": None}]
    )
    def test_a_zombies_summary_does_not_replace_its_successors(self, ledger: Ledger, zombie: dict[str, Any]) -> None:
        """The latest attempt, and of it the latest epoch, has the last word."""
        ledger.write_summary({"attempt": 2, "epoch": 4, "state": "succeeded"})
        with pytest.raises(LeaseLost):
            ledger.write_summary({**zombie, "state": "failed"})
        ledger.write_summary({"attempt": 2, "epoch": 4, "state": "succeeded"})
        ledger.write_summary({"attempt": 3, "epoch": None, "state": "failed"})
        assert ledger.read_summary() == {"attempt": 3, "epoch": None, "state": "failed"}

    def test_abort_is_for_good(self, ledger: Ledger) -> None:
        """Asking twice is asking once."""
        assert not ledger.is_aborted()
        ledger.request_abort("canceled by müller")
        ledger.request_abort("again")
        assert ledger.is_aborted()

    def test_a_log_keeps_its_end(self, ledger: Ledger) -> None:
        """Bytes are counted, characters are not torn."""
        ledger.write_log(1, "start" + "ü" * LOG_MAX_BYTES + "end")
        text = ledger.read_log(1)
        assert text is not None
        assert text.endswith("üend")
        assert set(text[:-3]) == {"ü"}
        assert LOG_MAX_BYTES - 4 <= len(text.encode()) <= LOG_MAX_BYTES


def test_jobs_do_not_see_each_other(store: StateStore) -> None:
    """A job whose id starts with another's has its own ledger."""
    Ledger(store, "job-a1").write_failures("a01-0", [{"n": 1}])
    assert Ledger(store, "job-a").read_failures(None, 5) == ([], None)
