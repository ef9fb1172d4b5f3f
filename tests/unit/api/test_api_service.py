"""Health, keys, search, collections, metrics, documentation: the rest of the HTTP API."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from ingestion_engine.api.examples import SEARCH_EXAMPLES
from ingestion_engine.domain.errors import RequestFailed, TransientError
from ingestion_engine.domain.ports import SearchFilter
from ingestion_engine.domain.records import ModelInfo, RowState, TableRow
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import SettingsError
from ingestion_engine.server.app import create_app
from ingestion_engine.services import job_feed, search
from ingestion_engine.state.object_table.table import ObjectTable
from support.control import BODY, World, bearer, make_collection, unreachable, write_keys
from support.waiting import eventually


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_search_asks_every_store(world: World) -> None:
    """Hits per store, best first; the vector is that of the query with the collection's query prefix."""
    make_collection(world)
    async with world.serve() as plane:
        found = (await plane.client.post("/search", json={"collection": "notes", "query": "cats"})).json()
        assert found["model"] == "all-minilm"
        for store in ("qdrant", "weaviate"):
            hits = found["results"][store]
            assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
            assert (hits[0]["key"], hits[0]["score"]) == ("0.txt", 1.0)
            assert "epoch" not in hits[0]
        assert found["errors"] == {}


async def test_a_store_that_is_away_does_not_silence_the_other(world: World) -> None:
    """Its error is returned with the results of the other; 503 only when all stores are unavailable."""
    make_collection(world)

    async def away(*_: Any, **__: Any) -> None:
        raise TransientError("store_unavailable", "no answer")

    world.qdrant.search = away  # type: ignore[method-assign,assignment]
    async with world.serve() as plane:
        found = (await plane.client.post("/search", json={"collection": "notes", "query": "cats"})).json()
        assert list(found["results"]) == ["weaviate"]
        assert found["errors"]["qdrant"] == {"code": "store_unavailable", "detail": "no answer"}
        body = {"collection": "notes", "query": "cats", "stores": ["qdrant"]}
        answer = await plane.client.post("/search", json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "stores_unavailable")


@pytest.mark.parametrize(
    ("is_down", "expected"), [(False, (422, "embedding_failed")), (True, (503, "embedder_unavailable"))]
)
async def test_a_query_that_breaks_the_embedder_is_the_callers_fault(
    world: World, is_down: bool, expected: tuple[int, str]
) -> None:
    """Unless a plain text is not embedded either."""
    make_collection(world)
    embed = world.embedder.embed

    async def fail(model: str, texts: list[str], **options: Any) -> Any:
        if is_down or "poison" in texts[0]:
            raise RequestFailed("ollama_unavailable", "EOF")
        return await embed(model, texts, **options)

    world.embedder.embed = fail  # type: ignore[method-assign,assignment]
    async with world.serve() as plane:
        answer = await plane.client.post("/search", json={"collection": "notes", "query": "poison"})
    assert (answer.status_code, answer.json()["code"]) == expected
    assert answer.json().get("field") == (None if is_down else "query")


