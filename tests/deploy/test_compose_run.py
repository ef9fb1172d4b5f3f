"""What ``deploy/compose.yaml`` starts, started outside containers: a job from upload to search.

Commands, environments, secrets and health checks are those of the file; names of services are replaced by addresses of
loopback, and paths of containers by folders. SeaweedFS, PostgreSQL and Ray are real; the other systems are the
embedded stack's, with the keys of the file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from support.compose import ROOT, list_secrets, read_compose
from support.images import IMAGES, Dockerfile
from support.postgres import Postgres
from support.servers import RunningServer, free_port, start_ollama, start_qdrant, start_weaviate
from support.waiting import wait_for

OUR_IMAGES = {"ingestion-engine": "service", "ingestion-engine-ray": "ray-worker"}


@dataclass
class Project:
    """A running project; ``folder`` is its checkout."""

    folder: Path
    services: dict[str, Any] = field(
        default_factory=lambda: read_compose({"INGEST_OLLAMA__MODEL": "hash-384"})["services"]
    )
    ports: dict[str, int] = field(default_factory=dict)
    """Ports here by ``service:port``."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("scripts/compose.sh", "deploy/compose/env.example"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.folder / name)
        subprocess.run([self.folder / "scripts/compose.sh", "secrets"], check=True, timeout=60)

    def port(self, address: str) -> int:
        """The port here of ``service:port``."""
        if address not in self.ports:
            self.ports[address] = free_port()
        return self.ports[address]

    def secret(self, name: str) -> str:
        return (self.folder / "deploy/compose/secrets" / name).read_text(encoding="utf-8")

    def adapt(self, name: str, text: str) -> str:
        """A text of a service with the addresses and folders of this machine."""
        for address in ("s3:9000", "ollama:11434", "gateway:11430", "qdrant:6333", "weaviate:8080", "weaviate:50051"):
            text = text.replace(f"//{address}", f"//127.0.0.1:{self.port(address)}")
        for address in ("ray:8265", "service:8080"):
            text = text.replace(f"//{address}", f"//127.0.0.1:{self.port(address)}")
        text = text.replace("/run/secrets", str(self.folder / name / "secrets"))
        text = text.replace("/opt/compose", str(ROOT / "deploy/compose"))
        return text.replace("/opt/ingest/healthcheck.py", str(IMAGES / "healthcheck.py"))

    def environment(self, name: str) -> dict[str, str]:
        """The variables of the image and of the service, and no others that say anything about the product."""
        own = self.folder / name
        if not (own / "secrets").exists():
            (own / "secrets").mkdir(parents=True)
            for file, secret in list_secrets(self.services[name]).items():
                (own / "secrets" / file).write_text(self.secret(secret), encoding="utf-8")
        image = OUR_IMAGES.get(self.services[name]["image"].partition(":")[0])
        variables = {} if image is None else Dockerfile.read(IMAGES / image / "Dockerfile").final.environment()
        variables |= {
            key: self.adapt(name, str(value)) for key, value in self.services[name].get("environment", {}).items()
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {
            **variables,
            "PATH": path,
            "HOME": str(own),
            "INGEST_DATA_DIR": str(own),
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry.endswith("src")),
            # Containers listen on their own network; these on loopback.
            "INGEST_API__HOST": "127.0.0.1",
            "INGEST_GATEWAY__HOST": "127.0.0.1",
            "INGEST_API__PORT": str(self.port("service:8080")),
            "INGEST_GATEWAY__PORT": str(self.port("gateway:11430")),
        }

    def command(self, name: str, *more: str) -> list[str]:
        service = self.services[name]
        words = [*service.get("entrypoint", ()), *(more or service.get("command", ()))]
        # -I would leave this checkout out of the path of a test that runs in another checkout's environment.
        return [self.adapt(name, str(word)) for word in words if word != "-I"]

    def start(self, name: str, command: list[str], **variables: str) -> None:
        """Start a service and wait until its health check succeeds."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder / name,
                env={**self.environment(name), **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: self.is_healthy(name), every_s=0.3)

    def is_healthy(self, name: str) -> bool:
        log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        assert self.processes[name].poll() is None, log
        image = Dockerfile.read(IMAGES / "service" / "Dockerfile").final.texts("HEALTHCHECK")[0]
        test = self.services[name].get("healthcheck", {}).get("test") or orjson.loads(image[image.index("[") :])
        words = [self.adapt(name, word) for word in test if word not in {"CMD", "-I"}]
        inner = {"service": "8080", "gateway": "11430", "ray": "8265", "seaweedfs": "9000"}[name]
        outer = str(self.port(f"s3:{inner}" if name == "seaweedfs" else f"{name}:{inner}"))
        words = [word.replace(inner, outer) for word in words]
        return subprocess.run(words, env=self.environment(name), check=False, capture_output=True).returncode == 0

    def run(self, name: str, *more: str) -> str:
        """Run a one-shot to its end; return what it printed."""
        done = subprocess.run(
            self.command(name, *more),
            env=self.environment(name),
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start_s3(project: Project) -> None:
    """The profile ``seaweedfs``: its shell line reads the keys from the secrets."""
    data = project.folder / "seaweedfs" / "data"
    data.mkdir(parents=True)
    changed = {"-ip=seaweedfs": "-ip=127.0.0.1", "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1", "-dir=/data": f"-dir={data}"}
    changed["-s3.port=9000"] = f"-s3.port={project.port('s3:9000')}"
    words = project.command("seaweedfs")
    assert changed.keys() <= set(words)
    ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
    ports += [f"-{name}.port.grpc={free_port()}" for name in ("s3", "master", "volume", "filer")]
    others = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    project.start("seaweedfs", [*(changed.get(word, word) for word in words), *ports, *others])


def start_database(project: Project) -> Postgres:
    """A PostgreSQL as the image prepares it from POSTGRES_USER, POSTGRES_DB and the file of the password."""
    postgres = Postgres()
    postgres.start()
    variables = project.environment("postgres")
    user, database = variables["POSTGRES_USER"], variables["POSTGRES_DB"]
    password = Path(variables["POSTGRES_PASSWORD_FILE"]).read_text(encoding="utf-8")
    statements = [f"ALTER USER {user} PASSWORD '{password}'", f"CREATE DATABASE {database} OWNER {user}"]
    server = ["--host=127.0.0.1", f"--port={postgres.port}", f"--username={user}"]
    for statement in statements:
        # The first statement changes the password, which the second one uses.
        for given in ("secret", password):
            psql = [postgres.binaries / "psql", *server, "--dbname=postgres", "--command", statement]
            done = subprocess.run(psql, env={**os.environ, "PGPASSWORD": given}, check=False, capture_output=True)
            if done.returncode == 0:
                break
        assert done.returncode == 0, done.stderr
    url = project.secret("INGEST_DATABASE_URL").replace("@postgres:5432/", f"@127.0.0.1:{postgres.port}/")
    (project.folder / "deploy/compose/secrets/INGEST_DATABASE_URL").write_text(url, encoding="utf-8")
    return postgres


def start_ray(project: Project) -> None:
    """The head with the file's command; only ports, addresses and folders differ."""
    changed = {"--dashboard-host=0.0.0.0": "--dashboard-host=127.0.0.1"}
    words = [changed.get(word, word) for word in project.command("ray")]
    assert "--dashboard-host=127.0.0.1" in words
    here = [
        "--node-ip-address=127.0.0.1",
        f"--port={free_port()}",
        f"--dashboard-port={project.port('ray:8265')}",
        f"--dashboard-agent-listen-port={free_port()}",
        f"--temp-dir={project.folder / 'r'}",
    ]
    hook = "ingestion_devstack.stack.ray_head.leave_out_client_server"
    project.start("ray", [*words, *here], RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_START_HOOK=hook)


