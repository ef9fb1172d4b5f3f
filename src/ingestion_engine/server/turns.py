"""Requests begin in turns: a few in each round of the event loop, clients one after another, probes first.

Whatever arrives at once is otherwise begun at once, and everything else, a probe or a client with one request, waits
until the loop has been through all of it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from ingestion_engine.server.host_checks import PROBES

STARTS: Final = 4
"""Requests that begin in one round of the loop. Most take 1 to 3 ms until they first wait; a probe on a new connection
takes five rounds."""


class Turns:
    """ASGI middleware. Costs nothing while fewer than ``STARTS`` requests arrive at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._started = 0
        """Requests that have begun in this round."""
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Those that wait by address of the client; the address whose turn is next comes first."""
        self._is_pumping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request when it is its turn."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            if self._started < STARTS and not self._waiting:
                self._started += 1
                self._pump_soon()
            else:
                await self._wait(str((scope.get("client") or ("",))[0]))
        await self._app(scope, receive, send)

    async def _wait(self, address: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        self._pump_soon()
        await turn

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Begin a new round."""
        self._is_pumping = False
        self._started = 0
        while self._started < STARTS and self._waiting:
            address, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[address] = turns  # behind the other addresses
            if not turn.done():  # else its client has gone
                turn.set_result(None)
                self._started += 1
        if self._started:
            self._pump_soon()
