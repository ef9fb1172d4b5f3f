"""``ingest up``: the embedded stack in the foreground, until Ctrl-C, SIGTERM or the end of one of its servers."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType

from rich.console import Console
from rich.table import Table

from ingestion_devstack.stack.environment import load_own_settings
from ingestion_devstack.stack.programs import find_programs
from ingestion_devstack.stack.service import Service, StackError
from ingestion_devstack.stack.stack import SYSTEMS, Listener, Stack, configured_systems
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.settings import Settings

_WATCH_S = 0.5
"""Pause between two checks of the servers."""


class StopRequested(BaseException):
    """Ctrl-C was pressed, or SIGTERM arrived."""


def run_up(settings: Settings | None = None, *, prepare: Callable[[Stack], str | None] | None = None) -> int:
    """Run the stack until Ctrl-C or SIGTERM; return the exit code: 0 after these, 1 after a failure.

    Args:
        settings: The configuration; None means the environment, without what an earlier stack's file has put there.
        prepare: Called when every system answers; returns a sentence to print, or None.

    Raises:
        SettingsError: a variable is invalid.
    """
    settings = load_own_settings() if settings is None else settings
    console = Console()
    try:
        with stop_on_signals(), announced_stack(settings, console) as stack:
            said = None if prepare is None else prepare(stack)
            console.print(render_table(stack))
            lines = [
                *([] if said is None else [said]),
                "To use it from another shell, load its addresses and credentials:",
                f"  set -a; . {shlex.quote(str(stack.data_dir / 'stack.env'))}; set +a",
                "Ctrl-C stops everything; data is kept.",
            ]
            console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
            while True:
                stack.keep_running()
                time.sleep(_WATCH_S)
    except StopRequested:
        console.print("Stopped.")
        return 0
    except (StackError, IngestionError) as error:
        Console(stderr=True).print(f"ingest up: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


@contextlib.contextmanager
def announced_stack(settings: Settings, console: Console, *, only: Collection[str] | None = None) -> Iterator[Stack]:
    """A stack that prints a line when each service becomes ready, and one when it starts to stop."""

    def announce(service: Service, seconds: float) -> None:
        console.print(f"  {service.plan.title} ready after {seconds:.1f} s", highlight=False)

    def regret(service: Service) -> None:
        text = f"{service.last_words}\n{service.plan.title} is started again; jobs continue by themselves."
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    programs = find_programs(os.environ, settings.ollama.model)
    stack = Stack(settings, only=only, programs=programs, listener=Listener(on_ready=announce, on_restart=regret))
    console.print(f"Starting the embedded stack in {stack.data_dir}", soft_wrap=True, highlight=False)
    with contextlib.ExitStack() as exits:
        exits.enter_context(stack)
        exits.callback(lambda: console.print("\nStopping the embedded stack."))
        exits.callback(ignore_signals)
        yield stack


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise StopRequested in the main thread; the previous handlers are restored after."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        ignore_signals()  # the shutdown must not be interrupted
        raise StopRequested

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def render_table(stack: Stack) -> Table:
    """Return a table of the systems: address, and whether it is real, a stand-in or the user's own."""
    table = Table(title="Embedded stack", title_justify="left")
    for column in ("System", "URL", "What it is"):
        table.add_column(column, overflow="fold")
    settings = stack.settings
    addresses = {
        "s3": settings.s3.endpoint_url or "AWS",
        "ray": settings.ray.address or "",
        "spark": f"namespace {settings.spark.namespace}",
        "ollama": ", ".join(settings.ollama.urls),
        "gateway": ", ".join(settings.gateway.url),
        "qdrant": settings.qdrant.url or "",
        "weaviate": settings.weaviate.url or "",
    }
    for name in SYSTEMS:
        service = stack.services.get(name)
        if service:
            table.add_row(service.plan.title, service.url, service.plan.what)
        elif name in stack.missing:
            table.add_row(name.capitalize(), "not started", stack.missing[name])
        elif name in configured_systems(settings):
            table.add_row(name.capitalize(), addresses[name], "your own, as configured by INGEST_*")
    if "api" in stack.services:
        table.add_row(
            "API",
            stack.services["api"].url,
            "the service of this product: its console in a browser at /, its routes at /docs",
        )
    return table
