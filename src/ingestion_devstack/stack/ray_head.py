"""A real Ray head on loopback, with token authentication, for the embedded stack."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from ingestion_devstack.kubernetes.config import write_private
from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.service import Home, Plan, answers

_OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""Task arguments and results are short strings and small records; Ray's own minimum is 75 MiB."""
_MIN_CPUS = 4
"""Logical CPUs: a partition spends most of its time waiting for the embedder and the stores."""
_TEMP_PREFIX = "ingest-ray-"
_TEMP_ROOT = Path("/tmp")  # noqa: S108 - Unix sockets below it must stay under 107 bytes; mkdtemp makes it private
_TEMP_NOTE = "ray-temp-dir"


def plan_ray_head(home: Home) -> Plan:
    """Return the plan of a head that also runs the tasks. Its temporary directory is removed when the head stops."""
    _remove_leftover(home)
    token_path = home.data_dir / "ray-token"
    write_private(token_path, home.credentials.ray_auth_token.encode())
    temp_dir = Path(tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir=_TEMP_ROOT))
    (home.data_dir / _TEMP_NOTE).write_text(str(temp_dir), encoding="utf-8")
    agent_port = home.ports.take("ray-agent", 52_365)
    ports = {
        "--port": home.ports.take("ray-gcs", 6379),
        "--dashboard-port": home.ports.take("ray", 8265),
        "--dashboard-agent-listen-port": agent_port,
        "--ray-client-server-port": home.ports.take("ray-client", 10_001),
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
            *(f"{flag}={port}" for flag, port in ports.items()),
            f"--num-cpus={cpus}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--temp-dir={temp_dir / 'r'}",  # Ray makes its directory public; the one around it stays private
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
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        sees_settings=True,
        grace_s=15.0,
        cleanup=lambda: _remove_leftover(home),
    )


def _remove_leftover(home: Home) -> None:
    """Remove the temporary directory of the last head, which remains when its supervisor was killed."""
    note = home.data_dir / _TEMP_NOTE
    if not note.exists():
        return
    directory = Path(note.read_text(encoding="utf-8").strip())
    if directory.parent == _TEMP_ROOT and directory.name.startswith(_TEMP_PREFIX):
        shutil.rmtree(directory, ignore_errors=True)
    note.unlink(missing_ok=True)
