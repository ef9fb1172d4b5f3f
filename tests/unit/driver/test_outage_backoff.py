"""The back-off of the driver: how long a job stands still because of an outage, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ingestion_engine.domain.errors import FatalError, LeaseLost, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.monitor import Monitor
from ingestion_engine.driver.outage_backoff import LONGEST_PAUSE_S, OutageBackoff
from support.world import SkippingClock, World, make_world


@dataclass
class Clock:
    """A clock that only sleeping moves; ``at_most_s`` ends a test that would sleep forever."""

    now: float = 0.0
    at_most_s: float = 10_000.0
    on_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        assert self.now < self.at_most_s, "the pause never ends"
        self.on_sleep()


@dataclass
class Rig:
    """A back-off with a dependency that is down until a moment of the clock."""

    up_at: float = 0.0
    works_at: float = 0.0
    """Moment from which work succeeds, if later than the probes."""
    probes: bool = True
    clock: Clock = field(default_factory=Clock)
    tries: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        ledger = World().submit()
        self.monitor = Monitor(ledger.read_spec(), 1, ledger, counts=Counts(), log_text=lambda: None, clock=self.clock)
        self.backoff = OutageBackoff(
            self.monitor,
            first_pause_s=5,
            sleep=self.clock.sleep,
            clock=self.clock,
            probe=lambda _code: self.clock.now >= self.up_at if self.probes else None,
        )

    def act(self) -> str:
        self.tries.append(self.clock.now)
        if self.clock.now < max(self.up_at, self.works_at):
            raise TransientError("qdrant_unavailable", "Qdrant is unavailable.")
        return "done"


def test_partitions_of_one_outage_share_one_pause() -> None:
    """Five partitions put back together pause the job once, for the first pause, not for 80 seconds."""
    rig = Rig(probes=False)
    for _ in range(5):
        rig.backoff.back_off("Weaviate is unavailable.", code="weaviate_unavailable", began_at_step=0)
    rig.backoff.wait()
    assert rig.clock.now == pytest.approx(5)


def test_a_failure_of_work_from_before_the_pause_is_no_news() -> None:
    """A partition that began before the pause and fails after it does not lengthen the outage."""
    rig = Rig(probes=False)
    rig.backoff.back_off("down", code="qdrant_unavailable", began_at_step=0)
    rig.backoff.wait()
    rig.backoff.back_off("down", code="qdrant_unavailable", began_at_step=0)
    assert not rig.backoff.is_paused()
    rig.backoff.back_off("down", code="qdrant_unavailable", began_at_step=rig.backoff.step)
    rig.backoff.wait()
    assert rig.clock.now == pytest.approx(5 + 10)


def test_a_success_of_work_from_before_the_pause_does_not_end_the_outage() -> None:
    """What was written before the outage says nothing about the dependency now."""
    rig = Rig(probes=False)
    rig.backoff.back_off("down", code="qdrant_unavailable", began_at_step=0)
    rig.backoff.reset(began_at_step=0)
    assert rig.backoff.is_paused()
    rig.backoff.wait()
    rig.backoff.reset(began_at_step=rig.backoff.step)
    rig.backoff.back_off("down", code="qdrant_unavailable")
    rig.backoff.wait()
    assert rig.clock.now == pytest.approx(5 + 5)


@pytest.mark.parametrize("outage_s", [3.0, 40.0, 400.0, 4000.0])
def test_the_end_of_an_outage_is_noticed_within_seconds(outage_s: float) -> None:
    """However long the outage was, the job goes on at most three seconds after it."""
    rig = Rig(up_at=outage_s)
    assert rig.backoff.retry_until_available(rig.act) == "done"
    assert outage_s <= rig.clock.now <= outage_s + 3


def test_a_probe_that_is_wrong_does_not_make_the_job_hammer() -> None:
    """A server that answers probes but no work is tried as often as one without probes: at growing intervals."""
    rig = Rig(works_at=1000.0)
    rig.backoff.retry_until_available(rig.act)
    gaps = [after - before for before, after in zip(rig.tries, rig.tries[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[0] < 5
    assert max(gaps) <= LONGEST_PAUSE_S + 3
    assert len(rig.tries) < 30


def test_work_is_tried_once_a_minute_although_the_probe_fails() -> None:
    """A driver that does not reach a dependency which the workers reach does not stand still forever."""
    rig = Rig(up_at=1e9)
    rig.backoff.back_off("down", code="qdrant_unavailable")
    rig.backoff.wait()
    assert LONGEST_PAUSE_S <= rig.clock.now <= LONGEST_PAUSE_S + 1


def test_a_pause_that_a_server_requested_is_kept() -> None:
    """Retry-After is longer than any probe may shorten."""
    rig = Rig()
    rig.backoff.back_off("busy", 90.0, code="qdrant_unavailable")
    rig.backoff.wait()
    assert 90 <= rig.clock.now <= 91


def test_an_outage_of_one_dependency_is_not_over_because_another_one_answers() -> None:
    """The driver's own successful calls to the state store do not shorten the pauses of a store's outage."""
    rig = Rig(probes=False)
    for _ in range(3):
        rig.backoff.back_off("down", code="weaviate_unavailable")
        rig.backoff.wait()
        rig.backoff.retry_until_available(lambda: None)
    assert rig.clock.now == pytest.approx(5 + 10 + 20)


def test_a_job_that_has_to_stop_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline ends the pause at once."""
    rig = Rig(up_at=1e9)
    rig.clock.on_sleep = lambda: rig.monitor.stop(FatalError("max_runtime_exceeded", "Too long."))
    with pytest.raises(FatalError):
        rig.backoff.retry_until_available(rig.act)
    assert rig.clock.now < 2


