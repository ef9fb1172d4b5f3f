"""The S3 that a job's URI names."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.runtime.settings import S3Settings
from ingestion_engine.runtime.spec_uri import load_settings_for, with_location

URI = "s3://bucket/odd?name#1/jobs/job-a/spec.json"


@pytest.mark.parametrize("endpoint_url", [None, "http://minio:9000", "https://a.b/c?d=e&f=%20#g"])
def test_a_location_comes_back_as_it_was(endpoint_url: str | None) -> None:
    """An endpoint of any form survives, with a slot behind it."""
    s3 = S3Settings(endpoint_url=endpoint_url, region="eu-west-1")
    uri = JobUri.parse(str(JobUri.parse(with_location(URI, s3)).with_slot(3)))
    assert (uri.slot, uri.spec_uri) == (3, URI)
    assert uri.location == {"region": "eu-west-1"} | ({} if endpoint_url is None else {"endpoint_url": endpoint_url})


def test_the_location_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service knows where it wrote the spec; all other settings are those of this process, secrets included."""
    monkeypatch.setenv("INGEST_S3__ENDPOINT_URL", "http://elsewhere:9000")
    monkeypatch.setenv("INGEST_S3__REGION", "eu-west-1")
    monkeypatch.setenv("INGEST_S3__SECRET_ACCESS_KEY", "of this process")
    uri = JobUri.parse(with_location(URI, S3Settings(endpoint_url="http://minio:9000")))
    settings = load_settings_for(uri)
    assert settings.s3.endpoint_url == "http://minio:9000"
    assert settings.s3.region == "us-east-1"
    assert settings.s3.secret_access_key is not None
    assert settings.s3.secret_access_key.get_secret_value() == "of this process"
    assert load_settings_for(JobUri.parse(URI)).s3.endpoint_url == "http://elsewhere:9000"