@pytest.fixture
def project() -> Iterator[Project]:
    # Short, because Ray's sockets are below it.
    folder = Path(tempfile.mkdtemp(prefix="ic-"))
    project = Project(folder)
    servers: list[RunningServer] = []
    databases: list[Postgres] = []
    try:
        start_s3(project)
        databases.append(start_database(project))
        servers.append(start_ollama(folder / "ollama"))
        project.ports["ollama:11434"] = int(servers[0].url.rpartition(":")[2])
        key = project.secret("INGEST_QDRANT__API_KEY")
        servers.append(start_qdrant(folder / "qdrant", port=project.port("qdrant:6333"), api_key=key))
        rest, grpc = project.port("weaviate:8080"), project.port("weaviate:50051")
        key = project.secret("INGEST_WEAVIATE__API_KEY")
        servers.append(start_weaviate(folder / "weaviate", port=rest, grpc_port=grpc, api_key=key))
        start_ray(project)
        yield project
    finally:
        project.stop()
        for server in servers:
            server.stop()
        for database in databases:
            database.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_from_upload_to_search(project: Project, tmp_path: Path) -> None:
    """Buckets, gateway, service, then the commands of the page in the docs, and the secrets stay where they belong."""
    assert project.run("buckets").count("created") == 2
    assert project.run("buckets").count("exists") == 2
    for name in ("gateway", "service"):
        project.start(name, [sys.executable, "-m", "ingestion_engine.cli", *project.command(name)])
    url = f"http://127.0.0.1:{project.port('service:8080')}"
    ready = wait_for(lambda: httpx.get(f"{url}/readyz", timeout=30))
    assert ready.status_code == 200, ready.text
    assert httpx.get(f"{url}/jobs").status_code == 401
    assert httpx.get(f"{url}/metrics").status_code == 200

    (tmp_path / "late.txt").write_text("A late writer is fenced off by the lease of the collection.", encoding="utf-8")
    project.run("cli", "upload", str(tmp_path), "s3://docs/handbook/")
    project.run("cli", "submit", "s3://docs/handbook/", "--collection", "handbook", "--watch")
    found = project.run("cli", "search", "handbook", "late writer", "--json")
    assert "fenced off by the lease" in found
    job = orjson.loads(project.run("cli", "jobs", "--json"))
    assert (job["engine"], job["state"]) == ("ray", "succeeded")

    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in project.folder.glob("*.log"))
    for name in ("INGEST_S3__SECRET_ACCESS_KEY", "INGEST_QDRANT__API_KEY", "INGEST_RAY__AUTH_TOKEN", "ingest_api_key"):
        assert project.secret(name) not in logs
