"""The loop that drives operator, kubelet and garbage collector: every write of an object queues what depends on it.

The garbage collector imitates that of Kubernetes 1.32 (`pkg/controller/garbagecollector`) for one kind of owner:
background deletion removes an application's pods after it, foreground deletion before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ingestion_devstack.kubernetes.events import forget_events
from ingestion_devstack.kubernetes.kubelet import Kubelet
from ingestion_devstack.kubernetes.operator import APPLICATIONS, Operator, mark_deleted
from ingestion_devstack.kubernetes.store import Change, Key, Object, ObjectStore

_log = logging.getLogger(__name__)

_AFTER_ERROR_S: Final = 5.0
"""Pause before a step that failed unexpectedly is repeated; a guess."""


class Controllers:
    """Runs until cancelled; one object at a time, so no two steps of one object overlap."""

    def __init__(self, store: ObjectStore, operator: Operator, kubelet: Kubelet) -> None:
        self._store = store
        self._operator = operator
        self._kubelet = kubelet
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        store.listen(self._note)

    def enqueue_all(self) -> None:
        """Queue every object."""
        for resource in (APPLICATIONS, "pods"):
            for value in self._store.list_objects(resource, None):
                self._enqueue((resource, value["metadata"]["namespace"], value["metadata"]["name"]))

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        self._kubelet.forget_lost()
        self.enqueue_all()
        while True:
            key = await self._queue.get()
            self._queued.discard(key)
            self._schedule(key, self._sync(key))

    def _sync(self, key: Key) -> float | None:
        step: Callable[[Key], float | None] = self._operator.sync if key[0] == APPLICATIONS else self._kubelet.sync
        try:
            if key[0] == APPLICATIONS:
                self._collect_owner(key)
            else:
                self._collect_orphan(key)
            return step(key)
        except Exception:  # the top of a service loop: one broken object must not stop the others
            _log.exception("a step failed", extra={"object": "/".join(key)})
            return _AFTER_ERROR_S

    def _schedule(self, key: Key, after_s: float | None) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if after_s is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(max(after_s, 0.01), self._enqueue, key)

    def _enqueue(self, key: Key) -> None:
        if key not in self._queued:
            self._queued.add(key)
            self._queue.put_nowait(key)

    def _note(self, change: Change) -> None:
        resource, namespace, _ = change.key
        if resource not in (APPLICATIONS, "pods"):
            return
        self._enqueue(change.key)
        if resource == "pods":
            for owner in change.value["metadata"].get("ownerReferences", []):
                self._enqueue((APPLICATIONS, namespace, owner["name"]))
        elif change.removed:
            for pod in self._owned(change.value):
                self._enqueue(("pods", namespace, pod["metadata"]["name"]))
        if change.removed:
            forget_events(self._store, change.value)

    def _owned(self, app: Object) -> list[Object]:
        uid = app["metadata"]["uid"]
        pods = self._store.list_objects("pods", app["metadata"]["namespace"])
        return [pod for pod in pods if any(o["uid"] == uid for o in pod["metadata"].get("ownerReferences", []))]

    def _collect_owner(self, key: Key) -> None:
        """Remove an application that is being deleted and has no pods left."""
        app = self._store.get(key)
        if app is not None and app["metadata"].get("deletionTimestamp") and not self._owned(app):
            self._store.remove(key)

    def _collect_orphan(self, key: Key) -> None:
        """Begin the deletion of a pod whose owner is gone or is being deleted in the foreground."""
        pod = self._store.get(key)
        if pod is None:
            return
        for owner in pod["metadata"].get("ownerReferences", []):
            app = self._store.get((APPLICATIONS, key[1], owner["name"]))
            if app is None or app["metadata"]["uid"] != owner["uid"] or app["metadata"].get("deletionTimestamp"):
                mark_deleted(self._store, "pods", pod, grace_s=pod["spec"]["terminationGracePeriodSeconds"])
