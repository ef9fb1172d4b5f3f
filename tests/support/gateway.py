"""A gateway in the test's own event loop, on a free loopback port."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from ingestion_engine.gateway.assembly import Gateway
from ingestion_engine.gateway.peers.membership import DEAD_S
from ingestion_engine.gateway.serve import open_gateway
from ingestion_engine.runtime.settings import Settings
from support.scripted_ollama import ScriptedOllama, serving_all


@contextlib.asynccontextmanager
async def running_gateway(settings: Settings) -> AsyncIterator[str]:
    """Serve until the block ends; the URL."""
    async with running_parts(settings) as (url, _):
        yield url


@contextlib.asynccontextmanager
async def running_parts(settings: Settings, *, dead_s: float = DEAD_S) -> AsyncIterator[tuple[str, Gateway]]:
    """As ``running_gateway``, with the gateway's parts; ``dead_s`` as for ``open_gateway``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with open_gateway(settings, listener, dead_s=dead_s) as gateway:
            yield url, gateway


def gateway_settings(servers: Sequence[str], **groups: Any) -> Settings:
    """Settings of a gateway in front of these servers; groups by name."""
    return Settings(ollama={"urls": ",".join(servers)}, **groups)


@dataclass
class World:
    """A gateway, its servers, and a client of it."""

    url: str
    gateway: Gateway
    servers: list[ScriptedOllama]
    urls: list[str]
    http: httpx.AsyncClient

    async def embed(self, *texts: str, model: str = "m", **headers: str) -> httpx.Response:
        """POST one request; names of headers have _ in place of -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/api/embed", json={"model": model, "input": texts or ("text",)}, headers=named)


@contextlib.asynccontextmanager
async def start(servers: int | list[ScriptedOllama] = 1, **groups: Any) -> AsyncIterator[World]:
    """Start a gateway in front of scripted servers, a number or these; further arguments are groups of settings."""
    made = [ScriptedOllama() for _ in range(servers)] if isinstance(servers, int) else servers
    async with (
        serving_all(*made) as urls,
        running_parts(gateway_settings(urls, **groups)) as (url, gateway),
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        yield World(url, gateway, made, urls, http)


@contextlib.asynccontextmanager
async def running_group(
    count: int, servers: Sequence[str], *, dead_s: float, **groups: Any
) -> AsyncIterator[list[tuple[str, Gateway, contextlib.AsyncExitStack]]]:
    """Gateways that know one another, each with its URL and what ends it; ``dead_s`` of silence is death."""
    async with contextlib.AsyncExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        settings = gateway_settings(servers, gateway={"url": ",".join(urls)}, **groups)
        group = []
        for url, listener in zip(urls, listeners, strict=True):
            ending = await stack.enter_async_context(contextlib.AsyncExitStack())
            gateway = await ending.enter_async_context(open_gateway(settings, listener, dead_s=dead_s))
            group.append((url, gateway, ending))
        yield group
