"""The Spark engine on a real local Spark: it answers as the local engine does, and loses only what really died."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark import SparkConf, SparkContext

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.feed import is_abandoned
from ingestion_engine.engines.spark.engine import SparkEndedError, SparkEngine
from ingestion_engine.engines.spark.start import CONF, JAVA_HINT
from support.waiting import wait_for

SPEC = "file:///nowhere/jobs/job-x/spec.json"
SLOTS = 2


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> SparkContext:
    """A local Spark with two slots, the one of the test before where it still runs.

    Without Java the tests fail and say what to install.
    """
    assert shutil.which("java"), JAVA_HINT
    conf = SparkConf().setMaster(f"local[{SLOTS}]").set("spark.ui.enabled", "false")
    conf.setAll(list(CONF.items())).set("spark.driver.bindAddress", "127.0.0.1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # else whatever `python3` is on the PATH
    request.getfixturevalue("stopped_at_the_end")
    return SparkContext.getOrCreate(conf)


@pytest.fixture(scope="module")
def stopped_at_the_end() -> Iterator[None]:
    yield
    if SparkContext._active_spark_context is not None:
        SparkContext._active_spark_context.stop()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that partitions wait for; the test makes it."""
    return tmp_path / "go"


def make_wait(file: Path) -> Callable[[], None]:
    """A function, made here so that Spark carries it by value, that waits for a file, for a minute at most."""
    path = str(file)

    def wait() -> None:
        import os
        import time

        for _ in range(1200):
            if os.path.exists(path):  # noqa: PTH110 - runs in Spark's worker
                return
            time.sleep(0.05)

    return wait


def ids(count: int) -> list[PartitionId]:
    return [PartitionId(f"a01-{number:05d}") for number in range(count)]


def make_process(act: Callable[[str], None] = lambda _: None) -> Callable[[str, str], PartitionReport]:
    """A worker's function made here, so that Spark carries it by value. ``act`` runs first."""
    from ingestion_engine.domain import ids as domain_ids
    from ingestion_engine.domain import records

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        act(partition_id)
        pid = domain_ids.PartitionId(partition_id)
        result = records.ObjectResult(
            key=partition_id,
            outcome=records.Outcome.DONE,
            etag="e",
            size_bytes=3,
            last_modified="2026-01-01T00:00:00Z",
            object_id=domain_ids.ObjectId("oid"),
        )
        return records.PartitionReport(
            pid, records.ReportStatus.DONE, 7, results=(result,), chunks=len(spec_uri.partition("#")[0]), embed_calls=1
        )

    return process


def run(engine: SparkEngine, partition_ids: Iterator[PartitionId] | list[PartitionId]) -> dict[str, PartitionReport]:
    reports = list(engine.run(SPEC, partition_ids))
    found = {report.partition_id: report for report in reports}
    assert len(found) == len(reports)
    return dict(found)


def test_reports_are_those_of_a_plain_loop(context: SparkContext) -> None:
    """Every field of every report arrives as the process made it, once per partition."""
    process = make_process()
    assert run(SparkEngine(SLOTS, process), ids(7)) == {pid: process(SPEC, pid) for pid in ids(7)}


def test_a_wide_window_shares_jobs(context: SparkContext) -> None:
    """More partitions at once than threads are put into common Spark jobs, the last one partly filled."""
    process = make_process()
    engine = SparkEngine(600, process)
    assert (engine._slices, engine._jobs) == (3, 200)
    assert run(engine, ids(7)) == {pid: process(SPEC, pid) for pid in ids(7)}


def test_python_processes_are_used_again(context: SparkContext) -> None:
    """Clients that a process opened for one partition serve the next: no more processes than slots."""
    from ingestion_engine.domain import records

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        import os

        return records.PartitionReport(PartitionId(partition_id), records.ReportStatus.DONE, 1, chunks=os.getpid())

    reports = run(SparkEngine(SLOTS, process), ids(12))
    assert len({report.chunks for report in reports.values()}) <= SLOTS


def test_nothing_to_do_gives_no_report(context: SparkContext) -> None:
    """An empty plan ends at once."""
    assert run(SparkEngine(SLOTS, make_process()), []) == {}


def test_a_killed_process_costs_its_own_partition_only(context: SparkContext, gate: Path) -> None:
    """A worker that dies gives one RETRY with ``process_died``; others, also one that runs just then, succeed."""
    path, hold = str(gate), make_wait(gate)

    def die(partition_id: str) -> None:
        import os

        if partition_id.endswith("2"):
            open(path, "w").close()  # noqa: PTH123 - runs in Spark's worker
            os._exit(1)
        if partition_id.endswith("1"):
            hold()

    reports = run(SparkEngine(SLOTS, make_process(die)), ids(6))
    dead = reports.pop("a01-00002")
    assert (dead.status, dead.process_died) == (ReportStatus.RETRY, True)
    assert dead.error is not None
    assert dead.error["code"] == "worker_died"
    assert {report.status for report in reports.values()} == {ReportStatus.DONE}
    assert len(reports) == 5


def test_a_failing_task_runs_once(context: SparkContext, tmp_path: Path) -> None:
    """Spark does not repeat a task behind the driver's back."""
    log = str(tmp_path / "runs")

    def die(partition_id: str) -> None:
        import os

        with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 - runs in Spark's worker
            file.write(f"{partition_id}\n")
        os._exit(1)

    run(SparkEngine(1, make_process(die)), ids(1))
    assert (tmp_path / "runs").read_text() == "a01-00000\n"


