"""Reading models, resolving names and waiting for room, without sockets; the clock advances only when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from ingestion_engine.adapters.ollama.server_pool import COOL_DOWN_S, Flight, ServerPool, ServerState
from ingestion_engine.adapters.ollama.server_urls import RESOLVE_EVERY_S, ServerAddress, ServerNames
from ingestion_engine.adapters.ollama.server_watch import POLL_S, REFRESH_MODELS_S, ServerWatch
from ingestion_engine.domain.errors import FatalError, IngestionError, TransientError
from ingestion_engine.runtime.adaptive_limit import Outcome
from ingestion_engine.runtime.server_urls import parse_servers


class Servers:
    """What the servers list, by URL: digest by model, or the error of the request."""

    def __init__(self, *urls: str) -> None:
        self.now = 100.0
        self.answers: dict[str, Mapping[str, str] | IngestionError] = {url: {"m": "old"} for url in urls}
        self.addresses: Sequence[str] = ()
        self.read: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        names = ServerNames(parse_servers(urls), resolve=self.resolve, clock=self.clock)
        self.pool = ServerPool(names.list(), clock=self.clock)
        self.watch = ServerWatch(self.pool, names, self.probe, clock=self.clock)

    def clock(self) -> float:
        return self.now

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return self.addresses

    async def probe(self, address: ServerAddress) -> Mapping[str, str]:
        self.read.append(address.url)
        answer = self.answers.get(address.url, {"m": "old"})
        await self.gate.wait()
        if isinstance(answer, IngestionError):
            raise answer
        return answer

    async def acquire(self, digest: str | None = "old") -> Flight:
        return await self.watch.acquire("m", 100, digest=digest)

    async def start(self) -> asyncio.Task[Flight]:
        """Return a task that acquires, once it has come as far as it can."""
        task = asyncio.create_task(self.acquire())
        await settle()
        return task


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def down(retry_after_s: float | None = None) -> TransientError:
    context = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
    return TransientError("ollama_unavailable", "Ollama refuses connections.", **context)


@pytest.fixture
async def two() -> AsyncIterator[Servers]:
    servers = Servers("http://a", "http://b")
    yield servers
    await servers.watch.close()


@pytest.fixture
async def one() -> AsyncIterator[Servers]:
    servers = Servers("http://a")
    yield servers
    await servers.watch.close()


class TestAcquire:
    """Waiting for a server with room."""

    async def test_models_are_read_before_the_first_request(self, two: Servers) -> None:
        """Of every server once, however many requests come."""
        two.gate.clear()
        tasks = [await two.start() for _ in range(4)]
        assert sorted(two.read) == ["http://a", "http://b"]
        two.gate.set()
        flights = await asyncio.gather(*tasks)
        assert sorted(flight.server.url for flight in flights) == ["http://a"] * 2 + ["http://b"] * 2

    async def test_a_hanging_server_delays_nobody(self, two: Servers) -> None:
        """Its models are read beside the requests, which the other server serves, one after another if need be."""
        two.pool.note_models(two.pool.servers[1], {"m": "old"})
        two.gate.clear()
        held = [await two.acquire(), await two.acquire()]
        waiting = await two.start()
        assert (two.read, waiting.done()) == (["http://a"], False)
        two.pool.end(held[0], Outcome.DONE)
        assert (await waiting).server.url == "http://b"

    async def test_a_server_that_is_back_is_used_again(self, two: Servers) -> None:
        """Also when the others have room."""
        two.pool.set_servers([ServerAddress("http://a"), ServerAddress("http://b", capacity=50)])
        await two.watch.check(two.pool.servers)
        two.pool.note_unreachable(two.pool.servers[0], "gone")
        two.now += COOL_DOWN_S
        assert (await two.acquire()).server.url == "http://b"
        await settle()
        assert (await two.acquire()).server.url == "http://a"

    async def test_whoever_finds_no_room_waits_for_it(self, one: Servers) -> None:
        """In order of arrival."""
        held = [await one.acquire(), await one.acquire()]
        waiting = [await one.start(), await one.start()]
        assert not any(task.done() for task in waiting)
        one.pool.end(held[0], Outcome.DONE)
        await settle()
        assert [task.done() for task in waiting] == [True, False]
        one.pool.end(held[1], Outcome.DONE)
        await waiting[1]

    async def test_a_server_that_comes_back_with_another_digest_is_not_used(self, two: Servers) -> None:
        """It is read again before the request that tries it; the other one does all the work."""
        await two.watch.check(two.pool.servers)
        a = two.pool.servers[0]
        flight = two.pool.begin(a, 100)
        two.answers["http://a"] = {"m": "new"}
        two.pool.end(flight, Outcome.FAILED)
        two.now += COOL_DOWN_S
        for _ in range(4):
            flight = await two.acquire()
            assert flight.server.url == "http://b"
            two.pool.end(flight, Outcome.DONE)
            two.now += 1
        await two.watch.check(two.pool.due("m", digest="old"))
        assert two.pool.find_differing("m") in ({"http://a": "new"}, {"http://b": "old"})
        assert (await two.acquire()).server.url == "http://b"

    async def test_no_server_has_the_digest(self, two: Servers) -> None:
        """All answer, so waiting is no use: the job stops, and the message names what there is."""
        two.answers = {"http://a": {"m": "new"}, "http://b": {"m": "new"}}
        with pytest.raises(FatalError, match="http://a has new, http://b has new") as differs:
            await two.acquire()
        assert differs.value.code == "model_digest_differs"
        two.answers = {"http://a": {}, "http://b": {}}
        await two.watch.check(two.pool.servers)
        with pytest.raises(FatalError) as missing:
            await two.acquire()
        assert missing.value.code == "model_not_found"

    async def test_while_one_is_down_it_may_have_the_digest(self, two: Servers) -> None:
        """An outage, not the end of the job."""
        two.answers = {"http://a": {"m": "new"}, "http://b": down()}
        waiting = await two.start()
        assert not waiting.done()
        two.now += COOL_DOWN_S
        two.pool.note_models(two.pool.servers[0], {"m": "new"})  # wakes whoever waits
        with pytest.raises(TransientError):
            await waiting
        assert two.read.count("http://b") == 2

    async def test_all_down_is_reported_at_once(self, two: Servers) -> None:
        """The caller's retries have pauses and a deadline; with each, the server that is ready first is read."""
        two.answers = {"http://a": down(), "http://b": down()}
        for _ in range(3):
            with pytest.raises(TransientError, match="refuses connections"):
                await two.acquire()
        two.answers["http://b"] = two.answers["http://a"] = {"m": "old"}
        assert (await two.acquire()).server.url in ("http://a", "http://b")

    async def test_a_pause_that_a_server_asks_for(self, one: Servers) -> None:
        """No request before its end; a long one is reported."""
        await one.watch.check(one.pool.servers)
        one.pool.end(await one.acquire(), Outcome.FAILED, error="busy", retry_after_s=60)
        with pytest.raises(TransientError, match="asked for a pause of 60 s: busy"):
            await one.acquire()
        assert len(one.read) == 1
        one.now += 60
        assert (await one.acquire()).server.url == "http://a"
        assert len(one.read) == 2

    async def test_one_request_tries_a_server_that_failed(self, one: Servers) -> None:
        """The others wait for what comes of it."""
        await one.watch.check(one.pool.servers)
        one.pool.end(await one.acquire(), Outcome.FAILED)
        trial = await one.acquire()
        waiting = [await one.start(), await one.start()]
        assert not any(task.done() for task in waiting)
        one.pool.end(trial, Outcome.DONE)
        one.pool.end(await waiting[0], Outcome.DONE)
        await waiting[1]

    async def test_a_canceled_caller_keeps_nothing(self, one: Servers) -> None:
        """Its place goes to the next."""
        held = [await one.acquire(), await one.acquire()]
        first, second = await one.start(), await one.start()
        first.cancel()
        one.pool.end(held[0], Outcome.DONE)
        await second
        assert one.pool.servers[0].in_flight == 2

    async def test_no_address_is_known(self) -> None:
        """The name is in the message."""
        servers = Servers("dns+http://ollama:1")
        with pytest.raises(TransientError, match="http://ollama:1 does not resolve"):
            await servers.acquire()
        servers.addresses = ["10.0.0.1"]
        servers.now += RESOLVE_EVERY_S
        assert (await servers.acquire()).server.url == "http://10.0.0.1:1"
        await servers.watch.close()


