"""What engines make of the end of a task without a report: only a process that died with its partition is a death."""

from __future__ import annotations

import pytest
from ray import exceptions

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.ray import failures as ray_failures
from ingestion_engine.engines.spark.failures import read_message

PARTITION = PartitionId("a01-00001.0.10.0123456789abcdef")
STAGE = "Job aborted due to stage failure: Task 0 in stage 3.0 failed 1 times, most recent failure: Lost task 0.0 in"
LOST = f"{STAGE} stage 3.0 (TID 3) (10.0.0.7 executor 4): ExecutorLostFailure (executor 4 exited"
BY_TASK = f"{LOST} caused by one of the running tasks) Reason:"

EVICTED = "The API gave the following brief reason: Evicted"


def facts(report: PartitionReport) -> tuple[str, str, bool]:
    assert report.partition_id == PARTITION
    assert report.error is not None
    return report.status.value, report.error["code"], report.process_died


DIED = (ReportStatus.RETRY.value, "worker_died", True)
CANCELED = (ReportStatus.RETRY.value, "partition_canceled", False)
MISMATCH = (ReportStatus.FATAL.value, "worker_mismatch", False)
RAY_LOST = (ReportStatus.RETRY.value, "ray_task_lost", False)
SPARK_LOST = (ReportStatus.RETRY.value, "spark_task_lost", False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.WorkerCrashedError(), DIED),
        (exceptions.OutOfMemoryError("the node is running low on memory"), DIED),
        (exceptions.NodeDiedError("the node was preempted"), RAY_LOST),
        (exceptions.LocalRayletDiedError(), RAY_LOST),
        (exceptions.RuntimeEnvSetupError("pip failed\nTraceback ..."), RAY_LOST),
        (exceptions.TaskUnschedulableError("the node of the affinity is dead"), RAY_LOST),
        (exceptions.TaskPlacementGroupRemoved(), RAY_LOST),
        (exceptions.OwnerDiedError("ab", "address", "127.0.0.1"), RAY_LOST),
        (exceptions.ObjectLostError("ab", None, ""), RAY_LOST),
        (exceptions.ObjectStoreFullError("full"), RAY_LOST),
        (exceptions.OutOfDiskError("full"), RAY_LOST),
        (exceptions.RaySystemError("worker startup failed"), RAY_LOST),
        (exceptions.TaskCancelledError(), CANCELED),
        (exceptions.RayTaskError("f", "tb\nNo module named 'x'", ModuleNotFoundError("No module named 'x'")), MISMATCH),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_ray_tells_apart_what_died(error: Exception, expected: tuple[str, str, bool]) -> None:
    """A lost node, environment or object says nothing about the partition; an exception is the environment's fault."""
    assert facts(ray_failures.read_failure(error, PARTITION)) == expected


def test_a_canceled_task_that_had_begun_is_canceled_too() -> None:
    """Ray wraps the interrupt of a running task like an exception of its function."""
    wrapped = exceptions.RayTaskError("f", "tb", exceptions.TaskCancelledError()).as_instanceof_cause()
    assert facts(ray_failures.read_failure(wrapped, PARTITION)) == CANCELED


def test_a_reason_is_one_line() -> None:
    """Ray's texts contain whole tracebacks; the note of a job does not."""
    report = ray_failures.read_failure(exceptions.RuntimeEnvSetupError("pip failed\nTraceback ..."), PARTITION)
    assert report.error is not None
    assert report.error["message"] == (
        "Ray could not run a task to its end (RuntimeEnvSetupError: Failed to set up runtime environment)."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)", DIED),
        (f"{BY_TASK} Command exited with code 137", DIED),
        (f"{BY_TASK} Command exited with code 52", DIED),
        (f"{BY_TASK} \nThe executor with id 4 exited with exit code 137(SIGKILL, possible container OOM).\n", DIED),
        (f"{BY_TASK} The executor with id 4 exited with exit code 143(SIGTERM).", SPARK_LOST),
        (f"{BY_TASK} \nThe executor with id 4 exited with exit code 137(SIGKILL).\n{EVICTED}\n", SPARK_LOST),
        (f"{BY_TASK} Executor heartbeat timed out after 125012 ms", SPARK_LOST),
        (f"{BY_TASK} Remote RPC client disassociated. Likely due to containers exceeding thresholds.", SPARK_LOST),
        (f"{BY_TASK} Command exited with code 56", SPARK_LOST),
        (f"{LOST} unrelated to the running tasks) Reason: Executor decommission.", SPARK_LOST),
        ("Job 12 cancelled part of cancelled job group ingest-1", CANCELED),
        ("java.io.IOException: No space left on device", SPARK_LOST),
        ("org.apache.spark.api.python.PythonException: Traceback\nModuleNotFoundError: No module named 'x'", MISMATCH),
    ],
)
def test_spark_tells_apart_what_died(text: str, expected: tuple[str, str, bool]) -> None:
    """Only a process or container that ended by itself is a death; the rest is waited out."""
    assert facts(read_message(text)(PARTITION)) == expected


def test_spark_names_the_executor_and_its_reason() -> None:
    """The reason of Kubernetes begins on a line of its own."""
    report = read_message(f"{BY_TASK} \nThe executor with id 4 exited with exit code 1(x).\n")(PARTITION)
    assert report.error is not None
    assert report.error["message"] == (
        "The executor ended without a report (Spark: executor 4: The executor with id 4 exited with exit code 1(x))."
    )
