"""API keys: their form, and how they are found, rotated and revoked, in a file and in the database."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import re
import stat
import string
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_engine.access.keys.entries import ApiKey, KeyBook, KeySecret
from ingestion_engine.access.keys.file import KeyFile, KeyRing
from ingestion_engine.access.keys.form import (
    CHECKSUM_LENGTH,
    KEY_PATTERN,
    PREFIX,
    Malformed,
    hash_key,
    make_checksum,
    make_key,
    make_key_id,
    read_key_id,
    redact_keys,
)
from ingestion_engine.access.keys.management import KeyStorage, create_key, revoke_key, rotate_key
from ingestion_engine.access.keys.table import KNOWN_S, MISSED_S, OUTAGE_S, KeyDatabase, KeyTable
from ingestion_engine.access.scopes import EVERY_SCOPE, Scope
from ingestion_engine.domain.errors import DatabaseUnavailable, SubmissionError
from ingestion_engine.runtime.telemetry import JsonFormatter, TextFormatter
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.key_store import KeyConflict, KeyStore
from support.control import World, bearer, write_keys

NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)
BASE62 = string.digits + string.ascii_letters

key_ids = st.text(string.ascii_lowercase + string.digits, min_size=10, max_size=10)
bodies = st.builds(
    lambda key_id, secret: f"{PREFIX}{key_id}_{secret}", key_ids, st.text(BASE62, min_size=32, max_size=32)
)
keys = bodies.map(lambda body: body + make_checksum(body))


@given(keys)
def test_a_key_has_its_id(key: str) -> None:
    """Whatever its secret; and its checksum has a constant length."""
    assert read_key_id(key) == key[len(PREFIX) :][:10]
    assert KEY_PATTERN.fullmatch(key) is not None


@given(keys, st.data())
def test_every_single_mistake_is_noticed_without_a_look_up(key: str, data: st.DataObject) -> None:
    """A CRC finds each change of one character, two swapped neighbours, and a missing end."""
    position = data.draw(st.integers(len(PREFIX) + 11, len(key) - 1))
    other = data.draw(st.sampled_from(BASE62.replace(key[position], "")))
    assert read_key_id(key[:position] + other + key[position + 1 :]) is Malformed.DAMAGED
    assert read_key_id(key[:position]) is Malformed.DAMAGED
    swapped = key[: position - 1] + key[position] + key[position - 1] + key[position + 1 :]
    if swapped != key and "_" not in key[position - 1 : position + 1]:
        assert read_key_id(swapped) is Malformed.DAMAGED


@given(st.text())
def test_other_texts_are_no_keys(text: str) -> None:
    """And nothing fails on them."""
    assert read_key_id(text) is Malformed.OTHER
    assert re.fullmatch("[0-9a-f]{64}", hash_key(text))


def test_new_keys_differ_and_are_found_in_logs() -> None:
    """The id stays when the rest is left out."""
    key_id = make_key_id()
    first, second = make_key(key_id), make_key(key_id)
    assert first != second
    assert len(first) == len(PREFIX) + 10 + 1 + 32 + CHECKSUM_LENGTH
    assert redact_keys(f"{first} and {second}!") == f"{PREFIX}{key_id}_... and {PREFIX}{key_id}_...!"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_no_log_line_has_a_whole_key(formatter: logging.Formatter) -> None:
    """Wherever somebody puts it: a path, a field, a message, a traceback."""
    key = make_key(make_key_id())
    try:
        raise ValueError(key)
    except ValueError:
        failed = sys.exc_info()
    fields = {"path": f"/jobs/{key}", "name": key}
    record = logging.LogRecord("x", logging.INFO, "f", 1, f"got {key}", (), failed)
    vars(record).update(fields)
    line = formatter.format(record)
    assert key not in line
    assert line.count(str(read_key_id(key))) == 4


def test_nothing_shows_a_secret() -> None:
    """Neither the key nor its hash is in the text of an object, nor in an error of validation."""
    key = make_key(make_key_id())
    entry = ApiKey(name="a", secrets=(KeySecret(sha256=hash_key(key)),))
    for shown in (repr(entry), str(entry), repr(entry.as_principal(entry.secrets[0]))):
        assert hash_key(key) not in shown


class Clock:
    def __init__(self) -> None:
        self.now = NOW
        self.seconds = 0.0

    def skip(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)
        self.seconds += seconds


class Home:
    """Keys in one kind of storage, with the source that reads them."""

    def __init__(self, storage: KeyStorage, source: KeyRing | KeyTable, clock: Clock) -> None:
        self.storage = storage
        self.source = source
        self.clock = clock

    async def create(self, name: str = "team", **options: Any) -> str:
        made = await create_key(self.storage, name, **{"scopes": EVERY_SCOPE, **options}, now=lambda: self.clock.now)
        assert made.key not in repr(made)
        return made.key

    async def rotate(self, which: str = "team", hours: float = 24) -> str:
        overlap = dt.timedelta(hours=hours)
        made = await rotate_key(self.storage, which, overlap=overlap, now=lambda: self.clock.now)
        self.clock.skip(KNOWN_S + 1)
        return made.key

    async def refused(self, key: str) -> str:
        refusal = None
        try:
            assert await self.source.find(key) is None
        except SubmissionError as error:
            refusal = error
        if refusal is None:
            return "unknown"
        assert (refusal.code, refusal.status) == ("unauthenticated", 401)
        assert key not in str(refusal) + repr(refusal.context)
        return refusal.message


@pytest.fixture(params=["file", "database"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    clock = Clock()
    if request.param == "file":
        path = tmp_path / "keys.json"
        path.write_text("[]")
        yield Home(KeyFile(path), KeyRing(path, now=lambda: clock.now), clock)
        return
    store = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    table = KeyTable(now=lambda: clock.now, clock=lambda: clock.seconds)
    table.use(KeyStore(store.database))
    yield Home(KeyDatabase(KeyStore(store.database)), table, clock)
    await store.close()


async def test_a_new_key_counts_at_once_and_says_what_it_may(home: Home) -> None:
    """With its scopes, globs and expiry."""
    await home.source.find(make_key(make_key_id()))
    home.clock.skip(MISSED_S + 0.1)
    ends = NOW + dt.timedelta(days=1)
    key = await home.create(scopes=frozenset({Scope.READ}), buckets=("docs",), collections=("d*",), expires_at=ends)
    found = await home.source.find(key)
    assert found is not None
    assert (found.name, found.kind, found.key_id) == ("team", "key", read_key_id(key))
    assert (found.scopes, found.buckets, found.collections) == ({Scope.READ}, ("docs",), ("d*",))
    assert found.expires_at == ends
    home.clock.skip(86_400)
    assert await home.refused(key) == "API key 'team' expired at 2026-11-29T12:00:00Z."


async def test_two_secrets_count_while_a_key_is_rotated(home: Home) -> None:
    """The id stays; a third rotation ends the first; after the overlap only the newest counts."""
    first = await home.create()
    second = await home.rotate()
    third = await home.rotate()
    assert read_key_id(first) == read_key_id(second) == read_key_id(third)
    assert await home.refused(first) == "unknown"
    for key in (second, third):
        found = await home.source.find(key)
        assert found is not None
        assert await home.source.is_still_valid(found)
    home.clock.skip(24 * 3600)
    assert "expired" in await home.refused(second)
    assert await home.source.find(third) is not None
    fourth = await home.rotate(hours=0)
    assert await home.refused(third) == "unknown", "without an overlap the former secret ends at once"
    assert await home.source.find(fourth) is not None


async def test_an_overlap_never_outlasts_an_earlier_end(home: Home) -> None:
    """A leaked secret whose end was set is not kept alive by the next rotation."""
    await home.create()
    second = await home.rotate(hours=0)
    await home.rotate(hours=1)
    home.clock.skip(1800)
    await home.rotate(hours=100)
    assert await home.refused(second) == "unknown"


async def test_a_revoked_key_ends_within_seconds(home: Home) -> None:
    """Also for a stream that it has begun; its name is not used again."""
    key = await home.create()
    caller = await home.source.find(key)
    assert caller is not None
    entry = await revoke_key(home.storage, str(read_key_id(key)), now=lambda: home.clock.now)
    assert (await revoke_key(home.storage, "team", now=lambda: home.clock.now)).revoked_at == entry.revoked_at == NOW
    home.clock.skip(KNOWN_S + 0.1)
    assert not await home.source.is_still_valid(caller)
    assert await home.source.recall(caller.credential) is None
    assert await home.refused(key) == "API key 'team' was revoked."
    with pytest.raises(SubmissionError, match="There is a key 'team' already"):
        await home.create()
    with pytest.raises(SubmissionError, match="was revoked"):
        await home.rotate()


async def test_a_wrong_secret_of_a_known_key_learns_nothing(home: Home) -> None:
    """Neither that the key exists nor that it has expired or was revoked."""
    key = await home.create(expires_at=NOW)
    other = make_key(str(read_key_id(key)))
    assert await home.refused(other) == "unknown"
    assert await home.refused(make_key(make_key_id())) == "unknown"
    await revoke_key(home.storage, "team")
    home.clock.skip(KNOWN_S + 1)
    assert await home.refused(other) == "unknown"
    assert "damaged" in await home.refused(key[:-1])


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("oidc:anna", {}, "does not begin with"),
        ("", {}, "name"),
        ("a", {"scopes": {Scope.ADMIN}, "buckets": ("docs",)}, "admin"),
        ("a", {"buckets": ("",)}, "buckets"),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(
    home: Home, name: str, options: dict[str, Any], reason: str
) -> None:
    """The reason names the field."""
    with pytest.raises(SubmissionError, match=reason) as refused:
        await home.create(name, **options)
    assert refused.value.code == "key_invalid"
    assert list(await home.storage.list_keys()) == []


async def test_a_key_that_is_not_there_is_named(home: Home) -> None:
    """With the place that was searched."""
    with pytest.raises(SubmissionError, match="There is no key 'x' in") as refused:
        await rotate_key(home.storage, "x")
    assert refused.value.code == "key_not_found"


async def test_many_editors_lose_nothing(home: Home) -> None:
    """Keys that are made at the same time are all there afterwards."""
    await asyncio.gather(*(home.create(f"k{number}") for number in range(4)))
    assert sorted(entry.name for entry in await home.storage.list_keys()) == ["k0", "k1", "k2", "k3"]


def names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# -- the file ---------------------------------------------------------------------------------------------------------


async def test_a_key_of_a_former_file_is_rotated_into_the_new_form(tmp_path: Path) -> None:
    """Other entries stay as they are, and the former text counts until the overlap ends."""
    path = write_keys(tmp_path, {"name": "admin"}, {"name": "team", "buckets": ["docs"]})
    made = await rotate_key(KeyFile(path), "team", now=lambda: NOW)
    ring = KeyRing(path, now=lambda: NOW)
    for key in ("team", made.key):
        found = await ring.find(key)
        assert found is not None
        assert (found.name, found.buckets, found.scopes) == ("team", ("docs",), EVERY_SCOPE - {Scope.ADMIN})
    assert await ring.find("admin") is not None
    later = KeyRing(path, now=lambda: NOW + dt.timedelta(days=2))
    with pytest.raises(SubmissionError, match="expired"):
        await later.find("team")


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o644, 0o640), (0o660, 0o660), (0o400, 0o600)])
async def test_the_file_is_written_for_its_owner(tmp_path: Path, before: int | None, after: int) -> None:
    """Nobody else may read it, but a group that could; a link to it stays a link."""
    path = tmp_path / "real.json"
    if before is not None:
        path.write_text("[]")
        path.chmod(before)
    link = tmp_path / "keys.json"
    link.symlink_to(path)
    old = os.umask(0)
    try:
        await create_key(KeyFile(link), "team", scopes=EVERY_SCOPE)
    finally:
        os.umask(old)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == after
    assert names_in(tmp_path) == {"keys.json", "real.json"}


async def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file is never seen."""
    path = write_keys(tmp_path, {"name": "admin"})
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        await create_key(KeyFile(path), "team", scopes=EVERY_SCOPE)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == {path.name}


