"""Pages of jobs: who sees and does what, and what a page with very many failures reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request

from ingestion_engine.console.routes.jobs import JobParts
from ingestion_engine.state import failures as failures_module
from ingestion_engine.state.ledger import Ledger
from support.console_jobs import make_failures
from support.control import Plane, World, bearer, write_keys

FORM = {"bucket": "docs", "collection": "other", "stores": "qdrant", "key": "k", "do": "start"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def fail_some(world: World, plane: Plane, codes: dict[str, int], **headers: str) -> str:
    """Return a job of the caller that has ended with failures."""
    answer = await plane.client.post(
        "/ray/jobs", json={"source": {"bucket": "docs"}, "collection": "notes"}, headers=headers
    )
    job_id: str = answer.json()["job_id"]
    await plane.look()
    Ledger(world.state, job_id).write_failures("a01-00001", make_failures(codes))
    counts = {"failed": sum(codes.values()), **{f"failures.{code}": number for code, number in codes.items()}}
    world.engine.finish(job_id, "failed", counts=counts)
    await plane.look()
    return job_id


@pytest.mark.parametrize("scope", ["search", "read", "submit", "delete", "admin"])
async def test_pages_and_forms_of_jobs_require_their_scope(world: World, tmp_path: Path, scope: str) -> None:
    """A reader changes nothing, and is offered nothing; what a job was asked for is read by readers only."""
    keys = write_keys(tmp_path, {"name": "all"}, {"name": scope, "scopes": [scope]})
    async with world.serve(api={"keys_file": keys}) as plane:
        job_id = await fail_some(world, plane, {"no_text": 2}, **bearer("all"))
        root = f"/console/jobs/{job_id}"
        pages = [
            "/",
            root,
            f"{root}/failures",
            f"{root}/log",
            f"{root}/plan",
            f"{root}/parts/failures",
            f"{root}/events",
        ]
        for path in pages:
            answer = await plane.client.get(path, headers=bearer(scope))
            assert answer.status_code == (200 if scope == "read" else 403), path
            assert 'action="/console/jobs/' not in answer.text.replace(f'action="{root}/failures"', "")
        forms = {f"{root}/cancel": {}, f"{root}/retry": {"key": "k"}, "/console/jobs/new": FORM, f"{root}/start": {}}
        for path, fields in forms.items():
            answer = await plane.client.post(path, data=fields, headers=bearer(scope))
            done = 409 if path.endswith("start") else 303  # it is no plan
            assert answer.status_code == (done if scope == "submit" else 403), path
        assert (await plane.client.get("/console/jobs/new", headers=bearer(scope))).status_code == (
            200 if scope == "submit" else 403
        )
        assert (await plane.client.get(f"/console/jobs/new?like={job_id}", headers=bearer(scope))).status_code == 403


async def test_jobs_of_others_do_not_exist(world: World, tmp_path: Path) -> None:
    """A key that is limited to some buckets sees its own jobs only, on every page."""
    keys = write_keys(
        tmp_path,
        {"name": "all"},
        {"name": "team", "buckets": ["team-*"]},
        {"name": "guest", "buckets": ["team-*"], "scopes": ["read"]},
    )
    async with world.serve(api={"keys_file": keys}) as plane:
        job_id = await fail_some(world, plane, {"no_text": 1}, **bearer("all"))
        assert job_id not in (await plane.client.get("/?owner=all", headers=bearer("team"))).text
        empty = (await plane.client.get("/", headers=bearer("guest"))).text
        assert "You see only the jobs that were submitted as guest" in empty
        for path in ("", "/failures", "/log", "/plan", "/events"):
            answer = await plane.client.get(f"/console/jobs/{job_id}{path}", headers=bearer("team"))
            assert answer.status_code == 404, path
            assert "There is nothing here" in answer.text
        for path in ("cancel", "retry", "start"):
            answer = await plane.client.post(
                f"/console/jobs/{job_id}/{path}", data={"key": "k"}, headers=bearer("team")
            )
            assert answer.status_code == 404, path
        answer = await plane.client.get(f"/console/jobs/new?like={job_id}", headers=bearer("team"))
        assert answer.status_code == 404


async def test_a_code_at_the_end_of_many_failures_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page goes on reading until it has something to show, and says so when it has not."""
    monkeypatch.setattr(failures_module, "SCANNED", 10)
    async with world.serve() as plane:
        job_id = await fail_some(world, plane, {"corrupt_document": 95, "no_text": 2})
        page = (await plane.client.get(f"/console/jobs/{job_id}/failures?code=no_text")).text
        assert page.count("no_text-0") == 2
        monkeypatch.setattr(failures_module, "SCANNED", 5)
        page = (await plane.client.get(f"/console/jobs/{job_id}/failures?code=no_text")).text
        assert "None in this part of the list" in page
        assert "Next page" in page


