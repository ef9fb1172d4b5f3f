"""What uses up the failure budget: objects that became bad, not those that were bad before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline import load
from ingestion_engine.pipeline.parsing import parse
from ingestion_engine.state.ledger import Ledger
from support.doubles import InProcessEngine
from support.world import World, balanced

NOTHING = {"max_fraction": 0, "min_objects": 0}
BAD = ("bad-1.txt", "bad-2.txt", "bad-3.txt")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A collection of which a release could read five objects and could not read three."""
    world = World()
    world.bucket.objects.clear()
    for number in range(5):
        world.bucket.put(f"good-{number}.txt", f"Good text number {number}.")
    for key in BAD:
        world.bucket.put(key, "Bad.")
    reads(monkeypatch, lambda key: key not in BAD)
    summary = world.run()
    assert (summary["state"], summary["counts"]["failed"], summary["counts"]["failed_again"]) == (
        "partially_succeeded",
        3,
        0,
    )
    return world


def reads(monkeypatch: pytest.MonkeyPatch, readable: Callable[[str], bool]) -> None:
    """Have workers read only some keys."""

    async def parse_object(raw: RawObject, *, limits: FrozenLimits) -> Document:
        if not readable(raw.ref.key):
            raise ObjectError("corrupt_document", "It is damaged.")
        return parse.parse_bytes(raw, limits)

    monkeypatch.setattr(load, "parse_object", parse_object)


def shown(summary: dict[str, Any] | None) -> tuple[str, str | None, int, int]:
    """State, code, failed objects, and those of them that failed before."""
    assert summary is not None
    assert balanced(summary)
    counts = summary["counts"]
    return summary["state"], (summary["error"] or {}).get("code"), counts["failed"], counts["failed_again"]


@pytest.mark.parametrize("mode", ["sync", "full"])
def test_what_failed_before_an_upgrade_uses_up_no_budget_after_it(world: World, mode: str) -> None:
    """The new readers try everything again, and nothing has become worse."""
    world.parser_version = "parser-2"
    summary = world.run(mode=mode, failure_budget=NOTHING)
    assert shown(summary) == ("partially_succeeded", None, 3, 3)
    assert (summary["counts"]["done"], summary["counts"]["retried"]) == (5, 3)
    assert shown(world.run(failure_budget=NOTHING)) == ("partially_succeeded", None, 0, 0), "known and unchanged"


@pytest.mark.parametrize("change", ["other readers", "another version", "a new object"])
def test_what_fails_for_the_first_time_does(world: World, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Also beside objects that fail again, and also a new version of an object that failed."""
    world.parser_version = "parser-2"
    if change == "other readers":
        reads(monkeypatch, lambda key: key not in (*BAD, "good-1.txt"))
    elif change == "another version":
        world.bucket.put("bad-1.txt", "Bad in another way.")
    else:
        world.bucket.put("bad-4.txt", "Bad.")
        reads(monkeypatch, lambda key: not key.startswith("bad"))
    summary = world.run(failure_budget=NOTHING)  # stops at once: not every object has its turn
    counts, planned = summary["counts"], 9 if change == "a new object" else 8
    assert (summary["state"], summary["error"]["code"]) == ("failed", "failure_budget_exceeded")
    assert counts["failed"] - counts["failed_again"] == 1
    assert summary["error"]["message"].startswith(f"1 of {planned} objects failed, which is more than")
    assert ("which it does not count" in summary["error"]["message"]) == bool(counts["failed_again"])
    assert shown(world.run(failure_budget={"max_fraction": 0, "min_objects": 1}))[0] == "partially_succeeded"


def test_a_retry_that_changes_nothing_is_no_failure(world: World) -> None:
    """What the caller has tried again fails again."""
    assert shown(world.run(retry_failed=True, failure_budget=NOTHING)) == ("partially_succeeded", None, 3, 3)


def test_a_second_attempt_counts_what_the_first_one_found_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the first attempt say that the objects failed, its reports that they had failed before."""
    world.parser_version = "parser-2"
    ledger = world.submit(failure_budget=NOTHING)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write_summary", _die)
        with pytest.raises(RuntimeError, match="died"):
            world.attempt(ledger)
    assert shown(world.attempt(ledger, 2)) == ("partially_succeeded", None, 3, 3)


@pytest.mark.parametrize("is_later_job", [False, True], ids=["next attempt", "next job"])
def test_what_a_dead_attempt_had_planned_is_still_known_to_have_failed(world: World, is_later_job: bool) -> None:
    """Its rows say that it was interrupted, and that they had failed before it; a new version is a new object."""
    world.parser_version = "parser-2"
    ledger = world.submit(failure_budget=NOTHING)
    with pytest.raises(RuntimeError, match="died"):
        world.attempt(ledger, engine=dying(world))
    summary = world.run(failure_budget=NOTHING) if is_later_job else world.attempt(ledger, 2)
    assert shown(summary) == ("partially_succeeded", None, 3, 3)
    world.parser_version = "parser-3"
    ledger = world.submit(failure_budget=NOTHING)
    with pytest.raises(RuntimeError, match="died"):
        world.attempt(ledger, engine=dying(world))
    world.bucket.put("bad-2.txt", "Bad in another way.")
    summary = world.attempt(ledger, 2)
    assert summary is not None
    assert summary["error"]["code"] == "failure_budget_exceeded"


def test_a_new_version_of_what_ended_in_an_unexpected_error_is_a_new_object(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ingested like something unfinished, but nobody knows yet whether it can be read."""

    async def parse_object(raw: RawObject, *, limits: FrozenLimits) -> Document:
        if raw.ref.key == "good-1.txt":
            raise RuntimeError("A defect of the parser.")
        if raw.ref.key in BAD:
            raise ObjectError("corrupt_document", "It is damaged.")
        return parse.parse_bytes(raw, limits)

    monkeypatch.setattr(load, "parse_object", parse_object)
    world.bucket.put("good-1.txt", "A text that shows a defect.")
    assert shown(world.run()) == ("partially_succeeded", None, 1, 0)
    assert shown(world.run(failure_budget=NOTHING)) == ("partially_succeeded", None, 1, 1), "the same content"
    world.bucket.put("good-1.txt", "Another text that shows it.")
    assert shown(world.run(failure_budget=NOTHING)) == ("failed", "failure_budget_exceeded", 1, 0)


@pytest.mark.parametrize("change", ["becomes good", "fails anew"])
def test_a_failure_that_a_later_attempt_tries_again_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """An object that had failed before changes between two attempts: what the first one counted of it is past."""
    world.parser_version = "parser-2"
    ledger = world.submit(failure_budget=NOTHING)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write_summary", _die)
        with pytest.raises(RuntimeError, match="died"):
            world.attempt(ledger)
    world.bucket.put("bad-1.txt", "Another version.")
    if change == "becomes good":
        world.bucket.put("bad-4.txt", "Bad.")
        reads(monkeypatch, lambda key: key == "bad-1.txt" or not key.startswith("bad"))
    assert shown(world.attempt(ledger, 2)) == ("failed", "failure_budget_exceeded", 3, 2)


def dying(world: World) -> InProcessEngine:
    """An engine whose driver dies before it has run anything."""
    engine = world.engine
    engine.run = _die  # type: ignore[method-assign]  # in place of the iteration over partitions
    return engine


def _die(*_: object, **__: object) -> None:
    raise RuntimeError("The driver died.")
