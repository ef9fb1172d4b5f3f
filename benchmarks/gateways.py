"""Gateways of a benchmark: each is ``ingest gateway`` in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from http_server import LOOPBACK

from ingestion_engine.runtime.settings import PREFIX

READY_S = 30.0
STOP_S = 15.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Gateway:
    """A gateway's process, which can be killed and started again on the same port."""

    url: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: IO[bytes]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            RuntimeError: It ended, or is not ready in time; the message has the end of its log.
        """
        self.process = subprocess.Popen(
            self.command, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + READY_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.is_ready():
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"the gateway is not ready: {self.read_log()[-2000:]}")

    def is_ready(self) -> bool:
        """Return whether ``/readyz`` answers 200."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=2)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def read_log(self) -> str:
        """Return what the process wrote so far."""
        return Path(f"/proc/self/fd/{self.log.fileno()}").resolve().read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def cpu_s(self) -> float:
        """Return the processor seconds of all threads of the process. Linux only."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def rss_bytes(self) -> int:
        """Return the resident memory of the process. Linux only."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stop the process where it is, as a frozen machine would."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the process, with SIGKILL if need be. Idempotent."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()


@contextlib.contextmanager
def run_gateways(
    servers: Sequence[str],
    *,
    count: int = 1,
    in_flight: int | None = None,
    texts_per_second: float | None = None,
    **settings: object,
) -> Iterator[list[Gateway]]:
    """Run gateways in front of servers while the context lasts.

    Args:
        servers: URLs as in ``INGEST_OLLAMA__URLS``.
        count: How many gateways, each a peer of the others.
        in_flight: Cap of the requests in flight, all gateways together.
        texts_per_second: Cap of the texts per second, all gateways together.
        settings: Further settings of the group ``gateway``.
    """
    ports = [free_port() for _ in range(count)]
    urls = [f"http://{LOOPBACK}:{port}" for port in ports]
    env = {"OLLAMA__URLS": ",".join(servers), "GATEWAY__HOST": LOOPBACK}
    if count > 1:
        env["GATEWAY__URL"] = ",".join(urls)
    if in_flight is not None:
        env["EMBED__IN_FLIGHT"] = str(in_flight)
    if texts_per_second is not None:
        env["EMBED__TEXTS_PER_SECOND"] = str(texts_per_second)
    env |= {f"GATEWAY__{name.upper()}": str(value) for name, value in settings.items()}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ingest-bench-"))
        gateways = []
        for port, url in zip(ports, urls, strict=True):
            log = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder))
            own = {**env, "GATEWAY__PORT": str(port), "DATA_DIR": folder}
            command = [sys.executable, "-m", "ingestion_engine.cli", "gateway"]
            gateway = Gateway(url, command, {PREFIX + name: value for name, value in own.items()}, log.file)
            stack.callback(gateway.stop)
            gateways.append(gateway)
        for gateway in gateways:
            gateway.start()
        yield gateways
