"""Why a driver's pod does not start, and why it ended: read from its status and its events. Pure.

Reasons and messages are those of Kubernetes 1.34: the kubelet (``pkg/kubelet/images/types.go``,
``pkg/kubelet/kuberuntime/kuberuntime_container.go``, ``pkg/kubelet/events/event.go``), the scheduler, and evictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ingestion_engine.submission.causes import shorten
from ingestion_engine.submission.kubernetes.spark_manifest import DRIVER_CONTAINER

_STARTING: Final = frozenset({"ContainerCreating", "PodInitializing", ""})
"""Reasons of a container that waits for nothing unusual; what keeps it is in the pod's events, if anything."""

_IMAGE_HINT: Final = "Check INGEST_SPARK__IMAGE, and the pull secrets of the service account."
_HINTS: Final = {
    "CreateContainerConfigError": "Create what is missing, or correct the setting; Kubernetes tries again by itself.",
    "ErrImagePull": _IMAGE_HINT,
    "ImagePullBackOff": _IMAGE_HINT,
    "ErrImageNeverPull": _IMAGE_HINT,
    "ImageInspectError": _IMAGE_HINT,
    "InvalidImageName": "Correct INGEST_SPARK__IMAGE.",
    "Unschedulable": "Check INGEST_SPARK__DRIVER_* and the pod template against the nodes that are free.",
    "FailedMount": "Create what is missing, or correct the pod template; Kubernetes tries again by itself.",
}
"""By the reason of a container, of a condition or of an event."""

_NEVER: Final = frozenset({"InvalidImageName"})
"""Reasons that nothing outside the pod can remove."""

_EVICTED: Final = "DisruptionTarget"
"""Type of the condition of a pod that is ended for the sake of others or with its node."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a pod from starting, or what has ended it."""

    reason: str
    """Kubernetes's own word."""
    message: str
    hint: str = ""
    is_permanent: bool = False
    """True when waiting cannot help."""

    def __str__(self) -> str:
        """The obstacle as one sentence."""
        text = f"{self.reason}: {self.message}" if self.message else self.reason
        return f"{text.rstrip('.')}."


@dataclass(frozen=True, slots=True)
class Pod:
    """The parts of a pod that tell why it does not run."""

    name: str
    uid: str
    created_at: datetime | None
    status: Mapping[str, Any]


def find_obstacle(pod: Pod) -> Obstacle | None:
    """Return what keeps a pod from starting, by its status alone; None when nothing unusual shows in it. Pure."""
    for condition in pod.status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _make(condition)
    waiting = [state["waiting"] for state in _list_states(pod) if state.get("waiting")]
    return next((_make(state) for state in waiting if state.get("reason", "") not in _STARTING), None)


def find_event(events: Sequence[Mapping[str, Any]]) -> Obstacle | None:
    """Return the newest of a pod's warnings; None when there is none. Pure."""
    return _make(max(events, key=_read_moment)) if events else None


def find_end(pod: Pod) -> Obstacle | None:
    """Return why a pod ended, where its containers' exit codes do not tell it; None otherwise. Pure."""
    if pod.status.get("reason"):
        return _make(pod.status)
    for condition in pod.status.get("conditions") or []:
        if condition.get("type") == _EVICTED and condition.get("status") == "True":
            return _make(condition)
    ended = [state["terminated"] for state in _list_states(pod) if state.get("terminated")]
    return next((_make(state) for state in ended if state.get("exitCode") and state.get("message")), None)


def _list_states(pod: Pod) -> Iterator[Mapping[str, Any]]:
    """Yield the states of all containers: the driver's first, then those that run before it, then the others. Pure."""
    statuses = [*(pod.status.get("initContainerStatuses") or []), *(pod.status.get("containerStatuses") or [])]
    for status in sorted(statuses, key=lambda status: status.get("name") != DRIVER_CONTAINER):
        yield status.get("state") or {}


def _make(source: Mapping[str, Any]) -> Obstacle:
    reason = str(source.get("reason") or "Unknown")
    message = " ".join(str(source.get("message") or "").split())
    return Obstacle(reason, shorten(message), hint=_HINTS.get(reason, ""), is_permanent=reason in _NEVER)


def _read_moment(event: Mapping[str, Any]) -> str:
    """Return when an event was last seen; timestamps of Kubernetes are all UTC, so they sort as texts. Pure."""
    series = event.get("series") or {}
    seen = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next(filter(None, seen), ""))
