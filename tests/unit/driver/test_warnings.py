"""What was left out of an object is in its row and in the counts of its job, whatever interrupts the job."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from ingestion_engine.domain.errors import ObjectError, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import Document, RawObject, ReadWarning, load_warnings
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.driver.counts import Counts
from ingestion_engine.pipeline import load
from ingestion_engine.pipeline.parsing.parse import parse_object
from ingestion_engine.state.object_table.table import ObjectTable
from support.doubles import Crash, Killed
from support.world import FAST, PARAGRAPHS, World


@pytest.fixture(autouse=True)
def _leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects whose text says LEFT n were read without n lines, and a part."""

    async def parse(raw: RawObject, *, limits: FrozenLimits) -> Document:
        document = await parse_object(raw, limits=limits)
        lines = document.text.count("LEFT")
        warnings = (ReadWarning("lines_skipped", lines, "Line 2 is not JSON."), ReadWarning("part_unreadable", 1, "p"))
        return replace(document, warnings=warnings) if lines else document

    monkeypatch.setattr(load, "parse_object", parse)


def make_world(**limits: Any) -> World:
    world = World(limits=FAST.model_copy(update=limits))
    for number, mark in enumerate(["", "LEFT", "", "LEFT LEFT", ""]):
        world.bucket.put(f"doc-{number}.txt", f"{PARAGRAPHS[number]} {mark}")
    return world


EXPECTED = {"objects_with_warnings": 2, "warnings.lines_skipped": 3, "warnings.part_unreadable": 2}
NONE = {"objects_with_warnings": 0}


def shown(summary: dict[str, Any] | None) -> dict[str, int]:
    assert summary is not None
    return {name: number for name, number in summary["counts"].items() if "warnings" in name}


def kept(world: World) -> dict[str, list[tuple[str, int]]]:
    """Return the warnings of every row that has some."""
    rows = {row.key: load_warnings(row.warnings) for row in ObjectTable(world.state, "notes").scan()}
    return {key: [(warning.code, warning.count) for warning in found] for key, found in rows.items() if found}


ROWS = {
    "doc-1.txt": [("lines_skipped", 1), ("part_unreadable", 1)],
    "doc-3.txt": [("lines_skipped", 2), ("part_unreadable", 1)],
}


def test_a_job_counts_what_was_left_out_and_rows_keep_it() -> None:
    """The objects are done; a job that leaves them unchanged counts nothing and loses nothing."""
    world = make_world()
    summary = world.run()
    assert (summary["state"], summary["counts"]["done"], shown(summary)) == ("succeeded", 5, EXPECTED)
    assert kept(world) == ROWS
    assert shown(world.run()) == NONE
    assert kept(world) == ROWS


def test_a_new_version_has_the_warnings_of_that_version() -> None:
    """Repaired files lose them, and a version that fails has none: its row names the failed version."""
    world = make_world()
    world.run()
    world.bucket.put("doc-1.txt", PARAGRAPHS[1])
    world.bucket.put("doc-3.txt", b"")
    world.bucket.put("doc-4.txt", "Now with LEFT.")
    changed = shown(world.run())
    assert changed == {"objects_with_warnings": 1, "warnings.lines_skipped": 1, "warnings.part_unreadable": 1}
    assert kept(world) == {"doc-4.txt": ROWS["doc-1.txt"]}


def test_comparisons_keep_what_was_left_out() -> None:
    """Whether they find nothing, repair from the other store, or ingest the object again."""
    world = make_world()
    world.run()
    assert shown(world.run(mode="verify")) == NONE
    del world.qdrant.collections["notes"][world.points(world.qdrant, "doc-1.txt")[0].id]
    assert shown(world.run(mode="repair")) == NONE, "repaired without reading the object"
    assert kept(world) == ROWS
    for store in (world.qdrant, world.weaviate):
        del store.collections["notes"][world.points(store, "doc-1.txt")[0].id]
    summary = world.run(mode="repair")
    assert summary["counts"]["repaired"] == 1
    assert shown(summary) == {"objects_with_warnings": 1, "warnings.lines_skipped": 1, "warnings.part_unreadable": 1}
    assert kept(world) == ROWS


