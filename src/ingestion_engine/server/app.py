"""The HTTP service: ``create_app(settings)``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from ingestion_engine import __version__
from ingestion_engine.access.identity import Identities
from ingestion_engine.access.keys.file import KeyRing
from ingestion_engine.access.keys.table import KeyTable
from ingestion_engine.access.oidc.connect import open_oidc
from ingestion_engine.access.sessions import SWEEP_S, Sessions, recalling
from ingestion_engine.api.context import Parts, open_parts, run_services
from ingestion_engine.api.metrics import Metrics
from ingestion_engine.api.openapi import install_openapi
from ingestion_engine.api.problems import install_problem_handlers
from ingestion_engine.api.routes import aliases, audit, collections, jobs, operations, search
from ingestion_engine.console.install import install_console
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.gc_tuning import collect_regularly, freeze_startup_objects
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.server.audit import AuditTrail
from ingestion_engine.server.client_address import ClientAddress
from ingestion_engine.server.documentation import add_documentation
from ingestion_engine.server.host_checks import HostChecks
from ingestion_engine.server.methods import Methods
from ingestion_engine.server.middleware import RequestContext
from ingestion_engine.server.rate_limits import RateLimits
from ingestion_engine.server.request_traces import RequestTraces
from ingestion_engine.server.response_headers import ResponseHeaders
from ingestion_engine.server.turns import Turns
from ingestion_engine.services.console_sessions import SessionStore
from ingestion_engine.services.key_store import KeyStore
from ingestion_engine.services.sweeps import sweep_regularly

THREADS = 32
"""For blocking calls of the state store and S3. With asyncio's default, six on two cores, a slow S3 would delay every
request."""

COLLECT_AFTER: Final = (5_000, 5, 500)
"""Thresholds of Python's cycle collector. A collection of the middle generation looks at 25,000 objects in 8 ms, while
nothing else is done; with the thresholds of workers (200,000 objects) it took 50 to 75 ms while streams were opened.
The last one is out of reach in practice: ``collect_regularly`` is in its place."""

CHEAP_STREAMS: Final = 500
"""Number of event streams up to which a full collection takes less than 50 ms."""

_DESCRIPTION = """Embeds every object under an S3 prefix into Qdrant and Weaviate.

Every error is `application/problem+json` with a stable `code`. Where API keys are required, send the header
`Authorization: Bearer <key>`."""


def create_app(settings: Settings, parts: Parts | None = None, *, dispatches: bool = True) -> FastAPI:
    """Return the service; it opens connections and starts to dispatch jobs when the server starts it.

    Args:
        settings: All settings.
        parts: Replacement of the systems that the settings name, for tests; closed with the application.
        dispatches: Whether the service dispatches jobs by itself; tests make the dispatcher's rounds themselves.

    Raises:
        SettingsError: the file of API keys or a rule for tokens is invalid.
    """
    metrics = Metrics()
    key_table = KeyTable() if settings.api.database_keys else None
    oidc = open_oidc(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blocking")
        asyncio.get_running_loop().set_default_executor(threads)
        opened = parts if parts is not None else open_parts(settings)
        async with contextlib.AsyncExitStack() as exits:
            if oidc is not None:
                exits.push_async_callback(oidc.close)
            try:
                services = run_services(settings, opened, metrics, dispatches=dispatches)
                app.state.services = await exits.enter_async_context(services)
                if key_table is not None:
                    key_table.use(KeyStore(app.state.services.store.database))
                await exits.enter_async_context(_run_sessions(app, settings))
            except IngestionError as error:
                app.state.startup_error = error  # for `serve`, which prints it as a sentence
                raise
            freeze_startup_objects(COLLECT_AFTER)
            collecting = asyncio.create_task(collect_regularly(lambda: metrics.load.streams <= CHEAP_STREAMS))
            exits.callback(collecting.cancel)
            yield

    # The documentation page without its usual content delivery network: clusters often have no access to the Internet.
    app = FastAPIOffline(
        title="Ingestion engine",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.startup_error = None
    app.state.http_load = metrics.load
    app.state.identities = identities = Identities()
    if settings.api.keys_file is not None:
        identities.add(KeyRing(settings.api.keys_file))
    if key_table is not None:
        identities.add(key_table)
    app.state.oidc = oidc
    if oidc is not None:
        identities.add(oidc.tokens)
    install_problem_handlers(app)
    install_openapi(app, discovery_url=None if oidc is None else oidc.provider.discovery_url)
    for routes in (jobs, collections, search, aliases, operations, audit):
        app.include_router(routes.router)
    add_documentation(app)
    install_console(app)
    _add_middleware(app, settings, metrics)
    return app


@contextlib.asynccontextmanager
async def _run_sessions(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """Accept sessions of the console, and remove those that have ended, until the context ends."""
    store = SessionStore(app.state.services.store.database)
    rules = None if app.state.oidc is None else app.state.oidc.rules
    sessions = Sessions(store, settings.session, recalling(app.state.identities, rules))
    app.state.sessions = app.state.identities.sessions = sessions
    sweeping = asyncio.create_task(sweep_regularly("sessions", sessions.sweep, may_act=lambda: True, every_s=SWEEP_S))
    try:
        yield
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)


def _add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add what every request passes through: from the inside, the routes, to the outside."""
    public_url = settings.api.public_url or ""
    app.add_middleware(Methods, routes=app.router.routes)
    app.add_middleware(HostChecks, settings=settings.api)
    app.add_middleware(RateLimits, settings=settings.limits, load=metrics.load)
    app.add_middleware(AuditTrail)
    app.add_middleware(RequestContext, metrics=metrics, limits=settings.limits)
    if settings.tracing.endpoint is not None:
        app.add_middleware(RequestTraces)  # around the former, so that log lines of the request have its trace
    app.add_middleware(ResponseHeaders, uses_tls=public_url.startswith("https://"))
    app.add_middleware(Turns)
    app.add_middleware(ClientAddress, trusted=settings.api.trusted_proxies)
