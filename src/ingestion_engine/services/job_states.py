"""The state machine of a job: its phases, and one table of all transitions between them. Pure.

Clients see a ``JobState``. A phase is finer: a state and whether one column of the jobs table is set.
``JobStore.change`` applies an event to a row as its caller has read it. It is the only way to change a phase; it
changes only rows that are in a phase the table allows, and refuses columns that contradict the phase the table leads
to. ``docs/architecture.md`` shows the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final

from ingestion_engine.domain.states import JobState
from ingestion_engine.services.job_records import JobRecord


class IllegalTransition(RuntimeError):
    """A change of a job's state that is not in the table: a defect of this program, never an answer to a client."""


class JobPhase(Enum):
    """Where exactly a job is: a state, and the column that distinguishes its two phases. Every row is in one phase."""

    WAITING = JobState.QUEUED, "admitted_at", False, "Waits for admission."
    ADMITTED = JobState.QUEUED, "admitted_at", True, "Holds its place; the first driver is being submitted."
    SUBMITTED = JobState.SUBMITTED, "attempt_started_at", True, "The engine has accepted the driver."
    RESUBMITTING = JobState.SUBMITTED, "attempt_started_at", False, "The next driver is being submitted."
    RUNNING = JobState.RUNNING, "attempt_started_at", True, "The driver runs."
    RESTARTING = JobState.RUNNING, "attempt_started_at", False, "The next driver is being submitted."
    CANCELING = JobState.CANCELING, "abort_written_at", False, "Cancellation was requested."
    ABORTING = JobState.CANCELING, "abort_written_at", True, "The ledger holds the abort marker."
    SUCCEEDED = JobState.SUCCEEDED, None, False, "All objects are done."
    PARTIALLY_SUCCEEDED = JobState.PARTIALLY_SUCCEEDED, None, False, "Some objects failed, within the failure budget."
    FAILED = JobState.FAILED, None, False, "`error` names the reason."
    CANCELED = JobState.CANCELED, None, False, "Canceled before it was complete."

    def __init__(self, state: JobState, column: str | None, is_set: bool, meaning: str) -> None:
        self.state = state
        self.column = column
        self.is_set = is_set
        self.meaning = meaning


class JobEvent(StrEnum):
    """What changes a job's phase."""

    ADMIT = "admit"
    RELEASE = "release"
    ACCEPT = "accept"
    START = "start"
    RESTART = "restart"
    PUT_BACK = "put back"
    CANCEL_WAITING = "cancel before admission"
    CANCEL = "cancel"
    MARK_ABORT = "mark abort"
    SUCCEED = "succeed"
    PARTIALLY_SUCCEED = "partially succeed"
    FAIL = "fail"
    END_CANCELED = "end canceled"


@dataclass(frozen=True, slots=True)
class _Rule:
    paths: Mapping[JobPhase, JobPhase]
    cause: str


def _all_to(target: JobPhase, sources: Iterable[JobPhase]) -> dict[JobPhase, JobPhase]:
    return dict.fromkeys(sources, target)


_P = JobPhase
_SUBMITTED = (_P.SUBMITTED, _P.RESUBMITTING, _P.RUNNING, _P.RESTARTING)
_ENDING = (*_SUBMITTED, _P.CANCELING, _P.ABORTING)

TRANSITIONS: Final[Mapping[JobEvent, _Rule]] = {
    JobEvent.ADMIT: _Rule(_all_to(_P.ADMITTED, (_P.WAITING,)), "The capacity allows the job."),
    JobEvent.RELEASE: _Rule(
        _all_to(_P.WAITING, (_P.ADMITTED,)), "The engine is unavailable and cannot have started the first driver."
    ),
    JobEvent.ACCEPT: _Rule(
        {
            _P.ADMITTED: _P.SUBMITTED,
            _P.RESUBMITTING: _P.SUBMITTED,
            _P.RESTARTING: _P.RUNNING,
            _P.CANCELING: _P.CANCELING,
        },
        "The engine accepts a driver. A job that was canceled in the meantime stays canceling.",
    ),
    JobEvent.START: _Rule(
        _all_to(_P.RUNNING, (_P.SUBMITTED,)), "The driver reports progress, or the engine reports that it runs."
    ),
    JobEvent.RESTART: _Rule(
        {_P.SUBMITTED: _P.RESUBMITTING, _P.RUNNING: _P.RESTARTING},
        "The driver ended without a result, and the job has attempts left.",
    ),
    JobEvent.PUT_BACK: _Rule(
        _all_to(_P.WAITING, _SUBMITTED),
        "The cluster's package or settings cannot run the job; it is tried again later.",
    ),
    JobEvent.CANCEL_WAITING: _Rule(
        _all_to(_P.CANCELED, (_P.WAITING,)), "A client cancels a job that holds nothing yet."
    ),
    JobEvent.CANCEL: _Rule(
        _all_to(_P.CANCELING, (_P.WAITING, _P.ADMITTED, *_SUBMITTED)),
        "A client cancels the job. One that waits is only canceling when it may have a driver and the state store is "
        "unavailable.",
    ),
    JobEvent.MARK_ABORT: _Rule(
        _all_to(_P.ABORTING, (_P.CANCELING,)), "The reconciler has written the abort marker for driver and workers."
    ),
    JobEvent.SUCCEED: _Rule(_all_to(_P.SUCCEEDED, _ENDING), "The summary in the ledger reports success."),
    JobEvent.PARTIALLY_SUCCEED: _Rule(
        _all_to(_P.PARTIALLY_SUCCEEDED, _ENDING), "The summary reports failed objects within the budget."
    ),
    JobEvent.FAIL: _Rule(
        _all_to(_P.FAILED, (_P.WAITING, _P.ADMITTED, *_ENDING)),
        "The summary reports failure or cannot be read, the engine refuses the driver, the last attempt's driver ended "
        "without a result, a driver never started, the deadline of the job has passed, or its request or spec cannot "
        "be read.",
    ),
    JobEvent.END_CANCELED: _Rule(
        _all_to(_P.CANCELED, _ENDING),
        "The summary reports cancellation, the canceled driver ended without one, or the deadline of the cancellation "
        "has passed.",
    ),
}
"""Every change of a phase."""

