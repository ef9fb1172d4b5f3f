"""What requests leave in the audit log: every change before and after it, every refusal, and no secret."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingestion_engine.access.keys.management import create_key, revoke_key, rotate_key
from ingestion_engine.access.keys.table import KeyDatabase
from ingestion_engine.access.scopes import Scope
from ingestion_engine.domain.audit import Outcome
from ingestion_engine.domain.errors import DatabaseUnavailable, SubmissionError
from ingestion_engine.server.app import create_app
from ingestion_engine.server.audit import READING
from ingestion_engine.services.audit.entries import AuditEntry
from ingestion_engine.services.audit.log import AuditFilter, AuditLog
from ingestion_engine.services.audit.refusals import SOURCES_MAX
from ingestion_engine.services.key_store import KeyStore
from ingestion_engine.state.aliases import Alias, write_alias
from support.control import BODY, Plane, World, bearer, make_collection, write_keys
from support.log_ins import csrf_token, log_in_with_key

SECRET = "sk-marked-9f8e7d6c5b4a39281706"
"""Looks like no key of ours, so nothing but its place tells that it is one."""
KEY = "ingest_ab12cd34ef_" + "Zq7" * 13
"""Looks like a key of ours, of a request or of somebody else."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def entries(plane: Plane, **where: Any) -> list[AuditEntry]:
    """Return the entries, oldest first."""
    await plane.services.audit.flush()
    found, _ = await plane.services.audit.list_page(AuditFilter(**where), limit=1000, cursor=None)
    return found[::-1]


async def test_a_change_is_recorded_with_who_where_what_and_its_outcome(world: World, tmp_path: Path) -> None:
    """One entry per change is listed; it names what the request was about and nothing else of it."""
    keys = write_keys(tmp_path, {"name": "boss"})
    async with world.serve(api={"keys_file": keys}, headers=bearer("boss")) as plane:
        body = {**BODY, "source": {"bucket": "docs", "prefix": "2026/"}}
        answer = await plane.client.post("/ray/jobs", json=body, headers={"X-Request-Id": "request-1"})
        job_id = answer.json()["job_id"]
        (entry,) = await entries(plane)
    assert entry.begun is not None
    assert (entry.outcome, entry.operation, entry.method) == (Outcome.DONE, "submit_ray_job", "POST")
    assert (entry.who, entry.kind, entry.address) == ("boss", "key", "127.0.0.1")
    assert (entry.status, entry.code, entry.request_id) == (202, None, "request-1")
    assert (entry.subject, entry.job_id) == ("notes", job_id)
    assert entry.details == {"engine": "ray", "mode": "sync", "bucket": "docs", "prefix": "2026/"}


