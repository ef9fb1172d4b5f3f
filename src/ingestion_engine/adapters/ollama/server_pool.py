"""The pool of Ollama servers: which one gets the next request, and which ones get none for now.

A server is up, or cools down after a failure, or is half-open: its models are read again, then one request tries it.
It gets requests for a model only while it serves the digest that is wanted. The pool itself sends nothing: its owner
(the embedder of a worker, the gateway) sends requests and probes and reports what came of them, so that everything here
can be tested without sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ingestion_engine.adapters.ollama.models import ModelTable
from ingestion_engine.adapters.ollama.responses import canonical_name
from ingestion_engine.adapters.ollama.server_urls import ServerAddress
from ingestion_engine.domain.records import Band
from ingestion_engine.runtime.adaptive_limit import LARGEST_LIMIT, AdaptiveLimit, Outcome, Passage
from ingestion_engine.runtime.telemetry import get_logger

COOL_DOWN_S: Final = 1.0
"""Pause after one failure; doubles with each further one (a guess: a restart takes seconds, a crash loop minutes)."""
LONGEST_COOL_DOWN_S: Final = 30.0
LONGEST_RETRY_AFTER_S: Final = 300.0
"""A longer ``Retry-After`` of a proxy counts as this: a page of an outage may name hours."""
MOST_MODELS: Final = 100
"""Largest number of models whose differences are reported: names come from callers."""
SEARCH_SEEN_S: Final = 10.0
"""Seconds after a search for which requests of jobs leave half of every limit free."""

log = get_logger(__name__)


class ServerState(StrEnum):
    """What a server is used for, whatever the model."""

    UP = "up"
    COOLING = "cooling"
    """It failed, and gets nothing until its pause ends."""
    HALF_OPEN = "half_open"
    """Its pause has ended: its models are read, then one request tries it."""


class Availability(StrEnum):
    """Why a pool has or has not a server for a model."""

    READY = "ready"
    """At least one server may serve it, now or when it has room."""
    DOWN = "down"
    """Servers that might serve it have failed, or have not answered yet."""
    MODEL_MISSING = "model_missing"
    """No server that answers has the model."""
    DIGEST_MISSING = "digest_missing"
    """Servers that answer have the model, but none with the digest that is wanted."""


@dataclass(slots=True, eq=False)
class Server:
    """One server of the pool and its recent state."""

    address: ServerAddress
    limit: AdaptiveLimit
    failures: int = field(default=0, init=False)
    """Consecutive failures; those of requests that were in flight together count once."""
    cool_until: float = field(default=0.0, init=False)
    """Clock time at which the pause after the last failure ends."""
    ordered_until: float = field(default=0.0, init=False)
    """Clock time before which the server itself asked for no request (``Retry-After``)."""
    last_error: str | None = field(default=None, init=False)
    trial: Flight | None = field(default=None, init=False)
    """The request that tries a half-open server."""
    is_leaving: bool = field(default=False, init=False)
    """It is no longer in the list, and ends what is in flight."""
    failed_at: float = field(default=float("-inf"), init=False)
    done: int = field(default=0, init=False)
    """Requests that ended with an answer."""
    failed: int = field(default=0, init=False)
    """Requests that failed."""
    texts: int = field(default=0, init=False)
    """Texts of the requests that ended with an answer, where ``begin`` was told."""
    chars: int = field(default=0, init=False)
    """Characters of the requests that ended with an answer."""

    @property
    def url(self) -> str:
        """Base URL."""
        return self.address.url

    @property
    def in_flight(self) -> int:
        """Requests that have begun and not ended."""
        return self.limit.in_flight


@dataclass(slots=True, eq=False)
class Flight:
    """One request at one server, from ``begin`` to ``end``."""

    server: Server
    passage: Passage
    texts: int = 0


class ServerPool:
    """Servers with cool-down, digests and adaptive limits. For one event loop; the clock can be injected."""

    def __init__(
        self,
        servers: Iterable[ServerAddress | str] = (),
        *,
        home: int | None = None,
        most: int = LARGEST_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a pool of servers that are assumed to be up.

        Args:
            servers: The servers in order; duplicates count once.
            home: Number, modulo the number of servers, of the first preferred server among equally loaded ones; the
                next servers in order follow it. Processes that do not know of one another spread their load by having
                different homes, as far apart as each has requests in flight. None rotates through the servers.
            most: Upper bound of the adaptive limit of every server.
            clock: Monotonic seconds.
        """
        self.models = ModelTable()
        self._servers: dict[str, Server] = {}
        self._most = most
        self._clock = clock
        self._turn = home or 0
        self._rotates = home is None
        self._search_seen_at = float("-inf")
        self._listeners: list[Callable[[], None]] = []
        self._reported: dict[tuple[str, str], str | None] = {}
        self._asked: dict[str, None] = {}
        self.set_servers(servers)

    @property
    def servers(self) -> Sequence[Server]:
        """The servers in order, without those that have left."""
        return list(self._servers.values())

    @property
    def models_asked_for(self) -> Sequence[str]:
        """Names of the models that requests have named, in order of the first one, at most ``MOST_MODELS``."""
        return list(self._asked)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a request may find a server that found none before."""
        self._listeners.append(listener)

    def set_servers(self, servers: Iterable[ServerAddress | str]) -> None:
        """Replace the list. Servers that stay keep their state; requests at those that leave are not disturbed."""
        wanted: dict[str, ServerAddress] = {}
        for server in servers:
            address = ServerAddress(server) if isinstance(server, str) else server
            wanted.setdefault(address.url, address)
        for url in self._servers.keys() - wanted.keys():
            self._servers[url].is_leaving = True
            self.models.forget(url)
        self._servers = {url: self._keep_or_make(address) for url, address in wanted.items()}
        self.models.set_order(self._servers)
        self._reported = {key: digest for key, digest in self._reported.items() if key[0] in self._servers}
        self._wake()

    def _keep_or_make(self, address: ServerAddress) -> Server:
        held = self._servers.get(address.url)
        if held is not None and held.address == address:
            return held
        return Server(address, AdaptiveLimit(most=self._most, capacity=address.capacity, clock=self._clock))

    # Choice

    def choose(
        self,
        model: str,
        *,
        digest: str | None = None,
        band: Band = Band.JOB,
        exclude: Collection[Server] = (),
        hurry: bool = False,
    ) -> Server | None:
        """Return the server with room that has the fewest requests in flight for its limit, or None.

        Among equals it is the next in rotation, or the first from home on. A search, whether or not it finds a server,
        makes requests of jobs leave room for ``SEARCH_SEEN_S``.

        Args:
            model: Name of the model.
            digest: Digest that the server must serve; None means the reference digest.
            band: Whose request it is.
            exclude: Servers that have failed this request.
            hurry: When no server is up, take the one that is ready first before its pause has ended, unless the server
                itself asked for the pause.
        """
        if band is Band.SEARCH:
            self._search_seen_at = self._clock()
        self._turn += self._rotates
        self._note_asked(model)
        wanted = self._find_wanted(model, digest)
        usable = [
            server for server in self._in_order() if server not in exclude and self._may_serve(server, model, wanted)
        ]
        now = self._clock()
        ready = [server for server in usable if self._is_ready(server, now)]
        if hurry and not ready:
            ready = self._find_first_ready(usable, now)
        free = [server for server in ready if self._find_room(server, band) > 0]
        chosen = min(free, key=lambda server: server.limit.running / server.limit.limit, default=None)
        if chosen is not None and digest is None and wanted is not None:
            self.models.note_use(model, wanted)
        return chosen

    def find_availability(self, model: str, *, digest: str | None = None) -> Availability:
        """Return whether any server, room or not, can serve a model, and if not, why; arguments as for ``choose``."""
        wanted, now = self._find_wanted(model, digest), self._clock()
        servers = self.servers
        serving = [server for server in servers if self._may_serve(server, model, wanted)]
        if any(server.cool_until <= now for server in serving):
            return Availability.READY
        if serving or not servers or any(not self.models.is_known(server.url) for server in servers):
            return Availability.DOWN
        return Availability.DIGEST_MISSING if self.models.list_digests(model) else Availability.MODEL_MISSING

    def find_state(self, server: Server) -> ServerState:
        """Return what a server is used for now."""
        if server.failures == 0:
            return ServerState.UP
        return ServerState.COOLING if server.cool_until > self._clock() else ServerState.HALF_OPEN

    def is_answering(self, server: Server) -> bool:
        """Whether a server has listed its models, since its last failure if there was one: it may be asked for more."""
        return self.find_state(server) is not ServerState.COOLING and self.models.is_known(server.url)

    def find_differing(self, model: str) -> dict[str, str | None]:
        """Return the servers that answer but do not serve a model's reference digest, with what they serve instead.

        None means that the server does not have the model. Such servers get no requests that name no digest. Empty
        while no server is known to have the model.
        """
        reference = self._find_wanted(model, None)
        if reference is None:
            return {}
        known = {s.url: self.models.find_digest(s.url, model) for s in self.servers if self.models.is_known(s.url)}
        return {url: digest for url, digest in known.items() if digest != reference}

    def _find_wanted(self, model: str, digest: str | None) -> str | None:
        if digest is not None:
            return digest.removeprefix("sha256:")
        return self.models.choose_reference(model)

    def _may_serve(self, server: Server, model: str, wanted: str | None) -> bool:
        """Whether a server serves the digest; when no digest is known at all, whether it might."""
        if self.models.is_known(server.url):
            return wanted is not None and self.models.find_digest(server.url, model) == wanted
        return wanted is None

    def _is_ready(self, server: Server, now: float) -> bool:
        if server.failures == 0:
            return True
        return server.cool_until <= now and server.trial is None

    def _find_first_ready(self, servers: Iterable[Server], now: float) -> list[Server]:
        """Return the server whose pause ends first, if no server of the pool is up and it did not ask for its pause."""
        if any(server.failures == 0 for server in self.servers):
            return []
        free = [server for server in servers if server.trial is None and server.ordered_until <= now]
        return sorted(free, key=lambda server: server.cool_until)[:1]

    def _find_room(self, server: Server, band: Band) -> int:
        if server.failures:
            return 1 if server.trial is None else 0
        room, half = server.limit.room, server.limit.limit // 2
        if band is Band.SEARCH:
            return max(room, server.limit.limit + half - server.limit.running)
        is_held_back = self._clock() - self._search_seen_at < SEARCH_SEEN_S and server.limit.is_learned
        return min(room, max(half, 1) - server.limit.running) if is_held_back else room

    def _in_order(self) -> list[Server]:
        servers = self.servers
        first = self._turn % len(servers) if servers else 0
        return [*servers[first:], *servers[:first]]

    # Requests

    def begin(self, server: Server, chars: int, texts: int = 0) -> Flight:
        """Record that a request of ``chars`` characters and ``texts`` texts begins at a server that was chosen."""
        flight = Flight(server, server.limit.begin(chars), texts)
        if server.failures and server.trial is None:
            server.trial = flight
        return flight

    def end(
        self,
        flight: Flight,
        outcome: Outcome,
        *,
        error: str | None = None,
        retry_after_s: float | None = None,
        load_s: float = 0.0,
    ) -> None:
        """Record how a request ended.

        Args:
            flight: What ``begin`` returned.
            outcome: How it ended.
            error: What happened to a request that failed, for reports.
            retry_after_s: Pause that the server, or a proxy before it, asked for.
            load_s: Seconds of the request for which the server loaded the model.
        """
        server = flight.server
        server.limit.end(flight.passage, outcome, load_s=load_s)
        is_trial = server.trial is flight
        if is_trial:
            server.trial = None
        if outcome is Outcome.FAILED:
            server.failed += 1
            if is_trial or flight.passage.began >= server.failed_at:
                self._cool_down(server, error)
            if retry_after_s is not None:
                server.ordered_until = self._clock() + min(retry_after_s, LONGEST_RETRY_AFTER_S)
                server.cool_until = max(server.cool_until, server.ordered_until)
        elif outcome is not Outcome.ABANDONED:
            if outcome is Outcome.DONE:
                server.done += 1
                server.texts += flight.texts
                server.chars += flight.passage.chars
            if is_trial or flight.passage.began >= server.failed_at:
                self._recover(server)
        self._wake()

    def _cool_down(self, server: Server, error: str | None) -> None:
        now = self._clock()
        pause = min(COOL_DOWN_S * 2.0**server.failures, LONGEST_COOL_DOWN_S)
        if server.failures == 0:
            log.warning("server cools down", extra={"url": server.url, "reason": error or "unknown"})
        server.failures = min(server.failures + 1, 16)
        server.failed_at, server.cool_until, server.last_error = now, now + pause, error
        if not server.is_leaving:
            self.models.forget(server.url)

    def _recover(self, server: Server) -> None:
        if server.failures:
            log.info("server is up again", extra={"url": server.url})
        server.failures, server.cool_until, server.ordered_until, server.last_error = 0, 0.0, 0.0, None

    # Probes

    def due(self, model: str | None = None, *, digest: str | None = None, hurry: bool = False) -> list[Server]:
        """Return the servers whose models must be read before they are used: not known, and not cooling down.

        Args:
            model: Only those that may serve this model afterwards and may not now; None means every model.
            digest: As for ``choose``.
            hurry: As for ``choose``.
        """
        now = self._clock()
        if model is not None and self._find_wanted(model, digest) is None:
            return []  # no digest is known: servers are used unseen
        unknown = [s for s in self.servers if not self.models.is_known(s.url) and s.trial is None]
        due = [server for server in unknown if server.cool_until <= now]
        return due or (self._find_first_ready(unknown, now) if hurry else [])

    def note_models(self, server: Server, digests: Mapping[str, str]) -> None:
        """Record what a server lists in ``/api/tags``; digest by name of the model. One that differs is logged once."""
        if server.is_leaving:
            return
        self.models.note(server.url, digests)
        for model in self._asked:
            self._report_differing(model)
        self._wake()

    def note_unreachable(self, server: Server, error: str | None, *, retry_after_s: float | None = None) -> None:
        """Record that the models of a server could not be read: it cools down."""
        self._cool_down(server, error)
        if retry_after_s is not None:
            server.ordered_until = self._clock() + min(retry_after_s, LONGEST_RETRY_AFTER_S)
            server.cool_until = max(server.cool_until, server.ordered_until)
        self._wake()

    @property
    def next_change_at(self) -> float:
        """Clock time at which a server gets room by itself (a pause or a search's time ends); infinite for none."""
        now = self._clock()
        times = [server.cool_until for server in self.servers if server.cool_until > now]
        times += [server.limit.next_change_at for server in self.servers]
        if (search_ends := self._search_seen_at + SEARCH_SEEN_S) > now:
            times.append(search_ends)
        return min(times, default=float("inf"))

    def _note_asked(self, model: str) -> None:
        name = canonical_name(model)
        if name not in self._asked and len(self._asked) < MOST_MODELS:
            self._asked[name] = None
            self._report_differing(name)

    def _report_differing(self, model: str) -> None:
        """Log that a server is not used for a model, or is used again, once for every change."""
        differing = self.find_differing(model)
        for url in self._servers:
            digest, before = differing.get(url, ""), self._reported.get((url, model), "")  # "" means as the others
            if digest == before:
                continue
            self._reported[url, model] = digest
            if digest == "":
                log.info("server used for a model again", extra={"url": url, "model": model})
            else:
                served = "does not have the model" if digest is None else f"serves digest {digest}"
                log.warning("server not used for a model", extra={"url": url, "model": model, "reason": served})

    def _wake(self) -> None:
        for listener in self._listeners:
            listener()
