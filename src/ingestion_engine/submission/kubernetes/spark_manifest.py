"""The SparkApplication of one attempt: a pure function of job, attempt and settings.

What is in it and who reads it is written down field by field in ``docs/spark-manifest.md``. Rules it keeps (Spark
operator 2.5.2, read in its source):

- The webhook refuses names that are not DNS-1035 labels, and ``sparkConf`` keys that name the master, an image, a
  service account, a token or another namespace: those are fields here, or left to the operator.
- ``restartPolicy`` retries failed submissions only. ``onFailureRetries`` is absent, so the operator never reruns a
  driver.
- ``env``, ``envFrom``, ``tolerations`` and the like of driver and executor are put into pods by the operator's
  webhook; a pod template is given to Spark itself. With a template everything goes into the template, so that nothing
  depends on both.
- Secrets are named, never held: ``envFrom`` refers to one Kubernetes secret.
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
from ingestion_engine.runtime.settings import Settings, SparkSettings
from ingestion_engine.runtime.validation import describe_faults
from ingestion_engine.submission.kubernetes.pod_templates import PodTemplates

API_VERSION: Final = "sparkoperator.k8s.io/v1beta2"
KIND: Final = "SparkApplication"

LABEL_JOB: Final = "ingestion-engine/job-id"
LABEL_ATTEMPT: Final = "ingestion-engine/attempt"

DRIVER_CONTAINER: Final = "spark-kubernetes-driver"
"""What operator and Spark call the driver's container, in templates and in pods."""
EXECUTOR_CONTAINER: Final = "spark-kubernetes-executor"

LONGEST_NAME: Final = 63 - len("-driver")
"""The driver's pod is named after the application, and is a DNS label too."""

_DNS_1035: Final = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Slots:
    """How a job's parallel partitions are spread over executors."""

    instances: int
    cores: int


def spread(parallelism: int, cores: int) -> Slots:
    """Return the fewest executors of at most ``cores`` slots that hold ``parallelism`` partitions, spread evenly. Pure.

    ``instances * cores >= parallelism``, and less than one slot per executor is left over.
    """
    instances = math.ceil(parallelism / cores)
    return Slots(instances, math.ceil(parallelism / instances))


def name_application(job_id: str, attempt: int) -> str:
    """Return the name of an attempt's SparkApplication, a DNS-1035 label with room for ``-driver``. Pure, injective.

    Raises:
        SubmissionError: "engine_refused": this job id can be no part of a name in Kubernetes.
    """
    name = f"{job_id}-{attempt:02d}"
    if len(name) > LONGEST_NAME or not _DNS_1035.match(name):
        raise SubmissionError(
            "engine_refused", f"{name!r} cannot be the name of a SparkApplication", hint="it must be a DNS-1035 label"
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
        job_id: The job; its label and the root of the application's name.
        attempt: From 1.
        spec_uri: Where the driver finds ``spec.json``; its only argument beside the attempt.
        parallelism: Partitions at once, as granted; at least 1.
        settings: ``spark``, and the address of S3.
        pod_templates: What ``settings.spark.pod_template`` holds; None means none.

    Raises:
        SubmissionError: "engine_not_configured": namespace or image is not set; "engine_refused": name or template is
            no such thing.
    """
    spark = settings.spark
    if spark.namespace is None or spark.image is None:
        missing = "NAMESPACE" if spark.namespace is None else "IMAGE"
        raise SubmissionError(
            "engine_not_configured",
            f"this service does not know Spark's {missing.lower()}",
            hint=f"set INGEST_SPARK__{missing}",
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
    """Return when the operator's models accept the manifest and lose nothing of it. Pure.

    The models drop names that they do not know; an API server prunes or refuses those too. So what the models give back
    is compared with what they were given.

    Raises:
        SubmissionError: "engine_refused", naming the paths at fault.
    """
    try:
        read = SparkV1beta2SparkApplication.from_dict(dict(manifest))
    except (ValidationError, ValueError) as error:
        raise _refuse([describe_faults(error) if isinstance(error, ValidationError) else str(error)]) from error
    assert read is not None
    lost = sorted(_find_lost(manifest, read.to_dict(), ""))
    if lost:
        raise _refuse([f"{path}: unknown" for path in lost])


def _refuse(faults: list[str]) -> SubmissionError:
    return SubmissionError(
        "engine_refused",
        "this would be no valid SparkApplication: " + "; ".join(faults)[:500],
        hint="check INGEST_SPARK__* and the file named by INGEST_SPARK__POD_TEMPLATE",
    )


def _find_lost(given: Any, kept: Any, path: str) -> list[str]:
    """Paths of what is in ``given`` but not, or otherwise, in ``kept``. Empty collections count as absent."""
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
        # Retries of partitions are the driver's: it counts deaths and takes a deadly partition apart.
        "spark.task.maxFailures": "1",
        "spark.dynamicAllocation.enabled": "false",
        # Clients and event loop live as long as the Python worker.
        "spark.python.worker.reuse": "true",
        # An object that kills its executor is found and set aside after a few deaths; Spark's own limit (twice the
        # executors, over the whole run) would end the job before. Executors that cannot start at all still end it.
        "spark.executor.maxNumFailures": str(max(20, 10 * slots.instances)),
        "spark.executor.failuresValidityInterval": "10m",
    }


def _make_pod(settings: Settings, container: str, template: Mapping[str, Any] | None) -> dict[str, Any]:
    """Environment, account and template of one role."""
    spark = settings.spark
    account = {} if spark.service_account is None else {"serviceAccount": spark.service_account}
    environment = _make_environment(settings, spark)
    if template is None:
        return {**account, **environment}
    spec = dict(template.get("spec") or {})
    containers = [dict(item) for item in spec.get("containers") or [{}]]
    # One file serves both roles, so the first container is Spark's, whatever it is called there.
    first = {**containers[0], "name": container}
    for field, values in environment.items():
        first[field] = [*(containers[0].get(field) or []), *values]
    return {**account, "template": {**template, "spec": {**spec, "containers": [first, *containers[1:]]}}}


def _make_environment(settings: Settings, spark: SparkSettings) -> dict[str, list[dict[str, Any]]]:
    """The address of the state store, and a reference to the secrets: all else is in the spec."""
    env = [{"name": "INGEST_S3__REGION", "value": settings.s3.region}]
    if settings.s3.endpoint_url is not None:
        env.insert(0, {"name": "INGEST_S3__ENDPOINT_URL", "value": settings.s3.endpoint_url})
    if spark.secret_name is None:
        return {"env": env}
    return {"env": env, "envFrom": [{"secretRef": {"name": spark.secret_name}}]}


def _pick_template(templates: PodTemplates | None, role: str) -> Mapping[str, Any] | None:
    """The template of one role. Raises SubmissionError "engine_refused" when it is no template."""
    if templates is None:
        return None
    chosen = templates.get(role) if set(templates) <= {"driver", "executor"} else templates
    if chosen is None:
        return None
    spec = chosen.get("spec") if isinstance(chosen, Mapping) else None
    if not isinstance(spec, Mapping) or not set(chosen) <= {"metadata", "spec", "apiVersion", "kind"}:
        raise _refuse([f"{role}.template: a pod template has metadata and spec"])
    containers = spec.get("containers")
    if containers is not None and not (
        isinstance(containers, list) and all(isinstance(item, Mapping) for item in containers)
    ):
        raise _refuse([f"{role}.template.spec.containers: a list of containers"])
    return {key: value for key, value in chosen.items() if key in {"metadata", "spec"}}
