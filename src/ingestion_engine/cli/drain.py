"""The command that drains the service before an upgrade or a maintenance."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer
from rich.text import Text

from ingestion_engine.cli.output import ExitCode, err, open_client, out, print_error, write_json
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.client import ApiUnreachable, IngestClient
from ingestion_engine.models.operations import DrainView

POLL_S: Final = 2.0
"""Time between two looks at what is under way."""

PATIENCE_S: Final = 60.0
"""Time for which the service may be unreachable while the command waits, for example because it is restarted."""

NAMED: Final = 5
"""Jobs under way that a line names."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(drain)


def drain(
    off: Annotated[bool, typer.Option("--off", help="Let waiting jobs start again.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Change nothing; show what is under way.")] = False,
    refuse: Annotated[
        bool, typer.Option("--refuse", help="Refuse new jobs (503) instead of accepting them to wait.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the notes of waiting jobs.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when no job is under way any more.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which --wait gives up. Default: never.")
    ] = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Start no more jobs, in all copies of the service; jobs under way go on to their end.

    New jobs are accepted and wait. Exit code 1 when jobs are still under way after --timeout.

    ingest drain --wait && helm upgrade …; ingest drain --off
    """
    if off and (refuse or reason is not None or wait or status):
        raise typer.BadParameter("It cannot be combined with other options of drain.", param_hint="--off")
    if status and (refuse or reason is not None):
        raise typer.BadParameter("It changes nothing.", param_hint="--status")
    with open_client(url) as client:
        if off:
            found = client.end_drain()
        elif status:
            found = client.get_drain()
        else:
            found = client.start_drain(refuse=refuse, reason=reason)
        _show(found, json=json)
        if not wait or _wait_until_idle(client, found, timeout_s=timeout, json=json):
            return int(ExitCode.SUCCEEDED)
    return print_error(
        f"Jobs are still under way after {timeout or 0:g} s.",
        code="drain_incomplete",
        hint="Wait longer, or cancel them with `ingest cancel`; no other job starts until `ingest drain --off`.",
        exit_code=ExitCode.UNEXPECTED,
    )


def _wait_until_idle(client: IngestClient, found: DrainView, *, timeout_s: float | None, json: bool) -> bool:
    """Show what is under way until nothing is, twice in a row; return False when the time is over."""
    began = reached_at = time.monotonic()
    idle = 0
    while True:
        idle = idle + 1 if found.under_way == 0 else 0
        if idle == 2:
            return True
        left_s = POLL_S if timeout_s is None else timeout_s - (time.monotonic() - began)
        if left_s <= 0:
            return False
        time.sleep(min(POLL_S, left_s))
        try:
            before, found = found, client.get_drain()
            reached_at = time.monotonic()
        except ApiUnreachable:
            if time.monotonic() - reached_at > PATIENCE_S:
                raise
            idle = 0
            continue
        if not found.draining:
            err.print(Text("The service is not drained any more; jobs start again."))
        if found != before:
            _show(found, json=json)


def _show(found: DrainView, *, json: bool) -> None:
    if json:
        write_json(found)
        return
    state = "draining" if found.draining else "not draining"
    if found.drain is not None and found.drain.refuses:
        state += ", new jobs are refused"
    line = f"{state}: {found.under_way} under way, {found.waiting} waiting"
    named = [f"{job.job_id} {job.state} ({job.collection})" for job in found.jobs[:NAMED]]
    if found.under_way > len(named) and named:
        named.append("…")
    out.print(Text(f"{line}: {', '.join(named)}" if named else line))
