"""Binds waiting requests to servers with room, as late as possible, and tries another server after a failure."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from ingestion_engine.adapters.ollama.failed_tries import FAILED_SERVERS, says_overloaded
from ingestion_engine.adapters.ollama.responses import canonical_name
from ingestion_engine.adapters.ollama.server_pool import Flight, Server, ServerPool, ServerState
from ingestion_engine.domain.records import Band
from ingestion_engine.gateway.forward import EmbedRequest, Forwarder, Reply, Result, Verdict
from ingestion_engine.gateway.scheduling.fair_queue import FairQueue
from ingestion_engine.gateway.scheduling.tickets import Caps, Ticket
from ingestion_engine.gateway.suspects import Suspects
from ingestion_engine.runtime.adaptive_limit import Outcome
from ingestion_engine.runtime.telemetry import get_logger

HOPE_S: Final = 10.0
"""Seconds for which a request waits while no server can serve its model: longer than a restart of a server and than the
handover between gateways; shorter than the patience of a worker, which then pauses its job."""
DROPPED_S: Final = 600.0
"""Seconds for which a dropped flow is refused: workers of a canceled job end within a minute."""
MOST_DROPPED: Final = 10_000
"""Dropped flows to remember at once; keys come from clients."""
MOST_HOPELESS: Final = 1_000
"""Models without a server to remember at once beside those of waiting requests; names come from clients."""
STEP_S: Final = 0.5
"""Longest pause between two looks at the queue while requests wait."""
MOST_FAILED: Final = 3
"""Servers that may fail one request: a text that stops every model process must not stop those of all servers."""
MOST_FAILED_AGAIN: Final = 2
"""The same for a body that has failed before."""
RETRY_AFTER_S: Final = 1.0
"""Pause that a refused client is asked for: the queue moves on within a second."""

_log = get_logger(__name__)

_OUTCOMES: Final = {
    Verdict.ANSWER: Outcome.DONE,
    Verdict.REFUSED: Outcome.REFUSED,
    Verdict.MODEL_MISSING: Outcome.REFUSED,
    Verdict.DOUBTFUL: Outcome.REFUSED,
    Verdict.EXCUSED: Outcome.ABANDONED,
    Verdict.FAILED: Outcome.FAILED,
}


class Refused(Exception):
    """The gateway itself does not serve a request.

    Args:
        status: HTTP status.
        message: Sentence for the client.
        reason: Short name for metrics.
        retry_after_s: Pause after which it makes sense to try again; None when it does not.
        failed_servers: Servers that received it and failed it.
    """

    def __init__(
        self, status: int, message: str, *, reason: str, retry_after_s: float | None = None, failed_servers: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.failed_servers = failed_servers


class _NoneLeft(Exception):
    """No server is left that could serve a request which others have failed."""


class Rights(Protocol):
    """What this gateway may do now, beside other gateways."""

    @property
    def servers(self) -> Collection[str] | None:
        """URLs of the servers that it may use; None means all."""

    @property
    def in_flight(self) -> int | None:
        """Maximum number of its requests in flight; None means no limit."""

    @property
    def texts_per_second(self) -> float | None:
        """Maximum number of texts that it may send in any second; None means no limit."""

    @property
    def refusal(self) -> str | None:
        """Why it refuses all requests; None when it does not."""


@dataclass(frozen=True, slots=True)
class AllRights:
    """The rights of a gateway that is alone."""

    in_flight: int | None = None
    texts_per_second: float | None = None
    servers: Collection[str] | None = None
    refusal: str | None = None


class Wanted(NamedTuple):
    """What a server must serve for a request."""

    model: str
    """Name in canonical form; empty when the body names none, so that any server may refuse it."""
    digest: str | None = None
    """Digest that the caller wants; None means the reference digest."""

    @classmethod
    def parse(cls, model: str, digest: str | None) -> Wanted:
        """Return what a client means by the name and the digest of a model."""
        return cls(canonical_name(model) if model.strip() else "", digest)


@dataclass(eq=False, slots=True, kw_only=True)
class Call(Ticket):
    """A request for embeddings, from its arrival to its reply."""

    wanted: Wanted
    request: EmbedRequest
    tried: tuple[Server, ...] = field(init=False, default=())
    """Servers that have been tried; the last one has the answer, the others have failed it."""
    turn: asyncio.Future[Flight] | None = field(init=False, default=None)
    """Done when it has a server; a refusal is its exception."""
    flight: Flight | None = field(init=False, default=None)
    """Its request at a server, until that has ended."""
    failed_servers: int = field(init=False, default=0)
    """Servers that received it and failed it, other than for want of room."""
    is_out: bool = field(init=False, default=False)
    """Whether the queue has handed it out and not got it back."""
    queued_s: float = field(init=False, default=0.0)
    """Time that it has waited for its first server."""

    def __post_init__(self) -> None:
        """Set the kind: who can serve it."""
        super(Call, self).__post_init__()  # slots make a new class, which super() without arguments does not know
        self.set_kind()

    def set_kind(self) -> None:
        """Requests of one kind have the same servers: those of a model and digest that have not failed them."""
        self.kind = (self.wanted, frozenset(self.tried))


@dataclass(slots=True)
class Totals:
    """Counters since the start."""

    requests: Counter[tuple[Band, str]] = field(default_factory=Counter)
    """By band and outcome: answered, refused (by a server), failed, full, unavailable, dropped, disconnected, ..."""
    texts: Counter[Band] = field(default_factory=Counter)
    """Texts of answered requests."""
    characters: Counter[Band] = field(default_factory=Counter)
    retries: int = 0
    """Requests that were sent to another server after a failure."""


class Dispatcher:
    """One queue in front of a pool of servers. For one event loop; the clock can be injected."""

    def __init__(
        self,
        queue: FairQueue[Call],
        pool: ServerPool,
        forwarder: Forwarder,
        *,
        rights: Callable[[], Rights] = AllRights,
        recheck: Callable[[Iterable[Server]], Awaitable[None]] | None = None,
        on_start: Callable[[Call], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve nothing yet.

        Args:
            queue: Order of the waiting requests.
            pool: The servers.
            forwarder: Sends requests.
            rights: What this gateway may do; asked at every dispatch.
            recheck: Reads the models of servers again, before a request is refused because none has its model.
            on_start: Called with every request that gets its first server.
            clock: Monotonic seconds, the pool's.
        """
        self.queue = queue
        self.pool = pool
        self.totals = Totals()
        self._forwarder = forwarder
        self._rights = rights
        self._recheck = recheck
        self._on_start = on_start
        self._clock = clock
        self._waiting: dict[Wanted, dict[Call, None]] = {}
        """Requests in the queue by model and digest, in order of arrival."""
        self._hopeless_since: dict[Wanted, float] = {}
        self._suspects = Suspects(clock)
        self._retried: dict[Call, None] = {}
        """Requests in the queue that a server has failed."""
        self._dropped: dict[str, float] = {}
        """Refused flows, and until when; in order of that time."""
        self._stopping: str | None = None
        self._is_woken = False
        self._timer: asyncio.TimerHandle | None = None
        pool.subscribe(self.wake)

    # Requests

    async def embed(self, call: Call) -> Reply:
        """Wait for a server, send the request there, and return the reply; a failed one goes to another server.

        The caller's task is canceled when the client leaves: the place in the queue or at the server is then free.

        Raises:
            Refused: the gateway itself does not serve it.
        """
        outcome = "disconnected"
        try:
            await self._check(call)
            await self._wait(call)
            reply, outcome = await self._try_servers(call)
            return reply
        except Refused as refusal:
            outcome = refusal.reason
            raise
        finally:
            self._leave(call)
            self._count(call, outcome)

    @property
    def refusal(self) -> str | None:
        """Why all requests are refused at present; None when they are not."""
        return self._stopping or self._rights().refusal

    def check_room(self, flow: str, size_bytes: int) -> None:
        """Return when a body of this size may be read. Raises Refused for one that the queue could not hold anyway."""
        if self.queue.is_full_for(flow, size_bytes):
            self.totals.requests[Band.JOB, "full"] += 1
            raise _full(flow)

    async def _check(self, call: Call) -> None:
        """Return when the request may wait."""
        now = self._clock()
        self._forget_dropped(now)
        if call.flow in self._dropped:
            raise _dropped(call.flow)
        if self.refusal is not None:
            raise _unavailable(self.refusal)
        if self._find_hopeless(call.wanted) is not None:
            if self._recheck is not None:  # many requests share one reading
                await self._recheck(self.pool.servers)
            hopeless = self._find_hopeless(call.wanted)
            if hopeless is not None:
                raise hopeless
        since = self._hopeless_since.get(call.wanted)
        if since is not None and now - since >= HOPE_S and not self._is_usable(call):
            raise self._no_server(call.wanted)

    async def _wait(self, call: Call) -> None:
        """Queue a request until it has a server."""
        call.turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(call.wanted, {})[call] = None
        for refused in self.queue.put(call, self._clock()):
            self._refuse(refused, _full(refused.flow))
        self.wake()
        await call.turn

    async def _try_servers(self, call: Call) -> tuple[Reply, str]:
        """Return the reply of the first server that serves or refuses a request, and the outcome for metrics.

        A reply of the last one that failed it names how many did.
        """
        doubtful: list[tuple[Server, str]] = []
        errors: list[str] = []
        last: Reply | None = None
        most = MOST_FAILED_AGAIN if call.request.body in self._suspects else MOST_FAILED
        while True:
            result = await self._send(call)
            server = call.tried[-1]
            if result.verdict in (Verdict.ANSWER, Verdict.REFUSED):
                for other, error in doubtful:  # the request was served elsewhere, so it was not at fault
                    self.pool.note_unreachable(other, error)
                assert result.reply is not None
                return result.reply, "answered" if result.verdict is Verdict.ANSWER else "refused"
            assert result.error is not None
            errors.append(result.error)
            last = result.reply or last
            if result.verdict is Verdict.DOUBTFUL:
                doubtful.append((server, result.error))
            if call.failed_servers >= most or not self._is_usable(call):
                break
            try:
                await self._wait_again(call)
            except _NoneLeft:
                break
        failed = call.failed_servers
        if last is not None:
            headers = {FAILED_SERVERS.lower(): str(failed)} if failed else {}
            return replace(last, headers={**last.headers, **headers}), "failed"
        message, status = " ".join(errors), HTTPStatus.SERVICE_UNAVAILABLE
        raise Refused(status, message, reason="failed", retry_after_s=RETRY_AFTER_S, failed_servers=failed)

    async def _wait_again(self, call: Call) -> None:
        """Queue a request that a server has failed, at its old turn, until it has another one. Raises _NoneLeft."""
        self.totals.retries += 1
        call.set_kind()
        call.turn = asyncio.get_running_loop().create_future()
        self.queue.put_back(call, self._clock())
        call.is_out = False
        self._retried[call] = None
        self.wake()
        await call.turn

    async def _send(self, call: Call) -> Result:
        """Send a request to its server and record how that ended."""
        flight = call.flight
        assert flight is not None
        result = await self._forwarder.embed(
            flight.server.address, call.request, on_sent=lambda: self.queue.sent(call, self._clock())
        )
        call.flight = None
        call.tried = (*call.tried, flight.server)
        if result.verdict is Verdict.MODEL_MISSING:
            if not call.wanted.model:
                result = replace(result, verdict=Verdict.REFUSED)  # the request names no model
            else:
                self.pool.models.forget(flight.server.url)
        if result.verdict in (Verdict.FAILED, Verdict.DOUBTFUL) and result.has_arrived:
            status = result.reply.status if result.reply is not None else 0
            call.failed_servers += not says_overloaded(status, result.retry_after_s)
        if result.verdict is Verdict.FAILED and result.has_arrived:
            result = self._excuse(call, result)
        elif result.verdict in (Verdict.ANSWER, Verdict.REFUSED):
            self._suspects.note_success(call.request.body)
        self.pool.end(
            flight,
            _OUTCOMES[result.verdict],
            error=result.error,
            retry_after_s=result.retry_after_s,
            load_s=result.load_s,
        )
        return result

    def _excuse(self, call: Call, result: Result) -> Result:
        """Return a failure as no fault of the server if the same body has failed before; remember the body.

        One text that stops every model process would else stop all servers again and again, as often as it is repeated.
        A server that is broken also fails other requests.
        """
        body = call.request.body
        if body in self._suspects:
            _log.info("request failed again", extra={"flow": call.flow, "reason": result.error})
            result = replace(result, verdict=Verdict.EXCUSED)
        self._suspects.note_failure(body)
        return result

    def _leave(self, call: Call) -> None:
        """Free whatever a request still holds."""
        now = self._clock()
        self._forget_waiting(call)
        self.queue.remove(call, now)
        if call.is_out:
            self.queue.done(call, now)
            call.is_out = False
        if call.flight is not None:  # the client has left: the server stops working on it
            self.pool.end(call.flight, Outcome.ABANDONED)
            call.flight = None
        self.wake()

    def _count(self, call: Call, outcome: str) -> None:
        self.totals.requests[call.band, outcome] += 1
        if outcome == "answered":
            self.totals.texts[call.band] += call.texts
            self.totals.characters[call.band] += call.characters

    # Flows

    def drop_flow(self, flow: str) -> int:
        """Refuse the waiting requests of a flow, and new ones for some minutes; return how many waited."""
        now = self._clock()
        self._dropped.pop(flow, None)
        self._dropped[flow] = now + DROPPED_S
        self._forget_dropped(now)
        dropped = self.queue.drop_flow(flow, now)
        for call in dropped:
            self._refuse(call, _dropped(flow))
        return len(dropped)

    def _forget_dropped(self, now: float) -> None:
        while self._dropped:
            flow, until = next(iter(self._dropped.items()))
            if until > now and len(self._dropped) <= MOST_DROPPED:
                return
            del self._dropped[flow]

    # The end

    def stop(self, message: str) -> None:
        """Refuse the waiting requests and all new ones; those in flight go on."""
        self._stopping = message
        self._refuse_all(message)

    def _refuse_all(self, message: str) -> None:
        for call in [*itertools.chain.from_iterable(self._waiting.values())]:
            self._refuse(call, _unavailable(message))
        for call in [*self._retried]:
            self._refuse(call, _NoneLeft())

    def _refuse(self, call: Call, refusal: Refused | _NoneLeft) -> None:
        """End the waiting of a request."""
        self.queue.remove(call, self._clock())
        self._forget_waiting(call)
        if call.turn is not None and not call.turn.done():
            call.turn.set_exception(refusal)

    def _forget_waiting(self, call: Call) -> None:
        self._retried.pop(call, None)
        group = self._waiting.get(call.wanted)
        if group is not None:
            group.pop(call, None)
            if not group:
                del self._waiting[call.wanted]

    # Dispatch

    def wake(self) -> None:
        """Look at the queue soon. Many causes in one turn of the event loop are one look."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_woken = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pause = self.step()
        if pause is not None:
            self._timer = asyncio.get_running_loop().call_later(pause, self.wake)

    def step(self) -> float | None:
        """Give servers to all requests that may have one now. Return seconds until the next look; None: when woken."""
        now = self._clock()
        rights = self._rights()
        if rights.refusal is not None:
            self._refuse_all(rights.refusal)
            return None
        caps = Caps(rights.in_flight, rights.texts_per_second)
        if caps != self.queue.caps:
            self.queue.set_caps(caps)
        chosen: dict[tuple[object, bool], Server | None] = {}

        def has_room(call: Call, urgent: bool) -> bool:
            key = (call.kind, urgent)
            if key not in chosen:
                chosen[key] = self._choose(call, urgent=urgent, rights=rights)
            return chosen[key] is not None

        while len(self.queue) and (call := self.queue.next(now, has_room)) is not None:
            server = chosen.get((call.kind, call.band is Band.SEARCH)) or chosen[call.kind, True]
            assert server is not None
            self._begin(call, server, now)
            chosen.clear()
        self._give_up(now)
        if not len(self.queue):
            return None
        times = [at for at in (self.queue.wake_at(), self.pool.next_change_at) if at is not None]
        return min(STEP_S, max(0.0, min(times, default=math.inf) - self._clock()))

    def _begin(self, call: Call, server: Server, now: float) -> None:
        self._forget_waiting(call)
        assert call.turn is not None
        if call.turn.done():  # its client has just left
            self.queue.done(call, now)
            return
        call.is_out = True
        call.flight = self.pool.begin(server, call.characters, call.texts)
        if not call.tried:
            call.queued_s = now - call.arrived
            self._on_start(call)
        call.turn.set_result(call.flight)

    def _choose(self, call: Call, *, urgent: bool, rights: Rights) -> Server | None:
        """Return a server with room for a request, or None."""
        model, digest = call.wanted
        if not model:  # any server may refuse it
            serving = self._find_serving(call.wanted, rights, exclude=call.tried)
            free = [server for server in serving if not server.failures and server.limit.room > 0]
            return min(free, key=lambda server: server.in_flight, default=None)
        if self.pool.models.choose_reference(model) is None:  # no server is known to have it
            return None
        exclude = call.tried
        if rights.servers is not None:
            exclude += tuple(server for server in self.pool.servers if server.url not in rights.servers)
        band = Band.SEARCH if urgent else Band.JOB
        return self.pool.choose(model, digest=digest, band=band, exclude=exclude)

    def _find_serving(self, wanted: Wanted, rights: Rights, *, exclude: Collection[Server] = ()) -> list[Server]:
        """Return the servers of this gateway that are known to serve what is wanted."""
        models, owned, model = self.pool.models, rights.servers, wanted.model
        digest = wanted.digest or models.choose_reference(model) if model else None
        return [
            server
            for server in self.pool.servers
            if server not in exclude
            and (owned is None or server.url in owned)
            and models.is_known(server.url)
            and (not model or (digest is not None and models.find_digest(server.url, model) == digest))
        ]

    def _is_usable(self, call: Call) -> bool:
        """Return whether a server that has not failed a request can serve it, now or when it has room."""
        return self._has_server(call.wanted, exclude=call.tried)

    def _has_server(self, wanted: Wanted, *, exclude: Collection[Server] = ()) -> bool:
        serving = self._find_serving(wanted, self._rights(), exclude=exclude)
        return any(self.pool.find_state(server) is not ServerState.COOLING for server in serving)

    # Hope

    def _give_up(self, now: float) -> None:
        """Refuse requests for which no server has been usable for a while."""
        for call in [*self._retried]:
            if not self._is_usable(call):
                self._refuse(call, _NoneLeft())
        for wanted in [*self._hopeless_since]:
            if self._has_server(wanted):
                del self._hopeless_since[wanted]
        for wanted, group in [*self._waiting.items()]:
            if self._has_server(wanted):
                continue
            if now - self._hopeless_since.setdefault(wanted, now) >= HOPE_S:
                refusal = self._find_hopeless(wanted) or self._no_server(wanted)
                for call in [*group]:
                    self._refuse(call, refusal)
        if len(self._hopeless_since) > MOST_HOPELESS:  # those that are waited for stay, or the wait would never end
            idle = [wanted for wanted in self._hopeless_since if wanted not in self._waiting]
            for wanted in idle[: len(self._hopeless_since) - MOST_HOPELESS]:
                del self._hopeless_since[wanted]

    def _find_hopeless(self, wanted: Wanted) -> Refused | None:
        """Return the refusal of a request that all servers answer for and none can serve; None otherwise."""
        servers, model = self.pool.servers, wanted.model
        reference = self.pool.models.choose_reference(model) if model else None
        if reference is not None and wanted.digest in (None, reference):
            return None
        if not model or not servers or not all(self.pool.models.is_known(server.url) for server in servers):
            return None
        served = self.pool.models.list_digests(model)
        if not served:
            message = f"model '{model}' not found, try pulling it first"
            return Refused(HTTPStatus.NOT_FOUND, message, reason="model_not_found")
        if wanted.digest is not None and wanted.digest not in served.values():
            message = f"No server serves model '{model}' with digest {wanted.digest}; they serve "
            message += ", ".join(sorted(set(served.values()))) + "."
            return Refused(HTTPStatus.PRECONDITION_FAILED, message, reason="digest_missing")
        return None

    def _no_server(self, wanted: Wanted) -> Refused:
        reasons = " ".join(dict.fromkeys(server.last_error for server in self.pool.servers if server.last_error))
        return _unavailable(f"No Ollama server is available for model '{wanted.model}'. {reasons}".strip())


def _full(flow: str) -> Refused:
    message = f"The gateway's queue is full, and '{flow}' has more waiting in it than anybody else."
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, reason="full", retry_after_s=RETRY_AFTER_S)


def _dropped(flow: str) -> Refused:
    return Refused(HTTPStatus.GONE, f"Requests of '{flow}' are not wanted any more: it was dropped.", reason="dropped")


def _unavailable(message: str) -> Refused:
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, reason="unavailable", retry_after_s=RETRY_AFTER_S)
