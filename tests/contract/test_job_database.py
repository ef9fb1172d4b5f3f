"""The database of jobs, on SQLite and a real PostgreSQL: leases, compare-and-set, bad rows, outages, URLs.

PostgreSQL is the server that INGEST_DATABASE_URL names, whose account must be allowed to create databases, else one of
these tests' own. Tests that stop the server, or need its certificate, always use their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
import trustme
from asyncpg import connect_utils

from ingestion_engine.domain.errors import DatabaseUnavailable, FatalError, SubmissionError
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services import job_store
from ingestion_engine.services.database import parse_database_url
from ingestion_engine.services.dispatcher import ActiveJobs
from ingestion_engine.services.job_expiry import EndedJob, EndedRows
from ingestion_engine.services.job_states import JobEvent
from ingestion_engine.services.job_store import DispatchLease, IdempotencyTaken, JobFilter, JobStore
from support.authority import Fault, PrivateAuthority
from support.control import BODY, World, overwrite, queued
from support.postgres import Postgres
from support.postgres_tls import encrypted_postgres
from support.waiting import eventually

SUPPORT = Path(__file__).parents[1] / "support"


async def until(fact: Callable[[], Awaitable[bool]]) -> None:
    """Return when a fact of another task or process holds."""
    async with asyncio.timeout(30):
        while not await fact():  # noqa: ASYNC110 - a database and a clock have no event
            await asyncio.sleep(0.02)


async def take_over(store: JobStore, holder: str) -> DispatchLease:
    """Hold as soon as the former lease has expired."""

    async def holds() -> bool:
        return (await store.hold_dispatch(holder, 60)).holder == holder

    await until(holds)
    return await store.hold_dispatch(holder, 60)


async def test_the_clock_of_the_database_decides_who_dispatches(
    job_stores: tuple[JobStore, JobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy whose clock is an hour ahead takes nothing from a holder that renews."""
    one, two = job_stores
    await one.hold_dispatch("one", 60)
    monkeypatch.setattr(job_store, "utc_now", lambda: utc_now() + dt.timedelta(hours=1), raising=False)
    assert await two.hold_dispatch("two", 60) == DispatchLease("one", 1)