async def test_a_search_does_not_wait_forever_for_the_embedder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway proves that a request waits, so that its client has no time limit: the search has one of its own."""
    make_collection(world)
    monkeypatch.setattr(search, "EMBED_TIME_LIMIT_S", 0.05)

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    world.embedder.embed = hang  # type: ignore[method-assign,assignment]
    async with world.serve() as plane, asyncio.timeout(10):
        answer = await plane.client.post("/search", json={"collection": "notes", "query": "cats"})
        assert (answer.status_code, answer.json()["code"]) == (503, "embedder_unavailable")
        assert "did not respond within 0.05 s" in answer.json()["detail"]


async def test_filters_reach_the_stores(world: World) -> None:
    """Bucket, media type and metadata, as documented."""
    make_collection(world, "handbook")
    seen: list[tuple[int, SearchFilter]] = []

    async def record(_collection: str, _vector: Any, *, limit: int, where: SearchFilter) -> list[Any]:
        seen.append((limit, where))
        return []

    world.qdrant.search = record  # type: ignore[method-assign,assignment]
    async with world.serve() as plane:
        answer = await plane.client.post("/search", json=SEARCH_EXAMPLES["filtered"]["value"])
        assert answer.json()["results"] == {"qdrant": []}
        assert seen == [(3, SearchFilter("docs", "application/pdf", {"team": "docs"}))]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"collection": "none"}, 404, "collection_not_found"),
        ({"query": ""}, 422, "validation_error"),
        ({"limit": 101}, 422, "validation_error"),
        ({"filter": {"kei": "x"}}, 422, "validation_error"),
        ({"collection": "single", "stores": ["weaviate"]}, 422, "store_not_in_collection"),
        ({"collection": "old"}, 409, "model_changed"),
    ],
)
async def test_a_search_that_cannot_be_made_says_why(
    world: World, change: dict[str, Any], status: int, code: str
) -> None:
    """Vectors of another model are never compared."""
    make_collection(world)
    make_collection(world, "single", stores=(StoreName.QDRANT,))
    make_collection(world, "old", model_digest="sha256:before")
    async with world.serve() as plane:
        answer = await plane.client.post("/search", json={"collection": "notes", "query": "cats", **change})
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_collections_show_contract_counts_and_objects(world: World) -> None:
    """A store that cannot be counted shows why; objects are paged in key order."""
    make_collection(world)
    rows = [
        TableRow(
            f"k{n}",
            "e",
            1,
            "2026-01-01T00:00:00Z",
            "o",
            RowState(state),
            None,
            None,
            False,
            "f",
            1,
            "",
            "",
            1,
            "j",
            "t",
        )
        for n, state in enumerate(["present", "failed", "present"])
    ]
    ObjectTable(world.state, "notes").append_run(rows, epoch=1, job_id="job-x")
    del world.weaviate.collections["notes"]
    async with world.serve() as plane:
        listed = (await plane.client.get("/collections")).json()["items"]
        assert [(one["name"], one["stores"]["qdrant"]["points"]) for one in listed] == [("notes", 3)]
        one = (await plane.client.get("/collections/notes")).json()
        assert one["contract"]["model_digest"] == "sha256:hash"
        assert one["objects"] == {"present": 2, "failed": 1, "with_warnings": 0, "chunks": 3}
        assert one["stores"]["weaviate"]["points"] is None
        assert "no collection" in one["stores"]["weaviate"]["error"]
        page = (await plane.client.get("/collections/notes/objects", params={"limit": 2})).json()
        rest = await plane.client.get("/collections/notes/objects", params={"cursor": page["next_cursor"]})
        assert [item["key"] for item in page["items"] + rest.json()["items"]] == ["k0", "k1", "k2"]
        failed = (await plane.client.get("/collections/notes/objects", params={"state": "failed"})).json()
        assert [item["key"] for item in failed["items"]] == ["k1"]
        for path in ("/collections/none", "/collections/none/objects"):
            assert (await plane.client.get(path)).json()["code"] == "collection_not_found"


@pytest.fixture
def checks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each probe check every dependency."""
    for name in ("FRESH_S", "RECHECK_S"):
        monkeypatch.setattr(f"ingestion_engine.services.health.{name}", 0.0)


@pytest.mark.usefixtures("checks_anew")
async def test_readiness_names_every_dependency(world: World) -> None:
    """503 only for systems without which no job can be accepted; others make it degraded."""
    async with world.serve() as plane:
        answer = await plane.client.get("/readyz")
        found = answer.json()
        assert (answer.status_code, found["status"]) == (200, "ready")
        assert set(found["dependencies"]) == {"database", "state", "ollama", "qdrant", "weaviate", "ray"}
        assert found["dependencies"]["ray"]["version"] == "ledger-engine 1"
        world.engine.away = unreachable()
        found = (await plane.client.get("/readyz")).json()
        assert found["status"] == "degraded"
        assert found["dependencies"]["ray"] == {
            "ok": False,
            "required": False,
            "latency_ms": found["dependencies"]["ray"]["latency_ms"],
            "age_s": 0.0,
            "version": None,
            "error": "Ray cannot be reached",
        }

        def away(_path: str) -> None:
            raise TransientError("state_unavailable", "no answer")

        world.state.get = away  # type: ignore[method-assign,assignment]
        answer = await plane.client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert (await plane.client.get("/livez")).status_code == 200


async def test_a_state_store_that_is_not_configured_is_not_ready(world: World) -> None:
    """No job can run without it, so the service must not look healthy."""
    async with world.serve(world.parts(state=None)) as plane:
        answer = await plane.client.get("/readyz")
        state = answer.json()["dependencies"]["state"]
        assert (answer.status_code, state["ok"], state["required"]) == (503, False, True)
        assert "INGEST_STATE_URL" in state["error"]


