"""What is Spark's own: the zombie drill, Kubernetes away, the manifest, the log after the pod."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from ingestion_devstack.kubernetes.find_spark import find_java
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.engines.spark.start import CONF
from ingestion_engine.state.lease import read_lease
from ingestion_engine.state.ledger import Ledger
from support.own_main import start_main
from support.platform_world import APPLICATIONS, Platform, without_job_fields
from support.waiting import wait_for

UNDEAD: dict[str, Any] = {"source": {"bucket": "docs", "prefix": "undead/"}, "collection": "undead", "parallelism": 2}


@pytest.fixture(scope="module", autouse=True)
def _java() -> None:
    find_java()  # its message says what to install


def test_the_log_outlives_the_pod(platform: Platform) -> None:
    """Once Kubernetes has forgotten the attempt, the ledger's tail answers."""
    job_id = str(platform.run("spark", source={"bucket": "docs", "prefix": "none/"}, collection="logged")["job_id"])
    assert "SparkContext" in platform.http.get(f"/jobs/{job_id}/logs").text  # the pod's, with Spark's own lines
    with platform.kubernetes() as client:
        path = f"{APPLICATIONS.format(platform.settings.spark.namespace)}/{job_id}-01"
        assert client.delete(path).status_code == 200
    assert f"{job_id}-01" not in platform.applications()
    text = platform.http.get(f"/jobs/{job_id}/logs").text
    assert "job ended" in text
    assert "SparkContext" not in text


def test_the_manifest_is_what_the_api_server_takes(platform: Platform) -> None:
    """``ingest spark-manifest`` prints what a dry run of a creation accepts, without any credential in it."""
    command = [sys.executable, "-m", "ingestion_engine.cli", "spark-manifest", "s3://docs/none/", "-c", "shown"]
    shown = subprocess.run(command, env={**os.environ, **platform.env}, capture_output=True, check=True).stdout
    manifest = orjson.loads(shown)
    path = APPLICATIONS.format(manifest["metadata"]["namespace"])
    with platform.kubernetes() as client:
        answer = client.post(path, params={"dryRun": "All", "fieldValidation": "Strict"}, json=manifest)
    assert answer.status_code == 201, answer.text
    for name, value in platform.env.items():
        if name.endswith(("ACCESS_KEY", "KEY_ID", "API_KEY", "TOKEN")):
            assert value.encode() not in shown, name


def test_a_zombie_executor_undoes_nothing(platform: Platform, tmp_path: Path) -> None:
    """The driver is killed with SIGKILL, two of its executors live on; nothing is lost, nothing is doubled.

    One wakes up while the successor works. The other had found the lease held before it stood still, and wakes when the
    successor has ended: each has to ask again before it writes, and stops.
    """
    write_texts(platform, {f"{number:02}": f"Text {number} of the drill." for number in range(48)})
    ledger = platform.write_spec("spark", "job-undead", **UNDEAD)
    arguments = ("--fault", "stall", "--markers", str(tmp_path))
    before = platform.embed_requests()
    start_main(platform, ledger, 1, *arguments)
    wait_for(lambda: find_stalled(tmp_path).keys() == {"look", "write"})
    stalled = find_stalled(tmp_path)
    rewritten = ledger.read_partition(PartitionId(stalled["write"])).objects[0].ref.key
    first_epoch = read_epoch(ledger)
    with driver_shot(platform, "job-undead"):
        write_texts(platform, {rewritten: "Written between the two drivers."})
        start_main(platform, ledger, 2, *arguments)
        wait_for(lambda: read_epoch(ledger) > first_epoch and (ledger.read_progress() or {}).get("attempt") == 2)
        assert release(tmp_path, stalled["look"]) == "fatal lease_lost"
        summary = platform.wait_for_summary(ledger)
        points = without_job_fields(platform.both("undead"))
        assert release(tmp_path, stalled["write"]) == "fatal lease_lost"
    counts = summary["counts"]
    assert (summary["state"], summary["attempt"]) == ("succeeded", 2)
    assert counts["done"] == counts["listed"] == len(points) == 48
    in_flight_at_the_kill = 2
    assert counts["embed_calls"] < platform.embed_requests() - before <= counts["embed_calls"] + in_flight_at_the_kill
    assert without_job_fields(platform.both("undead")) == points
    assert platform.run("ray", **UNDEAD, mode="verify")["state"] == "succeeded"


def write_texts(platform: Platform, texts: Mapping[str, str]) -> None:
    """Put texts under the drill's prefix."""
    prefix = UNDEAD["source"]["prefix"]
    platform.upload("docs", [(prefix + key.removeprefix(prefix), text.encode()) for key, text in texts.items()])


def find_stalled(markers: Path) -> dict[str, str]:
    """The partitions whose workers stand still, by where."""
    return {path.read_text(): path.stem for path in markers.glob("*.stalled")}


