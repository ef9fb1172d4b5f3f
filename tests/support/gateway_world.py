"""Gateways in simulated time: messages take time, processes start, die, stand still and leave."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ingestion_engine.gateway.peers.membership import Membership, Rights, Statement
from ingestion_engine.gateway.peers.plan import Terms

TICK_S = 0.25
POLL_S = 1.0
TIMEOUT_S = 2.0
WORK_S = 0.1
LONGEST_REQUEST_S = 3.0
"""Shorter than what it takes to count a gateway as dead: what a dead gateway has in flight is known to nobody."""
RATE_WINDOW_S = 1.0
LONGEST_DELAY_S = 0.7
"""One way. Answers that take longer than a poll is waited for, again and again, are a partition of the network."""


@dataclass
class Process:
    """One process of a gateway."""

    url: str
    membership: Membership
    requests: list[float]
    """Ends of its requests in flight."""
    is_frozen: bool = False
    is_dead: bool = False
    deferred: list[Callable[[], None]] = field(default_factory=list)
    """What happened while it stood still."""
    sent: deque[tuple[float, int]] = field(default_factory=deque)
    """Times and texts of its requests of the last second."""

    @property
    def is_running(self) -> bool:
        return not self.is_dead and not self.is_frozen


class GatewayWorld:
    """Processes under URLs, a network between them, and work that uses every right at once."""

    def __init__(self, terms: Terms, seed: int = 0) -> None:
        self.terms = terms
        self.now = 1000.0
        self.processes: dict[str, Process] = {}
        self.random = random.Random(seed)
        self.cut: Callable[[str, str], bool] = lambda _from, _to: False
        """Whether the first cannot connect to the second."""
        self.faults: list[str] = []
        self.sent: deque[tuple[float, int]] = deque()
        self._requests: list[list[float]] = []
        self._events: list[tuple[float, int, Process | None, Callable[[], None]]] = []
        self._count = itertools.count()
        self._ids = itertools.count(1)

    # Faults and changes.

    def start(self, url: str, urls: list[str]) -> Process:
        requests: list[float] = []
        membership = Membership(
            urls,
            self.terms,
            clock=lambda: self.now,
            in_flight=lambda: sum(end > self.now for end in requests),
            gateway_id=f"{url}-{next(self._ids)}",
        )
        process = Process(url, membership, requests)
        self._requests.append(requests)
        self.processes[url] = process
        self._at(0.0, process, lambda: self._tick(process))
        self._at(0.0, process, lambda: self._work(process))
        for each in urls:
            self.watch(process, each)
        return process

    def watch(self, process: Process, url: str) -> None:
        """Begin to poll a gateway."""
        self._at(0.0, process, lambda: self._poll(process, url))

    def kill(self, url: str) -> None:
        process = self.processes.pop(url, None)
        if process is not None:
            process.is_dead = True
            process.requests.clear()

    def freeze(self, url: str) -> None:
        if url in self.processes:
            self.processes[url].is_frozen = True

    def resume(self, url: str) -> None:
        process = self.processes.get(url)
        if process is not None and process.is_frozen:
            process.is_frozen = False
            waiting, process.deferred = process.deferred, []
            self.random.shuffle(waiting)
            for event in waiting:
                event()
                self._check()

    # Time.

    def run(self, seconds: float) -> None:
        """Let time pass, checking after every event."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, process, event = heapq.heappop(self._events)
            if process is not None and process.is_dead:
                continue
            if process is not None and process.is_frozen:
                process.deferred.append(event)
                continue
            event()
            self._check()
        self.now = end

    def rights(self) -> Mapping[str, Rights]:
        """The rights of the processes that run: those that stand still send nothing."""
        return {url: each.membership.rights() for url, each in self.processes.items() if each.is_running}

    def owners(self) -> dict[str, list[str]]:
        """Return server -> URLs of the gateways that may use it."""
        rights = self.rights()
        return {
            server: [url for url, each in rights.items() if server in (each.servers or ())]
            for server in self.terms.servers
        }

    @property
    def in_flight(self) -> int:
        """Requests in flight at the servers, whoever sent them."""
        return sum(end > self.now for requests in self._requests for end in requests)

    def _at(self, delay: float, process: Process | None, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), process, event))

    def _delay(self) -> float:
        return self.random.choice([0.001, self.random.uniform(0, LONGEST_DELAY_S)])

    def _tick(self, process: Process) -> None:
        process.membership.step()
        self._at(TICK_S, process, lambda: self._tick(process))

    def _poll(self, process: Process, url: str) -> None:
        membership = process.membership
        if url not in membership.urls:
            return
        poll = membership.begin_poll()
        began = self.now
        open_ = [True]

        def close() -> bool:
            was_open = open_[0]
            open_[0] = False
            if was_open:
                pause = POLL_S if membership.is_settled else TICK_S
                self._at(max(0.0, began + pause - self.now), process, lambda: self._poll(process, url))
            return was_open

        def arrive(target: Process) -> None:
            body = target.membership.statement()
            self._at(self._delay(), process, lambda: answer(Statement.parse(body)))

        def answer(statement: Statement) -> None:
            if close():
                membership.note_answer(url, statement, poll)

        def connect() -> None:
            target = self.processes.get(url)
            if target is None:
                self._at(self._delay(), process, close)
            elif target.is_frozen:
                target.deferred.append(lambda: arrive(target))
            else:
                arrive(target)

        if not self.cut(process.url, url):
            self._at(self._delay(), None, connect)
        self._at(TIMEOUT_S, process, close)

    def _work(self, process: Process) -> None:
        """Send as many requests as the rights allow, with as many texts."""
        rights = process.membership.rights()
        process.requests[:] = [end for end in process.requests if end > self.now]
        while process.sent and process.sent[0][0] <= self.now - RATE_WINDOW_S:
            process.sent.popleft()
        while rights.servers and (rights.in_flight is None or len(process.requests) < rights.in_flight):
            texts = self.random.randint(1, self.terms.batch_texts)
            rate = rights.texts_per_second
            if rate is not None and sum(sent for _, sent in process.sent) + texts > rate:
                break
            process.sent.append((self.now, texts))
            self.sent.append((self.now, texts))
            process.requests.append(self.now + self.random.uniform(0.01, LONGEST_REQUEST_S))
            if rights.in_flight is None and len(process.requests) > 20:
                break
        self._at(WORK_S, process, lambda: self._work(process))

    def _check(self) -> None:
        rights = self.rights()
        used: dict[str, str] = {}
        for url, each in rights.items():
            for server in each.servers or ():
                if server in used:
                    self.faults.append(f"{self.now:.2f}: {server} is used by {used[server]} and {url}")
                used[server] = url
        cap = self.terms.in_flight
        if cap is not None:
            parts = sum(each.in_flight or 0 for each in rights.values())
            if parts > cap:
                self.faults.append(f"{self.now:.2f}: parts of {parts} requests of {cap}")
            if self.in_flight > cap:
                self.faults.append(f"{self.now:.2f}: {self.in_flight} requests in flight of {cap}")
        rate = self.terms.texts_per_second
        while self.sent and self.sent[0][0] <= self.now - RATE_WINDOW_S:
            self.sent.popleft()
        if rate is not None and (texts := sum(sent for _, sent in self.sent)) > rate:
            self.faults.append(f"{self.now:.2f}: {texts} texts in a second of {rate}")
