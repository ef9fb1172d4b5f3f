"""The states of a job, of an attempt on its engine, and of a point in several stores, by name.

``services.job_states`` has the transitions of jobs.
"""

from __future__ import annotations

from enum import StrEnum

from ingestion_engine.domain.names import OpenName


class JobState(OpenName):
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


class Agreement(OpenName):
    """Whether the stores of a collection hold the same copy of a point."""

    EQUAL = "equal"
    DIFFERENT = "different"
    """All have it, with different fields or vectors."""
    MISSING = "missing"
    """A store does not have it."""
    UNKNOWN = "unknown"
    """A store could not be read; those that could agree."""
    SINGLE = "single"
    """The collection has one store."""
