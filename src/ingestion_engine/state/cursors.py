"""Cursors of paged lists: opaque and URL-safe; foreign ones are refused."""

from __future__ import annotations

import base64

from ingestion_engine.domain.errors import SubmissionError


def encode_cursor(position: str) -> str:
    """Return a position as a URL-safe string without padding. Pure."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return the position in a cursor; the inverse of ``encode_cursor``. Pure.

    Raises:
        SubmissionError: "validation_error".
    """
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise bad_cursor(cursor) from error


def bad_cursor(cursor: str | None) -> SubmissionError:
    """Return the error for a cursor that was not made by this list. Pure."""
    return SubmissionError(
        "validation_error",
        f"{'' if cursor is None else cursor[:64]!r} is not a cursor of this list.",
        hint="Pass next_cursor of the previous page, or leave it out to start from the first page.",
        field="cursor",
    )
