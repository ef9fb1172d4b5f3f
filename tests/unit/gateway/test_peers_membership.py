"""One gateway among others, in simulated time: what it may use at which moment, and what it tells operators."""

from __future__ import annotations

import math

import pytest

from ingestion_engine.gateway.peers.membership import Membership, Poll, Statement
from ingestion_engine.gateway.peers.plan import Terms
from support.gateway_world import GatewayWorld

SERVERS = {f"http://ollama-{number}:11434": 1 for number in range(4)}
ONE, TWO, THREE = URLS = [f"http://gateway-{number}:11430" for number in range(3)]


def make_world(*urls: str, terms: Terms | None = None) -> GatewayWorld:
    """A world of running gateways that agree."""
    world = GatewayWorld(terms or Terms(SERVERS))
    for url in urls:
        world.start(url, list(urls))
    world.run(3)
    assert not world.faults
    return world


def used(world: GatewayWorld, url: str) -> frozenset[str]:
    servers = world.processes[url].membership.rights().servers
    assert servers is not None
    return servers


def seconds_until_all_are_used(world: GatewayWorld) -> float:
    start = world.now
    while sorted(server for url in world.rights() for server in used(world, url)) != sorted(SERVERS):
        world.run(0.05)
        assert world.now < start + 20
    return world.now - start


def test_one_without_a_list_serves_at_once() -> None:
    """Also servers that it gets to know later; nothing is polled."""
    alone = Membership([], Terms(SERVERS, in_flight=4, texts_per_second=50.0), clock=lambda: 0.0, in_flight=lambda: 0)
    rights = alone.rights()
    assert (rights.servers, rights.in_flight, rights.texts_per_second, rights.refusal) == (None, 4, 50.0, None)
    assert alone.is_settled
    assert alone.alive == ["this gateway"]


def test_the_only_one_of_a_list_serves_when_it_has_found_itself() -> None:
    """It never refuses, because no other could serve."""
    world = GatewayWorld(Terms(SERVERS))
    gateway = world.start(ONE, [ONE]).membership
    assert gateway.rights().servers == frozenset()
    assert gateway.rights().refusal is None
    world.run(2)
    assert used(world, ONE) == SERVERS.keys()
    assert gateway.name == ONE


def test_those_that_start_at_once_share_within_two_seconds() -> None:
    """With a cap on the texts another second, in which nobody else may have sent any."""
    world = GatewayWorld(Terms(SERVERS))
    for url in URLS:
        world.start(url, URLS)
    assert seconds_until_all_are_used(world) < 3
    assert sorted(len(used(world, url)) for url in URLS) == [1, 1, 2]
    plans = {each.membership.statement()["plan"] for each in world.processes.values()}
    assert len(plans) == 1
    assert {world.processes[url].membership.find_owner("http://ollama-0:11434") for url in URLS} < set(URLS)


def test_the_servers_of_a_dead_one_are_used_within_ten_seconds_and_the_others_never_idle() -> None:
    """A living gateway keeps what it has, without a pause, through the death of another."""
    world = make_world(*URLS)
    kept = {url: used(world, url) for url in (ONE, TWO)}
    world.kill(THREE)
    for _ in range(100):
        world.run(0.1)
        for url, servers in kept.items():
            assert used(world, url) >= servers
    assert used(world, ONE) | used(world, TWO) == SERVERS.keys()
    assert world.processes[ONE].membership.alive == [ONE, TWO]


def test_one_that_stood_still_for_long_uses_nothing_at_first() -> None:
    """Whatever it does first: its servers are the other's by then, and come back soon."""
    world = make_world(ONE, TWO)
    world.freeze(TWO)
    world.run(8)
    assert used(world, ONE) == SERVERS.keys()
    process = world.processes[TWO]
    process.is_frozen = False
    rights = process.membership.rights()
    assert (rights.servers, rights.in_flight, rights.refusal) == (frozenset(), 0, None)
    process.is_frozen = True
    world.resume(TWO)
    world.run(4)
    assert len(used(world, ONE)) == len(used(world, TWO)) == 2
    assert not world.faults


