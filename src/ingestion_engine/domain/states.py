"""States of a job and which of them end it."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is; see ``docs/architecture.md`` for the picture."""

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
        """True when nothing about the job changes any more."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED, JobState.FAILED, JobState.CANCELED})


class EngineState(StrEnum):
    """What an engine says of one attempt, in the product's words; the ledger alone says whether a job succeeded."""

    ABSENT = "absent"
    """The engine does not know the attempt (never arrived, or forgotten)."""
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    """The attempt's driver is gone, however it ended."""
