"""The Spark operator: takes every SparkApplication of the watched namespaces through the operator's states.

Imitates Spark operator 2.5.2, `internal/controller/sparkapplication/controller.go` and `submission.go`, its error texts
and events included. `sync` makes one step and writes it into the object's status; the write itself causes the next
step. The status stays empty until `spark-submit` returns, which takes no time here (a real one took 3 to 19 s).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final

from ingestion_devstack.kubernetes import states
from ingestion_devstack.kubernetes.events import record_event
from ingestion_devstack.kubernetes.faults import FaultPlan
from ingestion_devstack.kubernetes.store import Key, Object, ObjectStore
from ingestion_devstack.kubernetes.submit import ID_LABEL, Machine, SubmissionRefusedError, build_driver_pod
from ingestion_engine.runtime.timestamps import format_seconds, timestamp_now

APPLICATIONS: Final = "sparkapplications"
FOREGROUND: Final = "foregroundDeletion"
"""Finalizer of an application whose pods must be removed first."""
_POD_GRACE_S: Final = 10.0
"""How long a submitted application may be without its driver pod (the operator's driver-pod-creation-grace-period)."""
_POLL_S: Final = 0.1
"""Pause between two checks while a driver pod is being removed."""

_NOTES: Final[dict[str, tuple[str, str, str]]] = {
    states.SUBMITTED: ("Normal", "SparkApplicationSubmitted", "SparkApplication {name} was submitted successfully"),
    states.SUBMISSION_FAILED: (
        "Warning",
        "SparkApplicationSubmissionFailed",
        "failed to submit SparkApplication {name}: {error}",
    ),
    states.COMPLETED: ("Normal", "SparkApplicationCompleted", "SparkApplication {name} completed"),
    states.FAILED: ("Warning", "SparkApplicationFailed", "SparkApplication {name} failed: {error}"),
    states.PENDING_RERUN: ("Warning", "SparkApplicationPendingRerun", "SparkApplication {name} is pending rerun"),
    states.RUNNING: ("Normal", "SparkDriverRunning", "Driver {pod} is running"),
    states.SUCCEEDING: ("Normal", "SparkDriverCompleted", "Driver {pod} completed"),
    states.FAILING: ("Warning", "SparkDriverFailed", "Driver {pod} failed"),
}
"""Type, reason and message of the event that records the entry into a state."""


class Operator:
    """One reconciler over all applications; synchronous, used from the event loop."""

    def __init__(self, store: ObjectStore, machine: Machine, faults: FaultPlan, *, namespaces: Collection[str]) -> None:
        self._store = store
        self._machine = machine
        self._faults = faults
        self._namespaces = frozenset(namespaces)
        self._steps: dict[str, Callable[[Object], float | None]] = {
            states.NEW: self._submit,
            states.SUBMITTED: self._follow_driver,
            states.RUNNING: self._follow_driver,
            states.SUBMISSION_FAILED: self._leave_submission_failed,
            states.PENDING_RERUN: self._submit_when_clear,
            states.SUCCEEDING: self._leave_succeeding,
            states.FAILING: self._leave_failing,
            states.COMPLETED: self._expire,
            states.FAILED: self._expire,
        }

    def sync(self, key: Key) -> float | None:
        """Make one application's next step; return the seconds until the next check, or None."""
        app = self._store.get(key)
        if app is None or key[1] not in self._namespaces:
            return None
        if app["metadata"].get("deletionTimestamp"):
            self._delete_driver(app)
            return None
        return self._steps[states.state_of(app)](app)

    def _submit(self, app: Object) -> float | None:
        if "submissions" in self._faults.hold:
            return None
        status = app.setdefault("status", {})
        status["submissionID"] = str(uuid.uuid4())
        status["driverInfo"] = {"podName": states.driver_pod_name(app)}
        status["lastSubmissionAttemptTime"] = format_seconds(datetime.now(UTC))
        status.setdefault("terminationTime", None)
        status["submissionAttempts"] = status.get("submissionAttempts", 0) + 1
        try:
            pod = build_driver_pod(app, self._machine)
        except SubmissionRefusedError as error:
            # The operator wraps what spark-submit wrote three times.
            twice = "failed to run spark-submit: failed to run spark-submit"
            message = f"failed to submit spark application: {twice}: {error.trace()}"
            return self._enter(app, states.SUBMISSION_FAILED, message)
        if self._driver_pod(app) is not None:
            why = "failed to submit spark application: failed to run spark-submit: driver pod already exist"
            return self._enter(app, states.SUBMISSION_FAILED, why)
        status["executionAttempts"] = status.get("executionAttempts", 0) + 1
        self._store.put("pods", pod)
        return self._enter(app, states.SUBMITTED)

    def _follow_driver(self, app: Object) -> float | None:
        pod, status = self._driver_pod(app), app["status"]
        if pod is None:
            submitted = states.parse_time(status["lastSubmissionAttemptTime"])
            assert submitted is not None, "set by every submission"
            left = _POD_GRACE_S - (datetime.now(UTC) - submitted).total_seconds()
            if states.state_of(app) == states.SUBMITTED and left > 0:
                return left
            status["terminationTime"] = format_seconds(datetime.now(UTC))
            return self._enter(app, states.FAILING, "driver pod not found")
        state, error = states.driver_state(pod)
        status["sparkApplicationId"] = pod["metadata"]["labels"][ID_LABEL]
        if state in (states.SUCCEEDING, states.FAILING) and not status.get("terminationTime"):
            status["terminationTime"] = format_seconds(datetime.now(UTC))
        return self._enter(app, state, error)

    def _leave_submission_failed(self, app: Object) -> float | None:
        if not states.should_retry(app):
            app["status"]["terminationTime"] = format_seconds(datetime.now(UTC))
            return self._enter(app, states.FAILED, app["status"]["applicationState"].get("errorMessage", ""))
        wait = states.seconds_until_retry(app, datetime.now(UTC))
        if wait > 0:
            return wait
        return self._submit_when_clear(app)

    def _submit_when_clear(self, app: Object) -> float | None:
        if self._driver_pod(app) is not None:
            self._delete_driver(app)
            return _POLL_S
        return self._submit(app)

    def _leave_succeeding(self, app: Object) -> float | None:
        return self._rerun(app) if states.should_retry(app) else self._enter(app, states.COMPLETED)

    def _leave_failing(self, app: Object) -> float | None:
        if not states.should_retry(app):
            return self._enter(app, states.FAILED, app["status"]["applicationState"].get("errorMessage", ""))
        wait = states.seconds_until_retry(app, datetime.now(UTC))
        return wait if wait > 0 else self._rerun(app)

    def _rerun(self, app: Object) -> float | None:
        self._delete_driver(app)
        states.reset_status(app["status"])
        return self._enter(app, states.PENDING_RERUN)

    def _expire(self, app: Object) -> float | None:
        left = states.seconds_until_expiry(app, datetime.now(UTC))
        if left is not None and left <= 0:
            self._store.remove((APPLICATIONS, app["metadata"]["namespace"], app["metadata"]["name"]))
            return None
        return left

    def _enter(self, app: Object, state: str, error: str = "") -> float | None:
        """Write the status with its new state, unless nothing changed; return None: the write causes the next step."""
        entered = states.state_of(app) != state
        app["status"]["applicationState"] = {"state": state, **({"errorMessage": error} if error else {})}
        metadata = app["metadata"]
        stored = self._store.get((APPLICATIONS, metadata["namespace"], metadata["name"]))
        if stored == app:
            return None
        self._store.put(APPLICATIONS, app)
        if entered and state in _NOTES:
            kind, reason, text = _NOTES[state]
            pod = states.driver_pod_name(app)
            message = text.format(name=metadata["name"], error=error, pod=pod)
            record_event(self._store, app, kind=kind, reason=reason, message=message)
        return None

    def _driver_pod(self, app: Object) -> Object | None:
        return self._store.get(("pods", app["metadata"]["namespace"], states.driver_pod_name(app)))

    def _delete_driver(self, app: Object) -> None:
        pod = self._driver_pod(app)
        if pod is not None:
            mark_deleted(self._store, "pods", pod, grace_s=pod["spec"]["terminationGracePeriodSeconds"])


def mark_deleted(store: ObjectStore, resource: str, value: Object, *, grace_s: int) -> Object:
    """Begin the deletion of an object: set its deletion timestamp, or shorten its grace. Returns the object."""
    metadata: dict[str, Any] = value["metadata"]
    if metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds", 0) <= grace_s:
        return value
    stamp = metadata.get("deletionTimestamp") or timestamp_now()
    changed = {**metadata, "deletionTimestamp": stamp, "deletionGracePeriodSeconds": grace_s}
    return store.put(resource, {**value, "metadata": changed})
