"""Progress: percent and remaining time follow the work, not the number of objects, and never run backwards."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from ingestion_engine.adapters.patience import Patience
from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus, RunningPartition
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.progress import ProgressMeter
from ingestion_engine.pipeline.live_progress import report_progress
from ingestion_engine.runtime.waits import Wait, current_waits
from support.waiting import wait_for
from support.world import FAST, PARAGRAPHS, SkippingClock, World, make_world

LARGE, SMALL = PartitionId("a01-00001.0.10.0123456789abcdef"), PartitionId("a01-00001.10.10.0123456789abcdee")


def end(counts: Counts, partition_id: PartitionId) -> None:
    counts.add_report(PartitionReport(partition_id, ReportStatus.DONE, 1))


@pytest.fixture
def counts() -> Counts:
    made = Counts()
    made.tally.complete = True
    return made


def planned(counts: Counts, until: float = 1.0, **work: float) -> ProgressMeter:
    meter = ProgressMeter(counts)
    meter.begin_plan(counts, until)
    counts.add_work_planned({LARGE: work["large"], SMALL: work["small"]})
    meter.close_plan()
    meter.start()
    meter.observe(0.0, is_paused=False)
    return meter


def test_a_small_file_is_not_half_of_the_work_beside_a_large_one(counts: Counts) -> None:
    """One of two objects is done after ten seconds; neither 50 % nor ten more seconds would be true."""
    meter = planned(counts, large=200_000, small=100)
    end(counts, SMALL)
    meter.observe(10.0, is_paused=False)
    measured = meter.measure(is_paused=False)
    assert measured.percent is not None
    assert measured.percent < 0.1
    assert measured.eta_s == pytest.approx(20_000, rel=0.01)


def test_a_running_partition_that_is_divided_is_shown_by_its_parts(counts: Counts) -> None:
    """What its worker had reported counts no more; the monitor would fail until it reads the reports again."""
    meter = planned(counts, large=1000, small=0)
    counts.set_running({LARGE: RunningPartition(0.5, 40, 100)})
    parts = [PartitionId("a01-00002.0.10.0123456789abcdef"), PartitionId("a01-00002.10.10.0123456789abcdee")]
    counts.divide(LARGE, parts)
    end(counts, parts[0])
    meter.observe(10.0, is_paused=False)
    assert meter.measure(is_paused=False).percent == 50.0


def test_a_large_object_shows_how_far_it_is(counts: Counts) -> None:
    """What its worker reports counts like finished work: percent, rate and remaining time."""
    meter = planned(counts, large=1000, small=0)
    counts.set_running({LARGE: RunningPartition(share=0.4, chunks=500, bytes_read=1000)})
    meter.observe(20.0, is_paused=False)
    measured = meter.measure(is_paused=False)
    assert (measured.percent, measured.eta_s) == (40.0, 30.0)
    assert measured.rates == {"chunks_per_s": 25.0, "bytes_per_s": 50.0}


def test_percent_never_falls(counts: Counts) -> None:
    """Neither when a partition is put back, nor when a job plans again, nor in its next attempt."""
    meter = planned(counts, large=50, small=50)
    counts.set_running({LARGE: RunningPartition(share=0.8, chunks=1, bytes_read=1)})
    assert meter.measure(is_paused=False).percent == 40.0
    counts.set_running({})
    assert meter.measure(is_paused=False).percent == 40.0
    end(counts, SMALL)
    assert meter.measure(is_paused=False).percent == 50.0
    counts.start_over()
    assert meter.measure(is_paused=False).percent is None
    counts.tally.complete = True
    meter.begin_plan(counts, 1.0)
    counts.add_work_planned({LARGE: 10, SMALL: 10})
    meter.close_plan()
    assert meter.measure(is_paused=False).percent == 50.0
    end(counts, LARGE)
    assert meter.measure(is_paused=False).percent == 75.0
    later = ProgressMeter(counts)
    later.continue_from(75.0)
    assert later.measure(is_paused=False).percent == 75.0


def test_a_later_plan_has_a_part_of_its_own(counts: Counts) -> None:
    """The end of the first plan is not the end of the job, and the remaining time includes what follows."""
    meter = planned(counts, until=0.8, large=60, small=20)
    end(counts, LARGE)
    meter.observe(30.0, is_paused=False)
    measured = meter.measure(is_paused=False)
    assert measured.percent == 60.0
    assert measured.eta_s == pytest.approx(10 + 10)
    proof = Counts()
    end(counts, SMALL)
    meter.measure(is_paused=False)
    meter.begin_plan(proof, 1.0)
    proof.add_work_planned({LARGE: 1, SMALL: 1})
    meter.close_plan()
    end(proof, LARGE)
    assert meter.measure(is_paused=False).percent == 90.0


def test_what_is_unknown_is_not_shown(counts: Counts) -> None:
    """No percent while planning is open; no remaining time before any work is done, or during an outage."""
    meter = planned(counts, large=1, small=1)
    assert meter.measure(is_paused=False).eta_s is None
    end(counts, SMALL)
    meter.observe(1000.0, is_paused=True)
    assert meter.measure(is_paused=True).eta_s is None
    meter.observe(1010.0, is_paused=False)
    assert meter.measure(is_paused=False).eta_s == pytest.approx(10.0)
    counts.tally.complete = False
    assert meter.measure(is_paused=False).percent is None


def test_an_object_in_work_is_reported_by_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an object is half embedded, the ledger tells it; afterwards nothing is left of the report."""
    monkeypatch.setattr("ingestion_engine.pipeline.live_progress.REPORT_EVERY_S", 0.01)
    world = World(limits=FAST.model_copy(update={"embed_in_flight": 1}))
    world.bucket.put("doc.txt", "\n\n".join(PARAGRAPHS))
    ledger, engine = world.submit(parallelism=1), world.engine
    ids: list[PartitionId] = []
    engine.before = ids.append
    goes_on = threading.Event()

    class Slow(type(world.embedder)):  # type: ignore[misc]  # the double of this world
        async def embed(self, model: str, texts: Any, **options: Any) -> Any:
            if self.calls == 1:
                await asyncio.to_thread(goes_on.wait, 60)
            return await super().embed(model, texts)

    world.embedder = engine.embedder = Slow()
    done: list[Any] = []
    job = threading.Thread(target=lambda: done.append(world.attempt(ledger, engine=engine)), daemon=True)
    job.start()
    try:
        found = wait_for(lambda: [s for s in ledger.read_running(lambda _id: True).values() if s.chunks], 30)
        assert found[0].chunks == 4
        assert 0.2 < found[0].share < 0.5
        assert found[0].bytes_read > 0
    finally:
        goes_on.set()
        job.join(60)
    assert done[0]["counts"]["chunks"] == 12
    assert ledger.read_running(lambda _id: True) == {}


