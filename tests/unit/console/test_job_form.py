"""The form for a job: from texts to the request and back, errors at their fields, plans, and what is started."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.datastructures import FormData

from ingestion_engine.access.principal import Principal
from ingestion_engine.console.charts import divide_bar, draw_throughput
from ingestion_engine.console.job_filters import JobListForm
from ingestion_engine.console.job_form import JobForm
from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.models.jobs import ThroughputSample, TimeShareView
from ingestion_engine.services.plan_estimates import estimate_plan
from support.control import World, queued

FORM = {"bucket": "docs", "collection": "notes", "stores": ["qdrant", "weaviate"], "mode": "sync"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def read(**fields: Any) -> JobForm:
    items = [
        (name, one)
        for name, value in {**FORM, **fields}.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    return JobForm.read(FormData(items))


@pytest.mark.parametrize(
    "body",
    [
        {"source": {"bucket": "docs"}, "collection": "notes"},
        {
            "source": {"bucket": "docs", "prefix": "a/", "include": ["**/*.md", "*.pdf"], "exclude": ["x/**"]},
            "alias": "live",
            "mode": "full",
            "stores": ["qdrant"],
            "delete_missing": False,
            "allow_mass_delete": True,
            "retry_failed": True,
            "embedding": {"model": "m", "prefix": "p: ", "query_prefix": "q: "},
            "chunking": {"max_chars": 800, "overlap_chars": 80},
            "parallelism": 12,
            "priority": 9,
            "failure_budget": {"max_fraction": 0.25, "min_objects": 3},
            "max_runtime_s": 5400,
            "metadata": {"team": "docs", "note": "a=b"},
        },
    ],
    ids=["defaults", "everything"],
)
def test_the_form_of_a_request_makes_the_same_request(body: dict[str, Any]) -> None:
    """So "new job like this" is the job like this."""
    request = JobRequest.model_validate(body)
    form = JobForm.of_request(request.model_dump(mode="json"), "ray")
    sent = read(**{**form.values, "stores": list(form.stores)})
    assert sent.to_request() == request
    assert sent.errors == {}


@pytest.mark.parametrize(
    ("fields", "name", "sentence"),
    [
        ({"bucket": ""}, "bucket", "Enter the name of a bucket."),
        ({"collection": "9x"}, "collection", "A name consists of"),
        ({"collection": ""}, "collection", "Enter a collection, or an alias"),
        ({"alias": "notes"}, "collection", "The collection and its alias must have different names."),
        ({"stores": []}, "stores", "at least 1 item"),
        ({"max_chars": "many"}, "max_chars", "Enter a number."),
        ({"max_chars": "10.5"}, "max_chars", "Enter a whole number."),
        ({"max_chars": "1e400"}, "max_chars", "Enter a whole number."),
        ({"parallelism": "nan"}, "parallelism", "Enter a whole number."),
        ({"overlap_chars": "1000"}, "overlap_chars", "Overlap in characters must be at most half"),
        ({"max_failed_percent": "200"}, "max_failed_percent", "less than or equal to 1"),
        ({"metadata": "x"}, "metadata", "Enter one name=value per line"),
    ],
)
def test_errors_are_at_their_fields(fields: dict[str, Any], name: str, sentence: str) -> None:
    """A sentence for a person, not a path of the request."""
    form = read(**fields)
    assert form.to_request() is None
    assert sentence in form.errors[name]


async def send(plane: Any, path: str, **fields: Any) -> Any:
    body = urlencode({**FORM, **fields}, doseq=True)
    return await plane.client.post(path, content=body, headers=await browser_headers(plane))


async def browser_headers(plane: Any) -> dict[str, str]:
    page = await plane.client.get("/console/jobs/new")
    token = re.search(r'name="csrf_token" value="([0-9a-f]*)"', page.text)
    assert token is not None
    return {"content-type": "application/x-www-form-urlencoded", "x-csrf-token": token[1]}


async def test_a_form_that_is_sent_twice_is_one_job(world: World) -> None:
    """Also the plan of a new version of an alias, whose collection is named by the form."""
    async with world.serve() as plane:
        page = (await plane.client.get("/console/jobs/new")).text
        found = re.search(r'name="key" value="(job-[a-z0-9]+)"', page)
        assert found is not None
        fields = {"key": found[1], "collection": "", "alias": "live", "do": "plan"}
        first, second = [await send(plane, "/console/jobs/new", **fields) for _ in range(2)]
        assert first.status_code == second.status_code == 303
        assert first.headers["location"] == second.headers["location"]
        assert first.headers["location"].endswith("/plan?alias=live")
        [job] = (await plane.client.get("/jobs")).json()["items"]
        assert job["mode"] == "plan"
        assert job["collection"].startswith("live_")
        plan = first.headers["location"].partition("?")[0]
        start = plan.removesuffix("plan") + "start"
        started = [await send(plane, start, alias="live") for _ in range(2)]
        assert started[0].headers["location"] == started[1].headers["location"]
        request = (await plane.client.get("/jobs?limit=1")).json()["items"][0]["request"]
        assert (request["mode"], request["alias"], request["collection"]) == ("sync", "live", job["collection"])
        job_id = started[0].headers["location"].rpartition("/")[2]
        again = (await plane.client.get(f"/console/jobs/new?like={job_id}")).text
        assert 'name="alias" type="text" value="live"' in again
        assert 'name="collection" type="text" value=""' in again, "a job like it makes a version of its own"


def test_the_filter_takes_what_it_does_not_know_as_any(world: World) -> None:
    """A link of another release, or a hand-made one, lists more, and never fails."""
    now = dt.datetime(2026, 1, 31, 12, 30, 15, tzinfo=dt.UTC)
    form = JobListForm.read({"state": "lost", "engine": "x", "since": "3y", "collection": " a\x00b "})
    assert form == JobListForm(collection="ab")
    assert form.url(cursor="c") == "/?collection=ab&cursor=c"
    where = JobListForm.read({"state": "active", "since": "24h"}).condition(Principal(), now)
    assert set(where.states or ()) == set(JobState) - FINAL_STATES
    assert where.created_after == dt.datetime(2026, 1, 30, 12, 30, tzinfo=dt.UTC)
    restricted = Principal(name="team", buckets=("docs",))
    assert JobListForm.read({"owner": "other"}).condition(restricted, now).seen_by == "team"


def test_a_chart_is_drawn_from_differences() -> None:
    """Two samples are no chart; a clock that goes back is left out; the largest value decides the scale."""
    samples = [
        ThroughputSample(at=f"2026-01-01T00:00:{second:02d}Z", chunks=chunks, bytes=chunks * 10, objects=chunks)
        for second, chunks in [(0, 0), (10, 100), (5, 120), (20, 330)]
    ]
    chart = draw_throughput(samples)
    assert chart is not None
    assert [one.chunks_per_s for one in chart.intervals] == [10.0, 14.0]
    assert [label for _, label in chart.grid] == ["0", "10", "20"]
    assert draw_throughput(samples[:2]) is None
    assert draw_throughput(None) is None


def test_the_parts_of_a_bar_follow_each_other() -> None:
    """Each begins where the former one ends; machines of a later release have a name and a colour, too."""
    parts = [("embedder", 0.6), ("workers", 0.3), ("of_later", 0.1)]
    bar = divide_bar([TimeShareView(machine=name, share=share, seconds=1.0) for name, share in parts])
    assert [(one.name, one.start, one.width, one.series) for one in bar] == [
        ("Embedder", 0, 60, 1),
        ("Processors of the workers", 60, 30, 4),
        ("of_later", 90, 10, 6),
    ]


def test_a_plan_is_estimated_from_the_pace_of_earlier_jobs() -> None:
    """Those on its collection count before others; jobs that are too small show no pace."""
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def ended(number: int, collection: str, chunks: int, seconds: float) -> Any:
        started = begin + dt.timedelta(seconds=number + 5)
        return queued(
            number,
            collection,
            state=JobState.SUCCEEDED,
            started_at=started,
            finished_at=started + dt.timedelta(seconds=seconds),
            counts={"chunks": chunks},
        )

    plan = queued(9, "a", state=JobState.SUCCEEDED, counts={"chunks_estimated": 1000})
    assert estimate_plan(plan, []) is None
    assert estimate_plan(plan, [ended(1, "a", 10, 1.0)]) is None
    other = estimate_plan(plan, [ended(1, "b", 1000, 10.0), ended(2, "c", 1000, 50.0)])
    assert other is not None
    assert (other.chunks_per_s, other.jobs, other.same_collection) == (60.0, 2, False)
    own = estimate_plan(plan, [ended(1, "b", 1000, 10.0), ended(2, "a", 1000, 50.0)])
    assert own is not None
    assert (own.seconds, own.chunks_per_s, own.start_s, own.same_collection) == (55.0, 20.0, 5.0, True)


def test_a_copied_url_is_bucket_and_prefix() -> None:
    """Into the field of the bucket people paste what the tools of S3 print."""
    form = read(bucket="s3://docs/handbook/travel/", prefix="")
    request = form.to_request()
    assert request is not None, form.errors
    assert (request.source.bucket, request.source.prefix) == ("docs", "handbook/travel/")
    assert read(bucket="s3://docs/a/", prefix="b/").to_request() is None, "which of both prefixes is meant is unknown"
