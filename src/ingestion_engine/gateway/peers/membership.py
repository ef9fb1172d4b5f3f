"""Which gateways are alive, and what this one may do: a state machine. Pure but for the clock.

Every gateway polls the others (``GET /gateway/id``) and states what it knows. From the statements of those that live
each makes the same plan. Three rules keep two gateways from using one server, and the caps exact:

1. *Agreement.* When its plan changes, a gateway gives up at once what the new plan does not give it. It takes more
   only when every other gateway of the plan has stated the same plan, in answer to a request sent after the change.
2. *Lease.* A gateway declares another dead after ``DEAD_S`` without an answer. Each states how long it has not heard
   the others, so a gateway knows until when nobody can take its servers, and uses them only until then. One that stood
   still finds that time past. After that it needs a new agreement.
3. *Leftovers.* Requests in flight above a gateway's part count against the parts of the others until they end, and a
   larger part of the rate counts one second, the length of its window, after the agreement.

Two gateways that both live but cannot reach each other each use everything: then the caps are exceeded.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ingestion_engine.gateway.peers.plan import Part, Plan, Terms, identify, make_plan

DEAD_S = 5.0
"""Seconds without an answer after which a gateway counts as dead: five polls. A handover takes two more (measured)."""
DOUBT = 0.7
"""Part of the time until death after which the lease of a silent gateway is no longer needed. A lease ends up to a poll
and an answer before its giver counts as dead; without this, a death would stop the living for that time."""
TICKS = 20
"""Steps until a silent gateway counts as dead: every 0.25 s."""
LONGEST_STEP_TICKS = 2
"""The silence of others counts at most this much between two steps: a longer one is a pause of our own."""
STALL = 0.4
"""Part of the time until death after which a pause of its own makes a gateway forget what it knew. The others have not
taken it for dead by then, whose last answer may be a poll older, and an answer under way as long."""
SETTLE = 2
"""Times until death, 10 s, without an agreement after which requests are refused instead of waiting. Handovers take
less."""
RATE_PAUSE_S = 1.05
"""Seconds after an agreement before a larger part of the rate is used: the window of the cap, in which requests of the
others still count, and what requests may take to reach their server."""

NOTHING = Part(frozenset(), 0, 0.0)
"""The part of a gateway without an agreement."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Rights:
    """What this gateway may do now."""

    servers: frozenset[str] | None
    """URLs of servers to which it may send requests. None means all."""
    in_flight: int | None
    """Requests that it may have in flight. None means any number."""
    texts_per_second: float | None
    """Texts that it may send in any second. None means any number."""
    refusal: str | None
    """Why embedding requests, also those that wait, are refused with 503. None means that they are served or wait."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The answer of a gateway to ``GET /gateway/id``."""

    id: str
    url: str | None
    """The URL under which it has found itself; None while it has not."""
    heard: Mapping[str, tuple[str | None, float]]
    """URL of another gateway -> (id, seconds since it was last heard, or since it was listed)."""
    terms: Terms
    plan: str | None
    """Fingerprint of its plan."""
    in_flight: int
    """Requests that it has in flight."""
    leaving: bool
    """True while it ends: it sends no more requests."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Statement:
        """Return the statement of a body.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the answer of something else.
        """
        caps = body["caps"]
        in_flight, texts_per_second = caps["in_flight"], caps["texts_per_second"]
        return cls(
            id=str(body["id"]),
            url=_read_text(body["url"]),
            heard={
                str(url): (_read_text(each["id"]), _read_number(each["silent_s"]))
                for url, each in body["peers"].items()
            },
            terms=Terms(
                {str(url): int(_read_number(capacity, least=1)) for url, capacity in body["servers"].items()},
                in_flight=None if in_flight is None else int(_read_number(in_flight, least=1)),
                texts_per_second=None if texts_per_second is None else _read_number(texts_per_second),
                batch_texts=int(_read_number(caps["batch_texts"], least=1)),
            ),
            plan=_read_text(body["plan"]),
            in_flight=int(_read_number(body["in_flight"])),
            leaving=bool(body["leaving"]),
        )


def _read_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _read_number(value: Any, *, least: float = 0) -> float:
    """Return a number of a statement: what another process sends must not end this one. Raises ValueError."""
    number = float(value)
    if not least <= number < math.inf:
        raise ValueError(f"{value!r} is no number from {least} on")
    return number


@dataclass(frozen=True, slots=True)
class Poll:
    """The moment at which a request to another gateway was sent."""

    sent_at: float
    """Clock time."""
    awake: float
    """Seconds for which this process was running."""


@dataclass(slots=True)
class Peer:
    """An entry of the list of gateways; this gateway is one, too."""

    heard: Poll
    """The last request with an answer; before the first, when the entry was made."""
    statement: Statement | None = None
    listed: bool = True
    former_ids: frozenset[str] = frozenset()
    is_shared: bool = False
    """True once an id has come back after another: several gateways answer under this URL."""

    def note(self, statement: Statement, poll: Poll) -> None:
        """Record an answer."""
        if self.statement is not None and self.statement.id != statement.id:
            self.is_shared = self.is_shared or statement.id in self.former_ids
            self.former_ids |= {self.statement.id}
        if poll.sent_at >= self.heard.sent_at or self.statement is None:
            self.heard, self.statement = poll, statement


class Membership:
    """This gateway among the others. Every method is immediate. For one thread."""

    def __init__(
        self,
        urls: Collection[str],
        terms: Terms,
        *,
        clock: Callable[[], float],
        in_flight: Callable[[], int],
        dead_s: float = DEAD_S,
        gateway_id: str = "",
    ) -> None:
        """Create the gateway without knowledge of others.

        Args:
            urls: The list of gateways, with this one. Empty means that it is alone.
            terms: Its servers and caps.
            clock: Monotonic seconds, which pass also while the process stands still.
            in_flight: Number of its requests in flight.
            dead_s: Seconds without an answer after which a gateway counts as dead; the same for all.
            gateway_id: Unique id of this process. Empty means a random one.
        """
        self.id = gateway_id or secrets.token_hex(8)
        self._terms = terms
        self._clock = clock
        self._count_in_flight = in_flight
        self._dead_s = dead_s
        self._peers = {url: Peer(Poll(clock(), 0.0)) for url in urls}
        self._own_urls: set[str] = set()
        self._woken_at = -math.inf
        self._now = clock()
        self._awake = 0.0
        self._plan: Plan | None = None
        self._planned_at = self._now
        self._agreed_at: float | None = None
        self._idle_since = self._now
        self._held = NOTHING
        self._lease_until = -math.inf
        self._rights = Rights(frozenset(), in_flight=0, texts_per_second=0.0, refusal=None)
        self._leaving = False
        self._callbacks: list[Callable[[], None]] = []
        self.step()

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back after every change of the rights."""
        self._callbacks.append(callback)

    # What happens.

    def set_urls(self, urls: Collection[str]) -> None:
        """Replace the list of gateways. One that has left the list counts until it is silent."""
        for url in urls:
            self._peers.setdefault(url, Peer(Poll(self._now, self._awake)))
        for url, peer in self._peers.items():
            peer.listed = url in urls
        self.step()

    def set_servers(self, servers: Mapping[str, int]) -> None:
        """Replace the servers, URL -> capacity."""
        if servers != self._terms.servers:
            self._terms = replace(self._terms, servers=dict(servers))
            self.step()

    def begin_poll(self) -> Poll:
        """Return the moment; to be called just before a request to another gateway is sent."""
        self.step()
        return Poll(self._now, self._awake)

    def note_answer(self, url: str, statement: Statement, poll: Poll) -> None:
        """Record the answer of a gateway to a request."""
        self.step()  # a lease that is past is lost, even if this answer is a new one
        if url not in self._peers or poll.sent_at < self._woken_at:
            return
        self._peers[url].note(statement, poll)
        if statement.id == self.id:
            self._own_urls.add(url)
        self.step()

    def leave(self) -> None:
        """Give up everything and state it, so that the others take over at once."""
        self._leaving = True
        self.step()

    def step(self) -> None:
        """Apply the time that has passed. To be called every 0.25 s."""
        now = self._clock()
        has_stalled = now - self._now >= self._dead_s * STALL
        self._awake += min(now - self._now, LONGEST_STEP_TICKS * self.tick_s)
        self._now = now
        self._peers = {url: peer for url, peer in self._peers.items() if peer.listed or not self._is_dead(peer)}
        if has_stalled and self._others():
            self._begin_anew()
        elif now >= self._lease_until:
            self._give_up_everything()
        self._adopt_plan()
        self._find_lease()
        self._agree()
        if self._held.servers:
            self._idle_since = now
        rights = self._find_rights()
        if rights != self._rights:
            self._rights = rights
            for callback in self._callbacks:
                callback()

    # What follows.

    def rights(self) -> Rights:
        """Return what this gateway may do now. To be asked before every request that is sent; cheap."""
        now = self._clock()
        if now >= self._lease_until or now - self._now >= self._dead_s * STALL:
            self.step()
        return self._rights

    def statement(self) -> dict[str, Any]:
        """Return the body of the answer to ``GET /gateway/id``."""
        self.step()
        return {
            "id": self.id,
            "url": self.name,
            "view": sorted(self._plan.parts) if self._plan else [],
            "peers": {
                url: {
                    "id": peer.statement.id if peer.statement else None,
                    "silent_s": self._silence(peer),
                }
                for url, peer in self._others()
            },
            "servers": dict(self._terms.servers),
            "caps": {
                "in_flight": self._terms.in_flight,
                "texts_per_second": self._terms.texts_per_second,
                "batch_texts": self._terms.batch_texts,
            },
            "plan": self._fingerprint,
            "agreed": self._agreed_at is not None,
            "owns": sorted(self._held.servers),
            "in_flight": self._count_in_flight(),
            "leaving": self._leaving,
        }

    @property
    def urls(self) -> list[str]:
        """The gateways to poll, this one included."""
        return list(self._peers)

    @property
    def name(self) -> str | None:
        """The URL under which this gateway has found itself."""
        return min(self._own_urls, default=None)

    @property
    def own_urls(self) -> frozenset[str]:
        """The entries of the list that are this gateway."""
        return frozenset(self._own_urls)

    @property
    def tick_s(self) -> float:
        """Seconds between two steps."""
        return self._dead_s / TICKS

    @property
    def is_standby(self) -> bool:
        """Whether the plan leaves this gateway nothing to do, so that it refuses requests and all is well."""
        part = self._plan.parts[self.name or ""] if self._plan and self._agreed_at is not None else None
        return part is not None and self._count_servers() > 0 and (not part.servers or part.in_flight == 0)

    @property
    def alive(self) -> list[str]:
        """Names of the gateways that are alive, this one included."""
        return sorted([*self._living(), self.name or "this gateway"])

    @property
    def is_settled(self) -> bool:
        """False while an agreement or the end of former requests is awaited, so that frequent polls help."""
        return self._agreed_at is not None and self._find_room() is None

    @property
    def shared_urls(self) -> list[str]:
        """URLs under which several gateways answer: they cannot be told apart, so the caps are not exact."""
        return sorted(url for url, peer in self._peers.items() if peer.is_shared)

    @property
    def waits_for(self) -> list[str]:
        """Gateways whose agreement is missing, or that have not answered yet."""
        if self._agreed_at is not None:
            return []
        missing = (stated.url or "?" for peer, stated in self._answering() if not self._agrees(peer, stated))
        return sorted({*self._unknown(), *missing})

    def find_owner(self, server: str) -> str | None:
        """Return the name of the gateway that owns a server under the plan."""
        if self._plan is None:
            return None
        return next((name for name, part in self._plan.parts.items() if server in part.servers), None)

    @property
    def _fingerprint(self) -> str | None:
        return self._plan.fingerprint if self._plan else None

    def _silence(self, peer: Peer) -> float:
        return self._awake - peer.heard.awake

    def _is_dead(self, peer: Peer) -> bool:
        return self._silence(peer) >= self._dead_s

    def _others(self) -> list[tuple[str, Peer]]:
        return [(url, peer) for url, peer in self._peers.items() if url not in self._own_urls]

    def _unknown(self) -> list[str]:
        """Return listed gateways that may live: they have not answered, but not for long enough."""
        return [url for url, peer in self._others() if peer.statement is None and not self._is_dead(peer)]

    def _answering(self) -> list[tuple[Peer, Statement]]:
        return [(peer, peer.statement) for _, peer in self._others() if peer.statement and not self._is_dead(peer)]

    def _living(self) -> dict[str, Peer]:
        """Return the other gateways that take part, by the names that they give themselves.

        One without a plan uses nothing, and will use nothing before it has agreed with this one.
        """
        found: dict[str, Peer] = {}
        for peer, stated in self._answering():
            if stated.url is None or stated.plan is None or stated.leaving:
                continue
            if stated.url not in found or peer.heard.sent_at > found[stated.url].heard.sent_at:
                found[stated.url] = peer
        return found

    def _adopt_plan(self) -> None:
        """Make the plan; when it differs from the former, keep only what both give."""
        group = {name: peer.statement.terms for name, peer in self._living().items() if peer.statement}
        name = self.name
        if name is None and not group and not self._unknown():
            name = ""  # nobody answers, this gateway itself neither: it is alone
        if self._leaving or name is None:
            self._plan, self._agreed_at, self._held = None, None, NOTHING
            return
        group[name] = self._terms
        if identify(group) == self._fingerprint:
            return
        plan = make_plan(group)
        part = plan.parts[name]
        self._plan, self._planned_at, self._agreed_at = plan, self._now, None
        self._held = Part(
            self._held.servers & part.servers,
            _smaller(self._held.in_flight, part.in_flight),
            _smaller(self._held.texts_per_second, part.texts_per_second),
        )

    def _find_lease(self) -> None:
        """Set the time until which no living gateway takes what this one has."""
        needed = [peer for peer in self._living().values() if self._silence(peer) < self._dead_s * DOUBT]
        self._lease_until = min((self._find_grant(peer) for peer in needed), default=math.inf)
        if self._now >= self._lease_until:
            self._give_up_everything()

    def _find_grant(self, peer: Peer) -> float:
        """Return the clock time before which a gateway does not count this one as dead."""
        assert peer.statement is not None
        silent = [
            silent_s
            for url, (gateway_id, silent_s) in peer.statement.heard.items()
            if gateway_id == self.id or url in self._own_urls
        ]
        return peer.heard.sent_at + self._dead_s - min(silent, default=math.inf)

    def _give_up_everything(self) -> None:
        if self._agreed_at is not None or self._held != NOTHING:
            self._planned_at, self._agreed_at, self._held = self._now, None, NOTHING

    def _begin_anew(self) -> None:
        """Know nothing of the others, as a new process: one that was dead may have come back during the pause."""
        for url, peer in self._others():
            self._peers[url] = replace(peer, statement=None, heard=Poll(self._now, self._awake))
        self._woken_at = self._now
        self._give_up_everything()

    def _agrees(self, peer: Peer, stated: Statement) -> bool:
        """Return whether a gateway has stated this plan, or that it has none, after this one has made the plan.

        Without the second, two that start at once would each take the other's early "none" for an answer. One that has
        the name of this one cannot be told apart by the others.
        """
        is_new = peer.heard.sent_at >= self._planned_at
        is_equal = stated.plan is None or stated.plan == self._fingerprint
        return stated.leaving or (is_new and is_equal and stated.url != self.name)

    def _all_agree(self) -> bool:
        if self._now >= self._lease_until or self._unknown():
            return False
        return all(self._agrees(peer, stated) for peer, stated in self._answering())

    def _agree(self) -> None:
        """Take what the plan gives, when all agree."""
        if self._plan is None:
            return
        part = self._plan.parts[self.name or ""]
        if self._agreed_at is None and self._all_agree():
            self._agreed_at = self._now
            rate = _smaller(self._held.texts_per_second, part.texts_per_second)
            self._held = replace(part, texts_per_second=rate)
        if self._agreed_at is not None and self._now >= self._agreed_at + self._rate_pause():
            self._held = part

    def _count_servers(self) -> int:
        return sum(len(part.servers) for part in self._plan.parts.values()) if self._plan else 0

    def _rate_pause(self) -> float:
        """Return the seconds for which requests of others count against a larger part of the rate."""
        is_free = self._plan is None or all(part.texts_per_second is None for part in self._plan.parts.values())
        return 0.0 if is_free or not self._peers else RATE_PAUSE_S

    def _find_room(self) -> int | None:
        """Return the requests that others leave below the cap; None when that is this gateway's part or more."""
        if self._plan is None or self._plan.in_flight is None or self._held.in_flight is None:
            return None
        used = 0
        for _, stated in self._answering():
            part = self._plan.parts.get(stated.url or "", NOTHING)
            used += max(part.in_flight or 0, stated.in_flight)
        room = max(0, self._plan.in_flight - used)
        return room if room < self._held.in_flight else None

    def _find_rights(self) -> Rights:
        room = self._find_room()
        owned = self._held.servers & self._terms.servers.keys()
        return Rights(
            owned if self._peers else None,
            in_flight=self._held.in_flight if room is None else room,
            texts_per_second=self._held.texts_per_second,
            refusal=self._find_refusal(),
        )

    def _find_refusal(self) -> str | None:
        if self._leaving:
            return "This gateway is shutting down. Another gateway of INGEST_GATEWAY__URL takes over."
        idle_s = self._now - self._idle_since
        if self._plan is None:
            if self._unknown() or idle_s < self._dead_s:
                return None
            return "This gateway serves no requests, because it is none of those of INGEST_GATEWAY__URL."
        if self._agreed_at is None:
            if self._held.servers or idle_s < SETTLE * self._dead_s:
                return None
            if self.name in self.waits_for:
                return f"Two gateways are called {self.name}: list each by a URL that means the same to all."
            return f"This gateway does not serve yet: it waits for {', '.join(self.waits_for) or 'an agreement'}."
        if self.is_standby:
            return (
                "This gateway has nothing to do at present: other gateways of INGEST_GATEWAY__URL own all"
                f" {self._count_servers()} servers, or all requests in flight. Send requests to them."
            )
        return None


def _smaller(one: Number | None, other: Number | None) -> Number | None:
    """Return the smaller of two caps, of which None means no cap. Pure."""
    return min((cap for cap in (one, other) if cap is not None), default=None)
