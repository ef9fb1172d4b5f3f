"""The monitor: what an attempt notices, whatever goes wrong in its threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from ingestion_engine.domain.errors import JobAborted, TransientError
from ingestion_engine.domain.ids import ObjectId, PartitionId
from ingestion_engine.domain.records import (
    Action,
    ObjectRef,
    ObjectResult,
    Outcome,
    PartitionReport,
    PlannedObject,
    ReportStatus,
    RunningPartition,
)
from ingestion_engine.driver import monitor as monitor_module
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.log_tail import LogTail
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.plan.diff import DiffRules, diff_objects
from ingestion_engine.state.ledger import Ledger
from support.doubles import MemoryState
from support.waiting import wait_for
from support.world import World, make_world

PARTITION, OTHER = PartitionId("a01-00001.0.10.0123456789abcdef"), PartitionId("a01-00001.10.10.0123456789abcdee")


@dataclass
class HandClock:
    """A monotonic clock that the test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FaultyWrites(MemoryState):
    """A state store whose next writes to some paths raise errors."""

    faults: dict[str, list[Exception]] = field(default_factory=dict)

    def put(self, path: str, data: bytes) -> None:
        for part, errors in self.faults.items():
            if part in path and errors:
                raise errors.pop(0)
        super().put(path, data)


def make_monitor(state: MemoryState, clock: HandClock | None = None, **more: object) -> tuple[Monitor, Ledger]:
    world = World(state=state)
    ledger = world.submit()
    options = {"counts": Counts(), "log_text": lambda: None, **more}
    if clock is not None:
        options["clock"] = clock
    return Monitor(ledger.read_spec(), 1, ledger, **options), ledger  # type: ignore[arg-type]  # options by name


def test_an_unexpected_error_does_not_blind_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a defect in one write, a cancel request still stops the job, and progress is written again."""
    monkeypatch.setattr("ingestion_engine.driver.monitor.TICK_S", 0.01)
    state = FaultyWrites(faults={"progress.json": [RuntimeError("dictionary changed size during iteration")]})
    monitor, ledger = make_monitor(state)
    with monitor:
        wait_for(lambda: ledger.read_progress() is not None, 20)
        ledger.request_abort("enough")
        wait_for(monitor.should_stop, 20)
    assert isinstance(monitor.stopped, JobAborted)


def test_the_counts_are_read_while_the_plan_thread_adds_an_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object with a new action, found in the middle of the sum, does not disturb it."""
    counts = Counts()
    refs = [ObjectRef("docs", f"{n}.txt", "e", 1, "2026-01-01T00:00:00Z") for n in range(2)]
    rules = DiffRules(
        job_id="j",
        bucket="docs",
        fingerprint="f",
        full=False,
        delete_missing=True,
        retry_failed=False,
        selects=lambda _key: True,
    )
    found: Iterator[PlannedObject] = diff_objects(refs, [], rules, counts.tally)
    next(found)

    class PlanGoesOn(frozenset[Action]):
        def __contains__(self, action: object) -> bool:
            counts.tally.by_action.setdefault(Action.RETRY, 1)  # what the plan thread does
            return False

    monkeypatch.setattr("ingestion_engine.driver.counts.REMOVALS", PlanGoesOn())
    assert counts.planned == 2


def break_store(state: MemoryState, error: Exception) -> None:
    """Let every read fail as if the store answered something impossible."""

    def fail(_path: str) -> None:
        raise error

    state.get = fail  # type: ignore[assignment,method-assign]  # a store of its own, of one test


def test_an_attempt_that_cannot_be_checked_ends_with_the_cause() -> None:
    """Unexpected errors in every check for half a minute end the attempt; a short series does not."""
    clock = HandClock()
    state = MemoryState()
    monitor, _ = make_monitor(state, clock)
    break_store(state, KeyError("Contents"))
    monitor.step()
    clock.now += monitor_module.BLIND_S - 1
    monitor.step()
    assert not monitor.should_stop()
    clock.now += 2
    monitor.step()
    assert monitor.stopped is not None
    assert monitor.stopped.code == "unexpected_error"
    assert "KeyError" in monitor.stopped.message


def test_the_deadline_is_kept_while_the_state_store_fails() -> None:
    """max_runtime_s does not depend on any other check."""
    clock = HandClock()
    state = MemoryState()
    monitor, _ = make_monitor(state, clock)
    break_store(state, ValueError("broken"))
    clock.now += 86_401
    monitor.step()
    assert monitor.stopped is not None
    assert monitor.stopped.code == "max_runtime_exceeded"


