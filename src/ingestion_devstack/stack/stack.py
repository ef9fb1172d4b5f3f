"""The supervisor of the embedded stack: starts on loopback every system that is not configured, and stops them all."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from ingestion_devstack.kubernetes.config import write_private
from ingestion_devstack.kubernetes.find_spark import SparkMissingError
from ingestion_devstack.stack.api_service import plan_api
from ingestion_devstack.stack.credentials import load_or_make_credentials
from ingestion_devstack.stack.environment import apply_variables, settings_to_env, write_stack_env
from ingestion_devstack.stack.gateway import plan_gateway
from ingestion_devstack.stack.private_files import make_private
from ingestion_devstack.stack.processes import Ports
from ingestion_devstack.stack.programs import NO_PROGRAMS, Program, Programs
from ingestion_devstack.stack.ray_head import plan_ray_head
from ingestion_devstack.stack.real_servers import (
    plan_minio,
    plan_ollama_server,
    plan_qdrant_server,
    plan_weaviate_server,
)
from ingestion_devstack.stack.seaweedfs import STATE_BUCKET, plan_seaweedfs
from ingestion_devstack.stack.service import Home, Plan, Service, StackError
from ingestion_devstack.stack.spark_operator import plan_kube
from ingestion_devstack.stack.stand_ins import plan_ollama, plan_qdrant, plan_weaviate
from ingestion_engine.runtime.settings import Settings

START_TIMEOUT_S = 180.0
"""Ray takes 10 to 30 s on two idle cores; a busy machine takes several times that."""

START_TRIES = 2
"""Another program may take a port between the check and its use; a second start chooses other ports."""

SYSTEMS = ("s3", "ray", "spark", "ollama", "gateway", "qdrant", "weaviate")
"""Systems that can be embedded besides the API."""

MAX_JOBS = {"ray": 4, "spark": 2}
"""Jobs under way on an embedded engine, unless it is configured: one machine has room for few drivers. Ray has at least
four logical CPUs; each job on Spark is a Java process of its own."""


def configured_systems(settings: Settings) -> set[str]:
    """Return the systems that ``INGEST_*`` configures; the stack does not touch them. Pure."""
    configured = {
        "s3": bool(settings.s3.model_fields_set),
        "ray": settings.ray.address is not None,
        "spark": settings.spark.namespace is not None,
        "ollama": "urls" in settings.ollama.model_fields_set,
        "gateway": bool(settings.gateway.url),
        "qdrant": settings.qdrant.url is not None,
        "weaviate": settings.weaviate.url is not None,
    }
    return {name for name, known in configured.items() if known}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Functions that are called when a service answers or is started again."""

    on_ready: Callable[[Service, float], None] = lambda _service, _seconds: None
    """Called with a service and its start-up time in seconds when it answers."""
    on_restart: Callable[[Service], None] = lambda _service: None
    """Called with a service that ended, before it is started again."""


SILENT: Final = Listener()
"""Calls nothing."""