def test_a_partition_that_is_divided_loses_no_warning() -> None:
    """One object ends its worker each time; the others of its partition run again, in partitions of their own."""
    world = make_world()
    ledger, engine = world.submit(parallelism=1), world.engine

    def die(partition_id: PartitionId) -> None:
        if "doc-2.txt" in [planned.ref.key for planned in ledger.read_partition(partition_id).objects]:
            raise Killed

    engine.before = die
    summary = world.attempt(ledger, engine=engine)
    assert summary is not None
    assert (summary["counts"]["done"], summary["counts"]["failed"], shown(summary)) == (4, 1, EXPECTED)
    assert kept(world) == ROWS


def test_an_outage_loses_no_warning() -> None:
    """What a partition had finished before it was put back keeps its warnings."""
    world = make_world()
    left = [2]

    def away(_kind: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise TransientError("weaviate_unavailable", "gone for now")

    world.weaviate.before_write = away
    assert shown(world.run(parallelism=1)) == EXPECTED
    assert kept(world) == ROWS


def test_the_next_attempt_counts_what_earlier_ones_had_finished() -> None:
    """After a crash at any durable step, rows and counts are those of an undisturbed job."""
    for step in itertools.count(1):
        world = make_world(partition_objects=1)
        ledger, seen = world.submit(parallelism=1), [0]

        def crash(kind: str, path: str = "", *, seen: list[int] = seen, step: int = step) -> None:
            if not any(word in path for word in ("progress", "/log/", "lease.json")):  # written by timers
                seen[0] += 1
                if seen[0] == step:
                    raise Crash

        world.state.before_write, world.qdrant.before_write, world.weaviate.before_write = crash, crash, crash
        try:
            world.attempt(ledger)
        except (Crash, BaseExceptionGroup):
            pass
        else:
            assert step > 20
            return
        seen[0] = step  # no crash any more
        assert shown(world.attempt(ledger, 2)) == EXPECTED, step
        assert kept(world) == ROWS, step


def test_counts_start_over_with_the_plan() -> None:
    """What was ingested before is then counted from the object table."""
    counts = Counts(warned=3, warnings={"x": 4})
    counts.start_over()
    assert (counts.to_json()["objects_with_warnings"], "warnings.x" in counts.to_json()) == (0, False)


def test_a_reason_can_be_stored_whatever_it_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON and Arrow refuse lone surrogates, of which names inside of files may consist."""

    async def parse(raw: RawObject, *, limits: FrozenLimits) -> Document:
        if raw.ref.key == "doc-1.txt":
            raise ObjectError("corrupt_document", "Part '\udcff\n' is damaged." + "x" * 2_000)
        return await parse_object(raw, limits=limits)

    monkeypatch.setattr(load, "parse_object", parse)
    world = make_world()
    ledger = world.submit()
    assert world.attempt(ledger) is not None
    [failure] = ledger.read_failures(None, 10)[0]
    assert failure["reason"].startswith("Part '? ' is damaged.xxx")
    assert len(failure["reason"]) == 1_000
    assert {row.reason for row in ObjectTable(world.state, "notes").scan()} == {None, failure["reason"]}


def test_the_reason_of_a_failure_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is whole although the message is cut; without one, the reason is the message."""
    errors = {
        "doc-1.txt": ObjectError("no_text", "It has no text.", hint="Set INGEST_OCR__ENABLED."),
        "doc-2.txt": ObjectError("corrupt_document", "x" * 2_000, hint="Save it again."),
        "doc-3.txt": ObjectError("encrypted_document", "It is encrypted."),
    }

    async def parse(raw: RawObject, *, limits: FrozenLimits) -> Document:
        if raw.ref.key in errors:
            raise errors[raw.ref.key]
        return await parse_object(raw, limits=limits)

    monkeypatch.setattr(load, "parse_object", parse)
    world = make_world()
    ledger = world.submit()
    assert world.attempt(ledger) is not None
    reasons = {failure["key"]: failure["reason"] for failure in ledger.read_failures(None, 10)[0]}
    assert reasons["doc-1.txt"] == "It has no text. Set INGEST_OCR__ENABLED."
    assert (len(reasons["doc-2.txt"]), reasons["doc-2.txt"][-16:]) == (1_000, "… Save it again.")
    assert reasons["doc-3.txt"] == "It is encrypted."
