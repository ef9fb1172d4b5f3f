"""The dispatcher in simulated time: how long requests wait for a server, and what becomes of those that wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ingestion_engine.adapters.ollama.server_pool import COOL_DOWN_S, ServerPool, ServerState
from ingestion_engine.adapters.ollama.server_urls import ServerAddress
from ingestion_engine.domain.records import Band
from ingestion_engine.gateway import dispatcher
from ingestion_engine.gateway.dispatcher import HOPE_S, AllRights, Call, Dispatcher, Refused, Wanted
from ingestion_engine.gateway.forward import EmbedRequest, Forwarder, Reply, Result, Verdict
from ingestion_engine.gateway.scheduling.fair_queue import FairQueue
from ingestion_engine.gateway.suspects import LASTS_S, MOST, Suspects
from support.waiting import eventually

_ANSWER = Result(Verdict.ANSWER, Reply(200, b"{}"))
_FAILURE = Result(Verdict.FAILED, Reply(500, b'{"error":"runner"}'), "Ollama at http://a responded 500: runner")


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Servers(Forwarder):
    """Answers without a network; a result per URL, and who was asked."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}
        self.poison: bytes | None = None
        """A body that every server fails."""
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def embed(self, address: ServerAddress, request: EmbedRequest, **_: object) -> Result:
        self.asked.append(address.url)
        await self.gate.wait()
        return _FAILURE if request.body == self.poison else self.results.get(address.url, _ANSWER)


class World:
    """A dispatcher of two servers that serve the model m."""

    def __init__(self, rights: AllRights | None = None) -> None:
        self.clock = Clock()
        self.pool = ServerPool(["http://a", "http://b"], clock=self.clock)
        self.servers = Servers()
        self.rights = rights or AllRights()
        queue = FairQueue[Call]()
        self.dispatcher = Dispatcher(queue, self.pool, self.servers, rights=lambda: self.rights, clock=self.clock)
        self.read_models()

    def read_models(self) -> None:
        for server in self.pool.servers:
            self.pool.note_models(server, {"m:latest": "1"})

    def fail_all(self) -> None:
        for server in self.pool.servers:
            self.pool.note_unreachable(server, f"Ollama at {server.url} refuses connections.")

    def send(self, model: str = "m", flow: str = "job-1", body: bytes = b"{}") -> asyncio.Task[Reply]:
        call = Call(
            flow=flow,
            band=Band.JOB,
            characters=10,
            texts=1,
            wanted=Wanted.parse(model, None),
            request=EmbedRequest(body),
        )
        return asyncio.create_task(self.dispatcher.embed(call))

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.clock.now += seconds
        self.dispatcher.step()
        await asyncio.sleep(0)


async def test_requests_wait_for_a_server_that_restarts() -> None:
    """None is refused while the outage is short."""
    world = World()
    world.fail_all()
    waiting = world.send()
    await world.pass_time(HOPE_S - 0.1)
    assert not waiting.done()
    world.read_models()
    assert (await waiting).status == 200


async def test_requests_are_refused_when_no_server_comes_back() -> None:
    """After ten seconds those that wait, then new ones at once, with the reason; and served again once there is one."""
    world = World()
    world.fail_all()
    waiting = world.send()
    await world.pass_time(0)
    await world.pass_time(HOPE_S)
    with pytest.raises(Refused, match="refuses connections") as refused:
        await waiting
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1.0)
    with pytest.raises(Refused, match="refuses connections"):
        await world.send()
    world.clock.now += 60
    world.read_models()
    assert (await world.send()).status == 200


async def test_a_new_outage_has_its_own_ten_seconds() -> None:
    """A former one is forgotten as soon as a server is there."""
    world = World()
    world.fail_all()
    first = world.send()
    await world.pass_time(0)
    await world.pass_time(HOPE_S)
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], Refused)
    world.clock.now += 60
    world.read_models()
    await world.pass_time(60)
    world.fail_all()
    second = world.send()
    await world.pass_time(HOPE_S / 2)
    assert not second.done()
    second.cancel()