class Stack:
    """The embedded stack as a context manager; inside it, everything answers.

    Args:
        settings: The configuration; ``settings.data_dir`` is the stack's directory.
        only: Systems to embed (of ``SYSTEMS``); None means all that are not configured.
        with_api: Start the product's own service too.
        buckets: Buckets of the embedded S3 server.
        ollama_arguments: Further flags of the Ollama stand-in, for tests.
        spark_arguments: Further flags of the Kubernetes stand-in, for tests.
        programs: Programs of this machine to run in place of the stack's own servers; none by default.
        listener: Told of services that answer, and of those that are started again.

    Attributes (inside the context):
        settings: The configured settings plus the addresses and credentials of the embedded servers.
        env: The same as ``INGEST_*`` variables, secrets in clear text.
        services: The running services by name.
        missing: Reason why a system that is not configured does not run, by name; Spark without Java.

    Raises (on entry):
        StackError: another stack runs in the directory, or a service did not start. No process is left then.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        only: Collection[str] | None = None,
        with_api: bool = True,
        buckets: tuple[str, ...] = ("docs",),
        ollama_arguments: tuple[str, ...] = (),
        spark_arguments: tuple[str, ...] = (),
        programs: Programs = NO_PROGRAMS,
        listener: Listener = SILENT,
    ) -> None:
        unknown = set(only or ()) - set(SYSTEMS)
        if unknown:
            raise ValueError(f"Unknown systems of the stack: {', '.join(sorted(unknown))}.")
        self.settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
        self.env: dict[str, str] = {}
        self.services: dict[str, Service] = {}
        self.missing: dict[str, str] = {}
        self._only = only
        self._with_api = with_api
        self._buckets = buckets
        self._ollama_arguments = ollama_arguments
        self._spark_arguments = spark_arguments
        self._programs = programs
        self._listener = listener
        self._ports: Ports | None = None
        self._lock: IO[str] | None = None

    @property
    def data_dir(self) -> Path:
        """The stack's directory, absolute."""
        return self.settings.data_dir

    def __enter__(self) -> Self:
        self._lock = _lock_directory(self.data_dir)
        try:
            self._start_on_free_ports()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Return while every service runs.

        Raises:
            StackError: one ended; the message shows the end of its log.
        """
        for service in self.services.values():
            service.check()

    def keep_running(self) -> None:
        """Start services that ended by themselves again, each once; return when all answer.

        Raises:
            StackError: one did not start again, or ended soon after a restart; the message shows the end of its log.
        """
        for service in self.services.values():
            if service.exit_code is not None:
                service.check_restart()
                self._listener.on_restart(service)
                service.restart(START_TIMEOUT_S)

    def stop(self) -> None:
        """End every service and everything they started; data is kept. Idempotent.

        Services that use others stop first (the API, then Ray and Spark with their jobs), the rest at the same time.
        """
        self._stop_services()
        if self._lock:
            (self.data_dir / "stack.env").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _stop_services(self) -> None:
        for name in ("api", "ray", "spark"):
            if name in self.services:
                self.services[name].stop()
        for service in self.services.values():
            service.begin_stop()
        for service in self.services.values():
            service.stop()
        if self._ports is not None:
            self._ports.release()

    def _start_on_free_ports(self) -> None:
        """Start; when a server ends immediately, start all again on other ports: one of them may have been taken."""
        configured = self.settings
        for _ in range(START_TRIES - 1):
            try:
                self._start()
            except StackError:
                if all(service.exit_code is None for service in self.services.values()):
                    raise
                self._stop_services()
                self.services.clear()
                self.settings = configured
            else:
                return
        self._start()

    def _start(self) -> None:
        ports_path = self.data_dir / "ports.json"
        remembered = json.loads(ports_path.read_text(encoding="utf-8")) if ports_path.exists() else {}
        self._ports = Ports(remembered)
        home = Home(self.data_dir, self._ports, load_or_make_credentials(self.data_dir / "credentials.json"))
        plans = self._plan(home)
        variables = {name: value for plan in plans for name, value in plan.variables.items()}
        variables.update(self._place_state(plans))
        variables.update(self._limit_jobs(plans))
        configured = settings_to_env(self.settings)
        own = {name for name, value in variables.items() if configured.get(name) != value}
        self.settings = apply_variables(self.settings, variables)
        # Also those that have their default, so that a shell that loads them has no other value.
        self.env = {**settings_to_env(self.settings), **variables}
        if self._with_api:
            self.env["INGEST_API_URL"] = plans[-1].url  # what the command line's client reads
        write_private(ports_path, json.dumps({**remembered, **home.ports.by_name}, indent=2).encode() + b"\n")
        for plan in plans:
            self.services[plan.name] = Service(plan, home, self.env)
            self.services[plan.name].start()
        self._wait_until_ready()
        write_stack_env(self.data_dir / "stack.env", self.env, own)

    def _plan(self, home: Home) -> list[Plan]:
        configured = configured_systems(self.settings)
        embedded = (set(SYSTEMS) if self._only is None else set(self._only)) - configured
        if configured & {"ray", "spark"}:
            embedded.discard("gateway")  # workers on other machines do not reach a gateway on loopback
        makers: dict[str, Callable[[], Plan]] = {
            "s3": lambda: self._choose(
                "minio",
                lambda program: plan_minio(home, program, self._buckets),
                lambda: plan_seaweedfs(home, self._buckets),
            ),
            "ray": lambda: plan_ray_head(home),
            "spark": lambda: plan_kube(home, self._spark_arguments),
            "ollama": lambda: self._choose(
                "ollama",
                lambda program: plan_ollama_server(home, program, self.settings.ollama.model),
                lambda: plan_ollama(home, self._ollama_arguments),
            ),
            "gateway": lambda: plan_gateway(home),
            "qdrant": lambda: self._choose(
                "qdrant", lambda program: plan_qdrant_server(home, program), lambda: plan_qdrant(home)
            ),
            "weaviate": lambda: self._choose(
                "weaviate", lambda program: plan_weaviate_server(home, program), lambda: plan_weaviate(home)
            ),
        }
        plans = []
        for name, make in makers.items():
            if name in embedded:
                try:
                    plans.append(make())
                except SparkMissingError as error:
                    self.missing[name] = str(error)
        if self._with_api:
            plans.append(plan_api(home, self.settings))
        return plans

    def _choose(self, name: str, make_real: Callable[[Program], Plan], make_own: Callable[[], Plan]) -> Plan:
        """Return the plan of a program of this machine, or that of the stack's own server and why it is used."""
        program = self._programs.used.get(name)
        if program is not None:
            return make_real(program)
        plan, reason = make_own(), self._programs.passed_over.get(name)
        return plan if reason is None else replace(plan, what=f"{plan.what}; {reason}")

    def _limit_jobs(self, plans: list[Plan]) -> dict[str, str]:
        """Return how many jobs may be under way on the embedded engines, as far as it is not configured."""
        names = {plan.name for plan in plans} & set(MAX_JOBS)
        unset = [name for name in names if getattr(self.settings, name).max_jobs is None]
        return {f"INGEST_{name.upper()}__MAX_JOBS": str(MAX_JOBS[name]) for name in unset}

    def _place_state(self, plans: list[Plan]) -> dict[str, str]:
        """Return the place of the product's state unless it is configured."""
        if self.settings.state_url is not None:
            return {}
        if any(plan.name == "s3" for plan in plans):
            return {"INGEST_STATE_URL": f"s3://{STATE_BUCKET}"}
        own = [name.capitalize() for name in ("ray", "spark") if name in configured_systems(self.settings)]
        if not own or not self._with_api:
            return {"INGEST_STATE_URL": f"file://{self.data_dir / 'state'}"}
        raise StackError(
            f"S3 and {' and '.join(own)} are your own systems, so their workers need a shared place for the state. "
            "Set INGEST_STATE_URL, for example to s3://your-bucket/ingest-state."
        )

    def _wait_until_ready(self) -> None:
        waiting = list(self.services.values())
        deadline = time.monotonic() + START_TIMEOUT_S
        while waiting:
            for service in list(waiting):
                seconds = service.probe()
                if seconds is not None:
                    waiting.remove(service)
                    self._listener.on_ready(service, seconds)
            if waiting and time.monotonic() > deadline:
                waiting[0].wait_until_ready(0.0)
            time.sleep(0.05)


def _lock_directory(data_dir: Path) -> IO[str]:
    """Lock the directory for this process; the kernel releases the lock when the process ends for any reason.

    Raises:
        StackError: another process holds it.
    """
    make_private(data_dir)
    path = data_dir / "up.lock"
    path.touch(0o600)
    lock = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise StackError(
            f"Another stack (process {owner}) runs in {data_dir}. "
            "Stop it first, or set INGEST_DATA_DIR to another directory."
        ) from None
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
