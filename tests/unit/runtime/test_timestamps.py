"""RFC 3339 texts are in UTC, truncated, and read back to the same moment."""

from __future__ import annotations

import datetime as dt

import pytest

from ingestion_engine.runtime.timestamps import format_milliseconds, format_seconds, parse_timestamp, timestamp_now

HALF_PAST = dt.datetime(2026, 1, 31, 13, 30, 5, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=1)))


def test_texts_are_in_utc_and_truncated() -> None:
    """Listings, headers and tables must spell one moment alike, so nothing is rounded up."""
    assert format_seconds(HALF_PAST) == "2026-01-31T12:30:05Z"
    assert format_milliseconds(HALF_PAST) == "2026-01-31T12:30:05.999Z"
    assert format_milliseconds(None) is None


@pytest.mark.parametrize("text", ["2026-01-31T12:30:05Z", "2026-01-31T12:30:05+00:00", "2026-01-31T13:30:05.000+01:00"])
def test_every_spelling_of_a_moment_is_read(text: str) -> None:
    """Any offset is accepted; the result is in UTC."""
    moment = parse_timestamp(text)
    assert (moment.tzinfo, format_seconds(moment)) == (dt.UTC, "2026-01-31T12:30:05Z")


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-31T12:30:05"])
def test_a_text_without_zone_is_refused(text: str) -> None:
    """A time without a zone could be any of 24 hours."""
    with pytest.raises(ValueError):
        parse_timestamp(text)


def test_the_current_time_has_whole_seconds() -> None:
    """It reads back as a moment just passed."""
    written = parse_timestamp(timestamp_now())
    assert dt.timedelta() <= dt.datetime.now(dt.UTC) - written < dt.timedelta(seconds=60)