async def test_every_change_of_the_api_is_recorded_before_it_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the intent cannot be stored, each is refused with 503 and nothing has changed."""
    make_collection(world, "notes")
    make_collection(world, "old")
    make_collection(world, "free")
    moment = "2026-01-01T00:00:00Z"
    alias = Alias("live", "notes", ("old",), settled=True, job_id="job-1", job_created_at=moment, moved_at=moment)
    write_alias(world.state, alias)
    async with world.serve() as plane:
        ended = await plane.submit(collection="ended")
        await plane.look()
        plane.engine.finish(ended)
        await plane.look(3)
        running = await plane.submit(collection="running")
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", "/ray/jobs", {"json": {**BODY, "collection": "fresh"}}),
            ("POST", f"/jobs/{running}/cancel", {}),
            ("POST", "/aliases/live/rollback", {}),
            ("DELETE", "/aliases/live/versions?keep=0", {}),
            ("DELETE", "/aliases/live", {}),
            ("DELETE", "/collections/free", {}),
            ("PUT", "/drain", {}),
            ("DELETE", "/drain", {}),
        ]
        begin = AuditLog.begin

        async def fail(*_: Any, **__: Any) -> AuditEntry:
            raise DatabaseUnavailable("database_unavailable", "The database of jobs is unavailable.")

        before = (dict(world.state.values), (await plane.job(running))["state"])
        with monkeypatch.context() as patch:
            patch.setattr(AuditLog, "begin", fail)
            for method, path, rest in calls:
                answer = await plane.client.request(method, path, **rest)
                assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable"), path
        assert (dict(world.state.values), (await plane.job(running))["state"]) == before
        assert not [entry for entry in await entries(plane) if entry.operation != "submit_ray_job"]

        intents: list[AuditEntry] = []

        async def note(self: AuditLog, entry: AuditEntry, own: tuple[str, ...] = ()) -> AuditEntry:
            intents.append(entry)
            return await begin(self, entry, own)

        monkeypatch.setattr(AuditLog, "begin", note)
        for method, path, rest in calls:
            answer = await plane.client.request(method, path, **rest)
            assert answer.status_code < 300, (path, answer.text)
    assert [entry.operation for entry in intents] == [
        "submit_ray_job",
        "cancel_job",
        "roll_back_alias",
        "prune_alias",
        "remove_alias",
        "delete_collection",
        "start_drain",
        "end_drain",
    ]


def test_only_named_operations_of_unsafe_methods_are_no_changes(world: World) -> None:
    """A new route is a change unless it is named as one that only reads."""
    paths = create_app(world.settings(), world.parts()).openapi()["paths"]
    named = {one["operationId"]: verb for verbs in paths.values() for verb, one in verbs.items()}
    of_the_api = {operation for operation in READING if not operation.startswith("console.")}
    assert {named[operation] for operation in of_the_api} == {"post"}
    of_pages = {"console.search", "console.log_in", "console.log_out"}
    assert READING - of_the_api == of_pages, "forms of pages are not in OpenAPI"


async def test_an_outcome_survives_a_database_that_fails_after_the_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller has the answer at once; the outcome is stored when the database responds again."""
    async with world.serve() as plane:
        log = plane.services.audit
        insert = AuditLog._insert
        fails = [False]

        async def flaky(self: AuditLog, batch: list[AuditEntry]) -> None:
            if fails[0]:
                raise DatabaseUnavailable("database_unavailable", "The database of jobs is unavailable.")
            await insert(self, batch)
            fails[0] = True

        monkeypatch.setattr(AuditLog, "_insert", flaky)
        answer = await plane.client.put("/drain", json={"refuse": False})
        assert answer.status_code == 200
        assert log.waiting == 1
        found, _ = await log.list_page(AuditFilter(), limit=10, cursor=None)
        assert [entry.outcome for entry in found] == [Outcome.BEGUN]
        monkeypatch.setattr(AuditLog, "_insert", insert)
        await log.flush()
        found, _ = await log.list_page(AuditFilter(), limit=10, cursor=None)
        assert [entry.outcome for entry in found] == [Outcome.DONE]


