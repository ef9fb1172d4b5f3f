"""A full job on each engine, on real parts, then a search for every secret in everything that they have and leave.

Both jobs wait in the middle, so that drivers and workers are looked at while they work: their command lines, their
environments, Spark's work directories, what Kubernetes and Ray say of them. What may have a secret is named here; what
is not named has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pyarrow.parquet
import pytest

from ingestion_devstack.kubernetes.config import read_secret, write_secret
from ingestion_devstack.stack.service import Service
from ingestion_devstack.stack.spark_operator import NAMESPACE
from ingestion_devstack.stack.stack import Stack
from ingestion_engine.runtime.settings import Settings
from support.log_ins import csrf_token, provider, provider_settings
from support.platform_world import APPLICATIONS, Platform
from support.postgres import Postgres
from support.secret_search import ProcessView, Secrets, is_holder, look_at, look_at_all
from support.waiting import wait_for

ENGINES = ("ray", "spark")

MARKER = "Wait in the middle."
"""A text that the embedder does not embed before it was looked at what works."""

DRIVERS_SECRET = "ingest-credentials"

OF_DRIVERS = {"ollama", "qdrant_url", "s3_access_key_id", "s3_secret_access_key", "qdrant_api_key", "weaviate_api_key"}
"""Of the systems that drivers and workers call. S3's requests are signed; a password in its URL is nobody's."""

ALLOWED: dict[str, set[str]] = {
    "api": {*OF_DRIVERS, "s3_url", "oidc", "database", "ray_auth_token"},
    "ray": {*OF_DRIVERS, "s3_url", "ray_auth_token"},
    "spark": {"kube_token"},
    "spark driver": {*OF_DRIVERS, "aws_access_key_id", "aws_secret_access_key"},
    "s3": {"s3_access_key_id", "s3_secret_access_key"},
    "qdrant": {"qdrant_api_key"},
    "weaviate": {"weaviate_api_key"},
    "ollama": set(),
}
"""Secrets that the environment of a process may have: its own, and those of the systems that it calls.

Drivers and workers, which parse anybody's documents, know no password of the database or the provider, and those of
Spark neither the token of Kubernetes nor that of Ray.
"""


@dataclass
class Traces:
    """Stacks that have run a job on each engine, the secrets that they were given, and what was seen meanwhile."""

    platform: Platform
    services: dict[str, Service]
    secrets: Secrets
    home: Path
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)
    """Answers of the service."""
    engines: dict[str, str] = field(default_factory=dict)
    """Answers of Ray's dashboard and of Kubernetes, in the middle and at the end."""
    commands: dict[int, str] = field(default_factory=dict)
    processes: dict[str, list[ProcessView]] = field(default_factory=dict)
    """In the middle, by the server that they belong to; drivers and workers of Spark apart."""
    files: dict[str, set[str]] = field(default_factory=dict)
    """Secrets in files in the middle."""

    def folders(self) -> list[Path]:
        """Everything that the stacks write."""
        return [self.home, *Path("/tmp").glob("ingest-ray-*")]


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


def read_credentials(stack: Stack) -> dict[str, str]:
    """Return what a stack has made up."""
    found: dict[str, str] = json.loads((stack.data_dir / "credentials.json").read_text())
    return found


def write_template(home: Path) -> Path:
    """Have Spark write down all of its settings: into the driver's log, and into an event log."""
    events = home / "spark-events"
    events.mkdir()
    options = "-Dspark.logConf=true -Dspark.eventLog.enabled=true -Dspark.eventLog.compress=false"
    options += f" -Dspark.eventLog.dir={events.as_uri()}"
    container = {"name": "any", "env": [{"name": "JAVA_TOOL_OPTIONS", "value": options}]}
    path = home / "pod-template.json"
    path.write_text(json.dumps({"driver": {"spec": {"containers": [container]}}}))
    return path


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    """Everything once: a log-in, a job with a failure on each engine, a search, wrong requests, pages."""
    home = tmp_path_factory.mktemp("traces")
    names = ("ollama", "s3_url", "qdrant_url", "oidc", "database", "api", "aws_access_key_id", "aws_secret_access_key")
    made = {name: f"{name}-{secrets.token_hex(12)}" for name in names}
    keys = home / "keys.json"
    keys.write_text(json.dumps([{"name": "boss", "key_sha256": hashlib.sha256(made["api"].encode()).hexdigest()}]))
    keys.chmod(0o600)
    with (
        provider() as issuer,
        running_postgres(made["database"]) as database_url,
        Stack(
            Settings(data_dir=home / "others"),
            only={"s3", "qdrant", "ollama"},
            with_api=False,
            ollama_arguments=("--faults", "--test-models"),
        ) as others,
    ):

        def with_password(service: str, name: str) -> str:
            return others.services[service].url.replace("//", f"//somebody:{made[name]}@")

        theirs = read_credentials(others)
        account = {name: theirs[f"s3_{name}"] for name in ("access_key_id", "secret_access_key")}
        settings = Settings(
            data_dir=home / "data",
            database_url=database_url,
            state_url="s3://ingest-state",
            s3={"endpoint_url": with_password("s3", "s3_url"), **account},
            qdrant={"url": with_password("qdrant", "qdrant_url"), "api_key": theirs["qdrant_api_key"]},
            ollama={"urls": with_password("ollama", "ollama")},
            spark={"pod_template": write_template(home)},
            api={"port": 0, "keys_file": keys},
            oidc=provider_settings(issuer, client_secret=made["oidc"]),
            dispatch={"poll_s": 0.2},
            lease={"outage_retry_s": 0.1},
            audit={"file": home / "data" / "audit.jsonl"},
        )
        with (
            Stack(settings, only={"ray", "spark", "weaviate"}) as stack,
            httpx.Client(base_url=stack.services["api"].url, timeout=60) as http,
        ):
            made |= {name: theirs[name] for name in ("s3_access_key_id", "s3_secret_access_key", "qdrant_api_key")}
            ours = read_credentials(stack)
            made |= {name: ours[name] for name in ("weaviate_api_key", "ray_auth_token", "kube_token")}
            give_aws_account(stack, made)
            platform = Platform(stack.settings, stack.env, http, stack.services)
            seen = Traces(platform, {**others.services, **stack.services}, Secrets(made), home)
            use(seen, made["api"])
            yield seen


