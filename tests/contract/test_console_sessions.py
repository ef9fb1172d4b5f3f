"""Sessions of the console: what makes one, what ends one, and what the database knows of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import AsyncConnection

from ingestion_engine.access.oidc.log_outs import ProviderLogIn
from ingestion_engine.access.principal import Principal
from ingestion_engine.access.sessions import KNOWN_S, TOUCH_S, Sessions
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.settings import SessionSettings
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services import console_sessions as console_sessions_store
from ingestion_engine.services import job_schema
from ingestion_engine.services.console_sessions import ProviderLogOut, SessionRecord, SessionStore
from ingestion_engine.services.database import STATEMENT_TIMEOUT_S, Database
from ingestion_engine.services.job_records import console_sessions, provider_log_outs
from ingestion_engine.services.job_store import JobStore

ADA = Principal(name="ada", kind="key", credential="c" * 64)


@dataclass
class World:
    """A clock, the present rights of principals, and copies of the service on one database."""

    database: Database
    now: Moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    rights: dict[str, Principal | None] = field(default_factory=lambda: {"ada": ADA})
    settings: SessionSettings = field(default_factory=lambda: SessionSettings(hours=12, idle_minutes=60, per_caller=3))

    def copy(self) -> Sessions:
        async def recall(record: SessionRecord) -> Principal | None:
            return self.rights.get(record.owner)

        def seconds() -> float:
            return self.now.timestamp()

        return Sessions(SessionStore(self.database), self.settings, recall, now=lambda: self.now, clock=seconds)

    def wait(self, **duration: float) -> None:
        self.now += dt.timedelta(**duration)


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobStore]:
    store = await JobStore.open(database_url)
    yield store
    await store.close()


@pytest.fixture
def world(jobs: JobStore) -> World:
    return World(jobs.database)


async def test_every_copy_knows_a_session_and_none_its_secret(world: World, jobs: JobStore) -> None:
    """The database has the hash of the cookie; the principal has neither."""
    begun = await world.copy().begin(ADA)
    found = await world.copy().find(begun.secret)
    assert found is not None
    assert (found.name, found.expires_at) == ("ada", world.now + dt.timedelta(hours=12))
    async with jobs.database.reading() as connection:
        row = (await connection.execute(sa.select(console_sessions))).one()
    assert begun.secret not in str(row)
    assert begun.secret not in repr(found)


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43, "a" * 42 + "\n", "a" * 43 + "\n", "é" * 43, "a" * 10_000])
async def test_a_value_that_no_log_in_has_made_is_no_session(world: World, cookie: str) -> None:
    """Whoever puts a cookie into somebody else's browser does not know the secret of a session that begins there."""
    sessions = world.copy()
    assert await sessions.find(cookie) is None
    begun = await sessions.begin(ADA)
    assert begun.secret != cookie
    assert await sessions.find(cookie) is None


async def test_a_session_ends_by_time(world: World) -> None:
    """An hour after the last request, and twelve hours after the log-in whatever happens."""
    sessions = world.copy()
    idle, busy = await sessions.begin(ADA), await sessions.begin(ADA)
    for _ in range(14):
        world.wait(minutes=50)
        await sessions.find(busy.secret)
    assert await sessions.find(busy.secret) is not None  # 11 h 40 min
    assert await sessions.find(idle.secret) is None
    world.wait(minutes=20)
    assert await sessions.find(busy.secret) is None


async def test_a_session_has_the_present_rights_of_its_principal(world: World) -> None:
    """Revocation of the key ends it; a key that expires sooner ends it sooner; scopes follow the key."""
    sessions = world.copy()
    begun = await sessions.begin(ADA)
    soon = world.now + dt.timedelta(minutes=5)
    world.rights["ada"] = Principal(name="ada", kind="key", scopes=frozenset(), expires_at=soon)
    found = await sessions.find(begun.secret)
    assert found is not None
    assert (found.scopes, found.expires_at) == (frozenset(), soon)
    assert await sessions.is_still_valid(found)
    world.rights["ada"] = None
    assert await sessions.find(begun.secret) is None
    world.wait(seconds=KNOWN_S)
    assert not await sessions.is_still_valid(found)


async def test_a_log_out_ends_one_session_on_every_copy(world: World) -> None:
    """Streams learn of it within seconds."""
    here, there = world.copy(), world.copy()
    one, other = await here.begin(ADA), await here.begin(ADA)
    assert await there.is_still_valid(one.principal)
    await here.end(one.secret)
    assert await there.find(one.secret) is None
    assert await there.find(other.secret) is not None
    world.wait(seconds=KNOWN_S)
    assert not await there.is_still_valid(one.principal)


