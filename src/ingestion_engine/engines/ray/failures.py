"""What the end of a Ray task without a report says about the partition that it ran.

Ray distinguishes what died: the function (an exception), its process, its node, or the way to them. Only a process that
died with its partition is evidence about the partition; everything else is a fault of the cluster, which the driver
waits out (Ray 2.60, ``ray/exceptions.py``).
"""

from __future__ import annotations

from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.feed import canceled_report

REASON_CHARS = 300
"""Maximum characters of a reason of Ray, whose texts may contain whole tracebacks."""


def read_failure(error: BaseException, partition_id: PartitionId) -> PartitionReport:
    """Return the report of a partition whose task ended with an error of Ray instead of a report."""
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return canceled_report(partition_id)
    if isinstance(error, exceptions.RayTaskError):
        # Workers let no exception out, so Python itself raised it: the package is missing or has another version.
        mismatch = FatalError(
            "worker_mismatch",
            f"Workers cannot run this package: {_last_line(str(error))}",
            hint="Install the same package and Python on every node of the Ray cluster.",
        )
        return PartitionReport(partition_id, ReportStatus.FATAL, 0, error=mismatch.record())
    if isinstance(error, exceptions.WorkerCrashedError | exceptions.OutOfMemoryError):
        what = (
            "Ray ended the worker process because its node ran out of memory"
            if isinstance(error, exceptions.OutOfMemoryError)
            else "The worker process ended without a report"
        )
        died = TransientError("worker_died", f"{what} ({_first_line(error)}).")
        return PartitionReport(partition_id, ReportStatus.RETRY, 0, error=died.record(), process_died=True)
    lost = TransientError(
        "ray_task_lost",
        f"Ray could not run a task to its end ({_first_line(error)}).",
        hint="Check the nodes of the Ray cluster and the runtime environment of the job.",
    )
    return PartitionReport(partition_id, ReportStatus.RETRY, 0, error=lost.record())


def _first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its text."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:REASON_CHARS].rstrip(".")


def _last_line(text: str) -> str:
    """Return the last line of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:REASON_CHARS] if lines else "no message"
