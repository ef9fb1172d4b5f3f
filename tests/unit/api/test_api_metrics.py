"""Metrics of the service: what they show, that nothing is stale, and that no client makes series without end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.services.database import Database
from support.control import World, unreachable
from support.prometheus_lint import lint

DOCS = Path(__file__).parents[3] / "docs" / "operate" / "monitoring.md"
WORK = {
    "stage_seconds": {"fetch": 1.5, "embed": 2.0},
    "wait_seconds": {"qdrant": 3.0},
    "requests": {"embedder": {"done": 4, "failed": 1, "seconds": 0.5}},
}
COUNTS = {"listed": 10, "planned": 10, "done": 4, "chunks_embedded": 8, "bytes_read": 400, "embed_calls": 2,
          "points_written.qdrant": 8, "points_deleted.qdrant": 3, "points_written.weaviate": 7}  # fmt: skip


def series(text: str, name: str) -> dict[str, float]:
    """Return the samples of one metric, by the text of their labels."""
    rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return {labels.removeprefix(name): float(value) for labels, _, value in rows}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_invented_methods_and_paths_make_no_series(world: World) -> None:
    """5,200 methods made the response 22.8 MB large."""
    async with world.serve() as plane:
        for number in range(50):
            await plane.client.request(f"BREW{number}", f"/jobs/{number}/brew/{number}")
            await plane.client.request(f"brew{number}", "/jobs")
        text = (await plane.client.get("/metrics")).text
        counted = series(text, "ingest_http_requests_total")
        assert "brew" not in text.lower()
        assert sum(value for labels, value in counted.items() if 'method="other"' in labels) == 100
        assert len(counted) <= 4


async def test_waiting_jobs_are_shown_by_reason_and_age_by_the_leader_only(world: World) -> None:
    """A copy that has lost the lead shows none of them: its numbers would be stale, and a sum would count twice."""
    async with world.serve(ray={"address": "http://ray:8265", "max_jobs": 1}) as plane:
        await plane.submit(collection="one")
        await plane.submit(collection="one")
        await plane.submit(collection="two")
        await plane.look()
        text = (await plane.client.get("/metrics")).text
        assert series(text, "ingest_jobs_waiting") == {
            '{engine="ray",reason="collection_in_use"}': 1,
            '{engine="ray",reason="engine_full"}': 1,
        }
        assert len(series(text, "ingest_jobs_oldest_wait_seconds")) == 2
        assert set(series(text, "ingest_jobs_oldest_active_seconds")) >= {'{engine="ray",state="queued"}'}
        dispatcher = plane.services.dispatcher
        assert dispatcher is not None
        await dispatcher.leadership.close()
        text = (await plane.client.get("/metrics")).text
        assert series(text, "ingest_dispatcher_leader") == {"": 0}
        assert not series(text, "ingest_jobs_waiting")
        assert not series(text, "ingest_jobs_oldest_wait_seconds")


async def test_a_job_shows_what_it_waits_for_as_a_code(world: World) -> None:
    """From the database, so that each copy shows it: before admission, until its driver starts, and while it runs."""
    async with world.serve() as plane, world.serve() as other:
        first, second = await plane.submit(), await plane.submit()
        await plane.look()
        assert (await other.job(second))["waits_for"] == "collection_in_use"
        assert (await other.job(first))["waits_for"] == "engine_start"
        world.engine.progress(first, waits_for="qdrant", timings=WORK)
        await plane.look()
        view = await other.job(first)
        assert (view["waits_for"], view["timings"]) == ("qdrant", WORK)
        world.engine.progress(first, waits_for=None)
        await plane.look()
        assert (await other.job(first))["waits_for"] is None
        world.engine.finish(first, counts={"done": 1, "failed": 2, "failures.no_text": 2})
        await plane.look()
        view = await other.job(first)
        assert (view["waits_for"], view["failures_by_code"]) == (None, {"no_text": 2})
        assert "failures.no_text" not in view["counts"]


async def test_points_are_shown_by_store_and_unknown_where_nobody_counted_them(world: World) -> None:
    """Apart from the other counts; a driver of an earlier release reports none, which is not zero."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        assert (await plane.job(job_id))["store_points"] is None
        await plane.look()
        world.engine.progress(job_id, counts={"listed": 1})
        await plane.look()
        assert (await plane.job(job_id))["store_points"] is None
        world.engine.finish(job_id, counts={**COUNTS, "points_found.qdrant": 8, "points_found.weaviate": 8})
        await plane.look()
        view = await plane.job(job_id)
        assert view["store_points"] == {
            "qdrant": {"written": 8, "deleted": 3, "found": 8},
            "weaviate": {"written": 7, "deleted": None, "found": 8},
        }
        assert not [name for name in view["counts"] if name.startswith("points_")]


async def test_jobs_of_an_engine_that_is_unavailable_wait_for_it(world: World) -> None:
    """Also the one that is admitted already, whose driver could not be submitted."""
    async with world.serve() as plane:
        world.engine.away = unreachable(maybe_started=True)
        await plane.submit(collection="one")
        await plane.submit(collection="two")
        await plane.look(3)
        waiting = series((await plane.client.get("/metrics")).text, "ingest_jobs_waiting")
        assert waiting == {'{engine="ray",reason="engine_unavailable"}': 2}


