"""Commands that run something here: the service, the embedded stack, the demo, a worker. Imports are made when
needed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from ingestion_engine.cli.output import err, exit_code_of, write_json, write_table
from ingestion_engine.cli.output import open_client as _open_client
from ingestion_engine.cli.requests import read_request
from ingestion_engine.cli.root import DEFAULT_URL, Json, Url
from ingestion_engine.runtime.settings import load_settings

Spec = Annotated[str, typer.Option("--spec", help="URI of the job's spec.json.", show_default=False)]

worker = typer.Typer(help="Run parts of a job in this process.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (serve, up, demo, ready):
        app.command()(command)
    app.add_typer(worker, name="worker")


def serve(
    host: Annotated[str | None, typer.Option(help="Address; INGEST_API__HOST when left out.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 means any; INGEST_API__PORT when left out.")
    ] = None,
) -> None:
    """Run the HTTP service alone; everything else is configured by INGEST_*."""
    from ingestion_engine.api.serve import serve as run_service

    settings = load_settings()
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    run_service(settings.model_copy(update={"api": settings.api.model_copy(update=given)}))


def up() -> int:
    """Start whatever INGEST_* does not configure, on loopback, and the service; Ctrl-C stops it all."""
    from ingestion_devstack.stack.up import run_up

    return run_up(load_settings())


def demo(
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep the stack's data here; a temporary directory when left out.")
    ] = None,
    engine: Annotated[str, typer.Option(help="ray, spark, or both: the same by each, then compared.")] = "ray",
) -> int:
    """Do the whole job on an embedded stack, show it, and end."""
    from ingestion_devstack.demo.demo import ENGINES, run_demo

    if engine not in ENGINES:
        raise typer.BadParameter("ray, spark or both", param_hint="--engine")
    return run_demo(data_dir, engine=engine)


def ready(json: Json = False, url: Url = DEFAULT_URL) -> int:
    """Show whether everything that the service needs is there; exit code 1 when it cannot take jobs."""
    with _open_client(url) as client:
        found = client.check_ready()
    if json:
        write_json(found)
    else:
        rows = (
            (name, "ok" if one["ok"] else "away", one["latency_ms"], one.get("version") or one.get("error"))
            for name, one in found["dependencies"].items()
        )
        write_table(("NAME", "STATE", "MS", "DETAIL"), rows)
    return int(found["status"] == "unavailable")


@worker.command()
def partition(
    spec: Spec, partition_id: Annotated[str, typer.Option("--id", help="Id of a partition.", show_default=False)]
) -> None:
    """Run one partition again and print its report as JSON."""
    from ingestion_engine.driver.run import run_partition

    run_partition(spec, partition_id)


@worker.command()
def driver(spec: Spec, attempt: Annotated[int, typer.Option(min=1)] = 1) -> int:
    """Run a job's driver; what an engine's cluster runs."""
    from ingestion_engine.driver.entry import main

    return main(["--spec", spec, "--attempt", str(attempt)])


@worker.command()
def run(
    file: Annotated[Path, typer.Argument(help="Request as JSON, - for standard input.", show_default=False)],
) -> int:
    """Run a whole job in this process, without service or cluster, and print its summary as JSON."""
    from ingestion_engine.adapters.connect import open_state_store
    from ingestion_engine.domain.spec import EngineName, JobRequest
    from ingestion_engine.driver.entry import EXIT_SUPERSEDED
    from ingestion_engine.driver.run import run_driver
    from ingestion_engine.runtime.telemetry import configure_logging
    from ingestion_engine.services.job_ids import JobIds
    from ingestion_engine.services.specs import make_spec
    from ingestion_engine.state.ledger import Ledger

    settings = load_settings()
    configure_logging(settings.log_level, stream=sys.stderr)
    try:
        request = JobRequest.model_validate(read_request(file))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise typer.BadParameter(faults, param_hint="FILE") from None
    ledger = Ledger(open_state_store(settings), JobIds().make())
    ledger.write_spec(make_spec(settings, request, EngineName.LOCAL, ledger.job_id, parallelism=1))
    summary = run_driver(ledger.spec_uri, 1)
    if summary is None:
        err.print(Text("another job owns the collection"))
        return EXIT_SUPERSEDED
    write_json(summary)
    return int(exit_code_of(str(summary["state"])))
