"""Commands about collections and search."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer
from rich.text import Text

from ingestion_engine.cli.jobs import Key, Watch, report_accepted
from ingestion_engine.cli.output import err, open_client, out, write_json, write_pairs, write_table
from ingestion_engine.cli.pages import All, collect_pages
from ingestion_engine.cli.requests import split_pairs
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.client import ApiError, ApiUnreachable, IngestClient
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.domain.states import FINAL_STATES, Agreement
from ingestion_engine.models.collections import (
    ChunkPageView,
    ChunkView,
    CollectionView,
    LastJob,
    LastVerified,
    ObjectPage,
    ObjectView,
    StoreErrorView,
)
from ingestion_engine.models.jobs import JobAccepted, JobView
from ingestion_engine.models.search import Hit

Collection = Annotated[
    str, typer.Argument(metavar="COLLECTION", help="Name of a collection or of an alias.", show_default=False)
]
Prefix = Annotated[str, typer.Option(help="Only objects whose key starts with this prefix.")]
Engine = Annotated[str, typer.Option(help="Engine that runs the job: ray or spark.")]

DELETE = "delete"
"""First word of `ingest collections delete NAME`; a collection of this name can still be shown."""

PASSAGE_CHARS = 300
"""Length at which a passage is cut in text output; --json prints all of it."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (search, collections, objects, chunks, verify, repair, delete_objects):
        app.command()(command)


def search(
    collection: Collection,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Question or phrase.", show_default=False)],
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100, help="Maximum number of results per store.")
    ] = 3,
    store: Annotated[list[str] | None, typer.Option(help="Search only this store; repeatable.")] = None,
    bucket: Annotated[str | None, typer.Option(help="Only passages from this bucket.")] = None,
    content_type: Annotated[str | None, typer.Option(help="Only passages of objects with this media type.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Only passages with this metadata, name=value; repeatable.")
    ] = None,
    key_prefix: Annotated[str | None, typer.Option(help="Only objects whose key starts with this prefix.")] = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Search a collection: print the passages nearest to a query, from every store.

    ingest search handbook "how do I reset my password?"
    """
    given = {
        "bucket": bucket,
        "content_type": content_type,
        "metadata": split_pairs(metadata),
        "key_prefix": key_prefix,
    }
    where = {name: value for name, value in given.items() if value is not None}
    with open_client(url) as client:
        found = client.search(collection, query, limit=limit, stores=store, where=where)
        # Few results are often those of a job that has not ended.
        is_full = all(len(hits) >= limit for hits in found.results.values())
        newest = [] if is_full or json else _find_newest_job(client, found.collection)
    if json:
        write_json(found)
        return
    for name, hits in found.results.items():
        out.print(Text.assemble((name, "bold"), (f"  {len(hits)} results from {collection}", "dim")))
        for hit in hits:
            _show_hit(hit)
    for name, error in found.errors.items():
        out.print(Text.assemble((name, "bold"), (f"  {error['detail']}", "red")))
    for job in newest:
        if job.state not in FINAL_STATES:
            err.print(Text(f"Results may be incomplete: job {job.job_id} is {job.state}."))
            err.print(Text(f"hint:  Wait for its end: ingest watch {job.job_id}"))


def _find_newest_job(client: IngestClient, collection: str) -> list[JobView]:
    """Return the newest job of a collection; nothing when jobs cannot be listed, which must not hide the results."""
    with contextlib.suppress(ApiError, ApiUnreachable):
        return client.list_jobs(collection=collection, limit=1).items
    return []


def _show_hit(hit: Hit) -> None:
    payload = hit.model_extra or {}
    page = f" p. {payload['page']}" if payload.get("page") else ""
    marks = f"  differs: {', '.join(hit.differences)}" if hit.differences else ""
    out.print(Text.assemble((f"  {hit.score:.3f}  ", "green"), (f"{hit.key}{page}", "bold"), (marks, "yellow")))
    if payload.get("context"):
        out.print(Text(f"         {_shorten(str(payload['context']))}", style="dim"))
    out.print(Text(f"         {_shorten(hit.text)}"))


def _shorten(passage: str) -> str:
    """Return a passage in one line. Pure."""
    line = " ".join(passage.split())
    return line if len(line) <= PASSAGE_CHARS else line[:PASSAGE_CHARS].rstrip() + "…"


def collections(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[delete] COLLECTION",
            help="Show the details of this one; with `delete` before it, delete it in every store.",
            show_default=False,
        ),
    ] = None,
    doomed: Annotated[str | None, typer.Argument(metavar="...", hidden=True)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking for confirmation.")] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List collections, show the details of one, or delete one in every store.

    ingest collections delete handbook
    """
    if doomed is not None:
        if name != DELETE:
            raise typer.BadParameter(f"Use `ingest collections {name}` or `ingest collections delete {doomed}`.")
        _delete_collection(doomed, yes=yes, json=json, url=url)
        return
    with open_client(url) as client:
        found = [client.get_collection(name)] if name is not None else client.list_collections()
    if json:
        for collection in found:
            write_json(collection)
        return
    if name is None:
        rows = ((c.name, c.contract.model, *(_points(c, store) for store in StoreName)) for c in found)
        write_table(("COLLECTION", "MODEL", "QDRANT", "WEAVIATE"), rows)
        return
    [collection] = found
    contract, chunking = collection.contract, collection.contract.chunking
    write_pairs(
        {
            "collection": name,
            "model": f"{contract.model} ({contract.dimension} dimensions, {contract.model_digest[:19]})",
            "chunking": f"{chunking.max_chars} characters, overlap {chunking.overlap_chars}",
            "created by": contract.created_by,
            "state": "being deleted" if collection.deleting else None,
            **{store: f"{_points(collection, store)} points" for store in collection.stores},
            **{f"objects {state}": number for state, number in (collection.objects or {}).items()},
            "last job": _describe_last_job(collection.last_job),
            "verified": _describe_verified(collection.verified),
        }
    )


