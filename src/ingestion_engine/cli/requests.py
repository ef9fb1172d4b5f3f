"""The body of a submission, made from flags and a file."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ingestion_engine.domain.spec import BUCKET_NAME


def read_request(file: Path | None, *, param_hint: str = "--file") -> dict[str, Any]:
    """Return the JSON object in a file, or in standard input for ``-``; an empty one for None.

    Args:
        file: The file, ``-``, or None.
        param_hint: Name of the option or argument, for error messages.

    Raises:
        typer.BadParameter: the file cannot be read or is not a JSON object.
    """
    if file is None:
        return {}
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        request = orjson.loads(data)
    except OSError as error:
        raise typer.BadParameter(f"Cannot read {str(file)!r}: {error.strerror}.", param_hint=param_hint) from error
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"{str(file)!r} is not JSON: {error}.", param_hint=param_hint) from error
    if not isinstance(request, dict):
        raise typer.BadParameter(f"{str(file)!r} does not contain a JSON object.", param_hint=param_hint)
    return request


def merge_request(request: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with the values of flags in place of its own. Pure.

    Args:
        request: The request of a file, or an empty one.
        given: Values of flags by dotted path; None and empty lists mean that the flag was not used.
    """
    merged = dict(request)
    for path, value in given.items():
        if value is None or value == []:
            continue
        group, _, name = path.rpartition(".")
        if not group:
            merged[name] = value
        else:
            inner = merged.get(group)
            merged[group] = {**(inner if isinstance(inner, dict) else {}), name: value}
    return merged


def split_source(source: str, *, param_hint: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix``; ``s3://`` may be left out. Pure.

    Every command that takes an S3 location reads it with this function.

    Raises:
        typer.BadParameter: the text begins with no bucket, such as a path of this machine.
    """
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    if not BUCKET_NAME.fullmatch(bucket):
        raise typer.BadParameter(f"{source!r} does not name a bucket. Use s3://bucket/prefix.", param_hint=param_hint)
    return bucket, prefix


def split_pairs(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Return ``name=value`` pairs as a dictionary. Pure. Raises typer.BadParameter."""
    if not pairs:
        return None
    for pair in pairs:
        if "=" not in pair.lstrip("="):
            raise typer.BadParameter(f"{pair!r} does not have the form name=value.", param_hint="--metadata")
    return dict(pair.split("=", 1) for pair in pairs)


def gather_request(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="s3://bucket/prefix", show_default=False)
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection", "-c", help="Collection to write: letters, digits and underscores, starting with a letter."
        ),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            help="Alias to move to the collection when the job succeeds. Without --collection, a new one is created."
        ),
    ] = None,
    bucket: Annotated[str | None, typer.Option(help="Bucket to read; overrides SOURCE.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Prefix to read; overrides SOURCE.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only keys that match this glob, after the prefix; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Skip keys that match this glob, after the prefix; repeatable.")
    ] = None,
    store: Annotated[
        list[str] | None, typer.Option(help="Store to write: qdrant or weaviate; repeatable. Default: both.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="sync, full, plan, verify or repair. Default: sync.")] = None,
    delete_missing: Annotated[
        bool | None, typer.Option(help="Remove the points of objects that were deleted from the bucket. Default: yes.")
    ] = None,
    allow_mass_delete: Annotated[
        bool | None, typer.Option(help="Allow deleting more than 20 % of the collection's objects.")
    ] = None,
    retry_failed: Annotated[
        bool | None, typer.Option(help="Retry objects that failed permanently and did not change.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Ollama model. Default: the model of the service.")] = None,
    embed_prefix: Annotated[str | None, typer.Option(help="Text put before every chunk when it is embedded.")] = None,
    query_prefix: Annotated[str | None, typer.Option(help="Text put before every query when it is embedded.")] = None,
    max_chars: Annotated[int | None, typer.Option(help="Maximum size of a chunk, in characters.")] = None,
    overlap_chars: Annotated[
        int | None, typer.Option(help="Maximum overlap of neighbouring chunks, in characters.")
    ] = None,
    parallelism: Annotated[
        int | None, typer.Option("--parallelism", "-p", help="Maximum number of partitions processed at once.")
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(min=1, max=10, help="Share of the embedder among jobs, 1 to 10. Default: 5. Needs the gateway."),
    ] = None,
    failure_fraction: Annotated[
        float | None, typer.Option(help="Fraction of the objects that may fail, 0 to 1.")
    ] = None,
    failure_min: Annotated[int | None, typer.Option(help="Number of objects that may always fail.")] = None,
    max_runtime: Annotated[int | None, typer.Option(help="Time limit for an attempt, in seconds.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Metadata for every point, name=value; repeatable.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Request as JSON; - reads standard input. Flags override it.")
    ] = None,
) -> dict[str, Any]:
    """Return the request made from flags and file. Raises typer.BadParameter."""
    named_bucket, named_prefix = (None, "") if source is None else split_source(source, param_hint="SOURCE")
    return merge_request(
        read_request(file),
        {
            "source.bucket": bucket or named_bucket,
            "source.prefix": prefix if prefix is not None else named_prefix or None,
            "source.include": include,
            "source.exclude": exclude,
            "alias": alias,
            "collection": collection,
            "stores": store,
            "mode": mode,
            "delete_missing": delete_missing,
            "allow_mass_delete": allow_mass_delete,
            "retry_failed": retry_failed,
            "embedding.model": model,
            "embedding.prefix": embed_prefix,
            "embedding.query_prefix": query_prefix,
            "chunking.max_chars": max_chars,
            "chunking.overlap_chars": overlap_chars,
            "parallelism": parallelism,
            "priority": priority,
            "failure_budget.max_fraction": failure_fraction,
            "failure_budget.min_objects": failure_min,
            "max_runtime_s": max_runtime,
            "metadata": split_pairs(metadata),
        },
    )


def takes_request(command: Callable[..., int]) -> Callable[..., int]:
    """Return a command with all flags of a request; the decorated function receives the request as first argument.

    One list of flags serves all commands that take a request.
    """
    flags = inspect.signature(gather_request, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def run(**given: Any) -> int:
        request = gather_request(**{name: given.pop(name) for name in flags})
        return command(request, **given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*flags.values(), *own)]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    return run
