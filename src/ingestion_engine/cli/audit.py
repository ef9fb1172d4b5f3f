"""The command that shows the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from ingestion_engine.cli.output import open_client, write_json, write_table
from ingestion_engine.cli.pages import All, collect_pages
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(audit)


def audit(
    who: Annotated[str | None, typer.Option(help="Only entries of this API key or person.")] = None,
    operation: Annotated[
        str | None, typer.Option(help="Only entries of this operation, for example delete_collection.")
    ] = None,
    outcome: Annotated[str | None, typer.Option(help="Only done, refused, failed or begun.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only entries about this collection, alias or key.")] = None,
    job: Annotated[str | None, typer.Option(help="Only entries about this job.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only entries of then or later: 2026-01-31T12:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only entries before then.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number of entries.")] = 100,
    everything: All = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List who has changed what, and who was refused, newest first. Requires the scope `admin`.

    ingest audit --outcome refused --since 2026-01-31T00:00:00Z
    """
    with open_client(url) as client:
        found = collect_pages(
            lambda size, cursor: client.list_audit(
                who=who,
                operation=operation,
                outcome=outcome,
                subject=subject,
                job_id=job,
                after=since,
                before=until,
                limit=size,
                cursor=cursor,
            ),
            limit=None if everything else limit,
            page_size=1000,
            what="entries",
        )
    if json:
        for entry in found:
            write_json(entry)
        return
    rows = (
        (e.at, e.who or e.kind, e.address, e.operation, e.subject or e.job_id, e.outcome, e.code, e.number)
        for e in found
    )
    write_table(("TIME", "WHO", "FROM", "OPERATION", "ABOUT", "OUTCOME", "CODE", "NUMBER"), rows)
