"""The simulated Ollama: its schedule in simulated time, what its log proves, its faults, and its answers over HTTP."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from embed_log import (
    Outcome,
    Record,
    busy_share,
    chars_by_flow,
    idle_while_waiting,
    in_vain,
    peak_in_flight,
    peak_texts,
)
from sim_ollama import CONTEXT_EXCEEDED, Costs, SimulatedOllama, open_simulation
from slots import Balance, Balancer, Work

from ingestion_devstack.ollama.minilm import read_vocabulary
from support.waiting import wait_for


class Clock:
    """Simulated time."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, action: Callable[[], None]) -> _Timer:
        timer = _Timer(action)
        heapq.heappush(self._timers, (self.now + delay_s, next(self._numbers), timer))
        return timer

    def go_to(self, until: float) -> None:
        """Let timers fire up to a time."""
        while self._timers and self._timers[0][0] <= until:
            at, _, timer = heapq.heappop(self._timers)
            if timer.action is not None:
                self.now = at
                timer.action()
        self.now = until


class _Timer:
    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Schedule:
    """A balancer in simulated time, and the requests that have ended."""

    def __init__(self, slots: int = 1, balance: Balance = Balance.LEAST_CONNECTIONS) -> None:
        self.clock = Clock()
        self.balancer = Balancer(self.clock, slots, balance=balance)
        self.ended: list[Work] = []

    def submit(self, *text_s: float, request_s: float = 0.0) -> Work:
        work = Work(request_s, list(text_s), self.ended.append)
        self.balancer.submit(work)
        return work


class TestSlots:
    """When requests start and end."""

    def test_a_slot_that_always_has_a_request_waiting_is_busy_all_the_time(self) -> None:
        """Three requests at once are answered one after another, without a gap."""
        schedule = Schedule()
        works = [schedule.submit(0.005, 0.005, request_s=0.01) for _ in range(3)]
        schedule.clock.go_to(101.0)
        assert [work.end for work in works] == pytest.approx([100.02, 100.04, 100.06])
        assert schedule.balancer.slots[0].busy_s == pytest.approx(0.06)

    def test_a_pause_between_two_requests_is_not_busy(self) -> None:
        """A request that arrives later starts when it arrives."""
        schedule = Schedule()
        schedule.submit(0.02)
        schedule.clock.go_to(100.04)
        late = schedule.submit(0.02)
        schedule.clock.go_to(101.0)
        assert (late.start, late.end) == pytest.approx((100.04, 100.06))

    def test_a_late_timer_costs_no_capacity(self) -> None:
        """The second request starts at the end of the first, although the timer fired a second later."""
        schedule = Schedule()
        first, second = schedule.submit(0.02), schedule.submit(0.02)
        schedule.clock.now = 101.0
        schedule.clock.go_to(101.0)
        assert [first.end, second.end] == pytest.approx([100.02, 100.04])

    def test_slots_work_side_by_side_and_further_requests_queue(self) -> None:
        """Of five requests at four slots the fifth waits for the first to end."""
        schedule = Schedule(slots=4)
        works = [schedule.submit(0.02) for _ in range(5)]
        schedule.clock.go_to(101.0)
        assert [work.end for work in works] == pytest.approx([100.02] * 4 + [100.04])

    def test_round_robin_does_not_care_who_is_free(self) -> None:
        """The third request goes to the first slot, which is busy, though the second is free."""
        for balance, expected in ((Balance.ROUND_ROBIN, 0), (Balance.LEAST_CONNECTIONS, 1)):
            schedule = Schedule(slots=2, balance=balance)
            schedule.submit(10.0)
            schedule.submit(0.1)
            schedule.clock.go_to(101.0)
            assert schedule.submit(0.1).slot == expected

    def test_a_slow_slot_takes_longer(self) -> None:
        """At a quarter of the speed everything takes four times as long."""
        schedule = Schedule()
        schedule.balancer.slots[0].speed = 0.25
        work = schedule.submit(0.01, 0.01, request_s=0.02)
        schedule.clock.go_to(101.0)
        assert work.end == pytest.approx(100.16)

    def test_a_waiting_request_of_a_gone_client_leaves_the_queue(self) -> None:
        """It is never worked on, and the one behind it starts in its place."""
        schedule = Schedule()
        first, gone, last = (schedule.submit(0.02) for _ in range(3))
        schedule.balancer.cancel(gone)
        schedule.clock.go_to(101.0)
        assert schedule.ended == [gone, first, last]
        assert (gone.start, gone.embedded, last.end) == (None, 0, pytest.approx(100.04))

    def test_a_running_request_of_a_gone_client_ends_with_the_text_being_computed(self) -> None:
        """Two of four texts are computed, and the next request starts then."""
        schedule = Schedule()
        gone, after = schedule.submit(0.1, 0.1, 0.1, 0.1), schedule.submit(0.1)
        schedule.clock.go_to(100.15)
        schedule.balancer.cancel(gone)
        schedule.clock.go_to(101.0)
        assert (gone.end, gone.embedded) == (pytest.approx(100.2), 2)
        assert (after.start, after.embedded) == (pytest.approx(100.2), 1)
        assert schedule.balancer.slots[0].busy_s == pytest.approx(0.3)


