"""Jobs in the console: the list, a new one with its plan, watching it, failures, retries, cancellation."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from playwright.async_api import Browser, Page, expect

from ingestion_engine.console.routes import jobs as pages_of_jobs
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.job_store import JobFilter
from ingestion_engine.state.ledger import Ledger
from support.browser import NARROW, Visitor, visiting
from support.console_jobs import make_failures, make_points, make_samples
from support.control import Plane, World, overwrite

CODES = {"corrupt_document": 3, "no_text": 2}


async def newest(plane: Plane) -> str:
    answer = await plane.client.get("/jobs?limit=1")
    job_id: str = answer.json()["items"][0]["job_id"]
    return job_id


async def fail_some(world: World, plane: Plane, collection: str = "notes") -> str:
    """Return a job that has ended with failures of two codes."""
    job_id = await plane.submit(collection=collection)
    await plane.look()
    Ledger(world.state, job_id).write_failures("a01-00001", make_failures(CODES))
    counts = {"listed": 10, "planned": 10, "done": 5, "failed": 5} | {f"failures.{c}": n for c, n in CODES.items()}
    world.engine.finish(job_id, "partially_succeeded", counts=counts)
    await plane.look()
    return job_id


async def test_from_the_plan_to_the_end(
    visitor: Visitor, world: World, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan shows what would be done and starts exactly that; the page then follows the job by itself."""
    monkeypatch.setattr(pages_of_jobs, "CHART_EVERY_S", 0.0)
    page = await visitor.visit("/")
    await page.get_by_role("link", name="Plan the first job").click()
    await visitor.check(page)
    await page.get_by_label("Bucket", exact=True).fill("docs")
    await page.get_by_label("Prefix", exact=True).fill("handbook/")
    await page.get_by_label("Alias", exact=True).fill("handbook")
    await page.get_by_label("Embed every object again").check()
    await page.get_by_role("button", name="Show the plan").click()
    await expect(page.get_by_text("Comparing")).to_be_visible()
    await visitor.check(page)
    plan = await newest(plane)
    await plane.look()
    counts = {"listed": 1200, "planned": 1200, "new": 1200, "bytes_planned": 48_000_000, "chunks_estimated": 6900}
    world.engine.finish(plan, counts=counts)
    await plane.look()
    await expect(page.get_by_role("row", name="Ingest")).to_contain_text("1,200")
    await expect(page.get_by_text("48 MB")).to_be_visible()
    await expect(page.get_by_text("6,900")).to_be_visible()
    await expect(page.get_by_text("unknown until a first job")).to_be_visible()
    await visitor.check(page)

    await page.get_by_role("button", name="Start this job").dblclick()
    await expect(page).to_have_url(re.compile(r"/console/jobs/job-[a-z0-9]+$"))
    job_id = await newest(plane)
    assert page.url.endswith(job_id)
    planned, started = (await plane.job(plan))["request"], (await plane.job(job_id))["request"]
    assert started == {**{k: v for k, v in planned.items() if k != "plan_full"}, "mode": "full", "alias": "handbook"}
    assert len((await plane.client.get("/jobs")).json()["items"]) == 2

    await plane.look()
    timings = {
        "stage_seconds": {"embed": 60.0, "parse": 20.0},
        "requests": {"qdrant": {"done": 9, "failed": 1, "seconds": 2}},
    }
    begin = utc_now() - dt.timedelta(seconds=90)
    samples = make_samples(begin, 90, 40.0)
    world.engine.progress(job_id, percent=40.0, eta_s=75.0, timings=timings, throughput=samples)
    await plane.look()
    await overwrite(plane.services.store, job_id, started_at=begin)
    await expect(page.get_by_text("about 1 min 15 s left")).to_be_visible()
    await expect(page.locator(".badge")).to_have_text("running")
    await expect(page.locator("#limits ~ p")).to_have_text(re.compile("Embedder"))
    await expect(page.locator("svg.chart .line")).to_be_visible()
    await visitor.check(page)
    await page.get_by_text("As a table").click()
    await expect(page.get_by_text("Ended", exact=True)).to_have_count(0)
    counts = {"listed": 10, "planned": 10, "done": 10, **make_points(written=120, deleted=7)}
    world.engine.finish(job_id, timings=timings, throughput=samples, counts=counts)
    await plane.look()
    await expect(page.locator(".badge")).to_have_text("succeeded")
    await expect(page.get_by_text("Ended", exact=True)).to_be_visible()
    await expect(page.get_by_role("row", name="Qdrant")).to_have_text(re.compile(r"Qdrant\s*120\s*7\s*10\s*1\s*200 ms"))
    await expect(page.get_by_role("row", name="Weaviate")).to_have_text(re.compile(r"Weaviate\s*120\s*7\s*0\s*0"))
    await expect(page.get_by_text("Chunks/s")).to_be_visible()  # what was unfolded stays so
    await expect(page.get_by_text("Cancel…")).to_be_hidden()
    await visitor.check(page)


