"""Reports as JSON: what was left out of an object travels with its result, and releases read each other's reports."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import orjson
import pytest

from ingestion_engine.domain.ids import PartitionId, make_object_id
from ingestion_engine.domain.legible import make_legible
from ingestion_engine.domain.records import (
    ObjectResult,
    Origin,
    Outcome,
    PartitionReport,
    ReadWarning,
    ReportStatus,
    join_warnings,
)

PARTITION = PartitionId("a01-00001.0.14.736520c9db846d6e")


def result(*warnings: ReadWarning) -> ObjectResult:
    return ObjectResult(
        key="a.md",
        outcome=Outcome.DONE,
        etag="e",
        size_bytes=1,
        last_modified="2026-01-01T00:00:00Z",
        object_id=make_object_id("docs", "a.md"),
        origin=Origin("job-1", "f", {"team": "docs"}),
        warnings=warnings,
    )


def through_json(report: PartitionReport) -> dict[str, Any]:
    read: dict[str, Any] = orjson.loads(orjson.dumps(report.to_json()))
    return read


def test_a_report_comes_back_equal_with_what_was_left_out() -> None:
    """Every field survives, nested ones too."""
    results = (result(), result(ReadWarning("lines_skipped", 3, "Line 7 is not JSON."), ReadWarning("part_unreadable")))
    report = PartitionReport(PARTITION, ReportStatus.DONE, 3, results=results, seconds={"embed": 0.5}, chunks=4)
    assert PartitionReport.from_json(through_json(report)) == report


def test_a_result_without_warnings_has_only_the_fields_of_earlier_releases() -> None:
    """Their reader takes no other field, so a driver that was not updated yet reads the report of an updated worker."""
    [plain] = through_json(PartitionReport(PARTITION, ReportStatus.DONE, 3, results=(result(),)))["results"]
    assert "warnings" not in plain
    assert plain.keys() | {"warnings"} == ObjectResult.__dataclass_fields__.keys()
    assert ObjectResult.from_json(plain).warnings == ()


def test_fields_of_later_releases_are_ignored() -> None:
    """In results and warnings as in reports."""
    data = through_json(PartitionReport(PARTITION, ReportStatus.DONE, 3, results=(result(ReadWarning("x", 2, "y")),)))
    data["results"][0] |= {"later": 1, "warnings": [{**data["results"][0]["warnings"][0], "later": 1}]}
    assert PartitionReport.from_json(data | {"later": 1}).results == (result(ReadWarning("x", 2, "y")),)


def test_the_pickled_report_of_an_earlier_release_is_whole() -> None:
    """Ray pickles a record as the list of its fields: those that are missing at its end have their defaults."""
    report = PartitionReport(PARTITION, ReportStatus.RETRY, 3, results=(result(),), chunks=4, requests={}, points={})
    names = list(PartitionReport.__dataclass_fields__)
    for field, default in (("points", None), ("requests", {})):
        old = PartitionReport.__new__(PartitionReport)
        old.__setstate__([getattr(report, name) for name in names[: names.index(field)]])  # type: ignore[attr-defined]  # dataclass
        assert (getattr(old, field), old.chunks) == (default, 4)
        assert replace(old, status=ReportStatus.DONE).points is None
        assert through_json(old)["points"] is None
    former = ObjectResult.__new__(ObjectResult)
    former.__setstate__([getattr(result(), name) for name in ObjectResult.__dataclass_fields__][:-1])  # type: ignore[attr-defined]  # dataclass
    assert former == result()
    assert pickle.loads(pickle.dumps(report)) == report


def test_warnings_are_joined_by_code() -> None:
    """In the order of their first appearance, with the first detail and the sum of the counts."""
    found = [ReadWarning("b", 2, "first"), ReadWarning("a"), ReadWarning("b", 3, "second")]
    assert join_warnings(found) == (ReadWarning("b", 5, "first"), ReadWarning("a", 1, ""))


def test_a_detail_can_be_stored_whatever_the_name_in_it_is() -> None:
    """Attachments may be named with lone surrogates, line feeds and escapes; JSON and Arrow refuse the first."""
    [warning] = join_warnings([ReadWarning("part_unreadable", 1, "\udcffplan\n\x1b[31m" + "x" * 300)])
    assert warning.detail.startswith("?plan  [31mxxx")
    assert (len(warning.detail), warning.detail.isprintable()) == (200, True)
    orjson.dumps(warning)


@pytest.mark.parametrize(("text", "shown"), [("plain", "plain"), ("", ""), ("a" * 9, "aaaa…"), (" a\tb", "a b")])
def test_texts_are_made_legible(text: str, shown: str) -> None:
    """A text that is fine stays as it is."""
    assert make_legible(text, 5) == shown