FINAL_EVENTS: Final[Mapping[JobState, JobEvent]] = {
    JobState.SUCCEEDED: JobEvent.SUCCEED,
    JobState.PARTIALLY_SUCCEEDED: JobEvent.PARTIALLY_SUCCEED,
    JobState.FAILED: JobEvent.FAIL,
    JobState.CANCELED: JobEvent.END_CANCELED,
}
"""The event by which an admitted job ends in each final state."""

NEEDS_DRIVER: Final = frozenset({JobPhase.ADMITTED, JobPhase.RESUBMITTING, JobPhase.RESTARTING})
"""Phases in which the dispatcher submits a driver."""

ENGINE_START: Final = "engine_start"
"""What a job waits for whose driver has not started yet."""

PHASE_COLUMNS: Final = frozenset({"state", *(phase.column for phase in JobPhase if phase.column is not None)})
"""Columns that decide the phase of a row; only ``JobStore.change`` sets them."""


def find_phase(job: JobRecord) -> JobPhase:
    """Return the phase of a job. Pure."""
    phases = (phase for phase in JobPhase if phase.state is job.state)
    return next(p for p in phases if p.column is None or (getattr(job, p.column) is not None) is p.is_set)


def find_wait(job: JobRecord) -> str | None:
    """Return the code of what a job waits for; None while it works and when it has ended. Pure.

    A ``WaitReason`` before admission, ``engine_start`` until a driver runs, then what the driver reports.
    """
    phase = find_phase(job)
    if phase is JobPhase.WAITING:
        return job.waits_for
    if phase in NEEDS_DRIVER or phase is JobPhase.SUBMITTED:
        return ENGINE_START
    progress = job.progress or {}
    waits_for = progress.get("waits_for") if phase is JobPhase.RUNNING else None
    return waits_for if isinstance(waits_for, str) and progress.get("attempt") == job.attempt else None


def sources(event: JobEvent) -> Iterable[JobPhase]:
    """Return the phases in which an event may happen. Pure."""
    return TRANSITIONS[event].paths


def target(event: JobEvent, phase: JobPhase) -> JobPhase:
    """Return the phase that an event leads to. Pure.

    Raises:
        IllegalTransition: the event cannot happen in this phase.
    """
    try:
        return TRANSITIONS[event].paths[phase]
    except KeyError:
        raise IllegalTransition(f"A job that is {phase.name} cannot {event.value!r}.") from None


def find_final_event(state: JobState) -> JobEvent:
    """Return the event by which an admitted job ends in a state. Pure.

    Raises:
        IllegalTransition: no job ends in this state.
    """
    try:
        return FINAL_EVENTS[state]
    except KeyError:
        raise IllegalTransition(f"No job ends in state {state.value!r}.") from None


def check_values(event: JobEvent, values: Mapping[str, Any]) -> None:
    """Return when columns, set together with an event, make the phases that the table names. Pure.

    Raises:
        IllegalTransition: ``state`` is among them, or a column that decides the phase has the wrong value or is
            missing.
    """
    if "state" in values:
        raise IllegalTransition(f"The state follows from the event {event.value!r}; it is not set as a column.")
    for source, after in TRANSITIONS[event].paths.items():
        column = after.column
        if column is None:
            continue
        # A column that does not belong to the source is still empty: it is first set in a later phase.
        was_set = source.column == column and source.is_set
        if (values[column] is not None if column in values else was_set) is not after.is_set:
            raise IllegalTransition(
                f"{event.value!r} must leave {column} {'set' if after.is_set else 'empty'} "
                f"to lead from {source.name} to {after.name}."
            )


def render_transitions() -> str:
    """Return the phases and the table as Markdown, as ``docs/architecture.md`` shows them. Pure."""
    lines = ["| State | Phase | In the jobs table | Meaning |", "|---|---|---|---|"]
    for phase in JobPhase:
        stored = "" if phase.column is None else f"`{phase.column}` {'set' if phase.is_set else 'empty'}"
        lines.append(f"| `{phase.state.value}` | {_show(phase)} | {stored} | {phase.meaning} |")
    lines += ["", "| Event | Phases | Cause |", "|---|---|---|"]
    for event, rule in TRANSITIONS.items():
        reached = dict.fromkeys(rule.paths.values())
        ways = [
            f"{', '.join(_show(phase) for phase in rule.paths if rule.paths[phase] is after)} → {_show(after)}"
            for after in reached
        ]
        lines.append(f"| {event.value} | {'; '.join(ways)} | {rule.cause} |")
    return "\n".join(lines)


def _show(phase: JobPhase) -> str:
    return phase.name.lower().replace("_", " ")
