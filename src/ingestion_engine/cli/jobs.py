"""Commands for jobs."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer
from rich.text import Text

from ingestion_engine.cli.output import exit_code_of_job, open_client, out, write_json, write_pairs, write_table
from ingestion_engine.cli.pages import All, collect_pages
from ingestion_engine.cli.requests import takes_request
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.cli.watch import describe_facts, describe_points, show_end, watch_job
from ingestion_engine.client import IngestClient
from ingestion_engine.domain.states import FINAL_STATES
from ingestion_engine.models.jobs import JobAccepted

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.", show_default=False)]
Codes = Annotated[list[str] | None, typer.Option("--code", help="Only objects that failed with this code; repeatable.")]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Follow the job until it ends; the exit code reports its final state.")
]
Key = Annotated[
    str | None,
    typer.Option(
        help="Any string; repeating a request with the same key does not create a second job.", show_default=False
    ),
]


LIMITS = 3
"""Machines that `ingest show` names as what limits a job."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (submit, spark_manifest, jobs, show, watch, failures, cancel, retry, logs):
        app.command()(command)


@takes_request
def submit(
    request: dict[str, Any],
    engine: Annotated[str, typer.Option(help="Engine that runs the job: ray or spark.")] = "ray",
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Submit a job that embeds every object under an S3 prefix.

    ingest submit s3://docs/handbook/ -c handbook --watch
    """
    if engine not in {"ray", "spark"}:
        raise typer.BadParameter("Use ray or spark.", param_hint="--engine")
    with open_client(url) as client:
        accepted = client.submit(request, engine=engine, idempotency_key=idempotency_key)
        return report_accepted(client, accepted, follow=follow, json=json)


@takes_request
def spark_manifest(request: dict[str, Any], json: Json = False, url: Url = DEFAULT_URL) -> int:
    """Print the SparkApplication that a submission to Spark would create, without creating it.

    ingest spark-manifest s3://docs/handbook/ -c handbook | kubectl apply --dry-run=server -f -
    """
    with open_client(url) as client:
        manifest = client.show_manifest(request)
    if json:
        write_json(manifest)
    else:
        typer.echo(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return 0


def report_accepted(client: IngestClient, accepted: JobAccepted, *, follow: bool, json: bool) -> int:
    """Print an accepted job, follow it on request, and return the exit code."""
    job_id = accepted.job_id
    if json:
        write_json(accepted)
    else:
        out.print(Text(f"{job_id} {accepted.state}"))
    if not follow:
        return 0
    return int(exit_code_of_job(watch_job(client, job_id, json=json)))


def jobs(
    engine: Annotated[str | None, typer.Option(help="Only jobs of this engine: ray or spark.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeatable.")] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Only jobs that write this collection.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="Only jobs that the API key or person of this name has submitted.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only jobs created then or later: 2026-01-31T12:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only jobs created before then.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number of jobs.")] = 20,
    everything: All = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, newest first."""
    with open_client(url) as client:
        found = collect_pages(
            lambda size, cursor: client.list_jobs(
                engine=engine,
                states=state or (),
                collection=collection,
                owner=owner,
                created_after=since,
                created_before=until,
                limit=size,
                cursor=cursor,
            ),
            limit=None if everything else limit,
            page_size=500,
            what="jobs",
        )
    if json:
        for job in found:
            write_json(job)
        return
    columns = ("JOB", "ENGINE", "COLLECTION", "MODE", "STATE", "CREATED", "PROGRESS", "NOTE")
    write_table(
        columns,
        (
            (
                j.job_id,
                j.engine,
                j.collection,
                j.mode,
                j.state,
                j.created_at,
                ", ".join(describe_facts(j)),
                j.note or "",
            )
            for j in found
        ),
    )


def show(job: JobId, json: Json = False, url: Url = DEFAULT_URL) -> int:
    """Show a job; the exit code reports its final state."""
    with open_client(url) as client:
        found = client.get_job(job)
    if json:
        write_json(found)
        return int(exit_code_of_job(found))
    source = found.request["source"]
    write_pairs(
        {
            "job": found.job_id,
            "engine": found.engine,
            "state": found.state,
            "note": None if found.state in FINAL_STATES else found.note,  # the end below has it
            "source": f"s3://{source['bucket']}/{source['prefix']}",
            "collection": found.collection,
            "mode": found.mode,
            "attempt": found.attempt,
            "parallelism": found.parallelism,
            "created": found.created_at,
            "started": found.started_at,
            "finished": found.finished_at,
            "progress": ", ".join(describe_facts(found)),
            "points": None if found.state in FINAL_STATES else describe_points(found),  # as the note
            "limited by": ", ".join(f"{one.machine} {one.share:.0%}" for one in (found.limited_by or ())[:LIMITS]),
        }
    )
    if found.state in FINAL_STATES:
        show_end(found)
    return int(exit_code_of_job(found))


def watch(job: JobId, json: Json = False, url: Url = DEFAULT_URL) -> int:
    """Follow a job until it ends; the exit code reports its final state."""
    with open_client(url) as client:
        return int(exit_code_of_job(watch_job(client, job, json=json)))


def failures(
    job: JobId,
    code: Codes = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number of objects.")] = 1000,
    everything: All = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the objects of a job that failed, or that differ between the stores."""
    with open_client(url) as client:
        found = collect_pages(
            lambda size, cursor: client.list_failures(job, codes=code or (), limit=size, cursor=cursor),
            limit=None if everything else limit,
            page_size=1000,
            what="objects",
        )
    if json:
        for item in found:
            write_json(item)
        return
    write_table(("CODE", "KEY", "REASON"), ((item.code, item.key, item.reason) for item in found))


def cancel(
    job: JobId,
    force: Annotated[
        bool, typer.Option("--force", help="End the job although its cluster is gone or its driver does not end.")
    ] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Cancel a job; points already written are kept."""
    with open_client(url) as client:
        found = client.cancel(job, force=force)
    if json:
        write_json(found)
    else:
        out.print(Text(f"{found.job_id} {found.state}"))


def retry(
    job: JobId,
    code: Codes = None,
    idempotency_key: Key = None,
    follow: Watch = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Submit a new job for exactly the objects that failed in a job that has ended."""
    with open_client(url) as client:
        accepted = client.retry(job, codes=code or (), idempotency_key=idempotency_key)
        return report_accepted(client, accepted, follow=follow, json=json)


def logs(
    job: JobId,
    attempt: Annotated[int | None, typer.Option(min=1, help="Number of the attempt. Default: the newest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what is added, until the job ends.")] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the last part of the log of a job's driver."""
    with open_client(url) as client:
        if follow:
            for text in client.follow_log(job, attempt):
                if json:
                    write_json({"job_id": job, "attempt": attempt, "log": text})
                else:
                    typer.echo(text, nl=False)
            return
        text = client.read_log(job, attempt)
    if json:
        write_json({"job_id": job, "attempt": attempt, "log": text})
    else:
        typer.echo(text.rstrip("\n"))
