"""The plan of several gateways: even numbers of servers, few moves, parts that sum up to the caps."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_engine.gateway.peers.plan import (
    Terms,
    assign_servers,
    count_owners,
    make_plan,
    share_requests,
    share_texts,
)


def name_servers(count: int) -> dict[str, int]:
    return {f"http://ollama-{number}:11434": 1 for number in range(count)}


def name_gateways(count: int) -> list[str]:
    return [f"http://gateway-{number}:11430" for number in range(count)]


capacities = st.dictionaries(st.sampled_from(name_gateways(9)), st.integers(1, 50), min_size=1)


@given(st.integers(1, 9), st.integers(0, 60), st.randoms(use_true_random=False))
def test_numbers_of_servers_differ_by_one_at_most(gateways: int, servers: int, random: object) -> None:
    """Also with few servers; and the order in which they are listed does not matter."""
    names = name_gateways(gateways)
    urls = list(name_servers(servers))
    owners = assign_servers(dict.fromkeys(names, urls))
    counts = Counter(owners.values())
    assert owners.keys() == set(urls)
    assert max(counts[name] for name in names) - min(counts[name] for name in names) <= 1
    random.shuffle(urls)  # type: ignore[attr-defined]  # hypothesis has no type for it
    assert assign_servers(dict.fromkeys(reversed(names), urls)) == owners


@pytest.mark.parametrize("gateways", [2, 3, 5, 8])
def test_hardly_more_servers_move_than_must(gateways: int) -> None:
    """When one of the gateways ends, its servers move, and few others (measured: 2 to 4 % at most)."""
    names, servers = name_gateways(gateways), name_servers(100)
    before = assign_servers(dict.fromkeys(names, servers))
    for gone in names:
        after = assign_servers({name: servers for name in names if name != gone})
        needless = [server for server in servers if before[server] != after[server] and before[server] != gone]
        assert len(needless) <= 8


def test_a_server_goes_to_a_gateway_that_knows_it() -> None:
    """Names may resolve to other addresses for a moment, so gateways may know different servers."""
    one, other = name_gateways(2)
    owners = assign_servers({one: ["a", "b", "c"], other: ["c", "d"]}, most_owners=1)
    assert owners["a"] == owners["b"] == one
    assert owners["d"] == other
    assert assign_servers({}) == {}
    assert assign_servers({one: []}) == {}


@given(capacities, st.integers(0, 60))
def test_requests_are_shared_in_proportion(given_capacities: dict[str, int], total: int) -> None:
    """Whole parts that sum up to the cap, off by less than one, but at least one where that is possible."""
    parts = share_requests(given_capacities, total)
    assert sum(parts.values()) == total
    whole = sum(given_capacities.values())
    for name, part in parts.items():
        exact = total * given_capacities[name] / whole
        assert part >= min(1, total // len(parts))
        if min(total * capacity / whole for capacity in given_capacities.values()) >= 1:
            assert abs(part - exact) < 1


@given(capacities, st.integers(1, 500), st.integers(1, 32))
def test_texts_are_shared_in_proportion(given_capacities: dict[str, int], total: int, batch: int) -> None:
    """The parts sum up to the cap; each allows a batch per second where that is possible."""
    parts = share_texts(given_capacities, total, batch)
    assert sum(parts.values()) == pytest.approx(total)
    if total >= batch * len(given_capacities):
        assert min(parts.values()) >= batch


def test_no_more_gateways_own_servers_than_the_caps_feed() -> None:
    """A part below one request, or below one batch per second, would leave servers idle or break the cap."""
    assert count_owners(None, None, 16) == math.inf
    assert count_owners(2, None, 16) == 2
    assert count_owners(8, 50.0, 16) == 3
    assert count_owners(None, 5.0, 16) == 1
    plan = make_plan({name: Terms(name_servers(6), 2, 100.0, 16) for name in name_gateways(4)})
    assert sorted(len(part.servers) for part in plan.parts.values()) == [0, 0, 3, 3]
    assert sorted(part.in_flight or 0 for part in plan.parts.values()) == [0, 0, 1, 1]
    assert sorted(part.texts_per_second or 0.0 for part in plan.parts.values()) == [0.0, 0.0, 50.0, 50.0]


def test_the_smallest_cap_counts() -> None:
    """While settings change, gateways state different ones; capacities and caps of all make one plan."""
    one, other = name_gateways(2)
    plan = make_plan({one: Terms({"a": 1, "b": 4}, 8, 100.0, 8), other: Terms({"a": 1, "b": 4}, None, 50.0, 16)})
    assert plan.in_flight == 8
    assert sum(part.texts_per_second or 0 for part in plan.parts.values()) == 50
    assert sorted(part.in_flight or 0 for part in plan.parts.values()) == [2, 6]
    assert make_plan({one: Terms({"a": 1})}).fingerprint != make_plan({one: Terms({"a": 2})}).fingerprint