async def test_a_further_log_in_ends_the_session_that_was_idle_for_longest(world: World) -> None:
    """Of the same principal; another with the same name and kind of credential has its own."""
    sessions = world.copy()
    world.rights["bob"] = bob = Principal(name="bob", kind="key", credential="b" * 64)
    his = await sessions.begin(bob)
    hers = []
    for _ in range(3):
        world.wait(seconds=TOUCH_S)
        hers.append(await sessions.begin(ADA))
    world.wait(seconds=TOUCH_S)
    await sessions.find(hers[0].secret)
    hers.append(await sessions.begin(ADA))
    assert [await sessions.find(one.secret) is not None for one in hers] == [True, False, True, True]
    assert await sessions.find(his.secret) is not None


async def test_following_a_job_does_not_keep_a_session_from_being_idle(world: World) -> None:
    """Only requests of a person do: a page that was left open ends."""
    sessions = world.copy()
    begun = await sessions.begin(ADA)
    world.wait(minutes=59)
    assert await sessions.is_still_valid(begun.principal)
    world.wait(minutes=1)
    assert not await sessions.is_still_valid(begun.principal)


async def test_sessions_that_have_ended_are_removed(world: World, jobs: JobStore) -> None:
    """Their rows go; others stay."""
    sessions = world.copy()
    await sessions.begin(ADA)
    world.wait(minutes=61)
    begun = await sessions.begin(ADA)
    await sessions.sweep()
    async with jobs.database.reading() as connection:
        assert (await connection.execute(sa.select(sa.func.count()).select_from(console_sessions))).scalar() == 1
    assert await sessions.find(begun.secret) is not None


# -- log-outs at the provider -----------------------------------------------------------------------------------------

BOB = Principal(name="oidc:bob", kind="oidc")


def log_in(world: World, session: str | None = "first", subject: str = "bob") -> ProviderLogIn:
    return ProviderLogIn(subject, session, world.now)


def log_out(world: World, number: int = 1, *, subject: str | None = None, session: str | None = None) -> ProviderLogOut:
    return ProviderLogOut(
        id=f"log-out {number}",
        subject=subject,
        session=session,
        at=world.now,
        expires_at=world.now + dt.timedelta(minutes=12),
    )


async def test_a_log_out_at_the_provider_ends_the_sessions_it_names_on_every_copy(world: World) -> None:
    """Sessions of another one, of keys, and of releases that have recorded neither subject nor session stay."""
    world.rights[BOB.name] = BOB
    here, there = world.copy(), world.copy()
    begun = {
        "first": await here.begin(BOB, log_in=log_in(world)),
        "second": await here.begin(BOB, log_in=log_in(world, "second")),
        "key": await here.begin(ADA),
        "former": await here.begin(BOB),
    }
    world.wait(seconds=1)

    async def find() -> set[str]:
        return {name for name, one in begun.items() if await there.find(one.secret) is not None}

    assert await there.is_still_valid(begun["first"].principal)
    await here.end_by_provider(log_out(world, 1, session="first"))
    assert await find() == {"second", "key", "former"}
    world.wait(seconds=KNOWN_S)
    assert not await there.is_still_valid(begun["first"].principal)
    await there.end_by_provider(log_out(world, 2, subject="somebody"))
    assert await find() == {"second", "key", "former"}
    await there.end_by_provider(log_out(world, 3, subject="bob"))
    assert await find() == {"key", "former"}


async def test_sessions_of_the_release_before_the_log_outs_go_on(database_url: str) -> None:
    """Through the migration, and beside copies of that release, which name the columns that they know."""
    known = [column for column in console_sessions.c if not column.name.startswith("provider_")]
    former = sa.Table("console_sessions", sa.MetaData(), *(sa.Column(one.name, one.type) for one in known))

    def make_former_schema(connection: sa.Connection) -> None:
        config = job_schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0012")

    async def begin_in_former_release(database: Database, world: World, secret: str) -> None:
        row = {"id": hashlib.sha256(secret.encode()).hexdigest(), "kind": "oidc", "owner": BOB.name}
        times = {"created_at": world.now, "seen_at": world.now, "expires_at": world.now + dt.timedelta(hours=12)}
        async with database.writing() as connection:
            await connection.execute(sa.insert(former).values(claims={"sub": "bob"}, **row, **times))
            assert (await connection.execute(sa.select(former).where(former.c.id == row["id"]))).one().owner == BOB.name

    database = Database.open(database_url)
    async with database.writing() as connection:
        await connection.run_sync(make_former_schema)
    world = World(database, rights={BOB.name: BOB})
    await begin_in_former_release(database, world, "b" * 43)
    store = await JobStore.open(database_url)
    await begin_in_former_release(database, world, "a" * 43)
    sessions = world.copy()
    await sessions.end_by_provider(log_out(world, 1, subject="bob", session="first"))
    await sessions.end_by_provider(log_out(world, 2, subject="bob"))
    for secret in ("a" * 43, "b" * 43):
        assert await sessions.find(secret) is not None
    await store.close()
    await database.close()


