"""A spec's URI and what stands behind it."""

from __future__ import annotations

import pytest

from ingestion_engine.pipeline.worker import SLOT_MARK, split_slot
from ingestion_engine.runtime.settings import S3Settings
from ingestion_engine.runtime.spec_uri import load_settings_for, split_location, with_location

URI = "s3://bucket/odd?name#1/jobs/job-a/spec.json"


@pytest.mark.parametrize("endpoint_url", [None, "http://minio:9000", "https://a.b/c?d=e&f=%20#g"])
def test_a_location_comes_back_as_it_was(endpoint_url: str | None) -> None:
    """Whatever the endpoint looks like, and with a slot behind it."""
    s3 = S3Settings(endpoint_url=endpoint_url, region="eu-west-1")
    uri, slot = split_slot(f"{with_location(URI, s3)}{SLOT_MARK}3")
    assert slot == 3
    wanted = {"region": "eu-west-1"} | ({} if endpoint_url is None else {"endpoint_url": endpoint_url})
    assert split_location(uri) == (URI, wanted)


def test_a_uri_without_a_location_is_left_alone() -> None:
    """Kubernetes sets variables instead."""
    assert split_location(URI) == (URI, {})


def test_the_location_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service knows where it wrote the spec; everything else is this process's own, its secrets too."""
    monkeypatch.setenv("INGEST_S3__ENDPOINT_URL", "http://elsewhere:9000")
    monkeypatch.setenv("INGEST_S3__REGION", "eu-west-1")
    monkeypatch.setenv("INGEST_S3__SECRET_ACCESS_KEY", "of this process")
    settings, spec_uri = load_settings_for(with_location(URI, S3Settings(endpoint_url="http://minio:9000")))
    assert spec_uri == URI
    assert settings.s3.endpoint_url == "http://minio:9000"
    assert settings.s3.region == "us-east-1"
    assert settings.s3.secret_access_key is not None
    assert settings.s3.secret_access_key.get_secret_value() == "of this process"
    assert load_settings_for(URI)[0].s3.endpoint_url == "http://elsewhere:9000"
