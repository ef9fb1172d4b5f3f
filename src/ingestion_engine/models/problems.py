"""Errors as RFC 9457 problem+json."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ProblemError(BaseModel):
    """One of several errors in a request."""

    pointer: str
    """JSON pointer into the body; for query parameters and headers, for example ``/query/limit``."""
    detail: str
    code: str


class Problem(BaseModel):
    """An error, RFC 9457."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    type: str = Field(examples=["urn:ingestion-engine:problem:bucket_not_found"])
    """``urn:ingestion-engine:problem:{code}``."""
    title: str = Field(examples=["Request cannot be processed"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["Bucket 'dosc' does not exist."])
    """The error in one sentence."""
    code: str = Field(examples=["bucket_not_found"])
    """Stable identifier for programs."""
    hint: str | None = None
    """What to do to fix the error."""
    field: str | None = Field(default=None, examples=["source.bucket"])
    """Dotted path of the invalid field of the request."""
    errors: list[ProblemError] | None = None
    """All errors, when there are several or when the request does not match its schema."""
