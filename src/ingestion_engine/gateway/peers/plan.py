"""The plan of one group of gateways: the owner of each server, and each gateway's part of the caps. Pure.

Every gateway computes it by itself from what all of them state, and comes to the same one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import orjson

PLAN_VERSION: Final = 1
"""To be increased with every change of what follows from the same terms: gateways of different releases then do not
agree, instead of each using what it computes."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a gateway is configured with, and states to the others."""

    servers: Mapping[str, int] = field(default_factory=dict)
    """URL -> capacity of every server that it knows."""
    in_flight: int | None = None
    """Cap on the requests in flight of all gateways. None means no cap."""
    texts_per_second: float | None = None
    """Cap on the texts per second of all gateways. None means no cap."""
    batch_texts: int = 1
    """Texts of the largest usual request. A gateway with a smaller part of the rate could not send one in a second."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one gateway may do under a plan."""

    servers: frozenset[str] = frozenset()
    """Servers that it owns."""
    in_flight: int | None = None
    """Requests that it may have in flight. None means any number."""
    texts_per_second: float | None = None
    """Texts that it may send per second. None means any number."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who does what."""

    fingerprint: str
    """Equal plans, and only they, have the same."""
    parts: Mapping[str, Part]
    """Gateway -> its part. The parts of the servers are a disjoint cover; those of a cap sum up to it at most."""
    in_flight: int | None
    """The smallest cap that a gateway states; their settings should be equal."""


def make_plan(group: Mapping[str, Terms]) -> Plan:
    """Return the plan for gateways (name -> terms); the same for every order of them. Pure.

    Cost: one hash for each pair of server and gateway, once per process; 500 servers and 8 gateways take 10 ms.
    """
    in_flight = min((terms.in_flight for terms in group.values() if terms.in_flight is not None), default=None)
    rate = min((terms.texts_per_second for terms in group.values() if terms.texts_per_second is not None), default=None)
    batch = max((terms.batch_texts for terms in group.values()), default=1)
    owners = assign_servers(
        {name: terms.servers for name, terms in group.items()}, most_owners=count_owners(in_flight, rate, batch)
    )
    capacities: dict[str, int] = {}
    for server, owner in owners.items():
        capacity = max(terms.servers.get(server, 0) for terms in group.values())
        capacities[owner] = capacities.get(owner, 0) + capacity
    requests = share_requests(capacities, in_flight) if in_flight is not None else None
    texts = share_texts(capacities, rate, batch) if rate is not None else None
    parts = {
        name: Part(
            frozenset(server for server, owner in owners.items() if owner == name),
            None if requests is None else requests.get(name, 0),
            None if texts is None else texts.get(name, 0.0),
        )
        for name in sorted(group)
    }
    return Plan(identify(group), parts, in_flight)


def identify(group: Mapping[str, Terms]) -> str:
    """Return the fingerprint of the plan for gateways, which is quicker than the plan. Pure."""
    stated = {
        name: [sorted(terms.servers.items()), terms.in_flight, terms.texts_per_second, terms.batch_texts]
        for name, terms in group.items()
    }
    return blake2b(orjson.dumps([PLAN_VERSION, stated], option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def count_owners(in_flight: int | None, texts_per_second: float | None, batch_texts: int) -> float:
    """Return how many gateways the caps can feed: each needs a request in flight, and one batch per second. Pure.

    Servers of a gateway beyond would be idle; and batches above a part of the rate would break the cap.
    """
    by_rate = math.inf if texts_per_second is None else max(1, int(texts_per_second // batch_texts))
    return min(math.inf if in_flight is None else in_flight, by_rate)


def assign_servers(known: Mapping[str, Collection[str]], *, most_owners: float = math.inf) -> dict[str, str]:
    """Return server -> gateway; each gets a server that it knows, and their numbers differ by at most one. Pure.

    Plain rendezvous hashing gives each server to the gateway with the highest score for it. With few servers that
    leaves gateways without any, so here a gateway that has its number is full, and pairs are taken in the order of
    their scores. When a gateway comes or goes, hardly more servers move than must.

    Args:
        known: Gateway -> the servers that it knows; the numbers are even only where all know the same.
        most_owners: Maximum number of gateways that own servers; those with the highest scores.
    """
    ranked = sorted(known, key=lambda name: (score(name, ""), name), reverse=True)
    owners = ranked[: max(1, int(min(most_owners, len(ranked))))]
    pairs = sorted(((score(name, server), server, name) for name in owners for server in known[name]), reverse=True)
    smallest, larger = divmod(len({server for _, server, _ in pairs}), len(owners) or 1)
    found: dict[str, str] = {}
    counts = dict.fromkeys(known, 0)
    for _, server, name in pairs:
        if server in found or counts[name] > smallest or (counts[name] == smallest and not larger):
            continue
        larger -= counts[name] == smallest
        counts[name] += 1
        found[server] = name
    for server in sorted({server for servers in known.values() for server in servers} - found.keys()):
        knowing = [name for name in owners if server in known[name]] or [
            name for name in ranked if server in known[name]
        ]
        found[server] = min(knowing, key=lambda name: (counts[name], name))
        counts[found[server]] += 1
    return found


@functools.lru_cache(maxsize=1 << 16)
def score(gateway: str, server: str) -> int:
    """Return the score of a pair: 64 bits that look random and are the same in every process. Pure."""
    return int.from_bytes(blake2b(f"{gateway}\0{server}".encode(), digest_size=8).digest())


def share_requests(capacities: Mapping[str, int], total: int) -> dict[str, int]:
    """Return whole parts of ``total`` in proportion to the capacities, by largest remainder; they sum up to it. Pure.

    Each gateway gets at least one while there are enough.
    """
    ranked = sorted(capacities, key=lambda name: (-capacities[name], name))
    if total < len(ranked):
        return {name: int(at < total) for at, name in enumerate(ranked)}
    whole = sum(capacities.values())
    parts = {name: max(1, total * capacities[name] // whole) for name in ranked}
    over = sum(parts.values()) - total
    while over > 0:  # small gateways were rounded up to one: the largest parts pay
        largest = max(ranked, key=lambda name: parts[name])
        parts[largest] -= 1
        over -= 1
    by_remainder = sorted(ranked, key=lambda name: (-(total * capacities[name] % whole), name))
    for at in range(-over):
        parts[by_remainder[at % len(ranked)]] += 1
    return parts


def share_texts(capacities: Mapping[str, int], total: float, batch_texts: int) -> dict[str, float]:
    """Return parts of ``total`` texts per second: one batch each where it is enough, the rest by capacity. Pure."""
    whole = sum(capacities.values())
    least = batch_texts if total >= batch_texts * len(capacities) else 0
    rest = total - least * len(capacities)
    return {name: least + rest * capacity / whole for name, capacity in capacities.items()}