@pytest.mark.usefixtures("checks_anew")
async def test_a_probe_does_not_wait_for_a_slow_system(world: World) -> None:
    """It is answered while the check still runs; that goes on once, and its result is shown when it is there."""
    begun, release = [], asyncio.Event()

    async def describe(model: str, **_: object) -> ModelInfo:
        begun.append(model)
        await release.wait()
        raise TransientError("ollama_unavailable", "Ollama at http://x failed: connection refused.")

    world.embedder.describe = describe  # type: ignore[method-assign]
    async with world.serve() as plane:
        for _ in range(3):
            found = (await plane.client.get("/readyz")).json()
            assert found["status"] == "degraded"
            assert "still running" in found["dependencies"]["ollama"]["error"]
        assert len(begun) == 1
        release.set()
        for _ in range(2):
            found = (await plane.client.get("/readyz")).json()
            assert "connection refused" in found["dependencies"]["ollama"]["error"]
        release.clear()
        found = (await plane.client.get("/readyz", params={"within_s": 0.01})).json()
        assert "connection refused" in found["dependencies"]["ollama"]["error"], "the last result stands"


@pytest.mark.usefixtures("checks_anew")
async def test_a_good_result_stands_for_ten_seconds_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow answer is no failure, a missing one is."""
    async with world.serve() as plane:
        assert (await plane.client.get("/readyz")).json()["status"] == "ready"
        hang = asyncio.Event()

        async def check() -> str:
            await hang.wait()
            return "late"

        plane.services.health._others["qdrant"] = check
        assert (await plane.client.get("/readyz", params={"within_s": 0.01})).json()["status"] == "ready"
        monkeypatch.setattr("ingestion_engine.services.health.KEEP_S", 0.0)
        found = (await plane.client.get("/readyz", params={"within_s": 0.01})).json()
        assert not found["dependencies"]["qdrant"]["ok"]
        hang.set()
        assert (await plane.client.get("/readyz")).json()["dependencies"]["qdrant"]["version"] == "late"


async def test_metrics_count_jobs_and_requests_by_route(world: World) -> None:
    """Ids create no new series."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.job(job_id)
        text = (await plane.client.get("/metrics")).text
        assert 'ingest_jobs{engine="ray",state="queued"} 1.0' in text
        assert 'ingest_http_requests_total{method="GET",route="/jobs/{job_id}",status="200"} 1.0' in text
        assert job_id not in text


async def test_the_documentation_has_examples_and_problems(world: World) -> None:
    """Every route can return a problem; submissions and searches have examples."""
    async with world.serve() as plane:
        document = (await plane.client.get("/openapi.json")).json()
        for path in ("/ray/jobs", "/spark/jobs", "/search"):
            operation = document["paths"][path]["post"]
            assert operation["requestBody"]["content"]["application/json"]["examples"]
            assert "422" in operation["responses"]
        assert set(document["paths"]) == {
            "/drain",
            "/ray/jobs",
            "/spark/jobs",
            "/spark/manifest",
            "/jobs",
            "/jobs/{job_id}",
            "/jobs/{job_id}/failures",
            "/jobs/{job_id}/events",
            "/jobs/{job_id}/logs",
            "/jobs/{job_id}/cancel",
            "/jobs/{job_id}/retry",
            "/collections",
            "/collections/{name}",
            "/collections/{name}/chunks",
            "/collections/{name}/objects",
            "/aliases",
            "/aliases/{name}",
            "/aliases/{name}/rollback",
            "/aliases/{name}/versions",
            "/audit",
            "/search",
            "/livez",
            "/readyz",
            "/metrics",
        }


