"""Ray as a ``JobEngine``: an attempt is one submission to the Jobs API.

Its command line is fixed except for the URI of the spec and the number of the attempt.
"""

from __future__ import annotations

import asyncio
import shlex
from typing import Any, Final

from ingestion_engine.domain.ids import name_attempt
from ingestion_engine.domain.ports import EngineStatus
from ingestion_engine.domain.states import EngineState
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.spec_uri import with_location
from ingestion_engine.submission.causes import find_cause, shorten
from ingestion_engine.submission.ray.jobs import RayJob, RayJobsClient, RayJobStatus
from ingestion_engine.submission.ray.package_zip import build_package_zip

_STATES: Final = {RayJobStatus.PENDING: EngineState.PENDING, RayJobStatus.RUNNING: EngineState.RUNNING}

_DETAILS: Final = {
    "RUNTIME_ENV_SETUP_FAILURE": "Ray could not set up the runtime environment",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": "Ray had no resources to start the driver in time",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": "Ray could not start the driver",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": "Ray has no node that can run the driver",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": "Ray lost the driver",
    "JOB_SUPERVISOR_ACTOR_DIED": "The node or process of the driver died",
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": "Ray could not start the driver's command",
    "JOB_ENTRYPOINT_COMMAND_ERROR": "The command of the driver failed",
}
"""Messages for Ray's error types (``JobErrorType`` in ``dashboard/modules/job/common.py`` of 2.60)."""

_NOT_STARTED: Final = frozenset(
    {
        "RUNTIME_ENV_SETUP_FAILURE",
        "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
        "JOB_SUPERVISOR_ACTOR_START_FAILURE",
        "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
        "JOB_ENTRYPOINT_COMMAND_START_ERROR",
    }
)
"""Error types of attempts whose driver never ran."""


class RayService:
    """Starts, observes and stops drivers on one Ray cluster."""

    def __init__(self, settings: Settings, client: RayJobsClient) -> None:
        self._settings = settings
        self._client = client

    @classmethod
    def from_settings(cls, settings: Settings) -> RayService:
        """Return a service that connects lazily to ``settings.ray.address``, which must be set."""
        assert settings.ray.address is not None
        token = settings.ray.auth_token
        secret = None if token is None else token.get_secret_value()
        return cls(settings, RayJobsClient(settings.ray.address, secret, ca_file=settings.tls.ca_file))

    def reference(self, job_id: str, attempt: int) -> str:
        """Return the submission id of an attempt."""
        return name_attempt(job_id, attempt)

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        """Start the driver of an attempt, unless it was started before."""
        metadata = {"job_id": job_id, "attempt": str(attempt), "parallelism": str(parallelism)}
        await self._client.submit(
            self.reference(job_id, attempt),
            build_entrypoint(self._settings.ray.python, with_location(spec_uri, self._settings), attempt),
            runtime_env=await self._prepare_runtime_env(),
            metadata=metadata,
        )

    async def status(self, job_id: str, attempt: int) -> EngineStatus:
        """Return the state of an attempt. One request."""
        job = await self._client.get_job(self.reference(job_id, attempt))
        if job is None:
            return EngineStatus(EngineState.ABSENT, "Ray does not know the attempt.")
        hint = "Check the INGEST_RAY__* settings and Ray's dashboard." if job.error_type in _NOT_STARTED else ""
        state = _STATES.get(job.status, EngineState.ENDED)
        return EngineStatus(state, _describe(job), hint=hint, can_start=job.error_type not in _NOT_STARTED)

    async def stop(self, job_id: str, attempt: int) -> None:
        """Request that the driver of an attempt ends."""
        await self._client.stop(self.reference(job_id, attempt))

    async def logs(self, job_id: str, attempt: int) -> str | None:
        """Return the end of the driver's output, or None when Ray no longer has it."""
        return await self._client.get_logs(self.reference(job_id, attempt))

    async def check(self) -> str:
        """Return Ray's version."""
        return await self._client.get_version()

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    async def _prepare_runtime_env(self) -> dict[str, Any]:
        """Return the runtime environment, without secrets; uploads the package first if it is to be shipped.

        It is empty when the cluster has the package: any other one delays the start of every worker by a second.
        """
        settings = self._settings
        runtime_env: dict[str, Any] = {}
        if settings.ray.ship_package:
            package = await asyncio.to_thread(build_package_zip)
            if not await self._client.has_package(package.name):
                await self._client.put_package(package.name, package.data)
            runtime_env["py_modules"] = [package.uri]
        if settings.ray.pip:
            runtime_env["pip"] = list(settings.ray.pip)
        return runtime_env


def build_entrypoint(python: str, spec_uri: str, attempt: int) -> str:
    """Return the shell command that runs the driver of an attempt. Pure.

    Ray runs it with a shell, so every word is quoted; it contains nothing of a request.
    """
    words = [python, "-m", "ingestion_engine.driver.entry", "--engine", "ray"]
    words += ["--spec", spec_uri, "--attempt", str(attempt)]
    return shlex.join(words)


def _describe(job: RayJob) -> str:
    if job.status is RayJobStatus.PENDING and job.message:
        return f"Ray reports PENDING: {shorten(job.message)}"
    if not job.status.is_terminal:
        return f"Ray reports {job.status.value}."
    if job.status is RayJobStatus.STOPPED:
        return "The driver was stopped."
    detail = _DETAILS.get(job.error_type or "", "The driver ended")
    code = "" if job.exit_code is None else f" (exit code {job.exit_code})"
    # Where the command itself failed, Ray's message is the end of the driver's output.
    cause = find_cause(job.message) if job.error_type and job.error_type != "JOB_ENTRYPOINT_COMMAND_ERROR" else ""
    return f"{detail}{code}: {cause.rstrip('.')}." if cause else f"{detail}{code}."
