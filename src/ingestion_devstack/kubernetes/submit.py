"""From a SparkApplication to its driver pod: a `spark-submit` command line in local mode.

The executors run inside the driver's process: `local[instances x cores, task failures]`. The pod holds references to
secrets, never their values. What a single machine cannot give (volumes, node selectors, images, ...) is named in the
pod's annotation and in the first lines of the driver's log instead of being dropped in silence.

Main files: `local:///path` and `file:///path` mean, in this order, what `--file /path=REAL` says, the file
`DATA_DIR/image/path`, the file `/path` of this machine. A file that is not there fails in the driver, as in a real
image: Python ends with exit code 2.
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

from ingestion_devstack.kubernetes.admission import is_subdomain
from ingestion_devstack.kubernetes.errors import Resource
from ingestion_devstack.kubernetes.find_spark import SparkMissingError, find_java, find_spark
from ingestion_devstack.kubernetes.states import DRIVER_CONTAINER, driver_pod_name, rfc3339
from ingestion_devstack.kubernetes.store import Object

NOTES: Final = "devstack.ingestion-engine/not-applied"
"""Annotation of driver pods: the fields of the manifest that have no effect on one machine."""
APP_LABEL: Final = "sparkoperator.k8s.io/app-name"
SUBMISSION_LABEL: Final = "sparkoperator.k8s.io/submission-id"
ID_LABEL: Final = "spark-app-selector"

_JAVA_OPTIONS: Final = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
"""A session was up in 6 s instead of 20 s on two busy cores, in the memory that one collector thread needs."""
_TASK_FAILURES: Final = 4
"""Default of `spark.task.maxFailures` on a cluster; plain local mode would not retry at all."""
_LOCAL_CONF: Final = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}
_MEMORY: Final = re.compile(r"([0-9]+)(|b|kb?|mb?|gb?|tb?)", re.IGNORECASE)
_MEGABYTES: Final = {"": 2**-20, "b": 2**-20, "k": 2**-10, "m": 1.0, "g": 2.0**10, "t": 2.0**20}
_ENVIRONMENT: Final = frozenset({"cores", "memory", "env", "envFrom", "envVars", "envSecretKeyRefs"})
_APPLIED_DRIVER: Final = _ENVIRONMENT | {
    *("javaOptions", "labels", "annotations", "podName", "template", "terminationGracePeriodSeconds")
}
_APPLIED_EXECUTOR: Final = _ENVIRONMENT | {"instances"}
_APPLIED: Final = frozenset(
    {
        *("type", "sparkVersion", "mode", "mainApplicationFile", "arguments", "sparkConf", "hadoopConf", "deps"),
        *("driver", "executor", "restartPolicy", "timeToLiveSeconds", "suspend", "dynamicAllocation"),
    }
)
"""Fields that have an effect here; all others are named in the pod's annotation and log."""


class SubmissionRefusedError(Exception):
    """`spark-submit` would fail; the message is what the operator would report of it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a driver finds here."""

    data_dir: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    """Real files by their path in the image."""
    java_home: Path | None = None
    """The only Java to look at; None: search (see `find_spark`)."""
    max_cores: int = 16
    """Bound of executors x cores: each is a Python process of about 50 MB while it works."""
    max_memory_mb: int = 1024
    """Bound of the driver's heap."""

    def real_path(self, uri: str) -> Path:
        """The file behind a path of the manifest.

        Raises:
            SubmissionRefusedError: it would have to be downloaded.
        """
        parts = urlsplit(uri)
        if parts.scheme not in ("", "local", "file"):
            raise SubmissionRefusedError(f"the stand-in runs files of the image (local://), not {uri}")
        path = unquote(parts.path)
        if path in self.files:
            return self.files[path]
        inside = self.data_dir / "image" / path.lstrip("/")
        return inside if inside.is_file() else Path(path)


def build_driver_pod(app: Object, machine: Machine) -> Object:
    """The driver pod of an application, in phase Pending; pure but for looking at the machine.

    Raises:
        SubmissionRefusedError: Java or Spark is missing, or the manifest asks for what cannot be run here.
    """
    metadata, spec = app["metadata"], app["spec"]
    driver = spec["driver"]
    owner = {"apiVersion": app["apiVersion"], "kind": app["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    labels = {
        **(metadata.get("labels") or {}),
        **(driver.get("labels") or {}),
        APP_LABEL: metadata["name"],
        SUBMISSION_LABEL: app["status"]["submissionID"],
        ID_LABEL: f"spark-{uuid.uuid4().hex}",
        "sparkoperator.k8s.io/launched-by-spark-operator": "true",
        "spark-role": "driver",
        "spark-version": spec["sparkVersion"],
    }
    name, notes = driver_pod_name(app), sorted(_not_applied(spec))
    if not is_subdomain(name):
        raise SubmissionRefusedError(f'Pod "{name}" is invalid: metadata.name: Invalid value: "{name}"')
    container = {
        "name": DRIVER_CONTAINER,
        "image": driver.get("image") or spec.get("image") or "stand-in",
        "command": build_command(app, machine),
        "env": _environment(spec),
        "envFrom": _sources(spec),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "uid": str(uuid.uuid4()),
            "creationTimestamp": rfc3339(datetime.now(UTC)),
            "labels": labels,
            "annotations": {**(driver.get("annotations") or {}), **({NOTES: ", ".join(notes)} if notes else {})},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": driver.get("terminationGracePeriodSeconds", 30),
            "nodeName": "localhost",
        },
        "status": pending_status(container, "ContainerCreating", ""),
    }


