"""From a SparkApplication to its driver pod: a `spark-submit` command line in local mode.

Imitates Spark operator 2.5.2, `internal/controller/sparkapplication/submission.go`, and the pod that Spark 4 makes in
cluster mode. The executors run inside the driver's process: `local[instances x cores, task failures]`. The pod holds
references to secrets, never their values. Fields that a single machine cannot apply (volumes, node selectors, images,
...) are named in the pod's annotation and in the first line of the driver's log.

Main files: `local:///path` means the file given by `--file /path=REAL`, else the file `/path` of this machine. A
missing file fails in the driver, as in a real image: Python ends with exit code 2.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ingestion_devstack.kubernetes.find_spark import SparkMissingError, find_java, find_spark
from ingestion_devstack.kubernetes.states import driver_pod_name
from ingestion_devstack.kubernetes.store import Object
from ingestion_engine.runtime.timestamps import timestamp_now

DRIVER_CONTAINER: Final = "spark-kubernetes-driver"
GRACE_S: Final = 30
"""Default of a pod's `terminationGracePeriodSeconds`."""
NOTES: Final = "devstack.ingestion-engine/not-applied"
"""Annotation of driver pods: the fields of the manifest that have no effect on one machine."""
APP_LABEL: Final = "sparkoperator.k8s.io/app-name"
SUBMISSION_LABEL: Final = "sparkoperator.k8s.io/submission-id"
ID_LABEL: Final = "spark-app-selector"

_JAVA_OPTIONS: Final = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
"""A session started in 6 s instead of 20 s on two busy cores, with the memory of one collector thread."""
_TASK_FAILURES: Final = 4
"""Default of `spark.task.maxFailures` on a cluster; plain local mode would not retry at all."""
_LOCAL_CONF: Final = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}
_CLIENT_EXCEPTION: Final = "io.fabric8.kubernetes.client.KubernetesClientException"
_SUBMIT_FRAMES: Final = (
    "\tat org.apache.spark.deploy.SparkSubmit.doSubmit(SparkSubmit.scala:95)",
    "\tat org.apache.spark.deploy.SparkSubmit$.main(SparkSubmit.scala:1180)",
    "\tat org.apache.spark.deploy.SparkSubmit.main(SparkSubmit.scala)",
)
_THREAD_FRAMES: Final = (
    "\tat io.netty.util.concurrent.FastThreadLocalRunnable.run(FastThreadLocalRunnable.java:30)",
    "\tat java.base/java.lang.Thread.run(Thread.java:840)",
)
_ACCOUNTS: Final = frozenset({"default", "spark"})
"""Service accounts that exist: Kubernetes's own, and the one that Spark's documentation creates."""
_MEMORY: Final = re.compile(r"([0-9]+)(|b|kb?|mb?|gb?|tb?)", re.IGNORECASE)
_MEGABYTES: Final = {"": 2**-20, "b": 2**-20, "k": 2**-10, "m": 1.0, "g": 2.0**10, "t": 2.0**20}
_MAX_CORES: Final = 16
"""Bound of executors x cores: each is a Python process of about 50 MB while it works."""
_MAX_MEMORY_MB: Final = 1024
"""Bound of the driver's heap."""
_APPLIED_DRIVER: Final = frozenset({"cores", "memory", "env", "envFrom", "template"})
_APPLIED_EXECUTOR: Final = frozenset({"cores", "memory", "env", "envFrom", "instances"})
_APPLIED: Final = frozenset(
    {
        *("type", "sparkVersion", "mode", "mainApplicationFile", "arguments", "sparkConf"),
        *("driver", "executor", "restartPolicy", "timeToLiveSeconds"),
    }
)
"""Fields that have an effect here; all others are named in the pod's annotation and log."""


class SubmissionRefusedError(Exception):
    """`spark-submit` would fail; the message is that of the exception that ends it.

    Args:
        message: The exception's text.
        kind: The exception's class.
    """

    def __init__(self, message: str, *, kind: str = "org.apache.spark.SparkException") -> None:
        super().__init__(message)
        self.kind = kind

    def trace(self) -> str:
        """What `spark-submit` writes to stderr: a log and a stack trace whose last line is a frame (Spark 4.3)."""
        now = datetime.now(UTC).strftime("%y/%m/%d %H:%M:%S")
        thrown = f"{self.kind}: {self}"
        wrapped = [f"Caused by: {thrown}", *_THREAD_FRAMES] if self.kind == _CLIENT_EXCEPTION else []
        lines = [
            "WARNING: Using incubator modules: jdk.incubator.vector",
            f"{now} WARN NativeCodeLoader: Unable to load native-hadoop library for your platform...",
            f'Exception in thread "main" {thrown}',
            *_SUBMIT_FRAMES,
            *wrapped,
        ]
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Machine:
    """Files that a driver finds on this machine."""

    data_dir: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    """Real files by their path in the image."""
    java_home: Path | None = None
    """The only Java to check; None means search (see `find_spark`)."""

    def real_path(self, uri: str) -> Path:
        """Return the file behind a path of the manifest.

        Raises:
            SubmissionRefusedError: it would have to be downloaded.
        """
        parts = urlsplit(uri)
        if parts.scheme != "local":
            raise SubmissionRefusedError(f"the stand-in runs files of the image (local://), not {uri}")
        path = unquote(parts.path)
        return self.files.get(path, Path(path))


