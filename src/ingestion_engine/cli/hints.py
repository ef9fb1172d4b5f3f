"""Hints for errors of the service, worded for the command line: they name commands instead of HTTP routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_READY: Final = "Run `ingest ready` to see which system is unavailable."
_LOGS: Final = "Run `ingest logs {job_id}` to read the last lines of its driver."

HINTS: Final = {
    "alias_moving": "Try again in a moment. `ingest aliases list` shows the state of every alias.",
    "alias_not_found": "Run `ingest aliases list` to list aliases. `ingest submit --alias` creates one.",
    "collection_deleting": "Run it again when `ingest collections` does not list the collection any more.",
    "collection_in_use": "Free it first: `ingest aliases remove ALIAS`, or `ingest aliases prune ALIAS` for versions.",
    "collection_not_found": "Run `ingest collections` to list collections. A job creates its collection.",
    "collection_not_ready": "Wait for its job: ingest watch {job_id}",
    "differences_found": "Run `ingest failures {job_id}` to list the objects, and `ingest repair COLLECTION`.",
    "driver_died": _LOGS,
    "embedder_unavailable": _READY,
    "engine_never_started": _LOGS,
    "draining": "Run it again later: `ingest ready` shows whether the service is still drained.",
    "job_not_found": "Run `ingest jobs` to list jobs. Those that ended INGEST_RETENTION__DAYS ago are removed.",
    "mode_not_submittable": "Run `ingest delete-objects COLLECTION --prefix PREFIX`.",
    "not_allowed": "Set INGEST_API_KEY to a key whose buckets and collections allow it: `ingest keys list`.",
    "not_found": "Check that INGEST_API_URL (or --url) is the URL of the service.",
    "scope_missing": "Set INGEST_API_KEY to a key with that scope: `ingest keys list` shows the scopes of keys.",
    "state_unavailable": _READY,
    "object_not_found": "Run `ingest objects COLLECTION` to list the objects.",
    "stores_unavailable": _READY,
    "too_many_streams": "End other `ingest watch` commands, or run `ingest show {job_id}` from time to time.",
    "unauthenticated": "Set INGEST_API_KEY to a valid API key.",
    "validation_error": "Run the command with --help to see its options.",
}
"""By error code. A test compares the codes with the hints in the source that name a route."""

_OWN: Final = frozenset({"collection_in_use", "engine_never_started", "validation_error"})
"""Codes of several errors: only a hint that names a route is replaced."""


def choose_hint(code: str, hint: str | None, known: Mapping[str, Any]) -> str | None:
    """Return the hint to show for an error of the service. Pure.

    Args:
        code: Code of the error.
        hint: The service's own hint.
        known: Values for placeholders, for example ``job_id``.
    """
    if code == "collection_not_found" and known.get("job_id"):
        code = "collection_not_ready"
    own = HINTS.get(code)
    if own is None or (code in _OWN and not names_route(hint or "")):
        return hint
    return own.format(**{"job_id": "JOB", **known})


def names_route(hint: str) -> bool:
    """Return True when a hint names a route or a header of HTTP. Pure."""
    return any(mark in hint for mark in ("GET /", "POST /", "PUT /", "DELETE /", "Authorization:"))
