"""A fault at every single call that a job makes: the next attempt or the next job leaves what an undisturbed one does.

The calls are not chosen by anybody: each kind of job runs once undisturbed, and every call seen is then met by every
kind of fault, one run each.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.state.aliases import find_alias
from ingestion_engine.state.collections import list_open_plans
from ingestion_engine.state.lease import read_lease
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.doubles import Crash
from support.every_step import KINDS, Fault, Step, WatchedAttempt
from support.world import FAST, PARAGRAPHS, World, balanced

SLICES = 32
"""``make test`` runs the first of this many slices of all runs, ``make nightly`` the others."""
PARTS = [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, SLICES))]
ATTEMPTS = 4
JOB_FIELDS = {"epoch", "job_id", "ingested_at"}


def text(*numbers: int, mark: str = "") -> str:
    return "\n\n".join(f"{PARAGRAPHS[number]} {mark}" for number in numbers)


def filled(**request: Any) -> World:
    """A collection of six objects, one of which is read through a temporary file."""
    world = World(limits=FAST.model_copy(update={"partition_objects": 2}), large_bytes=400)
    for i in range(6):
        world.bucket.put(f"doc-{i}.txt", text(*range(i + 1), mark=f"({i})"))
    world.bucket.put("long.txt", text(*range(12), mark="(long)"))
    assert world.run(parallelism=1, **request)["state"] == "succeeded"
    return world


def changed(**request: Any) -> World:
    """Objects were changed, added and removed since, and one cannot be read."""
    world = filled(**request)
    world.bucket.put("doc-0.txt", PARAGRAPHS[5])
    world.bucket.put("doc-3.txt", text(2, 3, 4) + "\n\nand more")
    world.bucket.put("long.txt", text(*range(3, 12), mark="(long)"))
    world.bucket.put("doc-9.txt", "Entirely new.")
    world.bucket.put("empty.txt", b"")
    del world.bucket.objects["doc-1.txt"]
    return world


def damaged() -> World:
    """Both stores lost and changed points behind the engine's back."""
    world = filled()
    left, right = (store.collections["notes"] for store in world.stores.values())
    for held, drop in ((left, ("doc-4.txt", 0)), (right, ("doc-5.txt", 2)), (left, ("long.txt", 5))):
        del held[next(p.id for p in held.values() if (p.payload["key"], p.payload["chunk_index"]) == drop)]
    return world


@dataclass(frozen=True)
class Scenario:
    """A kind of job, and the world in which it runs."""

    prepare: Callable[[], World]
    request: dict[str, Any]
    collection: str = "notes"


SCENARIOS = {
    "sync": Scenario(changed, {}),
    "full": Scenario(changed, {"mode": "full"}),
    "verify": Scenario(damaged, {"mode": "verify"}),
    "repair": Scenario(damaged, {"mode": "repair"}),
    "delete": Scenario(filled, {"mode": "delete", "source": {"bucket": "docs", "prefix": "doc-"}}),
    "alias": Scenario(lambda: filled(alias="live"), {"alias": "live", "collection": "notes2"}, "notes2"),
    "first": Scenario(lambda: changed(collection="other"), {}),
}


def submit(world: World, scenario: Scenario) -> Ledger:
    return world.submit(parallelism=1, **scenario.request)


def outcome(world: World, collection: str) -> dict[str, Any]:
    """Return what a user can find of a collection, without the fields that name the job."""

    def points(name: StoreName) -> list[Any]:
        held = world.stores[name].collections.get(collection, {}).values()
        return sorted(
            (p.id, sorted((k, repr(v)) for k, v in p.payload.items() if k not in JOB_FIELDS), p.vector.tobytes())
            for p in held
        )

    rows = ObjectTable(world.state, collection).scan()
    alias = find_alias(world.state, "live")
    return {
        "points": {name: points(name) for name in world.stores},
        "table": {row.key: (row.state, row.error_code, row.chunk_count, row.points_digest) for row in rows},
        "alias": alias and alias.collection,
        "stores' aliases": [dict(store.aliases) for store in world.stores.values()],
    }


