"""`ingest doctor --submit`: a job on the real service, over doubles of all systems; good, broken, and interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.client import AsyncIngestClient, IngestClient
from ingestion_engine.doctor import trial_job
from ingestion_engine.doctor.context import Context, JobTrial
from ingestion_engine.doctor.findings import Finding, State
from ingestion_engine.domain.errors import ObjectUnreadable
from ingestion_engine.domain.spec import EngineName
from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.state.ledger import Ledger
from support.control import World, unreachable, write_keys
from support.doctoring import diagnose
from support.doubles import InProcessEngine
from support.live_service import LiveService
from support.waiting import eventually
from support.world import SkippingClock

RAY = (EngineName.RAY,)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Systems with an engine that does its jobs; the bucket is that of the service."""
    world = World(tmp_path)
    world.bucket.put("other.txt", "An object of somebody else.")

    class Bucket:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def put_text(self, bucket: str, key: str, text: str) -> None:
            world.bucket.check_bucket(bucket)
            world.bucket.put(key, text)

        def remove(self, bucket: str, key: str) -> None:
            world.bucket.check_bucket(bucket)
            world.bucket.objects.pop(key, None)

    monkeypatch.setattr(trial_job, "S3Trial", Bucket)
    monkeypatch.setattr(trial_job, "END_S", 1.0)
    world.engine.during_submit = lambda job_id: work(world, job_id)
    return world


async def work(world: World, job_id: str) -> None:
    """Do a job with the real driver, as a cluster that is very fast."""
    ledger = Ledger(world.state, job_id)
    stores = {store.name: store for store in (world.qdrant, world.weaviate)}
    engine = InProcessEngine(world.state, world.bucket, world.embedder, dict(stores))
    ports = Ports(state=world.state, source=world.bucket, embedder=world.embedder, stores=dict(stores), engine=engine)
    attempt = JobAttempt(spec=ledger.read_spec(), spec_uri=ledger.spec_uri, number=1, parser_version="parser-1")
    driver = Driver(attempt, ports, sleep=(clock := SkippingClock()).sleep, clock=clock, wall_clock=lambda: 0.0)
    await asyncio.to_thread(driver.run)
    world.engine.die(job_id)


@pytest.fixture
def service(world: World) -> Iterator[LiveService]:
    with LiveService(world) as service:
        yield service


def context(service: LiveService, **trial: Any) -> dict[str, Any]:
    """Options of an examination."""
    return {"bucket": "docs/some/", "trial": JobTrial(**{"url": service.url, "time_limit_s": 30.0, **trial})}


async def examine(service: LiveService, **trial: Any) -> list[Finding]:
    return await diagnose(settings(), "job", **context(service, **trial))


def settings() -> Settings:
    return Settings(
        ollama={"model": "hash"}, qdrant={"url": "http://127.0.0.1:1"}, weaviate={"url": "http://127.0.0.1:1"}
    )


def assert_nothing_is_left(world: World, service: LiveService, *, jobs: int = 1) -> None:
    """No object, no collection, no job that runs."""
    assert [*world.bucket.objects] == ["other.txt"]
    assert not [name for name in (*world.qdrant.collections, *world.weaviate.collections) if "doctor" in name]
    with IngestClient(service.url, api_key=None) as client:
        assert client.list_collections() == []
        found = client.list_jobs().items
    assert len(found) == jobs
    assert all(job.state.is_final for job in found)


async def test_a_job_goes_from_the_submission_to_the_search(world: World, service: LiveService) -> None:
    """On the engine that the service has; it reads nothing of others, and leaves nothing but its row."""
    found = await examine(service)
    assert [(one.target, one.state) for one in found] == [("ray", State.OK), ("spark", State.NOT_CONFIGURED)]
    assert "embedded and found in Qdrant and Weaviate" in found[0].detail
    with IngestClient(service.url) as client:
        (job,) = client.list_jobs().items
    assert (job.counts["listed"], job.request["source"]["prefix"].startswith("some/ingest_doctor_job_")) == (1, True)
    assert job.job_id == found[0].facts["job_id"]
    assert_nothing_is_left(world, service)


async def test_an_engine_that_is_named_must_be_there(world: World, service: LiveService) -> None:
    """Else a cluster that somebody forgot to configure would pass."""
    (found,) = await examine(service, engines=(EngineName.SPARK,))
    assert (found.target, found.state, found.code) == ("spark", State.FAILED, "engine_not_configured")
    assert found.hint.startswith("Set INGEST_SPARK__NAMESPACE")
    assert_nothing_is_left(world, service, jobs=0)


