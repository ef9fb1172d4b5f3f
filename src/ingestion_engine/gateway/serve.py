"""Run the gateway until it receives SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from ingestion_engine.gateway.assembly import Gateway
from ingestion_engine.gateway.peers.membership import DEAD_S
from ingestion_engine.runtime.gc_tuning import freeze_startup_objects
from ingestion_engine.runtime.host_names import is_loopback
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import configure_logging, get_logger
from ingestion_engine.runtime.tracing import start_tracing, stop_tracing

STOP_S: Final = 25.0
"""Time that requests in flight have to end when the gateway stops: Kubernetes grants 30 s before it kills."""
BACKLOG: Final = 2048
COLLECT_AFTER: Final = (10_000, 10, 2)
"""Thresholds of the cycle collector: a closed connection leaves 3 kB in cycles, which are collected after 5,000
connections. With the thresholds of workers it would be 100,000, and 300 MB."""
STOPPING: Final = "The gateway is stopping; use another one."

_log = get_logger(__name__)


def serve(settings: Settings, *, dead_s: float = DEAD_S) -> None:
    """Serve on ``settings.gateway``'s host and port until SIGINT or SIGTERM; the address is logged.

    Requests that wait are then refused with 503, and those in flight end. A second signal ends them at once.

    Args:
        settings: Settings of the gateway.
        dead_s: Seconds after which another gateway that is silent counts as dead; the same for all.

    Raises:
        OSError: the address cannot be listened on.
        SettingsError: traces are wanted, and their extra is missing.
    """
    configure_logging(settings.log_level, json=settings.log_format == "json")
    start_tracing(settings, "gateway")
    _allow_many_connections()
    host, port = settings.gateway.host, settings.gateway.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=BACKLOG) as listener:
        shown = f"[{host}]" if ":" in host else host
        _log.info("serving", extra={"url": f"http://{shown}:{listener.getsockname()[1]}"})
        if not is_loopback(host):
            _log.warning("Ollama's API has no authentication: everybody who reaches this address may use the servers")
        freeze_startup_objects(COLLECT_AFTER)
        try:
            asyncio.run(_serve_until_signal(settings, listener, dead_s=dead_s))
        finally:
            stop_tracing()


async def _serve_until_signal(settings: Settings, listener: socket.socket, *, dead_s: float) -> None:
    stopping, hurry = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    async with open_gateway(settings, listener, hurry=hurry, dead_s=dead_s):
        await stopping.wait()
        _log.info("stopping")


@contextlib.asynccontextmanager
async def open_gateway(
    settings: Settings,
    listener: socket.socket,
    *,
    hurry: asyncio.Event | None = None,
    dead_s: float = DEAD_S,
) -> AsyncIterator[Gateway]:
    """Serve on a listening socket while the context is open, which then is closed.

    Args:
        settings: Settings of the gateway.
        listener: Listening socket.
        hurry: Ends the requests in flight when it is set during the stop.
        dead_s: Seconds after which a silent gateway counts as dead; the same for all.
    """
    loop = asyncio.get_running_loop()
    gateway = Gateway(settings, dead_s=dead_s)
    server = gateway.app.make_server()
    listening = await loop.create_server(server, sock=listener, backlog=BACKLOG)
    try:
        await gateway.start()
        yield gateway
    finally:
        gateway.dispatcher.stop(STOPPING)
        ending = asyncio.ensure_future(_end(gateway, listening, server))
        hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
        await asyncio.wait({ending, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ending.done():
            ending.cancel()
            listening.close()
            await server.shutdown(0)
        await gateway.close()


async def _end(gateway: Gateway, listening: asyncio.Server, server: web.Server) -> None:
    """Return when the requests in flight have ended, after ``STOP_S`` at the latest."""
    end = asyncio.get_running_loop().time() + STOP_S
    await gateway.peers.leave(STOP_S)
    listening.close()
    server.pre_shutdown()
    await server.shutdown(max(0.0, end - asyncio.get_running_loop().time()))


def _allow_many_connections() -> None:
    """Raise the limit on open files to what the system allows: each waiting request has a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
