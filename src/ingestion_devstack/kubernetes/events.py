"""Events: what `kubectl describe` shows below an object."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final

from ingestion_devstack.kubernetes.errors import Resource
from ingestion_devstack.kubernetes.states import rfc3339
from ingestion_devstack.kubernetes.store import Object, ObjectStore

EVENTS: Final = Resource("", "v1", "events", "event", "Event", ("get", "list", "watch"), short_names=("ev",))
_PER_OBJECT: Final = 50
"""Events kept of one object, the newest; a real cluster keeps those of the last hour."""


class EventRecorder:
    """Writes events of the core API."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def record(self, about: Object, kind: str, reason: str, message: str) -> None:
        """Add an event about an object; `kind` is Normal or Warning."""
        metadata, now = about["metadata"], rfc3339(datetime.now(UTC))
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
                "uid": str(uuid.uuid4()),
                "creationTimestamp": now,
            },
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "spark-application-controller"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._store.put("events", event)
        forget_events(self._store, metadata["namespace"], metadata["uid"], keep=_PER_OBJECT)


def forget_events(store: ObjectStore, namespace: str, uid: str, *, keep: int = 0) -> None:
    """Remove the events about one object but for the newest `keep`."""
    about = [event for event in store.select("events", namespace) if event["involvedObject"]["uid"] == uid]
    about.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
    for event in about[: len(about) - keep]:
        store.remove(("events", namespace, event["metadata"]["name"]))
