"""Tables: how `kubectl get` asks for its columns. Pure but for the clock that ages are measured with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ingestion_devstack.kubernetes.errors import Resource
from ingestion_devstack.kubernetes.states import parse_time
from ingestion_devstack.kubernetes.store import Object


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    path: str
    """Dotted path in the object."""
    kind: str = "string"
    """`date` becomes an age, `boolean` stays one."""
    priority: int = 0


_NAME: Final = _Column("Name", "metadata.name")
_AGE: Final = _Column("Age", "metadata.creationTimestamp", "date")
_COLUMNS: Final[dict[str, tuple[_Column, ...]]] = {
    # The columns of the operator's CRD.
    "sparkapplications": (
        _NAME,
        _Column("Suspend", "spec.suspend", "boolean"),
        _Column("Status", "status.applicationState.state"),
        _Column("Attempts", "status.executionAttempts"),
        _Column("Start", "status.lastSubmissionAttemptTime"),
        _Column("Finish", "status.terminationTime"),
        _AGE,
    ),
    "pods": (
        _NAME,
        _Column("Ready", "", "ready"),
        _Column("Status", "", "pod"),
        _Column("Restarts", "", "zero"),
        _AGE,
        _Column("IP", "status.podIP", priority=1),
        _Column("Node", "spec.nodeName", priority=1),
    ),
    "events": (
        _Column("Last Seen", "lastTimestamp", "date"),
        _Column("Type", "type"),
        _Column("Reason", "reason"),
        _Column("Object", "", "involved"),
        _Column("Message", "message"),
    ),
    "namespaces": (_NAME, _Column("Status", "status.phase"), _AGE),
}


def make_table(resource: Resource, items: Iterable[Object], metadata: dict[str, Any], *, head: bool = True) -> Object:
    """A `Table` of objects; without `head` its columns are left out, as in all but the first event of a watch."""
    columns = _COLUMNS[resource.plural]
    definitions = [
        {
            "name": column.name,
            "type": column.kind if column.kind in ("boolean", "date") else "string",
            "format": "name" if column is _NAME else "",
            "description": column.path or column.name,
            "priority": column.priority,
        }
        for column in columns
    ]
    rows = [
        {
            "cells": [_cell(column, item) for column in columns],
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": item["metadata"],
            },
        }
        for item in items
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions if head else None,
        "rows": rows,
    }


def _cell(column: _Column, item: Object) -> Any:
    if column.kind == "ready":
        containers = item["status"].get("containerStatuses", [])
        return f"{sum(container['ready'] for container in containers)}/{len(item['spec']['containers'])}"
    if column.kind == "pod":
        return _pod_status(item)
    if column.kind == "zero":
        return "0"
    if column.kind == "involved":
        return f"{item['involvedObject']['kind'].lower()}/{item['involvedObject']['name']}"
    value: Any = item
    for step in column.path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if column.kind == "date":
        return _age(value)
    return value if value is None or column.kind == "boolean" else str(value)


def _pod_status(pod: Object) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for container in pod["status"].get("containerStatuses", []):
        state = container["state"].get("waiting") or container["state"].get("terminated")
        if state:
            return str(state["reason"])
    return str(pod["status"]["phase"])


def _age(text: str | None) -> str:
    """Short and human, in the steps of k8s.io/apimachinery's duration.HumanDuration."""
    moment = parse_time(text)
    if moment is None:
        return "<unknown>"
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d"