def record(arrival: float, start: float | None, end: float, *, texts: int = 1, **values: Any) -> Record:
    plain = Record(
        endpoint=0, slot=0, arrival=arrival, start=start, end=end, texts=texts, chars=100 * texts, embedded=texts,
        outcome=Outcome.ANSWERED,
    )  # fmt: skip
    return replace(plain, **values)


class TestLog:
    """What is computed from the records."""

    def test_peak_in_flight_counts_waiting_requests_but_not_ends(self) -> None:
        """A request that begins when another ends is not beside it."""
        assert peak_in_flight([record(0, 0, 1), record(0.5, 1, 2), record(2, 2, 3)]) == 2
        assert peak_in_flight([]) == 0

    def test_peak_texts_looks_at_every_window(self) -> None:
        """No window that starts at a whole second has more than 40, but one of one second has 70."""
        records = [record(at, at, at + 0.1, texts=texts) for at, texts in ((0.1, 10), (0.9, 30), (1.1, 40), (2.05, 30))]
        assert peak_texts(records) == 70
        assert peak_texts([record(0.0, 0, 1, texts=5), record(1.0, 1, 2, texts=5)]) == 5

    def test_busy_share_takes_the_part_inside(self) -> None:
        """Two slots of which one worked half of the time are busy a quarter of it."""
        assert busy_share([record(0, 0, 10, chars=1), record(0, None, 3)], 2, 5, 15) == pytest.approx(0.25)

    def test_idle_counts_only_while_something_waits(self) -> None:
        """One of two slots is idle for a second in which a request waits, and for longer in which none does."""
        records = [record(0, 0, 4), record(1, 2, 3)]
        assert idle_while_waiting(records, 2) == pytest.approx(1.0)
        assert idle_while_waiting(records, 2, waiting=[(0, 2)]) == pytest.approx(2.0)

    def test_characters_of_flows_count_evenly_over_their_work(self) -> None:
        """Half of a request's work lies in the window."""
        records = [record(0, 1, 3, flow="a"), record(0, 2, 3, flow="b"), record(0, None, 3, flow="c")]
        assert chars_by_flow(records, 2, 5) == {"a": pytest.approx(50), "b": pytest.approx(100)}

    def test_texts_in_vain_are_those_of_unanswered_requests(self) -> None:
        """What was embedded for a refusal or for a client that is gone is lost."""
        records = [
            record(0, 0, 1, texts=8),
            record(0, 0, 1, texts=8, embedded=7, outcome=Outcome.REFUSED),
            record(0, 0, 1, texts=8, embedded=2, outcome=Outcome.CANCELED),
        ]
        assert in_vain(records) == 9


@asynccontextmanager
async def serving(
    simulated: SimulatedOllama, endpoints: int = 1
) -> AsyncIterator[tuple[SimulatedOllama, list[str], httpx.AsyncClient]]:
    async with open_simulation(simulated, endpoints) as urls, httpx.AsyncClient(timeout=20) as client:
        yield simulated, urls, client


async def post(client: httpx.AsyncClient, url: str, texts: list[str], **fields: Any) -> httpx.Response:
    headers = fields.pop("headers", {})
    return await client.post(
        f"{url}/api/embed", json={"model": "sim-384", "input": texts, "truncate": False, **fields}, headers=headers
    )


