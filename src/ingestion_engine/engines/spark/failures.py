"""What a failed Spark job says about the partitions that it ran.

Spark reports text only: the message of the job's exception, which ends with the reason of the task that failed. It
distinguishes an exception of the function, the end of its Python process, and the loss of its executor with an exit
code or a reason (Spark 4.3: ``ExecutorLostFailure``, ``ExecutorExitCode``, ``ExecutorPodsLifecycleManager``). Only a
process or container that died with its partition is evidence about the partition; everything else is a fault of the
cluster, which the driver waits out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ingestion_engine.domain.errors import FatalError, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.feed import canceled_report

if TYPE_CHECKING:
    from py4j.protocol import Py4JJavaError

PYTHON_EXCEPTION: Final = "org.apache.spark.api.python.PythonException"

MakeReport = Callable[[PartitionId], PartitionReport]

_REASON_CHARS = 300
"""Maximum characters of a reason."""
_CANCELED = re.compile(r"\bJob \d++ cancelled\b|\bcancelled part of cancelled job group\b")
_PYTHON_DIED = re.compile(r"Python worker exited unexpectedly")
_EXECUTOR_LOST = re.compile(r"ExecutorLostFailure \(executor (?P<id>\w++) exited (?P<how>[^)]*+)\)(?: Reason:)?")
_EXIT_CODE = re.compile(r"exit(?:ed)?(?: with)?(?: exit)? (?:code|status):? (\d{1,3})")
_OUTSIDE_CODES = frozenset({53, 54, 55, 56, 143})
"""Exit codes of an executor that the work cannot cause: no local directory (53 to 55), no way to the driver (56), and
SIGTERM (143), by which a node is drained and a pod evicted."""
_OUTSIDE_WORDS = re.compile(r"evict|preempt|decommission|deleted|drain|shut ?down", re.IGNORECASE)
"""Reasons that Kubernetes gives for ending a pod from outside."""


def read_failure(error: Py4JJavaError) -> MakeReport:
    """Return a function from a partition of a failed Spark job to its report.

    An exception raised in Python arrives as a PythonException (Spark 4.3), or as text in the job's own exception (older
    4.x).
    """
    thrown = error.java_exception
    text = str(thrown.getMessage())
    return read_message(text, is_python=thrown.getClass().getName() == PYTHON_EXCEPTION)


def read_message(text: str, *, is_python: bool = False) -> MakeReport:
    """Return a function from a partition to its report, for the message of a failed Spark job. Pure.

    Args:
        text: Message of the exception.
        is_python: True when the exception itself was raised in Python.
    """
    if is_python or PYTHON_EXCEPTION in text:
        # Workers let no exception out, so Python itself raised it: the package is missing or has another version.
        mismatch = FatalError(
            "worker_mismatch",
            f"Executors cannot run this package: {_last_words(text)}",
            hint="Install the same package and Python in the executors' image.",
        )
        return lambda partition_id: PartitionReport(partition_id, ReportStatus.FATAL, 0, error=mismatch.record())
    if _CANCELED.search(text):
        return canceled_report
    if _PYTHON_DIED.search(text):
        return _died("The worker process ended without a report (Spark: Python worker exited unexpectedly).")
    lost = _EXECUTOR_LOST.search(text)
    if lost is not None:
        details = text[lost.end() :].partition("Driver stacktrace")[0]
        why = _first_words(details.strip() or lost["how"])
        if _is_by_work(lost["how"], details):
            return _died(f"The executor ended without a report (Spark: executor {lost['id']}: {why}).")
        return _lost(f"Spark lost executor {lost['id']}: {why}.")
    return _lost(f"Spark could not run a task to its end: {_first_words(text)}.")


def _is_by_work(how: str, details: str) -> bool:
    """True when an executor ended by itself, with an exit code that its work may have caused."""
    code = _EXIT_CODE.search(details)
    if "unrelated" in how or code is None or _OUTSIDE_WORDS.search(details):
        return False  # heartbeats that stop, a connection that closes: mostly the node or the network
    return int(code[1]) not in _OUTSIDE_CODES


def _died(message: str) -> MakeReport:
    died = TransientError("worker_died", message)
    return lambda partition_id: PartitionReport(
        partition_id, ReportStatus.RETRY, 0, error=died.record(), process_died=True
    )


def _lost(message: str) -> MakeReport:
    lost = TransientError(
        "spark_task_lost", message, hint="Check the executors of the job, and the nodes on which they run."
    )
    return lambda partition_id: PartitionReport(partition_id, ReportStatus.RETRY, 0, error=lost.record())


def _first_words(text: str) -> str:
    """Return the first line of a Spark message."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return line[:_REASON_CHARS].rstrip(".")


def _last_words(text: str) -> str:
    """Return the last line of the Python traceback in a Spark message."""
    before_java: Any = itertools.takewhile(lambda line: not line.startswith("\tat "), text.splitlines())
    lines = [line.strip() for line in before_java if line.strip() and not line.strip().startswith("SQLSTATE:")]
    return lines[-1][:_REASON_CHARS] if lines else "no message"