def _delete_collection(name: str, *, yes: bool, json: bool, url: str) -> None:
    """Delete a collection, after a confirmation; print what is left to do."""
    if not yes:
        question = f"Delete collection {name!r} with all of its points in every store? The bucket is not changed."
        typer.confirm(question, abort=True, err=True)
    with open_client(url) as client:
        done = client.delete_collection(name)
    if json:
        write_json(done)
    elif done.deleted:
        typer.echo(f"{name} deleted")
    else:
        typer.echo(f"{name} is being deleted: {done.note}")


def _describe_last_job(job: LastJob | None) -> str | None:
    if job is None:
        return None
    ended = f", ended {job.finished_at}" if job.finished_at else ""
    return f"{job.job_id} ({job.mode}, {job.state}{ended})"


def _describe_verified(verified: LastVerified | None) -> str:
    if verified is None:
        return "never"
    found = f"{verified.differences} differences" if verified.differences else "no differences"
    return f"{verified.at}, {found} ({verified.job_id})"


def _points(collection: CollectionView, store: StoreName) -> Any:
    held = collection.stores.get(store)
    if held is None:
        return None
    return held.points if held.error is None else f"? ({held.error})"


def objects(
    collection: Collection,
    prefix: Prefix = "",
    state: Annotated[str | None, typer.Option(help="Only objects in this state: present or failed.")] = None,
    warnings: Annotated[bool, typer.Option("--warnings", help="Only objects of which something was left out.")] = False,
    folders: Annotated[
        bool, typer.Option("--folders", help="List keys with a slash after the prefix as folders, once each.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number of objects.")] = 100,
    everything: All = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the objects of a collection, ordered by key, with what was left out of them."""
    named: list[str] = []
    with open_client(url) as client:

        def read_page(size: int, cursor: str | None) -> ObjectPage:
            page = client.list_objects(
                collection,
                prefix=prefix,
                state=state,
                warnings=warnings,
                delimiter="/" if folders else None,
                limit=size,
                cursor=cursor,
            )
            named.extend(page.folders)
            return page

        found = collect_pages(read_page, limit=None if everything else limit, page_size=1000, what="objects")
    if json:
        for folder in named:
            write_json({"folder": folder})
        for item in found:
            write_json(item)
        return
    columns = ("STATE", "KEY", "BYTES", "CHUNKS", "ERROR", "WARNINGS")
    names = ("state", "key", "size_bytes", "chunk_count", "error_code")
    rows = (item.model_dump(mode="json") for item in found)
    above = (("folder", folder, None, None, None, None) for folder in named)
    cells = ((*(row[name] for name in names), _describe_warnings(item)) for row, item in zip(rows, found, strict=True))
    write_table(columns, (*above, *cells))


def _describe_warnings(item: ObjectView) -> str | None:
    """Return what was left out of an object: ``2 lines_skipped: Line 7 is not JSON.``; None for nothing."""
    shown = (f"{warning.count} {warning.code}: {warning.detail}" for warning in item.warnings)
    return "; ".join(text.removesuffix(": ") for text in shown) or None


def chunks(
    collection: Collection,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key of an object.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number of chunks.")] = 100,
    everything: All = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the chunks of an object in the order of the document, and whether the stores hold the same.

    ingest chunks handbook guides/passwords.md
    """
    errors: dict[StoreName, StoreErrorView] = {}
    with open_client(url) as client:

        def read_page(size: int, cursor: str | None) -> ChunkPageView:
            page = client.list_chunks(collection, key, limit=size, cursor=cursor)
            errors.update(page.errors)
            return page

        found = collect_pages(read_page, limit=None if everything else limit, page_size=200, what="chunks")
    for name, error in errors.items():
        err.print(Text(f"{name} could not be read: {error.detail}"))
    if json:
        for chunk in found:
            write_json(chunk)
        return
    rows = ((c.chunk_index, c.page, _describe_agreement(c), _shorten(c.text or "")) for c in found)
    write_table(("CHUNK", "PAGE", "STORES", "TEXT"), rows)


def _describe_agreement(chunk: ChunkView) -> str:
    """Return whether the stores agree: ``equal``, ``different: text, vector``, ``missing: weaviate``. Pure."""
    lacking = [name for name, held in chunk.stores.items() if held.present is False]
    what = lacking if chunk.agreement is Agreement.MISSING else chunk.differences
    return f"{chunk.agreement}: {', '.join(what)}" if what else str(chunk.agreement)


def verify(
    collection: Collection,
    prefix: Prefix = "",
    engine: Engine = "ray",
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Compare the stores with each other and with the record of what was written; changes nothing.

    With --watch, the exit code is 1 when there are differences; `ingest failures JOB` lists them.
    """
    with open_client(url) as client:
        accepted = _submit_comparison(
            client, collection, "verify", prefix=prefix, engine=engine, idempotency_key=idempotency_key
        )
        return report_accepted(client, accepted, follow=follow, json=json)


def repair(
    collection: Collection,
    prefix: Prefix = "",
    engine: Engine = "ray",
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Compare the stores and repair differences from the store that is right."""
    with open_client(url) as client:
        accepted = _submit_comparison(
            client, collection, "repair", prefix=prefix, engine=engine, idempotency_key=idempotency_key
        )
        return report_accepted(client, accepted, follow=follow, json=json)


def _submit_comparison(
    client: IngestClient, collection: str, mode: str, *, prefix: str, engine: str, idempotency_key: str | None
) -> JobAccepted:
    """Submit a job on an existing collection; bucket, model and chunking are taken from its contract."""
    bucket = client.get_collection(collection).contract.bucket
    if bucket is None:
        raise typer.BadParameter(
            f"The contract of collection {collection!r} does not name its bucket. Use `ingest submit --mode {mode}`."
        )
    request = {"source": {"bucket": bucket, "prefix": prefix}, "collection": collection, "mode": mode}
    return client.submit(request, engine=engine, idempotency_key=idempotency_key)


def delete_objects(
    collection: Collection,
    prefix: Annotated[str, typer.Option(help="Remove objects whose key starts with this prefix.", show_default=False)],
    everything: Annotated[bool, typer.Option("--all", help="Allow an empty prefix, which means every object.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Engine that runs the job: ray or spark. Default: the first that the service has."),
    ] = None,
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Remove objects from a collection, in every store; the bucket is not changed."""
    which = f"all objects whose key starts with {prefix!r}" if prefix else "ALL objects"
    if not yes:
        typer.confirm(f"Remove {which} from collection {collection!r}?", abort=True, err=True)
    with open_client(url) as client:
        accepted = client.delete_objects(
            collection, prefix=prefix, everything=everything, engine=engine, idempotency_key=idempotency_key
        )
        return report_accepted(client, accepted, follow=follow, json=json)
