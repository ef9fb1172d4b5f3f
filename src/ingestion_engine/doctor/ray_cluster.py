"""The Ray cluster, through the Jobs API of its dashboard."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final
from urllib.parse import urlsplit

from ingestion_engine.doctor.context import Context, timed
from ingestion_engine.doctor.findings import Finding, fail, not_configured, ok, warn
from ingestion_engine.domain.errors import TransientError
from ingestion_engine.submission.ray.jobs import RayJobsClient

LEAST_VERSION: Final = (2, 52)
"""First version of Ray with token authentication, and the oldest that the package's extra ``ray`` accepts."""

UNKNOWN_JOB: Final = "ingest-doctor"
"""Id of a job that no cluster has."""

_NUMBER: Final = re.compile(r"\d+")
_OPEN_HINT: Final = (
    "Start Ray with RAY_AUTH_MODE=token and set INGEST_RAY__AUTH_TOKEN: whoever reaches an open dashboard can run any "
    "code on the cluster."
)


async def check_ray(context: Context) -> list[Finding]:
    """Ask for a job that does not exist, with the token and without one; and for the version."""
    settings = context.settings
    address = settings.ray.address
    if address is None and settings.spark.namespace is None:
        hint = "Set INGEST_RAY__ADDRESS, or INGEST_SPARK__NAMESPACE and INGEST_SPARK__IMAGE."
        return [fail("No engine is configured; every job is refused.", hint, code="engine_not_configured")]
    if address is None:
        return [not_configured("Jobs cannot use the engine 'ray'.", "Set INGEST_RAY__ADDRESS to use it.")]
    token = settings.ray.auth_token
    client = RayJobsClient(address, None if token is None else token.get_secret_value(), ca_file=settings.tls.ca_file)
    stranger = RayJobsClient(address, ca_file=settings.tls.ca_file)
    try:
        version, latency_ms = await timed(client.get_version)
        await client.get_job(UNKNOWN_JOB)
        is_open = await _accepts(stranger)
    finally:
        await client.close()
        await stranger.close()
    facts: dict[str, Any] = {"version": version, "open": is_open, "url": client.url}
    if _parse(version) < LEAST_VERSION:
        hint = f"Upgrade the cluster to Ray {'.'.join(map(str, LEAST_VERSION))} or later."
        return [fail(f"Ray {version} is too old: it has no token authentication.", hint, **facts)]
    reached = f"Ray {version} at {client.url}"
    if is_open:
        text = f"{reached} accepts requests without a token."
        if _is_loopback(address):
            return [warn(text, _OPEN_HINT, latency_ms=latency_ms, **facts)]
        return [fail(text, _OPEN_HINT, code="ray_open", **facts)]
    return [ok(f"{reached}: token accepted, and required", latency_ms=latency_ms, **facts)]


async def _accepts(client: RayJobsClient) -> bool:
    """Return whether the Jobs API answers a client without a token. Raises TransientError when that is unknown."""
    try:
        await client.get_job(UNKNOWN_JOB)
    except TransientError as error:
        if error.code == "engine_access_denied":
            return False
        raise
    return True


def _parse(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(version)[:2])


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