async def test_what_a_job_did_is_counted_once_by_whoever_changes_its_row(world: World) -> None:
    """A copy that takes over goes on from the row; the sum over both is what the job has reported."""
    texts = []
    async with world.serve() as first, world.serve() as second:
        job_id = await first.submit()
        await first.look(3)
        world.engine.progress(job_id, counts=COUNTS, timings=WORK)
        await first.look()
        assert first.services.dispatcher is not None
        await first.services.dispatcher.leadership.close()
        more = {**COUNTS, "done": 9, "failed": 1, "failures.no_text": 1, "warnings.lines_skipped": 2}
        world.engine.finish(job_id, "partially_succeeded", counts=more, timings=WORK)
        await second.look()
        texts = [(await plane.client.get("/metrics")).text for plane in (first, second)]
    objects = [series(text, "ingest_objects_total") for text in texts]
    assert objects[0] == {'{engine="ray",outcome="done"}': 4}
    assert objects[1] == {'{engine="ray",outcome="done"}': 5, '{engine="ray",outcome="failed"}': 1}
    for name, expected in (
        ("ingest_job_attempts_total", 1),
        ("ingest_jobs_ended_total", 1),
        ("ingest_job_duration_seconds_count", 1),
        ("ingest_object_failures_total", 1),
        ("ingest_object_warnings_total", 2),
        ("ingest_chunks_total", 8),
        ("ingest_points_total", 18),
        ("ingest_bytes_read_total", 400),
        ("ingest_embed_calls_total", 2),
        ("ingest_job_wait_seconds_total", 3),
        ("ingest_worker_seconds_total", 3.5),
        ("ingest_worker_requests_total", 5),
        ("ingest_worker_request_seconds_total", 0.5),
    ):
        assert sum(sum(series(text, name).values()) for text in texts) == expected, name


async def test_a_scrape_is_well_formed_and_the_documentation_has_every_metric(world: World) -> None:
    """Also while the database does not answer, and when engines report what this version does not know."""
    async with world.serve() as plane:
        job_id, failed = await plane.submit(), await plane.submit(collection="two")
        await plane.look(3)
        world.engine.progress(job_id, counts=COUNTS, timings=WORK)
        await plane.look()
        error = {"code": 'bad "code"\n', "message": "m"}
        world.engine.finish(failed, "failed", error=error, counts={"failures.x\ny": 1}, timings={})
        world.engine.finish(job_id)
        await plane.look()
        await plane.submit(collection="three")
        await plane.client.get("/nowhere")
        text = (await plane.client.get("/metrics")).text
    assert lint(text) == []
    exported = set(re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE))
    documented = set(re.findall(r"^\| `(ingest_(?!gateway_)\w+)` \|", DOCS.read_text("utf-8"), flags=re.MULTILINE))
    assert exported == documented


async def test_a_lost_database_takes_its_numbers_along(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of jobs vanish; everything else is still served."""
    async with world.serve() as plane:
        await plane.submit()
        assert series((await plane.client.get("/metrics")).text, "ingest_jobs")

        def connect(_database: Database) -> Any:
            raise OSError(111, "refused")

        monkeypatch.setattr(plane.services.store.database.engine.sync_engine, "connect", connect)
        monkeypatch.setattr(type(plane.services.store.database.engine), "connect", connect)
        await plane.client.get("/jobs")
        monkeypatch.setattr("ingestion_engine.services.health.RECHECK_S", 0.0)
        text = (await plane.client.get("/metrics")).text
        assert not series(text, "ingest_jobs")
        assert series(text, "ingest_dependency_up")['{name="database"}'] == 0
        assert lint(text) == []


@pytest.mark.parametrize("probes", [1, 200])
async def test_probes_cost_no_more_requests_than_their_answers_are_kept(world: World, probes: int) -> None:
    """Readiness and metrics share the checks; the age of each is shown."""
    checks = 0

    async def check() -> str:
        nonlocal checks
        checks += 1
        return "1"

    async with world.serve() as plane:
        plane.services.health._others["qdrant"] = check
        await plane.client.get("/readyz", params={"within_s": 30})
        found: Sequence[Any] = await asyncio.gather(
            *(plane.client.get(path) for path in ["/readyz", "/metrics"] for _ in range(probes))
        )
        assert {answer.status_code for answer in found} == {200}
        view = (await plane.client.get("/readyz")).json()["dependencies"]["qdrant"]
        assert (view["ok"], view["version"]) == (True, "1")
        assert 0 <= view["age_s"] < 5
    assert checks == 1


async def test_a_request_that_fails_has_its_system_checked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept result of a check would say for seconds that the state store is available."""
    monkeypatch.setattr("ingestion_engine.services.health.RECHECK_S", 0.0)
    async with world.serve() as plane:
        assert (await plane.client.get("/readyz")).status_code == 200

        def away(_path: str) -> None:
            raise TransientError("state_unavailable", "no answer")

        monkeypatch.setattr(world.state, "get", away)
        assert (await plane.client.get("/readyz")).status_code == 200, "kept"
        assert (await plane.client.get("/collections/notes")).status_code == 503
        assert (await plane.client.get("/readyz")).status_code == 503
