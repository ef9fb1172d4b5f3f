"""How the command speaks: exit codes, errors, tables, JSON. Expected errors never show a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingestion_engine.cli.extras import NotInstalled
from ingestion_engine.client import ApiError, ApiUnreachable, IngestClient
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.settings import SettingsError


class ExitCode(IntEnum):
    """What a script learns; see the package's docstring."""

    SUCCEEDED = 0
    UNEXPECTED = 1
    DIFFERENT = 1  # as diff and cmp do; a defect of ours is as much a reason to look
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
    """Return the exit code of a job's state; one that has not ended is no failure. Pure."""
    return _OF_STATE.get(state, ExitCode.SUCCEEDED)


def exit_code_of_job(job: Mapping[str, Any]) -> ExitCode:
    """Return the exit code of a job; a comparison that found differences is no failure like others. Pure."""
    if (job.get("error") or {}).get("code") == "differences_found":
        return ExitCode.DIFFERENT
    return exit_code_of(str(job["state"]))


def open_client(url: str) -> IngestClient:
    """Return a client of the service; its key comes from the environment only, so that it is in no process list."""
    return IngestClient(url, os.environ.get("INGEST_API_KEY") or None)


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; whatever is expected to go wrong is told in a sentence or two."""
    try:
        result = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except ApiError as error:
        return _tell_refusal(error)
    except ApiUnreachable as error:
        hint = "start it with `ingest up` or `ingest serve`, or set INGEST_API_URL"
        return _tell(ExitCode.UNREACHABLE, "api_unreachable", str(error), hint)
    except SettingsError as error:
        return _tell(ExitCode.UNEXPECTED, "settings", str(error), "")
    except NotInstalled as error:
        return _tell(ExitCode.USAGE, "not_installed", str(error), error.hint)
    except IngestionError as error:
        return _tell(ExitCode.UNEXPECTED, error.code, error.message, error.hint)
    except BrokenPipeError:
        # Whoever reads us has read enough; nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.UNEXPECTED)
    except OSError as error:
        return _tell(ExitCode.UNEXPECTED, "system", str(error), "")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        # Typer keeps click to itself, so its usage errors are known by what they can do.
        show = getattr(error, "show", None)
        if not callable(show):
            raise
        show()
        return int(getattr(error, "exit_code", ExitCode.USAGE))
    return result if isinstance(result, int) else 0


def _tell(code: ExitCode, name: str, message: str, hint: str) -> int:
    if wants_json():
        write_json({"code": name, "detail": message, "hint": hint or None}, file=sys.stderr)
    else:
        err.print(Text.assemble(("error: ", "bold red"), message))
        if hint:
            err.print(Text.assemble(("hint:  ", "bold"), hint))
    return int(code)


def _tell_refusal(error: ApiError) -> int:
    if wants_json():
        write_json(error.problem, file=sys.stderr)
        return int(ExitCode.REFUSED)
    err.print(Text.assemble(("refused: ", "bold red"), str(error), (f" [{error.code}]", "dim")))
    for fault in error.errors if len(error.errors) > 1 else []:
        err.print(Text(f"  {fault.get('pointer') or '/'}: {fault.get('detail')}"))
    if error.hint:
        err.print(Text.assemble(("hint:    ", "bold"), error.hint))
    return int(ExitCode.REFUSED)


def wants_json() -> bool:
    """True when this process was asked for JSON; errors then are JSON on standard error."""
    return "--json" in sys.argv[1:]


def write_json(value: Any, *, file: Any = None) -> None:
    """Print one JSON value on one line."""
    stream = file or sys.stdout
    stream.write(orjson.dumps(value).decode() + "\n")
    stream.flush()


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
    """Print named values, one per line; those without a value are left out."""
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
    # A key may hold anything; what a terminal would obey is shown, not sent.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