def test_an_executor_that_cannot_run_the_package_stops_the_job(context: SparkContext) -> None:
    """An exception out of Python itself is the environment's fault, never the objects'."""

    def fail(partition_id: str) -> None:
        raise ModuleNotFoundError("No module named 'ingestion_engine'")

    report = run(SparkEngine(SLOTS, make_process(fail)), ids(1))["a01-00000"]
    assert report.status is ReportStatus.FATAL
    assert report.error is not None
    assert report.error["code"] == "worker_mismatch"
    assert "No module named 'ingestion_engine'" in report.error["message"]
    assert report.error["message"].endswith("'ingestion_engine'")


def test_the_window_slides(context: SparkContext, gate: Path) -> None:
    """Ids are pulled only as there is room, and a slow partition holds up nobody but itself."""
    hold = make_wait(gate)

    def wait(partition_id: str) -> None:
        if partition_id.endswith("00000"):
            hold()

    pulled: list[str] = []

    def feed() -> Iterator[PartitionId]:
        for pid in ids(6):
            pulled.append(pid)
            yield pid

    order: list[str] = []
    for report in SparkEngine(SLOTS, make_process(wait)).run(SPEC, feed()):
        order.append(report.partition_id)
        assert len(pulled) <= len(order) + SLOTS - 1
        if len(order) == 5:
            gate.touch()
    assert order[-1] == "a01-00000"
    assert sorted(order) == ids(6)


def test_a_stop_cancels_what_has_not_begun_and_waits_for_what_runs(
    context: SparkContext, tmp_path: Path, gate: Path
) -> None:
    """With more Spark jobs than slots, a stop ends the waiting ones at once; running ones report by themselves."""
    log = tmp_path / "runs"
    log.touch()
    path, hold = str(log), make_wait(gate)

    def wait(partition_id: str) -> None:
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - runs in Spark's worker
            file.write(f"{partition_id}\n")
        hold()

    def should_stop() -> bool:
        return len(log.read_text().split()) >= SLOTS

    reports = []
    for report in SparkEngine(6, make_process(wait)).run(SPEC, ids(6), should_stop=should_stop):
        reports.append(report)
        if len(reports) == 6 - SLOTS:
            gate.touch()  # what runs could not have ended before
    canceled, done = reports[:-SLOTS], reports[-SLOTS:]
    begun = set(log.read_text().split())
    assert {report.partition_id for report in done} == begun
    assert {report.status for report in done} == {ReportStatus.DONE}
    assert {(report.error or {})["code"] for report in canceled} == {"partition_canceled"}
    assert not any(report.process_died for report in canceled)
    assert {report.partition_id for report in canceled} == set(ids(6)) - begun


def test_a_partition_that_does_not_end_is_abandoned(
    context: SparkContext, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has to stop ends in bounded time, and says that a worker may still write."""
    monkeypatch.setattr("ingestion_engine.engines.feed.STOP_GRACE_S", 1.0)
    hold = make_wait(gate)
    started = gate.with_name("started")
    begun = str(started)

    def wait(partition_id: str) -> None:
        open(begun, "w").close()  # noqa: PTH123 - runs in Spark's worker
        hold()

    reports = list(SparkEngine(SLOTS, make_process(wait)).run(SPEC, ids(1), should_stop=started.exists))
    gate.touch()
    assert [is_abandoned(report) for report in reports] == [True]


def test_reports_are_taken_while_planning_is_slow(context: SparkContext) -> None:
    """A plan that has nothing ready does not keep the report of a partition that has ended."""
    done: list[str] = []

    def plan() -> Iterator[PartitionId | None]:
        yield ids(1)[0]
        while not done:
            yield None
        yield ids(2)[1]

    for report in SparkEngine(SLOTS, make_process()).run(SPEC, plan()):
        done.append(report.partition_id)
    assert done == ids(2)


def test_without_java_the_message_says_what_to_install() -> None:
    """Not a stack trace of Spark's launcher, but the package's name."""
    code = (
        "from ingestion_engine.domain.errors import FatalError\n"
        "from ingestion_engine.engines.spark.start import open_context\n"
        "try:\n    open_context()\nexcept FatalError as error:\n    print(error.code, '|', error.hint)\n"
    )
    env = {**os.environ, "JAVA_HOME": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"java_missing | {JAVA_HINT}"
    assert "openjdk-17-jre-headless" in done.stdout


def test_a_closed_run_leaves_nothing_behind(context: SparkContext, gate: Path) -> None:
    """A driver that crashes in the middle cancels its Spark jobs on the way out."""
    hold = make_wait(gate)

    def wait(partition_id: str) -> None:
        if not partition_id.endswith("00000"):
            hold()

    reports = SparkEngine(SLOTS, make_process(wait)).run(SPEC, iter(ids(4)))
    assert next(reports).partition_id == "a01-00000"
    reports.close()
    wait_for(lambda: not context.statusTracker().getActiveJobsIds(), 20)  # they would wait for a minute


def test_a_spark_that_is_gone_ends_the_attempt(context: SparkContext, gate: Path) -> None:
    """No partition is blamed for the loss of Spark itself."""
    hold = make_wait(gate)

    def wait(partition_id: str) -> None:
        if not partition_id.endswith("00000"):
            hold()

    reports = SparkEngine(SLOTS, make_process(wait)).run(SPEC, iter(ids(2)))
    next(reports)
    context.stop()
    with pytest.raises(SparkEndedError):
        next(reports)
