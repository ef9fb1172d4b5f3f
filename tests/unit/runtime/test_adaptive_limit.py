"""The adaptive limit, in simulated time: two requests per machine behind a URL, whatever it is like."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from sim_limits import Result, Setting, Simulation, mean_limit

from ingestion_engine.runtime.adaptive_limit import AdaptiveLimit, Outcome, Passage


class Clock:
    """A clock that advances only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(setting: Setting, seed: int = 1, **options: int) -> Result:
    return Simulation(setting, lambda clock: AdaptiveLimit(clock=clock, **options), seed).run()


def limit_at(result: Result, time: float) -> int:
    return [limit for since, limit in result.limits if since <= time][-1]


@pytest.mark.parametrize("front", ["least", "robin", "shared"])
@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8])
def test_two_requests_per_machine(slots: int, front: str) -> None:
    """Found within five seconds, kept for two minutes, and the machines are busy."""
    result = run(Setting(slots=slots, front=front, seconds=120))
    assert {limit_at(result, time) for time in (5, 20, 60, 90, 120)} == {2 * slots}
    assert result.busy_after(10, 120) > 0.99


@pytest.mark.parametrize(("slots", "front"), [(1, "shared"), (4, "least"), (4, "robin")])
@pytest.mark.parametrize("load_s", [1.0, 10.0])
def test_the_time_to_load_a_model_is_not_the_time_of_a_request(slots: int, front: str, load_s: float) -> None:
    """Else one server seemed to be thirty, and a search waited behind the half of as many batches."""
    result = run(Setting(slots=slots, front=front, model_load_s=load_s, seconds=120))
    assert max(limit for _, limit in result.limits) <= 2 * slots + 1
    assert {limit_at(result, time) for time in (60, 90, 120)} == {2 * slots}  # further slots load when they get work


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slots", [1, 4, 8])
def test_a_noisy_server(slots: int, seed: int) -> None:
    """Durations that vary by 10 %, batches that differ: the limit stays near, and seldom moves."""
    result = run(Setting(slots=slots, noise=0.1, texts=(6, 8), seconds=130), seed)
    assert result.busy_after(10, 130) > 0.98
    assert 0.85 * 2 * slots <= mean_limit(result, 10, 130) <= 1.3 * 2 * slots
    assert len(result.limits) < 40


def test_probes_cost_less_than_a_hundredth() -> None:
    """A request is alone about once a minute, after more at the start."""
    result = run(Setting(slots=8, seconds=600))
    assert result.busy_after(120, 600) > 0.99


def test_machines_that_join_and_leave() -> None:
    """The limit follows within ten seconds."""
    result = run(Setting(slots_later={30.0: 8, 60.0: 2}, seconds=90))
    assert (limit_at(result, 29), limit_at(result, 40)) == (8, 16)
    assert limit_at(result, 70) in (4, 5)
    assert min(result.busy_after(40, 60), result.busy_after(65, 90)) > 0.98


@pytest.mark.parametrize("speed", [0.33, 0.77, 1.3, 3.0])
def test_machines_that_become_faster_or_slower(speed: float) -> None:
    """Another duration of requests is no other number of machines."""
    result = run(Setting(speed_later={30.0: speed}, seconds=200))
    assert result.busy_after(40, 200) > 0.98
    assert 7 <= limit_at(result, 200) <= 10


def test_an_outage() -> None:
    """Errors halve the limit down to one, and afterwards it is as before within five seconds."""
    result = run(Setting(outage=(20.0, 30.0), seconds=60))
    assert limit_at(result, 25) == 1
    assert {limit_at(result, time) for time in (35, 45, 60)} == {8}


def test_callers_that_are_the_limit_teach_nothing() -> None:
    """With two requests at most, a limit of two is enough; it does not grow because the machines could do more."""
    assert limit_at(run(Setting(slots=8, most_in_flight=1, seconds=60)), 60) == 2
    few = run(Setting(slots=1, load=2.0, seconds=200))
    assert limit_at(few, 200) == 2


