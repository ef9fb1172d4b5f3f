"""The pool of Ollama servers, without sockets."""

from __future__ import annotations

import pytest

from ingestion_engine.adapters.ollama.server_pool import (
    COOL_DOWN_S,
    SEARCH_SEEN_S,
    Availability,
    Flight,
    Server,
    ServerPool,
    ServerState,
)
from ingestion_engine.adapters.ollama.server_urls import ServerAddress
from ingestion_engine.domain.records import Band
from ingestion_engine.runtime.adaptive_limit import Outcome


class Clock:
    """A clock that advances only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_pool(clock: Clock, *urls: str, **options: int) -> ServerPool:
    return ServerPool(urls or ("a", "b", "c"), clock=clock, **options)


def chosen(pool: ServerPool, **options: object) -> str | None:
    server = pool.choose("m", **options)
    return None if server is None else server.url


def begin(pool: ServerPool, url: str) -> Flight:
    return pool.begin(find(pool, url), 100)


def find(pool: ServerPool, url: str) -> Server:
    return next(server for server in pool.servers if server.url == url)


def fail(pool: ServerPool, url: str, **options: float) -> None:
    pool.end(begin(pool, url), Outcome.FAILED, error="refused", **options)


class TestChoice:
    """Which server gets the next request."""

    def test_least_loaded_then_in_rotation(self, clock: Clock) -> None:
        """Equally loaded servers are used evenly."""
        pool = make_pool(clock)
        assert sorted(str(chosen(pool)) for _ in range(6)) == ["a", "a", "b", "b", "c", "c"]
        begin(pool, "a")
        begin(pool, "c")
        assert {chosen(pool) for _ in range(6)} == {"b"}

    def test_home_first(self, clock: Clock) -> None:
        """A process prefers its home among equally loaded servers; homes beyond the last server wrap around."""
        pool = make_pool(clock, home=4)
        assert {chosen(pool) for _ in range(6)} == {"b"}
        flight = begin(pool, "b")
        assert {chosen(pool) for _ in range(6)} == {"c"}
        pool.end(flight, Outcome.FAILED)
        assert {chosen(pool) for _ in range(6)} == {"c"}
        clock.now += COOL_DOWN_S
        assert {chosen(pool) for _ in range(6)} == {"b"}

    def test_a_server_without_room_is_not_chosen(self, clock: Clock) -> None:
        """Every server starts with two; the fewest in flight are meant relative to the limit."""
        pool = make_pool(clock, "a", "b")
        pool.set_servers([ServerAddress("a", capacity=4), "b"])
        taken = []
        while (server := pool.choose("m")) is not None:
            taken.append(server.url)
            pool.begin(server, 1)
        assert (taken.count("a"), taken.count("b")) == (8, 2)
        assert taken[:5].count("a") == 4

    def test_a_server_that_failed_a_request_is_left_out_for_it(self, clock: Clock) -> None:
        """Once per server, also when it is up again."""
        pool = make_pool(clock, "a", "b")
        assert chosen(pool, exclude={find(pool, "a")}) == "b"
        assert chosen(pool, exclude=set(pool.servers)) is None
        assert pool.find_availability("m") is Availability.READY


class TestStates:
    """Up, cooling down, half-open."""

    def test_cool_down_doubles_and_ends(self, clock: Clock) -> None:
        """1 s, 2 s, 4 s … at most 30 s; one success resets the pause."""
        pool = make_pool(clock, "a", "b")
        bad = find(pool, "a")
        pauses = []
        for _ in range(7):
            fail(pool, "a")
            pauses.append(bad.cool_until - clock.now)
            assert pool.find_state(bad) is ServerState.COOLING
            assert {chosen(pool) for _ in range(4)} == {"b"}
            clock.now = bad.cool_until
            assert pool.find_state(bad) is ServerState.HALF_OPEN
            assert {chosen(pool) for _ in range(4)} == {"a", "b"}
        assert pauses == [1, 2, 4, 8, 16, 30, 30]
        pool.end(begin(pool, "a"), Outcome.DONE)
        assert pool.find_state(bad) is ServerState.UP
        fail(pool, "a")
        assert bad.cool_until - clock.now == 1

    def test_requests_that_fail_together_count_once(self, clock: Clock) -> None:
        """Eight in flight at a server that dies are one failure, not half a minute of pause."""
        pool = ServerPool([ServerAddress("a", capacity=4)], clock=clock)
        flights = [begin(pool, "a") for _ in range(8)]
        for flight in flights:
            clock.now += 0.01
            pool.end(flight, Outcome.FAILED)
        assert (pool.servers[0].failures, pool.servers[0].failed) == (1, 8)

    def test_one_request_tries_a_server(self, clock: Clock) -> None:
        """A half-open server gets no second request before the first one has ended."""
        pool = make_pool(clock, "a")
        fail(pool, "a")
        assert chosen(pool) is None
        clock.now += COOL_DOWN_S
        trial = pool.begin(pool.servers[0], 1)
        assert chosen(pool) is None
        pool.end(trial, Outcome.DONE)
        assert chosen(pool) == "a"

    def test_a_success_from_before_the_failure_proves_nothing(self, clock: Clock) -> None:
        """It was in flight when the server failed."""
        pool = make_pool(clock, "a")
        early, late = begin(pool, "a"), begin(pool, "a")
        clock.now += 1
        pool.end(late, Outcome.FAILED)
        pool.end(early, Outcome.DONE)
        assert pool.find_state(pool.servers[0]) is ServerState.COOLING

    def test_in_a_hurry_the_first_to_be_ready_is_taken(self, clock: Clock) -> None:
        """Only while none is up: a worker's own retries have pauses too."""
        pool = make_pool(clock, "a", "b")
        fail(pool, "a")
        fail(pool, "b")
        clock.now += COOL_DOWN_S
        fail(pool, "a")
        clock.now -= 0.5
        assert chosen(pool) is None
        assert chosen(pool, hurry=True) == "b"

    def test_a_pause_that_a_server_asks_for_is_kept(self, clock: Clock) -> None:
        """Also in a hurry; a proxy before Ollama knows when it is back."""
        pool = make_pool(clock, "a")
        fail(pool, "a", retry_after_s=7)
        clock.now += 6.9
        assert (chosen(pool), chosen(pool, hurry=True), pool.next_change_at) == (None, None, 107.0)
        clock.now += 0.1
        assert chosen(pool) == "a"

    def test_servers_join_and_leave(self, clock: Clock) -> None:
        """Those that stay keep their state; a request at one that leaves ends in peace."""
        pool = make_pool(clock, "a", "b")
        fail(pool, "b")
        flight = begin(pool, "a")
        pool.set_servers(["b", "c"])
        assert [server.url for server in pool.servers] == ["b", "c"]
        assert pool.find_state(pool.servers[0]) is ServerState.COOLING
        pool.end(flight, Outcome.FAILED)
        pool.set_servers(["a", "b"])
        assert pool.find_state(find(pool, "a")) is ServerState.UP

    def test_whoever_waits_is_told(self, clock: Clock) -> None:
        """When a request ends, models are read, or servers change."""
        pool, calls = make_pool(clock, "a"), []
        pool.subscribe(lambda: calls.append(1))
        pool.end(begin(pool, "a"), Outcome.DONE)
        pool.note_models(pool.servers[0], {"m": "1"})
        pool.note_unreachable(pool.servers[0], "gone")
        pool.set_servers(["b"])
        assert len(calls) == 4