async def test_a_job_that_nobody_works_on_is_explained_and_canceled(world: World, service: LiveService) -> None:
    """An engine that is away; a cluster without room for the driver; a driver whose workers have no CPU."""
    world.engine.during_submit = None
    world.engine.away = unreachable()
    (found,) = await examine(service, engines=RAY, time_limit_s=1.0)
    assert (found.state, found.code) == (State.FAILED, "check_timeout")
    assert "Ray cannot be reached" in found.detail
    world.engine.away = None
    (found,) = await examine(service, engines=RAY, time_limit_s=1.0)
    assert found.detail.startswith("The driver has not started within 1 s")
    assert found.hint.startswith("Check that Ray has free CPUs and memory for a driver")

    async def run_without_workers(job_id: str) -> None:
        world.engine.progress(job_id, counts={"listed": 1, "planned": 1, "bytes_read": 0})

    world.engine.during_submit = run_without_workers
    (found,) = await examine(service, engines=RAY, time_limit_s=3.0)
    assert "no worker has read the object within 3 s: no worker has free CPUs" in found.detail
    assert_nothing_is_left(world, service, jobs=3)


async def test_a_job_that_fails_says_why(world: World, service: LiveService) -> None:
    """By its own error, or by that of its object; what it has written until then is removed."""
    world.bucket.on_get = _refuse_object
    (found,) = await examine(service, engines=RAY)
    assert (found.state, found.code) == (State.FAILED, "object_unreadable")
    assert found.detail.startswith("The job ended as partially_succeeded: ")
    assert_nothing_is_left(world, service)


def _refuse_object(_: str) -> None:
    raise ObjectUnreadable("object_unreadable", "S3 refuses the object.", hint="Allow s3:GetObject.")


async def test_a_store_that_answers_and_lacks_the_object_is_found(
    world: World, service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job has succeeded all the same: only a search shows that the service reads another server."""

    async def search(*_: Any, **__: Any) -> list[Any]:
        return []

    monkeypatch.setattr(world.weaviate, "search", search)
    (found,) = await examine(service, engines=RAY)
    assert (found.state, found.code) == (State.FAILED, "stores_differ")
    assert found.detail.startswith("Weaviate does not have the object")
    assert_nothing_is_left(world, service)


async def test_an_interruption_removes_everything_first(world: World, service: LiveService) -> None:
    """As after Ctrl-C, in the middle of the job."""
    world.engine.during_submit = None
    examination = asyncio.create_task(
        trial_job.check_job(Context(settings=settings(), **context(service, engines=RAY)))
    )
    await eventually(lambda: bool(world.engine.submits))
    assert len(world.bucket.objects) == 2
    examination.cancel()
    with pytest.raises(asyncio.CancelledError):
        await examination
    assert_nothing_is_left(world, service)


@pytest.mark.parametrize("step", ["list_jobs", "delete_collection", "remove"])
async def test_an_interruption_of_the_removal_waits_for_it(
    world: World, service: LiveService, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A second one would not."""
    home = trial_job.S3Trial if step == "remove" else AsyncIngestClient
    original, loop = getattr(home, step), asyncio.get_running_loop()
    calls = 0

    def interrupt(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 or step == "remove":  # the first one looks whether the caller may do this
            loop.call_soon_threadsafe(examination.cancel)
        return original(*args, **given)

    monkeypatch.setattr(home, step, interrupt)
    examination = asyncio.create_task(
        trial_job.check_job(Context(settings=settings(), **context(service, engines=RAY)))
    )
    with pytest.raises(asyncio.CancelledError):
        await examination
    assert_nothing_is_left(world, service)


async def test_nothing_is_made_without_the_right_to_remove_it(world: World, tmp_path: Path) -> None:
    """A key of another scope, none at all, a service that is not there, a bucket that is not there."""
    needed = ("submit", "read", "search", "delete")
    entries = [{"name": f"no-{one}", "scopes": [scope for scope in needed if scope != one]} for one in needed[1:]]
    keys = write_keys(tmp_path, {"name": "all", "scopes": ["read"]}, *entries)
    with LiveService(world, api={"keys_file": keys}) as service:
        for key, code in (*((entry["name"], "scope_missing") for entry in entries), (None, "unauthenticated")):
            (found,) = await examine(service, api_key=key)
            assert (found.state, found.code) == (State.FAILED, code)
            assert found.hint.startswith("Set INGEST_API_KEY to a key with the scopes")
        with IngestClient(service.url, api_key="all") as client:
            assert client.list_jobs().items == []
    (found,) = await examine(service)
    assert (found.state, found.code) == (State.FAILED, "api_unreachable")
    assert [*world.bucket.objects] == ["other.txt"]
    with LiveService(world) as service:
        wrong = {**context(service), "bucket": "no-such-bucket"}
        (found,) = await diagnose(settings(), "job", **wrong)
        assert found.code == "bucket_not_found"
        assert_nothing_is_left(world, service, jobs=0)
