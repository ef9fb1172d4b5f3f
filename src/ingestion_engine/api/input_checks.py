"""What no request may contain, whatever its model: checked before anything else looks at it.

Each check is bounded by the size of the body, and raises ``SubmissionError``, so that a client learns what to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ingestion_engine.domain.errors import CollectionNotFound, SubmissionError
from ingestion_engine.domain.spec import COLLECTION_PATTERN, INTEGER_MAX
from ingestion_engine.runtime.timestamps import parse_timestamp
from ingestion_engine.services.jobs import job_not_found

LIST_MAX: Final = 10_000
"""Maximum number of items of a list; the largest realistic request has some thousands of globs."""

OBJECT_MAX: Final = 1_000
"""Maximum number of members of a JSON object; requests have about twenty, and ``metadata`` at most 64."""

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
"""PostgreSQL stores no U+0000, and a lone surrogate has no UTF-8."""

_NAME: Final = re.compile(COLLECTION_PATTERN.removesuffix("$") + r"\Z")
_JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def check_body(body: Any) -> Any:
    """Return the JSON of a body. Pure.

    Raises:
        SubmissionError: "validation_error": a list or object is too long, a text cannot be stored, a number is too
            large; ``field`` names the place.
    """
    for path, fault in _find_faults(body):
        hint = "Compare the request with the schema: GET /openapi.json, or /docs in a browser."
        detail = f"{path}: {fault}" if path else fault
        raise SubmissionError("validation_error", detail, hint=hint, field=path or None)
    return body


def check_collection_name(name: str) -> str:
    """Return the name of a collection in a path. Pure. Raises CollectionNotFound (404) when none can have it."""
    if _NAME.match(name) is None:
        hint = "List collections with GET /collections. A name has letters, digits and '_', at most 128 characters."
        raise CollectionNotFound("collection_not_found", f"Collection {name!r} does not exist.", hint=hint, status=404)
    return name


def check_alias_name(name: str) -> str:
    """Return the name of an alias in a path. Pure. Raises SubmissionError "alias_not_found" (404)."""
    if _NAME.match(name) is None:
        hint = "List aliases with GET /aliases. A name has letters, digits and '_', at most 128 characters."
        raise SubmissionError("alias_not_found", f"Alias {name!r} does not exist.", hint=hint, status=404)
    return name


def check_job_id(job_id: str) -> str:
    """Return the id of a job in a path. Pure. Raises SubmissionError "job_not_found" (404)."""
    if _JOB_ID.match(job_id) is None:
        raise job_not_found(job_id)
    return job_id


def check_moment(value: object) -> object:
    """Return the moment of a text in a query. Pure. Raises ValueError: it is none of RFC 3339, or has no time zone."""
    if not isinstance(value, str):
        return value
    try:
        return parse_timestamp(value)
    except ValueError as error:
        raise ValueError("a moment in the form of RFC 3339, such as 2026-01-31T12:00:00Z") from error


def _find_faults(body: Any) -> Iterator[tuple[str, str]]:
    """Yield path and reason of each fault. Not recursive: a body may be nested as deeply as its parser allows. Pure."""
    left: list[tuple[str, Any]] = [("", body)]
    while left:
        path, value = left.pop()
        if isinstance(value, str):
            if (found := _UNSTORABLE.search(value)) is not None:
                yield path, f"the text has the character U+{ord(found[0]):04X}, which cannot be stored"
        elif isinstance(value, int | float):  # NaN is between no numbers
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                yield path, f"the number must be between {-INTEGER_MAX} and {INTEGER_MAX}"
        elif isinstance(value, list):
            if len(value) > LIST_MAX:
                yield path, f"the list has {len(value):,} items, at most {LIST_MAX:,} are allowed"
            else:
                left += [(f"{path}.{index}".lstrip("."), item) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            if len(value) > OBJECT_MAX:
                yield path, f"the object has {len(value):,} members, at most {OBJECT_MAX:,} are allowed"
            else:
                left += [(f"{path}.{name}".lstrip("."), item) for name, item in value.items()]
                left += [(path, name) for name in value]