def test_a_file_with_two_keys_of_one_kind_is_refused() -> None:
    """The same name, id or secret."""
    one = {"name": "a", "id": "a" * 10, "secrets": [{"sha256": "0" * 64}]}
    two = {"name": "b", "id": "b" * 10, "secrets": [{"sha256": "1" * 64}]}
    KeyBook([ApiKey.model_validate(one), ApiKey.model_validate(two)])
    for field in ("name", "id", "secrets"):
        with pytest.raises(ValueError, match="Two keys have the same"):
            KeyBook([ApiKey.model_validate(one), ApiKey.model_validate({**two, field: one[field]})])


# -- the database -----------------------------------------------------------------------------------------------------


class CountingStore(KeyStore):
    """Counts queries, and is unavailable when told."""

    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self.queries = 0
        self.away = False

    async def list_rows(self) -> Any:
        self.queries += 1
        if self.away:
            raise DatabaseUnavailable("database_unavailable", "It is away.")
        return await super().list_rows()


async def make_table(tmp_path: Path) -> tuple[JobStore, CountingStore, KeyTable, Clock]:
    jobs = await JobStore.open(f"sqlite:///{tmp_path}/jobs.db")
    store, clock = CountingStore(jobs.database), Clock()
    table = KeyTable(now=lambda: clock.now, clock=lambda: clock.seconds)
    table.use(store)
    return jobs, store, table, clock