def give_aws_account(stack: Stack, made: Mapping[str, str]) -> None:
    """Add an account of AWS to the drivers' secret: Spark copies it into settings of Hadoop, which it writes down."""
    kube = stack.data_dir / "kube"
    known = read_secret(kube, DRIVERS_SECRET)
    assert known is not None
    added = {name.upper(): made[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    write_secret(kube, DRIVERS_SECRET, {**known, **added})


def use(seen: Traces, key: str) -> None:
    """Log in, run the jobs, look at them in the middle, and read all answers."""
    platform, bodies = seen.platform, seen.bodies
    http = platform.http
    page = http.get("/console/login")
    http.post("/console/login", data={"csrf_token": csrf_token(page), "key": key})
    cookies = {f"cookie {name}": value for name, value in http.cookies.items() if len(value) > 20}
    assert cookies
    seen.secrets.by_name |= cookies
    for path in ("/", "/console/system", "/console/collections"):
        bodies[path] = http.get(path).text
    http.cookies.clear()
    http.headers["Authorization"] = f"Bearer {key}"
    platform.upload(
        "docs", [("a/one.txt", f"A text to embed. {MARKER}".encode()), ("a/bad.bin", bytes(range(256)) * 4)]
    )
    platform.fault({"status": 503, "marker": MARKER})
    ids = {}
    for engine in ENGINES:
        request = {"source": {"bucket": "docs", "prefix": "a/"}, "collection": f"notes_{engine}", "parallelism": 1}
        ids[engine] = platform.submit(engine, **request)
    bodies["manifest"] = http.post("/spark/manifest", json=request).text
    wait_for(lambda: are_at_work(seen), every_s=0.2)
    seen.commands = look_at_all()
    seen.engines |= ask_engines(seen, ids, "in the middle")
    seen.files = seen.secrets.find_in_files(seen.folders())
    platform.fault({})
    for engine, job_id in ids.items():
        job = seen.jobs[engine] = platform.wait(job_id)
        assert job["state"] in {"succeeded", "partially_succeeded"}, job
        for path in ("", "/failures", "/logs"):
            bodies[f"{engine}{path}"] = http.get(f"/jobs/{job_id}{path}").text
        for path in ("", "/objects"):
            bodies[f"{engine}: collection{path}"] = http.get(f"/collections/notes_{engine}{path}").text
        search = {"query": "text", "collection": f"notes_{engine}"}
        bodies[f"{engine}: search"] = http.post("/search", json=search).text
        bodies[f"{engine}: wrong"] = http.post(f"/{engine}/jobs", json={"source": 1}).text
        request = {"source": {"bucket": "docs"}, "collection": "none", "embedding": {"model": "none"}}
        bodies[f"{engine}: no model"] = http.post(f"/{engine}/jobs", json=request).text
    for path in ("/jobs", "/collections", "/aliases", "/readyz", "/metrics", "/audit", "/drain", "/openapi.json"):
        bodies[path] = http.get(path).text
    for path in ("/jobs/nothing", "/nothing", f"/{key[:10]}"):
        bodies[path] = http.get(path).text
    seen.engines |= ask_engines(seen, ids, "at the end")


def are_at_work(seen: Traces) -> bool:
    """Look at all processes; return whether workers of both engines work."""
    views = {name: look_at(service) for name, service in seen.services.items()}
    spark = views.pop("spark")
    servers = [view for view in spark if "ingestion_devstack.kubernetes.server" in view.command]
    drivers = [view for view in spark if view not in servers]
    seen.processes = {**views, "spark": servers, "spark driver": drivers}
    forks = [view for view in drivers if "ingestion_engine.engines.spark.daemon" in view.command]
    tasks = [view for view in views["ray"] if view.command.startswith("ray::process_partition")]
    return len(forks) > 1 and bool(tasks)


def ask_engines(seen: Traces, ids: Mapping[str, str], when: str) -> dict[str, str]:
    """Return what the engines tell everybody who may ask them: requests as they received them, states, events, logs."""
    settings, found = seen.platform.settings, {}
    token = settings.ray.auth_token
    assert token is not None
    with httpx.Client(base_url=str(settings.ray.address)) as ray:
        ray.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        for path in ("/api/jobs/", f"/api/jobs/{ids['ray']}-01/logs", "/api/v0/tasks?detail=true"):
            found[path] = ray.get(path).raise_for_status().text
    core, pod = f"/api/v1/namespaces/{NAMESPACE}", f"{ids['spark']}-01-driver"
    with seen.platform.kubernetes() as kubernetes:
        applications = APPLICATIONS.format(NAMESPACE)
        for path in (applications, f"{core}/pods", f"{core}/events", f"{core}/pods/{pod}/log"):
            found[path] = kubernetes.get(path).raise_for_status().text
    assert ids["ray"] in found["/api/jobs/"]
    assert f"{ids['spark']}-01" in found[applications]
    return {f"{path} {when}": text for path, text in found.items()}


def test_no_answer_has_a_secret(traces: Traces) -> None:
    """Neither pages nor problems, neither metrics nor the audit log."""
    assert len(traces.bodies) > 25
    assert traces.secrets.find_each(traces.bodies) == {}


def test_no_engine_tells_a_secret(traces: Traces) -> None:
    """Whoever reads SparkApplications, pods, events and logs of the namespace, or Ray's dashboard, learns none.

    Kubernetes keeps an application as it has received it, with its own defaults and its state.
    """
    texts = "".join(traces.engines.values())
    for shown in (
        "envFrom",
        DRIVERS_SECRET,
        "SparkDriverRunning",
        "spark.logConf=true",
        "ingestion_engine.driver.entry",
    ):
        assert shown in texts, "it was not looked at"
    assert traces.secrets.find_each(traces.engines) == {}


def test_no_file_has_a_secret(traces: Traces) -> None:
    """Logs, databases, data of the servers, files of Ray, work directories and settings of Spark."""
    events = [path for path in (traces.home / "spark-events").rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in events)
    assert b"fs.s3a.access.key" in written, "Spark has not written down its settings"
    assert traces.files == {}
    assert traces.secrets.find_in_files(traces.folders()) == {}


def test_no_value_of_the_state_store_has_a_secret(traces: Traces) -> None:
    """Specs, plans, reports, progress, logs, contracts, object tables."""
    client = traces.platform.s3()
    found: dict[str, set[str]] = {}
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="ingest-state")["Contents"]]
    assert sum(key.endswith("/spec.json") for key in keys) == len(ENGINES)
    assert any(key.endswith(".parquet") for key in keys)
    for key in keys:
        data = client.get_object(Bucket="ingest-state", Key=key)["Body"].read()
        if key.endswith(".parquet"):  # compressed
            data += repr(pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()).encode()
        if leaked := traces.secrets.find(data):
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
    assert traces.secrets.find_each(tables) == {}


