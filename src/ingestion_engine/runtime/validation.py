"""Validation errors of pydantic as text: one wording for settings, files, the command line and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError


def join_path(location: Sequence[str]) -> str:
    """Return a location as a dotted path. Pure."""
    return ".".join(location)


def describe_faults(error: ValidationError, name: Callable[[Sequence[str]], str] = join_path) -> str:
    """Return all faults as ``field: reason; field: reason``. Pure. Values are left out, because they may be secrets.

    Args:
        error: The error.
        name: How the location of a field is shown.
    """
    shown = []
    for fault in error.errors(include_url=False, include_input=False):
        location = [str(part) for part in fault["loc"]]
        reason = describe_fault(fault)
        shown.append(f"{name(location)}: {reason}" if location else reason)
    return "; ".join(shown)


def describe_fault(fault: Mapping[str, Any]) -> str:
    """Return the reason of one fault, without its location. Pure."""
    if fault["type"] == "extra_forbidden":
        return "unknown field"
    if fault["type"] == "missing":
        return "required"
    return str(fault["msg"]).removeprefix("Value error, ")