async def until(is_true: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_for, is_true, every_s=0.002)


class TestEmbedding:
    """Answers, refusals and what they cost."""

    async def test_the_log_names_the_flow_and_counts_everything(self) -> None:
        """One record per request, with the headers that a gateway forwards."""
        async with serving(SimulatedOllama(Costs(text_ms=2))) as (simulated, (url,), client):
            headers = {"Ingest-Flow": "job-1", "Ingest-Band": "job", "X-Request-Id": "7"}
            answer = await post(client, url, ["12345", "123"], headers=headers)
            assert answer.json()["prompt_eval_count"] == 3
            (one,) = simulated.log
            assert (one.flow, one.band, one.request_id) == ("job-1", "job", "7")
            assert (one.texts, one.chars, one.embedded, one.outcome) == (2, 8, 2, Outcome.ANSWERED)
            assert one.start is not None
            assert one.end - one.start == pytest.approx(0.004)
            counters = (await client.get(f"{url}/sim/counters")).json()
            assert (counters["calls"], counters["texts"], counters["in_vain"], counters["in_flight"]) == (1, 2, 0, 0)
            assert (await client.get(f"{url}/sim/log")).json()[0]["flow"] == "job-1"

    async def test_a_refusal_comes_after_the_inference_of_all_other_texts(self) -> None:
        """Seven of eight texts are embedded in vain; the bad one costs little, also alone."""
        costs = Costs(text_ms=2, refusal_ms=1, context=10)
        async with serving(SimulatedOllama(costs)) as (simulated, (url,), client):
            mixed = await post(client, url, ["fine"] * 7 + ["x" * 41])
            alone = await post(client, url, ["x" * 41])
            cut = await post(client, url, ["x" * 41], truncate=True)
        assert [one.status_code for one in (mixed, alone, cut)] == [400, 400, 200]
        assert mixed.json() == {"error": CONTEXT_EXCEEDED}
        assert cut.json()["prompt_eval_count"] == 10
        works = [(one.embedded, round(one.end - (one.start or 0), 4), one.in_vain) for one in simulated.log]
        assert works == [(7, 0.015, 7), (0, 0.001, 0), (1, 0.002, 0)]

    @pytest.mark.parametrize("body", [b"", b"nope", b"[]", b'{"model": "sim-384", "input": [1]}'])
    async def test_a_body_that_cannot_be_read_is_refused(self, body: bytes) -> None:
        """With 400, as on a real server; it is not counted."""
        async with serving(SimulatedOllama()) as (simulated, (url,), client):
            answer = await client.post(f"{url}/api/embed", content=body)
        assert (answer.status_code, len(simulated.log)) == (400, 0)

    async def test_no_input_gives_no_vectors(self) -> None:
        """One empty text is a text."""
        async with serving(SimulatedOllama()) as (_, (url,), client):
            answers = [
                await client.post(f"{url}/api/embed", json={"model": "sim-384", "input": texts})
                for texts in (None, "", [], [""])
            ]
        assert [len(answer.json()["embeddings"]) for answer in answers] == [0, 0, 0, 1]

    async def test_characters_cost_too(self) -> None:
        """A text of a thousand characters at 2 us each takes 2 ms more."""
        async with serving(SimulatedOllama(Costs(request_ms=1, text_ms=1, char_us=2))) as (simulated, (url,), client):
            await post(client, url, ["x" * 1000])
        assert simulated.log[0].start is not None
        assert simulated.log[0].end - simulated.log[0].start == pytest.approx(0.004)

    async def test_a_client_that_leaves_frees_its_place(self) -> None:
        """The waiting request of a gone client is never worked on, and the running one stops."""
        async with serving(SimulatedOllama(Costs(text_ms=5))) as (simulated, (url,), client):
            first = asyncio.ensure_future(post(client, url, ["x"] * 1000))
            balancer = simulated.endpoints[0].balancer
            await until(lambda: balancer.load == 1)
            second = asyncio.ensure_future(post(client, url, ["y"]))
            await until(lambda: balancer.load == 2)
            second.cancel()
            await until(lambda: balancer.load == 1)
            first.cancel()
            await until(lambda: balancer.load == 0)
        assert [(one.texts, one.outcome) for one in simulated.log] == [(1, "canceled"), (1000, "canceled")]
        assert (simulated.log[0].start, simulated.log[0].embedded) == (None, 0)
        assert simulated.log[1].embedded < 1000

    async def test_word_pieces_are_counted_and_their_vocabulary_shown(self) -> None:
        """Special tokens count; arrays are null without ``verbose``, as a real server leaves them."""
        async with serving(SimulatedOllama(vocabulary=read_vocabulary())) as (_, (url,), client):
            answer = await post(client, url, ["why is the sky blue?"])
            brief, full = [
                (await client.post(f"{url}/api/show", json={"model": "sim-384", **more})).json()["model_info"]
                for more in ({}, {"verbose": True})
            ]
        assert answer.json()["prompt_eval_count"] == 8
        assert brief["tokenizer.ggml.tokens"] is None
        assert full["tokenizer.ggml.model"] == "bert"
        assert [full["tokenizer.ggml.tokens"][n] for n in (101, 1996, 2075)] == ["[CLS]", "\u2581the", "ing"]

    async def test_without_a_vocabulary_none_is_shown(self) -> None:
        """The context is that of the costs."""
        async with serving(SimulatedOllama(Costs(context=99))) as (_, (url,), client):
            shown = (await client.post(f"{url}/api/show", json={"model": "sim-384", "verbose": True})).json()
            loaded = (await client.get(f"{url}/api/ps")).json()["models"][0]
        assert shown["model_info"]["sim.context_length"] == loaded["context_length"] == 99
        assert not [name for name in shown["model_info"] if name.startswith("tokenizer")]