class TestDigests:
    """Only servers with the right digest get requests."""

    def test_the_digest_of_most_servers(self, clock: Clock) -> None:
        """One that differs is not used, unless its digest is asked for."""
        pool = make_pool(clock)
        for url, digest in (("a", "old"), ("b", "new"), ("c", "new")):
            pool.note_models(find(pool, url), {"m:latest": digest})
        assert {chosen(pool) for _ in range(6)} == {"b", "c"}
        assert {chosen(pool, digest="old") for _ in range(6)} == {"a"}
        assert pool.find_differing("m") == {"a": "old"}
        assert chosen(pool, digest="other") is None
        assert pool.find_availability("m", digest="other") is Availability.DIGEST_MISSING
        assert pool.find_availability("n") is Availability.MODEL_MISSING

    def test_of_as_many_the_one_in_use_stays(self, clock: Clock) -> None:
        """Before any use it is that of the first server."""
        pool = make_pool(clock, "a", "b")
        pool.note_models(find(pool, "b"), {"m": "new"})
        pool.note_models(find(pool, "a"), {"m": "old"})
        assert {chosen(pool) for _ in range(4)} == {"a"}
        pool = make_pool(clock, "a", "b")
        pool.note_models(find(pool, "b"), {"m": "new"})
        assert chosen(pool) == "b"
        pool.note_models(find(pool, "a"), {"m": "old"})
        assert {chosen(pool) for _ in range(4)} == {"b"}

    def test_after_a_failure_the_models_are_read_again(self, clock: Clock) -> None:
        """A server that comes back with another digest gets no request."""
        pool = make_pool(clock, "a", "b")
        for server in pool.servers:
            pool.note_models(server, {"m": "old"})
        fail(pool, "a")
        clock.now += COOL_DOWN_S
        assert pool.due("m", digest="old") == [find(pool, "a")]
        assert {chosen(pool, digest="old") for _ in range(4)} == {"b"}
        pool.note_models(find(pool, "a"), {"m": "new"})
        assert pool.due("m", digest="old") == []
        assert {chosen(pool, digest="old") for _ in range(4)} == {"b"}
        pool.note_models(find(pool, "a"), {"m": "old"})
        assert {chosen(pool, digest="old") for _ in range(4)} == {"a", "b"}

    def test_a_server_that_was_never_read_is_used_when_no_digest_is_known(self, clock: Clock) -> None:
        """As before pools knew of digests; with one it is read first."""
        pool = make_pool(clock, "a")
        assert (chosen(pool), pool.due("m")) == ("a", [])
        assert (chosen(pool, digest="d"), pool.due("m", digest="d")) == (None, list(pool.servers))
        assert pool.find_availability("m", digest="d") is Availability.DOWN

    def test_a_difference_is_logged_once(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        """Models that nobody asks for are nobody's business."""
        pool = make_pool(clock)
        chosen(pool)
        for _ in range(3):
            for url, digest in (("a", "1"), ("b", "1"), ("c", "2")):
                pool.note_models(find(pool, url), {"m": digest, f"only-{url}": "x"})
        assert [record.message for record in caplog.records] == ["server not used for a model"]
        assert vars(caplog.records[0])["url"] == "c"


class TestBands:
    """Searches first."""

    def test_jobs_leave_half_of_the_limit_to_searches(self, clock: Clock) -> None:
        """For ten seconds after a search, and a search may exceed the limit by as much."""
        pool = ServerPool([ServerAddress("a", capacity=4)], clock=clock)
        flights = [begin(pool, "a") for _ in range(4)]
        assert (chosen(pool), chosen(pool, band=Band.SEARCH)) == ("a", "a")
        assert (chosen(pool), pool.next_change_at) == (None, 100 + SEARCH_SEEN_S)
        flights += [begin(pool, "a") for _ in range(8)]
        assert chosen(pool, band=Band.SEARCH) is None
        pool.end(flights.pop(), Outcome.DONE)
        assert chosen(pool, band=Band.SEARCH) == "a"
        for flight in flights:
            pool.end(flight, Outcome.DONE)
        clock.now += SEARCH_SEEN_S
        flights = [begin(pool, "a") for _ in range(7)]
        assert chosen(pool) == "a"
        begin(pool, "a")
        assert chosen(pool) is None