async def test_stores_with_other_points_are_marked(visitor: Visitor, world: World, plane: Plane) -> None:
    """The column and a sentence say so; of workers that counted nothing, the numbers are unknown and not marked."""
    job_id, old = await plane.submit(collection="notes"), await plane.submit(collection="old")
    await plane.look()
    points = {**make_points(written=1200, deleted=7), "points_written.weaviate": 1199}
    world.engine.progress(job_id, counts=points)
    world.engine.finish(old, timings={"requests": {"qdrant": {"done": 9, "failed": 0, "seconds": 2}}})
    await plane.look()
    page = await visitor.visit(f"/console/jobs/{job_id}")
    await expect(page.locator("td .differs")).to_have_text(["1,200", "1,199"])
    await expect(page.get_by_text("The stores differ in the points written.")).to_contain_text("may be behind")
    await visitor.check(page)
    world.engine.finish(job_id, counts=points)
    await plane.look()
    await expect(page.get_by_role("link", name="Verify the collection")).to_be_visible()
    await visitor.check(page)
    page = await visitor.visit(f"/console/jobs/{old}")
    await expect(page.get_by_role("row", name="Qdrant")).to_have_text(re.compile(r"Qdrant\s*unknown\s*unknown\s*9\s*0"))
    await expect(page.locator(".differs")).to_have_count(0)


async def test_the_form_says_what_to_correct_where(visitor: Visitor, plane: Plane) -> None:
    """What was entered stays; folded fields with an error are unfolded."""
    page = await visitor.visit("/console/jobs/new")
    visitor.expected.append("status of 4")
    await page.get_by_label("Bucket", exact=True).fill("No_Bucket")
    await page.get_by_text("More: filters").click()
    await visitor.check(page)
    await page.get_by_label("Characters of a chunk").fill("many")
    await page.get_by_label("Metadata of every point").fill("team=docs\nwrong")
    await page.get_by_role("button", name="Show the plan").click()
    await expect(page.get_by_role("alert")).to_contain_text("4 fields need a correction")
    await expect(page.get_by_label("Bucket", exact=True)).to_have_value("No_Bucket")
    await expect(page.locator("#bucket-error")).to_contain_text("A bucket name consists of")
    await expect(page.locator("#collection-error")).to_contain_text("Enter a collection, or an alias")
    await expect(page.locator("#max_chars-error")).to_have_text("Enter a number.")
    await expect(page.locator("#metadata-error")).to_contain_text("'wrong' is none")
    await visitor.check(page)
    await page.get_by_label("Characters of a chunk").fill("")
    await page.get_by_label("Metadata of every point").fill("")
    await page.get_by_label("Bucket", exact=True).fill("other")
    await page.get_by_label("Collection", exact=True).fill("notes")
    await page.get_by_role("button", name="Start without a plan").click()
    await expect(page.locator("#bucket-error")).to_contain_text("There is no bucket 'other'")
    assert (await plane.client.get("/jobs")).json()["items"] == []


