"""Commands that run something in this process: the service, the embedded stack, the demo, a worker.

Everything heavy is imported inside the command that uses it, so that each command runs with its own extra alone.
"""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from ingestion_engine.cli.extras import require_worker, requires_devstack, requires_extra
from ingestion_engine.cli.output import (
    ExitCode,
    err,
    exit_code_of,
    exit_code_of_report,
    out,
    print_error,
    write_json,
    write_table,
)
from ingestion_engine.cli.output import open_client as _open_client
from ingestion_engine.cli.requests import read_request
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.runtime.settings import Settings, load_settings
from ingestion_engine.runtime.validation import describe_faults

Spec = Annotated[str, typer.Option("--spec", help="URI of the job's spec.json.", show_default=False)]

READY_WITHIN_S = 10.0
"""Seconds to wait for slow systems: a person waits longer than a probe."""

worker = typer.Typer(help="Run a job, or a part of one, in this process.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (serve, migrate, gateway, up, demo, ready):
        app.command()(command)
    app.add_typer(worker, name="worker")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: INGEST_API__HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 means any free port. Default: INGEST_API__PORT.")
    ] = None,
) -> None:
    """Run the HTTP service alone; all other systems are configured with INGEST_* variables."""
    settings = load_settings()
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = settings.model_copy(update={"api": settings.api.model_copy(update=given)})
    with requires_extra("api", "`ingest serve`"):
        from ingestion_engine.server.serve import serve as run_service
    _check_extras(settings)
    run_service(settings)


