"""Callers read which system fails, not where it is: addresses are for operators, in full in the log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import DatabaseUnavailable, FatalError, SubmissionError, TransientError
from ingestion_engine.domain.records import GatewayServer, GatewayStatus
from ingestion_engine.state.ledger import Ledger
from support.control import BODY, ScriptedGateway, World, bearer, make_collection, overwrite, write_keys
from support.waiting import eventually

URL = "http://user:secret@qdrant.internal:6333"
AWAY = f"Qdrant at {URL} refuses connections."


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    make_collection(made)
    return made


def away(*_: Any, **__: Any) -> Any:
    raise TransientError("qdrant_unavailable", AWAY, url=URL)


async def away_later(*_: Any, **__: Any) -> Any:
    away()


def state_away(*_: Any, **__: Any) -> Any:
    raise FatalError("state_corrupt", "'s3://ingest-state/prod/alias/docs.json' is not JSON.", url="s3://ingest-state")


READS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/collections", {}),
    ("GET", "/collections/notes", {}),
    ("GET", "/collections/notes/chunks?key=0.txt", {}),
    ("POST", "/search", {"json": {"collection": "notes", "query": "cats"}}),
    ("POST", "/search", {"json": {"collection": "notes", "query": "cats", "stores": ["qdrant"]}}),
    ("GET", "/readyz", {}),
    ("GET", "/jobs", {}),
    ("GET", "/jobs/{job}", {}),
    ("GET", "/jobs/{job}/failures", {}),
]


async def read_everything(world: World, key: str) -> str:
    """Return all that a caller reads while Qdrant is away and a job has failed because of it."""
    keys = write_keys(world.folder, {"name": "admin"}, {"name": "team", "scopes": ["read", "search", "submit"]})
    seen = []
    async with world.serve(api={"keys_file": keys}, headers=bearer(key)) as plane:
        job = await plane.submit(collection="other")
        error = TransientError("qdrant_unavailable", AWAY, url=URL, store="qdrant").record()
        await overwrite(plane.services.store, job, state="failed", error=error, note=AWAY)
        Ledger(world.state, job).write_failures("a01-00000", [{"key": "a", "code": "store_refused", "reason": AWAY}])
        for name in ("search", "count", "fetch_object_points", "check", "list_aliases", "scroll"):
            if hasattr(plane.qdrant, name):
                setattr(plane.qdrant, name, away_later)
        for method, path, options in READS:
            answer = await plane.client.request(method, path.format(job=job), **options)
            seen.append(f"{path} {answer.status_code} {answer.text}")
        world.state.get = state_away  # type: ignore[method-assign]
        for path in ("/collections/notes", "/aliases/docs"):
            answer = await plane.client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "state_unavailable")
            seen.append(answer.text)
        del world.state.get
    return "\n".join(seen)


async def test_callers_read_no_addresses(world: World) -> None:
    """Neither in problems nor in what a response says of its parts; it still names the system."""
    seen = await read_everything(world, "team")
    for secret in ("secret", "qdrant.internal", "6333", "s3://", "ingest-state", "memory://"):
        assert secret not in seen, seen
    assert seen.count("Qdrant refuses connections.") >= 7, seen


async def test_operators_read_addresses(world: World) -> None:
    """Who has the scope `admin`; credentials are in no message of an adapter."""
    seen = await read_everything(world, "admin")
    assert seen.count("qdrant.internal") >= 7
    assert "s3://ingest-state/prod/alias/docs.json" in seen


async def test_the_place_of_the_database_is_for_operators(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The log has it."""
    keys = write_keys(world.folder, {"name": "admin"}, {"name": "team", "scopes": ["read"]})
    async with world.serve(api={"keys_file": keys}) as plane:
        message = "The database of jobs at db.internal:5432 is unavailable: it refuses connections."

        async def refuse(*_: Any, **__: Any) -> Any:
            logging.getLogger("test").warning(message)
            raise DatabaseUnavailable("database_unavailable", message)

        plane.services.store.list_page = refuse  # type: ignore[method-assign]
        team = await plane.client.get("/jobs", headers=bearer("team"))
        admin = await plane.client.get("/jobs", headers=bearer("admin"))
    assert (team.status_code, team.json()["detail"]) == (503, message.replace(" at db.internal:5432", ""))
    assert admin.json()["detail"] == message
    assert "db.internal" in caplog.text


