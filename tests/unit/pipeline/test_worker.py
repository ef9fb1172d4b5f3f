"""The worker refuses jobs of another version, and every exception becomes a report."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from ingestion_engine.domain.errors import FatalError, IngestionError, LeaseLost, TransientError
from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.domain.spec import EngineName, JobRequest, JobSpec
from ingestion_engine.pipeline.worker import check_worker, choose_home, process_partition, report_of, warm_worker
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec

PARTITION = PartitionId("a01-00001.0.10.0123456789abcdef")


def spec_for(settings: Settings) -> JobSpec:
    request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": "notes"})
    return make_spec(settings, request, EngineName.LOCAL, "job-worker", parallelism=1)


@pytest.fixture
def settings() -> Settings:
    return Settings(state_url="file:///nowhere", qdrant={"url": "http://qdrant:6333"}, ollama={"urls": "http://a:1"})


def test_a_worker_like_its_service_may_work(settings: Settings) -> None:
    """The environment of a worker may omit the endpoints: the spec contains them."""
    check_worker(spec_for(settings), settings)
    check_worker(spec_for(settings), Settings())


def test_releases_of_one_minor_version_work_on_each_others_jobs(settings: Settings) -> None:
    """Also one that is older than the service, which may know further fields and settings."""
    spec = spec_for(settings)
    major, minor, *_ = spec.package_version.split(".")
    values = spec.model_dump(mode="json")
    later = {**values, "package_version": f"{major}.{minor}.999", "of_a_later_release": 1}
    later["endpoints"] = {**values["endpoints"], "milvus": {"url": "http://m"}}
    later["endpoints"]["s3"] = {**values["endpoints"]["s3"], "addressing": "path"}
    later["limits"] = {**values["limits"], "of_a_later_release": 1}
    read = JobSpec.model_validate(later)
    check_worker(read, settings)
    assert settings.with_endpoints(read.endpoints) == settings


def test_another_list_of_ollama_servers_is_no_contradiction(settings: Settings) -> None:
    """A server was added to one of both: those of the job are used."""
    more = settings.model_copy(update={"ollama": Settings(ollama={"urls": "http://a:1,http://b:1"}).ollama})
    check_worker(spec_for(settings), more)
    assert more.with_endpoints(spec_for(settings).endpoints).ollama.urls == ("http://a:1",)


def test_the_gateway_is_that_of_the_job(settings: Settings) -> None:
    """Another one in the worker's environment is no contradiction; a job without one uses none."""
    here = settings.model_copy(update={"gateway": Settings(gateway={"url": "http://here:11430"}).gateway})
    there = settings.model_copy(update={"gateway": Settings(gateway={"url": "http://g:1, http://h:1/"}).gateway})
    spec = spec_for(there)
    assert spec.endpoints["gateway"] == {"url": ["http://g:1", "http://h:1"]}
    check_worker(spec, here)
    assert here.with_endpoints(spec.endpoints).gateway.url == ("http://g:1", "http://h:1")
    assert "gateway" not in spec_for(settings).endpoints
    assert here.with_endpoints(spec_for(settings).endpoints).gateway.url == ()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"package_version": "0.0.0"}, "package version"),
        ({"package_version": "1.1.0"}, "package version"),
        ({"python_version": "3.1"}, "Python"),
    ],
)
def test_another_package_or_python_is_refused(settings: Settings, change: dict[str, str], names: str) -> None:
    """Two versions must not write one collection."""
    with pytest.raises(FatalError, match=names) as refused:
        check_worker(spec_for(settings).model_copy(update=change), settings)
    assert refused.value.code == "worker_mismatch"


def test_a_setting_that_contradicts_the_job_is_refused_by_name(settings: Settings) -> None:
    """A worker pointed at another Qdrant would split the collection over two servers."""
    elsewhere = settings.model_copy(update={"qdrant": Settings(qdrant={"url": "http://other:6333"}).qdrant})
    with pytest.raises(FatalError, match="INGEST_QDRANT__URL: job http://qdrant:6333, here http://other:6333"):
        check_worker(spec_for(settings), elsewhere)


def test_a_password_in_a_url_is_no_contradiction_and_is_not_named(settings: Settings) -> None:
    """The spec has none; a worker has its own, and what differs is named without it."""
    at_home = Settings(
        qdrant={"url": "http://me:hunter2@qdrant:6333"}, s3={"endpoint_url": "http://me:hunter2@s3:9000"}
    )
    own = settings.model_copy(update={"qdrant": at_home.qdrant, "s3": at_home.s3})
    check_worker(spec_for(own), own)
    other = own.model_copy(update={"qdrant": Settings(qdrant={"url": "http://me:hunter2@other:6333"}).qdrant})
    with pytest.raises(
        FatalError, match="INGEST_QDRANT__URL: job http://qdrant:6333, here http://other:6333"
    ) as refused:
        check_worker(spec_for(own), other)
    assert "hunter2" not in repr(refused.value.record())