def test_a_log_that_could_not_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the log is not lost because nothing more was logged after an outage of the state store."""
    monkeypatch.setattr("ingestion_engine.driver.monitor.LOG_TICKS", 1)
    texts: list[str | None] = ["the last line\n"]
    state = FaultyWrites(faults={"/log/": [TransientError("s3_unavailable", "S3 is unavailable.")]})
    monitor, ledger = make_monitor(state, log_text=lambda: texts.pop() if texts else None)
    with monitor:
        wait_for(lambda: not texts, 20)
    assert ledger.read_log(1) == "the last line\n"


def test_a_line_that_cannot_be_formatted_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Python's own handlers, a defect in a log line is reported and ignored."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    tail = LogTail()
    logger = logging.getLogger("test.log_tail")
    logger.addHandler(tail)
    logger.warning("%d objects", "no number")
    logger.warning("still here")
    logger.removeHandler(tail)
    assert tail.take() == "still here\n"


def test_an_outage_of_the_state_store_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log's end is not filled by one line a second; the end of the outage is a line of its own."""
    outage = [TransientError("s3_unavailable", "S3 is unavailable.") for _ in range(50)]
    state = FaultyWrites(faults={"progress.json": list(outage)})
    monitor, _ = make_monitor(state)
    with caplog.at_level(logging.INFO, "ingestion_engine"):
        for _ in range(51):
            monitor.step()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["the monitor could not do a part of its work", "the monitor works again"]


def test_an_attempt_that_crashes_says_why_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    """A defect in the plan thread ends the attempt, and both threads' lines are in the log that outlives it."""
    world = make_world()

    def fail() -> None:
        raise KeyError("Contents")

    ledger = world.submit()
    listings = 0

    def on_list() -> None:
        nonlocal listings
        listings += 1
        if listings == 2:  # the first one looks for any object at all
            fail()

    world.bucket.on_list = on_list
    with caplog.at_level(logging.INFO, "ingestion_engine"), pytest.raises(KeyError):
        world.attempt(ledger)
    lines = [record.getMessage() for record in caplog.records if record.exc_info]
    assert lines == ["planning failed unexpectedly", "attempt failed unexpectedly"]
    assert ledger.read_summary() is None


def test_a_later_attempt_shows_what_was_done_until_it_has_planned() -> None:
    """It waits for the lease for a minute: a job that falls from 58 objects and 12 % to nothing looks like a loss."""
    counts = Counts()
    monitor, _ = make_monitor(MemoryState(), counts=counts)
    monitor.continue_from({"percent": 12.0, "counts": {"planned": 480, "done": 58, "chunks": 231}})
    waiting = monitor.progress()
    assert (waiting["percent"], waiting["planning_complete"]) == (12.0, False)
    assert [waiting["counts"][name] for name in ("planned", "done", "chunks", "failed")] == [480, 58, 231, 0]
    counts.tally.already_done, counts.chunks, counts.tally.complete = 60, 240, True
    assert [monitor.progress()["counts"][name] for name in ("done", "chunks")] == [60, 240]
    counts.start_over()
    assert monitor.progress()["counts"]["done"] == 0


def test_a_later_attempt_does_not_replace_progress_that_it_has_not_read() -> None:
    """When S3 is slow at that moment, the first tick comes before the answer."""
    first, ledger = make_monitor(MemoryState())
    first.continue_from({"percent": 12.0, "counts": {"done": 58}})
    first.step()
    second = Monitor(ledger.read_spec(), 2, ledger, counts=Counts(), log_text=lambda: None)
    second.step()
    before = ledger.read_progress()
    assert before is not None
    assert before["counts"]["done"] == 58
    second.continue_from(before)
    second.step()
    after = ledger.read_progress()
    assert after is not None
    assert (after["attempt"], after["counts"]["done"]) == (2, 58)


def test_a_job_that_stops_says_so_while_its_workers_end() -> None:
    """They may take a minute; without it, a job beyond its time limit looks as if the limit were ignored."""
    clock = HandClock()
    monitor, ledger = make_monitor(MemoryState(), clock)
    clock.now += ledger.read_spec().request.max_runtime_s + 1
    monitor.step()
    progress = ledger.read_progress()
    assert progress is not None
    assert progress["note"].startswith("The job stops: The attempt ran longer than the max_runtime_s of ")
    assert progress["eta_s"] is None


