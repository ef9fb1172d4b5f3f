"""Commands about aliases: ``ingest aliases …``."""

from __future__ import annotations

from typing import Annotated

import typer

from ingestion_engine.cli.jobs import Key
from ingestion_engine.cli.output import open_client, write_json, write_pairs, write_table
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.models.aliases import AliasView, PrunedAlias

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="Name of an alias.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, help="Manage aliases: names of collections that move to newer versions.")
    group.command("list")(list_all)
    for command in (show, rollback, prune, remove):
        group.command()(command)
    app.add_typer(group, name="aliases")


def list_all(json: Json = False, url: Url = DEFAULT_URL) -> None:
    """List aliases."""
    with open_client(url) as client:
        found = client.list_aliases()
    if json:
        for alias in found:
            write_json(alias)
        return
    rows = ((a.name, a.collection, ", ".join(a.previous), a.moved_at, _agreement(a)) for a in found)
    write_table(("ALIAS", "COLLECTION", "PREVIOUS", "MOVED", "STORES"), rows)


def show(alias: Name, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Show the collection of an alias, its former versions, and whether each store agrees."""
    with open_client(url) as client:
        _write(client.get_alias(alias), json=json)


def rollback(
    alias: Name,
    to: Annotated[
        str | None, typer.Option(metavar="COLLECTION", help="Former version to move to. Default: the newest.")
    ] = None,
    idempotency_key: Key = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Move an alias to a former version; without --to, calling it again reverts the rollback."""
    with open_client(url) as client:
        _write(client.roll_back_alias(alias, to=to, idempotency_key=idempotency_key), json=json)


def prune(
    alias: Name,
    keep: Annotated[int, typer.Option(min=0, help="Number of former versions to keep.")] = 1,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Drop all but the newest former versions, in every store."""
    with open_client(url) as client:
        _write(client.prune_alias(alias, keep=keep), json=json)


def remove(alias: Name, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Remove an alias; its collections are kept."""
    with open_client(url) as client:
        client.remove_alias(alias)
    if json:
        write_json({"name": alias, "removed": True})
    else:
        typer.echo(f"{alias} removed")


def _write(alias: AliasView, *, json: bool) -> None:
    if json:
        write_json(alias)
        return
    write_pairs(
        {
            "alias": alias.name,
            "collection": alias.collection,
            "previous": ", ".join(alias.previous),
            "dropped": ", ".join(alias.dropped) if isinstance(alias, PrunedAlias) else None,
            "moved": alias.moved_at,
            "by": alias.job_id,
            "stores": _agreement(alias),
        }
    )


def _agreement(alias: AliasView) -> str:
    words = {True: "agrees", False: "pending", None: "unknown"}
    return ", ".join(f"{name} {words[view.agrees]}" for name, view in alias.stores.items())