async def test_every_copy_goes_by_the_clock_of_the_database(
    job_stores: tuple[JobStore, JobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines that one copy has set mean the same moment for another one whose clock is an hour ahead."""
    one, two = job_stores
    await one.hold_dispatch("one", 60)
    ahead = dt.timedelta(hours=1)
    monkeypatch.setattr(job_store, "utc_now", lambda: utc_now() + ahead)
    await two.hold_dispatch("two", 60)
    assert abs(two.now() - utc_now()) < dt.timedelta(seconds=30)
    assert abs(one.now() - utc_now() - ahead) < dt.timedelta(seconds=30)  # it has not asked since its clock was changed
    await one.hold_dispatch("one", 60)
    assert abs(one.now() - utc_now()) < dt.timedelta(seconds=30)


async def test_who_dispatches_can_be_read_without_a_claim(job_stores: tuple[JobStore, JobStore]) -> None:
    """A copy that only serves the API learns the holder and the database's clock; an expired lease has no holder."""
    first, second = job_stores
    assert await second.read_dispatch() == DispatchLease("", 0)
    await first.hold_dispatch("one", 60)
    assert await second.read_dispatch() == DispatchLease("one", 1)
    assert abs(second.now() - first.now()) < dt.timedelta(seconds=1)
    await first.hold_dispatch("one", -60)
    assert await second.read_dispatch() == DispatchLease("", 1)
    await second.hold_dispatch("two", 60)
    await second.release_dispatch("two")
    assert await first.read_dispatch() == DispatchLease("", 2)


async def test_a_lease_that_expired_is_taken_over_under_a_new_term(job_stores: tuple[JobStore, JobStore]) -> None:
    """A holder that renews late keeps its term as long as nobody else was faster."""
    one, two = job_stores
    assert await one.hold_dispatch("one", -60) == DispatchLease("one", 1)
    assert await one.hold_dispatch("one", 0.05) == DispatchLease("one", 1)
    assert await take_over(two, "two") == DispatchLease("two", 2)
    assert await one.hold_dispatch("one", 60) == DispatchLease("two", 2)
    await two.release_dispatch("two")
    assert await one.hold_dispatch("one", 60) == DispatchLease("one", 3)


async def test_copies_that_start_together_agree_on_one(job_stores: tuple[JobStore, JobStore]) -> None:
    """Also for the very first lease of a new database."""
    leases = await asyncio.gather(
        *(store.hold_dispatch(name, 60) for name, store in zip("ab", job_stores, strict=True))
    )
    assert leases[0] == leases[1]


async def test_a_copy_that_lost_the_lease_changes_no_job(job_stores: tuple[JobStore, JobStore]) -> None:
    """Whatever it believes, and although the row is as it has read it."""
    one, two = job_stores
    lost = await one.hold_dispatch("one", -60)
    current = await two.hold_dispatch("two", 60)
    job = queued(1, "c")
    await one.insert(job)
    admitted = {"admitted_at": job.created_at, "attempt": 1}
    assert await one.change(job, JobEvent.ADMIT, lead=lost, **admitted) is None
    assert await one.update(job, lead=lost, note="late") is None
    await one.note_waiting({job.id: "late"}, lead=lost)
    assert await one.get(job.id) == job
    changed = await two.change(job, JobEvent.ADMIT, lead=current, **admitted)
    assert changed is not None
    assert await one.get(job.id) == changed


async def test_of_two_changes_of_one_row_one_happens(job_stores: tuple[JobStore, JobStore]) -> None:
    """Both copies have read the same revision; the second change finds another one."""
    one, two = job_stores
    job = queued(1, "c")
    await one.insert(job)
    done = await asyncio.gather(one.update(job, note="a"), two.update(job, note="b"))
    assert [row is None for row in done] in ([True, False], [False, True])
    stored = await one.get(job.id)
    assert stored in done


@pytest.mark.parametrize("column", ["engine", "state"])
async def test_a_row_that_cannot_be_read_hides_no_other(
    job_stores: tuple[JobStore, JobStore], column: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out of lists and of the dispatcher's jobs, counted, logged once, and named when asked for."""
    store, _ = job_stores
    for number in range(5):
        await store.insert(queued(number, "c"))
    await overwrite(store, "job-3", **{column: "later"})
    active = ActiveJobs(store)
    for _ in range(3):
        assert [job.id for job in await active.read()] == ["job-0", "job-1", "job-2", "job-4"]
    pages, cursor = [], None
    while True:
        page, cursor = await store.list_page(JobFilter(), limit=1, cursor=cursor)
        pages.append([job.id for job in page])
        if cursor is None:
            break
    assert pages == [["job-4"], ["job-2"], ["job-1"], ["job-0"]]
    assert list(store.unreadable) == ["job-3"]
    assert [record.getMessage() for record in caplog.records] == ["row of a job not readable"]
    with pytest.raises(SubmissionError, match="'later'") as refused:
        await store.get("job-3")
    assert (refused.value.code, refused.value.status) == ("job_unreadable", 500)
    await overwrite(store, "job-3", **{column: {"engine": "ray", "state": "queued"}[column]})
    assert len(await active.read()) == 5
    assert store.unreadable == {}


async def test_a_damaged_file_of_sqlite_hides_no_other_row(tmp_path: Path) -> None:
    """JSON and moments are text in SQLite: what is neither hides its own row only."""
    store = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    for number in range(3):
        await store.insert(queued(number, "c"))
    async with store.database.writing() as connection:
        await connection.execute(sa.text("UPDATE jobs SET request = '{' WHERE id = 'job-0'"))
        await connection.execute(sa.text("UPDATE jobs SET created_at = 'soon' WHERE id = 'job-2'"))
    assert [job.id for job in (await store.list_page(JobFilter(), limit=2, cursor=None))[0]] == ["job-1"]
    assert sorted(store.unreadable) == ["job-0", "job-2"]
    await store.close()


async def test_a_service_survives_a_database_that_comes_and_goes(
    world: World, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with one code, one log line per outage, metrics all the same; afterwards everything goes on."""
    caplog.set_level(logging.INFO)
    url = postgres.url(postgres.create_database())
    async with world.serve(database_url=url) as plane:
        job_id = await plane.submit()
        await plane.look()
        try:
            postgres.stop()
            caplog.clear()
            for method, path in [("GET", "/jobs"), ("GET", f"/jobs/{job_id}"), ("POST", f"/jobs/{job_id}/cancel")]:
                answer = await plane.client.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            answer = await plane.client.post("/ray/jobs", json={**BODY, "collection": "other"})
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            page = await plane.client.get("/")
            assert (page.status_code, "is unavailable: Connection refused" in page.text) == (503, True)
            metrics = await plane.client.get("/metrics")
            assert metrics.status_code == 200
            assert 'ingest_dependency_up{name="database"} 0.0' in metrics.text
            assert "ingest_jobs{" not in metrics.text
            ready = await plane.client.get("/readyz")
            assert (ready.status_code, ready.json()["dependencies"]["database"]["ok"]) == (503, False)
            assert "secret" not in ready.text + page.text + answer.text
            lines = [record for record in caplog.records if record.levelno > logging.INFO]
            assert [line.getMessage() for line in lines] == ["database unavailable"]
        finally:
            postgres.start()
        caplog.clear()
        assert (await plane.job(job_id))["state"] == "submitted"
        assert [line.getMessage() for line in caplog.records if line.name.endswith("database")] == [
            "database available again"
        ]
        world.engine.finish(job_id)
        await plane.look()
        assert (await plane.job(job_id))["state"] == "succeeded"


async def test_a_dispatcher_outlives_its_database(
    world: World, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """By itself it stops to lead, says so once, and leads again when the database is back; no traceback."""
    caplog.set_level(logging.INFO)
    url = postgres.url(postgres.create_database())
    async with world.serve(background=True, database_url=url) as plane:
        dispatcher = plane.services.dispatcher
        assert dispatcher is not None

        async def leads() -> bool:
            return dispatcher.leadership.is_held

        async def leads_not() -> bool:
            return not dispatcher.leadership.is_held

        async def is_submitted() -> bool:
            return bool((await plane.job(job_id))["state"] == "submitted")

        await until(leads)
        job_id = await plane.submit()
        try:
            postgres.stop()
            await until(leads_not)
        finally:
            postgres.start()
        await until(leads)
        await until(is_submitted)
    messages = [line.getMessage() for line in caplog.records if line.name.startswith("ingestion_engine.services")]
    assert not any(line.exc_info for line in caplog.records)
    assert messages.count("database unavailable") == messages.count("database available again") == 1
    assert messages.count("this copy dispatches now") == 2
    assert messages.count("this copy dispatches no more") == 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_parameters_of_libpq_are_understood(postgres: Postgres) -> None:
    """Each has the effect that psql gives it, or is left out where nothing is lost."""
    query = "?sslmode=disable&connect_timeout=7&application_name=my%20service&options=-c%20statement_timeout%3D4321"
    query += "&keepalives=1&gssencmode=disable&channel_binding=prefer&client_encoding=UTF8&target_session_attrs=any"
    store = await JobStore.open(postgres.url(postgres.create_database(), query))
    async with store.database.reading() as connection:
        for name, value in [("application_name", "my service"), ("statement_timeout", "4321ms")]:
            assert (await connection.execute(sa.text(f"SHOW {name}"))).scalar() == value
    await store.close()


async def test_a_connection_is_encrypted_and_its_certificate_checked(tmp_path: Path) -> None:
    """With the authority of the URL; with another one, the reason is the certificate."""
    authority = PrivateAuthority(tmp_path)
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    verified = "?sslmode=verify-full"
    async with encrypted_postgres(authority.issue()) as url:
        for store in (
            await JobStore.open(url(f"{verified}&sslrootcert={authority.file}")),
            await JobStore.open(url(verified), ca_file=authority.file),  # INGEST_TLS__CA_FILE
            await JobStore.open(url("?sslmode=require")),
        ):
            async with store.database.reading() as connection:
                raw = await connection.get_raw_connection()
                assert raw.driver_connection is not None
                transport = raw.driver_connection._transport
                assert transport.get_extra_info("cipher") is not None
            await store.close()
        for query, ca_file in [
            (verified, tmp_path / "other.pem"),
            (f"{verified}&sslrootcert={tmp_path}/other.pem", None),
        ]:
            with pytest.raises(DatabaseUnavailable, match=r"(?i)certificate"):
                await JobStore.open(url(query), ca_file=ca_file)
        with pytest.raises(FatalError, match=r"'sslrootcert' names the file '.*missing\.pem', which cannot be read"):
            await JobStore.open(url(f"{verified}&sslrootcert={tmp_path}/missing.pem"))
    async with encrypted_postgres(authority.issue(Fault.OTHER_HOST)) as url:
        await (await JobStore.open(url("?sslmode=verify-ca"), ca_file=authority.file)).close()
        with pytest.raises(DatabaseUnavailable, match=r"(?i)certificate"):
            await JobStore.open(url(verified), ca_file=authority.file)


async def test_a_database_that_cannot_be_opened_says_why(postgres: Postgres) -> None:
    """One sentence and the variable to check, without the password."""
    closed = postgres.url().replace(str(postgres.port), "1")
    for url, reason in [
        (closed, r"at 127\.0\.0\.1:1 is unavailable: Connection refused"),
        (postgres.url("nowhere"), 'database "nowhere" does not exist'),
        (postgres.url().replace("secret", "wrong"), "password authentication failed"),
    ]:
        with pytest.raises(DatabaseUnavailable, match=reason) as failed:
            await JobStore.open(url)
        assert "INGEST_DATABASE_URL" in failed.value.hint
        assert "secret" not in failed.value.message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://u:secret@h/d?sslmod=require", "'sslmod' is unknown"),
        ("postgresql://u:secret@h/d?sslmode=yes", "'sslmode' must be one of disable, allow"),
        ("postgresql://u:secret@h/d?connect_timeout=soon", "'connect_timeout' must be a number"),
        ("postgresql://u:secret@h/d?sslmode=require&channel_binding=require", "lacks 'channel_binding=require'"),
        ("postgresql://u:secret@h/d?options=fast", "'options' must consist of"),
        ("oracle7://u:secret@h/d", "not the URL of a database"),
        ("mysql://u:secret@h/d", "not the URL of a database"),
        ("jobs.db", "not the URL of a database"),
        ("postgresql://u:secret@h:port/d", "not the URL of a database"),
    ],
)
def test_a_url_with_a_mistake_is_refused_by_name(url: str, reason: str) -> None:
    """Before any connection, without the password."""
    with pytest.raises(FatalError, match=reason) as refused:
        parse_database_url(url)
    assert refused.value.code == "database_url_invalid"
    assert "INGEST_DATABASE_URL" in refused.value.message
    assert "secret" not in refused.value.message + refused.value.hint


async def test_a_database_of_a_later_version_is_not_touched(tmp_path: Path) -> None:
    """It does not say that this version can use its schema: one sentence instead of a traceback of the migrations."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    store = await JobStore.open(url)
    async with store.database.writing() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(sa.text("UPDATE schema_readers SET oldest = '9999'"))
    await store.close()
    with pytest.raises(FatalError, match="9999") as refused:
        await JobStore.open(url)
    assert refused.value.code == "database_newer"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "postgresql://u:hidden@127.0.0.1:1/d",
            "The database of jobs at 127.0.0.1:1 is unavailable: Connection refused.",
        ),
        ("postgresql://u:hidden@h/d?sslmod=require", "unknown (did you mean 'sslmode'?)"),
    ],
)
def test_a_service_that_cannot_open_its_database_ends_with_a_sentence(tmp_path: Path, url: str, reason: str) -> None:
    """Instead of 133 lines of tracebacks; the exit code is the one of an error."""
    command = [sys.executable, "-c", "from ingestion_engine.cli import main; main()", "serve", "--port", "0"]
    env = {**os.environ, "INGEST_DATABASE_URL": url, "INGEST_DATA_DIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert reason in " ".join(done.stderr.split())
    assert "INGEST_DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr
    assert len(done.stderr.splitlines()) < 20


async def test_ended_jobs_are_marked_then_removed_by_the_leader_alone(job_stores: tuple[JobStore, JobStore]) -> None:
    """A marked row is in no answer and frees its key; a copy whose lease is not the stored one changes nothing."""
    first, second = job_stores
    await first.insert(queued(0, "notes", state=JobState.FAILED, finished_at=utc_now(), idempotency_key="once"))
    await first.insert(queued(1, "notes", state=JobState.RUNNING))
    await first.insert(queued(2, "notes", retry_of="job-8", only_keys_path="jobs/job-9/only_keys.json"))
    rows, soon = EndedRows(first.database), utc_now() + dt.timedelta(days=1)
    assert await rows.list_due(utc_now() - dt.timedelta(days=1), after="", limit=9) == []
    assert await rows.list_due(soon, after="", limit=9) == [EndedJob("job-0", "notes")]
    assert await rows.list_due(soon, after="job-0", limit=9) == []
    assert await rows.find_used() == {"job-8", "job-9"}
    assert await rows.find_known(["job-0", "job-2", "job-8"]) == {"job-0", "job-2"}
    stale = await first.hold_dispatch("one", -60)
    lead = await second.hold_dispatch("two", 60)
    ids = ["job-0", "job-1"]
    assert await rows.mark(ids, utc_now(), lead=stale) == 0
    assert await rows.mark(ids, utc_now(), lead=lead) == 1
    assert await rows.list_marked(soon, 9) == [EndedJob("job-0", "notes")]
    assert await rows.count_due(utc_now()) == 1
    assert await first.get("job-0") is None
    assert {job.id for job in (await second.list_page(JobFilter(), limit=9, cursor=None))[0]} == {"job-1", "job-2"}
    await second.insert(queued(3, "notes", idempotency_key="once"))
    assert not await rows.remove("job-0", lead=stale)
    assert not await rows.remove("job-1", lead=lead)
    assert await rows.remove("job-0", lead=lead)
    assert not await rows.remove("job-0", lead=lead)
    assert await rows.find_known(["job-0", "job-1"]) == {"job-1"}


@pytest.mark.parametrize(
    "statement", ["UPDATE dispatchers", "INSERT INTO dispatchers", "INSERT INTO jobs", "UPDATE jobs"]
)
async def test_a_copy_that_stands_still_between_two_requests_to_the_database_holds_up_nobody(
    postgres: Postgres, statement: str
) -> None:
    """A suspended machine keeps its connections: an open transaction would keep its locks until it goes on."""
    url = postgres.url(postgres.create_database())
    store = await JobStore.open(url)
    if statement != "INSERT INTO dispatchers":
        await store.hold_dispatch("former", 0)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent), *sys.path])}
    command = [sys.executable, "-m", "support.stopping_copy", url, statement]
    process = subprocess.Popen(command, env=path)  # noqa: ASYNC220 - it returns at once
    try:
        await eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        async with asyncio.timeout(5):
            assert (await take_over(store, "successor")).holder == "successor"
            with contextlib.suppress(IdempotencyTaken):
                await store.insert(queued(2, "c", idempotency_key="key"))
            for job in await store.list_active():
                assert await store.update(job, note="changed") is not None
    finally:
        process.kill()
        process.wait()
        await store.close()


