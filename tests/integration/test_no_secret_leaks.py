"""A full job on real parts, then a search for every secret in everything that it leaves.

What may have a secret is named here; what is not named has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from ingestion_devstack.stack.stack import Stack
from ingestion_engine.runtime.settings import Settings
from support.log_ins import csrf_token, provider, provider_settings
from support.platform_world import Platform
from support.postgres import Postgres

SECRET_FILES = {"credentials.json", "stack.env", "keys.json", "ray-token", "security.toml", "server.key"}
"""Files that exist to hold secrets; only their owner can read them."""


@dataclass
class Traces:
    """A stack that has run a job, and the secrets that it was given."""

    platform: Platform
    secrets: dict[str, str]
    job: dict[str, Any]
    bodies: dict[str, str]
    home: Path

    def search(self, text: str) -> set[str]:
        """Return the names of the secrets in a text."""
        return {name for name, secret in self.secrets.items() if secret in text}


@contextlib.contextmanager
def running_postgres(password: str) -> Iterator[str]:
    """A database, whose account has this password; its URL."""
    server = Postgres()
    try:
        server.start()
        url = server.url(server.create_database())

        async def change() -> None:
            connection = await asyncpg.connect(url)
            await connection.execute(f"ALTER USER ingest PASSWORD '{password}'")
            await connection.close()

        asyncio.run(change())
        yield url.replace(":secret@", f":{password}@")
    finally:
        server.close()


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """Everything once: a log-in, a job with a failure, a search, wrong requests, pages."""
    home = tmp_path_factory.mktemp("secrets")
    made = {name: f"{name}-{secrets.token_hex(12)}" for name in ("ollama", "oidc", "database", "api")}
    keys = home / "keys.json"
    keys.write_text(json.dumps([{"name": "boss", "key_sha256": hashlib.sha256(made["api"].encode()).hexdigest()}]))
    with (
        provider() as issuer,
        running_postgres(made["database"]) as database_url,
        Stack(Settings(data_dir=home / "ollama"), only={"ollama"}, with_api=False) as embedder,
    ):
        settings = Settings(
            data_dir=home / "data",
            database_url=database_url,
            ollama={"urls": embedder.services["ollama"].url.replace("//", f"//somebody:{made['ollama']}@")},
            api={"port": 0, "keys_file": keys},
            oidc=provider_settings(issuer, client_secret=made["oidc"]),
            dispatch={"poll_s": 0.2},
            audit={"file": home / "data" / "audit.jsonl"},
        )
        with (
            Stack(settings, only={"s3", "ray", "qdrant", "weaviate"}) as stack,
            httpx.Client(base_url=stack.services["api"].url, timeout=60) as http,
        ):
            for name, value in json.loads((stack.data_dir / "credentials.json").read_text()).items():
                made[name] = value
            del made["kube_token"]  # nothing of Kubernetes runs
            platform = Platform(stack.settings, stack.env, http, stack.services)
            job, bodies, cookies = use(platform, made["api"])
            yield Traces(platform, {**made, **cookies}, job, bodies, home)


def use(platform: Platform, key: str) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Return a job that has ended, the bodies of all answers, and the cookies of a session."""
    http, bodies = platform.http, {}
    page = http.get("/console/login")
    http.post("/console/login", data={"csrf_token": csrf_token(page), "key": key})
    cookies = {f"cookie {name}": value for name, value in http.cookies.items() if len(value) > 20}
    assert cookies
    for path in ("/", "/console/system", "/console/collections"):
        bodies[path] = http.get(path).text
    http.cookies.clear()
    http.headers["Authorization"] = f"Bearer {key}"
    platform.upload("docs", [("a/one.txt", b"A text to embed."), ("a/bad.docx", b"PK no document")])
    request = {"source": {"bucket": "docs", "prefix": "a/"}, "collection": "notes"}
    answer = http.post("/ray/jobs", json=request)
    assert answer.status_code == 202, answer.text
    job = platform.wait(answer.json()["job_id"])
    assert job["state"] in {"succeeded", "partially_succeeded"}, job
    job_id = job["job_id"]
    for path in (
        *(f"/jobs/{job_id}", f"/jobs/{job_id}/failures", f"/jobs/{job_id}/logs", "/jobs", "/collections"),
        *("/collections/notes", "/collections/notes/objects", "/aliases", "/readyz", "/metrics", "/audit"),
        *("/drain", "/openapi.json", "/jobs/nothing", "/nothing", f"/{key[:10]}"),
    ):
        bodies[path] = http.get(path).text
    bodies["search"] = http.post("/search", json={"query": "text", "collection": "notes"}).text
    bodies["wrong"] = http.post("/ray/jobs", json={"source": 1}).text
    bodies["no model"] = http.post("/ray/jobs", json={**request, "embedding": {"model": "none"}}).text
    return job, bodies, cookies