async def test_the_page_escapes_and_needs_nothing_from_elsewhere(world: World) -> None:
    """Its policy forbids scripts and external resources; it lists the newest job."""
    async with world.serve() as plane:
        assert "No job yet" in (await plane.client.get("/")).text
        job_id = await plane.submit()
        answer = await plane.client.get("/")
        assert job_id in answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_page_says_why_a_job_waits(world: World) -> None:
    """A paused job looks like one that works, if nothing but its state and counts is shown."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.progress(job_id, phase="paused", note="Qdrant at <http://q> refuses connections.")
        await plane.look()
        page = (await plane.client.get("/")).text
        assert "Qdrant at &lt;http://q&gt; refuses connections." in page
        assert ">paused" in page


async def test_keys_restrict_buckets_collections_and_jobs(world: World, tmp_path: Path) -> None:
    """A restricted key sees only its own jobs and collections; for others it receives 404."""
    make_collection(world, "secret")
    make_collection(world, "team_notes")
    keys = write_keys(tmp_path, {"name": "admin"}, {"name": "team", "buckets": ["docs"], "collections": ["team_*"]})
    async with world.serve(api={"keys_file": keys}) as plane:
        client = plane.client
        assert (await client.get("/jobs")).status_code == 401
        refused = await client.get("/jobs", headers=bearer("nobody"))
        assert refused.json()["code"] == "unauthenticated"
        assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        answer = await client.post("/ray/jobs", json=BODY, headers=bearer("team"))
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (403, "not_allowed", "collection")
        body = {"source": {"bucket": "other"}, "collection": "team_a"}
        answer = await client.post("/ray/jobs", json=body, headers=bearer("team"))
        assert (answer.status_code, answer.json()["field"]) == (403, "source.bucket")
        foreign = (await client.post("/ray/jobs", json=BODY, headers=bearer("admin"))).json()["job_id"]
        own = await client.post("/ray/jobs", json={**BODY, "collection": "team_a"}, headers=bearer("team"))
        listed = (await client.get("/jobs", headers=bearer("team"))).json()["items"]
        assert [job["job_id"] for job in listed] == [own.json()["job_id"]]
        assert len((await client.get("/jobs", headers=bearer("admin"))).json()["items"]) == 2
        for method, path in [("GET", ""), ("GET", "/failures"), ("GET", "/events"), ("GET", "/logs")]:
            answer = await client.request(method, f"/jobs/{foreign}{path}", headers=bearer("team"))
            assert answer.json()["code"] == "job_not_found"
        for path in ("cancel", "retry"):
            answer = await client.post(f"/jobs/{foreign}/{path}", headers=bearer("team"))
            assert answer.json()["code"] == "job_not_found"
        names = (await client.get("/collections", headers=bearer("team"))).json()["items"]
        assert [one["name"] for one in names] == ["team_notes"]
        body = {"collection": "secret", "query": "x"}
        assert (await client.post("/search", json=body, headers=bearer("team"))).status_code == 403
        assert (await client.get("/collections/secret", headers=bearer("team"))).status_code == 403


async def test_without_a_key_health_is_bare_and_the_page_shows_no_jobs(world: World, tmp_path: Path) -> None:
    """Probes require no key; without one, the response has no addresses and no versions."""
    keys = write_keys(tmp_path, {"name": "admin"})
    world.engine.away = unreachable()
    async with world.serve(api={"keys_file": keys}) as plane:
        job_id = (await plane.client.post("/ray/jobs", json=BODY, headers=bearer("admin"))).json()["job_id"]
        assert (await plane.client.get("/readyz")).json()["dependencies"]["ray"]["error"] is None
        shown = (await plane.client.get("/readyz", headers=bearer("admin"))).json()
        assert shown["dependencies"]["ray"]["error"] == "Ray cannot be reached"
        assert job_id not in (await plane.client.get("/")).text


async def test_changed_keys_count_without_a_restart(world: World, tmp_path: Path) -> None:
    """An invalid file leaves the keys unchanged."""
    keys = write_keys(tmp_path, {"name": "admin"})
    async with world.serve(api={"keys_file": keys}) as plane:
        write_keys(tmp_path, {"name": "admin"}, {"name": "second"})
        assert (await plane.client.get("/jobs", headers=bearer("second"))).status_code == 200
        keys.write_text("[")
        assert (await plane.client.get("/jobs", headers=bearer("second"))).status_code == 200


@pytest.mark.parametrize("text", ["{}", '[{"name": "a"}]', '[{"name": "a", "key_sha256": "xyz"}]', "nonsense"])
def test_a_broken_keys_file_stops_the_service(world: World, tmp_path: Path, text: str) -> None:
    """The message names the setting; the service does not start without authentication."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match="INGEST_API__KEYS_FILE"):
        create_app(world.settings(api={"keys_file": path}), world.parts())


async def test_event_streams_send_events_over_http(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events ``state`` and ``progress`` contain the whole job; the stream ends with the job."""
    monkeypatch.setattr(job_feed, "POLL_S", 0.01)
    async with world.serve() as plane:
        job_id = await plane.submit()
        reading = asyncio.create_task(plane.client.get(f"/jobs/{job_id}/events"))
        await eventually(lambda: plane.services.metrics.load.streams == 1)
        for step in (world.engine.start, world.engine.progress, world.engine.finish):
            await plane.look()
            step(job_id)
            await plane.look()
        async with asyncio.timeout(30):
            answer = await reading
        events = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
        data = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert events[0] == "state"
        assert data[-1]["state"] == "succeeded"
        assert [one["state"] for one in data].count("succeeded") == 1


def test_the_manual_names_every_route(world: World) -> None:
    """docs/api.md and the routes agree; names of path parameters may differ."""
    manual = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    routes = create_app(world.settings()).openapi()["paths"]
    named = {
        (method, re.sub(r"\{\w+\}", "{}", path))
        for method, path in re.findall(r"(GET|POST|PUT|DELETE) (/[^\s`?]*)", manual)
    }
    served = {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, verbs in routes.items() for method in verbs}
    assert named - {("GET", "/docs"), ("GET", "/openapi.json")} == served
