"""The kubelet: starts a driver pod's command, reports its phases, and ends it on deletion.

Imitates what clients see of the kubelet of Kubernetes 1.32 (`pkg/kubelet`): phases, container states, the reason
CreateContainerConfigError while a secret is missing, SIGTERM and the grace period. A driver's environment is the
manifest's plus what Spark needs to find Java and Python. Environment variables are plain values or come from whole
secrets (`envFrom.secretRef`); every other source keeps the pod waiting with a message that names it.

Each driver runs under a guard (`stack.guard`): nothing of it survives its deletion or the death of this server. It
inherits nothing of the server's own environment, so no credential of the server reaches a driver.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

import ingestion_engine
from ingestion_devstack.kubernetes.config import read_secret
from ingestion_devstack.kubernetes.events import record_event
from ingestion_devstack.kubernetes.faults import FaultPlan
from ingestion_devstack.kubernetes.find_spark import SparkMissingError, find_java, find_spark
from ingestion_devstack.kubernetes.store import Key, Object, ObjectStore
from ingestion_devstack.kubernetes.submit import NOTES, Machine, container_status, pending_status
from ingestion_engine.runtime.timestamps import timestamp_now

_log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
"""Pause before a container that cannot be created is tried again; a real kubelet backs off from 10 s."""
_KEPT_LOGS: Final = 200
"""Number of drivers' logs kept in the data directory, the newest."""


class ReferenceMissingError(Exception):
    """A secret that the pod needs is missing; the message is the kubelet's."""


@dataclass(slots=True)
class _Run:
    """One container."""

    task: asyncio.Task[None]
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False
    killer: asyncio.TimerHandle | None = None


