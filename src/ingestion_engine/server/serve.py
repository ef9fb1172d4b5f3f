"""Run the service until it receives SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from typing import Any, Final, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.runtime.host_names import is_loopback
from ingestion_engine.runtime.settings import Settings, SettingsError
from ingestion_engine.runtime.telemetry import configure_logging, get_logger
from ingestion_engine.runtime.tracing import start_tracing, stop_tracing
from ingestion_engine.server.app import create_app
from ingestion_engine.server.connections import (
    ACCEPT_AT_ONCE,
    ConnectionGuard,
    allow_many_files,
    limit_connections,
)
from ingestion_engine.server.http_protocol import BoundedProtocol

STOP_S: Final = 5
"""Time that open responses have to end when the service stops."""

KEEP_ALIVE_S: Final = 75
"""How long an idle connection stays open: longer than clients and load balancers keep theirs (5 to 60 s), which would
otherwise send a request over a connection that is being closed."""

BACKLOG: Final = 2048
"""Connections that wait to be accepted."""

_log = get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve on ``settings.api``'s host and port until SIGINT or SIGTERM; the address is logged.

    Raises:
        SettingsError: the file of API keys is invalid, or traces are wanted and their extra is missing; or everybody
            who reaches the address would have full access, and no setting says so.
        OSError: the address cannot be listened on.
        IngestionError: the service cannot start, for example because its database is unavailable.
    """
    check_exposure(settings)
    configure_logging(settings.log_level, json=settings.log_format == "json")
    start_tracing(settings, "service")
    app = create_app(settings)
    app.openapi()  # kept by the application; the first request for it would stop the event loop for 0.2 s
    host, port = settings.api.host, settings.api.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=BACKLOG) as listener:
        shown = f"[{host}]" if ":" in host else host
        _log.info("serving", extra={"url": f"http://{shown}:{listener.getsockname()[1]}"})
        load = app.state.http_load
        most = limit_connections(settings.limits, allow_many_files())
        guard = ConnectionGuard(settings.limits, most=most, load=load)
        load.count_connections, load.most_streams = guard.count, most * 4 // 5
        logging.getLogger("uvicorn.error").addFilter(is_worth_logging)
        config = uvicorn.Config(
            _quiet_start(app),
            # Each pinned: what else is installed must not decide how requests are read.
            http=cast(Any, functools.partial(BoundedProtocol, guard, load)),
            ws="none",
            loop="ingestion_engine.server.event_loop:new_event_loop",
            backlog=ACCEPT_AT_ONCE,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # otherwise everybody on loopback could name any address as its own
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
        )
        try:
            _Server(config, app).run(sockets=[listener])
        except SystemExit:
            if app.state.startup_error is not None:
                raise app.state.startup_error from None
            raise
        finally:
            stop_tracing()


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for uvicorn's warnings of requests that are no HTTP: anybody can send them, to fill the log."""
    message = record.getMessage()
    return not message.startswith(("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket"))


def check_exposure(settings: Settings) -> None:
    """Check that nobody gets full access by accident: who listens beyond loopback authenticates, or says not to.

    Raises:
        SettingsError: the address is reachable from elsewhere, no authentication is configured, and
            ``INGEST_API__ALLOW_ANONYMOUS`` is not set.
    """
    api = settings.api
    if not settings.is_open or is_loopback(api.host):
        return
    if not api.allow_anonymous:
        raise SettingsError(
            f"INGEST_API__HOST: The service would listen on {api.host!r} without any authentication, so that everybody "
            "who reaches it could read, change and delete everything. Set INGEST_API__KEYS_FILE to a file with API "
            "keys (docs/operate/secrets.md), listen on 127.0.0.1, or set INGEST_API__ALLOW_ANONYMOUS=true where only "
            "people who may do all that can reach the address."
        )
    _log.warning("no authentication: everybody who reaches this address has full access", extra={"host": api.host})


class _Server(uvicorn.Server):
    """Ends dispatching and event streams at the beginning of a shutdown, not when all responses have ended."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        for listener in sockets or ():  # asyncio takes one number for the queue and for what it accepts at once
            listener.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, and return when open requests have been answered, at most ``STOP_S`` later."""
        _log.info("stopping")
        stopping = asyncio.create_task(self._app.state.services.stop())
        await super().shutdown(sockets)
        await stopping


def _quiet_start(app: FastAPI) -> ASGIApp:
    """Return an application whose failed start is not logged as a traceback when its reason is a sentence of ours."""

    async def serve_quietly(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_quietly(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and app.state.startup_error is not None:
                message = {**message, "message": ""}
            await send(message)

        await app(scope, receive, send_quietly if scope["type"] == "lifespan" else send)

    return serve_quietly
