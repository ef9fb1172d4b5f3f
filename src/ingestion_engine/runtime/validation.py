"""Validation errors of pydantic as text: one wording for settings, files, the command line and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from ingestion_engine.domain.spec import COLLECTION_PATTERN

_NAME = "a name consists of a letter, then letters, digits or '_', at most 128 characters"

PATTERNS: Final[Mapping[str, str]] = {
    COLLECTION_PATTERN: _NAME,
    f"^$|{COLLECTION_PATTERN}": _NAME,
    r"^[^\x00-\x1f\x7f]+$": "a key has no control characters",
    "^[0-9a-fA-F]{64}$": "a SHA-256 has 64 hexadecimal digits",
}
"""What the patterns of the product's fields mean, for people who do not read regular expressions."""


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
    if fault["type"] == "string_pattern_mismatch":
        pattern = str((fault.get("ctx") or {}).get("pattern"))
        return PATTERNS.get(pattern, str(fault["msg"]))
    return str(fault["msg"]).removeprefix("Value error, ")