def test_a_stopping_job_waits_between_tries_to_make_its_outcome_durable() -> None:
    """While the outcome is written, an outage is waited for instead of spinning; only a lost lease ends it."""
    rig = Rig(up_at=100.0)
    rig.monitor.stop(FatalError("max_runtime_exceeded", "Too long."))
    with rig.monitor.finishing():
        assert rig.backoff.retry_until_available(rig.act) == "done"
    assert len(rig.tries) < 10
    rig = Rig(up_at=1e9)
    rig.clock.on_sleep = lambda: rig.monitor.stop(LeaseLost("lease_lost", "Taken over."))
    with rig.monitor.finishing(), pytest.raises(LeaseLost):
        rig.backoff.retry_until_available(rig.act)


def test_a_job_shows_its_pause_and_its_end() -> None:
    """Phase and note tell the outage, also when two threads wait for different things."""
    rig = Rig(probes=False)
    state: StateStore = World().state
    assert state is not None
    other = OutageBackoff(rig.monitor, first_pause_s=50, sleep=rig.clock.sleep, clock=rig.clock)
    rig.backoff.back_off("Qdrant is down.", code="qdrant_unavailable")
    other.back_off("The state store is down.", code="s3_unavailable")
    assert rig.monitor.progress()["note"] == "Qdrant is down. The state store is down."
    rig.backoff.wait()
    assert (rig.monitor.progress()["phase"], rig.monitor.progress()["note"]) == ("paused", "The state store is down.")
    other.wait()
    assert (rig.monitor.progress()["phase"], rig.monitor.progress()["note"]) == ("planning", None)


def test_an_outage_of_a_store_holds_a_job_up_for_seconds_only() -> None:
    """Five partitions in flight are put back by a blip of half a minute; the job ends seconds after it."""
    world = make_world()
    for number in range(20):
        world.bucket.put(f"many-{number:02}.txt", f"Text number {number}.")
    clock = SkippingClock()
    back_at_s = 30.0

    def away(*_: object) -> None:
        if clock.skipped_s < back_at_s:
            raise TransientError("weaviate_unavailable", "Weaviate is unavailable.")

    world.weaviate.before_write = away
    world.weaviate.before_read = away
    engine = world.engine
    waiting: list[PartitionId] = []
    run_one = engine.run

    def run_five(spec_uri, partition_ids, *, should_stop):  # type: ignore[no-untyped-def]  # as InProcessEngine.run
        for partition_id in partition_ids:
            if partition_id is None:
                continue
            waiting.append(partition_id)
            if len(waiting) == 5:
                yield from run_one(spec_uri, [waiting.pop(0) for _ in range(5)])
        yield from run_one(spec_uri, [waiting.pop(0) for _ in range(len(waiting))])

    engine.run = run_five  # type: ignore[method-assign]
    summary = world.attempt(world.submit(parallelism=5), engine=engine, clock=clock)
    assert summary is not None
    assert summary["state"] == "succeeded"
    assert back_at_s <= clock.skipped_s <= back_at_s + 3
