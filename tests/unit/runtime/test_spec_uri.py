"""The S3 that a job's URI names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.records import ReportStatus
from ingestion_engine.pipeline.worker import process_partition
from ingestion_engine.runtime.settings import S3Settings, Settings, TlsSettings
from ingestion_engine.runtime.spec_uri import load_settings_for, with_location
from support.authority import PrivateAuthority

URI = "s3://bucket/odd?name#1/jobs/job-a/spec.json"


@pytest.mark.parametrize("endpoint_url", [None, "http://minio:9000", "https://a.b/c?d=e&f=%20#g"])
def test_a_location_comes_back_as_it_was(endpoint_url: str | None) -> None:
    """An endpoint of any form survives, with a slot behind it."""
    s3 = S3Settings(endpoint_url=endpoint_url, region="eu-west-1")
    uri = JobUri.parse(str(JobUri.parse(with_location(URI, Settings(s3=s3))).with_slot(3)))
    assert (uri.slot, uri.spec_uri) == (3, URI)
    assert uri.location == {"region": "eu-west-1"} | ({} if endpoint_url is None else {"endpoint_url": endpoint_url})


def test_the_location_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service knows where it wrote the spec; all other settings are those of this process, secrets included."""
    monkeypatch.setenv("INGEST_S3__ENDPOINT_URL", "http://elsewhere:9000")
    monkeypatch.setenv("INGEST_S3__REGION", "eu-west-1")
    monkeypatch.setenv("INGEST_S3__SECRET_ACCESS_KEY", "of this process")
    uri = JobUri.parse(with_location(URI, Settings(s3=S3Settings(endpoint_url="http://minio:9000"))))
    settings = load_settings_for(uri)
    assert settings.s3.endpoint_url == "http://minio:9000"
    assert settings.s3.region == "us-east-1"
    assert settings.s3.secret_access_key is not None
    assert settings.s3.secret_access_key.get_secret_value() == "of this process"
    assert load_settings_for(JobUri.parse(URI)).s3.endpoint_url == "http://elsewhere:9000"


def test_the_file_of_authorities_reaches_processes_without_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver needs it before it can read its spec; a setting of its own machine overrides the service's path."""
    (tmp_path / "own").mkdir()
    services, own = PrivateAuthority(tmp_path).file, PrivateAuthority(tmp_path / "own").file
    uri = JobUri.parse(with_location(URI, Settings(tls=TlsSettings(ca_file=services))))
    assert load_settings_for(uri).tls.ca_file == services
    assert uri.location == {"region": "us-east-1"}
    monkeypatch.setenv("INGEST_TLS__CA_FILE", str(own))
    assert load_settings_for(uri).tls.ca_file == own


def test_a_file_of_authorities_that_a_node_lacks_is_named(tmp_path: Path) -> None:
    """The sentence has the path, the reason and the setting."""
    authority = PrivateAuthority(tmp_path)
    uri = JobUri.parse(with_location(URI, Settings(tls=TlsSettings(ca_file=authority.file))))
    authority.file.unlink()
    with pytest.raises(FatalError, match=r"authority\.pem.*No such file") as failed:
        load_settings_for(uri)
    assert failed.value.code == "worker_misconfigured"
    assert "INGEST_TLS__CA_FILE" in failed.value.hint


def test_an_invalid_variable_of_a_node_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an unexpected error it would be blamed on the objects of the partition."""
    monkeypatch.setenv("INGEST_STATEURL", "s3://x")
    report = process_partition(f"{URI}#3", "a01-00001.0.10.0123456789abcdef")
    assert report.status is ReportStatus.FATAL
    assert report.error is not None
    assert report.error["code"] == "worker_misconfigured"
    assert "INGEST_STATE_URL" in report.error["message"]
