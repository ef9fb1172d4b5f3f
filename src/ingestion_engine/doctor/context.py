"""What every check is given: the settings of this process, and what the caller wants checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from ingestion_engine.doctor.findings import Finding, State
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.runtime.background import start_background
from ingestion_engine.runtime.settings import Settings

T = TypeVar("T")

TIME_LIMIT_S: Final = 30.0
"""Time limit of each check. A server that accepts connections and then sends nothing needs most of it: clients give up
a request after 10 to 30 s."""


JOB_LIMIT_S: Final = 300.0
"""Time limit of a job that is submitted: a Spark driver and its executor may need two minutes to start."""


class Role(StrEnum):
    """What the process is to be used for, which decides what it requires."""

    SERVICE = "service"
    """API and dispatcher: everything but the parsers."""
    WORKER = "worker"
    """Driver and workers on Ray, on Spark or on one machine: no database, no cluster."""
    GATEWAY = "gateway"
    """The embedding gateway: the Ollama servers and the other gateways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTrial:
    """A job to submit to a running service."""

    url: str
    """URL of the service."""
    api_key: str | None = field(default=None, repr=False)
    engines: tuple[EngineName, ...] = ()
    """Engines that must run it; empty means every one that the service has."""
    time_limit_s: float = JOB_LIMIT_S
    """Seconds from the submission to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The settings, and the limits of the examination."""

    settings: Settings
    role: Role = Role.SERVICE
    read_only: bool = False
    """True to write nothing anywhere."""
    bucket: str | None = None
    """A source bucket to check, with an optional prefix: ``docs/manuals/``; it also has the object of ``trial``."""
    trial: JobTrial | None = None
    """A job to submit; None means that none is."""
    time_limit_s: float = TIME_LIMIT_S
    in_kubernetes: bool = False
    """True when this process runs in a pod."""
    former: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    """Results of the checks that a check waits for, by name."""

    def has_failed(self, name: str) -> bool:
        """Return whether a check that was waited for failed as a whole, or was skipped because another one did."""
        return any(
            finding.state in {State.FAILED, State.SKIPPED} and not finding.target
            for finding in self.former.get(name, ())
        )


async def in_thread(work: Callable[[], T]) -> T:
    """Return the result of a blocking call, made in a thread that does not keep this process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # the result of ``work`` when there is no error

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # the caller raises it
            report(None, error)
        else:
            report(result, None)

    def report(result: T | None, error: BaseException | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    start_background(run, name="doctor", on_failure=lambda error: report(None, RuntimeError(str(error))))
    return await done


async def timed(request: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """Return the result of a request, and its duration in milliseconds.

    It is made twice, and the second time counts: the first one opens connections and imports packages.
    """
    await request()
    began = time.perf_counter()
    result = await request()
    return result, round((time.perf_counter() - began) * 1000, 1)