async def test_a_change_that_fails_is_recorded_with_its_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that ends with an unexpected error."""
    async with world.serve() as plane:

        async def explode(*_: Any, **__: Any) -> None:
            raise RuntimeError("boom")

        monkeypatch.setattr(type(plane.services.store), "insert", explode)
        answer = await plane.client.post("/ray/jobs", json=BODY)
        assert answer.status_code == 500
        (entry,) = await entries(plane)
        assert (entry.outcome, entry.status, entry.code) == (Outcome.FAILED, 500, "internal_error")


async def test_reading_and_invalid_requests_leave_no_entry(world: World) -> None:
    """Neither changes anything, and nobody was refused."""
    async with world.serve() as plane:
        for path in ("/jobs", "/collections", "/livez", "/readyz", "/metrics", "/nothing", "/openapi.json"):
            await plane.client.get(path)
        await plane.client.post("/ray/jobs", content=b"{", headers={"content-type": "application/json"})
        await plane.client.post("/search", json={"query": "cats"})
        assert await entries(plane) == []


async def test_refusals_name_the_caller_as_far_as_it_is_known(world: World, tmp_path: Path) -> None:
    """Without a key, with a wrong one, and with one that may not do it."""
    keys = write_keys(
        tmp_path,
        {"name": "reader", "scopes": ["read"]},
        {"name": "team", "collections": ["team*"], "scopes": ["read", "delete"]},
    )
    async with world.serve(api={"keys_file": keys}) as plane:
        await plane.client.get("/jobs")
        await plane.client.get("/collections", headers={"Authorization": f"Bearer {SECRET}"})
        await plane.client.put("/drain", headers=bearer("reader"))
        await plane.client.delete("/collections/secret_plans", headers=bearer("team"))
        found = await entries(plane)
    assert [(one.operation, one.who, one.status, one.code, one.subject) for one in found] == [
        ("list_jobs", "", 401, "unauthenticated", None),
        ("list_collections", "", 401, "unauthenticated", None),
        ("start_drain", "reader", 403, "scope_missing", None),
        ("delete_collection", "team", 403, "not_allowed", "secret_plans"),
    ]
    assert {one.outcome for one in found} == {Outcome.REFUSED}


async def test_a_flood_of_refusals_leaves_few_entries(world: World, tmp_path: Path) -> None:
    """One for the first, one for the rest; every address has its own, up to a bound that no flood passes."""
    keys = write_keys(tmp_path, {"name": "boss"})
    async with world.serve(api={"keys_file": keys}, limits={"address_requests_per_second": 1e6}) as plane:
        for _ in range(300):
            await plane.client.get("/jobs")
        assert [one.number for one in await entries(plane)] == [1]
        for number in range(400):
            transport = httpx.ASGITransport(plane.app, client=(f"10.0.{number // 250}.{number % 250}", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                await client.get("/jobs")
        await plane.services.audit.flush(whole=True)
        found = await entries(plane)
        assert len(found) == SOURCES_MAX + 2
        assert sum(one.number for one in found) == 700
        (rest,) = [one for one in found if one.who == "*"]
        assert (rest.number, rest.operation, rest.address) == (401 - SOURCES_MAX, "*", None)


def make_secret_requests() -> list[tuple[str, str, dict[str, Any]]]:
    """Requests with a secret in every place, of callers that are let in and of others."""
    secrets = [SECRET, KEY]
    found: list[tuple[str, str, dict[str, Any]]] = []
    for secret in secrets:
        for headers in ({"Authorization": f"Bearer {secret}"}, {"Authorization": f"Basic {secret}"}):
            found += [
                ("POST", "/ray/jobs", {"json": BODY, "headers": headers}),
                ("PUT", "/drain", {"json": {"reason": secret}, "headers": {**headers, "X-Request-Id": secret}}),
                ("DELETE", f"/collections/{secret}", {"headers": headers}),
                ("DELETE", f"/collections/notes/objects?prefix={secret}/", {"headers": headers}),
                ("GET", f"/{secret}?key={secret}", {"headers": headers}),
                ("POST", f"/aliases/{secret}/rollback", {"headers": headers}),
                ("POST", f"/jobs/{secret}/cancel", {"headers": headers}),
                (
                    "POST",
                    "/ray/jobs",
                    {
                        "json": {**BODY, "source": {"bucket": "docs", "prefix": secret}, "metadata": {"token": secret}},
                        "headers": {**headers, "Idempotency-Key": secret, "User-Agent": secret, "Referer": secret},
                    },
                ),
            ]
        cookie = {"Cookie": f"ingest_session={secret}; __Host-ingest={secret}"}
        found += [("PUT", "/drain", {"headers": cookie}), ("GET", f"/{secret}", {"headers": cookie})]
        found += [(secret[:20], "/jobs", {}), ("GET", "/jobs", {"headers": {"X-Forwarded-For": secret}})]
    return found


@pytest.mark.parametrize("locked", [True, False])
async def test_no_secret_of_a_request_is_in_the_log(world: World, tmp_path: Path, locked: bool) -> None:
    """Whatever place of the request it is in, in the table and in the lines."""
    lines = tmp_path / "audit.jsonl"
    keys = write_keys(tmp_path, {"name": SECRET}, {"name": KEY})
    overrides: dict[str, Any] = {"api": {"keys_file": keys}} if locked else {}
    make_collection(world, "notes", bucket="docs")
    async with world.serve(audit={"file": lines}, s3={"secret_access_key": SECRET}, **overrides) as plane:
        for method, path, rest in make_secret_requests():
            await plane.client.request(method, path, **rest)
        await plane.services.audit.flush(whole=True)
        found = await entries(plane)
    assert len(found) > 5
    for text in (repr([{**one.values(), "who": ""} for one in found]), without_names(lines)):
        assert SECRET not in text
        assert KEY not in text
        assert "Zq7Zq7" not in text


def without_names(path: Path) -> str:
    """The lines without who did it: in these tests, names of keys are the keys."""
    return "\n".join(json.dumps({**json.loads(line), "who": ""}) for line in path.read_text().splitlines())


async def test_what_a_caller_does_cannot_be_hidden_by_naming_it_as_a_secret(world: World, tmp_path: Path) -> None:
    """A cookie or a key that proves nothing masks nothing."""
    keys = write_keys(tmp_path, {"name": "boss"})
    make_collection(world, "handbook")
    for overrides in ({}, {"api": {"keys_file": keys}}):
        async with world.serve(headers=bearer("boss"), **overrides) as plane:
            await plane.client.delete("/collections/handbook", headers={"Cookie": "ingest_session=handbook"})
            assert (await entries(plane))[-1].subject == "handbook"
        make_collection(world, "handbook")


async def test_a_flood_hides_no_refusal_of_somebody_who_is_known(world: World, tmp_path: Path) -> None:
    """A stranger can be refused in more ways than have entries of their own; a key that is misused has its own."""
    keys = write_keys(tmp_path, {"name": "boss"}, {"name": "reader", "scopes": ["read"]})
    async with world.serve(api={"keys_file": keys, "trusted_proxies": ["127.0.0.1"]}) as plane:
        for number in range(SOURCES_MAX + 10):
            await plane.client.get("/jobs", headers={"X-Forwarded-For": f"192.0.2.{number}"})
        assert (await plane.client.put("/drain", headers=bearer("reader"))).status_code == 403
        found = await entries(plane, who="reader")
    assert [(one.operation, one.code, one.address) for one in found] == [("start_drain", "scope_missing", "127.0.0.1")]


async def test_a_caller_cannot_mask_what_the_service_knows_of_it(world: World, tmp_path: Path) -> None:
    """Neither its address nor the operation, by a key that is refused; nor its subject, by a cookie beside its own."""
    keys = write_keys(tmp_path, {"name": "boss"})
    make_collection(world, "handbook")
    async with world.serve(api={"keys_file": keys}) as plane:
        for value in ("127.0.0.1", "delete_collection", "unauthenticated"):
            answer = await plane.client.delete("/collections/handbook", headers=bearer(value))
            assert answer.status_code == 401
        await log_in_with_key(plane.client, "boss")
        page = await plane.client.get("/console/collections/handbook/delete")
        own = "; ".join(f"{name}={value}" for name, value in plane.client.cookies.items())
        plane.client.cookies.clear()
        headers = {"Cookie": f"{own}; theme=handbook; __Host-ingest=console.delete_collection; x=127.0.0.1"}
        form = {"csrf_token": csrf_token(page), "typed": "handbook"}
        answer = await plane.client.post("/console/collections/handbook/delete", data=form, headers=headers)
        assert answer.status_code == 303, answer.text
        await plane.services.audit.flush(whole=True)
        found = await entries(plane)
    assert "***" not in repr(found)
    assert {(one.address, one.operation) for one in found if one.outcome is Outcome.REFUSED} == {
        ("127.0.0.1", "delete_collection")
    }
    assert [one.subject for one in found if one.operation == "console.delete_collection"] == ["handbook"]


async def test_a_log_out_without_a_session_is_no_change(world: World, tmp_path: Path) -> None:
    """Anybody can send it, and the log-in of a service that needs none: no entry, and no transaction."""
    keys = write_keys(tmp_path, {"name": "boss"})
    for overrides in ({}, {"api": {"keys_file": keys}}):
        async with world.serve(**overrides) as plane:
            for path in ("/console/logout", *(() if overrides else ("/console/login",))):
                assert (await plane.client.post(path)).status_code == 303
            assert await entries(plane) == []


async def test_the_lines_have_every_entry_of_the_table(world: World, tmp_path: Path) -> None:
    """In a file that only its owner can read; one that was renamed is followed by a new one."""
    path = tmp_path / "logs" / "audit.jsonl"
    async with world.serve(audit={"file": path}) as plane:
        await plane.client.put("/drain")
        path.rename(path.with_suffix(".1"))
        await plane.client.delete("/drain")
        listed = await entries(plane)
    lines = [json.loads(line) for one in (path.with_suffix(".1"), path) for line in one.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["begun", "done", "begun", "done"]
    assert [line["id"] for line in lines if line["outcome"] == "done"] == [one.id for one in listed]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_file_that_cannot_be_written_stops_nothing(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The table has the entries; the log says so once."""
    (tmp_path / "file").write_text("no directory")
    async with world.serve(audit={"file": tmp_path / "file" / "audit.jsonl"}) as plane:
        for _ in range(3):
            assert (await plane.client.put("/drain")).status_code == 200
        assert len(await entries(plane)) == 3
        assert plane.services.audit.lines_lost == 6
    assert [record.getMessage() for record in caplog.records].count("audit file not written") == 1