def test_small_requests_before_large_ones() -> None:
    """Their fixed cost says nothing about large ones: searches on an idle server do not raise a job's limit."""
    clock = Clock()
    limit = AdaptiveLimit(clock=clock)
    for _ in range(20):
        search = limit.begin(50)
        clock.now += 0.025
        limit.end(search, Outcome.DONE)
    queue: list[Passage] = []
    most = 0
    for _ in range(200):
        queue += [limit.begin(5_600) for _ in range(max(limit.room, 0))]
        clock.now += 0.13
        limit.end(queue.pop(0), Outcome.DONE)
        most = max(most, limit.limit)
    assert (most <= 3, limit.limit) == (True, 2)


def test_the_upper_bound() -> None:
    """Also when it is less than the start."""
    assert limit_at(run(Setting(slots=8), most=5), 40) == 5
    assert AdaptiveLimit(most=1).limit == 1
    two = run(Setting(slots=4, seconds=200), most=2)
    assert two.limits == [(0.0, 2)]
    assert two.busy_after(10, 200) > 0.49  # nothing to learn, so no request is sent alone


def test_a_declared_capacity_needs_no_learning() -> None:
    """Twice the capacity from the first request on; errors halve it, and successes bring it back."""
    result = run(Setting(slots=4, outage=(20.0, 21.0)), capacity=4)
    assert [limit_at(result, time) for time in (0, 10, 40)] == [8, 8, 8]
    assert limit_at(result, 20.9) == 1
    assert AdaptiveLimit(capacity=8, most=6).limit == 6
    assert AdaptiveLimit(capacity=8).is_learned


def test_requests_that_fail_together_halve_once() -> None:
    """Eight time-outs of one hanging machine are one sign."""
    limit = AdaptiveLimit(capacity=4, clock=Clock())
    for flight in [limit.begin(100) for _ in range(8)]:
        limit.end(flight, Outcome.FAILED)
    assert limit.limit == 4


def test_an_abandoned_request_still_runs_for_a_while() -> None:
    """Nobody waits for it, but the server computes: its place is free only after about the time it takes."""
    clock = Clock()
    limit = AdaptiveLimit(clock=clock)
    alone = limit.begin(1_000)
    clock.now += 1.0
    limit.end(alone, Outcome.DONE)
    abandoned = limit.begin(1_000)
    clock.now += 0.5
    limit.end(abandoned, Outcome.ABANDONED)
    assert (limit.in_flight, limit.room, limit.next_change_at) == (0, 1, 102.5 + 0.5)
    clock.now = limit.next_change_at
    assert limit.room == 2


def test_refusals_are_neither_failures_nor_progress() -> None:
    """A text that is too long is not the server's fault."""
    limit = AdaptiveLimit(clock=Clock())
    for _ in range(50):
        limit.end(limit.begin(1_000), Outcome.REFUSED)
    assert (limit.limit, limit.in_flight) == (2, 0)


def test_an_urgent_request_ends_a_probe() -> None:
    """Else requests that need no room would keep all others waiting."""
    clock = Clock()
    limit = AdaptiveLimit(clock=clock)
    held: list[Passage] = []
    for _ in range(400):
        while limit.room > 0:
            held.append(limit.begin(1_000))
        if limit.room == 0 and len(held) < limit.limit:
            break
        clock.now += 0.05
        limit.end(held.pop(0), Outcome.DONE)
    assert len(held) < limit.limit
    assert limit.room == 0
    urgent = limit.begin(50)
    assert limit.room == limit.limit - len(held) - 1
    limit.end(urgent, Outcome.DONE)


def test_the_limit_is_known_once_requests_have_queued() -> None:
    """Before, searches may not make jobs leave half of it."""
    simulation = Simulation(replace(Setting(slots=4), seconds=0.3), lambda clock: AdaptiveLimit(clock=clock))
    simulation.run()
    assert not simulation.limit.is_learned
    simulation = Simulation(replace(Setting(slots=4), seconds=6.0), lambda clock: AdaptiveLimit(clock=clock))
    simulation.run()
    assert simulation.limit.is_learned