def build_driver_pod(app: Object, machine: Machine) -> Object:
    """Return the driver pod of an application, in phase Pending; reads nothing but where Java and Spark are.

    Raises:
        SubmissionRefusedError: Java or Spark is missing, or the manifest cannot be run here.
    """
    metadata, spec = app["metadata"], app["spec"]
    owner = {"apiVersion": app["apiVersion"], "kind": app["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    labels = {
        **(metadata.get("labels") or {}),
        APP_LABEL: metadata["name"],
        SUBMISSION_LABEL: app["status"]["submissionID"],
        ID_LABEL: f"spark-{uuid.uuid4().hex}",
        "sparkoperator.k8s.io/launched-by-spark-operator": "true",
        "spark-role": "driver",
        "spark-version": spec["sparkVersion"],
    }
    name, notes = driver_pod_name(app), sorted(_not_applied(spec))
    container = {
        "name": DRIVER_CONTAINER,
        "image": spec.get("image") or "stand-in",
        "command": build_command(app, machine),
        "env": _environment(spec, "env"),
        "envFrom": _environment(spec, "envFrom"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "uid": str(uuid.uuid4()),
            "creationTimestamp": timestamp_now(),
            "labels": labels,
            "annotations": {NOTES: ", ".join(notes)} if notes else {},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_S,
            "nodeName": "localhost",
        },
        "status": pending_status(container, "ContainerCreating", ""),
    }


def pending_status(container: Mapping[str, Any], reason: str, message: str) -> dict[str, Any]:
    """Return the status of a pod whose container waits."""
    waiting = {"reason": reason, **({"message": message} if message else {})}
    return {"phase": "Pending", "containerStatuses": [container_status(container, {"waiting": waiting}, ready=False)]}


def container_status(container: Mapping[str, Any], state: dict[str, Any], *, ready: bool) -> dict[str, Any]:
    """Return one entry of `containerStatuses`."""
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "started": ready,
        "state": state,
    }


def build_command(app: Object, machine: Machine) -> list[str]:
    """Return the `spark-submit` command line.

    Raises:
        SubmissionRefusedError: as `build_driver_pod`.
    """
    spec, conf = app["spec"], dict(app["spec"].get("sparkConf") or {})
    _check_account(app)
    driver_memory_mb = _memory_mb("Driver", spec["driver"]["memory"])
    _memory_mb("Executor", spec["executor"]["memory"])
    if spec["type"] != "Python":
        raise SubmissionRefusedError(f"the stand-in runs applications of type Python, not {spec['type']}")
    try:
        find_java(machine.java_home)
        submit = find_spark() / "bin" / "spark-submit"
    except SparkMissingError as error:
        raise SubmissionRefusedError(str(error)) from error
    java_options = " ".join(filter(None, [_JAVA_OPTIONS, conf.pop("spark.driver.extraJavaOptions", None)]))
    wanted = {
        **{key: value for key, value in conf.items() if not key.startswith("spark.kubernetes.")},
        **_LOCAL_CONF,
    }
    executor = spec["executor"]
    parallelism = max(1, min(executor["instances"] * executor["cores"], _MAX_CORES))
    failures = conf.get("spark.task.maxFailures", _TASK_FAILURES)
    return [
        str(submit),
        *("--master", f"local[{parallelism},{failures}]"),
        *("--name", app["metadata"]["name"]),
        *("--driver-memory", f"{driver_memory_mb}m"),
        *("--driver-java-options", java_options),
        *(part for key, value in wanted.items() for part in ("--conf", f"{key}={value}")),
        str(machine.real_path(spec["mainApplicationFile"])),
        *(spec.get("arguments") or []),
    ]


def _check_account(app: Object) -> None:
    """Raise what the API server answers to the driver's pod when its service account does not exist."""
    account, namespace = app["spec"]["driver"].get("serviceAccount") or "default", app["metadata"]["namespace"]
    if account in _ACCOUNTS:
        return
    refusal = (
        f'pods "{driver_pod_name(app)}" is forbidden: error looking up service account {namespace}/{account}: '
        f'serviceaccount "{account}" not found'
    )
    status = f"Status(apiVersion=v1, code=403, kind=Status, message={refusal}, reason=Forbidden, status=Failure)"
    url = f"https://127.0.0.1/api/v1/namespaces/{namespace}/pods"
    message = f"Failure executing: POST at: {url}. Message: {refusal}. Received status: {status}."
    raise SubmissionRefusedError(message, kind=_CLIENT_EXCEPTION)


def _memory_mb(role: str, text: str) -> int:
    found = _MEMORY.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise SubmissionRefusedError(f"{role} memory must be a positive number")
    return min(_MAX_MEMORY_MB, max(512, int(int(found[1]) * _MEGABYTES[found[2][:1].lower()])))


def _environment(spec: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """`env` or `envFrom` of both roles and of the driver's template; later entries win."""
    entries = [entry for role in ("executor", "driver") for entry in spec[role].get(name) or []]
    return [*entries, *_templated(spec["driver"], name)]


def _templated(driver: dict[str, Any], name: str) -> list[dict[str, Any]]:
    containers = ((driver.get("template") or {}).get("spec") or {}).get("containers") or []
    return [entry for c in containers if c.get("name") == DRIVER_CONTAINER for entry in c.get(name) or []]


def _not_applied(spec: dict[str, Any]) -> set[str]:
    fields = {f"spec.{name}" for name in spec if name not in _APPLIED}
    fields |= {f"spec.sparkConf.{name}" for name in spec.get("sparkConf") or {} if name.startswith("spark.kubernetes.")}
    for role, applied in (("driver", _APPLIED_DRIVER), ("executor", _APPLIED_EXECUTOR)):
        fields |= {f"spec.{role}.{name}" for name in spec[role] if name not in applied}
    for name in (spec["driver"].get("template") or {}).get("spec") or {}:
        if name != "containers":
            fields.add(f"spec.driver.template.spec.{name}")
    return fields
