"""Which connections stay when there are too many, and how long each may take."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ingestion_engine.api.metrics import HttpLoad
from ingestion_engine.runtime.settings import LimitsSettings
from ingestion_engine.server import connections
from ingestion_engine.server.connections import (
    BUFFERED_BYTES,
    FOR_PROBES,
    LINGER_S,
    ConnectionGuard,
    Phase,
    limit_connections,
)


@dataclass(eq=False)
class Link:
    """A connection that notes what is done to it."""

    done: list[str] = field(default_factory=list)
    buffered: int = 0

    def abort(self) -> None:
        self.done.append("abort")

    def give_up(self) -> None:
        self.done.append("give up")

    def count_buffered(self) -> int:
        return self.buffered


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


LIMITS = LimitsSettings(header_timeout_s=10, send_timeout_s=30)


class Doorman:
    """A guard over a clock that stands still."""

    def __init__(self, most: int = 3) -> None:
        self.clock, self.load = Clock(), HttpLoad()
        self.guard = ConnectionGuard(LIMITS, most=most, load=self.load, clock=self.clock)

    def add(self, phase: Phase = Phase.OPENING) -> Link:
        link = Link()
        assert self.guard.add(link)
        if phase is not Phase.OPENING:
            self.guard.move(link, phase)
        return link

    def check_at(self, now: float) -> None:
        self.clock.now = now
        self.guard.check()


@pytest.fixture
async def doorman() -> Doorman:
    return Doorman()


async def test_the_oldest_without_a_request_makes_way(doorman: Doorman) -> None:
    """Before idle ones, and never one whose request is being answered."""
    idle, first, second = doorman.add(Phase.IDLE), doorman.add(), doorman.add()
    doorman.add()
    assert (idle.done, first.done, second.done) == ([], ["abort"], [])
    doorman.add(Phase.ANSWERING)
    assert second.done == ["abort"]
    doorman.add(Phase.ANSWERING)
    assert idle.done == []
    doorman.add(Phase.ANSWERING)
    assert idle.done == ["abort"]
    assert doorman.load.closed["evicted"] == 4


async def test_probes_have_room_when_nobody_can_go(doorman: Doorman) -> None:
    """A few further connections, for them only; beyond those there is none."""
    busy = [doorman.add(Phase.ANSWERING) for _ in range(3)]
    extra = [doorman.add(Phase.ANSWERING) for _ in range(FOR_PROBES)]
    assert all(doorman.guard.is_reserve(link) for link in extra)
    assert not any(doorman.guard.is_reserve(link) for link in busy)
    assert not doorman.guard.add(Link())
    assert doorman.load.closed["refused"] == 1
    doorman.guard.remove(busy[0])
    for link in extra:
        doorman.guard.remove(link)
    assert not doorman.guard.is_reserve(doorman.add())


async def test_headers_must_come_in_time(doorman: Doorman) -> None:
    """From the connection on, or from the first byte of a further request; an idle connection may be idle."""
    opening, idle, begun = doorman.add(), doorman.add(Phase.IDLE), doorman.add(Phase.IDLE)
    doorman.clock.now = 5
    doorman.guard.begin(begun)
    doorman.guard.begin(begun)
    doorman.check_at(11)
    assert (opening.done, idle.done, begun.done) == (["give up"], [], [])
    doorman.check_at(16)
    assert (idle.done, begun.done) == ([], ["give up"])


async def test_a_body_is_not_a_header(doorman: Doorman) -> None:
    """It has time-outs of its own, and a long answer none."""
    sending, answering = doorman.add(Phase.SENDING), doorman.add(Phase.ANSWERING)
    doorman.check_at(1000)
    assert (sending.done, answering.done) == ([], [])


async def test_who_is_not_read_is_cut_off(doorman: Doorman) -> None:
    """After the time for all and that for the size; a client that catches up begins anew."""
    slow, fast = doorman.add(Phase.ANSWERING), doorman.add(Phase.ANSWERING)
    slow.buffered = fast.buffered = 100_000
    doorman.check_at(0)
    fast.buffered = 0
    doorman.check_at(39)
    assert slow.done == []
    fast.buffered = 100_000
    doorman.check_at(41)
    assert (slow.done, fast.done) == (["abort"], [])
    assert doorman.load.closed["send_timeout"] == 1


async def test_answers_that_wait_have_a_limit_of_memory(doorman: Doorman) -> None:
    """All together; those that have waited longest go first."""
    first = doorman.add(Phase.ANSWERING)
    first.buffered = BUFFERED_BYTES // 2
    doorman.check_at(0)
    second = doorman.add(Phase.ANSWERING)
    second.buffered = BUFFERED_BYTES // 2 + 2
    doorman.check_at(1)
    assert (first.done, second.done) == (["abort"], [])


async def test_what_nobody_wants_is_read_for_a_moment_only(doorman: Doorman) -> None:
    """Long enough for a client to see that it was refused."""
    ending = doorman.add(Phase.ENDING)
    doorman.check_at(LINGER_S - 0.1)
    assert ending.done == []
    doorman.check_at(LINGER_S + 0.1)
    assert ending.done == ["abort"]


async def test_every_connection_is_counted_once(doorman: Doorman) -> None:
    """By what it does; one that has ended no more, however often that is noted."""
    link = doorman.add(Phase.ANSWERING)
    doorman.add()
    assert doorman.guard.count() == {"opening": 1, "idle": 0, "sending": 0, "answering": 1, "ending": 0}
    doorman.guard.remove(link)
    doorman.guard.remove(link)
    doorman.guard.move(link, Phase.IDLE)
    assert doorman.guard.count() == {"opening": 1, "idle": 0, "sending": 0, "answering": 0, "ending": 0}


@pytest.mark.parametrize(
    ("files", "setting", "expected"),
    [
        (400, None, 256),
        (100, None, 50),  # few files: half of them
        (1024, None, 880),
        (1_048_576, None, 20_000),
        (resource.RLIM_INFINITY, None, 20_000),
        (1024, 100, 100),
        (1024, 5000, 880),  # a setting cannot make files
    ],
)
def test_the_limit_follows_from_open_files(files: int, setting: int | None, expected: int) -> None:
    """Less what the service opens itself."""
    assert limit_connections(LimitsSettings(connections=setting), files) == expected


async def in_rounds(fact: Callable[[], object]) -> None:
    """Let the loop go on, round by round, until a fact holds."""
    for _ in range(1000):
        if fact():
            return
        await asyncio.sleep(0)
    pytest.fail("the fact did not come true")


async def test_many_are_looked_at_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are served in between, and who ends meanwhile is not looked at."""
    monkeypatch.setattr(connections, "PORTION", 10)
    monkeypatch.setattr(connections, "TICK_S", 0)
    clock = Clock()
    guard = ConnectionGuard(LimitsSettings(), most=100, load=HttpLoad(), clock=clock)
    links = [Link() for _ in range(35)]
    for link in links:
        guard.add(link)
    clock.now = 100
    await in_rounds(lambda: links[0].done)
    assert [len(link.done) for link in links] == [1] * 10 + [0] * 25
    guard.remove(links[20])
    await in_rounds(lambda: links[-1].done)
    assert not links[20].done
    guard.close()
