"""The operator's state machine as pure decisions: which state follows, and when.

Imitates Spark operator 2.5.2, `internal/controller/sparkapplication/controller.go` and `pkg/util/sparkapplication.go`.
Applications cannot be changed or suspended here, so the states INVALIDATING, SUSPENDING, SUSPENDED and RESUMING do not
occur; neither does UNKNOWN, as no node can be lost.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from ingestion_devstack.kubernetes.store import Object

NEW: Final = ""
SUBMITTED: Final = "SUBMITTED"
RUNNING: Final = "RUNNING"
COMPLETED: Final = "COMPLETED"
FAILED: Final = "FAILED"
SUBMISSION_FAILED: Final = "SUBMISSION_FAILED"
PENDING_RERUN: Final = "PENDING_RERUN"
SUCCEEDING: Final = "SUCCEEDING"
FAILING: Final = "FAILING"


def parse_time(text: str | None) -> datetime | None:
    """Return the moment of a Kubernetes timestamp; None for none."""
    return datetime.fromisoformat(text) if text else None


def state_of(app: Object) -> str:
    """Return the application's state; NEW while there is no status."""
    return str(app.get("status", {}).get("applicationState", {}).get("state", NEW))


def driver_pod_name(app: Object) -> str:
    """Return the name of the driver pod; the operator's default, `driver.podName` has no effect here."""
    return f"{app['metadata']['name']}-driver"


def should_retry(app: Object) -> bool:
    """Return whether the restart policy requires another submission from this state (`ShouldRetry`)."""
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
    """Return the time until the next submission is due; zero or less means now (`TimeUntilNextRetryDue`).

    The pause grows with every submission.
    """
    field = "onSubmissionFailureRetryInterval" if state_of(app) == SUBMISSION_FAILED else "onFailureRetryInterval"
    interval, status = app["spec"]["restartPolicy"][field], app["status"]
    last = parse_time(status["lastSubmissionAttemptTime"])
    assert last is not None, "a state after a submission"
    return float(interval * status["submissionAttempts"]) - (now - last).total_seconds()


def seconds_until_expiry(app: Object, now: datetime) -> float | None:
    """Return the time until an ended application is deleted (`IsExpired`); None means never."""
    ttl, ended = app["spec"].get("timeToLiveSeconds"), parse_time(app["status"].get("terminationTime"))
    if ttl is None or ended is None:
        return None
    return float(ttl) - (now - ended).total_seconds()


def reset_status(status: dict[str, Any]) -> None:
    """Remove the ended run from the status, in place, before another run (`resetSparkApplicationStatus`)."""
    status.pop("sparkApplicationId", None)
    status["driverInfo"] = {}
    status["terminationTime"] = None


def driver_state(pod: Object) -> tuple[str, str]:
    """Return the state that the driver pod gives its application, and a failure's message ("" without failure)."""
    phase = pod["status"]["phase"]
    if phase != "Failed":
        return {"Pending": SUBMITTED, "Running": RUNNING, "Succeeded": SUCCEEDING}[phase], ""
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return FAILING, f"driver container failed with ExitCode: {ended['exitCode']}, Reason: {ended['reason']}"
