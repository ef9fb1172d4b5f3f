"""The final state of a job, and the errors that follow from its counts (failure budget, differences). Pure."""

from __future__ import annotations

from ingestion_engine.domain.errors import FatalError, IngestionError, JobAborted
from ingestion_engine.domain.spec import MODES_ON_EXISTING, FailureBudget, JobRequest, Mode
from ingestion_engine.domain.states import JobState
from ingestion_engine.driver.counts import Counts


def over_budget(counts: Counts, budget: FailureBudget) -> FatalError | None:
    """Return the error that ends a job with too many failed objects; None when it is within its budget.

    Objects that an earlier job could not read either, with the same content, are no news: a job that finds only them,
    for example the first one of a release that reads all objects again, is not a failure.
    """
    again, planned = counts.known_failed, counts.planned
    failed = counts.total_failed - again
    if budget.allows(failed, planned):
        return None
    known = f"; {again} more, which it does not count, failed in an earlier job too" if again else ""
    return FatalError(
        "failure_budget_exceeded",
        f"{failed} of {planned} objects failed, which is more than the failure budget allows{known}.",
        hint="Check the job's failures, or raise failure_budget in the request if that many are expected.",
        failed=failed,
        planned=planned,
    )


def differences_found(counts: Counts) -> FatalError | None:
    """Return the error that ends a verification with differences; None when there are none."""
    return _differences("differences_found", counts)


def stores_differ(counts: Counts) -> FatalError | None:
    """Return the error that keeps an alias from moving; None when the stores hold the same points."""
    return _differences("stores_differ", counts)


def _differences(code: str, counts: Counts) -> FatalError | None:
    if not counts.different and not counts.foreign_points:
        return None
    return FatalError(
        code,
        f"{counts.different} of {counts.tally.listed} objects differ, and {counts.foreign_points} points belong to no"
        " object.",
        hint="Check the job's failures, which name each object, and submit a job with mode=repair.",
        objects=counts.different,
        foreign_points=counts.foreign_points,
    )


def comparison_incomplete(counts: Counts, *, only_searches: bool = False) -> FatalError | None:
    """Return the error of a comparison that left something out; None when it is complete.

    Args:
        counts: Counts of the comparison.
        only_searches: True when failed objects count as failures of their own, as in a repair.
    """
    objects = 0 if only_searches else counts.failed
    if not objects and not counts.searches_failed:
        return None
    return FatalError(
        "comparison_incomplete",
        f"{objects} of {counts.tally.listed} objects could not be compared, and {counts.searches_failed} searches for"
        " points of no object did not end.",
        hint="Check the job's failures, which name the cause of each, and submit the job again.",
        objects=objects,
        searches=counts.searches_failed,
    )


def final_error(request: JobRequest, counts: Counts) -> FatalError | None:
    """Return the error of a job that has run to its end; None when it succeeded, at least partially."""
    error = over_budget(counts, request.failure_budget)
    if error is None and request.mode is Mode.VERIFY:
        error = differences_found(counts) or comparison_incomplete(counts)
    elif error is None and request.mode is Mode.REPAIR:
        error = comparison_incomplete(counts, only_searches=True)
    return error


def final_state(request: JobRequest, counts: Counts, error: IngestionError | None) -> JobState:
    """Return the state in which a job ends."""
    if isinstance(error, JobAborted):
        return JobState.CANCELED
    if error is not None:
        return JobState.FAILED
    if request.mode is not Mode.PLAN and (counts.total_failed or counts.tally.failed_before):
        # Failures of earlier jobs count too: a search cannot find every object of the bucket.
        return JobState.PARTIALLY_SUCCEEDED
    return JobState.SUCCEEDED


def describe_emptiness(request: JobRequest, counts: Counts, created: bool) -> str | None:
    """Return what a reader must know of a job that found no object at all; None when it found some. Pure.

    Such a job succeeds, as one without changes does, but is more often a mistyped prefix.

    Args:
        request: Request of the job.
        counts: Counts of the job at its end.
        created: False when its collection is new and was not created.
    """
    tally, source = counts.tally, request.source
    if tally.listed > tally.directory_markers or tally.deletes:
        return None
    filters = " and the filters" if source.include or source.exclude else ""
    if request.mode in MODES_ON_EXISTING:
        text = f"No object of collection {request.collection!r} matches prefix {source.prefix!r}{filters}."
        return text if source.prefix or filters else f"Collection {request.collection!r} has no objects."
    text = f"No object matches s3://{source.bucket}/{source.prefix}{filters}."
    if not created:
        text += f" Collection {request.collection!r} was not created."
        if request.alias is not None:
            text += f" Alias {request.alias!r} was not moved."
    return text
