"""Job URIs: every part survives, and the text form is what former versions wrote."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.job_uri import JobUri

TEXTS = [
    ("s3://b/jobs/x/jobs/job-1/spec.json", JobUri("s3://b/jobs/x", "job-1")),
    ("file:///a#5/jobs/job-1/spec.json", JobUri("file:///a#5", "job-1")),
    ("file:///a#5/jobs/job-1/spec.json#12", JobUri("file:///a#5", "job-1", slot=12)),
    (
        "s3://b/p?q/jobs/job-1/spec.json?endpoint_url=http%3A%2F%2Fminio%3A9000&region=eu-west-1#0",
        JobUri("s3://b/p?q", "job-1", endpoint_url="http://minio:9000", region="eu-west-1", slot=0),
    ),
]


@pytest.mark.parametrize(("text", "uri"), TEXTS)
def test_text_and_parts_are_the_same_thing(text: str, uri: JobUri) -> None:
    """Parsing and formatting are each other's inverse, also for state stores with marks in their path."""
    assert JobUri.parse(text) == uri
    assert str(uri) == text


@pytest.mark.parametrize("text", ["", "s3://b/jobs/job-1", "jobs/job-1/spec.json", "s3://b/jobs//spec.json"])
def test_other_texts_are_refused(text: str) -> None:
    """The error names the text and shows what a URI looks like."""
    with pytest.raises(FatalError, match="is not the URI") as refused:
        JobUri.parse(text)
    assert (refused.value.code, refused.value.context) == ("spec_uri_invalid", {"uri": text})
