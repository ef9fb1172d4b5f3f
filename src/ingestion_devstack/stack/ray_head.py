"""A real Ray head on loopback, with token authentication, for the embedded stack."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import psutil

from ingestion_devstack.kubernetes.config import write_private
from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.service import OF_THE_SERVICE, Home, Plan, answers

_OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""Task arguments and results are short strings and small records; Ray's own minimum is 75 MiB."""
_MIN_CPUS = 4
"""Logical CPUs: a partition spends most of its time waiting for the embedder and the stores."""
_TEMP_PREFIX = "ingest-ray-"
_TEMP_ROOT = Path("/tmp")  # noqa: S108 - Unix sockets below it must stay under 107 bytes; mkdtemp makes it private
_TEMP_LOCK = "owner.lock"
"""File in the temporary directory that the supervisor locks while it runs; the kernel ends the lock with it."""

_YOUNG_S = 600.0
"""A directory without a lock is left alone for this long: its supervisor may be about to lock it."""


def plan_ray_head(home: Home) -> Plan:
    """Return the plan of a head that also runs the tasks. Its temporary directory is removed when the head stops."""
    remove_leftovers(_TEMP_ROOT)
    token_path = home.data_dir / "ray-token"
    write_private(token_path, home.credentials.ray_auth_token.encode())
    temp_dir = LockedDirectory(Path(tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir=_TEMP_ROOT)))
    agent_port = home.ports.take("ray-agent", 52_365)
    ports = {
        "--port": home.ports.take("ray-gcs", 6379),
        "--dashboard-port": home.ports.take("ray", 8265),
        "--dashboard-agent-listen-port": agent_port,
    }
    cpus = max(_MIN_CPUS, os.cpu_count() or 1)
    url = f"http://{LOOPBACK}:{ports['--dashboard-port']}"
    headers = {"Authorization": f"Bearer {home.credentials.ray_auth_token}"}
    return Plan(
        name="ray",
        title="Ray",
        url=url,
        what=f"a real Ray head with {cpus} logical CPUs and token authentication",
        command=(
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            f"--node-ip-address={LOOPBACK}",
            f"--dashboard-host={LOOPBACK}",
            "--include-dashboard=true",
            "--no-monitor",  # the autoscaler
            "--include-log-monitor=false",  # copies the output of workers to drivers, which do not want it
            *(f"{flag}={port}" for flag, port in ports.items()),
            f"--num-cpus={cpus}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--temp-dir={temp_dir.path / 'r'}",  # Ray makes its directory public; the one around it stays private
        ),
        # The dashboard answers seconds before the node's agent, and only the agent starts jobs.
        is_ready=lambda: (
            answers(f"{url}/api/jobs/", headers=headers)
            and answers(f"http://{LOOPBACK}:{agent_port}/api/local_raylet_healthz", headers=headers)
        ),
        variables={
            "INGEST_RAY__ADDRESS": url,
            "INGEST_RAY__AUTH_TOKEN": home.credentials.ray_auth_token,
            "INGEST_RAY__PYTHON": sys.executable,
        },
        env={
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            # Without this, Ray replaces 127.0.0.1 by the machine's outer address, as for a cluster of several machines.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_START_HOOK": f"{leave_out_client_server.__module__}.{leave_out_client_server.__name__}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        sees_settings=True,
        needs_no=OF_THE_SERVICE,  # drivers and workers run the documents' parsers
        grace_s=15.0,
        prepare=lambda _: temp_dir.ensure(),
        cleanup=temp_dir.remove,
    )


def leave_out_client_server(ray_params: Any, _is_head: bool) -> None:
    """Change the parameters of ``ray start``, which calls this hook in its own process: no server for Ray clients.

    Jobs do not use it, and a head ends as a whole when it does not start in time. No option turns it off (Ray 2.60,
    scripts.py: port 10001 whenever gRPC is installed).
    """
    ray_params.ray_client_server_port = None


class LockedDirectory:
    """A temporary directory of this process; ``remove_leftovers`` removes it when the process has died."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self.ensure()

    def ensure(self) -> None:
        """Create and lock the directory; do nothing when it is there. Only its owner can enter it."""
        if self._lock is None:
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._lock = (self.path / _TEMP_LOCK).open("w", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the directory. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def remove_leftovers(root: Path) -> None:
    """Remove the temporary directories of this user whose supervisor was killed, whatever became of its data."""
    for directory in root.glob(f"{_TEMP_PREFIX}*"):
        try:
            if directory.stat().st_uid != os.getuid():
                continue
            if not (directory / _TEMP_LOCK).exists():
                if _is_abandoned(directory):
                    shutil.rmtree(directory, ignore_errors=True)
                continue
            with (directory / _TEMP_LOCK).open("r+", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:  # locked, or removed at this moment
            continue


def _is_abandoned(directory: Path) -> bool:
    """Return whether a directory without a lock is old, and no process has it in its command line, as Ray's have."""
    if time.time() - directory.stat().st_mtime < _YOUNG_S:
        return False
    commands = (process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"]))
    return not any(f"{directory}/" in part for command in commands for part in command)
