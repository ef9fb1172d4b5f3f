"""``ingest upload``: local files into a bucket, before a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from ingestion_engine.cli.extras import requires_extra
from ingestion_engine.cli.output import err, out, write_json
from ingestion_engine.cli.requests import split_source
from ingestion_engine.cli.root import Json
from ingestion_engine.runtime.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(upload)


def upload(
    path: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory or single file.", exists=True, show_default=False)
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="s3://bucket/prefix", show_default=False)],
    json: Json = False,
) -> None:
    """Upload a directory or a file to S3, as configured with INGEST_S3__*.

    ingest upload ./handbook s3://docs/handbook

    The key of a file is the prefix, a slash, and its path relative to DIR. Objects with the same key are replaced,
    others are kept. Hidden files and directories (names that start with a dot) are skipped. Symbolic links to files
    are followed, symbolic links to directories are not.
    """
    bucket, prefix = split_source(target, param_hint="TARGET")
    with requires_extra("s3", "`ingest upload`"):
        from ingestion_engine.adapters.s3.upload import find_files, upload_files
    files = find_files(path, prefix)
    if not files:
        raise typer.BadParameter(f"{str(path)!r} contains no files to upload.", param_hint="DIR")
    settings = load_settings()
    total_bytes = sum(file.size_bytes for file in files)
    with Progress(console=Console(stderr=True), transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("uploading", total=total_bytes)
        for file in upload_files(settings.s3, bucket, files, ca_file=settings.tls.ca_file):
            progress.advance(task, file.size_bytes)
    if json:
        write_json({"bucket": bucket, "prefix": prefix, "files": len(files), "bytes": total_bytes})
    else:
        count = "1 file" if len(files) == 1 else f"{len(files)} files"
        out.print(Text(f"{count}, {total_bytes:,} bytes uploaded to s3://{bucket}/{prefix}"))
