"""The state machine of a job: the table, what it refuses, and the documentation that shows it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import (
    FINAL_EVENTS,
    TRANSITIONS,
    IllegalTransition,
    JobEvent,
    JobPhase,
    check_values,
    find_final_event,
    find_phase,
    render_transitions,
    target,
)
from ingestion_engine.services.job_store import JobStore
from support.control import overwrite, queued

DOCUMENT = Path(__file__).parents[3] / "docs" / "architecture.md"
NOW = utc_now()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    yield store
    await store.close()


async def put(store: JobStore, phase: JobPhase, number: int = 1) -> JobRecord:
    """Store a job and bring its row into a phase, whatever the way there."""
    job = queued(number, "c")
    await store.insert(job)
    columns = {} if phase.column is None else {phase.column: NOW if phase.is_set else None}
    await overwrite(store, job.id, state=phase.state.value, **columns)
    return await get(store, job.id)


async def get(store: JobStore, job_id: str = "job-1") -> JobRecord:
    job = await store.get(job_id)
    assert job is not None
    return job


def values_for(event: JobEvent) -> dict[str, object]:
    """The columns that an event must set to lead where the table says."""
    return {
        JobEvent.ADMIT: {"admitted_at": NOW},
        JobEvent.RELEASE: {"admitted_at": None},
        JobEvent.ACCEPT: {"attempt_started_at": NOW},
        JobEvent.RESTART: {"attempt_started_at": None},
        JobEvent.PUT_BACK: {"admitted_at": None},
        JobEvent.MARK_ABORT: {"abort_written_at": NOW},
    }.get(event, {})


def test_the_documentation_shows_the_table() -> None:
    """docs/architecture.md, section "States of a job", holds exactly what the code prints."""
    found = re.search(r"<!-- job-states:begin[^>]*-->\n(.*?)\n<!-- job-states:end -->", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == render_transitions()


def test_every_row_is_in_one_phase() -> None:
    """A state has one phase, or two that one column tells apart."""
    for state in JobState:
        phases = [phase for phase in JobPhase if phase.state is state]
        assert len({phase.column for phase in phases}) == 1
        assert [phase.is_set for phase in phases] in ([False], [False, True], [True, False])
        for phase in phases:
            column = {} if phase.column is None else {phase.column: NOW if phase.is_set else None}
            assert find_phase(replace(queued(1, "c"), state=state, **column)) is phase


def test_final_phases_are_left_by_no_event_and_all_others_can_reach_one() -> None:
    """A job that has ended stays as it is; no job is caught in a state."""
    left = {phase for rule in TRANSITIONS.values() for phase in rule.paths}
    assert left == {phase for phase in JobPhase if phase.state not in FINAL_STATES}
    for phase in left:
        reached, new = set[JobPhase](), {phase}
        while new:
            reached |= new
            new = {rule.paths[p] for rule in TRANSITIONS.values() for p in new if p in rule.paths} - reached
        assert {p.state for p in reached} >= {JobState.CANCELED, JobState.FAILED}
    assert set(FINAL_EVENTS) == FINAL_STATES


@pytest.mark.parametrize("phase", JobPhase)
async def test_a_row_changes_as_the_table_says_or_not_at_all(store: JobStore, phase: JobPhase) -> None:
    """Every event in every phase; one that the table does not have raises and leaves the row alone."""
    for number, event in enumerate(JobEvent):
        job = await put(store, phase, number)
        if phase in TRANSITIONS[event].paths:
            assert await store.change(job, event, **values_for(event))
            assert find_phase(await get(store, job.id)) is target(event, phase)
        else:
            with pytest.raises(IllegalTransition):
                await store.change(job, event, **values_for(event))
            assert await get(store, job.id) == job


async def test_a_change_is_of_the_row_as_it_was_read(store: JobStore) -> None:
    """Whoever changed the row meanwhile, and whether or not the event would still be allowed: nothing happens."""
    job = await put(store, JobPhase.ADMITTED)
    canceled = await store.change(job, JobEvent.CANCEL)
    assert canceled == await get(store)
    assert await store.change(job, JobEvent.ACCEPT, attempt_started_at=NOW) is None
    assert await store.update(job, note="late") is None
    assert await get(store) == canceled
    assert find_phase(canceled) is JobPhase.CANCELING
    accepted = await store.change(canceled, JobEvent.ACCEPT, attempt_started_at=NOW)
    assert accepted is not None
    assert find_phase(accepted) is JobPhase.CANCELING


async def test_only_an_event_changes_what_decides_the_phase(store: JobStore) -> None:
    """Other columns are set without one, also under a condition on the state."""
    job = await put(store, JobPhase.RUNNING)
    for column in ("state", "admitted_at", "attempt_started_at", "abort_written_at"):
        with pytest.raises(IllegalTransition, match=column):
            await store.update(job, **{column: None})
    assert await store.update(job, note="runs")
    assert (await get(store)).note == "runs"


@pytest.mark.parametrize(
    ("event", "values"),
    [
        (JobEvent.ADMIT, {}),
        (JobEvent.ADMIT, {"admitted_at": None}),
        (JobEvent.RELEASE, {}),
        (JobEvent.RESTART, {"attempt_started_at": NOW}),
        (JobEvent.START, {"attempt_started_at": None}),
        (JobEvent.CANCEL, {"abort_written_at": NOW}),
        (JobEvent.FAIL, {"state": JobState.FAILED}),
    ],
)
def test_columns_that_contradict_the_event_are_refused(event: JobEvent, values: dict[str, object]) -> None:
    """Missing, of the wrong kind, or the state itself."""
    with pytest.raises(IllegalTransition):
        check_values(event, values)


def test_a_summary_ends_a_job_in_a_final_state_only() -> None:
    """A summary that says otherwise is a defect of whoever wrote it."""
    assert find_final_event(JobState.CANCELED) is JobEvent.END_CANCELED
    with pytest.raises(IllegalTransition, match="'running'"):
        find_final_event(JobState.RUNNING)
