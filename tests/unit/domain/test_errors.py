"""Errors read from their records."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.errors import (
    CollectionMissing,
    DimensionDiffers,
    FatalError,
    JobAborted,
    LeaseLost,
    StateMissing,
    read_fatal_record,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (CollectionMissing, "collection_missing"),
        (StateMissing, "state_missing"),
        (LeaseLost, "lease_lost"),
        (JobAborted, "job_aborted"),
        (FatalError, "schema_mismatch"),
    ],
)
def test_a_fatal_error_is_read_from_its_record(kind: type[FatalError], code: str) -> None:
    """Class, code, message, hint and context are those of the error that made the record."""
    error = kind(code, "A message.", hint="Do this.", bucket="docs")
    copy = read_fatal_record(error.record())
    assert type(copy) is kind
    assert copy.record() == error.record()


def test_every_fatal_class_can_be_read() -> None:
    """A class that is missing from the table would be read as FatalError: that is right only for one whose reaction is
    that of the stage which meets it.
    """
    codes = ("collection_missing", "state_missing", "lease_lost", "job_aborted")
    assert {type(read_fatal_record({"code": code})) for code in codes} == set(FatalError.__subclasses__()) - {
        DimensionDiffers
    }


def test_an_incomplete_record_is_read() -> None:
    """A record of another version may lack fields."""
    error = read_fatal_record({"context": None})
    assert (type(error), error.record()) == (
        FatalError,
        {"code": "unexpected_error", "message": "", "hint": "", "context": {}},
    )
