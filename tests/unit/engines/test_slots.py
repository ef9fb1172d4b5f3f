"""Places in an engine's window."""

from __future__ import annotations

import pytest

from ingestion_engine.engines.slots import Slots, mark_slot


def test_no_two_holders_have_the_same_slot() -> None:
    """A place that is given back is the next to be taken; there are no more than the window has."""
    slots = Slots(3)
    assert [slots.take(name) for name in "abc"] == [0, 1, 2]
    with pytest.raises(IndexError):
        slots.take("d")
    slots.give_back("b")
    assert slots.take("d") == 1


def test_a_slot_stands_behind_the_uri() -> None:
    """The URI itself stays readable in front of it."""
    assert mark_slot("s3://b/jobs/job-1/spec.json", 3).partition("#") == ("s3://b/jobs/job-1/spec.json", "#", "3")
