"""Spark as a ``JobEngine``: an attempt is one SparkApplication in Kubernetes, run by the Spark operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import EngineStatus
from ingestion_engine.domain.spec import EngineName, JobRequest, JobSpec
from ingestion_engine.domain.states import EngineState
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.shares import grant_parallelism
from ingestion_engine.services.specs import make_spec
from ingestion_engine.submission.causes import find_cause
from ingestion_engine.submission.kubernetes.api import KubernetesApi, SparkApplication
from ingestion_engine.submission.kubernetes.pod_templates import PodTemplates, read_pod_templates
from ingestion_engine.submission.kubernetes.pods import find_end, find_event, find_obstacle
from ingestion_engine.submission.kubernetes.spark_manifest import (
    LABEL_ATTEMPT,
    LABEL_JOB,
    build_manifest,
    name_application,
)

EXAMPLE_JOB_ID: Final = "job-" + "0" * 26
"""Id in a manifest that is only shown."""

SLOW_START_S: Final = 15.0
"""Age of a pod in seconds from which its events are read: a healthy one on a node with the image starts sooner, and has
passing events (its volumes exist a moment after it).
"""

_SUBMISSION_HINT: Final = (
    "Check the INGEST_SPARK__* settings, the account that the Spark operator uses, and the operator's log."
)

STATES: Final = {
    "": (EngineState.PENDING, "The Spark operator has not processed it yet."),
    "SUBMITTED": (EngineState.PENDING, "Kubernetes is starting the driver."),
    "RUNNING": (EngineState.RUNNING, "The driver is running."),
    "COMPLETED": (EngineState.ENDED, "The driver ended."),
    "FAILED": (EngineState.ENDED, "The driver failed."),
    "SUBMISSION_FAILED": (EngineState.PENDING, "spark-submit failed; the Spark operator tries again or gives up."),
    "PENDING_RERUN": (EngineState.PENDING, "The Spark operator is about to submit it again."),
    "INVALIDATING": (EngineState.PENDING, "It was modified; the Spark operator is about to submit it again."),
    "SUCCEEDING": (EngineState.RUNNING, "The driver has succeeded; the Spark operator is about to report it."),
    "FAILING": (EngineState.RUNNING, "The driver has failed; the Spark operator is about to report it."),
    "SUSPENDING": (EngineState.RUNNING, "It is being suspended; the driver is being stopped."),
    "SUSPENDED": (EngineState.PENDING, "It is suspended."),
    "RESUMING": (EngineState.PENDING, "It is being resumed."),
    "UNKNOWN": (EngineState.RUNNING, "Kubernetes does not know the state of the driver."),
}
"""Every state of the operator (``api/v1beta2/sparkapplication_types.go`` of 2.5.2) as a state of an engine.