async def test_failures_are_grouped_explained_and_retried(visitor: Visitor, world: World, plane: Plane) -> None:
    """By code, with an example and what helps; a retry of one code is a job of exactly these objects."""
    job_id = await fail_some(world, plane)
    page = await visitor.visit(f"/console/jobs/{job_id}")
    row = page.get_by_role("row", name="no_text")
    await expect(row).to_contain_text("Turn on OCR")
    await expect(row).to_contain_text("contracts/2024/no_text-00000.pdf")
    await row.get_by_role("link", name="no_text").click()
    await expect(page.get_by_text("they are scanned")).to_have_count(2)
    await expect(page.get_by_text("corrupt_document-")).to_have_count(0)
    await visitor.check(page)
    await page.go_back()
    await row.get_by_role("button", name="Retry these").click()
    await expect(page.get_by_text("Retries")).to_be_visible()
    record = await plane.services.jobs.get(await newest(plane))
    assert record.retry_of == job_id
    assert record.only_keys_path is not None
    assert world.state.values[record.only_keys_path].data.count(b"no_text-") == CODES["no_text"]


async def test_a_cancellation_says_what_happens_first(visitor: Visitor, world: World, plane: Plane) -> None:
    """One click opens the sentence, the second one cancels; a driver that does not end can be given up by force."""
    world.engine.obedient = False
    job_id = await plane.submit()
    await plane.look()
    world.engine.progress(job_id)
    await plane.look()
    page = await visitor.visit(f"/console/jobs/{job_id}")
    await page.get_by_text("Cancel…").click()
    await expect(page.get_by_text("Points that are written stay")).to_be_visible()
    await visitor.check(page)
    await page.get_by_role("button", name="Cancel the job").click()
    await expect(page.locator(".badge")).to_have_text("canceling")
    await page.get_by_text("End it by force…").click()
    await expect(page.get_by_text("A driver that comes back can change nothing")).to_be_visible()
    await page.get_by_role("button", name="End the job now").click()
    await plane.look(4)
    await expect(page.locator(".badge")).to_have_text("canceled")
    assert (await plane.job(job_id))["state"] == "canceled"


async def test_a_question_stays_open_when_its_job_changes(visitor: Visitor, world: World, plane: Plane) -> None:
    """Its words follow the job, and the focus stays on its button."""
    job_id = await plane.submit()
    page = await visitor.visit(f"/console/jobs/{job_id}")
    await page.get_by_text("Cancel…").click()
    await expect(page.get_by_text("It has not started")).to_be_visible()
    button = page.get_by_role("button", name="Cancel the job")
    await button.focus()
    await plane.look()
    world.engine.progress(job_id)
    await plane.look()
    await expect(page.get_by_text("Points that are written stay")).to_be_visible()
    await expect(button).to_be_focused()


async def test_the_list_is_filtered_paged_and_stays_up_to_date(visitor: Visitor, world: World, plane: Plane) -> None:
    """Filters are in the URL; a job that changes is shown so without a reload."""
    for number in range(51):
        await plane.submit(collection=f"c{number}")
    page = await visitor.open()
    await page.goto(visitor.url)
    await expect(page.locator("tbody tr")).to_have_count(50)
    await page.get_by_role("link", name="Next page").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_role("link", name="First page").click()
    await page.get_by_label("Collection", exact=True).fill("c7")
    await page.get_by_label("State").select_option("Under way or waiting")
    await page.get_by_role("button", name="Filter").click()
    await expect(page).to_have_url(re.compile("collection=c7"))
    await expect(page.locator("tbody tr")).to_have_count(1)
    await visitor.check(page)
    job_id = (await plane.client.get("/jobs?collection=c7")).json()["items"][0]["job_id"]
    await plane.client.post(f"/jobs/{job_id}/cancel")
    await expect(page.get_by_text("No job matches the filter")).to_be_visible()
    await page.get_by_role("link", name="Show all jobs").click()
    await expect(page.locator("tbody tr")).to_have_count(50)


