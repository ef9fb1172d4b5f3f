"""Root of the command and the options that all commands share."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ingestion_engine import __version__

DEFAULT_URL: Final = "http://127.0.0.1:8080"

_HELP: Final = (
    "Embed every object under an S3 prefix into Qdrant and Weaviate.\n\n"
    "Exit codes: 0 succeeded · 1 unexpected error, the stores differ, or a check failed · 2 wrong command line · "
    "3 job failed · 4 job partially succeeded · 5 refused by the service · 6 job canceled · 7 service unreachable.\n\n"
    "Set INGEST_API_URL (or --url) to the URL of the service, and INGEST_API_KEY to an API key if it requires one."
)

app = typer.Typer(
    name="ingest",
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[
    str, typer.Option("--url", envvar="INGEST_API_URL", help="URL of the service.", show_default=DEFAULT_URL)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one value per line.")]


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Define the options that come before a command."""
