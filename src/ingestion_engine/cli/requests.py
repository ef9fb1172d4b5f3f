"""From flags to the body of a submission."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import typer


def read_request(file: Path | None) -> dict[str, Any]:
    """Return the JSON object in a file, ``-`` being standard input; an empty one for None.

    Raises:
        typer.BadParameter: it cannot be read or is no JSON object.
    """
    if file is None:
        return {}
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        request = orjson.loads(data)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint="--file") from error
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}", param_hint="--file") from error
    if not isinstance(request, dict):
        raise typer.BadParameter(f"{file} does not hold a JSON object", param_hint="--file")
    return request


def merge_request(request: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with the flags that were given in place of its own values. Pure.

    Args:
        request: From a file, or empty.
        given: Values by dotted path; None and empty lists were not given.
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


def split_source(source: str | None) -> tuple[str | None, str | None]:
    """Return bucket and prefix of ``s3://bucket/prefix`` or of a bare bucket. Pure."""
    if source is None:
        return None, None
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    return bucket, prefix or None


def split_pairs(pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Return ``name=value`` pairs as a dictionary. Pure. Raises typer.BadParameter."""
    if not pairs:
        return None
    for pair in pairs:
        if "=" not in pair.lstrip("="):
            raise typer.BadParameter(f"{pair!r} is not name=value", param_hint="--metadata")
    return dict(pair.split("=", 1) for pair in pairs)
