"""``ingest doctor``: what is checked is in the package ``doctor``; here is how it is asked for and shown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from ingestion_engine import __version__
from ingestion_engine.cli.output import ExitCode, out, read_api_key, write_json
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.doctor.context import JOB_LIMIT_S, TIME_LIMIT_S, Context, JobTrial, Role
from ingestion_engine.doctor.examination import CHECKS, examine
from ingestion_engine.doctor.findings import FORMAT, Finding, State, count_states, is_good
from ingestion_engine.doctor.machine import refuse_settings
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.runtime.settings import SettingsError, load_settings, runs_in_kubernetes
from ingestion_engine.runtime.telemetry import configure_logging
from ingestion_engine.runtime.timestamps import timestamp_now

_WORDS: Final = {
    State.OK: ("ok", "green"),
    State.WARNING: ("warning", "yellow"),
    State.FAILED: ("FAILED", "bold red"),
    State.NOT_CONFIGURED: ("not set", "dim"),
    State.SKIPPED: ("skipped", "dim"),
}
_STATE_WIDTH: Final = max(len(word) for word, _ in _WORDS.values())
_NAME_WIDTH: Final = max(len(check.name) for check in CHECKS)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(doctor)


def doctor(
    role: Annotated[
        Role, typer.Option(help="What this process is used for: its dependencies are checked.")
    ] = Role.SERVICE,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Make only this check; repeatable.", show_default=False)
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(metavar="NAME[/PREFIX]", help="Also check that this source bucket can be listed and read."),
    ] = None,
    submit: Annotated[
        bool,
        typer.Option("--submit", help="Also run a small job on a running service; needs --bucket for its object."),
    ] = False,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="With --submit: engine to try, ray or spark; repeatable. Default: all that the service has."),
    ] = None,
    job_timeout: Annotated[
        float, typer.Option(min=1, help="With --submit: time limit of the job, in seconds.")
    ] = JOB_LIMIT_S,
    url: Url = DEFAULT_URL,
    read_only: Annotated[bool, typer.Option("--read-only", help="Write nothing anywhere.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail the command.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Time limit of each check, in seconds.")] = TIME_LIMIT_S,
    json: Json = False,
) -> int:
    """Check every system that this process depends on, from where it runs, and say what to do.

    Uses the settings of this process; the service need not run, except for --submit. Exit code 0 when nothing failed,
    otherwise 1.
    """
    names = [check.name for check in CHECKS]
    unknown = sorted({*(only or ())} - {*names})
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no check; use {', '.join(names)}.", param_hint="--only")
    trial = None
    if submit:
        faults = {
            "Add --bucket NAME for its object.": not bucket,
            "It writes, so it cannot be combined with --read-only.": read_only,
            f"It tries the service, so it cannot be combined with --role {role}.": role is not Role.SERVICE,
        }
        for fault, is_met in faults.items():
            if is_met:
                raise typer.BadParameter(fault, param_hint="--submit")
        trial = _read_trial(engine or [], url, job_timeout)
        only = [*only, "job"] if only else None
    report = _Report(role, as_json=json)
    try:
        settings = load_settings()
    except SettingsError as error:
        report.add(replace(refuse_settings(error), name="settings"))
    else:
        configure_logging("DEBUG" if settings.log_level.upper() == "DEBUG" else "CRITICAL")
        logging.getLogger().setLevel(logging.CRITICAL)  # libraries warn of what becomes a result anyway
        context = Context(
            settings=settings,
            role=role,
            read_only=read_only,
            bucket=bucket,
            trial=trial,
            time_limit_s=timeout,
            in_kubernetes=runs_in_kubernetes(),
        )
        try:
            asyncio.run(_examine(context, only or (), report))
        except asyncio.CancelledError:  # SIGTERM
            return 128 + signal.SIGTERM
    good = is_good(report.findings, strict=strict)
    report.end(good=good)
    return int(ExitCode.SUCCEEDED if good else ExitCode.UNEXPECTED)


def _read_trial(engines: Sequence[str], url: str, time_limit_s: float) -> JobTrial:
    """Return the job to submit. Raises BadParameter."""
    for name in engines:
        if name not in ("ray", "spark"):
            raise typer.BadParameter(f"{name!r} is no engine; use ray or spark.", param_hint="--engine")
    named = tuple(EngineName(name) for name in dict.fromkeys(engines))
    return JobTrial(url=url, api_key=read_api_key(), engines=named, time_limit_s=time_limit_s)


async def _examine(context: Context, only: Sequence[str], report: _Report) -> None:
    """Show the results; SIGTERM ends it as Ctrl-C does, after what was made has been removed."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, and threads of tests
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async for finding in examine(context, only=only):
        report.add(finding)


class _Report:
    """Shows results as they come, or all of them as one JSON value."""

    def __init__(self, role: Role, *, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self._role = role
        self._as_json = as_json

    def add(self, finding: Finding) -> None:
        """Show one result."""
        self.findings.append(finding)
        if self._as_json:
            return
        word, style = _WORDS[finding.state]
        latency = "" if finding.latency_ms is None else f" ({finding.latency_ms:.0f} ms)"
        target = f"{finding.target}: " if finding.target and finding.target not in finding.detail else ""
        out.print(
            Text.assemble(
                (f"{word:<{_STATE_WIDTH}}  ", style),
                (f"{finding.name:<{_NAME_WIDTH}}  ", "bold"),
                f"{target}{finding.detail}",
                (latency, "dim"),
            )
        )
        if finding.hint and finding.state is not State.OK:
            out.print(Text(f"{'':<{_STATE_WIDTH + _NAME_WIDTH + 4}}-> {finding.hint}", style="cyan"))

    def end(self, *, good: bool) -> None:
        """Show the summary."""
        counts = count_states(self.findings)
        if self._as_json:
            value: dict[str, Any] = {
                "format": FORMAT,
                "ok": good,
                "role": str(self._role),
                "version": __version__,
                "at": timestamp_now(),
                "counts": counts,
                "checks": [finding.to_json() for finding in self.findings],
            }
            write_json(value)
            return
        shown = [f"{number} {state.replace('_', ' ')}" for state, number in counts.items() if number]
        out.print(
            Text.assemble(("ok: " if good else "not ok: ", "bold green" if good else "bold red"), ", ".join(shown))
        )