async def test_a_task_for_many_does_not_inherit_what_an_operator_may_read(world: World) -> None:
    """Checks of dependencies are shared: the operator's request starts one, and the next caller reads its result."""
    keys = write_keys(world.folder, {"name": "admin"}, {"name": "team", "scopes": ["read"]})
    async with world.serve(api={"keys_file": keys}) as plane:
        world.engine.away = TransientError("ray_unavailable", "Ray at http://ray.internal:8265 refuses connections.")
        admin = await plane.client.get("/readyz", headers=bearer("admin"))
        team = await plane.client.get("/readyz", headers=bearer("team"))
    assert "ray.internal" in admin.text
    assert "ray.internal" not in team.text
    assert "Ray refuses connections." in team.text


async def test_events_that_many_follow_show_addresses_to_operators_only(world: World) -> None:
    """Each update is rendered once for all who may read the same, whoever asks first."""
    keys = write_keys(world.folder, {"name": "admin"}, {"name": "team", "scopes": ["read", "submit"]})
    async with world.serve(api={"keys_file": keys}) as plane:
        job = (
            await plane.client.post("/ray/jobs", json={**BODY, "collection": "other"}, headers=bearer("team"))
        ).json()
        await overwrite(plane.services.store, job["job_id"], note=AWAY)
        load = plane.services.metrics.load
        following = []
        for number, name in enumerate(("admin", "team", "admin"), start=1):
            request = plane.client.get(job["links"]["events"], headers=bearer(name))
            following.append(asyncio.create_task(request))
            await eventually(lambda number=number: load.streams == number)  # type: ignore[misc]  # bound to this one
        await asyncio.sleep(0)
        plane.services.closing.set()
        async with asyncio.timeout(10):
            first, team, last = await asyncio.gather(*following)
    assert "qdrant.internal" in first.text
    assert "qdrant.internal" in last.text
    assert "Qdrant refuses connections." in team.text
    assert "qdrant.internal" not in team.text


PAGES = (
    "/",
    "/?part=table",
    "/console/jobs/{job}",
    "/console/jobs/{job}/parts/failures",
    "/console/jobs/{job}/failures",
    "/console/collections",
    "/console/collections/notes",
    "/console/system",
)


async def read_pages(world: World, key: str) -> str:
    """Return all that a reader of the console sees while Qdrant is away and a job has failed because of it."""
    keys = write_keys(world.folder, {"name": "admin"}, {"name": "team", "scopes": ["read", "search", "submit"]})
    servers = (GatewayServer("http://ollama.internal:11434", "cooling", f"The server {URL} refuses connections."),)
    gateway = ScriptedGateway(status=[GatewayStatus("http://gateway.internal:11430", "degraded", AWAY, servers)])
    parts = world.parts(gateway=gateway)
    seen = []
    async with world.serve(parts, api={"keys_file": keys}, headers=bearer(key)) as plane:
        job = await plane.submit(collection="other")
        error = TransientError("qdrant_unavailable", AWAY, url=URL, store="qdrant").record()
        await overwrite(
            plane.services.store, job, state="failed", error=error, note=AWAY, counts={"failures.store_refused": 1}
        )
        Ledger(world.state, job).write_failures("a01-00000", [{"key": "a", "code": "store_refused", "reason": AWAY}])
        for name in ("search", "count", "fetch_object_points", "check", "list_aliases", "scroll"):
            if hasattr(plane.qdrant, name):
                setattr(plane.qdrant, name, away_later)
        for path in PAGES:
            answer = await plane.client.get(path.format(job=job))
            assert answer.status_code == 200, (path, answer.text)
            seen.append(f"{path} {answer.text}")
        form = {"collection": "notes", "query": "cats"}
        seen.append((await plane.client.post("/console/search", data=form)).text)

        async def refuse(*_: Any) -> None:
            raise SubmissionError("bucket_access_denied", f"The bucket {URL} is not accessible.", field="source.bucket")

        plane.services.preflight.check = refuse  # type: ignore[method-assign]
        form = {"bucket": "docs", "collection": "further", "stores": "qdrant", "do": "start"}
        answer = await plane.client.post("/console/jobs/new", data=form)
        assert "is not accessible" in answer.text
        seen.append(answer.text)
    return "\n".join(seen)


@pytest.mark.parametrize("key", ["team", "admin"])
async def test_pages_show_addresses_to_operators_only(world: World, key: str) -> None:
    """In notes, errors, examples of failures, forms, and on the page of the system, which has numbers for others."""
    seen = await read_pages(world, key)
    for name in ("qdrant.internal", "ollama.internal", "gateway.internal", world.state.url):
        assert (name in seen) is (key == "admin"), name
    assert seen.count("refuses connections.") >= 7, seen