@pytest.mark.parametrize(
    ("url", "hosts", "user"),
    [
        ("postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=read-write", [("h1", 5432), ("h2", 5433)], "u"),
        ("postgresql://u@server:p@h/d?sslmode=require", [("h", 5432)], "u@server"),
        ("postgresql://u%40server:p@h/d", [("h", 5432)], "u@server"),
        ("postgresql://u:p@/d?host=/cloudsql/project:region:one", ["/cloudsql/project:region:one/.s.PGSQL.5432"], "u"),
        ("postgres://u:p@h-pooler:6543/d?pgbouncer=true&sslmode=require", [("h-pooler", 6543)], "u"),
        ("postgresql://u:p@h/d?sslmode=require&options=endpoint%3Done", [("h", 5432)], "u"),
        ("postgresql://u.ref:p@[::1]:5432/d?connect_timeout=3", [("::1", 5432)], "u.ref"),
    ],
)
def test_urls_as_providers_give_them_are_understood(url: str, hosts: list[object], user: str) -> None:
    """Asyncpg finds hosts and account in what it receives; SQLAlchemy accepts its part."""
    address = parse_database_url(url)
    sa.engine.make_url(address.url)
    assert address.options is not None
    names = inspect.signature(connect_utils._parse_connect_dsn_and_args).parameters
    given = {"dsn": address.dsn, "server_settings": address.options["server_settings"]}
    found, parameters, *_ = connect_utils._parse_connect_dsn_and_args(**{**dict.fromkeys(names), **given})
    assert (found, parameters.user, parameters.password, parameters.database) == (hosts, user, "p", "d")
    assert address.pooled == ("pgbouncer" in url)
    assert parameters.server_settings.get("options") == ("endpoint=one" if "endpoint" in url else None)


async def test_behind_a_pooler_no_statement_outlives_its_transaction(postgres: Postgres) -> None:
    """The next transaction may have another connection to the server, where its name is unknown or taken."""
    store = await JobStore.open(postgres.url(postgres.create_database(), "?pgbouncer=true"))
    await store.insert(queued(1, "c"))
    await store.hold_dispatch("one", 60)
    for _ in range(2):
        assert [job.id for job in await store.list_active()] == ["job-1"]
    async with store.database.reading() as connection:
        names = (await connection.execute(sa.text("SELECT name FROM pg_prepared_statements"))).scalars().all()
        assert set(names) <= {""}
    await store.close()


async def test_connections_to_a_server_that_became_read_only_are_replaced(postgres: Postgres) -> None:
    """After a failover the former primary may still answer; what is left of the pool must not stay with it."""
    store = await JobStore.open(postgres.url(postgres.create_database()))
    await store.hold_dispatch("one", 60)
    async with store.database.reading() as held:
        await held.execute(sa.text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        await held.commit()
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await store.hold_dispatch("one", 60)
    assert (await store.hold_dispatch("one", 60)).holder == "one"
    await store.close()
