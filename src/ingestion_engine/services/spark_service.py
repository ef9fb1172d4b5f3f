"""Spark as a ``JobEngine``: an attempt is one SparkApplication in Kubernetes, run by the Spark operator."""

from __future__ import annotations

from collections.abc import Callable
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
from ingestion_engine.submission.kubernetes.api import KubernetesApi, SparkApplication
from ingestion_engine.submission.kubernetes.pod_templates import PodTemplates, read_pod_templates
from ingestion_engine.submission.kubernetes.spark_manifest import (
    LABEL_ATTEMPT,
    LABEL_JOB,
    build_manifest,
    name_application,
)

EXAMPLE_JOB_ID: Final = "job-" + "0" * 26
"""Stands for the id in a manifest that is only shown."""

STATES: Final = {
    "": (EngineState.PENDING, "the Spark operator has not looked at it yet"),
    "SUBMITTED": (EngineState.PENDING, "Kubernetes is starting the driver"),
    "RUNNING": (EngineState.RUNNING, "the driver runs"),
    "COMPLETED": (EngineState.ENDED, "the driver ended"),
    "FAILED": (EngineState.ENDED, "the driver failed"),
    "SUBMISSION_FAILED": (EngineState.PENDING, "spark-submit failed; the operator tries again or gives up"),
    "PENDING_RERUN": (EngineState.PENDING, "the operator is about to submit it again"),
    "INVALIDATING": (EngineState.PENDING, "somebody changed it; the operator is about to submit it again"),
    "SUCCEEDING": (EngineState.RUNNING, "the driver has ended well; the operator is about to say so"),
    "FAILING": (EngineState.RUNNING, "the driver has failed; the operator is about to say so"),
    "SUSPENDING": (EngineState.RUNNING, "somebody suspends it; the driver is being stopped"),
    "SUSPENDED": (EngineState.PENDING, "somebody has suspended it"),
    "RESUMING": (EngineState.PENDING, "it is being resumed"),
    "UNKNOWN": (EngineState.RUNNING, "Kubernetes has lost sight of the driver"),
}
"""Every state of the operator (``api/v1beta2/sparkapplication_types.go`` of 2.5.2) in the product's words.

Only COMPLETED and FAILED are ends: the operator leaves every other state by itself. The ledger alone says whether a job
succeeded.
"""


class SparkService:
    """Starts, looks at and stops drivers in one namespace.

    Args:
        settings: ``spark`` must name a namespace.
        api: The cluster.
        pod_templates: What ``settings.spark.pod_template`` holds.
        now: The clock.
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
        """Connect lazily to the cluster of ``settings.spark``, whose namespace must be set.

        Raises:
            FatalError: "engine_misconfigured": the file with pod templates cannot be read.
        """
        spark = settings.spark
        assert spark.namespace is not None
        api = KubernetesApi(spark.namespace, kubeconfig=spark.kubeconfig, context=spark.context)
        return cls(settings, api, read_pod_templates(spark.pod_template))

    def reference(self, job_id: str, attempt: int) -> str:
        """The name of an attempt's SparkApplication."""
        return name_application(job_id, attempt)

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        """Create an attempt's SparkApplication; return also when it had been created before. At most two requests.

        Raises:
            SubmissionError: "engine_refused": settings or cluster refuse the manifest for good, or the name is taken by
                something else.
            TransientError: not created, as far as known.
        """
        manifest = build_manifest(job_id, attempt, spec_uri, parallelism, self._settings, self._pod_templates)
        try:
            if await self._api.create_application(manifest) is not None:
                return
        except TransientError as error:
            if error.context.get("maybe_started") and await self._was_created(manifest):
                return
            raise
        if not await self._was_created(manifest):
            raise TransientError("engine_error", "a SparkApplication of that name has just gone", maybe_started=True)

    async def _was_created(self, manifest: dict[str, Any]) -> bool:
        """Look an application up after an ambiguous answer; True when it is there and ours.

        Raises:
            SubmissionError: "engine_refused": the name is taken by something else.
            TransientError: still not known; ``maybe_started`` is True.
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
                f"the SparkApplication {name} exists and belongs to something else",
                hint="two services with different state stores must not share a namespace",
            )
        return True

    async def status(self, job_id: str, attempt: int) -> EngineStatus:
        """Look at an attempt. One request.

        An application that the operator does not touch stays PENDING, and ``detail`` says so after
        ``INGEST_SPARK__NEVER_STARTED_S``.
        """
        application = await self._api.get_application(self.reference(job_id, attempt))
        if application is None:
            return EngineStatus(EngineState.ABSENT, "Kubernetes does not know the attempt")
        known = STATES.get(application.state)
        if known is None:
            raise TransientError(
                "engine_unexpected_answer", "the Spark operator gives a state that this version does not know"
            )
        state, detail = known
        if application.deleting and state is EngineState.PENDING:
            return EngineStatus(EngineState.ENDED, "it was deleted before its driver started")
        if application.state == "" and self._is_ignored(application):
            detail = (
                f"the Spark operator does nothing: it is absent, or does not watch namespace "
                f"{self._settings.spark.namespace}"
            )
        elif application.error_message:
            detail = f"{detail}: {_shorten(application.error_message)}"
        return EngineStatus(state, detail)

    def _is_ignored(self, application: SparkApplication) -> bool:
        if application.created_at is None:
            return False
        return (self._now() - application.created_at).total_seconds() > self._settings.spark.never_started_s

    async def stop(self, job_id: str, attempt: int) -> None:
        """Delete an attempt's SparkApplication; Kubernetes stops its driver first."""
        await self._api.delete_application(self.reference(job_id, attempt))

    async def logs(self, job_id: str, attempt: int) -> str | None:
        """The end of the driver's output, or None when its pod is gone. At most two requests."""
        application = await self._api.get_application(self.reference(job_id, attempt))
        return None if application is None else await self._api.read_driver_log(application.driver_pod)

    async def check(self) -> str:
        """Return the version of Kubernetes."""
        return await self._api.get_version()

    async def close(self) -> None:
        """Release connections."""
        await self._api.close()

    def manifest(self, spec: JobSpec, attempt: int) -> dict[str, Any]:
        """Return the SparkApplication that ``submit`` creates for a job. Pure. Raises SubmissionError."""
        spec_uri = JobUri(spec.state_url, spec.job_id).spec_uri
        return build_manifest(spec.job_id, attempt, spec_uri, spec.parallelism, self._settings, self._pod_templates)

    def show_manifest(self, request: JobRequest) -> dict[str, Any]:
        """Return the SparkApplication that a request would create, under an example's id. Raises SubmissionError.

        The answer of ``POST /spark/manifest`` (``api.context.Parts.spark_manifest``). A state URL must be set.
        """
        granted = grant_parallelism(self._settings, request)
        spec = make_spec(self._settings, request, EngineName.SPARK, EXAMPLE_JOB_ID, parallelism=granted)
        return self.manifest(spec, 1)


def _shorten(message: str) -> str:
    """The last line of what the operator relays: for spark-submit that is the exception's own text."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