Only COMPLETED and FAILED are final: the operator leaves every other state by itself. The ledger alone decides whether a
job succeeded.
"""


class SparkService:
    """Starts, observes and stops drivers in one namespace.

    Args:
        settings: Settings with a namespace in ``spark``.
        api: Client of the cluster.
        pod_templates: Content of the file ``settings.spark.pod_template``.
        now: Returns the current time.
    """

    def __init__(
        self,
        settings: Settings,
        api: KubernetesApi,
        pod_templates: PodTemplates | None = None,
        now: Callable[[], Moment] = utc_now,
    ) -> None:
        self._settings = settings
        self._api = api
        self._pod_templates = pod_templates
        self._now = now

    @classmethod
    def from_settings(cls, settings: Settings) -> SparkService:
        """Return a service that connects lazily to the cluster of ``settings.spark``; the namespace must be set.

        Raises:
            FatalError: "engine_misconfigured": the file of pod templates cannot be read.
        """
        spark = settings.spark
        assert spark.namespace is not None
        api = KubernetesApi(
            spark.namespace, kubeconfig=spark.kubeconfig, context=spark.context, ca_file=settings.tls.ca_file
        )
        return cls(settings, api, read_pod_templates(spark.pod_template))

    def reference(self, job_id: str, attempt: int) -> str:
        """Return the name of the SparkApplication of an attempt."""
        return name_application(job_id, attempt)

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        """Create the SparkApplication of an attempt, unless it exists already. At most two requests.

        Raises:
            SubmissionError: "engine_refused": settings or cluster refuse the manifest permanently, or another
                application has the name.
            TransientError: it was not created, as far as is known.
        """
        manifest = self._build_manifest(job_id, attempt, spec_uri, parallelism=parallelism)
        try:
            if await self._api.create_application(manifest) is not None:
                return
        except TransientError as error:
            if error.context.get("maybe_started") and await self._was_created(manifest):
                return
            raise
        if not await self._was_created(manifest):
            name = manifest["metadata"]["name"]
            message = f"SparkApplication {name!r} was deleted during the submission."
            raise TransientError("engine_error", message, maybe_started=True)

    async def _was_created(self, manifest: dict[str, Any]) -> bool:
        """Return whether the application of a manifest exists, after an ambiguous response.

        Raises:
            SubmissionError: "engine_refused": another application has the name.
            TransientError: it is still unknown; ``maybe_started`` is True.
        """
        name = manifest["metadata"]["name"]
        try:
            found = await self._api.get_application(name)
        except TransientError as error:
            context = {**error.context, "maybe_started": True}
            raise TransientError(error.code, error.message, hint=error.hint, **context) from error
        if found is None:
            return False
        labels = manifest["metadata"]["labels"]
        same = all(found.labels.get(label) == labels[label] for label in (LABEL_JOB, LABEL_ATTEMPT))
        if not same or list(found.arguments) != manifest["spec"]["arguments"]:
            raise SubmissionError(
                "engine_refused",
                f"SparkApplication {name!r} exists and belongs to another job or service.",
                hint="Use one namespace per service: services with different state stores must not share one.",
            )
        return True

    async def status(self, job_id: str, attempt: int) -> EngineStatus:
        """Return the state of an attempt. One request; at most three while its driver starts or when it failed.

        An application that the operator ignores stays PENDING; ``detail`` reports it after
        ``INGEST_SPARK__NEVER_STARTED_S``. A driver that cannot start stays PENDING too, with Kubernetes's reason, since
        most reasons can be removed from outside; ``can_start`` is False where none can.
        """
        application = await self._api.get_application(self.reference(job_id, attempt))
        if application is None:
            return EngineStatus(EngineState.ABSENT, "Kubernetes does not know the attempt.")
        known = STATES.get(application.state)
        if known is None:
            raise TransientError(
                "engine_unexpected_answer",
                f"The Spark operator reported the unknown state {application.state!r}.",
            )
        state, detail = known
        if application.state == "FAILED" and application.executions == 0:
            detail = "spark-submit failed, and the Spark operator gave up."
        if application.deleting and state is EngineState.PENDING:
            return EngineStatus(EngineState.ENDED, "It was deleted before its driver started.")
        if application.state == "" and self._is_older(application.created_at, self._settings.spark.never_started_s):
            detail = (
                f"The Spark operator does not process it: it is busy, not installed, or does not watch namespace "
                f"{self._settings.spark.namespace!r}."
            )
        if cause := find_cause(application.error_message):
            detail = f"{detail} {cause.rstrip('.')}."
        status = EngineStatus(state, detail)
        if application.state == "SUBMITTED":
            return await self._explain_start(application, status)
        return await self._explain_end(application, status) if application.state == "FAILED" else status

    async def _explain_start(self, application: SparkApplication, status: EngineStatus) -> EngineStatus:
        """Return the status of a driver that has not started, with what keeps it. At most two requests."""
        pod = await self._api.get_pod(application.driver_pod)
        obstacle = None if pod is None else find_obstacle(pod)
        if pod is not None and obstacle is None and self._is_older(pod.created_at, SLOW_START_S):
            obstacle = find_event(await self._api.list_warnings(pod))
        if obstacle is not None:
            return replace(
                status,
                detail=f"{status.detail} {obstacle}",
                hint=obstacle.hint,
                can_start=not obstacle.is_permanent,
            )
        if self._api.denied and self._is_older(application.created_at, SLOW_START_S):
            missing = " and ".join(sorted(self._api.denied))
            return replace(
                status,
                detail=f"{status.detail} The service may not read what keeps it (missing permission: {missing}).",
                hint="Grant the account the Role of docs/spark-manifest.md.",
            )
        return status

    async def _explain_end(self, application: SparkApplication, status: EngineStatus) -> EngineStatus:
        """Return the status of an attempt that failed, with the reason. At most one request."""
        if application.executions == 0:
            return replace(status, hint=_SUBMISSION_HINT, can_start=False)
        pod = await self._api.get_pod(application.driver_pod)
        obstacle = None if pod is None else find_end(pod)
        return status if obstacle is None else replace(status, detail=f"{status.detail} {obstacle}")

    def _is_older(self, created_at: Moment | None, seconds: float) -> bool:
        return created_at is not None and (self._now() - created_at).total_seconds() > seconds

    async def stop(self, job_id: str, attempt: int) -> None:
        """Delete the SparkApplication of an attempt; Kubernetes stops its driver first."""
        await self._api.delete_application(self.reference(job_id, attempt))

    async def logs(self, job_id: str, attempt: int) -> str | None:
        """Return the end of the driver's output, or None when its pod is gone. At most two requests."""
        application = await self._api.get_application(self.reference(job_id, attempt))
        return None if application is None else await self._api.read_driver_log(application.driver_pod)

    async def check(self) -> str:
        """Return the version of Kubernetes."""
        return await self._api.get_version()

    async def close(self) -> None:
        """Release connections."""
        await self._api.close()

    def manifest(self, spec: JobSpec, attempt: int) -> dict[str, Any]:
        """Return the SparkApplication that ``submit`` creates for an attempt. Pure. Raises SubmissionError."""
        spec_uri = JobUri(spec.state_url, spec.job_id).spec_uri
        return self._build_manifest(spec.job_id, attempt, spec_uri, parallelism=spec.parallelism)

    def show_manifest(self, request: JobRequest) -> dict[str, Any]:
        """Return the SparkApplication that a request would create, with an example id. Raises SubmissionError.

        The response of ``POST /spark/manifest`` (``api.context.Parts.spark_manifest``). A state URL must be set.
        """
        granted = grant_parallelism(self._settings, request)
        spec = make_spec(self._settings, request, engine=EngineName.SPARK, job_id=EXAMPLE_JOB_ID, parallelism=granted)
        return self.manifest(spec, 1)

    def _build_manifest(self, job_id: str, attempt: int, spec_uri: str, *, parallelism: int) -> dict[str, Any]:
        return build_manifest(
            job_id,
            attempt,
            spec_uri,
            parallelism=parallelism,
            settings=self._settings,
            pod_templates=self._pod_templates,
        )
