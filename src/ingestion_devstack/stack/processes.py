"""Child processes of the embedded stack: started under a guard, logged into a file, stopped without orphans."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
_TAIL_LINES = 25
_TAIL_BYTES = 16_384


class ManagedProcess:
    """One running command; its output goes to ``log_path``.

    Ends with ``stop()``, and also when this process dies in any way: a guard holds the other end of a pipe (see
    ``guard``).
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], log_path: Path, cwd: Path, grace_s: float = 10.0
    ) -> None:
        self._grace_s = grace_s
        log_path.parent.mkdir(parents=True, exist_ok=True)
        guard = [sys.executable, "-m", "ingestion_devstack.stack.guard", "--grace", str(grace_s), "--", *command]
        with log_path.open("ab") as log:
            self._guard = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone, which stops in order
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._guard.poll()

    def ask_to_stop(self) -> None:
        """Begin to end the command and all its descendants; returns at once."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()

    def wait(self) -> None:
        """Return when nothing of it is left; at most the grace time and a moment after ``ask_to_stop``."""
        try:
            self._guard.wait(self._grace_s + 10.0)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # takes the command with it, by its parent-death signal
            self._guard.wait()

    def stop(self) -> None:
        """End the command and all its descendants; nothing of it is left afterwards."""
        self.ask_to_stop()
        self.wait()


def child_env(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any ``INGEST_*`` or ``RAY_*`` variable, plus ``extra``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("INGEST_", "RAY_"))}
    return {**inherited, "PYTHONUNBUFFERED": "1", **extra}


def read_tail(path: Path, *, from_byte: int = 0) -> str:
    """The last lines of a log from an offset on, for an error message; empty when there is nothing."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(from_byte, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


class Ports:
    """Hands out free loopback ports: the one used last time, else the well-known one, else any.

    Two names never get the same port. Another program can still take a port before its service binds it; the service's
    log then says so.
    """

    def __init__(self, remembered: Mapping[str, int]) -> None:
        self._remembered = dict(remembered)
        self._given: set[int] = set()
        self.by_name: dict[str, int] = {}

    def take(self, name: str, preferred: int = 0, *, grpc_twin: bool = False) -> int:
        """A free port for ``name``; with ``grpc_twin``, ``port + 10000`` is free as well (SeaweedFS wants both)."""
        for candidate in (self._remembered.get(name, 0), preferred, *([0] * 64)):
            port = candidate or _any_port()
            twins = [port, port + 10_000] if grpc_twin else [port]
            if all(twin <= 65_535 and twin not in self._given and is_free(twin) for twin in twins):
                self._given.update(twins)
                self.by_name[name] = port
                return port
        raise OSError(f"no free port on {LOOPBACK} for {name}")


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """True when a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
