"""One server of the embedded stack: its plan, and its process while it runs."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ingestion_devstack.stack.credentials import Credentials
from ingestion_devstack.stack.processes import ManagedProcess, Ports, child_env, read_tail

PROBE_TIMEOUT_S = 5.0
"""A starting server on a busy machine may accept a connection long before it answers."""


RESTART_AGAIN_S = 600.0
"""A server that ends again sooner after a restart is broken (a guess)."""


OF_THE_SERVICE = ("INGEST_DATABASE_URL", "INGEST_API__", "INGEST_OIDC__", "INGEST_AUDIT__")
"""Beginnings of variables that only the service itself needs: the database's password, who may call it."""


class StackError(Exception):
    """The embedded stack cannot run; the message names the server and the reason, and shows the end of its log."""


@dataclass(frozen=True, slots=True)
class Home:
    """Directory, ports and secrets of one stack."""

    data_dir: Path
    ports: Ports
    credentials: Credentials

    def log_path(self, name: str) -> Path:
        """Return the log file of one server; every run appends to it."""
        return self.data_dir / "logs" / f"{name}.log"


@dataclass(frozen=True, slots=True)
class Plan:
    """Command and environment of one server, and the check that it is ready."""

    name: str
    title: str
    url: str
    what: str
    """Shown in the table of systems: the program behind the address, and whether it is a stand-in."""
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    variables: Mapping[str, str] = field(default_factory=dict)
    """``INGEST_*`` settings with which the product finds this server."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of the server itself."""
    not_inherited: tuple[str, ...] = ()
    """Beginnings of variables of the user's shell that the server must not see: they would change what it is."""
    sees_settings: bool = False
    """True for servers that run the product's code: they receive every ``INGEST_*`` variable of the stack."""
    needs_no: tuple[str, ...] = ()
    """Beginnings of those ``INGEST_*`` variables that it does not need all the same, such as passwords of others."""
    prepare: Callable[[Mapping[str, str]], None] = lambda _variables: None
    """Called with every ``INGEST_*`` variable of the stack before the server starts."""
    grace_s: float = 10.0
    cleanup: Callable[[], None] = lambda: None
    """Called after the server has stopped."""


class Service:
    """One server of the stack; can be stopped and started again while the others run."""

    def __init__(self, plan: Plan, home: Home, stack_env: Mapping[str, str]) -> None:
        self.plan = plan
        self._home = home
        self._stack_env = stack_env
        seen = stack_env if plan.sees_settings else {}
        own = {**{name: value for name, value in seen.items() if not name.startswith(plan.needs_no)}, **plan.env}
        self._env = child_env(own, without=plan.not_inherited)
        self._process: ManagedProcess | None = None
        self._started = 0.0
        self._log_start = 0
        self._restarted_at: float | None = None

    @property
    def name(self) -> str:
        """The server's short name, such as ``s3``."""
        return self.plan.name

    @property
    def url(self) -> str:
        """Its address."""
        return self.plan.url

    @property
    def exit_code(self) -> int | None:
        """The exit code of a server that ended by itself; None while it runs or was never started."""
        return self._process.exit_code if self._process else None

    def start(self) -> None:
        """Start the process; ``wait_until_ready`` returns when it answers."""
        self.plan.prepare(self._stack_env)
        log_path = self._home.log_path(self.name)
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        self._started = time.monotonic()
        self._process = ManagedProcess(
            self.plan.command, env=self._env, log_path=log_path, cwd=self._home.data_dir, grace_s=self.plan.grace_s
        )

    def probe(self) -> float | None:
        """Return the seconds since the start when the server answers now, else None.

        Raises:
            StackError: the process ended instead.
        """
        self.check()
        try:
            return time.monotonic() - self._started if self.plan.is_ready() else None
        except httpx.HTTPError:
            return None

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Return when the server answers.

        Raises:
            StackError: it ended, or did not answer in time.
        """
        while self.probe() is None:
            if time.monotonic() - self._started > timeout_s:
                raise StackError(f"{self.plan.title} did not respond within {timeout_s:.0f} s. {self._log_note()}")
            time.sleep(0.05)

    def check_restart(self) -> None:
        """Return when a server that ended by itself may be started again.

        Raises:
            StackError: it has been started again less than ``RESTART_AGAIN_S`` ago.
        """
        if self._restarted_at is not None and time.monotonic() - self._restarted_at < RESTART_AGAIN_S:
            raise StackError(f"Ended twice within {RESTART_AGAIN_S / 60:.0f} minutes: {self.last_words}")

    def restart(self, timeout_s: float) -> None:
        """Start a server that ended by itself again, at the same address, and return when it answers.

        Raises:
            StackError: it did not start.
        """
        self._restarted_at = time.monotonic()
        if self._process:
            self._process.stop()
        self.start()
        self.wait_until_ready(timeout_s)

    def check(self) -> None:
        """Return while the process runs.

        Raises:
            StackError: it ended; the message shows the end of its log.
        """
        if self.exit_code is not None:
            raise StackError(self.last_words)

    @property
    def last_words(self) -> str:
        """How the process ended, and the end of its log."""
        return f"{self.plan.title} ended with exit code {self.exit_code}. {self._log_note()}"

    def begin_stop(self) -> None:
        """Start to end it; return immediately."""
        if self._process:
            self._process.begin_stop()

    def stop(self) -> None:
        """End it and everything it started; its data is kept. Idempotent."""
        if self._process:
            self._process.stop()
            self._process = None
        self.plan.cleanup()

    def _log_note(self) -> str:
        path = self._home.log_path(self.name)
        tail = read_tail(path, from_byte=self._log_start)
        return f"The last lines of {path}:\n{tail}" if tail else f"Its log {path} is empty."


def answers(url: str, *, headers: Mapping[str, str] | None = None, trusting: ssl.SSLContext | bool = True) -> bool:
    """Return whether GET answers 200 now; `trusting` is the TLS context with the server's authority.

    Raises:
        httpx.HTTPError: no server responds.
    """
    answer = httpx.get(url, headers=headers, timeout=PROBE_TIMEOUT_S, trust_env=False, verify=trusting)
    return answer.status_code == httpx.codes.OK
