"""The servers behind a list of URLs: every address of a name is one, and names are resolved again every few seconds."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ingestion_engine.runtime.server_urls import ServerUrl
from ingestion_engine.runtime.telemetry import get_logger

RESOLVE_EVERY_S: Final = 10.0
"""Seconds after which a name is resolved again. Kubernetes' DNS answers with a time to live of 5 to 30 s."""
RESOLVE_TIMEOUT_S: Final = 5.0

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host for a port. Raises OSError when the name does not resolve."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server to send requests to."""

    url: str
    """Base URL without credentials, for reports; the host is an address where the server was found by a name."""
    capacity: int | None = None
    """Number of requests that it processes at once, as declared; None when it is not."""
    server_name: str | None = None
    """Name that led to the address: for the ``Host`` header, and with https the name that the certificate must have.
    None when the URL has the host itself."""
    credentials: str | None = field(default=None, repr=False)
    """User and password, as a URL has them."""

    @property
    def base(self) -> str:
        """URL to send requests to."""
        return self.url if self.credentials is None else self.url.replace("://", f"://{self.credentials}@", 1)


async def resolve_name(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, as the system resolves it. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(slots=True)
class _Name:
    """Addresses of one name when it was last resolved."""

    addresses: tuple[str, ...] = ()
    due_at: float = float("-inf")
    is_failing: bool = field(default=False)


class ServerNames:
    """The servers of a list, kept up to date. For one event loop; resolver and clock can be injected."""

    def __init__(
        self,
        servers: Iterable[ServerUrl],
        *,
        resolve: Resolve = resolve_name,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = RESOLVE_EVERY_S,
    ) -> None:
        """Resolve nothing yet. Names are resolved at the first ``refresh`` and every ``every_s`` seconds."""
        self._servers = tuple(servers)
        self._names = {server: _Name() for server in self._servers if server.is_name}
        self._resolve = resolve
        self._clock = clock
        self._every_s = every_s
        self._refreshing: asyncio.Task[tuple[ServerAddress, ...]] | None = None

    @property
    def due_at(self) -> float:
        """Clock time at which ``refresh`` resolves again; infinite without names."""
        return min((name.due_at for name in self._names.values()), default=float("inf"))

    @property
    def unresolved(self) -> list[str]:
        """Names that could not be resolved the last time."""
        return [server.url for server, name in self._names.items() if name.is_failing]

    def list(self) -> tuple[ServerAddress, ...]:
        """Return the servers that are known now, in the order of the list; each URL once."""
        found: dict[str, ServerAddress] = {}
        for server in self._servers:
            if not server.is_name:
                address = ServerAddress(server.url, server.capacity, credentials=server.credentials)
                found.setdefault(server.url, address)
                continue
            for host in self._names[server].addresses:
                url = server.at(host)
                found.setdefault(url, ServerAddress(url, server.capacity, server_name=server.host))
        return tuple(found.values())

    async def find(self) -> tuple[ServerAddress, ...]:
        """Return all servers; names that are due are resolved in the background, unless no server is known yet.

        Never raises. Cost: waits for at most ``RESOLVE_TIMEOUT_S``, and only until a name has resolved once.
        """
        refreshing = self.refresh_soon()
        if refreshing is not None and not self.list():
            await asyncio.shield(refreshing)
        return self.list()

    def refresh_soon(self) -> asyncio.Task[tuple[ServerAddress, ...]] | None:
        """Resolve the names that are due in the background; return what runs, None if nothing does."""
        if self._refreshing is not None and self._refreshing.done():
            self._refreshing = None
        if self._refreshing is None and self.due_at <= self._clock():
            self._refreshing = asyncio.create_task(self.refresh())
        return self._refreshing

    async def close(self) -> None:
        """End what runs in the background."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def refresh(self) -> tuple[ServerAddress, ...]:
        """Resolve the names that are due, and return all servers. When a name does not resolve its servers stay.

        Never raises. Cost: one look-up per name that is due.
        """
        now = self._clock()
        due = [(server, name) for server, name in self._names.items() if name.due_at <= now]
        await asyncio.gather(*(self._refresh(server, name) for server, name in due))
        return self.list()

    async def _refresh(self, server: ServerUrl, name: _Name) -> None:
        name.due_at = self._clock() + self._every_s
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                addresses = tuple(sorted(set(await self._resolve(server.host, server.port))))
        except (OSError, UnicodeError) as error:  # a time-out is an OSError, an impossible name a UnicodeError
            if not name.is_failing:
                reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
                log.warning("name of servers not resolved; its former addresses stay", extra=_fields(server, reason))
            name.is_failing = True
            return
        if not addresses:
            name.is_failing = True
            return
        if name.is_failing or addresses != name.addresses:
            log.info("name of servers resolved", extra={"servers": server.url, "addresses": ", ".join(addresses)})
        name.addresses, name.is_failing = addresses, False


def _fields(server: ServerUrl, reason: str) -> dict[str, str]:
    return {"servers": server.url, "reason": reason}
