"""Small parts of the services: migrations, ids, specs, logging."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ingestion_engine.domain.spec import EngineName, JobRequest
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.telemetry import configure_logging, get_logger
from ingestion_engine.services.database import with_async_driver
from ingestion_engine.services.job_ids import JobIds
from ingestion_engine.services.job_records import metadata
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.response_cache import ResponseCache
from ingestion_engine.services.shares import (
    LARGEST_SHARE,
    RAY_JOBS,
    choose_share,
    grant_parallelism,
    limit_jobs,
    limit_requests,
)
from ingestion_engine.services.specs import freeze_limits, make_spec, refreeze


async def test_migrations_make_exactly_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    """And opening a database again changes nothing."""
    path = tmp_path / "deep" / "jobs.db"
    for _ in range(2):
        await (await JobStore.open(f"sqlite:///{path}")).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


def test_urls_get_an_asynchronous_driver() -> None:
    """Those that name one keep it."""
    assert with_async_driver("postgres://h/d") == "postgresql+asyncpg://h/d"
    assert with_async_driver("postgresql://h/d") == "postgresql+asyncpg://h/d"
    assert with_async_driver("postgresql+psycopg://h/d") == "postgresql+psycopg://h/d"


def test_ids_sort_as_they_were_made() -> None:
    """Also within a millisecond; each is a DNS label that starts with a letter."""
    ids = JobIds()
    made = [ids.make() for _ in range(5_000)]
    assert sorted(set(made)) == made
    assert all(len(one) == 30 and one.startswith("job-") and one.islower() for one in made)


def test_a_spec_holds_no_secret_and_the_exact_share() -> None:
    """The shares of all partitions that may run at once add up to the limit."""
    settings = Settings(
        state_url="s3://b/state",
        s3={"access_key_id": "the-id", "secret_access_key": "the-secret"},
        qdrant={"url": "http://q", "api_key": "the-key"},
        embed={"in_flight": 8, "texts_per_second": 40},
    )
    request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": "notes", "parallelism": 100})
    granted = grant_parallelism(settings, request)
    spec = make_spec(settings, request, EngineName.RAY, "job-a", parallelism=granted)
    assert (granted, spec.parallelism, spec.request.parallelism) == (8, 8, 100)
    limits = spec.limits
    assert limits.embed_in_flight * granted == 8
    assert limits.embed_texts_per_second is not None
    assert limits.embed_texts_per_second * granted == 40
    text = spec.model_dump_json()
    assert not any(secret in text for secret in ("the-id", "the-secret", "the-key"))


def test_a_worker_makes_ids_and_specs_without_the_packages_of_the_service() -> None:
    """``ingest worker run`` needs the extra ``worker`` only: neither SQL nor HTTP server nor a cluster's client."""
    blocked = ["alembic", "fastapi", "kubernetes", "pyspark", "ray", "sqlalchemy", "starlette", "uvicorn"]
    modules = ["cli", "adapters.connect", "driver.run", "services.job_ids", "services.specs", "state.ledger"]
    lines = [f"import sys; sys.modules.update(dict.fromkeys({blocked}))"]  # None makes an import of it fail
    lines += [f"import ingestion_engine.{module}" for module in modules]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("parallelism", "free", "share"),
    [
        (1, 32, LARGEST_SHARE),
        (4, 32, 4),
        (5, 32, 3),
        (8, 32, 2),
        (16, 32, 1),
        (32, 32, 1),
        (4, 16, 2),
        (4, 4, 1),
        (4, 0, 1),
    ],
)
def test_a_share_gives_every_server_a_request_at_its_door(parallelism: int, free: int, share: int) -> None:
    """Eight servers want 16 requests; more than one per partition takes at most half of what is free."""
    servers = Settings(ollama={"urls": ",".join(f"http://ollama-{n}:11434" for n in range(8))})
    assert choose_share(servers, parallelism, free) == share


@pytest.mark.parametrize(
    ("url", "in_flight", "parallelism", "share"),
    [
        ("http://o:11434", None, 2, 1),
        ("http://o:11434", 16, 2, 4),
        ("http://o:11434", 16, 4, 2),
        ("http://o:11434", 64, 2, LARGEST_SHARE),
        ("http://o:11434", 2, 2, 1),
        ("http://o:11434#4", None, 2, 4),
        ("http://o:11434#4", None, 4, 2),
        ("http://o:11434#4", 4, 2, 1),
        ("http://o:11434#4,http://p:11434", None, 2, 5),
    ],
)
def test_a_url_may_have_more_servers_behind_it(url: str, in_flight: int | None, parallelism: int, share: int) -> None:
    """A declared capacity counts as so many servers; a limit that is set is used, half of it by a lone job."""
    settings = Settings(ollama={"urls": url}, embed={"in_flight": in_flight})
    assert choose_share(settings, parallelism, settings.embed_in_flight) == share


def test_a_lone_jobs_share_is_the_default() -> None:
    """One worker on one server has two of its four requests, and half of the texts per second."""
    settings = Settings(state_url="file:///s", embed={"texts_per_second": 40})
    request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": "notes"})
    limits = make_spec(settings, request, EngineName.LOCAL, "job-a", parallelism=1).limits
    assert (limits.embed_in_flight, limits.embed_texts_per_second) == (2, 20)
    limits = make_spec(settings, request, EngineName.LOCAL, "job-a", parallelism=1, share=1).limits
    assert (limits.embed_in_flight, limits.embed_texts_per_second) == (1, 10)


