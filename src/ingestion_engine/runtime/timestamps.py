"""Times in UTC and their RFC 3339 texts: the only formatter and parser of the product. Standard library only."""

from __future__ import annotations

import datetime as dt
from typing import overload

Moment = dt.datetime
"""A point in time; its zone is always UTC."""


def utc_now() -> Moment:
    """Return the current time in UTC."""
    return dt.datetime.now(dt.UTC)


def timestamp_now() -> str:
    """Return the current time as RFC 3339 in UTC with whole seconds."""
    return format_seconds(utc_now())


def format_seconds(moment: Moment) -> str:
    """Return RFC 3339 in UTC with whole seconds, truncated: ``2026-01-31T12:00:00Z``. Pure."""
    return _format(moment, "seconds")


@overload
def format_milliseconds(moment: Moment) -> str: ...
@overload
def format_milliseconds(moment: Moment | None) -> str | None: ...
def format_milliseconds(moment: Moment | None) -> str | None:
    """Return RFC 3339 in UTC with milliseconds, truncated: ``2026-01-31T12:00:00.000Z``; None for None. Pure."""
    return None if moment is None else _format(moment, "milliseconds")


def parse_timestamp(text: str) -> Moment:
    """Return the moment of an RFC 3339 text. Raises ValueError, also for a text without a time zone. Pure."""
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:  # the first and the last day of the calendar, in another time zone
        raise ValueError("beyond the calendar") from error


def _format(moment: Moment, timespec: str) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