def test_the_log_tells_plan_progress_outage_and_end(caplog: pytest.LogCaptureFixture) -> None:
    """In this order: planned before the last partition, a pause with its cause and its end, and a summary."""
    world, clock = make_world(), SkippingClock()
    ledger, engine = world.submit(parallelism=1), world.engine
    planned_at: list[int] = []

    def see(_partition_id: PartitionId) -> None:
        wait_for(lambda: "planned" in [record.getMessage() for record in caplog.records], 30)
        planned_at.append(len(planned_at))

    engine.before = see
    left = [2]

    def away(_kind: str) -> None:
        if left[0]:
            left[0] -= 1
            raise TransientError("weaviate_unavailable", "Weaviate is unavailable.")

    world.weaviate.before_write = away
    with caplog.at_level(logging.INFO, "ingestion_engine"):
        assert world.attempt(ledger, engine=engine, clock=clock) is not None
    wanted = ["planned", "paused: a dependency is unavailable", "trying again", "outage over", "job ended"]
    lines = [record.getMessage() for record in caplog.records if record.getMessage() in wanted]
    assert list(dict.fromkeys(lines)) == wanted
    end = next(record for record in caplog.records if record.getMessage() == "job ended")
    assert (end.attempt, end.outages) == (1, 1)  # type: ignore[attr-defined]  # fields of the event
    assert end.paused_s > 0  # type: ignore[attr-defined]  # a field of the event


def test_a_long_job_logs_progress_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    """Every ten seconds at first, every minute later: a day fits into the end of the log that is kept."""

    class HandClock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock, world = HandClock(), World()
    ledger = world.submit()
    monitor = Monitor(ledger.read_spec(), 1, ledger, counts=Counts(), log_text=lambda: None, clock=clock)
    with caplog.at_level(logging.INFO, "ingestion_engine"):
        for _ in range(3600):
            clock.now += 1
            monitor.step()
    times = [record.elapsed_s for record in caplog.records if record.getMessage() == "progress"]  # type: ignore[attr-defined]  # a field
    assert times[0] == 10
    assert times[-1] - times[-2] == 60
    assert 60 < len(times) < 100