async def test_a_flood_of_wrong_keys_costs_a_query_per_second(tmp_path: Path) -> None:
    """Known keys cost one per three seconds; what does not look like a key costs none."""
    jobs, store, table, clock = await make_table(tmp_path)
    for _ in range(50):
        assert await table.find("ey.not.a-key") is None
        with pytest.raises(SubmissionError, match="damaged"):
            await table.find("ingest_abcdefghij_short")
    assert store.queries == 0
    await asyncio.gather(*(table.find(make_key(make_key_id())) for _ in range(50)))
    assert store.queries == 1
    clock.skip(MISSED_S + 0.1)
    await asyncio.gather(*(table.find(make_key(make_key_id())) for _ in range(50)))
    assert store.queries == 2
    await jobs.close()


async def test_known_keys_outlast_a_short_outage(tmp_path: Path) -> None:
    """Then requests fail; streams go on."""
    jobs, store, table, clock = await make_table(tmp_path)
    made = await create_key(KeyDatabase(store), "team", scopes=EVERY_SCOPE, now=lambda: NOW)
    caller = await table.find(made.key)
    assert caller is not None
    store.away = True
    clock.skip(OUTAGE_S - 1)
    assert await table.find(made.key) == caller
    clock.skip(2)
    with pytest.raises(DatabaseUnavailable):
        await table.find(made.key)
    assert await table.is_still_valid(caller)
    await jobs.close()