async def test_text_of_objects_is_text(world: World) -> None:
    """Keys and reasons are chosen by whoever uploads; a page shows them and runs nothing."""
    async with world.serve() as plane:
        job_id = await fail_some(world, plane, {"no_text": 1})
        evil = {"key": "<img src=x onerror=alert(1)>", "code": "no_text", "reason": "</script><b>", "retryable": False}
        Ledger(world.state, job_id).write_failures("a01-00001", [evil])
        for path in ("", "/failures"):
            page = (await plane.client.get(f"/console/jobs/{job_id}{path}")).text
            assert "&lt;img src=x onerror=alert(1)&gt;" in page
            assert "<img src=x" not in page
            assert "<b>" not in page


async def test_every_page_of_a_job_shows_what_nobody_sees(world: World) -> None:
    """The prefix of a job, also while it is planned, and the keys of its failures."""
    async with world.serve() as plane:
        body = {"source": {"bucket": "docs", "prefix": "pay\u200bpal/"}, "collection": "notes"}
        answer = await plane.client.post("/ray/jobs", json=body)
        job_id = answer.json()["job_id"]
        await plane.look()
        page = await plane.client.get(f"/console/jobs/{job_id}/plan")
        assert 'data-code="U+200B"' in page.text
        (failure,) = make_failures({"no_text": 1})
        Ledger(world.state, job_id).write_failures("a01-00001", [{**failure, "key": "pay\u3164pal/a.txt"}])
        world.engine.finish(job_id, "failed", counts={"failed": 1, "failures.no_text": 1})
        await plane.look()
        for path, code in (("", "200B"), ("", "3164"), ("/failures", "3164")):
            page = await plane.client.get(f"/console/jobs/{job_id}{path}")
            assert f'data-code="U+{code}"' in page.text, (path, code)


async def test_a_list_that_looks_the_same_is_not_sent_again(world: World) -> None:
    """Readers of the same list share one query, and receive 204 while there is no news."""
    async with world.serve() as plane:
        await plane.submit()
        page = (await plane.client.get("/")).text
        url = page.partition('hx-get="')[2].partition('"')[0].replace("&amp;", "&")
        assert url.startswith("/?part=table&seen=")
        assert (await plane.client.get(url)).status_code == 204
        await plane.submit(collection="second")
        answer = await plane.client.get("/?part=table&seen=other&collection=second")
        assert answer.status_code == 200
        assert "second" in answer.text
        assert "<html" not in answer.text


async def test_the_end_of_a_job_is_news_for_every_part(world: World) -> None:
    """Also where a chart and failures were sent just before: when it began and ended, and that it can be retried."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        parts = JobParts(Request({"type": "http", "state": {}, "headers": []}))
        world.engine.progress(job_id, counts={"planned": 9, "failed": 1, "failures.no_text": 1})
        await plane.look()
        job = await plane.services.jobs.get(job_id)
        assert {"about", "failures"} <= dict(parts.find_news(job, None)).keys()
        counts = {"planned": 9, "done": 8, "failed": 1, "failures.no_text": 1}
        world.engine.finish(job_id, "partially_succeeded", counts=counts)
        await plane.look()
        news = dict(parts.find_news(await plane.services.jobs.get(job_id), None))
        assert "<dt>Ended</dt>" in news["about"]
        assert "failures" in news, "the buttons to retry appear with the end"