def migrate(
    wait_s: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait for a database that is unavailable, or whose tables are locked."),
    ] = 60.0,
    back_to: Annotated[
        str | None,
        typer.Option(
            help="Bring the schema back to this version instead, for a former release; stop all copies of the service "
            "before.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Migrate the schema of the database of jobs (INGEST_DATABASE_URL) to this version, and exit.

    It may run several times, and in several processes at once. Exit code: 0 when the schema has this version now, 7
    when the database is unavailable.
    """
    settings = load_settings()
    with requires_extra("api", "`ingest migrate`"):
        from ingestion_engine.runtime.telemetry import configure_logging
        from ingestion_engine.services.job_schema import migrate_schema, revert_schema
    _check_extras(settings, only="postgres")
    configure_logging(settings.log_level, json=settings.log_format == "json")
    url, ca_file, database = settings.sqlalchemy_url, settings.tls.ca_file, settings.database
    try:
        change = asyncio.run(
            migrate_schema(url, ca_file=ca_file, settings=database, wait_s=wait_s)
            if back_to is None
            else revert_schema(url, back_to, ca_file=ca_file, settings=database)
        )
    except DatabaseUnavailable as error:
        return print_error(error.message, code=error.code, hint=error.hint, exit_code=ExitCode.UNREACHABLE)
    if json:
        write_json({"from": change.before, "to": change.after})
    elif change.before == change.after:
        out.print(f"The schema of the database has version {change.after} already.")
    else:
        out.print(f"The schema of the database was migrated from version {change.before or 'none'} to {change.after}.")
    return int(ExitCode.SUCCEEDED)


def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: INGEST_GATEWAY__HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 means any free port. Default: INGEST_GATEWAY__PORT.")
    ] = None,
) -> None:
    """Run the embedding gateway: Ollama's API in front of the servers of INGEST_OLLAMA__URLS, with one fair queue."""
    settings = load_settings()
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = settings.model_copy(update={"gateway": settings.gateway.model_copy(update=given)})
    with requires_extra("gateway", "`ingest gateway`"):
        from ingestion_engine.gateway.serve import serve as run_gateway
    run_gateway(settings)


def _check_extras(settings: Settings, *, only: str | None = None) -> None:
    """Import what the configured systems need, because an import error inside the running service has a traceback.

    Args:
        settings: All settings.
        only: Extra to which the check is limited; None means all.
    """
    needed = {
        "weaviate": (settings.weaviate.url, "INGEST_WEAVIATE__URL", "ingestion_engine.adapters.weaviate.store"),
        "kubernetes": (
            settings.spark.namespace,
            "INGEST_SPARK__NAMESPACE",
            "ingestion_engine.services.spark_service",
        ),
        "postgres": (_uses_asyncpg(settings.sqlalchemy_url), "INGEST_DATABASE_URL", "asyncpg"),
    }
    for extra, (configured, variable, module) in needed.items():
        if configured and only in {None, extra}:
            with requires_extra(extra, variable):
                importlib.import_module(module)


def _uses_asyncpg(url: str) -> bool:
    """Return whether a database URL means PostgreSQL with its usual driver. Pure."""
    return url.partition("://")[0] in {"postgres", "postgresql", "postgresql+asyncpg"}


def up() -> int:
    """Start every system that INGEST_* does not configure, on loopback, and the service; Ctrl-C stops them all."""
    with requires_devstack("ingest up"):
        from ingestion_devstack.demo.samples import offer_samples
        from ingestion_devstack.stack.up import run_up
    return run_up(prepare=offer_samples)


def demo(
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory that keeps the stack's data. Default: a temporary directory.")
    ] = None,
    engine: Annotated[str, typer.Option(help="ray, spark, or both: each runs the demo, then compare.")] = "ray",
) -> int:
    """Run an end-to-end demo locally and exit."""
    with requires_devstack("ingest demo"):
        from ingestion_devstack.demo.demo import ENGINES, run_demo
    if engine not in ENGINES:
        raise typer.BadParameter("Use ray, spark or both.", param_hint="--engine")
    return run_demo(data_dir, engine=engine)


def ready(json: Json = False, url: Url = DEFAULT_URL) -> int:
    """Show the state of every system that the service depends on; exit code 1 when it cannot accept jobs."""
    with _open_client(url) as client:
        found = client.check_ready(within_s=READY_WITHIN_S)
    if json:
        write_json(found)
    else:
        rows: list[tuple[str, str, float | None, str | None]] = [
            (name, "ok" if one.ok else "unavailable", one.latency_ms, one.version or one.error)
            for name, one in found.dependencies.items()
        ]
        if (dispatcher := found.dispatcher) is not None:
            state = "this copy" if dispatcher.leading else "another copy" if dispatcher.term else "unknown"
            rows.append(("dispatcher", state, None, dispatcher.holder))
        if (order := found.drain) is not None:
            rows.append(("drain", "refuses jobs" if order.refuses else "jobs wait", None, f"since {order.since}"))
        write_table(("NAME", "STATE", "MS", "DETAIL"), rows)
    return int(found.status == "unavailable")


@worker.command()
def partition(
    spec: Spec, partition_id: Annotated[str, typer.Option("--id", help="Id of a partition.", show_default=False)]
) -> int:
    """Run one partition of a job again and print its report as JSON.

    Exit code: 0 when all its objects are done, 4 when some failed, 3 when the report is fatal, 7 when a system is
    unavailable.
    """
    with requires_extra("worker", "`ingest worker partition`"):
        from ingestion_engine.driver.run import run_partition
    require_worker("`ingest worker partition`")
    return int(exit_code_of_report(run_partition(spec, partition_id)))


@worker.command()
def driver(spec: Spec, attempt: Annotated[int, typer.Option(min=1, help="Number of the attempt.")] = 1) -> int:
    """Run the driver of a job, as an engine's cluster does."""
    with requires_extra("worker", "`ingest worker driver`"):
        from ingestion_engine.driver.entry import main
    require_worker("`ingest worker driver`")
    return main(["--spec", spec, "--attempt", str(attempt)])


@worker.command()
def run(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Request as JSON; - reads standard input.", show_default=False)
    ],
) -> int:
    """Run a job in this process, without service or cluster, and print its summary as JSON."""
    with requires_extra("worker", "`ingest worker run`"):
        from ingestion_engine.adapters.connect import open_state_store
        from ingestion_engine.domain.spec import EngineName, JobRequest
        from ingestion_engine.driver.entry import EXIT_SUPERSEDED
        from ingestion_engine.driver.run import run_driver
        from ingestion_engine.runtime.telemetry import configure_logging
        from ingestion_engine.services.job_ids import JobIds
        from ingestion_engine.services.specs import make_spec
        from ingestion_engine.state.ledger import Ledger
    require_worker("`ingest worker run`")
    settings = load_settings()
    configure_logging(settings.log_level, json=settings.log_format == "json", names_job=False)
    try:
        request = JobRequest.model_validate(read_request(file, param_hint="FILE"))
    except ValidationError as error:
        raise typer.BadParameter(describe_faults(error), param_hint="FILE") from None
    ledger = Ledger(open_state_store(settings), JobIds().make())
    ledger.write_spec(make_spec(settings, request, engine=EngineName.LOCAL, job_id=ledger.job_id, parallelism=1))
    summary = run_driver(ledger.spec_uri, 1)
    if summary is None:
        err.print(Text("Another job owns the collection."))
        return EXIT_SUPERSEDED
    write_json(summary)
    return int(exit_code_of(str(summary["state"])))
