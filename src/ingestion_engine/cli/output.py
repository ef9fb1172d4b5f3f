"""Output of the command: exit codes, errors, tables, JSON. Expected errors never show a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingestion_engine.cli.extras import NotInstalled
from ingestion_engine.cli.hints import choose_hint
from ingestion_engine.client import ApiError, ApiUnreachable, IngestClient
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.records import UNEXPECTED_ERROR, Outcome, PartitionReport, ReportStatus
from ingestion_engine.models.jobs import JobView
from ingestion_engine.runtime.settings import SettingsError
from ingestion_engine.runtime.tls import check_ca_file

PATIENCE_S: Final = 20.0
"""Seconds for which a command repeats a request that the service refuses for now, or whose connection broke."""


class ExitCode(IntEnum):
    """Exit code of a command; see the docstring of the package."""

    SUCCEEDED = 0
    UNEXPECTED = 1
    DIFFERENT = 1  # as diff and cmp do
    USAGE = 2
    FAILED = 3
    PARTIALLY_SUCCEEDED = 4
    REFUSED = 5
    CANCELED = 6
    UNREACHABLE = 7


_OF_STATE = {
    "succeeded": ExitCode.SUCCEEDED,
    "partially_succeeded": ExitCode.PARTIALLY_SUCCEEDED,
    "failed": ExitCode.FAILED,
    "canceled": ExitCode.CANCELED,
}

STATE_STYLES = {
    "succeeded": "green",
    "partially_succeeded": "yellow",
    "failed": "red",
    "canceled": "magenta",
    "running": "blue",
}

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def exit_code_of(state: str) -> ExitCode:
    """Return the exit code of a job's state; a state that is not final counts as success. Pure."""
    return _OF_STATE.get(state, ExitCode.SUCCEEDED)


def exit_code_of_job(job: JobView) -> ExitCode:
    """Return the exit code of a job; a comparison that found differences has its own. Pure."""
    if (job.error or {}).get("code") == "differences_found":
        return ExitCode.DIFFERENT
    return exit_code_of(job.state)


def exit_code_of_report(report: PartitionReport) -> ExitCode:
    """Return the exit code of a partition that was run alone. Pure."""
    if report.status is ReportStatus.FATAL:
        return ExitCode.FAILED
    if report.status is ReportStatus.RETRY:
        is_defect = (report.error or {}).get("code") == UNEXPECTED_ERROR
        return ExitCode.UNEXPECTED if is_defect else ExitCode.UNREACHABLE
    failed = any(result.outcome is Outcome.FAILED for result in report.results)
    return ExitCode.PARTIALLY_SUCCEEDED if failed else ExitCode.SUCCEEDED


def open_client(url: str) -> IngestClient:
    """Return a client of the service; its API key is read from the environment only, never from process arguments.

    A service that is not there is reported at once.

    Raises:
        SettingsError: ``INGEST_TLS__CA_FILE`` or ``INGEST_API_KEY`` is not usable.
    """
    ca_file = Path(path) if (path := os.environ.get("INGEST_TLS__CA_FILE")) else None
    if ca_file is not None:
        try:
            check_ca_file(ca_file)
        except ValueError as error:
            raise SettingsError(f"INGEST_TLS__CA_FILE: {error}") from None
    try:
        return IngestClient(url, read_api_key(), ca_file=ca_file, patience_s=PATIENCE_S, connect_patience_s=0)
    except ValueError as error:
        raise SettingsError(f"INGEST_API_KEY: {error}") from None


def read_api_key() -> str | None:
    """Return the API key of this process's environment; None without one."""
    return os.environ.get("INGEST_API_KEY") or None


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; expected errors are printed as a sentence and a hint."""
    try:
        result = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except ApiError as error:
        return _print_refusal(error)
    except ApiUnreachable as error:
        hint = error.hint or "Start it with `ingest up` or `ingest serve`, or set INGEST_API_URL."
        return print_error(str(error), code="api_unreachable", hint=hint, exit_code=ExitCode.UNREACHABLE)
    except SettingsError as error:
        return print_error(str(error), code="settings")
    except NotInstalled as error:
        return print_error(str(error), code="not_installed", hint=error.hint, exit_code=ExitCode.USAGE)
    except IngestionError as error:
        return print_error(error.message, code=error.code, hint=error.hint)
    except BrokenPipeError:
        # The reader has closed the pipe; nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.UNEXPECTED)
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        return print_error("An argument is not valid UTF-8.", code="usage", exit_code=ExitCode.USAGE)
    except OSError as error:
        return print_error(str(error), code="system")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        # Typer does not export the classes of its usage errors, so they are recognised by their method `show`.
        show = getattr(error, "show", None)
        if not callable(show):
            raise
        show()
        return int(getattr(error, "exit_code", ExitCode.USAGE))
    return result if isinstance(result, int) else 0


def print_error(message: str, *, code: str, hint: str = "", exit_code: ExitCode = ExitCode.UNEXPECTED) -> int:
    """Print an error as a sentence and a hint, or as JSON; return the exit code."""
    if wants_json():
        write_json({"code": code, "detail": message, "hint": hint or None}, file=sys.stderr)
    else:
        err.print(Text.assemble(("error: ", "bold red"), message))
        if hint:
            err.print(Text.assemble(("hint:  ", "bold"), hint))
    return int(exit_code)


def _print_refusal(error: ApiError) -> int:
    if wants_json():
        write_json(error.problem, file=sys.stderr)
        return int(ExitCode.REFUSED)
    err.print(Text.assemble(("refused: ", "bold red"), str(error), (f" [{error.code}]", "dim")))
    for fault in error.errors if len(error.errors) > 1 else []:
        err.print(Text(f"  {fault.pointer or '/'}: {fault.detail}"))
    hint = choose_hint(error.code, error.hint, error.problem)
    if hint:
        err.print(Text.assemble(("hint:    ", "bold"), hint))
    return int(ExitCode.REFUSED)


def wants_json() -> bool:
    """Return True when the command line requests JSON; errors then are JSON on standard error."""
    return "--json" in sys.argv[1:]


def write_json(value: Any, *, file: Any = None) -> None:
    """Print one JSON value, or a response as the service has sent it, on one line."""
    stream = file or sys.stdout
    stream.write(orjson.dumps(as_received(value)).decode() + "\n")
    stream.flush()


def as_received(value: Any) -> Any:
    """Return a response as the service has sent it, with fields that this release does not know. Pure."""
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
        return as_received({**fields, **(value.model_extra or {})})
    if isinstance(value, dict):
        return {str(name): as_received(item) for name, item in value.items()}
    return [as_received(item) for item in value] if isinstance(value, list | tuple) else value


def write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on a terminal, tab-separated lines with a header elsewhere."""
    if not out.is_terminal:
        for row in (columns, *rows):
            typer.echo("\t".join(_plain(cell) for cell in row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_plain(cell), STATE_STYLES.get(_plain(cell), "")) for cell in row))
    Console(highlight=False).print(table)


def write_pairs(pairs: Mapping[str, Any]) -> None:
    """Print named values, one per line; empty values are left out."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        if value is not None and value != "":
            style = STATE_STYLES.get(str(value), "")
            out.print(Text.assemble((f"{name:<{width}}  ", "bold"), (_plain(value), style)))


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    text = value if isinstance(value, str) else str(value)
    # A key may contain control characters; they are escaped, so that the terminal does not interpret them.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
