"""Spark on Kubernetes: the API server, the account's permissions, the operator, and the application it would get."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ingestion_engine.doctor.context import Context, timed
from ingestion_engine.doctor.findings import Finding, fail, fail_by, not_configured, ok, skip, warn
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.settings import SparkSettings
from ingestion_engine.services.spark_service import EXAMPLE_JOB_ID
from ingestion_engine.submission.kubernetes.api import KubernetesApi
from ingestion_engine.submission.kubernetes.permissions import CREATE_APPLICATION, PERMISSIONS, Permission
from ingestion_engine.submission.kubernetes.pod_templates import read_pod_templates
from ingestion_engine.submission.kubernetes.spark_manifest import build_manifest

_NOT_CONFIGURED: Final = "Jobs cannot use the engine 'spark'."
_ROLE_HINT: Final = "Bind the Role of docs/spark-manifest.md to the account of the service."


def _open(context: Context, namespace: str) -> KubernetesApi:
    settings = context.settings
    spark = settings.spark
    return KubernetesApi(namespace, kubeconfig=spark.kubeconfig, context=spark.context, ca_file=settings.tls.ca_file)


async def check_kubernetes(context: Context) -> list[Finding]:
    """Ask for the version, and review each permission that the service uses."""
    spark = context.settings.spark
    if spark.namespace is None:
        return [not_configured(_NOT_CONFIGURED, "Set INGEST_SPARK__NAMESPACE to use it.")]
    api = _open(context, spark.namespace)
    try:
        version, latency_ms = await timed(api.get_version)
        allowed = await asyncio.gather(*map(api.is_allowed, PERMISSIONS))
    finally:
        await api.close()
    facts = {"version": version, "namespace": spark.namespace}
    missing = [permission for permission, is_allowed in zip(PERMISSIONS, allowed, strict=True) if not is_allowed]
    granted = len(PERMISSIONS) - len(missing)
    reached = f"Kubernetes {version}, {granted} of {len(PERMISSIONS)} permissions in namespace {spark.namespace!r}"
    findings = [ok(reached, latency_ms=latency_ms, **facts)]
    required = [permission for permission in missing if permission.required]
    optional = [permission for permission in missing if not permission.required]
    if required:
        text = f"The account may not {_list(required)}, which Spark jobs require."
        findings.append(fail(text, _ROLE_HINT, target="permissions", missing=[*map(str, required)]))
    if optional:
        text = f"The account may not {_list(optional)}: jobs do not show why a driver does not start."
        findings.append(warn(text, _ROLE_HINT, target="explanations", missing=[*map(str, optional)]))
    return findings


def _list(permissions: Sequence[Permission]) -> str:
    """Return permissions as a text: ``create and delete sparkapplications, get pods/log``. Pure."""
    verbs: dict[str, list[str]] = {}
    for permission in permissions:
        verbs.setdefault(permission.resource, []).append(permission.verb)
    return ", ".join(f"{' and '.join(some)} {resource}" for resource, some in verbs.items())


async def check_spark(context: Context) -> list[Finding]:
    """Compare settings, CRD and webhook by an application that the cluster checks but does not keep."""
    spark = context.settings.spark
    if spark.namespace is None:
        return [not_configured(_NOT_CONFIGURED, "Set INGEST_SPARK__NAMESPACE to use it.")]
    if context.has_failed("kubernetes"):
        return [skip("because 'kubernetes' is not ok")]
    if spark.image is None:
        hint = "Set INGEST_SPARK__IMAGE to an image built from deploy/images/spark."
        return [fail("No image is configured; every Spark job is refused.", hint, code="engine_not_configured")]
    api = _open(context, spark.namespace)
    try:
        if not await api.has_resource():
            hint = "Install the Spark operator with its CRDs."
            return [fail("The cluster has no resource type SparkApplication.", hint, code="engine_unexpected_answer")]
        return await _try(context, api, spark)
    finally:
        await api.close()


async def _try(context: Context, api: KubernetesApi, spark: SparkSettings) -> list[Finding]:
    facts: dict[str, Any] = {"image": spark.image, "namespace": spark.namespace}
    try:
        manifest = build_manifest(
            EXAMPLE_JOB_ID,
            1,
            f"{context.settings.state_url or 's3://bucket'}/jobs/{EXAMPLE_JOB_ID}/spec.json",
            parallelism=1,
            settings=context.settings,
            pod_templates=read_pod_templates(spark.pod_template),
        )
    except IngestionError as error:
        return [fail_by(error, "Correct the INGEST_SPARK__* settings.", **facts)]
    if not await api.is_allowed(CREATE_APPLICATION):
        return [skip("because the account may not create SparkApplications", _ROLE_HINT)]
    trial = await api.try_application(manifest)
    if trial.is_webhook_down:
        hint = "Check the operator's pods: kubectl get pods -A -l app.kubernetes.io/name=spark-operator"
        return [fail(f"No application can be created: {trial.refusal}.", hint, target="webhook", **facts)]
    if trial.refusal:
        hint = "Check the INGEST_SPARK__* settings, and the policies and quotas of the namespace."
        return [fail(f"The cluster refuses the application: {trial.refusal}.", hint, code="engine_refused", **facts)]
    if not trial.has_webhook:
        text = f"The Spark operator's webhook does not handle namespace {spark.namespace!r}."
        hint = f"Install the Spark operator with webhook.enable=true and {spark.namespace!r} in spark.jobNamespaces."
        if spark.pod_template is None:  # pods would start without their secrets
            return [fail(text, hint, target="webhook", **facts)]
        return [warn(f"{text} Pods have their variables from the pod template.", hint, target="webhook", **facts)]
    detail = f"image {spark.image}; the operator's webhook and the cluster accept an application"
    return [ok(detail, **facts), *_list_unseen(spark)]


def _list_unseen(spark: SparkSettings) -> list[Finding]:
    """Return a result that names what the account may not see, and how somebody else can."""
    objects = [f"serviceaccount/{spark.service_account or 'default'}"]
    if spark.secret_name is not None:
        objects.append(f"secret/{spark.secret_name}")
    return [
        skip(
            f"the account may not see {' and '.join(objects)}, nor the operator's controller",
            f"Run as an administrator: kubectl -n {spark.namespace} get {' '.join(objects)}",
            target="unseen",
        )
    ]