def test_one_that_stood_still_forgets_who_was_dead() -> None:
    """The other one was dead before the pause, came back during it, and uses everything by then."""
    world = make_world(ONE, TWO)
    world.freeze(TWO)
    world.run(8)
    assert used(world, ONE) == SERVERS.keys()
    world.freeze(ONE)
    world.resume(TWO)
    world.run(8)
    assert used(world, TWO) == SERVERS.keys()
    process = world.processes[ONE]
    process.is_frozen = False
    assert process.membership.rights().servers == frozenset()
    process.is_frozen = True
    world.resume(ONE)
    world.run(5)
    assert len(used(world, ONE)) == len(used(world, TWO)) == 2
    assert not world.faults


def test_a_pause_that_nobody_noticed_changes_nothing() -> None:
    """A garbage collection or a busy machine is no death."""
    world = make_world(ONE, TWO)
    before = used(world, TWO)
    world.freeze(TWO)
    world.run(1.5)
    world.resume(TWO)
    assert used(world, TWO) == before


def test_one_that_restarts_gets_its_servers_back_and_the_other_goes_on() -> None:
    """The URL decides, not the id of the process."""
    world = make_world(ONE, TWO)
    mine, others = used(world, ONE), used(world, TWO)
    world.kill(ONE)
    world.start(ONE, [ONE, TWO])
    for _ in range(40):
        world.run(0.1)
        assert used(world, TWO) == others
    assert used(world, ONE) == mine


def test_one_that_leaves_is_replaced_at_once() -> None:
    """It says so, and the others need not wait for its silence."""
    world = make_world(ONE, TWO)
    leaving = world.processes[TWO].membership
    leaving.leave()
    assert used(world, TWO) == frozenset()
    assert "shutting down" in (leaving.rights().refusal or "")
    start = world.now
    while used(world, ONE) != SERVERS.keys():
        world.run(0.05)
    assert world.now - start < 2.5


def test_one_that_is_not_listed_refuses() -> None:
    """The others do not know of it."""
    world = make_world(ONE, TWO)
    stranger = world.start(THREE, [ONE, TWO]).membership
    world.run(8)
    assert stranger.rights().servers == frozenset()
    assert "none of those of INGEST_GATEWAY__URL" in (stranger.rights().refusal or "")
    assert used(world, ONE) | used(world, TWO) == SERVERS.keys()


def test_one_that_reaches_nobody_not_even_itself_serves_alone() -> None:
    """A gateway that listens on loopback, for example: nobody else can reach it, either."""
    world = GatewayWorld(Terms(SERVERS))
    world.cut = lambda _from, _to: True
    gateway = world.start(ONE, [ONE, TWO]).membership
    world.run(4.5)
    assert used(world, ONE) == frozenset()
    world.run(1.5)
    assert used(world, ONE) == SERVERS.keys()
    assert gateway.name is None
    assert gateway.statement()["url"] is None


def test_both_sides_of_a_cut_network_use_everything_until_it_heals() -> None:
    """No request is lost; the caps do not hold during that time (documented)."""
    world = make_world(ONE, TWO)
    world.cut = lambda one, other: one != other
    world.run(10)
    assert used(world, ONE) == used(world, TWO) == SERVERS.keys()
    world.cut = lambda _from, _to: False
    world.run(6)
    assert len(used(world, ONE)) == len(used(world, TWO)) == 2


def test_one_that_is_not_heard_stops_although_it_hears_the_others() -> None:
    """The other counts it as dead and says so: that is no cut, and nothing is used twice."""
    world = make_world(ONE, TWO)
    world.cut = lambda one, other: (one, other) == (ONE, TWO)
    world.run(10)
    assert (used(world, ONE), used(world, TWO)) == (SERVERS.keys(), frozenset())
    world.cut = lambda _from, _to: False
    world.run(6)
    assert not world.faults


