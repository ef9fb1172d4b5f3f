"""The table of SparkApplications that `kubectl get` asks for. Pure except for the clock behind the column Age.

Columns are those of the operator's CRD (Spark operator 2.5.2, `api/v1beta2/sparkapplication_types.go`, printcolumn
markers). The form is Kubernetes 1.32's `meta.k8s.io/v1` Table. Other resources are answered without a table; kubectl
then prints names and ages by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from ingestion_devstack.kubernetes.states import parse_time
from ingestion_devstack.kubernetes.store import Object

_COLUMNS: Final = {
    "Name": "metadata.name",
    "Suspend": "spec.suspend",
    "Status": "status.applicationState.state",
    "Attempts": "status.executionAttempts",
    "Start": "status.lastSubmissionAttemptTime",
    "Finish": "status.terminationTime",
    "Age": "metadata.creationTimestamp",
}
"""Column to dotted path in the object."""


def make_table(items: Iterable[Object], metadata: dict[str, Any]) -> Object:
    """Return a `Table` of SparkApplications."""
    types = {"Suspend": "boolean", "Age": "date"}
    definitions = [
        {
            "name": name,
            "type": types.get(name, "string"),
            "format": "name" if name == "Name" else "",
            "description": path,
            "priority": 0,
        }
        for name, path in _COLUMNS.items()
    ]
    rows = [
        {
            "cells": [_cell(name, path, item) for name, path in _COLUMNS.items()],
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": item["metadata"],
            },
        }
        for item in items
    ]
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return {**head, "columnDefinitions": definitions, "rows": rows}


def _cell(name: str, path: str, item: Object) -> Any:
    value: Any = item
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if name == "Age":
        return _age(value)
    return value if value is None or isinstance(value, bool) else str(value)


def _age(text: str) -> str:
    """An age in one unit; k8s.io/apimachinery's `duration.HumanDuration` adds a second one to some ages."""
    created = parse_time(text)
    seconds = max(0, int((datetime.now(UTC) - created).total_seconds())) if created else 0
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 180 * 60:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 48 * 3600 else f"{seconds // 86_400}d"