def test_an_unreachable_state_store_shows_no_remaining_time() -> None:
    """Its workers cannot do anything durable either; a remaining time that grows every second is no estimate."""
    clock, counts = HandClock(), Counts()
    outage = [TransientError("s3_unavailable", "S3 is unavailable.") for _ in range(40)]
    monitor, _ = make_monitor(FaultyWrites(faults={"progress.json": list(outage)}), clock, counts=counts)
    counts.tally.complete = True
    monitor.meter.begin_plan(counts, 1.0)
    counts.add_work_planned({PARTITION: 1.0, OTHER: 1.0})
    monitor.meter.close_plan()
    monitor.meter.start()
    monitor.progress()
    counts.add_report(PartitionReport(OTHER, ReportStatus.DONE, 1))
    clock.now += 10
    assert monitor.progress()["eta_s"] == 10.0
    for _ in range(40):
        clock.now += 1
        monitor.step()
    assert monitor.progress()["eta_s"] is None


def test_the_time_of_waits_is_counted_by_what_is_waited_for_over_all_attempts() -> None:
    """Pauses by the codes of their errors, waiting workers by their reasons, and the wait for the lease."""
    clock, counts = HandClock(), Counts()
    monitor, ledger = make_monitor(MemoryState(), clock, counts=counts)

    def pass_s(seconds: float) -> None:
        clock.now += seconds
        monitor.step()

    pass_s(5)
    monitor.pause("Qdrant at http://q refuses connections.", by="outage", codes=frozenset({"qdrant_unavailable"}))
    pass_s(10)
    monitor.pause("Odd.", by="another", codes=frozenset({"ollama_unavailable", "unheard_of"}))
    pass_s(4)
    monitor.resume(by="another")
    monitor.resume(by="outage")
    pass_s(7)
    monitor.phase, monitor.note = "waiting", "Waiting for the lease."
    pass_s(3)
    monitor.phase, monitor.note = "running", None
    counts.add_work_planned({PARTITION: 1.0})
    counts.set_running({PARTITION: RunningPartition(0.1, 0, 0, waits_for="Weaviate at http://w has not responded.")})
    assert monitor.find_causes() == {"weaviate"}
    progress = ledger.read_progress()
    assert progress is not None
    assert progress["waits_for"] == "lease"
    waited = progress["timings"]["wait_seconds"]
    assert waited == {"qdrant": 14, "embedder": 4, "other": 4, "lease": 3}
    later = Monitor(ledger.read_spec(), 2, ledger, counts=Counts(), log_text=lambda: None)
    later.continue_from(progress)
    assert later.timings()["wait_seconds"] == waited


def test_requests_of_workers_are_added_over_reports_also_of_those_returned() -> None:
    """And failures are counted by code; a worker of an earlier release reports no requests."""
    counts = Counts()
    made = {"qdrant": {"done": 3, "failed": 1, "seconds": 0.25}}
    counts.add_report(PartitionReport(PARTITION, ReportStatus.DONE, 1, requests=made))
    counts.add_returned(PartitionReport(OTHER, ReportStatus.RETRY, 1, requests=made))
    counts.add_report(PartitionReport.from_json({"partition_id": OTHER, "status": "done", "epoch": 1, "results": []}))
    assert counts.timings()["requests"] == {"qdrant": {"done": 6, "failed": 2, "seconds": 0.5}}
    failed = ObjectResult(
        key="a",
        outcome=Outcome.FAILED,
        etag="e",
        size_bytes=1,
        last_modified="",
        object_id=ObjectId("o"),
        error_code="no_text",
    )
    counts.add_report(PartitionReport(PARTITION, ReportStatus.DONE, 1, results=(failed, failed)))
    assert counts.to_json()["failures.no_text"] == 2


def test_samples_and_phases_go_on_over_attempts() -> None:
    """The second attempt keeps the throughput of the first one, and adds to the seconds of its phases."""
    state, clock = MemoryState(), HandClock()
    counts = Counts()
    monitor, ledger = make_monitor(state, clock, counts=counts)
    for _ in range(3):
        clock.now += 2
        counts.chunks += 10
        monitor.step()
    first = ledger.read_progress()
    assert first is not None
    assert first["timings"]["phase_seconds"] == {"planning": 6.0}
    assert [sample[1] for sample in first["throughput"]["samples"]][-1] == 30
    following = Monitor(ledger.read_spec(), 2, ledger, counts=Counts(), log_text=lambda: None, clock=clock)
    following.continue_from(first)
    following.phase = "running"
    clock.now += 5
    following.step()
    progress = following.progress()
    assert progress["timings"]["phase_seconds"] == {"planning": 6.0, "running": 5.0}
    assert progress["throughput"]["samples"][0] == first["throughput"]["samples"][0]
    following.continue_from({"counts": {}, "timings": None})  # of a release without either
