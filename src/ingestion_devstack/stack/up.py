"""``ingest up``: the embedded stack in the foreground, until Ctrl-C, SIGTERM or the death of one of its servers."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Collection, Iterator
from types import FrameType

from rich.console import Console
from rich.table import Table

from ingestion_devstack.stack.service import Service, StackError
from ingestion_devstack.stack.stack import SYSTEMS, Stack
from ingestion_engine.runtime.settings import Settings

_WATCH_S = 0.5
"""Pause between two looks at the servers."""


class StopAsked(BaseException):
    """Somebody pressed Ctrl-C or sent SIGTERM."""


def run_up(settings: Settings) -> int:
    """Run the stack until it is asked to end; return the exit code: 0 after a wish to end, 1 after a fault."""
    console = Console()
    try:
        with stop_on_signals(), announced_stack(settings, console) as stack:
            console.print(render_table(stack))
            console.print(
                f"Another shell gets this world by:  set -a; . {stack.data_dir / 'stack.env'}; set +a", soft_wrap=True
            )
            console.print("Ctrl-C stops everything; the data stays.")
            while True:
                stack.check()
                time.sleep(_WATCH_S)
    except StopAsked:
        console.print("stopped")
        return 0
    except StackError as error:
        Console(stderr=True).print(f"ingest up: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


@contextlib.contextmanager
def announced_stack(settings: Settings, console: Console, *, only: Collection[str] | None = None) -> Iterator[Stack]:
    """A stack that prints a line for each service as it becomes ready, and one when it begins to stop."""

    def announce(service: Service, seconds: float) -> None:
        console.print(f"  {service.plan.title} ready after {seconds:.1f} s", highlight=False)

    stack = Stack(settings, only=only, on_ready=announce)
    console.print(f"starting the embedded stack in {stack.data_dir}", soft_wrap=True, highlight=False)
    with contextlib.ExitStack() as exits:
        exits.enter_context(stack)
        exits.callback(lambda: console.print("stopping the embedded stack"))
        exits.callback(ignore_signals)
        yield stack


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise StopAsked in the main thread; outside, they do what they did before."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        ignore_signals()  # the way out must not be interrupted
        raise StopAsked

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """From now on SIGINT and SIGTERM do nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def render_table(stack: Stack) -> Table:
    """What runs where, and what of it is a stand-in."""
    table = Table(title="Embedded stack", title_justify="left")
    for column in ("system", "URL", "what it is"):
        table.add_column(column, overflow="fold")
    settings = stack.settings
    own = {
        "s3": settings.s3.endpoint_url or "AWS",
        "ray": settings.ray.address or "",
        "spark": f"namespace {settings.spark.namespace}",
        "ollama": ", ".join(settings.ollama.urls),
        "qdrant": settings.qdrant.url or "",
        "weaviate": settings.weaviate.url or "",
    }
    for name in SYSTEMS:
        service = stack.services.get(name)
        if service:
            table.add_row(service.plan.title, service.url, service.plan.what)
        elif name in stack.missing:
            table.add_row(name.capitalize(), "not started", stack.missing[name])
        else:
            table.add_row(name.capitalize(), own[name], "yours, as configured")
    if "api" in stack.services:
        table.add_row("API", stack.services["api"].url, "this product; try /docs")
    return table
