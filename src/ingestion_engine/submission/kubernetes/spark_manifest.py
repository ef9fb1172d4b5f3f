"""The SparkApplication of one attempt: a pure function of job, attempt and settings.

``docs/spark-manifest.md`` documents each field and its reader. Rules of the manifest (Spark operator 2.5.2, from its
source):

- The webhook rejects names that are not DNS-1035 labels, and ``sparkConf`` keys for the master, an image, a service
  account, a token or another namespace: these are fields of the manifest, or left to the operator.
- ``restartPolicy`` retries failed submissions only. ``onFailureRetries`` is absent, so the operator never reruns a
  driver.
- The operator's webhook puts ``env``, ``envFrom``, ``tolerations`` and the like of driver and executor into pods; a pod
  template is passed to Spark itself. With a template everything goes into the template, so that nothing depends on
  both.
- The manifest contains no secrets: ``envFrom`` refers to one Kubernetes secret by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubeflow_spark_api.models.spark_v1beta2_spark_application import SparkV1beta2SparkApplication
from pydantic import ValidationError

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.ids import name_attempt
from ingestion_engine.runtime.settings import Settings, SparkSettings
from ingestion_engine.runtime.validation import describe_faults
from ingestion_engine.submission.kubernetes.pod_templates import PodTemplates

API_VERSION: Final = "sparkoperator.k8s.io/v1beta2"
KIND: Final = "SparkApplication"

LABEL_JOB: Final = "ingestion-engine/job-id"
LABEL_ATTEMPT: Final = "ingestion-engine/attempt"

DRIVER_CONTAINER: Final = "spark-kubernetes-driver"
"""Name of the driver's container in templates and pods, defined by operator and Spark."""
EXECUTOR_CONTAINER: Final = "spark-kubernetes-executor"

CA_VARIABLE: Final = "INGEST_TLS__CA_FILE"
"""The path of the file of authorities is the same in pods as in the service, unless the pod template sets it."""

LONGEST_NAME: Final = 63 - len("-driver")
"""Maximum length of a name: the driver's pod is named after the application, and its name is a DNS label too."""

_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Slots:
    """Distribution of the parallel partitions of a job over executors."""

    instances: int
    cores: int


def spread(parallelism: int, cores: int) -> Slots:
    """Return the fewest executors of at most ``cores`` slots for ``parallelism`` partitions, spread evenly. Pure.

    ``instances * cores >= parallelism``, with less than one unused slot per executor.
    """
    instances = math.ceil(parallelism / cores)
    return Slots(instances, math.ceil(parallelism / instances))


def name_application(job_id: str, attempt: int) -> str:
    """Return the name of the SparkApplication of an attempt: a DNS-1035 label, short enough for ``-driver``. Pure.

    Different attempts have different names.

    Raises:
        SubmissionError: "engine_refused": the job id cannot be part of a name in Kubernetes.
    """
    name = name_attempt(job_id, attempt)
    if len(name) > LONGEST_NAME or not _DNS_1035.fullmatch(name):
        raise SubmissionError(
            "engine_refused",
            f"{name!r} cannot be the name of a SparkApplication.",
            hint=f"Use a job id that makes it a DNS-1035 label of at most {LONGEST_NAME} characters.",
        )
    return name