def test_other_settings_of_new_collections_are_no_contradiction(settings: Settings) -> None:
    """They are used once, by the driver, and those of the job count."""
    chosen = settings.model_copy(update={"qdrant": settings.qdrant.model_copy(update={"shards": 2})})
    here = Settings(qdrant={"url": "http://qdrant:6333", "shards": 6})
    spec = spec_for(chosen)
    assert spec.endpoints["qdrant"] == {"url": "http://qdrant:6333", "shards": 2}
    check_worker(spec, here)
    assert here.with_endpoints(spec.endpoints).qdrant.shards == 2


def raising(error: Exception) -> Callable[[], PartitionReport]:
    def work() -> PartitionReport:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "died"),
    [
        (TransientError("store_unavailable", "unavailable"), ReportStatus.RETRY, False),
        (FatalError("model_not_found", "no such model"), ReportStatus.FATAL, False),
        (LeaseLost("lease_lost", "another attempt"), ReportStatus.FATAL, False),
        (RuntimeError("a defect"), ReportStatus.RETRY, False),
    ],
)
def test_every_exception_becomes_a_report(error: Exception, status: ReportStatus, died: bool) -> None:
    """Retry or stop; nothing is raised, no worker is said to have died, and the report has the reason."""
    report = report_of(PARTITION, raising(error))
    assert (report.status, report.process_died, report.results) == (status, died, ())
    assert report.error is not None
    assert report.error["code"] == (error.code if isinstance(error, IngestionError) else "unexpected_error")


def test_a_missing_job_stops_the_partition(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A spec URI without a spec gives a report, not an exception."""
    state = tmp_path_factory.mktemp("state")
    report = process_partition(f"file://{state}/jobs/job-none/spec.json", PARTITION)
    assert report.status is ReportStatus.FATAL
    assert report.error is not None
    assert report.error["code"] == "spec_missing"


def test_homes_are_as_far_apart_as_requests_in_flight(settings: Settings) -> None:
    """The first home depends on the job; a process without a slot has no home and rotates."""
    spec = spec_for(settings)
    spec = spec.model_copy(update={"limits": spec.limits.model_copy(update={"embed_in_flight": 4})})
    first = choose_home(spec, 0)
    assert first is not None
    assert [choose_home(spec, slot) for slot in (None, 1, 2)] == [None, first + 4, first + 8]
    assert choose_home(spec.model_copy(update={"job_id": "job-other"}), 0) != first


def test_warming_up_never_fails(tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture) -> None:
    """Errors are logged; the first partition reports them."""
    state = tmp_path_factory.mktemp("state")
    warm_worker(f"file://{state}/jobs/job-none/spec.json")
    warm_worker("nonsense")
    assert [record.getMessage() for record in caplog.records] == ["worker not warmed up"] * 2


def test_a_worker_whose_event_loop_ends_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SystemExit of a library ends the loop: its partition is reported, and the next one has a new loop."""

    async def leave(_spec_uri: str, _partition_id: PartitionId) -> PartitionReport:
        raise SystemExit(1)

    reports: list[PartitionReport] = []
    monkeypatch.setattr("ingestion_engine.pipeline.worker._process", leave)
    work = threading.Thread(target=lambda: reports.append(process_partition("s3://b/jobs/j/spec.json", PARTITION)))
    work.daemon = True
    work.start()
    work.join(20)
    assert [report.status for report in reports] == [ReportStatus.RETRY]
    assert (reports[0].error or {})["code"] == "unexpected_error"

    async def answer(_spec_uri: str, partition_id: PartitionId) -> PartitionReport:
        return PartitionReport(partition_id, ReportStatus.DONE, 1)

    monkeypatch.setattr("ingestion_engine.pipeline.worker._process", answer)
    assert process_partition("s3://b/jobs/j/spec.json", PARTITION).status is ReportStatus.DONE


def test_the_log_of_a_worker_names_job_attempt_and_partition(tmp_path: Path) -> None:
    """As JSON where its environment says so; an engine starts workers without any logging of ours."""
    call = f"process_partition('file://{tmp_path}/jobs/job-a/spec.json', '{PARTITION}')"
    code = f"from ingestion_engine.pipeline.worker import process_partition; {call}"
    environment = {**os.environ, "INGEST_LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    (event,) = [event for event in map(orjson.loads, done.stderr.splitlines()) if event["level"] == "error"]
    assert (event["job_id"], event["attempt"], event["partition_id"]) == ("job-a", 1, PARTITION)
    assert event["event"] == "partition stopped the job"
