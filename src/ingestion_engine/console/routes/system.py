"""The page of the system: dependencies, dispatcher, draining, gateways, limits in force."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import Form, Request, Response
from fastapi.responses import RedirectResponse

from ingestion_engine.access.scopes import Scope
from ingestion_engine.api.context import Services
from ingestion_engine.api.dependencies import ServicesDep
from ingestion_engine.api.views import show_drain, show_health
from ingestion_engine.console.confirmation import Confirmation, ask
from ingestion_engine.console.formats import show_plural
from ingestion_engine.console.pages import render
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.viewer import AdminDep, ReaderDep
from ingestion_engine.domain.errors import DatabaseUnavailable, SubmissionError
from ingestion_engine.domain.records import GatewayStatus
from ingestion_engine.models.operations import DrainView
from ingestion_engine.runtime.addresses import for_caller
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.services.health import name_gateway

router = make_router()

SECTION: Final = "/console/system"

SYSTEM_NAMES: Final = {
    "database": "Job database",
    "state": "State store",
    "s3": "S3 bucket of the state store",
    "ollama": "Ollama",
    "qdrant": "Qdrant",
    "weaviate": "Weaviate",
    "ray": "Ray",
    "spark": "Spark",
    "local": "Local engine",
}
"""What the page calls the dependencies; gateways are named by their address."""

WITHIN_S: Final = 1.0
"""Time that the page waits for dependencies that are slow; their checks go on and the next view shows the result."""


@router.get(SECTION)
async def show_system(request: Request, viewer: ReaderDep, services: ServicesDep) -> Response:
    """Return the page; also while the database is unavailable, because that is when it is needed."""
    found = await services.health.check(WITHIN_S)
    dispatcher = services.dispatcher
    leadership = None if dispatcher is None else dispatcher.leadership.view()
    health = show_health(found, leadership, await services.drain.peek(), with_details=True)
    is_operator = viewer.may(Scope.ADMIN)
    return render(
        request,
        "system/part.html" if request.headers.get("hx-target") == "system" else "system/page.html",
        section=SECTION,
        health=health,
        own_name=None if dispatcher is None else dispatcher.leadership.holder,
        titles={**SYSTEM_NAMES, **_name_gateways(services, shows_addresses=is_operator)},
        drain=await _read_drain(services),
        facts=_describe(services, shows_addresses=is_operator),
        limits=_list_limits(services),
        gateways=await _read_gateways(services, shows_addresses=is_operator),
        shows_flows=not viewer.is_restricted,
    )


def _name_gateways(services: Services, *, shows_addresses: bool) -> dict[str, str]:
    """Return what the page calls each gateway; numbers in place of addresses for who does not operate the service."""
    urls = () if services.parts.gateway is None else services.parts.gateway.urls
    return {
        name_gateway(url): f"Gateway {hide_credentials(url) if shows_addresses else number}"
        for number, url in enumerate(urls, start=1)
    }


async def _read_gateways(services: Services, *, shows_addresses: bool) -> list[GatewayStatus]:
    """Return the gateways; with numbers in place of addresses for who does not operate the service."""
    found = [] if services.parts.gateway is None else await services.parts.gateway.read_status()
    if shows_addresses:
        return list(found)
    return [_number(gateway, number) for number, gateway in enumerate(found, start=1)]


def _number(gateway: GatewayStatus, number: int) -> GatewayStatus:
    servers = [
        replace(server, url=f"Server {place}", reason=for_caller(server.reason or "") or None)
        for place, server in enumerate(gateway.servers, start=1)
    ]
    return replace(gateway, url=str(number), reason=for_caller(gateway.reason or "") or None, servers=tuple(servers))


async def _read_drain(services: Services) -> DrainView | None:
    """Return whether jobs are admitted; None while the database is unavailable."""
    try:
        return show_drain(await services.drain.check())
    except DatabaseUnavailable:
        return None


def _describe(services: Services, *, shows_addresses: bool) -> list[tuple[str, str]]:
    """Return name and value of what this copy of the service is. Pure."""
    settings = services.settings
    dispatcher = services.dispatcher
    state = settings.state_url or "not configured"
    return [
        ("This copy", "unnamed" if dispatcher is None else dispatcher.leadership.holder),
        ("Database", "PostgreSQL" if settings.sqlalchemy_url.startswith("postgresql") else "SQLite"),
        ("State store", state if shows_addresses or settings.state_url is None else "configured"),
        ("Engines", ", ".join(name.value.capitalize() for name in services.parts.engines) or "none configured"),
        ("Default model", settings.ollama.model),
    ]


def _list_limits(services: Services) -> list[tuple[str, Any, str]]:
    """Return title, value and setting of the limits in force. Pure."""
    settings = services.settings
    limits = settings.limits
    through_gateway = services.parts.gateway is not None
    return [
        (
            "Embedding requests in flight, all jobs together",
            "decided by the gateway" if through_gateway else settings.embed.in_flight,
            "INGEST_GATEWAY__URL" if through_gateway else "INGEST_EMBED__IN_FLIGHT",
        ),
        ("Jobs on Ray at once", settings.ray.max_jobs, "INGEST_RAY__MAX_JOBS"),
        ("Jobs on Spark at once", settings.spark.max_jobs, "INGEST_SPARK__MAX_JOBS"),
        ("Jobs of one key that wait", limits.queued_jobs_per_key, "INGEST_LIMITS__QUEUED_JOBS_PER_KEY"),
        ("Jobs of one key under way", limits.running_jobs_per_key, "INGEST_LIMITS__RUNNING_JOBS_PER_KEY"),
        ("Requests per second with one key", limits.requests_per_second, "INGEST_LIMITS__REQUESTS_PER_SECOND"),
        (
            "Requests per second from one address",
            limits.address_requests_per_second,
            "INGEST_LIMITS__ADDRESS_REQUESTS_PER_SECOND",
        ),
        ("Days that jobs are kept after their end", settings.retention.days or "for ever", "INGEST_RETENTION__DAYS"),
    ]


# -- drain ------------------------------------------------------------------------------------------------------------


@router.get(SECTION + "/drain")
async def ask_drain(request: Request, _viewer: AdminDep, services: ServicesDep) -> Response:
    """Return the page that asks before the service is drained, or before draining ends."""
    return ask(request, _describe_drain(show_drain(await services.drain.check())))


@router.post(SECTION + "/drain")
async def set_drain(
    request: Request,
    viewer: AdminDep,
    services: ServicesDep,
    order: Annotated[str, Form(pattern=r"^(start|end)$")],
    new_jobs: Annotated[str, Form(pattern=r"^(wait|refuse)$")] = "wait",
    reason: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Drain the service, or end draining; lead back to the page of the system."""
    try:
        if order == "start":
            refuses = new_jobs == "refuse"
            await services.drain.set(refuses=refuses, reason=reason.strip() or None, requested_by=viewer.name)
        else:
            await services.drain.clear()
    except SubmissionError as error:
        return ask(request, _describe_drain(show_drain(await services.drain.check())), error=error)
    return RedirectResponse(SECTION, 303)


def _describe_drain(drain: DrainView) -> Confirmation:
    waiting = f"{show_plural(drain.waiting, 'job')} {'waits' if drain.waiting == 1 else 'wait'}"
    if drain.draining:
        return Confirmation(
            title="End draining",
            effects=(f"{waiting}; they start again, as the capacity allows.", "New jobs are accepted."),
            button="Let jobs start",
            keep="Stay drained",
            back=SECTION,
            back_name="System",
            section=SECTION,
            inputs={"order": "end"},
        )
    return Confirmation(
        title="Drain the service",
        effects=(
            f"No waiting job starts from now on, in all copies of the service, also after a restart: {waiting} now.",
            f"Jobs under way go on to their end: {show_plural(drain.under_way, 'job')} now.",
            "Searches and reading are not affected.",
        ),
        button="Drain the service",
        keep="Do not drain",
        back=SECTION,
        back_name="System",
        section=SECTION,
        choices={"new_jobs": (("wait", "Accept them to wait"), ("refuse", "Refuse them (503)"))},
        texts={"reason": "Reason, for the notes of jobs that wait"},
        inputs={"order": "start"},
    )
