"""The Ray engine on a real local Ray: it loses only what really died, and every run ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.engines.feed import is_abandoned
from ingestion_engine.engines.ray.engine import RayEngine

SPEC = "file:///nowhere/jobs/job-x/spec.json"
CPUS = 2


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray of this process with two CPUs."""
    import ray

    ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def ids(count: int) -> list[PartitionId]:
    return [PartitionId(f"a01-{number:05d}") for number in range(count)]


def make_process(act: Callable[[str], None] = lambda _: None) -> Callable[[str, str], PartitionReport]:
    """A worker's function made here, so that Ray carries it by value. ``act`` runs first."""

    def process(spec_uri: str, partition_id: str) -> PartitionReport:
        act(partition_id)
        return PartitionReport(PartitionId(partition_id), ReportStatus.DONE, 7)

    return process


def make_wait(folder: Path) -> Callable[[str], None]:
    """A function that says that a partition has begun, and waits in a lock, as a worker does, until the file is there.

    For a minute at most.
    """
    path = str(folder)

    def wait(partition_id: str) -> None:
        import threading
        import time

        open(f"{path}/{partition_id}.begun", "w").close()  # noqa: PTH123 - runs in Ray's worker
        opened = threading.Event()

        def look() -> None:
            for _ in range(1200):
                if os.path.exists(f"{path}/go"):  # noqa: PTH110 - runs in Ray's worker
                    break
                time.sleep(0.05)
            open(f"{path}/{partition_id}.ended", "w").close()  # noqa: PTH123 - runs in Ray's worker
            opened.set()

        threading.Thread(target=look, daemon=True).start()
        opened.wait()

    return wait


def test_tasks_that_pend_for_ever_end_with_the_run() -> None:
    """No node has the CPUs that a task requests: a run that has to stop cancels it at once."""
    stopping: list[bool] = []

    def plan() -> Iterator[PartitionId]:
        yield from ids(3)
        stopping.append(True)

    engine = RayEngine(4, make_process(), task_cpus=64)
    reports = list(engine.run(SPEC, plan(), should_stop=lambda: bool(stopping)))
    assert sorted(report.partition_id for report in reports) == ids(3)
    assert {(report.error or {})["code"] for report in reports} == {"partition_canceled"}
    assert not any(report.process_died for report in reports)


def test_warming_tasks_that_pend_for_ever_do_not_keep_an_empty_run() -> None:
    """A job without work does not wait for a worker that never starts."""
    import ray

    pending = ray.remote(num_cpus=64)(lambda: None).remote()
    assert list(RayEngine(4, make_process(), task_cpus=1, warming=[pending]).run(SPEC, [])) == []
    ray.cancel(pending)


def test_a_stop_lets_running_partitions_end_by_themselves(tmp_path: Path) -> None:
    """A task that a worker has begun is not interrupted before it has ended, so that no writer is left."""

    def should_stop() -> bool:
        if len(list(tmp_path.glob("*.begun"))) < CPUS:
            return False
        (tmp_path / "go").touch()
        return True

    engine = RayEngine(4, make_process(make_wait(tmp_path)), task_cpus=1)
    reports = list(engine.run(SPEC, ids(4), should_stop=should_stop))
    assert sorted(report.partition_id for report in reports) == ids(4)
    assert not any(is_abandoned(report) for report in reports)
    assert len(list(tmp_path.glob("*.ended"))) == len(list(tmp_path.glob("*.begun")))


def test_a_partition_that_does_not_end_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has to stop ends in bounded time, kills the worker, and says that it may still write."""
    monkeypatch.setattr("ingestion_engine.engines.feed.STOP_GRACE_S", 1.0)
    engine = RayEngine(1, make_process(make_wait(tmp_path)), task_cpus=1)
    begun = tmp_path / f"{ids(1)[0]}.begun"
    reports = list(engine.run(SPEC, ids(1), should_stop=begun.exists))
    assert [is_abandoned(report) for report in reports] == [True]
    assert not (tmp_path / f"{ids(1)[0]}.ended").exists()


def test_only_a_process_that_died_is_a_death() -> None:
    """The end of a worker process is distinguished from a function that cannot run."""

    def act(partition_id: str) -> None:
        if partition_id.endswith("0"):
            os._exit(1)
        if partition_id.endswith("1"):
            raise ModuleNotFoundError("No module named 'ingestion_engine'")

    reports = {r.partition_id: r for r in RayEngine(2, make_process(act), task_cpus=1).run(SPEC, ids(3))}
    assert [
        (reports[pid].status, (reports[pid].error or {}).get("code"), reports[pid].process_died) for pid in ids(3)
    ] == [
        (ReportStatus.RETRY, "worker_died", True),
        (ReportStatus.FATAL, "worker_mismatch", False),
        (ReportStatus.DONE, None, False),
    ]


def test_reports_are_taken_while_planning_is_slow() -> None:
    """A plan that has nothing ready does not keep the report of a partition that has ended."""
    done: list[str] = []

    def plan() -> Iterator[PartitionId | None]:
        yield ids(1)[0]
        while not done:
            yield None
        yield ids(2)[1]

    for report in RayEngine(2, make_process(), task_cpus=1).run(SPEC, plan()):
        done.append(report.partition_id)
    assert done == ids(2)