async def test_a_wait_inside_of_a_partition_is_shown_in_its_job() -> None:
    """A worker that repeats a request says why; the job's note has it while the partition runs."""
    refusals = [TransientError("qdrant_unavailable", "Qdrant limits writes.") for _ in range(2)]
    seen: list[list[str]] = []

    async def request() -> str:
        if refusals:
            raise refusals.pop()
        return "done"

    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds
        seen.append(current_waits())

    async def check() -> None: ...

    assert await Patience(check=check, sleep=sleep, clock=lambda: now[0]).repeat(request) == "done"
    assert seen
    assert all(waits == ["Qdrant limits writes."] for waits in seen)
    assert current_waits() == []

    ledger, counts = World().submit(), Counts()
    monitor = Monitor(ledger.read_spec(), 1, ledger, counts=counts, log_text=lambda: None)
    counts.add_work_planned({LARGE: 1.0})
    ledger.write_running(LARGE, RunningPartition(0.5, 1, 1, waits_for="Qdrant limits writes."))
    counts.set_running(ledger.read_running(counts.is_unfinished))
    assert monitor.progress()["note"] == "Partitions wait: Qdrant limits writes."
    end(counts, LARGE)
    assert monitor.progress()["note"] is None


def test_time_in_which_all_partitions_wait_is_no_work(counts: Counts) -> None:
    """An embedder away for a minute shows no remaining time, and does not make the rest look slow afterwards."""
    meter = planned(counts, large=50, small=50)
    end(counts, SMALL)
    meter.observe(10.0, is_paused=False)
    assert meter.measure(is_paused=False).eta_s == pytest.approx(10.0)
    for now in range(11, 71):
        meter.observe(float(now), is_paused=False, is_waiting=True)
    assert meter.measure(is_paused=False).eta_s is None
    meter.observe(71.0, is_paused=False)
    assert meter.measure(is_paused=False).eta_s == pytest.approx(11.0)


def test_a_wait_during_which_others_work_is_work(counts: Counts) -> None:
    """A store that limits its writes slows a job down; its rate and remaining time say so."""
    meter = planned(counts, large=50, small=50)
    for now in range(1, 41):
        counts.set_running(
            {LARGE: RunningPartition(share=now // 4 / 10, chunks=now // 4, bytes_read=0, waits_for="W.")}
        )
        meter.observe(float(now), is_paused=False, is_waiting=True)
    measured = meter.measure(is_paused=False)
    assert measured.rates["chunks_per_s"] == pytest.approx(10 / 40)
    assert measured.eta_s == pytest.approx(40.0)


async def test_a_wait_and_its_end_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the next report, ten seconds later: the job would still show an outage that is over."""
    monkeypatch.setattr("ingestion_engine.pipeline.live_progress.LOOK_EVERY_S", 0.01)
    ledger = World().submit()

    def is_shown(waits_for: str) -> bool:
        return [state.waits_for for state in ledger.read_running(lambda _id: True).values()] == [waits_for]

    async with report_progress(ledger, LARGE, lambda: RunningPartition(0.5, 1, 1)):
        with Wait() as wait:
            wait.begin("Ollama refuses connections.")
            await asyncio.to_thread(wait_for, lambda: is_shown("Ollama refuses connections."), 5)
        await asyncio.to_thread(wait_for, lambda: is_shown(""), 5)
    assert ledger.read_running(lambda _id: True) == {}


def test_the_log_tells_when_partitions_wait_and_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    """Partitions that repeat requests are no pause of the job, but the job stands still all the same."""
    now, ledger, counts = [0.0], World().submit(), Counts()
    monitor = Monitor(ledger.read_spec(), 1, ledger, counts=counts, log_text=lambda: None, clock=lambda: now[0])
    monitor.phase = "running"
    counts.add_work_planned({LARGE: 1.0})

    def tick(waits_for: str) -> None:
        ledger.write_running(LARGE, RunningPartition(0.5, 1, 1, waits_for=waits_for))
        now[0] += 5
        for _ in range(5):
            monitor.step()

    with caplog.at_level(logging.INFO, "ingestion_engine"):
        for waits_for in ("", "Ollama refuses connections.", "Ollama refuses connections.", ""):
            tick(waits_for)
    lines = [record for record in caplog.records if "wait" in record.getMessage()]
    assert [record.getMessage() for record in lines] == ["partitions wait", "no partition waits any more"]
    assert lines[0].error == "Ollama refuses connections."  # type: ignore[attr-defined]  # a field of the event
    assert (lines[1].waited_s, monitor.waited_s) == (10.0, 10.0)  # type: ignore[attr-defined]  # a field of the event


def test_a_gap_in_which_nothing_was_done_is_no_work(counts: Counts) -> None:
    """A state store that hangs stops the monitor too: nobody could say that partitions wait."""
    meter = planned(counts, large=50, small=50)
    end(counts, SMALL)
    meter.observe(10.0, is_paused=False)
    meter.observe(55.0, is_paused=False)
    meter.observe(56.0, is_paused=False)
    assert meter.measure(is_paused=False).eta_s == pytest.approx(11.0)