async def test_a_row_of_another_version_is_no_key_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged without its content."""
    jobs, store, table, _ = await make_table(tmp_path)
    made = await create_key(KeyDatabase(store), "team", scopes=EVERY_SCOPE, now=lambda: NOW)
    (row,) = await store.list_rows()
    digest = hash_key("x")
    foreign = {**row.entry, "secrets": [{"sha256": digest, "pepper": 1}]}
    await store.save([type(row)(id="zzzzzzzzzz", name="later", entry=foreign, revision=None)])
    with caplog.at_level(logging.ERROR):
        assert await table.find(made.key) is not None
    assert "API key not readable" in caplog.messages
    assert digest not in caplog.text
    with pytest.raises(KeyConflict):
        await store.save([type(row)(id=row.id, name=row.name, entry=row.entry, revision=7)])
    await jobs.close()


async def test_the_audit_log_names_a_revoked_key_that_is_still_used(world: World, tmp_path: Path) -> None:
    """Not one that only claims to be it."""
    path = tmp_path / "keys.json"
    old = await create_key(KeyFile(path), "old", scopes=EVERY_SCOPE)
    admin = await create_key(KeyFile(path), "admin", scopes=EVERY_SCOPE)
    await revoke_key(KeyFile(path), "old")
    async with world.serve(api={"keys_file": path}) as plane:
        for key in (old.key, make_key(str(old.entry.id))):
            assert (await plane.client.get("/jobs", headers=bearer(key))).status_code == 401
        await plane.services.audit.flush()
        entries = (await plane.client.get("/audit", headers=bearer(admin.key))).json()["items"]
    refused = [(one["who"], one["key_id"]) for one in entries if one["operation"] == "list_jobs"]
    assert sorted(refused, key=str) == sorted([("old", old.entry.id), ("", None)], key=str)


# -- the service ------------------------------------------------------------------------------------------------------


async def test_the_service_accepts_keys_of_the_database_in_every_copy(world: World) -> None:
    """And refuses them when they are revoked by whichever; without any key nobody gets in."""
    async with world.serve(api={"database_keys": True}) as one, world.serve(api={"database_keys": True}) as two:
        assert (await one.client.get("/jobs")).status_code == 401
        storage = KeyDatabase(KeyStore(one.services.store.database))
        made = await create_key(storage, "team", scopes=frozenset({Scope.READ}))
        (table,) = [source for source in two.app.state.identities.sources if isinstance(source, KeyTable)]
        table.use(KeyStore(two.services.store.database))  # as if it had read the keys long ago
        assert (await two.client.get("/jobs", headers=bearer(made.key))).status_code == 200
        answer = await one.client.get("/jobs", headers=bearer(made.key[:-1]))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert made.key[:-1] not in answer.text


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
