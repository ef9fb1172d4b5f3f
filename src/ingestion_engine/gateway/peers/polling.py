"""Poll the other gateways, and give their statements to the membership."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from ingestion_engine.adapters.ollama.server_urls import Resolve, ServerAddress, ServerNames, resolve_name
from ingestion_engine.adapters.transport import HttpClient, excerpt, read_object
from ingestion_engine.domain.errors import IngestionError, TransientError
from ingestion_engine.gateway.peers.membership import DEAD_S, Membership, Statement
from ingestion_engine.gateway.peers.plan import Terms
from ingestion_engine.runtime.server_urls import parse_servers
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import get_logger

POLLS: Final = 5
"""Polls until a silent gateway counts as dead: one lost answer is no death, and the load is one request per second."""
TIMEOUT_POLLS: Final = 2
"""A poll is waited for as long as two take: a gateway in use answers within milliseconds."""
LEAVE_POLLS: Final = 2
"""A gateway that ends goes on answering for this long, so that the others learn of it."""

log = get_logger(__name__)


class Peers:
    """This gateway among the others of ``INGEST_GATEWAY__URL``. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        in_flight: Callable[[], int],
        servers: Callable[[], Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
        dead_s: float = DEAD_S,
        resolve: Resolve = resolve_name,
    ) -> None:
        """Send nothing yet.

        Args:
            settings: The list of gateways, the caps, and trust.
            in_flight: Number of requests in flight.
            servers: The servers at present, URL -> capacity; those that do not answer may be left out.
            clock: Monotonic seconds, which pass also while the process stands still.
            dead_s: Seconds after which a silent gateway counts as dead. The same for all; all intervals are parts of
                it.
            resolve: Finds the addresses of a name.
        """
        self._entries = parse_servers(settings.gateway.url)
        self._names = ServerNames(self._entries, resolve=resolve, clock=clock)
        self._servers = servers
        self._in_flight = in_flight
        self._clock = clock
        self._poll_s = dead_s / POLLS
        terms = Terms(
            servers(),
            in_flight=settings.embed.in_flight,
            texts_per_second=settings.embed.texts_per_second,
            batch_texts=settings.embed.batch_texts,
        )
        self.membership = Membership(self._list(), terms, clock=clock, in_flight=in_flight, dead_s=dead_s)
        self._client = HttpClient("gateway", connect_timeout_s=self._poll_s, ca_file=settings.tls.ca_file)
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._polled_at: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._reported: object = None
        self._warned: set[str] = set()

    async def start(self) -> None:
        """Resolve the names, and begin to poll."""
        await self._names.refresh()
        self._keeping = asyncio.create_task(self._keep())

    async def leave(self, limit_s: float) -> None:
        """Give everything up, and return when the others know it and count no request in flight here any more.

        At once when there are no others, and after ``limit_s`` seconds at the latest.
        """
        has_others = len(self.membership.alive) > 1
        self.membership.leave()
        start = self._clock()
        while has_others and self._clock() < start + limit_s:
            if self._clock() >= start + LEAVE_POLLS * self._poll_s and not self._in_flight():
                return
            await asyncio.sleep(self.membership.tick_s)

    async def close(self) -> None:
        """End what runs in the background, and release connections."""
        tasks = [*self._polls.values(), *([self._keeping] if self._keeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._names.close()
        await self._client.close()

    def view(self) -> dict[str, Any]:
        """Return what operators want to know: which gateways live, and what is missing."""
        membership = self.membership
        listed = set(membership.urls) - set(membership.own_urls)
        return {
            "url": membership.name,
            "alive": membership.alive,
            "waits_for": membership.waits_for,
            "silent": {url: self._errors[url] for url in sorted(listed & self._errors.keys())},
            "shared_urls": membership.shared_urls,
        }

    async def _keep(self) -> None:
        while True:
            self._step()
            await asyncio.sleep(self.membership.tick_s)

    def _step(self) -> None:
        """Apply the time that has passed, and send the requests that are due. Waits for nothing."""
        membership = self.membership
        self._names.refresh_soon()
        membership.set_urls(self._list())
        membership.set_servers(self._servers())
        membership.step()
        self._report()
        pause = self._poll_s if membership.is_settled else membership.tick_s
        now = self._clock()
        for address in self._addresses():
            url = address.url
            if url not in self._polls and now - self._polled_at.get(url, -pause) >= pause:
                self._polled_at[url] = now
                self._polls[url] = asyncio.create_task(self._poll(address))

    def _list(self) -> list[str]:
        """Return the URLs of the gateways; a name without an address yet stands for gateways that are not known."""
        found = self._names.list()
        resolved = {address.server_name for address in found}
        names = [entry.url for entry in self._entries if entry.is_name and entry.host not in resolved]
        return [*(address.url for address in found), *names]

    def _addresses(self) -> list[ServerAddress]:
        """Return the gateways to poll; those that have left the list are polled while they live."""
        listed = {address.url: address for address in self._names.list()}
        names = {entry.url for entry in self._entries if entry.is_name}
        former = (ServerAddress(url) for url in self.membership.urls if url not in listed and url not in names)
        return [*listed.values(), *former]

    async def _poll(self, address: ServerAddress) -> None:
        try:
            poll = self.membership.begin_poll()
            statement = await self._ask(address)
            self._errors.pop(address.url, None)
            self.membership.note_answer(address.url, statement, poll)
        except IngestionError as error:
            self._errors[address.url] = error.message
        finally:
            self._polls.pop(address.url, None)

    async def _ask(self, address: ServerAddress) -> Statement:
        """Return the statement of a gateway. Raises IngestionError."""
        response = await self._client.request(
            "GET",
            address.base,
            "/gateway/id",
            timeout_s=TIMEOUT_POLLS * self._poll_s,
            server_name=address.server_name,
        )
        if response.status_code == HTTPStatus.OK:
            try:
                return Statement.parse(read_object(response, "gateway", address.url))
            except (KeyError, TypeError, ValueError, AttributeError):
                pass  # something else answers
        message = f"{address.url} does not answer as a gateway: {response.status_code} {excerpt(response)}"
        raise TransientError("gateway_answer_invalid", message, url=address.url)

    def _report(self) -> None:
        """Log changes, once each."""
        membership = self.membership
        if not membership.urls:
            return
        rights = membership.rights()
        state = {
            "alive": ", ".join(membership.alive),
            "owned_servers": len(rights.servers or ()),
            "waits_for": ", ".join(membership.waits_for),
            "refusal": rights.refusal or "",
        }
        if state != self._reported:
            self._reported = state
            log.info("gateways changed", extra={name: value for name, value in state.items() if value != ""})
        for url in membership.shared_urls:
            if url not in self._warned:
                self._warned.add(url)
                log.error("several gateways answer under one URL: the caps are not exact", extra={"url": url})