def test_no_answer_has_a_secret(traces: Traces) -> None:
    """Neither pages nor problems, neither metrics nor the audit log."""
    assert len(traces.bodies) > 15
    assert {path: found for path, text in traces.bodies.items() if (found := traces.search(text))} == {}


def test_no_file_has_a_secret(traces: Traces) -> None:
    """Logs, databases, data of the servers, Ray's own files: but those that exist for it."""
    folders = [traces.home, *Path("/tmp").glob("ingest-ray-*")]
    leaks: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        with contextlib.suppress(OSError):
            holds_secrets = path.name in SECRET_FILES or "security" in path.parent.name
            if path.is_file() and not holds_secrets and (found := traces.search(path.read_bytes().decode("latin-1"))):
                leaks[str(path)] = found
    assert leaks == {}


def test_no_value_of_the_state_store_has_a_secret(traces: Traces) -> None:
    """Specs, plans, reports, progress, logs, contracts."""
    client = traces.platform.s3()
    found: dict[str, set[str]] = {}
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="ingest-state")["Contents"]]
    assert any(key.endswith("/spec.json") for key in keys)
    for key in keys:
        text = client.get_object(Bucket="ingest-state", Key=key)["Body"].read().decode("latin-1")
        if leaked := traces.search(text):
            found[key] = leaked
    assert found == {}


def test_no_row_of_the_database_has_a_secret(traces: Traces) -> None:
    """Requests, specs, sessions, the audit log."""
    url = traces.platform.settings.database_url
    assert url is not None

    async def read() -> dict[str, str]:
        connection = await asyncpg.connect(url)
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = {name: repr(await connection.fetch(f"SELECT * FROM {name}")) for (name,) in names}
        await connection.close()
        return tables

    tables = asyncio.run(read())
    assert {"jobs", "audit_log", "console_sessions"} <= tables.keys()
    assert {name: found for name, text in tables.items() if (found := traces.search(text))} == {}


def test_no_command_line_has_a_secret(traces: Traces) -> None:
    """Every user of the machine sees command lines."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if leaked := traces.search(" ".join(process.info["cmdline"] or ())):
            found[process.pid] = leaked
    assert found == {}


ALLOWED = {
    "api": {"ollama", "oidc", "database", "s3_access_key_id", "s3_secret_access_key", "qdrant_api_key"}
    | {"weaviate_api_key", "ray_auth_token"},
    "ray": {"ollama", "s3_access_key_id", "s3_secret_access_key", "qdrant_api_key", "weaviate_api_key"}
    | {"ray_auth_token"},
    "s3": {"s3_access_key_id", "s3_secret_access_key"},
    "qdrant": {"qdrant_api_key"},
    "weaviate": {"weaviate_api_key"},
}
"""Secrets that the environment of a server may have: its own, and those of the systems that it calls."""


def test_no_environment_has_a_secret_of_others(traces: Traces) -> None:
    """Drivers and workers, which parse anybody's documents, know no password of the database or the provider."""
    found: dict[str, set[str]] = {}
    for name, service in traces.platform.services.items():
        root = psutil.Process(service._process._guard.pid)  # type: ignore[union-attr]  # it runs
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                leaked = traces.search("\n".join(process.environ().values())) - ALLOWED[name]
                if leaked:
                    found[f"{name}: {process.name()}"] = leaked
    assert found == {}
    assert traces.job["counts"]["done"] >= 1, "the driver has reached everything without them"


def test_files_with_secrets_are_their_owners(traces: Traces) -> None:
    """Those that exist to hold secrets."""
    files = [path for path in (traces.home / "data").rglob("*") if path.name in SECRET_FILES]
    assert {path.name for path in files} >= {"credentials.json", "stack.env"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []
    assert os.stat(traces.home / "data").st_mode & 0o077 == 0  # noqa: PTH116 - of the directory itself