def release(markers: Path, partition_id: str) -> str:
    """Let a stalled worker go on; return how its partition ended."""
    (markers / f"{partition_id}.go").touch()
    ended = markers / f"{partition_id}.ended"
    wait_for(lambda: ended.exists() and bool(ended.read_text()))
    return ended.read_text()


def read_epoch(ledger: Ledger) -> int:
    """The epoch of the drill's lease."""
    lease = read_lease(ledger.store, "undead")
    assert lease is not None
    return lease.epoch


@contextmanager
def driver_shot(platform: Platform, job_id: str) -> Iterator[None]:
    """Kill a driver, JVM and Python, with SIGKILL and keep its Python executors alive; at the end they are gone.

    On another machine they would live on by themselves; here the process that forks them and the operator's guard
    would take them along, so both are killed as well.
    """
    drivers = platform.find_drivers(job_id)
    living = [child for child in drivers[0].children() if child.status() != psutil.STATUS_ZOMBIE]
    (daemon,) = [child for child in living if CONF["spark.python.daemon.module"] in child.cmdline()]
    executors = daemon.children()
    assert len(executors) == 2
    guard = drivers[0].parent()
    assert guard is not None
    try:
        for process in (daemon, guard, *drivers):
            with suppress(psutil.NoSuchProcess):  # the driver's Python may have ended with its JVM
                process.kill()
        _, alive = psutil.wait_procs([guard, *drivers], timeout=20)
        assert not alive
        assert all(executor.is_running() and executor.status() != psutil.STATUS_ZOMBIE for executor in executors)
        yield
        wait_for(lambda: not any(executor.is_running() for executor in executors))
    finally:
        for process in executors:
            if process.is_running():
                process.kill()


AWAY: Mapping[str, tuple[dict[str, Any] | None, str]] = {
    "refused": (None, "cannot be reached"),
    "unauthorized": ({"status": 401}, "rejected the credentials"),
    "forbidden": ({"status": 403}, "forbidden"),
    "busy": ({"status": 429}, "limits the rate"),
    "failing": ({"status": 500}, "HTTP 500"),
    "hanging": ({"delay_s": 20, "method": "POST"}, "did not respond in time"),
}


@pytest.fixture
def held_pods(platform: Platform) -> Iterator[None]:
    """No driver starts, which would take its time."""
    platform.fault_kubernetes({"hold": ["pods"]})
    yield
    platform.fault_kubernetes({})


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.usefixtures("held_pods")
def test_a_job_waits_for_kubernetes(platform: Platform, away: str) -> None:
    """Queued with the reason in sight while the API answers all else at once; submitted when Kubernetes is back."""
    fault, reason = AWAY[away]
    server = platform.services["spark"]
    if fault is None:
        server.stop()
    else:
        platform.fault_kubernetes({"calls": {"count": None, **fault}})
    job_id = platform.submit("spark", source={"bucket": "docs", "prefix": "none/"}, collection=f"away_{away}")
    for path in ("/livez", "/jobs", f"/jobs/{job_id}"):
        # The deadline is shorter than Kubernetes hangs.
        assert platform.http.get(path, timeout=5).status_code == 200
    job = platform.wait_until(job_id, lambda job: reason in (job["note"] or ""))
    assert job["state"] == "queued"
    assert "Submission 1 failed; the next one follows" in job["note"]
    sees_all = fault is None or "method" not in fault
    assert platform.http.get("/readyz", params={"within_s": 10}).json()["dependencies"]["spark"]["ok"] is not sees_all
    if fault is None:
        server.start()
        server.wait_until_ready()
    else:
        platform.fault_kubernetes({"calls": None})
    platform.wait_until(job_id, lambda job: job["state"] == "submitted")
    assert [name for name in platform.applications() if name.startswith(job_id)] == [f"{job_id}-01"]
    if fault is None:  # the first of them goes on to its end
        job = platform.wait(job_id)
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        assert job["note"].startswith("No object matches s3://docs/none/.")
        return
    assert platform.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    # Until its end it holds its share, for which the next of them would wait.
    assert platform.wait(job_id)["state"] == "canceled"


@pytest.mark.parametrize(
    ("held", "reason"),
    [("nodes", "Unschedulable: 0/1 nodes are available"), ("images", "ErrImagePull: failed to pull")],
)
def test_a_job_shows_why_its_driver_does_not_start(platform: Platform, held: str, reason: str) -> None:
    """In Kubernetes's own words, in the job's note; the job waits, and can be canceled."""
    platform.fault_kubernetes({"hold": [held]})
    try:
        job_id = platform.submit("spark", source={"bucket": "docs", "prefix": "none/"}, collection=f"held_{held}")
        job = platform.wait_until(job_id, lambda job: reason in (job["note"] or ""))
        assert job["state"] == "submitted"
        assert job["note"].startswith("Waiting for engine 'spark' to start the driver.")
        assert platform.http.post(f"/jobs/{job_id}/cancel").status_code == 202
        assert platform.wait(job_id)["state"] == "canceled"
    finally:
        platform.fault_kubernetes({})
