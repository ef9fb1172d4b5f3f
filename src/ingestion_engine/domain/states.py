"""The states of a job, and of an attempt on its engine, by name; ``services.job_states`` has the transitions."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """State of a job; ``docs/architecture.md`` has the diagram."""

    QUEUED = "queued"
    SUBMITTED = "submitted"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    """Some objects failed, within the job's failure budget."""
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """True when the job has ended."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED, JobState.FAILED, JobState.CANCELED})


class EngineState(StrEnum):
    """State of one attempt as its engine reports it; only the ledger knows whether a job succeeded."""

    ABSENT = "absent"
    """The engine does not know the attempt: it was never submitted, or the engine has forgotten it."""
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    """The attempt's driver has ended, successfully or not."""
