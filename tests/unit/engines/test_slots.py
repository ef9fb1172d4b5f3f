"""Slots of an engine's window."""

from __future__ import annotations

import pytest

from ingestion_engine.engines.slots import Slots


def test_no_two_holders_have_the_same_slot() -> None:
    """A freed slot is the next one taken; there are no more slots than the window has."""
    slots = Slots(3)
    assert [slots.take(name) for name in "abc"] == [0, 1, 2]
    with pytest.raises(IndexError):
        slots.take("d")
    slots.give_back("b")
    assert slots.take("d") == 1