async def test_a_failed_request_does_not_wait_for_a_server_that_has_gone() -> None:
    """It gets the answer of the server that failed it, as soon as no other can serve it."""
    world = World(AllRights(in_flight=1))
    world.servers.results = {"http://a": _FAILURE, "http://b": _FAILURE}
    world.servers.gate.clear()
    failing = world.send()
    await eventually(lambda: len(world.servers.asked) == 1)
    other = world.send(flow="job-2")
    await eventually(lambda: len(world.dispatcher.queue) == 1)
    world.fail_all()
    world.servers.gate.set()
    assert (await failing).body == b'{"error":"runner"}'
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert (len(world.dispatcher.queue), world.dispatcher.queue.in_flight) == (0, 0)


async def test_rights_are_asked_at_every_dispatch() -> None:
    """Only owned servers are used, and a refusal ends those that wait."""
    world = World(AllRights(servers=frozenset({"http://b"})))
    assert [(await world.send()).status for _ in range(3)] == [200, 200, 200]
    assert set(world.servers.asked) == {"http://b"}
    world.rights = AllRights(servers=frozenset())
    waiting = world.send()
    await world.pass_time(0)
    world.rights = AllRights(refusal="This gateway owns no server.")
    await world.pass_time(0)
    with pytest.raises(Refused, match="owns no server"):
        await waiting


async def test_nothing_is_left_of_requests_however_they_end() -> None:
    """Canceled in the queue, at a server, before their first step, answered, refused: no place stays taken."""
    world = World(AllRights(in_flight=2))
    world.servers.gate.clear()
    tasks = [world.send(flow=f"job-{number % 3}") for number in range(12)]
    await eventually(lambda: len(world.servers.asked) == 2 and len(world.dispatcher.queue) == 10)
    late = world.send()
    for task in (*tasks[:2], *tasks[5:9], late):
        task.cancel()
    await asyncio.sleep(0)
    world.dispatcher.drop_flow("job-1")
    world.servers.gate.set()
    await asyncio.gather(*tasks, late, return_exceptions=True)
    queue = world.dispatcher.queue
    assert (len(queue), queue.in_flight, queue.waiting_bytes) == (0, 0, 0)
    assert [server.in_flight for server in world.pool.servers] == [0, 0]
    assert sum(world.dispatcher.totals.requests.values()) == 12


async def test_a_text_that_stops_every_model_process_stops_no_server_for_others() -> None:
    """It is repeated again and again: no server is blamed more than once for it. A broken one is blamed as always."""
    world = World()
    world.servers.poison = b"poison"
    assert (await world.send(body=b"poison")).status == 500
    assert sorted(server.failed for server in world.pool.servers) == [0, 1]
    await world.pass_time(COOL_DOWN_S)
    world.read_models()
    for number in range(10):
        assert (await world.send(body=b"poison")).status == 500
        assert (await world.send(body=b"text %d" % number)).status == 200
    assert sorted(server.failed for server in world.pool.servers) == [0, 1]
    assert [server.failures for server in world.pool.servers] == [0, 0]
    world.servers.results["http://a"] = _FAILURE
    for number in range(10):
        assert (await world.send(body=b"other text %d" % number)).status == 200
    assert world.pool.find_state(world.pool.servers[0]) is ServerState.COOLING


async def test_a_server_that_cannot_be_reached_is_blamed_for_any_request() -> None:
    """No text is the cause of that."""
    world = World()
    world.servers.results["http://a"] = replace(_FAILURE, reply=None, has_arrived=False)
    world.servers.results["http://b"] = replace(_FAILURE, reply=None, has_arrived=False)
    with pytest.raises(Refused):
        await world.send()
    assert [server.failures for server in world.pool.servers] == [1, 1]


def test_suspects_are_forgotten() -> None:
    """After ten minutes, when served, and the oldest when there are too many."""
    clock = Clock()
    suspects = Suspects(clock)
    for number in range(MOST + 1):
        suspects.note_failure(b"%d" % number)
    assert b"0" not in suspects
    assert b"1" in suspects
    suspects.note_success(b"1")
    assert b"1" not in suspects
    clock.now += LASTS_S
    assert b"2" not in suspects


async def test_requests_for_many_models_without_a_server_all_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there are more models than are remembered; models that nobody waits for are forgotten."""
    monkeypatch.setattr(dispatcher, "MOST_HOPELESS", 2)
    world = World()
    world.fail_all()
    waiting = [world.send(model=f"odd{number}") for number in range(5)]
    for _ in range(3):
        await world.pass_time(HOPE_S / 2)
    await world.pass_time(0.0)
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert [type(result) for result in results] == [Refused] * 5