class TestFaults:
    """What an endpoint does wrong while a fault is armed, and that it recovers."""

    @pytest.mark.parametrize(("status", "end"), [(400, "EOF"), (500, "exit status 2"), (503, "requests exceeded")])
    async def test_errors_have_the_texts_of_a_real_server(self, status: int, end: str) -> None:
        """They hit one endpoint, as often as armed."""
        async with serving(SimulatedOllama(), 2) as (simulated, urls, client):
            await simulated.arm(0, "error", status=status, count=1)
            answers = [await post(client, url, ["x"]) for url in (urls[0], urls[1], urls[0])]
        assert [answer.status_code for answer in answers] == [status, 200, 200]
        assert answers[0].json()["error"].endswith(end)
        assert [one.outcome for one in simulated.log] == ["failed", "answered", "answered"]

    async def test_a_fault_can_be_that_of_a_text(self) -> None:
        """Requests without the marker are served; an empty vector is that of the marked text only."""
        async with serving(SimulatedOllama()) as (simulated, (url,), client):
            await simulated.arm(0, "error", status=400, marker="poison")
            assert [(await post(client, url, [text])).status_code for text in ("x", "poison")] == [200, 400]
            await simulated.arm(armed=False)
            await simulated.arm(0, "empty", marker="poison")
            vectors = (await post(client, url, ["x", "poison", "y"])).json()["embeddings"]
        assert [len(vector) for vector in vectors] == [384, 0, 384]

    async def test_a_dropped_connection_has_no_answer(self) -> None:
        """The client sees the end of the connection; the next request is served."""
        async with serving(SimulatedOllama()) as (simulated, (url,), client):
            await simulated.arm(0, "drop", count=1)
            with pytest.raises(httpx.TransportError):
                await post(client, url, ["x"])
            assert (await post(client, url, ["x"])).status_code == 200

    async def test_a_killed_server_refuses_connections_and_comes_back(self) -> None:
        """Open requests are aborted; after the removal the same URL answers."""
        async with serving(SimulatedOllama(Costs(text_ms=1000))) as (simulated, (url,), client):
            open_one = asyncio.ensure_future(post(client, url, ["x"] * 100))
            await until(lambda: simulated.endpoints[0].balancer.load == 1)
            await simulated.arm(0, "refuse")
            with pytest.raises(httpx.TransportError):
                await open_one
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{url}/api/tags")
            await simulated.arm(0, armed=False)
            assert (await client.get(f"{url}/api/tags")).status_code == 200

    async def test_a_frozen_server_answers_when_it_goes_on(self) -> None:
        """Nothing is answered meanwhile, neither a new request nor one that was being worked on."""
        async with serving(SimulatedOllama(Costs(text_ms=1))) as (simulated, (url,), client):
            running = asyncio.ensure_future(post(client, url, ["x"] * 20))
            await until(lambda: simulated.endpoints[0].balancer.load == 1)
            await simulated.arm(0, "hang")
            waiting = [asyncio.ensure_future(one) for one in (post(client, url, ["y"]), client.get(f"{url}/api/tags"))]
            await until(lambda: len(simulated.endpoints[0].held) == 3)
            assert not any(one.done() for one in (running, *waiting))
            await simulated.arm(0, armed=False)
            assert [one.status_code for one in (await running, *await asyncio.gather(*waiting))] == [200] * 3

    async def test_a_frozen_runner_leaves_the_rest_alive(self) -> None:
        """``only_embed``: /api/tags answers."""
        async with serving(SimulatedOllama()) as (simulated, (url,), client):
            await simulated.arm(0, "hang", only_embed=True)
            assert (await client.get(f"{url}/api/tags")).status_code == 200
            lost = asyncio.ensure_future(post(client, url, ["x"]))
            await until(lambda: len(simulated.endpoints[0].held) == 1)
            lost.cancel()
            await until(lambda: len(simulated.log) == 1)
        assert simulated.log[0].outcome is Outcome.FAILED

    async def test_another_digest_and_a_missing_model(self) -> None:
        """The digest differs on one endpoint; a missing model is 404 and not listed."""
        async with serving(SimulatedOllama(), 2) as (simulated, urls, client):

            async def digests(url: str) -> list[str]:
                return [one["digest"] for one in (await client.get(f"{url}/api/tags")).json()["models"]]

            usual = await digests(urls[0])
            await simulated.arm(1, "digest")
            assert await digests(urls[0]) == usual
            assert not set(await digests(urls[1])) & set(usual)
            await simulated.arm(1, armed=False)
            await simulated.arm(1, "missing")
            assert await digests(urls[1]) == []
            assert (await post(client, urls[1], ["x"])).status_code == 404
            assert (await client.post(f"{urls[1]}/api/show", json={"model": "sim-384"})).status_code == 404
            await simulated.arm(1, armed=False)
            assert await digests(urls[1]) == usual

    async def test_faults_are_armed_over_http_and_a_wrong_one_is_refused(self) -> None:
        """A misspelt drill must not pass as a drill."""
        async with serving(SimulatedOllama()) as (simulated, (url,), client):
            for wrong in ({"kind": "hung"}, {}, {"endpoint": 0, "kind": "error", "state": 500}, {"endpoint": 9}):
                assert (await client.post(f"{url}/sim/faults", json=wrong)).status_code == 400, wrong
            armed = {"endpoint": 0, "kind": "error", "status": 500}
            assert (await client.post(f"{url}/sim/faults", json=armed)).status_code == 200
            assert (await post(client, url, ["x"])).status_code == 500
            content = json.dumps({"endpoint": 0, "armed": False})
            assert (await client.post(f"{url}/sim/faults", content=content)).status_code == 200
            assert (await post(client, url, ["x"])).status_code == 200
            assert (await client.post(f"{url}/sim/speed", json={"endpoint": 0, "speed": 0.5})).status_code == 200
        assert simulated.endpoints[0].balancer.slots[0].speed == 0.5


class TestReset:
    """Counters since a point in time."""

    async def test_reset_forgets_and_sets_costs(self) -> None:
        """After a reset nothing has happened, and the next request costs what was asked."""
        async with serving(SimulatedOllama(Costs(request_ms=2))) as (simulated, (url,), client):
            await post(client, url, ["x"])
            await client.post(f"{url}/sim/reset", json={"request_ms": 0, "text_ms": 3})
            assert simulated.counters()["calls"] == 0
            await post(client, url, ["x", "y"])
            counters = simulated.counters()
        assert (counters["calls"], counters["busy_s"]) == (1, pytest.approx(0.006))
        assert counters["busy_share"] == pytest.approx(1.0)
