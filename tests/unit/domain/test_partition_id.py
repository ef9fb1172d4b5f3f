"""Names of segments and ids of partitions: one text form, written and read in one place."""

from __future__ import annotations

import pickle

import orjson
import pytest
import ray

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ids import PartitionId, PointId, SegmentKind, SegmentName
from ingestion_engine.domain.records import Action, ObjectRef, Partition, PartitionReport, ReportStatus, StraySearch
from ingestion_engine.engines.ray.engine import _report

LINE = b'{"objects":[]}'


@pytest.mark.parametrize(
    ("attempt", "number", "kind", "name"),
    [
        (1, 3, SegmentKind.WORK, "a01-00003"),
        (1, 4, SegmentKind.DELETIONS, "a01-d00004"),
        (12, 5, SegmentKind.STRAY_SEARCHES, "a12-s00005"),
        (100, 123456, SegmentKind.WORK, "a100-123456"),
    ],
)
def test_an_id_gives_back_what_it_was_made_of(attempt: int, number: int, kind: SegmentKind, name: str) -> None:
    """Attempt, kind, segment, byte range and hash, for every kind of segment."""
    segment = SegmentName.make(attempt, number, kind)
    assert segment == name
    assert segment.startswith(SegmentName.prefix(attempt))
    made = PartitionId.make(segment, 512, LINE)
    assert made == f"{name}.512.14.736520c9db846d6e"
    assert (made.attempt, made.kind, made.segment, made.byte_range) == (attempt, kind, name, (512, 14))
    assert made.matches(LINE)
    assert not made.matches(LINE + b" ")


@pytest.mark.parametrize("text", ["", "a01", "a1-00001", "ab-00001", "../a01-00001", "a01-x00001.0.1.0123456789abcdef"])
def test_a_malformed_id_is_a_corrupt_plan(text: str) -> None:
    """The error says what an id looks like."""
    with pytest.raises(FatalError, match="is not a partition id") as malformed:
        _ = PartitionId(text).attempt
    assert (malformed.value.code, malformed.value.context) == ("plan_corrupt", {"partition_id": text})


def test_an_id_crosses_processes_as_text() -> None:
    """Reports that return as JSON have an id that can be parsed again."""
    made = PartitionId.make("a01-00001", 0, LINE)
    report = PartitionReport(made, ReportStatus.DONE, 3)
    assert PartitionReport.from_json(orjson.loads(orjson.dumps(report.to_json()))).partition_id.kind is SegmentKind.WORK
    assert type(str(made)) is str


def test_a_stray_search_has_the_line_of_former_versions() -> None:
    """Plans on disk stay readable in both directions."""
    search = StraySearch("docs", PointId("0" * 8), PointId("f" * 8))
    partition = Partition.of_items(PartitionId("a01-s00001.0.1.x"), [search])
    assert partition.to_json() == {"objects": [["docs", "00000000..ffffffff", "", 0, "", "stray"]]}
    assert Partition.from_json(partition.id, partition.to_json()) == partition
    assert (partition.objects, partition.searches) == ((), (search,))


def test_an_object_has_the_line_of_former_versions() -> None:
    """Short without prior points, longer with them."""
    row = ["docs", "a", "e", 1, "t", "changed", 2, "d", "v"]
    for stored in (row[:6], row, [*row, "job-1", "f", {"team": "x"}]):
        partition = Partition.from_json(PartitionId(""), {"objects": [stored]})
        assert partition.to_json() == {"objects": [stored]}
        assert partition.objects[0].ref == ObjectRef("docs", "a", "e", 1, "t")
        assert partition.objects[0].action is Action.CHANGED


def test_an_id_is_pickled_as_a_plain_string() -> None:
    """So a driver with another version of the package can read the reports of its workers."""
    partition_id = PartitionId.make("a01-00001", 0, b"line")
    copy = pickle.loads(pickle.dumps(partition_id))
    assert (type(copy), copy) == (str, partition_id)


def test_reports_of_ray_carry_a_partition_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the worker's version made of it: rounds parse it when a process has died."""
    partition_id = PartitionId.make("a01-d00001", 0, b"line")
    sent = PartitionReport(partition_id, ReportStatus.DONE, 1)
    monkeypatch.setattr(ray, "get", pickle.loads)
    report = _report(pickle.dumps(sent), partition_id)
    assert type(report.partition_id) is PartitionId
    assert report == sent