async def test_a_log_out_is_received_once(world: World, jobs: JobStore) -> None:
    """By ten copies at once, too; it is forgotten when its token cannot be used any more."""
    copies = [world.copy() for _ in range(10)]
    one = log_out(world, session="first")
    results = await asyncio.gather(*(copy.end_by_provider(one) for copy in copies), return_exceptions=True)
    refused = [result for result in results if result is not None]
    assert len(refused) == 9
    assert {getattr(error, "code", error) for error in refused} == {"logout_token_invalid"}

    async def count() -> int:
        await copies[0].sweep()
        async with jobs.database.reading() as connection:
            return len((await connection.execute(sa.select(provider_log_outs))).all())

    assert await count() == 1
    world.wait(minutes=12)
    assert await count() == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_log_out_waits_for_the_log_in_that_has_not_seen_it(
    world: World, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported after the log-in was compared with all log-outs, and before its row is there for others."""
    world.rights[BOB.name] = BOB
    here, there = world.copy(), world.copy()
    reports: list[asyncio.Task[None]] = []
    compare = console_sessions_store._is_logged_out
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM "
    waiting += "pg_database WHERE datname = current_database())"

    async def is_being_written() -> bool:
        async with jobs.database.reading() as connection:
            return reports[0].done() or (await connection.execute(sa.text(waiting))).first() is not None

    async def compare_and_report(*given: Any) -> bool:
        found = await compare(*given)
        reports.append(asyncio.create_task(there.end_by_provider(log_out(world, session="first"))))
        async with asyncio.timeout(10):
            while not await is_being_written():
                pass  # each look gives the loop a turn
        return found

    monkeypatch.setattr(console_sessions_store, "_is_logged_out", compare_and_report)
    begun = await here.begin(BOB, log_in=log_in(world))
    await reports[0]
    assert await there.find(begun.secret) is None


async def test_no_log_in_outlives_the_log_out_that_meets_it(world: World) -> None:
    """Twenty log-ins that are being completed while the provider reports their end, on two copies."""
    world.rights[BOB.name] = BOB
    world.settings = SessionSettings(hours=12, idle_minutes=60, per_caller=100)
    here, there = world.copy(), world.copy()
    for number in range(20):
        session = f"session {number}"
        begun, ended = await asyncio.gather(
            here.begin(BOB, log_in=log_in(world, session)),
            there.end_by_provider(log_out(world, number, session=session)),
            return_exceptions=True,
        )
        assert ended is None
        if isinstance(begun, SubmissionError):
            assert begun.code == "log_in_failed"
        else:
            assert not isinstance(begun, BaseException)
            assert await here.find(begun.secret) is None
    world.wait(seconds=1)
    later = await here.begin(BOB, log_in=log_in(world, "session 1"))
    assert await there.find(later.secret) is not None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_copy_that_stands_still_holds_up_no_log_in_for_too_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All log-ins take turns: PostgreSQL ends the transaction of one that does nothing before the others give up."""
    world.rights[BOB.name] = BOB
    limits: list[int] = []
    writing = SessionStore._writing_in_turn

    @contextlib.asynccontextmanager
    async def write_and_look(self: SessionStore) -> AsyncIterator[AsyncConnection]:
        async with writing(self) as connection:
            found = "SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
            limits.append((await connection.execute(sa.text(found))).scalar_one())
            yield connection

    monkeypatch.setattr(SessionStore, "_writing_in_turn", write_and_look)
    await world.copy().begin(BOB, log_in=log_in(world))
    await world.copy().end_by_provider(log_out(world))
    assert len(limits) == 2
    assert all(0 < limit <= STATEMENT_TIMEOUT_S * 1000 / 2 for limit in limits)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_log_ins_that_wait_for_another_copy_take_one_connection(world: World, database_url: str) -> None:
    """Else a crowd that logs in, while a copy stands still, would leave none for anything else."""
    world.rights[BOB.name] = BOB
    world.settings = SessionSettings(hours=12, idle_minutes=60, per_caller=100)
    here, other = world.copy(), await JobStore.open(database_url)
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM "
    )
    waiting += "pg_database WHERE datname = current_database())"
    try:
        async with other.database.writing() as connection:
            await connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": console_sessions_store._TURN_LOCK}
            )
            log_ins = [asyncio.create_task(here.begin(BOB, log_in=log_in(world, f"s{n}"))) for n in range(4)]
            found = 0
            async with asyncio.timeout(10):
                while not found:
                    found = (await connection.execute(sa.text(waiting))).scalar_one()
            for _ in range(50):  # each look gives the others their turn
                found = max(found, (await connection.execute(sa.text(waiting))).scalar_one())
            assert found == 1
        assert len({begun.secret for begun in await asyncio.gather(*log_ins)}) == 4
    finally:
        await other.close()