class Kubelet:
    """Runs one process per pod. Used from the event loop only."""

    def __init__(self, store: ObjectStore, machine: Machine, faults: FaultPlan) -> None:
        self._store = store
        self._machine = machine
        self._faults = faults
        self._runs: dict[str, _Run] = {}
        self._stopping = False

    def forget_lost(self) -> None:
        """Remove the pods whose processes ended with the previous server, and the files they left."""
        shutil.rmtree(self._machine.data_dir / "work", ignore_errors=True)
        for pod in list(self._store.list_objects("pods", None)):
            if pod["status"]["phase"] == "Running":
                self._store.remove(_key(pod))

    def sync(self, key: Key) -> float | None:
        """Start or end one pod's process as its object demands; return the seconds until the next check, or None."""
        pod = self._store.get(key)
        if pod is None:
            return None
        run = self._runs.get(pod["metadata"]["uid"])
        if pod["metadata"].get("deletionTimestamp"):
            self._end(pod, run)
            return None
        if run is not None or pod["status"]["phase"] != "Pending":
            return None
        if held := self._faults.held_pods:
            self._hold(pod, held)
            return None
        try:
            environment = self._make_environment(pod)
        except (ReferenceMissingError, SparkMissingError) as error:
            self._wait(pod, "CreateContainerConfigError", str(error), event=f"Error: {error}")
            return _RETRY_S
        uid = pod["metadata"]["uid"]
        self._runs[uid] = _Run(asyncio.create_task(self._run(key, pod, environment), name=f"driver {key[2]}"))
        return None

    def _hold(self, pod: Object, what: str) -> None:
        """Keep a pod Pending with the status and the event that a real cluster gives it."""
        image = pod["spec"]["containers"][0]["image"]
        if what == "images":
            why = f'failed to pull and unpack image "{image}": not found'
            self._wait(pod, "ErrImagePull", why, event=f'Failed to pull image "{image}": {why}')
        elif what == "nodes":
            why = "0/1 nodes are available: 1 Insufficient cpu."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
            self._change(pod, {"phase": "Pending", "conditions": [condition]}, reason="FailedScheduling", event=why)

    def _wait(self, pod: Object, reason: str, message: str, *, event: str) -> None:
        """Report that a pod's container waits."""
        waiting = pending_status(pod["spec"]["containers"][0], reason, message)
        self._change(pod, waiting, reason="Failed", event=event)

    def _change(self, pod: Object, status: dict[str, Any], *, reason: str, event: str) -> None:
        if pod["status"] != status:
            self._store.put("pods", {**pod, "status": status})
            record_event(self._store, pod, kind="Warning", reason=reason, message=event)

    async def stop(self, grace_s: float) -> None:
        """End every driver: SIGTERM, after `grace_s` SIGKILL. Pods stay as they are."""
        self._stopping = True
        for run in self._runs.values():
            _begin_stop(run, grace_s)
        await asyncio.gather(*(run.task for run in self._runs.values()), return_exceptions=True)

    def _end(self, pod: Object, run: _Run | None) -> None:
        if run is None:
            self._store.remove(_key(pod))
            return
        grace_s = float(pod["metadata"].get("deletionGracePeriodSeconds", 30))
        if not run.stopping or grace_s == 0:
            _begin_stop(run, grace_s)

    async def _run(self, key: Key, pod: Object, environment: dict[str, str]) -> None:
        uid = pod["metadata"]["uid"]
        work = self._machine.data_dir / "work" / uid
        started = timestamp_now()
        try:
            code = await self._run_command(pod, work, environment=environment, started=started)
        except OSError as error:
            _log.error("a driver could not be started", extra={"pod": key[2], "error": str(error)})
            code = 128  # what container runtimes report for a command that cannot be started
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
            self._runs.pop(uid, None)
        now = self._store.get(key)
        if self._stopping or now is None or now["metadata"]["uid"] != uid:
            return
        if now["metadata"].get("deletionTimestamp"):
            self._store.remove(key)
            return
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": started}
        ended["finishedAt"] = timestamp_now()
        self._set_status(now, "Failed" if code else "Succeeded", state={"terminated": ended}, started=started)

    async def _run_command(self, pod: Object, work: Path, *, environment: dict[str, str], started: str) -> int:
        (work / "tmp").mkdir(parents=True, exist_ok=True)
        log = log_path(self._machine.data_dir, pod)
        log.parent.mkdir(parents=True, exist_ok=True)
        grace_s, container = pod["spec"]["terminationGracePeriodSeconds"], pod["spec"]["containers"][0]
        notes = pod["metadata"].get("annotations", {}).get(NOTES)
        with log.open("ab") as output:
            if notes:
                output.write(f"Kubernetes stand-in: these fields have no effect on one machine: {notes}\n".encode())
                output.flush()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ingestion_devstack.stack.guard", "--grace", str(grace_s), "--"),
                *container["command"],
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**environment, "HOME": str(work), "TMPDIR": str(work / "tmp")},
                cwd=work,
                start_new_session=True,
            )
        run = self._runs[pod["metadata"]["uid"]]
        run.process = process
        if run.stopping:
            _begin_stop(run, 0)
        now = self._store.get(_key(pod))
        if now is not None:
            self._set_status(now, "Running", state={"running": {"startedAt": started}}, started=started)
        _prune_logs(self._machine.data_dir)
        return await process.wait()

    def _set_status(self, pod: Object, phase: str, *, state: dict[str, Any], started: str) -> None:
        ready, container = phase == "Running", pod["spec"]["containers"][0]
        status = {
            "phase": phase,
            "startTime": started,
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [container_status(container, state, ready=ready)],
        }
        self._store.put("pods", {**pod, "status": status})

    def _make_environment(self, pod: Object) -> dict[str, str]:
        container = pod["spec"]["containers"][0]
        environment = {"LANG": "C.UTF-8"}
        for source in container["envFrom"]:
            environment |= self._read_source(source)
        for entry in container["env"]:
            if entry.get("valueFrom"):
                raise ReferenceMissingError(f"the stand-in serves plain values and envFrom.secretRef, not {entry}")
            environment[entry["name"]] = str(entry.get("value", ""))
        package = str(Path(ingestion_engine.__file__).parent.parent)
        java, spark = find_java(self._machine.java_home), find_spark()
        return {
            **environment,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(java / "bin"), "/usr/bin", "/bin"]),
            "PYTHONPATH": os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "JAVA_HOME": str(java),
            "SPARK_HOME": str(spark),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self._machine.data_dir.resolve() / "work" / pod["metadata"]["uid"] / "tmp"),
        }

    def _read_source(self, source: Mapping[str, Any]) -> dict[str, str]:
        if set(source) != {"secretRef"}:
            raise ReferenceMissingError(f"the stand-in serves plain values and envFrom.secretRef, not {source}")
        name = source["secretRef"]["name"]
        values = read_secret(self._machine.data_dir, name)
        if values is None:
            raise ReferenceMissingError(f'secret "{name}" not found')
        return values


def _begin_stop(run: _Run, grace_s: float) -> None:
    """Close the guard's pipe, which ends the driver; kill the whole tree after the grace period."""
    run.stopping = True
    process = run.process
    if process is None:
        return
    if process.stdin is not None and not process.stdin.is_closing():
        process.stdin.close()
    if run.killer is not None:
        run.killer.cancel()
    if grace_s <= 0:
        _kill_tree(process)
    else:
        run.killer = asyncio.get_running_loop().call_later(grace_s, _kill_tree, process)


def _kill_tree(process: asyncio.subprocess.Process) -> None:
    """SIGKILL for everything below the guard; the guard then ends by itself."""
    if process.returncode is not None:
        return
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for child in descendants:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def log_path(data_dir: Path, pod: Object) -> Path:
    """Return the file with the output of a pod's container; it outlives the pod."""
    metadata = pod["metadata"]
    return data_dir / "logs" / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}.log"


def _prune_logs(data_dir: Path) -> None:
    logs = sorted((data_dir / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[:-_KEPT_LOGS]:
        path.unlink(missing_ok=True)


def _key(pod: Object) -> Key:
    return ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
