"""The final state of a job, from its request, its counts and what stopped it."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.errors import FatalError, IngestionError, JobAborted
from ingestion_engine.domain.records import Action
from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.domain.states import JobState
from ingestion_engine.driver.counts import Counts
from ingestion_engine.driver.outcome import final_error, final_state
from ingestion_engine.driver.plan.diff import Tally

BUDGET = {"max_fraction": 0.1, "min_objects": 2}


def request(mode: str) -> JobRequest:
    return JobRequest.model_validate(
        {"source": {"bucket": "docs"}, "collection": "notes", "mode": mode, "failure_budget": BUDGET}
    )


@pytest.mark.parametrize(
    ("mode", "counts", "state", "code"),
    [
        ("sync", Counts(done=9), JobState.SUCCEEDED, None),
        ("sync", Counts(done=7, failed=2), JobState.PARTIALLY_SUCCEEDED, None),
        ("sync", Counts(tally=Tally(failed_before=1)), JobState.PARTIALLY_SUCCEEDED, None),
        ("sync", Counts(done=6, failed=3), JobState.FAILED, "failure_budget_exceeded"),
        ("sync", Counts(failed=3, tally=Tally(by_action={Action.NEW: 30})), JobState.PARTIALLY_SUCCEEDED, None),
        ("plan", Counts(tally=Tally(failed_before=1)), JobState.SUCCEEDED, None),
        ("verify", Counts(same=9), JobState.SUCCEEDED, None),
        ("verify", Counts(same=8, different=1), JobState.FAILED, "differences_found"),
        ("verify", Counts(same=9, foreign_points=1), JobState.FAILED, "differences_found"),
        ("repair", Counts(repaired=1, foreign_points=1), JobState.SUCCEEDED, None),
    ],
)
def test_a_job_that_ran_to_its_end(mode: str, counts: Counts, state: JobState, code: str | None) -> None:
    """Counts decide: failures within the budget are a partial success, differences fail only a verification."""
    error = final_error(request(mode), counts)
    assert (final_state(request(mode), counts, error), error and error.code) == (state, code)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (JobAborted("job_aborted", "canceled"), JobState.CANCELED),
        (FatalError("max_runtime_exceeded", "too long"), JobState.FAILED),
    ],
)
def test_a_job_that_was_stopped(error: IngestionError, state: JobState) -> None:
    """A cancellation is no failure."""
    assert final_state(request("sync"), Counts(done=9), error) is state
