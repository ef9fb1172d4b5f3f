"""`ingest doctor` on real servers and stand-ins: all good, then each thing broken in turn."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ingestion_engine.adapters.connect import open_source, open_state_store, open_stores
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.doctor import stores as store_checks
from ingestion_engine.doctor.findings import Finding, State
from ingestion_engine.domain.errors import FatalError, StateConflict
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import S3Settings, Settings
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.state.collections import create_contract
from support.answering import running, serving
from support.authority import Fault, PrivateAuthority
from support.doctoring import diagnose, worst
from support.doubles import MemoryState, MemoryStore
from support.exact_s3 import exact_s3
from support.postgres import Postgres, new_database
from support.servers import free_port
from support.vector_stores import make_contract, make_settings


class TestObjectStorage:
    @pytest.fixture
    def settings(self, s3_settings: S3Settings, s3_bucket: str) -> Settings:
        return Settings(s3=s3_settings, state_url=f"s3://{s3_bucket}/state")

    async def test_everything_works(self, settings: Settings, s3_bucket: str) -> None:
        """Account, clock, state store and a source bucket; nothing is left behind."""
        client = make_client(settings.s3)
        client.put_object(Bucket=s3_bucket, Key="docs/a.txt", Body=b"text")
        client.put_object(Bucket=s3_bucket, Key="empty/b.txt", Body=b"")
        for place in (f"{s3_bucket}/docs/", f"s3://{s3_bucket}/empty/"):
            found = await diagnose(settings, "s3", "state", "bucket", bucket=place)
            assert [(one.name, one.state) for one in found] == [
                ("s3", State.OK),
                ("bucket", State.OK),
                ("state", State.OK),
            ]
        assert found[2].detail.endswith("conditional writes, upload in parts")
        left = open_source(settings).list_objects(s3_bucket, "")
        assert [ref.key for ref in left] == ["docs/a.txt", "empty/b.txt"]

    async def test_read_only_writes_nothing(self, settings: Settings, s3_bucket: str) -> None:
        """The version history of a bucket would show it."""
        (found,) = await diagnose(settings, "state", read_only=True)
        assert (found.state, found.detail) == (State.OK, f"{settings.state_url}: can be read; writes were not tried")

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"access_key_id": "nobody"}, "InvalidAccessKeyId"),
            ({"secret_access_key": "wrong-secret"}, "SignatureDoesNotMatch"),
        ],
    )
    async def test_wrong_credentials(self, settings: Settings, change: dict[str, str], code: str) -> None:
        """S3's own word tells which half is wrong; the state store is not blamed."""
        broken = settings.model_copy(update={"s3": S3Settings.model_validate({**dict(settings.s3), **change})})
        account, state = await diagnose(broken, "s3", "state")
        assert (account.state, state.state) == (State.FAILED, State.SKIPPED)
        assert code in account.detail
        assert account.hint.startswith("Check INGEST_S3__ACCESS_KEY_ID, INGEST_S3__SECRET_ACCESS_KEY")
        assert "wrong-secret" not in account.detail

    async def test_a_missing_bucket(self, settings: Settings) -> None:
        """The server is good; the bucket is not there."""
        broken = settings.model_copy(update={"state_url": f"s3://absent-{uuid.uuid4().hex}"})
        account, bucket, state = await diagnose(broken, "s3", "state", "bucket", bucket="absent-too")
        assert account.state is State.OK
        assert (bucket.state, bucket.code) == (State.FAILED, "bucket_not_found")
        assert (state.state, state.code) == (State.FAILED, "state_bucket_missing")
        assert state.hint == "Check the name and INGEST_S3__ENDPOINT_URL, or create the bucket."

    async def test_a_stopped_server(self) -> None:
        """Only the cause is a failure."""
        s3 = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "access_key_id": "a", "secret_access_key": "b"}
        account, state = await diagnose(Settings(s3=s3, state_url="s3://state"), "s3", "state")
        assert account.detail.endswith("refuses connections.")
        assert account.hint == "Check INGEST_S3__ENDPOINT_URL, and the network between here and there."
        assert (state.state, state.detail) == (State.SKIPPED, "because 's3' is not ok")

    @pytest.mark.parametrize("fault", list(Fault))
    async def test_a_certificate(self, tmp_path: Path, fault: Fault) -> None:
        """The hint is about the certificate."""
        authority = PrivateAuthority(tmp_path)
        with exact_s3(authority.context(fault)) as url:
            s3 = {"endpoint_url": url, "access_key_id": "any", "secret_access_key": "thing"}
            (found,) = await diagnose(Settings(s3=s3, tls={"ca_file": authority.file}), "s3")
        assert (found.state, found.code) == (State.FAILED, "tls_failed")
        assert "INGEST_TLS__CA_FILE" in found.hint

    @pytest.mark.parametrize(
        ("ahead_s", "status", "state"),
        [(3600.0, 403, State.FAILED), (-3600.0, 403, State.FAILED), (300.0, 200, State.WARNING), (5.0, 200, State.OK)],
    )
    async def test_a_clock_that_is_wrong(self, ahead_s: float, status: int, state: State) -> None:
        """S3 says only that the times differ too much; the result says by how much."""
        refusal = b"<Error><Code>RequestTimeTooSkewed</Code><Message>no</Message></Error>"
        listing = b"<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>"

        class Skewed(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = refusal if status == 403 else listing
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((time.time() if timestamp is None else timestamp) + ahead_s)

            def log_message(self, *_: object) -> None: ...

        with running(Skewed) as url:
            s3 = {"endpoint_url": url, "access_key_id": "a", "secret_access_key": "b"}
            found = worst(await diagnose(Settings(s3=s3), "s3"))
        assert found.state is state
        if state is not State.OK:
            assert found.hint == "Synchronise both clocks by NTP."
            assert abs(found.facts["ahead_s"] - ahead_s) < 30
            assert ("ahead of" if ahead_s > 0 else "behind") in found.detail

    async def test_a_server_without_conditional_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two jobs could write one collection: the hint names servers that have them."""

        class Careless(MemoryState):
            url = "s3://careless"

            def create(self, path: str, data: bytes) -> str:
                try:
                    return super().create(path, data)
                except StateConflict:
                    return "version"

        state = Careless()
        monkeypatch.setattr("ingestion_engine.doctor.object_storage.open_state_store", lambda _settings: state)
        (found,) = await diagnose(Settings(state_url="file:///state"), "state")
        assert (found.state, found.code) == (State.FAILED, "state_conditions_ignored")
        assert found.hint.startswith("Use AWS S3, MinIO")

    @pytest.mark.parametrize(
        ("operation", "permission"),
        [("create", "s3:PutObject"), ("get", "s3:GetObject"), ("delete", "s3:DeleteObject"), ("list", "s3:ListBucket")],
    )
    async def test_credentials_that_may_not_do_everything(
        self, monkeypatch: pytest.MonkeyPatch, operation: str, permission: str
    ) -> None:
        """Each operation that a job makes is tried; the hint names its permission."""
        state = MemoryState()
        real = getattr(MemoryState, operation)
        denied = FatalError("state_access_denied", "S3 responded 403 AccessDenied.", hint=f"Allow {permission} for it.")

        class Restricted(MemoryState):
            pass

        def refuse(self: MemoryState, path: str, *rest: Any) -> Any:
            if path == "health":  # what the latency is measured with
                return None
            if operation == "delete":
                real(self, path, *rest)
            raise denied

        setattr(Restricted, operation, refuse)
        state = Restricted()
        monkeypatch.setattr("ingestion_engine.doctor.object_storage.open_state_store", lambda _settings: state)
        (found,) = await diagnose(Settings(state_url="file:///state"), "state")
        assert (found.state, found.hint) == (State.FAILED, f"Allow {permission} for it.")

    async def test_a_directory_that_workers_do_not_see(self, tmp_path: Path) -> None:
        """A warning where jobs run elsewhere; none on one machine."""
        settings = Settings(state_url=tmp_path.as_uri(), ray={"address": "http://head:8265"})
        assert worst(await diagnose(settings, "state")).state is State.WARNING
        assert worst(await diagnose(Settings(state_url=tmp_path.as_uri()), "state")).state is State.OK

    async def test_no_state_store(self) -> None:
        """It is required, so that this is a failure."""
        (found,) = await diagnose(Settings(), "state")
        assert (found.state, found.hint) == (State.FAILED, "Set INGEST_STATE_URL to s3://bucket/prefix.")


class TestStores:
    @pytest.fixture
    def settings(self, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
        return make_settings(request).model_copy(update={"state_url": tmp_path.as_uri()})

    async def test_everything_works_and_nothing_is_left(self, settings: Settings) -> None:
        """Both stores are written, read, searched; the throw-away collections are dropped."""
        before = await _list(settings)
        found = await diagnose(settings, "qdrant", "weaviate", "collections", "state")
        assert {one.name: one.state for one in found if not one.target} == dict.fromkeys(
            ("state", "qdrant", "weaviate", "collections"), State.OK
        )
        assert await _list(settings) == before

    async def test_existing_collections_against_their_contracts(self, settings: Settings) -> None:
        """A collection that was dropped, and one of another dimension, are named with what helps."""
        state = open_state_store(settings)
        run = f"doctored_{uuid.uuid4().hex[:8]}"
        names = [f"{run}_{word}" for word in ("gone", "good", "other")]
        gone, good, other = (make_contract(name) for name in names)
        stores = open_stores(settings, list(StoreName))
        try:
            for contract in (good, gone, other):
                create_contract(state, contract)
                for store in stores.values():
                    await store.ensure_collection(
                        contract if contract is not other else make_contract(other.collection, dimension=8)
                    )
            await stores[StoreName.QDRANT].drop_collection(gone.collection)
            found = await diagnose(settings, "collections", "qdrant", "weaviate", "state")
        finally:
            for store in stores.values():
                for name in names:
                    await store.drop_collection(name)
                await store.close()
        results = [one for one in found if one.name == "collections"]
        assert results[0].detail == "1 of 3 collections have their schema in every store"
        assert [(one.target, one.code) for one in results[1:]] == [
            (gone.collection, "collection_missing"),
            (other.collection, "schema_mismatch"),
            (other.collection, "schema_mismatch"),
        ]
        assert "mode=full" in results[1].hint

    async def test_a_collection_in_a_store_that_is_not_configured(self, settings: Settings) -> None:
        """The copy of the service that lacks the setting refuses the collection's jobs."""
        create_contract(open_state_store(settings), make_contract("both"))
        only = settings.model_copy(update={"weaviate": settings.weaviate.model_copy(update={"url": None})})
        found = worst([one for one in await diagnose(only, "collections") if "Weaviate" in one.detail])
        assert (found.state, found.hint.split(";")[0]) == (State.WARNING, "Set INGEST_WEAVIATE__URL")

    @pytest.mark.parametrize("name", list(StoreName))
    async def test_a_wrong_key_and_a_stopped_server(self, settings: Settings, name: StoreName) -> None:
        """The hint names the setting; the other store is checked all the same."""
        group = getattr(settings, name.value)
        title = name.value.upper()
        wrong = type(group).model_validate({**dict(group), "api_key": "wrong-key"})
        found = worst(await diagnose(settings.model_copy(update={name.value: wrong}), name.value))
        assert (found.state, found.code) == (State.FAILED, "store_access_denied")
        assert found.hint == f"Check INGEST_{title}__API_KEY and its permissions."
        stopped = group.model_copy(update={"url": f"http://127.0.0.1:{free_port()}"})
        found = worst(await diagnose(settings.model_copy(update={name.value: stopped}), name.value))
        assert found.state is State.FAILED
        assert found.detail.endswith("refuses connections.")
        assert found.hint.startswith(f"Check INGEST_{title}__URL")

    async def test_weaviates_second_port(self, settings: Settings) -> None:
        """REST works, gRPC does not: the hint names both settings."""
        weaviate = settings.weaviate.model_copy(update={"grpc_url": f"http://127.0.0.1:{free_port()}"})
        found = worst(await diagnose(settings.model_copy(update={"weaviate": weaviate}), "weaviate"))
        assert (found.state, found.code) == (State.FAILED, "weaviate_unavailable")
        assert "INGEST_WEAVIATE__GRPC_URL" in found.hint

    async def test_a_key_that_may_only_read(self) -> None:
        """Qdrant's answer to a write with a read-only key."""
        denied = b"Forbidden: Global write access required"
        answers = {
            "/": lambda _: (200, {"title": "qdrant", "version": "1.19.0"}),
            "/collections": lambda _: (200, {"result": {"collections": []}, "status": "ok", "time": 0.0}),
            "*": lambda _: (403, denied),
        }
        with serving(answers) as url:
            settings = Settings(qdrant={"url": url, "api_key": "read-only-key"})
            (found,) = await diagnose(settings, "qdrant")
            (reading,) = await diagnose(settings, "qdrant", read_only=True)
        assert (found.state, found.code) == (State.FAILED, "store_access_denied")
        assert found.hint == "Check INGEST_QDRANT__API_KEY and its permissions."
        assert (reading.state, reading.detail) == (State.OK, "version 1.19.0, writes were not tried")

    @pytest.mark.parametrize(
        ("name", "version", "state", "hint"),
        [
            (StoreName.WEAVIATE, "1.28.4", State.FAILED, "Upgrade to Weaviate 1.29 or later."),
            (StoreName.WEAVIATE, "1.31.0", State.WARNING, "Upgrade to Weaviate 1.32 or later to use them."),
            (StoreName.WEAVIATE, "1.32.0", State.OK, ""),
            (StoreName.QDRANT, "1.7.4", State.FAILED, "Upgrade to Qdrant 1.9 or later."),
            (StoreName.QDRANT, "1.18.2", State.WARNING, "Upgrade to Qdrant 1.19 or later to use them."),
            (StoreName.QDRANT, "1.20.0-dev", State.OK, ""),
            (StoreName.QDRANT, "master", State.WARNING, "Check that it is a release."),
        ],
    )
    async def test_old_versions(
        self, monkeypatch: pytest.MonkeyPatch, name: StoreName, version: str, state: State, hint: str
    ) -> None:
        """One that cannot be used is not written to; one that lacks something names it."""

        class Old(MemoryStore):
            async def check(self) -> str:
                return version

        old = Old(name)
        monkeypatch.setattr(store_checks, "open_stores", lambda _settings, _names: {name: old})
        settings = Settings(qdrant={"url": "http://qdrant"}, weaviate={"url": "http://weaviate"})
        found = worst(await diagnose(settings, name.value))
        assert (found.state, found.hint) == (state, hint)

    async def test_a_store_that_forgets_and_one_that_keeps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was written is not found: a cache, or servers that are no cluster; old throw-away collections show."""

        class Forgetful(MemoryStore):
            async def read_points(self, *_: Any, **__: Any) -> list[Any]:
                return []

        store = Forgetful(StoreName.QDRANT)
        monkeypatch.setattr(store_checks, "open_stores", lambda _settings, _names: {StoreName.QDRANT: store})
        settings = Settings(qdrant={"url": "http://qdrant"})
        (found,) = await diagnose(settings, "qdrant")
        assert (found.state, found.code) == (State.FAILED, "store_answer_wrong")
        assert await store.list_collections() == []
        await store.ensure_collection(make_contract("ingest_doctor_1700000000_0a1b2c3d4e5f"))
        (found,) = [one for one in await diagnose(settings, "qdrant", read_only=True) if one.target == "left behind"]
        assert (found.state, found.detail.split()[-1]) == (
            State.WARNING,
            "ingest_doctor_1700000000_0a1b2c3d4e5f.",
        )

    async def test_no_store_at_all(self) -> None:
        """One of them is enough; without any, no job can run."""
        (found,) = await diagnose(Settings(), "qdrant")
        assert (found.state, found.code) == (State.FAILED, "store_not_configured")
        (found,) = await diagnose(Settings(weaviate={"url": "http://weaviate"}), "qdrant")
        assert (found.state, found.hint) == (State.NOT_CONFIGURED, "Set INGEST_QDRANT__URL to use it.")


async def _list(settings: Settings) -> dict[StoreName, list[str]]:
    stores = open_stores(settings, list(StoreName))
    try:
        return {name: await store.list_collections() for name, store in stores.items()}
    finally:
        for store in stores.values():
            await store.close()


class TestDatabase:
    @pytest.fixture
    async def url(self, postgres: Postgres) -> AsyncIterator[str]:
        async with new_database(postgres.url()) as url:
            yield url

    async def check(self, url: str, **options: Any) -> list[Finding]:
        return await diagnose(Settings(database_url=url, **options.pop("settings", {})), "database", **options)

    async def test_a_database_of_this_version(self, url: str) -> None:
        """Version, schema and TLS; the clock of the same machine needs no warning."""
        (found,) = await self.check(url)
        assert (found.state, found.hint.split(",")[0]) == (State.WARNING, "Start the service")
        await (await JobStore.open(url)).close()
        (found,) = await self.check(url)
        assert found.state is State.OK
        assert found.detail.startswith("PostgreSQL ")
        assert found.facts["tls"] is False
        assert found.facts["schema"] == found.facts["newest_schema"]

    @pytest.mark.parametrize(
        ("version", "options", "code", "hint"),
        [
            ("0001", {}, None, "Start the service, which migrates it"),
            ("0001", {"settings": {"database": {"migrate": False}}}, "database_older", "Run `ingest migrate`"),
            ("9999", {}, "database_newer", "Install the newest version"),
        ],
    )
    async def test_another_schema(
        self, url: str, version: str, options: dict[str, Any], code: str | None, hint: str
    ) -> None:
        """Older is migrated by the service, unless it may not; newer is not used unless it says that it can be."""
        await (await JobStore.open(url)).close()
        await _execute(url, f"UPDATE alembic_version SET version_num = '{version}'")
        await _execute(url, f"UPDATE schema_readers SET oldest = '{version}'")
        (found,) = await self.check(url, **options)
        assert (found.code, found.hint.startswith(hint)) == (code, True)
        assert found.state is (State.WARNING if code is None else State.FAILED)

    async def test_an_account_that_may_not_do_everything(self, url: str) -> None:
        """Neither migrate, nor write to a table."""
        await (await JobStore.open(url)).close()
        name = f"reader_{uuid.uuid4().hex[:8]}"
        await _execute(url, f"CREATE ROLE {name} LOGIN PASSWORD 'geheim'")
        try:
            await _execute(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
            own = sa.engine.make_url(url).set(username=name, password="geheim").render_as_string(hide_password=False)
            (found,) = await self.check(own)
            assert (found.state, found.hint.split(" on ")[0]) == (
                State.FAILED,
                "Grant SELECT, INSERT, UPDATE and DELETE",
            )
            assert "jobs" in found.detail
            await _execute(url, "UPDATE alembic_version SET version_num = '0001'")
            (found,) = await self.check(own)
            assert (found.state, found.detail.endswith("the account may not migrate it.")) == (State.FAILED, True)
            wrong = sa.engine.make_url(own).set(password="falsch-und-geheim")
            (found,) = await self.check(wrong.render_as_string(hide_password=False))
            assert (found.state, found.code) == (State.FAILED, "database_unavailable")
            assert "falsch" not in found.detail + found.hint
        finally:
            await _execute(url, f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name}")
            await _execute(url, f"DROP ROLE {name}")

    async def test_a_stopped_server_and_a_url_that_is_none(self) -> None:
        """Both name the variable."""
        (found,) = await self.check(f"postgresql://a:b@127.0.0.1:{free_port()}/jobs")
        assert (found.state, found.code) == (State.FAILED, "database_unavailable")
        assert "INGEST_DATABASE_URL" in found.hint
        (found,) = await self.check("postgresql://a:b@host/jobs?sslmod=require")
        assert (found.state, found.code) == (State.FAILED, "database_url_invalid")
        assert "did you mean 'sslmode'" in found.detail

    async def test_sqlite(self, tmp_path: Path) -> None:
        """No file is made; a pod is warned of; a newer schema is refused as on PostgreSQL."""
        url = f"sqlite:///{tmp_path}/data/jobs.db"
        (found,) = await self.check(url)
        assert (found.state, found.facts) == (State.OK, {"exists": False})
        assert not await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
        await (await JobStore.open(url)).close()
        (found,) = await self.check(url)
        assert (found.state, found.facts["tls"]) == (State.OK, None)
        _, pod = await self.check(url, in_kubernetes=True)
        assert (pod.state, pod.hint) == (State.WARNING, "Set INGEST_DATABASE_URL to a PostgreSQL.")
        await _execute(url, "UPDATE alembic_version SET version_num = '9999'")
        (found,) = await self.check(url)
        assert found.state is State.OK  # decision 41: it says that this version can use it
        await _execute(url, "UPDATE schema_readers SET oldest = '9999'")
        (found,) = await self.check(url)
        assert (found.state, found.code) == (State.FAILED, "database_newer")


async def _execute(url: str, statement: str) -> None:
    database = Database.open(url)
    try:
        async with database.writing() as connection:
            await connection.execute(sa.text(statement))
    finally:
        await database.close()
