"""Child processes of the embedded stack: started under a guard, logged into a file, stopped without orphans."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ingestion_devstack.stack.private_files import UMASK, open_log

LOOPBACK = "127.0.0.1"
_TAIL_LINES = 25
_TAIL_BYTES = 16_384
MAX_PORT = 65_535
ANY_PORT_TRIES = 64
"""How often another port is tried when neither the last nor the well-known one is free (a guess)."""


class ManagedProcess:
    """One running command; its output goes to ``log_path``.

    Ends with ``stop()``, and when this process dies for any reason: a guard holds the other end of a pipe (see
    ``guard``).
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], log_path: Path, cwd: Path, grace_s: float = 10.0
    ) -> None:
        self._grace_s = grace_s
        guard = [sys.executable, "-m", "ingestion_devstack.stack.guard", "--grace", str(grace_s), "--", *command]
        with open_log(log_path) as log:
            self._guard = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=cwd,
                umask=UMASK,
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone, which stops all in order
            )

    @property
    def exit_code(self) -> int | None:
        """Exit code of the command; None while it runs."""
        return self._guard.poll()

    def begin_stop(self) -> None:
        """Start to end the command and all its descendants; return immediately."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()

    def wait(self) -> None:
        """Return when no process of it is left: at most 10 s after the grace time that ``begin_stop`` started."""
        try:
            self._guard.wait(self._grace_s + 10.0)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # ends the command too, by its parent-death signal
            self._guard.wait()

    def stop(self) -> None:
        """End the command and all its descendants; return when no process of it is left."""
        self.begin_stop()
        self.wait()


def child_env(extra: Mapping[str, str], *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Return this process's environment without any ``INGEST_*`` or ``RAY_*`` variable, plus ``extra``.

    Args:
        extra: Variables to add.
        without: Beginnings of the names of further variables to leave out.
    """
    dropped = ("INGEST_", "RAY_", *without)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**inherited, "PYTHONUNBUFFERED": "1", **extra}


def read_tail(path: Path, *, from_byte: int = 0) -> str:
    """Return the last lines of a log from an offset on, for an error message; empty when there are none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(from_byte, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


class Ports:
    """Assigns free loopback ports: the one used last time, else the well-known one, else any.

    Two names never get the same port, and neither do two stacks that start at the same time: a port is reserved for all
    stacks of the machine until ``release``. Another program can still take a port before its service binds it; the
    service's log then reports that.
    """

    def __init__(self, remembered: Mapping[str, int]) -> None:
        self._remembered = dict(remembered)
        self._reserved: dict[int, socket.socket] = {}
        self.by_name: dict[str, int] = {}

    def take(self, name: str, preferred: int = 0, *, grpc_twin: bool = False) -> int:
        """Return a free port for ``name``; with ``grpc_twin``, ``port + 10000`` is free too (SeaweedFS uses both)."""
        wanted = [port for port in (self._remembered.get(name, 0), preferred) if port]
        for candidate in (*wanted, *([0] * ANY_PORT_TRIES)):
            port = candidate or _any_port()
            if self._take_all([port, port + 10_000] if grpc_twin else [port]):
                self.by_name[name] = port
                return port
        raise OSError(f"No free port on {LOOPBACK} for {name}.")

    def take_exactly(self, name: str, port: int) -> bool:
        """Return whether this port is free, and assign it to ``name`` if it is."""
        if not self._take_all([port]):
            return False
        self.by_name[name] = port
        return True

    def release(self) -> None:
        """Let other stacks have the ports."""
        for reservation in self._reserved.values():
            reservation.close()
        self._reserved.clear()

    def _take_all(self, ports: Sequence[int]) -> bool:
        reserved: dict[int, socket.socket] = {}
        for port in ports:
            is_free = port <= MAX_PORT and port not in self._reserved and _is_free(port)
            reservation = _reserve(port) if is_free else None
            if reservation is None:
                for other in reserved.values():
                    other.close()
                return False
            reserved[port] = reservation
        self._reserved |= reserved
        return True


def _reserve(port: int) -> socket.socket | None:
    """Return a reservation that ends when it is closed or its process dies; None when another stack holds one.

    It is a Unix socket with an abstract name, which leaves no file behind. Only Linux has such names; elsewhere every
    reservation succeeds.
    """
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if sys.platform == "linux":
        try:
            reservation.bind(f"\0ingestion-engine-port-{port}")
        except OSError:
            reservation.close()
            return None
    return reservation


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
