"""Commands about collections and search."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from ingestion_engine.cli.jobs import Key, Watch, tell_accepted
from ingestion_engine.cli.output import open_client, out, write_json, write_pairs, write_table
from ingestion_engine.cli.requests import split_pairs
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.client import IngestClient

Collection = Annotated[str, typer.Argument(show_default=False)]
Prefix = Annotated[str, typer.Option(help="Only objects whose keys start so.")]
Engine = Annotated[str, typer.Option(help="ray or spark.")]

PASSAGE_CHARS = 300
"""Of a passage shown to a person; --json gives it whole."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (search, collections, objects, verify, repair, delete_objects):
        app.command()(command)


def search(
    collection: Collection,
    query: Annotated[str, typer.Argument(show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Per store.")] = 3,
    store: Annotated[list[str] | None, typer.Option(help="Only this store; repeatable.")] = None,
    bucket: Annotated[str | None, typer.Option(help="Only passages from this bucket.")] = None,
    content_type: Annotated[str | None, typer.Option(help="Only this media type.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="name=value that passages must have; repeatable.")] = None,
    key_prefix: Annotated[str | None, typer.Option(help="Only objects whose keys start so.")] = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Find the passages nearest to a query, in every store."""
    given = {
        "bucket": bucket,
        "content_type": content_type,
        "metadata": split_pairs(metadata),
        "key_prefix": key_prefix,
    }
    where = {name: value for name, value in given.items() if value is not None}
    with open_client(url) as client:
        found = client.search(collection, query, limit=limit, stores=store, where=where)
    if json:
        write_json(found)
        return
    for name, hits in found["results"].items():
        out.print(Text.assemble((name, "bold"), (f"  {len(hits)} of collection {collection}", "dim")))
        for hit in hits:
            _show_hit(hit)
    for name, error in found["errors"].items():
        out.print(Text.assemble((name, "bold"), (f"  {error['detail']}", "red")))


def _show_hit(hit: dict[str, Any]) -> None:
    page = f" p. {hit['page']}" if hit.get("page") else ""
    passage = " ".join(hit["text"].split())
    if len(passage) > PASSAGE_CHARS:
        passage = passage[:PASSAGE_CHARS].rstrip() + "…"
    out.print(Text.assemble((f"  {hit['score']:.3f}  ", "green"), (f"{hit['key']}{page}", "bold")))
    out.print(Text(f"         {passage}"))


def collections(
    name: Annotated[str | None, typer.Argument(help="Show this one in detail.", show_default=False)] = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List collections, or show one."""
    with open_client(url) as client:
        found = [client.get_collection(name)] if name is not None else client.list_collections()
    if json:
        for collection in found:
            write_json(collection)
        return
    if name is None:
        rows = (
            (c["name"], c["contract"]["model"], *(_points(c, store) for store in ("qdrant", "weaviate"))) for c in found
        )
        write_table(("COLLECTION", "MODEL", "QDRANT", "WEAVIATE"), rows)
        return
    contract = found[0]["contract"]
    chunking = contract["chunking"]
    write_pairs(
        {
            "collection": name,
            "model": f"{contract['model']} ({contract['dimension']} dimensions, {contract['model_digest'][:19]})",
            "chunking": f"{chunking['max_chars']} characters, overlap {chunking['overlap_chars']}",
            "made by": contract["created_by"],
            **{store: f"{_points(found[0], store)} points" for store in found[0]["stores"]},
            **{f"objects {state}": number for state, number in (found[0]["objects"] or {}).items()},
            "last job": _tell_last_job(found[0]["last_job"]),
            "verified": _tell_verified(found[0]["verified"]),
        }
    )


def _tell_last_job(job: dict[str, Any] | None) -> str | None:
    if job is None:
        return None
    ended = f", ended {job['finished_at']}" if job["finished_at"] else ""
    return f"{job['job_id']} ({job['mode']}, {job['state']}{ended})"


def _tell_verified(verified: dict[str, Any] | None) -> str:
    if verified is None:
        return "never"
    found = f"{verified['differences']} differences" if verified["differences"] else "no differences"
    return f"{verified['at']}, {found} ({verified['job_id']})"


def _points(collection: dict[str, Any], store: str) -> Any:
    held = collection["stores"].get(store)
    if held is None:
        return None
    return held["points"] if held["error"] is None else f"? ({held['error']})"


def objects(
    collection: Collection,
    prefix: Prefix = "",
    state: Annotated[str | None, typer.Option(help="present or failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 100,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the objects of a collection, by key."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with open_client(url) as client:
        while len(found) < limit:
            wanted = min(1000, limit - len(found))
            page = client.list_objects(collection, prefix=prefix, state=state, limit=wanted, cursor=cursor)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    if json:
        for item in found:
            write_json(item)
        return
    columns = ("STATE", "KEY", "BYTES", "CHUNKS", "ERROR")
    write_table(columns, ((o["state"], o["key"], o["size_bytes"], o["chunk_count"], o["error_code"]) for o in found))


def verify(
    collection: Collection,
    prefix: Prefix = "",
    engine: Engine = "ray",
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Compare both stores with each other and with what was written; change nothing.

    With --watch the exit code is 1 when something differs; `ingest failures JOB` names it.
    """
    with open_client(url) as client:
        return _submit_on(client, collection, "verify", prefix, engine, idempotency_key, follow=follow, json=json)


def repair(
    collection: Collection,
    prefix: Prefix = "",
    engine: Engine = "ray",
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Compare both stores and mend what differs, from the store that is right."""
    with open_client(url) as client:
        return _submit_on(client, collection, "repair", prefix, engine, idempotency_key, follow=follow, json=json)


def _submit_on(
    client: IngestClient,
    collection: str,
    mode: str,
    prefix: str,
    engine: str,
    key: str | None,
    *,
    follow: bool,
    json: bool,
) -> int:
    """Submit a job on what a collection holds; its bucket and everything else the collection knows itself."""
    contract = client.get_collection(collection)["contract"]
    if contract["bucket"] is None:
        raise typer.BadParameter(f"{collection} does not say which bucket it is of; use `ingest submit --mode {mode}`")
    request = {"source": {"bucket": contract["bucket"], "prefix": prefix}, "collection": collection, "mode": mode}
    accepted = client.submit(request, engine=engine, idempotency_key=key)
    return tell_accepted(client, accepted, follow=follow, json=json)


def delete_objects(
    collection: Collection,
    prefix: Annotated[str, typer.Option(help="Objects whose keys start so.", show_default=False)],
    everything: Annotated[bool, typer.Option("--all", help="Allow an empty prefix: every object.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    engine: Annotated[str | None, typer.Option(help="ray or spark; the service's first when left out.")] = None,
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Remove objects from a collection, in every store; the bucket is not touched."""
    which = f"all objects whose keys start with {prefix!r}" if prefix else "ALL objects"
    if not yes:
        typer.confirm(f"Remove {which} from collection {collection}?", abort=True, err=True)
    with open_client(url) as client:
        accepted = client.delete_objects(
            collection, prefix=prefix, everything=everything, engine=engine, idempotency_key=idempotency_key
        )
        return tell_accepted(client, accepted, follow=follow, json=json)
