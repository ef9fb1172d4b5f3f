"""Every state of the Spark operator has a meaning, and only two of them are ends."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.states import EngineState
from ingestion_engine.services.spark_service import STATES

UPSTREAM = {
    "",
    "SUBMITTED",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "SUBMISSION_FAILED",
    "PENDING_RERUN",
    "INVALIDATING",
    "SUCCEEDING",
    "FAILING",
    "SUSPENDING",
    "SUSPENDED",
    "RESUMING",
    "UNKNOWN",
}
"""``ApplicationStateType`` in api/v1beta2/sparkapplication_types.go, 2.5.2."""


def test_every_upstream_state_is_known() -> None:
    """None is missing, none is invented."""
    assert set(STATES) == UPSTREAM


def test_only_two_states_are_ends() -> None:
    """Anything else the operator leaves by itself; an end would start a second driver beside it."""
    assert {name for name, (state, _) in STATES.items() if state is EngineState.ENDED} == {"COMPLETED", "FAILED"}


@pytest.mark.parametrize("name", sorted(UPSTREAM))
def test_every_state_is_explained(name: str) -> None:
    """People read a sentence, not the operator's constant."""
    _, detail = STATES[name]
    assert detail
    assert name == "" or name not in detail