async def test_without_a_file_the_entries_are_lines_of_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Also when the log has warnings only."""
    logger = logging.getLogger("ingestion_engine")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        async with world.serve() as plane:
            await plane.client.put("/drain")
    finally:
        logger.setLevel(before)
    found = [record for record in caplog.records if record.name == "ingestion_engine.audit"]
    assert [vars(record)["outcome"] for record in found] == ["begun", "done"]


async def test_log_in_and_log_out_are_recorded(world: World, tmp_path: Path) -> None:
    """Who, for both; a wrong key is a refusal, and neither key nor cookie is in an entry."""
    keys = write_keys(tmp_path, {"name": "docs-team"}, {"name": "boss"})
    async with world.serve(api={"keys_file": keys}) as plane:
        page = await plane.client.get("/console/login")
        form = {"csrf_token": csrf_token(page), "key": SECRET}
        assert (await plane.client.post("/console/login", data=form)).status_code == 401
        await log_in_with_key(plane.client, "docs-team")
        cookies = list(plane.client.cookies.values())
        home = await plane.client.get("/")
        answer = await plane.client.post("/console/logout", data={"csrf_token": csrf_token(home)})
        assert answer.status_code == 303
        found = await entries(plane)
    listed = [(one.operation, one.outcome, one.who, one.kind) for one in found]
    assert sorted(listed) == [
        ("console.log_in", Outcome.DONE, "docs-team", "key"),
        ("console.log_in", Outcome.REFUSED, "", "unknown"),
        ("console.log_out", Outcome.DONE, "docs-team", "key"),
    ]
    assert cookies
    for secret in (SECRET, *cookies):
        assert secret not in repr(found)


async def test_changes_of_keys_are_recorded_with_them(world: World) -> None:
    """In their transaction: a change that is not made leaves no entry. Hashes and secrets are not in it."""
    async with world.serve() as plane:
        storage = KeyDatabase(KeyStore(plane.services.store.database))
        made = await create_key(storage, "docs-team", scopes=frozenset({Scope.READ}), collections=("docs-*",))
        rotated = await rotate_key(storage, "docs-team", overlap=dt.timedelta(hours=1))
        await revoke_key(storage, "docs-team")
        with pytest.raises(SubmissionError):
            await create_key(storage, "docs-team", scopes=frozenset({Scope.READ}))
        found = await entries(plane)
    assert [(one.operation, one.subject, one.kind) for one in found] == [
        (f"keys.{change}", "docs-team", "command") for change in ("create", "rotate", "revoke")
    ]
    assert found[0].details == {"scopes": "read", "collections": "docs-*"}
    for new in (made, rotated):
        assert new.key not in repr(found)
        assert hashlib.sha256(new.key.encode()).hexdigest() not in repr(found)


async def test_the_log_is_for_admins(world: World, tmp_path: Path) -> None:
    """Others are refused, which is an entry too; pages neither skip nor repeat."""
    keys = write_keys(tmp_path, {"name": "boss"}, {"name": "reader", "scopes": ["read"]})
    async with world.serve(api={"keys_file": keys}, headers=bearer("boss")) as plane:
        for _ in range(5):
            await plane.client.put("/drain")
        assert (await plane.client.get("/audit", headers=bearer("reader"))).status_code == 403
        await plane.services.audit.flush()
        listed, query = [], "limit=4"
        while query:
            page = (await plane.client.get(f"/audit?{query}")).json()
            listed += page["items"]
            query = page["next_cursor"] and f"limit=4&cursor={page['next_cursor']}"
        assert [one["operation"] for one in listed] == ["list_audit", *["start_drain"] * 5]
        assert len({one["id"] for one in listed}) == 6
        for where, number in {
            "who=boss": 5,
            "who=reader": 1,
            "who=": 0,
            "operation=start_drain": 5,
            "outcome=refused": 1,
            "outcome=done&after=2020-01-01T00:00:00Z": 5,
            "before=2020-01-01T00:00:00Z": 0,
            "subject=x": 0,
            "job=x": 0,
        }.items():
            assert len((await plane.client.get(f"/audit?{where}")).json()["items"]) == number, where
        for wrong in ("after=yesterday", "cursor=x", "limit=0", "outcome=maybe", "who=%00", "surprise=1"):
            assert (await plane.client.get(f"/audit?{wrong}")).status_code == 422, wrong


async def test_intents_that_arrive_together_share_a_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred submissions cost far fewer commits than entries."""
    batches: list[int] = []
    insert = AuditLog._insert

    async def count(self: AuditLog, batch: list[AuditEntry]) -> None:
        batches.append(len(batch))
        await insert(self, batch)

    monkeypatch.setattr(AuditLog, "_insert", count)
    async with world.serve() as plane:
        await asyncio.gather(*(plane.submit(collection=f"c{number}") for number in range(100)))
    assert sum(batches) == 200
    assert len(batches) < 100
