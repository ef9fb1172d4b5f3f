"""Checks of rows of the jobs table, which may be damaged or of a later version, before they are dispatched. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from ingestion_engine.domain.spec import MAX_RUNTIME_S, JobRequest, JobSpec
from ingestion_engine.runtime.validation import describe_faults
from ingestion_engine.services.job_records import JobRecord


def find_fault(job: JobRecord) -> str | None:
    """Return why this version of the service cannot start a job; None when it can. Pure."""
    part = "request"
    try:
        JobRequest.model_validate(job.request)
        part = "spec"
        if job.spec is not None:
            JobSpec.model_validate(job.spec)
    except ValidationError as error:
        return f"The {part} of the job cannot be read: {describe_faults(error)}."
    return None


def read_max_runtime_s(job: JobRecord) -> int:
    """Return the maximum run time of an attempt in seconds; the default when the request cannot be read. Pure."""
    wanted = job.request.get("max_runtime_s") if isinstance(job.request, Mapping) else None
    if isinstance(wanted, int) and wanted > 0:
        return min(wanted, MAX_RUNTIME_S)  # former releases had no maximum
    default: int = JobRequest.model_fields["max_runtime_s"].default
    return default
