"""Connections of httpx that canceled requests do not use up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # programs that block do not load asyncio
    import asyncio

    import httpx


@dataclass
class _Connections:
    """Open connections, and the number of requests that use them."""

    http: httpx.AsyncClient
    users: int = 0


class LentConnections:
    """The open connections to a server; others are opened after a canceled request.

    httpcore 1.0.9 keeps a connection, and its place among a hundred, when its request is canceled between the end of
    ``connect`` and the first byte (``http11.py``, ``_state_lock``): a program whose requests to a slow server are
    canceled again and again would reach it no more.

    Args:
        open_http: Makes a client of httpx.
        renew: False for clients that share a transport: closing one would end the requests of the next.
    """

    def __init__(self, open_http: Callable[[], httpx.AsyncClient], *, renew: bool = True) -> None:
        self._open_http = open_http
        self._renew = renew
        self._now = _Connections(open_http())
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[httpx.AsyncClient]:
        """Yield the open connections for a request; canceled ones are closed when no other request uses them."""
        import asyncio

        lent = self._now
        lent.users += 1
        try:
            yield lent.http
        except asyncio.CancelledError:
            if self._renew and lent is self._now:
                self._now = _Connections(self._open_http())
            raise
        finally:
            lent.users -= 1
            if lent is not self._now and not lent.users:
                closing = asyncio.create_task(lent.http.aclose())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Release connections."""
        import asyncio

        await self._now.http.aclose()
        await asyncio.gather(*self._closing)
