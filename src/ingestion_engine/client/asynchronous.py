"""The asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ingestion_engine.client.core import LIMITS, REQUEST_TIMEOUT_S, make_headers, make_request
from ingestion_engine.client.errors import ApiUnreachable
from ingestion_engine.client.methods import Asynchronous
from ingestion_engine.client.retries import PATIENCE_S
from ingestion_engine.client.routes import Routes
from ingestion_engine.client.steps import Close, Emit, Items, Open, Read, Send, Sleep, Step, Steps
from ingestion_engine.runtime.http_connections import LentConnections
from ingestion_engine.runtime.tls import make_context

T = TypeVar("T")


class AsyncIngestClient(Routes, Asynchronous):
    """Client of the service for asyncio: the methods of ``IngestClient``, awaited. May be shared by tasks of one loop.

    Args:
        url: Base URL of the service. User and password in it are for a proxy, where no API key is given.
        api_key: API key or token, sent as a bearer token; None where the service requires none.
        ca_file: PEM file with the authorities to trust; None means the usual ones.
        timeout_s: Seconds without a byte after which a request fails.
        patience_s: Seconds after a first failure in which a request is sent again: one that a repetition cannot harm
            when its connection breaks, and every one that the service refuses for now; 0 means never.
        connect_patience_s: The same while no connection can be established; None means ``patience_s``.
        transport: Replacement of the network, for tests.

    Every method raises ``ApiError`` when the service refuses the request, and ``ApiUnreachable`` when it does not
    respond. Raises ValueError for an API key that no header can hold.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        ca_file: Path | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        connect_patience_s: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, patience_s=patience_s, connect_patience_s=connect_patience_s)
        self._timeout_s = timeout_s
        self._sleep: Callable[[float], Awaitable[None]] = _sleep
        try:
            open_http = partial(
                httpx.AsyncClient,
                base_url=self.url,
                auth=self._basic_auth if api_key is None else None,
                headers=make_headers(api_key),
                limits=LIMITS,
                transport=transport,
                verify=make_context(ca_file),
            )
            self._connections = LentConnections(open_http, renew=transport is None)
        except httpx.InvalidURL as error:
            raise ApiUnreachable(f"{self.url!r} is not a URL: {error}.") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release connections."""
        await self._connections.close()

    async def _run(self, steps: Steps[T]) -> T:
        async with self._open_channel() as channel:
            try:
                step = next(steps)
                while True:
                    try:
                        result = await channel.perform(step)
                    except Exception as error:  # the result of the step
                        step = steps.throw(error)
                    else:
                        step = steps.send(result)
            except StopIteration as done:
                value: T = done.value
                return value
            finally:
                steps.close()

    async def _iterate(self, items: Items[T]) -> AsyncGenerator[T, None]:
        async with self._open_channel() as channel:
            try:
                step = next(items)
                while True:
                    if isinstance(step, Emit):
                        yield step.item
                        step = next(items)
                        continue
                    try:
                        result = await channel.perform(step)
                    except Exception as error:  # the result of the step
                        step = items.throw(error)
                    else:
                        step = items.send(result)
            except StopIteration:
                return
            finally:
                items.close()

    @asynccontextmanager
    async def _open_channel(self) -> AsyncIterator[_Channel]:
        async with self._connections.lend() as http:
            channel = _Channel(http, self._timeout_s, self._sleep)
            try:
                yield channel
            finally:
                await channel.close()


class _Channel:
    """Performs the steps of one call."""

    def __init__(self, http: httpx.AsyncClient, timeout_s: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._open: httpx.Response | None = None
        self._data: AsyncIterator[bytes] | None = None

    async def perform(self, step: Step) -> Any:
        """Perform a step and return its result."""
        match step:
            case Send(request):
                return await self._http.send(make_request(self._http, request, self._timeout_s))
            case Open(request):
                await self.close()
                answer = await self._http.send(make_request(self._http, request, self._timeout_s), stream=True)
                self._open, self._data = answer, answer.aiter_bytes()
                if not answer.is_success:
                    await answer.aread()
                return answer
            case Read():
                return None if self._data is None else await anext(self._data, None)
            case Close():
                return await self.close()
            case Sleep(seconds):
                return await self._sleep(seconds)

    async def close(self) -> None:
        """Close the opened response."""
        if self._open is not None:
            await self._open.aclose()
            self._open = None


async def _sleep(seconds: float) -> None:
    import asyncio  # programs that block do not load it

    await asyncio.sleep(seconds)