def build_manifest(
    job_id: str,
    attempt: int,
    spec_uri: str,
    *,
    parallelism: int,
    settings: Settings,
    pod_templates: PodTemplates | None = None,
) -> dict[str, Any]:
    """Return the SparkApplication of an attempt as JSON types, valid against the operator's own models. Pure.

    Args:
        job_id: Id of the job; its label, and part of the name of the application.
        attempt: Number of the attempt, from 1.
        spec_uri: URI of ``spec.json``; the only argument of the driver besides the attempt.
        parallelism: Granted number of parallel partitions, at least 1.
        settings: The service's settings; ``spark`` and the address of S3 are used.
        pod_templates: Content of the file ``settings.spark.pod_template``; None means no templates.

    Raises:
        SubmissionError: "engine_not_configured": namespace or image is not set; "engine_refused": name or template is
            invalid.
    """
    spark = settings.spark
    if spark.namespace is None or spark.image is None:
        missing = "NAMESPACE" if spark.namespace is None else "IMAGE"
        raise SubmissionError(
            "engine_not_configured",
            f"The {missing.lower()} of Spark is not configured.",
            hint=f"Set INGEST_SPARK__{missing} on the service.",
            status=501,
        )
    slots = spread(parallelism, spark.executor_cores)
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name_application(job_id, attempt),
            "namespace": spark.namespace,
            "labels": {
                **dict(label.split("=", 1) for label in spark.labels),
                "app.kubernetes.io/name": "ingestion-engine",
                "app.kubernetes.io/managed-by": "ingestion-engine",
                LABEL_JOB: job_id,
                LABEL_ATTEMPT: str(attempt),
            },
        },
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "sparkVersion": spark.spark_version,
            "image": spark.image,
            "mainApplicationFile": spark.main_file,
            "arguments": ["--spec", spec_uri, "--attempt", str(attempt)],
            "sparkConf": _make_conf(slots),
            "restartPolicy": {
                "type": "OnFailure",
                "onSubmissionFailureRetries": spark.submission_retries,
                "onSubmissionFailureRetryInterval": spark.submission_retry_s,
            },
            "timeToLiveSeconds": spark.ttl_s,
            "driver": {
                "cores": spark.driver_cores,
                "memory": spark.driver_memory,
                "memoryOverhead": spark.driver_memory_overhead,
                **_make_pod(settings, DRIVER_CONTAINER, _pick_template(pod_templates, "driver")),
            },
            "executor": {
                "instances": slots.instances,
                "cores": slots.cores,
                "memory": spark.executor_memory,
                "memoryOverhead": spark.executor_memory_overhead,
                "deleteOnTermination": True,
                **_make_pod(settings, EXECUTOR_CONTAINER, _pick_template(pod_templates, "executor")),
            },
        },
    }
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Return when the operator's models accept the whole manifest. Pure.

    The models drop unknown names; an API server prunes or rejects them too. So the output of the models is compared
    with their input.

    Raises:
        SubmissionError: "engine_refused", with the paths at fault.
    """
    try:
        read = SparkV1beta2SparkApplication.from_dict(dict(manifest))
    except (ValidationError, ValueError) as error:
        raise _refuse([describe_faults(error) if isinstance(error, ValidationError) else str(error)]) from error
    assert read is not None
    lost = sorted(_find_lost(manifest, read.to_dict(), ""))
    if lost:
        raise _refuse([f"{path}: unknown field" for path in lost])


def _refuse(faults: list[str]) -> SubmissionError:
    return SubmissionError(
        "engine_refused",
        f"The SparkApplication would be invalid: {'; '.join(faults)[:500]}.",
        hint="Check the INGEST_SPARK__* settings and the file INGEST_SPARK__POD_TEMPLATE.",
    )


def _find_lost(given: Any, kept: Any, path: str) -> list[str]:
    """Return paths of values in ``given`` that are not the same in ``kept``. Empty collections count as absent."""
    if isinstance(given, Mapping):
        if not isinstance(kept, Mapping):
            return [path] if given else []
        inner = ((str(key), value, kept.get(key)) for key, value in given.items())
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(kept) != len(given):
            return [path] if given else []
        inner = ((str(index), value, kept[index]) for index, value in enumerate(given))
    else:
        return [] if given == kept else [path]
    return [fault for key, value, other in inner for fault in _find_lost(value, other, f"{path}.{key}".lstrip("."))]


def _make_conf(slots: Slots) -> dict[str, str]:
    return {
        # A speculative copy would embed and write everything twice.
        "spark.speculation": "false",
        # The driver retries partitions: it counts deaths and splits a partition that kills its process.
        "spark.task.maxFailures": "1",
        "spark.dynamicAllocation.enabled": "false",
        # Clients and event loop live as long as the Python worker.
        "spark.python.worker.reuse": "true",
        # An object that kills its executor is found and set aside after a few deaths; Spark's own limit (twice the
        # executors, over the whole run) would end the job earlier. Executors that cannot start at all still end it.
        "spark.executor.maxNumFailures": str(max(20, 10 * slots.instances)),
        "spark.executor.failuresValidityInterval": "10m",
    }


def _make_pod(settings: Settings, container: str, template: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return environment, account and template of one role. Pure."""
    spark = settings.spark
    account = {} if spark.service_account is None else {"serviceAccount": spark.service_account}
    environment = _make_environment(settings, spark)
    if template is None:
        return {**account, **environment}
    spec = dict(template.get("spec") or {})
    containers = [dict(item) for item in spec.get("containers") or [{}]]
    # One file may serve both roles, so the first container is Spark's, whatever its name in the file.
    first = {**containers[0], "name": container}
    own = {entry.get("name") for entry in containers[0].get("env") or [] if isinstance(entry, Mapping)}
    if CA_VARIABLE in own:  # the file may be mounted at another path in pods
        environment["env"] = [entry for entry in environment["env"] if entry["name"] != CA_VARIABLE]
    for field, values in environment.items():
        first[field] = [*(containers[0].get(field) or []), *values]
    return {**account, "template": {**template, "spec": {**spec, "containers": [first, *containers[1:]]}}}


def _make_environment(settings: Settings, spark: SparkSettings) -> dict[str, list[dict[str, Any]]]:
    """Return how to reach the state store and a reference to the secrets; everything else is in the spec. Pure."""
    env = [{"name": "INGEST_S3__REGION", "value": settings.s3.region}]
    if settings.tls.ca_file is not None:
        env.append({"name": CA_VARIABLE, "value": str(settings.tls.ca_file.absolute())})
    if settings.s3.server_url is not None:
        env.insert(0, {"name": "INGEST_S3__ENDPOINT_URL", "value": settings.s3.server_url})
    if spark.secret_name is None:
        return {"env": env}
    return {"env": env, "envFrom": [{"secretRef": {"name": spark.secret_name}}]}


def _pick_template(templates: PodTemplates | None, role: str) -> Mapping[str, Any] | None:
    """Return the template of one role. Raises SubmissionError "engine_refused" when it is not a template. Pure."""
    if templates is None:
        return None
    chosen = templates.get(role) if set(templates) <= {"driver", "executor"} else templates
    if chosen is None:
        return None
    spec = chosen.get("spec") if isinstance(chosen, Mapping) else None
    if not isinstance(spec, Mapping) or not set(chosen) <= {"metadata", "spec", "apiVersion", "kind"}:
        raise _refuse([f"{role}.template: a pod template has only metadata and spec"])
    containers = spec.get("containers")
    if containers is not None and not (
        isinstance(containers, list) and all(isinstance(item, Mapping) for item in containers)
    ):
        raise _refuse([f"{role}.template.spec.containers: must be a list of containers"])
    return {key: value for key, value in chosen.items() if key in {"metadata", "spec"}}