def pending_status(container: Mapping[str, Any], reason: str, message: str) -> dict[str, Any]:
    """The status of a pod whose container waits."""
    waiting = {"reason": reason, **({"message": message} if message else {})}
    return {"phase": "Pending", "containerStatuses": [container_status(container, {"waiting": waiting}, ready=False)]}


def container_status(container: Mapping[str, Any], state: dict[str, Any], *, ready: bool) -> dict[str, Any]:
    """One entry of `containerStatuses`."""
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
    """The `spark-submit` command line.

    Raises:
        SubmissionRefusedError: as `build_driver_pod`.
    """
    spec, conf = app["spec"], dict(app["spec"].get("sparkConf") or {})
    if spec["type"] != "Python":
        raise SubmissionRefusedError(f"the stand-in runs applications of type Python, not {spec['type']}")
    try:
        find_java(machine.java_home)
        submit = find_spark() / "bin" / "spark-submit"
    except SparkMissingError as error:
        raise SubmissionRefusedError(str(error)) from error
    deps = spec.get("deps") or {}
    unsupported = sorted(name for name, value in deps.items() if value and name not in ("pyFiles", "files", "jars"))
    if unsupported:
        raise SubmissionRefusedError(f"the stand-in fetches nothing: deps.{unsupported[0]}")
    options = []
    for option, name in (("--py-files", "pyFiles"), ("--files", "files"), ("--jars", "jars")):
        if deps.get(name):
            options += [option, ",".join(str(machine.real_path(uri)) for uri in deps[name])]
    own_options = [spec["driver"].get("javaOptions"), conf.pop("spark.driver.extraJavaOptions", None)]
    java_options = " ".join(filter(None, [_JAVA_OPTIONS, *own_options]))
    wanted = {
        **{key: value for key, value in conf.items() if not key.startswith("spark.kubernetes.")},
        **{f"spark.hadoop.{key}": value for key, value in (spec.get("hadoopConf") or {}).items()},
        **_LOCAL_CONF,
    }
    failures = conf.get("spark.task.maxFailures", _TASK_FAILURES)
    return [
        str(submit),
        *("--master", f"local[{_parallelism(spec, conf, machine)},{failures}]"),
        *("--name", app["metadata"]["name"]),
        *("--driver-memory", f"{_memory_mb(spec, conf, machine)}m"),
        *("--driver-java-options", java_options),
        *(part for key, value in wanted.items() for part in ("--conf", f"{key}={value}")),
        *options,
        str(machine.real_path(spec["mainApplicationFile"])),
        *(spec.get("arguments") or []),
    ]


def _parallelism(spec: dict[str, Any], conf: Mapping[str, str], machine: Machine) -> int:
    """Executors x cores as the manifest says, up to the machine's bound."""
    executor, allocation = spec["executor"], spec.get("dynamicAllocation") or {}
    instances = executor.get("instances") or allocation.get("maxExecutors") or conf.get("spark.executor.instances")
    cores = executor.get("cores") or conf.get("spark.executor.cores")
    return max(1, min(int(instances or 1) * int(cores or 1), machine.max_cores))


def _memory_mb(spec: dict[str, Any], conf: Mapping[str, str], machine: Machine) -> int:
    text = str(spec["driver"].get("memory") or conf.get("spark.driver.memory", "1g"))
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise SubmissionRefusedError(f"java.lang.NumberFormatException: Failed to parse byte string: {text}")
    return min(machine.max_memory_mb, max(512, int(int(found[1]) * _MEGABYTES[found[2][:1].lower()])))


def _environment(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The variables of both roles, later entries winning: the driver's over the executors', `env` over older forms."""
    entries: list[dict[str, Any]] = []
    for role in ("executor", "driver"):
        pod = spec[role]
        entries += [{"name": name, "value": value} for name, value in (pod.get("envVars") or {}).items()]
        for name, reference in (pod.get("envSecretKeyRefs") or {}).items():
            entries.append({"name": name, "valueFrom": {"secretKeyRef": dict(reference)}})
        entries += pod.get("env") or []
    return [*entries, *_templated(spec["driver"], "env")]


def _sources(spec: dict[str, Any]) -> list[dict[str, Any]]:
    roles = [entry for role in ("executor", "driver") for entry in spec[role].get("envFrom") or []]
    return [*roles, *_templated(spec["driver"], "envFrom")]


def _templated(driver: dict[str, Any], name: str) -> list[dict[str, Any]]:
    containers = ((driver.get("template") or {}).get("spec") or {}).get("containers") or []
    return [entry for c in containers if c.get("name") == DRIVER_CONTAINER for entry in c.get(name) or []]


def _not_applied(spec: dict[str, Any]) -> set[str]:
    fields = {f"spec.{name}" for name in spec if name not in _APPLIED}
    for role, applied in (("driver", _APPLIED_DRIVER), ("executor", _APPLIED_EXECUTOR)):
        fields |= {f"spec.{role}.{name}" for name in spec[role] if name not in applied}
    for name in (spec["driver"].get("template") or {}).get("spec") or {}:
        if name != "containers":
            fields.add(f"spec.driver.template.spec.{name}")
    return fields


PODS: Final = Resource(
    "", "v1", "pods", "pod", "Pod", ("get", "list", "watch", "delete"), short_names=("po",), subresources=("log",)
)