class TestKeep:
    """What a gateway runs all the time, and a worker beside its requests."""

    async def test_servers_are_polled(self, two: Servers) -> None:
        """Every five seconds, and at once when a pause has ended."""
        seconds: dict[str, list[int]] = {"http://a": [], "http://b": []}
        for second in range(11):
            two.watch.step()
            await settle()
            for url in two.read:
                seconds[url].append(second)
            two.read.clear()
            if second == 6:
                two.pool.note_unreachable(two.pool.servers[0], "gone")
            two.now += 1
        assert seconds == {"http://a": [0, 5, 7], "http://b": [0, 5, 10]}
        assert POLL_S == 5

    async def test_a_hanging_server_delays_no_other(self, two: Servers) -> None:
        """Its models are being read; nothing waits for that, and it is asked only once."""
        two.gate.clear()
        for _ in range(5):
            assert two.watch.step() <= 0.5
            await settle()
            two.now += POLL_S
        assert sorted(two.read) == ["http://a", "http://b"]

    async def test_a_busy_server_is_not_down(self, one: Servers) -> None:
        """A list of models that times out says nothing while requests are answered."""
        await one.watch.check(one.pool.servers)
        one.answers["http://a"] = down()
        one.gate.clear()
        check = asyncio.create_task(one.watch.check(one.pool.servers))
        await settle()
        one.pool.end(one.pool.begin(one.pool.servers[0], 1), Outcome.DONE)
        one.gate.set()
        await check
        assert one.pool.find_state(one.pool.servers[0]) is ServerState.UP
        await one.watch.check(one.pool.servers)
        assert one.pool.find_state(one.pool.servers[0]) is ServerState.COOLING

    async def test_an_answer_from_before_a_failure_counts_no_more(self, one: Servers) -> None:
        """The server may serve something else when it is back."""
        one.gate.clear()
        check = asyncio.create_task(one.watch.check(one.pool.servers))
        await settle()
        one.now += 1
        one.pool.end(one.pool.begin(one.pool.servers[0], 1), Outcome.FAILED)
        one.gate.set()
        await check
        assert not one.pool.models.is_known("http://a")

    async def test_a_worker_reads_models_now_and_then(self, one: Servers) -> None:
        """``ollama pull`` replaces a model without any failure; requests do not wait for the reading."""
        one.pool.end(await one.acquire(), Outcome.DONE)
        one.answers["http://a"] = {"m": "new"}
        one.now += REFRESH_MODELS_S
        one.pool.end(await one.acquire(), Outcome.DONE)
        await settle()
        with pytest.raises(FatalError):
            await one.acquire()

    async def test_servers_join_and_leave(self) -> None:
        """By the addresses of a name, without a restart."""
        servers = Servers("dns+http://ollama:1")
        for addresses in (["10.0.0.1"], ["10.0.0.2", "10.0.0.3"]):
            servers.addresses = addresses
            servers.watch.step()
            await settle()
            assert [server.url for server in servers.pool.servers] == [f"http://{one}:1" for one in addresses]
            await servers.watch.check(servers.pool.servers)
            assert servers.watch._read_at.keys() == set(servers.pool.servers)
            servers.now += RESOLVE_EVERY_S
        await servers.watch.close()