def test_a_gateway_learns_late_of_a_new_one() -> None:
    """The new one knows the others, and waits until they know it; the list of a name changes at different times."""
    world = make_world(ONE, TWO)
    new = world.start(THREE, URLS)
    world.run(3)
    assert new.membership.rights().servers == frozenset()
    assert new.membership.waits_for == [ONE, TWO]
    for url in (ONE, TWO):
        world.processes[url].membership.set_urls(URLS)
        world.watch(world.processes[url], THREE)
        world.run(1)
    world.run(4)
    assert len(used(world, THREE)) >= 1
    assert used(world, ONE) | used(world, TWO) | used(world, THREE) == SERVERS.keys()
    world.kill(THREE)
    for url in (ONE, TWO):  # a name forgets a gateway when it is gone, or before
        world.processes[url].membership.set_urls([ONE, TWO])
    world.run(10)
    assert used(world, ONE) | used(world, TWO) == SERVERS.keys()
    assert not world.faults


def test_more_gateways_than_requests_leave_some_on_standby() -> None:
    """They say where to go; a standby that is well is not the same as one that waits."""
    world = make_world(*URLS, terms=Terms(SERVERS, in_flight=2))
    world.run(3)  # those that had a part at first end their requests
    standby = [url for url in URLS if world.processes[url].membership.is_standby]
    assert len(standby) == 1
    assert "own all 4 servers" in (world.processes[standby[0]].membership.rights().refusal or "")
    assert [world.processes[url].membership.rights().in_flight for url in URLS if url not in standby] == [1, 1]


def answer_of(gateway_id: str, url: str = ONE, **fields: object) -> Statement:
    body = {
        "id": gateway_id,
        "url": url,
        "peers": {},
        "servers": {},
        "caps": {"in_flight": None, "texts_per_second": None, "batch_texts": 1},
        "plan": None,
        "in_flight": 0,
        "leaving": False,
    }
    return Statement.parse({**body, **fields})


def test_several_gateways_behind_one_url_are_reported() -> None:
    """An id that comes back: a load balancer. A new id that stays: a restart."""
    gateway = Membership([ONE, TWO], Terms(SERVERS), clock=lambda: 0.0, in_flight=lambda: 0)
    for gateway_id in ("a", "b", "b"):
        gateway.note_answer(TWO, answer_of(gateway_id), Poll(0.0, 0.0))
    assert gateway.shared_urls == []
    gateway.note_answer(TWO, answer_of("a"), Poll(0.0, 0.0))
    assert gateway.shared_urls == [TWO]


def test_two_with_the_same_name_refuse() -> None:
    """``localhost`` in the lists of two machines names each of them: they cannot share, so both say so."""
    now = 0.0
    gateway = Membership([ONE, TWO], Terms(SERVERS), clock=lambda: now, in_flight=lambda: 0)
    for _ in range(60):
        now += 0.25
        gateway.note_answer(ONE, Statement.parse(gateway.statement()), Poll(now, now))
        gateway.note_answer(TWO, answer_of("other", ONE, plan="theirs"), Poll(now, now))
    assert gateway.rights().servers == frozenset()
    assert f"Two gateways are called {ONE}" in (gateway.rights().refusal or "")


@pytest.mark.parametrize(
    "fields",
    [
        {"caps": None},
        {"caps": {"in_flight": "many", "texts_per_second": None, "batch_texts": 1}},
        {"caps": {"in_flight": None, "texts_per_second": math.nan, "batch_texts": 1}},
        {"peers": []},
        {"peers": {TWO: {"id": None, "silent_s": math.nan}}},
        {"peers": {TWO: {"id": None, "silent_s": -1.0}}},
        {"servers": {"a": 0}},
        {"in_flight": "x"},
    ],
)
def test_what_is_no_statement_is_refused(fields: dict[str, object]) -> None:
    """Anything may listen at a URL; it must neither end this gateway nor prolong its lease."""
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        answer_of("a", **fields)