def test_with_a_gateway_a_job_gets_what_it_asks_for() -> None:
    """No share and no rate of its own; only the number of jobs under way is bounded."""
    settings = Settings(
        state_url="file:///s",
        gateway={"url": "http://gateway:11430"},
        embed={"in_flight": 4, "texts_per_second": 5},
        spark={"max_jobs": 3},
    )
    body = {"source": {"bucket": "docs"}, "collection": "notes", "parallelism": 100}
    request = JobRequest.model_validate(body)
    assert grant_parallelism(settings, request) == 100
    limits = make_spec(settings, request, EngineName.RAY, "job-a", parallelism=100).limits
    assert (limits.embed_in_flight, limits.embed_texts_per_second) == (8, None)
    assert limits.embed_batch_texts == 5  # a larger request would exceed the cap by itself
    assert limit_requests(settings) is None
    assert limit_jobs(settings) == {EngineName.RAY: RAY_JOBS, EngineName.SPARK: 3}
    assert limit_jobs(Settings()) == {}


@pytest.mark.parametrize(("rate", "texts"), [(None, 32), (0.5, 1), (7.9, 7), (1000, 32)])
def test_a_batch_has_no_more_texts_than_a_second_allows(rate: float | None, texts: int) -> None:
    """Also without a gateway, so that a job makes the same requests with and without one."""
    settings = Settings(embed={"texts_per_second": rate, "batch_texts": 32})
    assert freeze_limits(settings, 1).embed_batch_texts == texts


def test_a_job_that_lost_its_gateway_keeps_to_the_limits() -> None:
    """Frozen under a gateway, its requests were bounded by that alone; a job frozen without one stays as it is."""
    request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": "notes"})
    plain = Settings(state_url="file:///s", embed={"in_flight": 8, "texts_per_second": 40})
    gateway = plain.model_copy(update={"gateway": Settings(gateway={"url": "http://gateway:11430"}).gateway})
    under_gateway = make_spec(gateway, request, EngineName.RAY, "job-a", parallelism=4)
    alone = refreeze(plain, under_gateway)
    assert "gateway" not in alone.endpoints
    assert (alone.parallelism, alone.limits.embed_in_flight, alone.limits.embed_texts_per_second) == (4, 2, 10)
    assert refreeze(gateway, under_gateway) == under_gateway
    shared = make_spec(plain, request, EngineName.RAY, "job-a", parallelism=4)
    continued = refreeze(gateway, shared)
    assert continued.endpoints["gateway"] == {"url": ["http://gateway:11430"]}
    assert continued.limits == shared.limits


def test_workers_that_know_no_gateway_use_it_as_an_ollama_server() -> None:
    """Those of an earlier release of this minor version; a name with many addresses is unknown to them."""
    assert Settings(gateway={"url": "http://g:1"}).endpoints()["ollama"] == {"urls": ["http://g:1"]}
    named = Settings(gateway={"url": "dns+http://g:1"}, ollama={"urls": "http://o:1"})
    assert named.endpoints()["ollama"] == {"urls": ["http://o:1"]}


def test_an_event_is_one_line() -> None:
    """As JSON every field is a member; as text, values with spaces are quoted."""
    root, ours = logging.getLogger(), logging.getLogger("ingestion_engine")
    before = root.handlers[:], root.level, ours.level
    try:
        for as_json in (True, False):
            stream = io.StringIO()
            configure_logging("info", json=as_json, stream=stream)
            extra = {"job_id": "job-a", "note": "two words\nand a line", "_private": 1}
            get_logger("ingestion_engine.services.x").info("job ended", extra=extra)
            get_logger("ingestion_engine.services.x").debug("too fine")
            (line,) = stream.getvalue().splitlines()
            if as_json:
                event = orjson.loads(line)
                assert (event["event"], event["job_id"], event["level"]) == ("job ended", "job-a", "info")
                assert "_private" not in event
            else:
                assert 'services.x job ended job_id=job-a note="two words\\nand a line"' in line
    finally:
        root.handlers[:], root.level = before[0], before[1]
        ours.setLevel(before[2])


async def test_a_question_on_its_way_is_asked_once_for_all() -> None:
    """Also when one of those who wait gives up; its answer is kept, and an error is not."""
    shared, asked = ResponseCache(), asyncio.Event()
    asks = 0

    async def ask() -> int:
        nonlocal asks
        asks += 1
        await asked.wait()
        if asks == 1:
            raise OSError("away")
        return asks

    async def ask_all() -> list[int | BaseException]:
        waiting = [asyncio.create_task(shared.get("key", ask, keep_s=60)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        asked.set()
        return await asyncio.gather(*waiting[1:], return_exceptions=True)

    errors = await ask_all()
    assert [str(error) for error in errors] == ["away", "away"]
    assert await ask_all() == [2, 2]
    assert await shared.get("key", ask, keep_s=60) == asks == 2


async def test_the_file_of_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    """From its creation on, whatever the umask is; the rights of others are taken from one that exists."""
    before = os.umask(0o022)
    try:
        path = tmp_path / "data" / "jobs.db"
        for _ in range(2):
            store = await JobStore.open(f"sqlite:///{path}")
            files = sorted(path.parent.iterdir())
            assert path in files
            assert [file.name for file in files if file.stat().st_mode & 0o077] == []
            await store.close()
            path.chmod(0o644)
        assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
