"""The operator's state machine as pure decisions: which state follows, and when.

Follows internal/controller/sparkapplication/controller.go and pkg/util/sparkapplication.go of the operator (2.4).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from ingestion_devstack.kubernetes.store import Object

NEW: Final = ""
SUBMITTED: Final = "SUBMITTED"
RUNNING: Final = "RUNNING"
COMPLETED: Final = "COMPLETED"
FAILED: Final = "FAILED"
SUBMISSION_FAILED: Final = "SUBMISSION_FAILED"
PENDING_RERUN: Final = "PENDING_RERUN"
INVALIDATING: Final = "INVALIDATING"
SUCCEEDING: Final = "SUCCEEDING"
FAILING: Final = "FAILING"
SUSPENDING: Final = "SUSPENDING"
SUSPENDED: Final = "SUSPENDED"
RESUMING: Final = "RESUMING"
UNKNOWN: Final = "UNKNOWN"
TERMINAL: Final = (COMPLETED, FAILED)
DRIVER_CONTAINER: Final = "spark-kubernetes-driver"
UNTOUCHED_BY_CHANGE: Final = ("suspend", "timeToLiveSeconds")
"""Fields of the spec that may change without a rerun (event_filter.go)."""


def rfc3339(moment: datetime) -> str:
    """Whole seconds, UTC, as Kubernetes writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """The moment in a Kubernetes timestamp; None for none."""
    return datetime.fromisoformat(text) if text else None


def state_of(app: Object) -> str:
    """The application's state; NEW while there is no status."""
    return str(app.get("status", {}).get("applicationState", {}).get("state", NEW))


def driver_pod_name(app: Object) -> str:
    """`<name>-driver`, unless the manifest names the pod."""
    spec = app["spec"]
    named = spec["driver"].get("podName") or (spec.get("sparkConf") or {}).get("spark.kubernetes.driver.pod.name")
    return str(named or f"{app['metadata']['name']}-driver")


def should_retry(app: Object) -> bool:
    """Whether the restart policy asks for another submission from this state."""
    policy, status, state = app["spec"]["restartPolicy"], app["status"], state_of(app)
    if policy["type"] == "Always":
        return state in (SUCCEEDING, FAILING, SUBMISSION_FAILED)
    if policy["type"] != "OnFailure":
        return False
    if state == FAILING:
        retries = policy.get("onFailureRetries")
        return retries is not None and status.get("executionAttempts", 0) <= retries
    if state == SUBMISSION_FAILED:
        retries = policy.get("onSubmissionFailureRetries")
        return retries is not None and status.get("submissionAttempts", 0) <= retries
    return False


def seconds_until_retry(app: Object, now: datetime) -> float:
    """Time until the next submission is due; zero or less: now. The pause grows with every submission."""
    field = "onSubmissionFailureRetryInterval" if state_of(app) == SUBMISSION_FAILED else "onFailureRetryInterval"
    interval, status = app["spec"]["restartPolicy"][field], app["status"]
    last = parse_time(status["lastSubmissionAttemptTime"])
    assert last is not None, "a state after a submission"
    return float(interval * status["submissionAttempts"]) - (now - last).total_seconds()


def seconds_until_expiry(app: Object, now: datetime) -> float | None:
    """Time until a terminated application is to be deleted; None: never."""
    ttl, ended = app["spec"].get("timeToLiveSeconds"), parse_time(app["status"].get("terminationTime"))
    if ttl is None or ended is None:
        return None
    return float(ttl) - (now - ended).total_seconds()


def needs_rerun(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a change of the spec makes the operator start over."""
    return {k: v for k, v in before.items() if k not in UNTOUCHED_BY_CHANGE} != {
        k: v for k, v in after.items() if k not in UNTOUCHED_BY_CHANGE
    }


def reset_status(status: dict[str, Any], state: str) -> None:
    """Forget the run that is over, as the operator does when it leaves `state` for another run; in place."""
    for field in ("sparkApplicationId", "executorState"):
        status.pop(field, None)
    status["driverInfo"] = {}
    status["applicationState"].pop("errorMessage", None)
    if state != SUSPENDED:
        status["terminationTime"] = None
    if state == INVALIDATING:
        status.update(submissionAttempts=0, executionAttempts=0, lastSubmissionAttemptTime=None)


def driver_state(pod: Object) -> tuple[str, str]:
    """The state that the driver pod gives its application, and the message of a failure ("" if there is none)."""
    phase = pod["status"]["phase"]
    ended = _terminated(pod)
    if phase == "Pending":
        return SUBMITTED, ""
    if phase == "Succeeded" or (ended is not None and ended["exitCode"] == 0):
        return SUCCEEDING, ""
    if phase == "Running" and ended is None:
        return RUNNING, ""
    if phase in ("Running", "Failed"):
        if ended is None:
            return FAILING, "driver container status missing"
        return FAILING, f"driver container failed with ExitCode: {ended['exitCode']}, Reason: {ended['reason']}"
    return UNKNOWN, ""


def _terminated(pod: Object) -> dict[str, Any] | None:
    for container in pod["status"].get("containerStatuses", []):
        if container["name"] == DRIVER_CONTAINER:
            ended: dict[str, Any] | None = container["state"].get("terminated")
            return ended
    return None
