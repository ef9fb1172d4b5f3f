"""The threads of the Spark engine: none ends without a word."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.spark.engine import _Run

PARTITION = PartitionId("a01-00001.0.10.0123456789abcdef")


class Context:
    """As much of a SparkContext as a run needs before its first job."""

    def parallelize(self, *_: Any) -> None: ...


class JvmGone(threading.Thread):
    """A thread that fails where PySpark copies properties to the JVM, before it calls its target."""

    def run(self) -> None:
        raise ConnectionRefusedError("the JVM has ended")


def test_a_thread_that_fails_before_its_work_reports_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would wait forever for a thread that died in PySpark's own code."""
    monkeypatch.setattr("pyspark.InheritableThread", JvmGone)
    uri = JobUri.parse("s3://bucket/state/jobs/job-1/spec.json")
    process = lambda _uri, pid: PartitionReport(PartitionId(pid), ReportStatus.DONE, 1)  # noqa: E731 - a stub
    run = _Run(Context(), uri, process, slices=1)  # type: ignore[arg-type]  # no more of the context is used
    run.start((PARTITION,), 0)
    ended = run.wait(10)
    assert ended is not None
    assert ended.batch == (PARTITION,)
    assert isinstance(ended.outcome, ConnectionRefusedError)