async def test_a_page_says_when_it_is_not_up_to_date(visitor: Visitor, plane: Plane) -> None:
    """While the service does not answer, the last known state stays, with a sentence."""
    await plane.submit()
    page = await visitor.visit("/")
    visitor.expected += ["Failed to load resource", "htmx:"]
    await page.route("**/?part=table*", lambda route: route.abort())
    await expect(page.get_by_text("The service does not answer")).to_be_visible()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await visitor.check(page)
    await page.unroute("**/?part=table*")
    await expect(page.get_by_text("The service does not answer")).to_be_hidden()


async def press_until(page: Page, text: str, key: str = "Tab") -> None:
    """Press a key until an element with a text has the focus."""
    for _ in range(40):
        await page.keyboard.press(key)
        await page.wait_for_load_state()
        found = "document.activeElement.matches('a, button, summary, input') ? document.activeElement : {}"
        if text in await page.evaluate(f"(one => one.innerText || one.name || '')({found})"):
            return
    raise AssertionError(f"{text!r} is not reached")


async def test_everything_is_reached_by_keyboard(visitor: Visitor, plane: Plane) -> None:
    """A job is planned, found in the list, and canceled without a mouse."""
    page = await visitor.visit("/")
    await press_until(page, "New job")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("/console/jobs/new"))
    await press_until(page, "bucket")
    await page.keyboard.type("docs")
    await press_until(page, "collection")
    await page.keyboard.type("notes")
    await press_until(page, "Start without a plan")
    await page.keyboard.press("Enter")
    await expect(page.locator(".badge")).to_have_text("queued")
    await page.goto(visitor.url)
    await press_until(page, await newest(plane))
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("/console/jobs/"))
    await press_until(page, "Cancel…")
    await page.keyboard.press("Enter")
    await press_until(page, "Cancel the job")
    await page.keyboard.press("Enter")
    await expect(page.locator(".badge")).to_have_text("canceled")


async def test_everything_works_without_javascript(browser: Browser, url: str, world: World, plane: Plane) -> None:
    """Pages come complete from the server, and forms are forms."""
    failed = await fail_some(world, plane)
    async with visiting(browser, url, java_script_enabled=False, viewport=NARROW) as visitor:
        page = await visitor.open()
        await page.goto(f"{url}/console/jobs/{failed}")
        await expect(page.get_by_role("row", name="no_text")).to_contain_text("Turn on OCR")
        await page.get_by_role("link", name="Read the log on a page of its own").is_visible()
        await page.get_by_role("button", name="Retry all failed objects").click()
        await expect(page.get_by_text("Retries")).to_be_visible()
        await page.goto(f"{url}/console/jobs/new?like={failed}")
        await page.get_by_role("button", name="Show the plan").click()
        plan = await newest(plane)
        retry = (await plane.services.jobs.list_page(JobFilter(), limit=2, cursor=None))[0][1].id
        await plane.client.post(f"/jobs/{retry}/cancel")
        await plane.look()
        world.engine.finish(plan, counts={"listed": 3, "planned": 3, "new": 3})
        await plane.look()
        await page.get_by_role("link", name="Load this page again").click()
        await page.get_by_role("button", name="Start this job").click()
        await expect(page.locator(".badge")).to_have_text("queued")


async def test_the_log_follows_the_driver(visitor: Visitor, world: World, plane: Plane) -> None:
    """Its lines are added while it grows; it is read only when it is opened."""
    job_id = await plane.submit()
    await plane.look()
    world.engine.progress(job_id)
    await plane.look()
    world.engine.log = "first <b>line</b>\n"
    page = await visitor.visit(f"/console/jobs/{job_id}")
    await page.get_by_text("Log of the driver").click()
    await expect(page.locator("#log")).to_have_text("first <b>line</b>")
    await visitor.check(page)
    world.engine.log += "second line\n"
    await expect(page.locator("#log")).to_contain_text("second line")
    await expect(page.locator("#log b")).to_have_count(0)
