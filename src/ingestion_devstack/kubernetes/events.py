"""Events, which `kubectl describe` shows below an object: core/v1 Events of Kubernetes 1.32."""

from __future__ import annotations

import uuid

from ingestion_devstack.kubernetes.store import Object, ObjectStore
from ingestion_engine.runtime.timestamps import timestamp_now


def record_event(store: ObjectStore, about: Object, *, kind: str, reason: str, message: str) -> None:
    """Add an event about an object; `kind` is Normal or Warning."""
    metadata, now = about["metadata"], timestamp_now()
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
        "source": {"component": "kubelet" if about["kind"] == "Pod" else "spark-application-controller"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    store.put("events", event)


def forget_events(store: ObjectStore, about: Object) -> None:
    """Remove the events about one object; a real cluster removes them after an hour."""
    namespace, uid = about["metadata"]["namespace"], about["metadata"]["uid"]
    for event in list(store.list_objects("events", namespace)):
        if event["involvedObject"]["uid"] == uid:
            store.remove(("events", namespace, event["metadata"]["name"]))