def test_no_command_line_has_a_secret(traces: Traces) -> None:
    """Every user of the machine sees command lines: those of drivers and workers at work, and those that are left."""
    for part in ("ingestion_engine.driver.entry", "org.apache.spark.deploy.SparkSubmit"):
        assert any(part in command for command in traces.commands.values()), "it was not looked at"
    for commands in (traces.commands, look_at_all()):
        assert {command: found for command in commands.values() if (found := traces.secrets.find(command))} == {}


@pytest.mark.parametrize("owner", ALLOWED)
def test_no_environment_has_a_secret_of_others(traces: Traces, owner: str) -> None:
    """What a process may have is ``ALLOWED``, and the drivers have all of theirs: they have reached everything."""
    views = traces.processes[owner]
    assert views
    found = {view.command: traces.secrets.find(view.environment) for view in views}
    assert {command: leaked for command, names in found.items() if (leaked := names - ALLOWED[owner])} == {}
    assert set.union(*found.values()) == ALLOWED[owner], "a secret is allowed that nothing has"


def test_the_jobs_have_reached_everything(traces: Traces) -> None:
    """With what they were given, and nothing else; each has an object that fails."""
    counts = {engine: (job["counts"]["done"], job["counts"]["failed"]) for engine, job in traces.jobs.items()}
    assert counts == dict.fromkeys(ENGINES, (1, 1))


def test_files_with_secrets_are_their_owners(traces: Traces) -> None:
    """Those that exist to hold secrets, the values of Kubernetes's secret among them."""
    files = [path for path in traces.home.rglob("*") if path.is_file() and is_holder(path)]
    names = {path.name for path in files}
    assert names >= {"credentials.json", "stack.env", "kubeconfig", "INGEST_S3__SECRET_ACCESS_KEY"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []
    assert os.stat(traces.home / "data").st_mode & 0o077 == 0  # noqa: PTH116 - of the directory itself