def failures(ledger: Ledger) -> list[Any]:
    items, _ = ledger.read_failures(None, 1000)
    return sorted((item["key"], item["code"], repr(item.get("differences"))) for item in items)


def run_to_its_end(world: World, ledger: Ledger, fault: Fault) -> tuple[dict[str, Any], int]:
    """Run attempts until the job has a summary; return it and the number of attempts. The first one meets a fault."""
    for number in range(1, ATTEMPTS + 1):
        attempt = WatchedAttempt(world, ledger, number, fault if number == 1 else None)
        try:
            attempt.run()
        except (Crash, BaseExceptionGroup, RuntimeError, FatalError):  # the process ended, perhaps with a traceback
            if number > 1:
                raise
        assert number > 1 or attempt.watch.met, "the step was not found again"
        summary = ledger.read_summary()
        if summary is not None:
            return summary, number
    raise AssertionError("the job never ends")


def steps_of(name: str) -> tuple[list[Step], dict[str, Any], list[Any], dict[str, Any]]:
    """Run a job undisturbed; return its calls, its outcome, its failures and its summary."""
    scenario = SCENARIOS[name]
    world = scenario.prepare()
    ledger = submit(world, scenario)
    attempt = WatchedAttempt(world, ledger)
    summary = attempt.run()
    assert summary is not None
    return sorted(attempt.watch.steps), outcome(world, scenario.collection), failures(ledger), summary


def check(name: str, kind: str, step: Step, expected: tuple[dict[str, Any], list[Any], dict[str, Any]]) -> None:
    """One run: a fault at a step, then what the next attempts and jobs leave."""
    scenario = SCENARIOS[name]
    expected_outcome, expected_failures, expected_summary = expected
    world = scenario.prepare()
    ledger = submit(world, scenario)
    summary, _ = run_to_its_end(world, ledger, Fault(kind, step))
    lease = read_lease(world.state, scenario.collection)
    assert lease is None or lease.released or "lease.json" in step.call
    assert summary == ledger.read_summary()
    if summary["error"] == expected_summary["error"] or summary["state"] == "succeeded" == expected_summary["state"]:
        for count in ("listed", "done", "failed", "skipped", "deleted", "to_delete", "different", "foreign_points"):
            assert summary["counts"][count] == expected_summary["counts"][count], count
    else:
        assert summary["state"] == {"denied": "failed", "abort": "canceled"}.get(kind), summary
        assert kind != "denied" or summary["error"]["code"] == "denied"
        ledger = submit(world, scenario)
        again = WatchedAttempt(world, ledger).run()
        assert again is not None
        assert again["state"] == expected_summary["state"]
    if name == "verify":
        found = failures(ledger)
        # A list that a frozen driver was just writing comes late, and says the same again.
        late = kind == "freeze" and "/failures/" in step.call
        assert (sorted(set(found)) if late else found) == expected_failures
    assert list_open_plans(world.state, scenario.collection) == []
    if kind == "freeze" and step.system in {"qdrant", "weaviate"} and name != "verify":
        world.run(mode="repair", collection=scenario.collection)  # the documented exception: a late write
    assert outcome(world, scenario.collection) == expected_outcome
    if name != "verify":
        assert world.run(mode="verify", collection=scenario.collection)["state"] == "succeeded"


def runs_of(steps: list[Step]) -> list[tuple[str, Step]]:
    return [(kind, step) for step in steps for kind in KINDS if step.in_worker or not kind.startswith("death")]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hundreds of runs log thousands of errors."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("part", PARTS)
def test_a_fault_at_any_call_changes_nothing_in_the_end(name: str, part: int) -> None:
    """One slice of all calls and faults."""
    steps, *expected = steps_of(name)
    chosen = [run for run in runs_of(steps) if zlib.crc32(repr(run).encode()) % SLICES == part]
    assert len(chosen) > 10
    assert balanced(expected[2]) or name in {"verify", "delete"}
    broken = {}
    for kind, step in chosen:
        try:
            check(name, kind, step, tuple(expected))
        except BaseException as error:
            broken[f"{kind}: {step}"] = f"{type(error).__name__}: {error}".split("\n")[0]
    assert not broken
