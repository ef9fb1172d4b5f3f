"""Pages of collections and objects, and the actions that they confirm."""

from __future__ import annotations

import re
from urllib.parse import quote

from playwright.async_api import Browser, Page, expect

from ingestion_engine.state.collections import write_verified
from support.browser import Visitor, visiting
from support.control import Plane, World
from support.stored_objects import HANDBOOK, JOB, drop_chunk, write_chunk, write_collection, write_versions

TRAINS = "handbook/travel/trains.html"


async def test_collections_show_whether_their_stores_agree(visitor: Visitor, world: World) -> None:
    """Empty, the page says how a collection begins; then points, parity with its age, and a filter by name."""
    page = await visitor.visit("/console/collections")
    await expect(page.get_by_text("No collection yet")).to_be_visible()
    write_collection(world, "notes")
    write_collection(world, "others")
    write_verified(world.state, "others", JOB, "2026-11-28T15:00:00Z", 0)
    drop_chunk(world.weaviate, "notes", TRAINS, 2)
    await visitor.visit("/console/collections", page=page)
    notes, others = page.get_by_role("row", name="notes"), page.get_by_role("row", name="others")
    await expect(notes).to_contain_text("different counts")
    await expect(notes).to_contain_text("Never compared")
    await expect(others).to_contain_text("same count")
    await expect(others).to_contain_text(re.compile(r"equal .* ago"))
    await page.get_by_label("Part of the name").fill("OTH")
    await page.get_by_role("button", name="Find").click()
    await expect(others).to_be_visible()
    await expect(notes).to_have_count(0)
    await page.get_by_label("Part of the name").fill("nothing")
    await page.get_by_role("button", name="Find").click()
    await expect(page.get_by_text("No collection has 'nothing' in its name")).to_be_visible()
    await visitor.check(page)


async def test_a_collection_is_verified_after_a_page_that_says_what_happens(
    visitor: Visitor, plane: Plane, world: World
) -> None:
    """From the collection to the job: with numbers before, and one job however often the button is pressed."""
    write_collection(world, "notes", failed=[HANDBOOK[5]], warned=[TRAINS])
    page = await visitor.visit("/console/collections/notes")
    await expect(page.get_by_text("Never compared")).to_be_visible()
    for title, count in (("Failed", "1"), ("With warnings", "1"), ("Chunks", "21")):
        figure = page.locator(".figures > div", has_text=title)
        await expect(figure.locator("dd")).to_have_text(count)
    await page.get_by_role("link", name="Verify", exact=True).click()
    await expect(page.get_by_text("all 8 objects, with 21 points in Qdrant and 21 points in Weaviate")).to_be_visible()
    await visitor.check(page)
    form = await page.evaluate("Object.fromEntries(new FormData(document.querySelector('main form')))")
    await page.get_by_role("button", name="Verify now").click()
    await page.wait_for_url("**/console/jobs/job-*")
    again = await page.request.post(f"{visitor.url}/console/collections/notes/compare/verify", form=form)
    assert again.url == page.url, "the second press leads to the same job"
    jobs = (await plane.client.get("/jobs")).json()["items"]
    assert [(job["mode"], job["collection"]) for job in jobs] == [("verify", "notes")]


async def test_a_collection_is_deleted_when_its_name_is_typed(visitor: Visitor, world: World) -> None:
    """Another name changes nothing and says so; an alias that stands for it prevents it with the reason."""
    write_collection(world, "notes")
    page = await visitor.visit("/console/collections/notes/delete")
    await expect(page.get_by_text("24 points in Qdrant and 24 points in Weaviate")).to_be_visible()
    visitor.expected += ["status of 422", "status of 409"]
    await page.get_by_label("Type notes to confirm").fill("note")
    await page.get_by_role("button", name="Delete the collection").click()
    await expect(page.get_by_role("alert")).to_contain_text("The typed name is not 'notes'; nothing was changed.")
    await visitor.check(page)
    assert "notes" in world.qdrant.collections
    await page.get_by_label("Type notes to confirm").fill("notes")
    await page.get_by_role("button", name="Delete the collection").click()
    await expect(page.get_by_text("Collection 'notes' is deleted.")).to_be_visible()
    assert "notes" not in world.qdrant.collections
    assert "notes" not in world.weaviate.collections
    versions = write_versions(world, "books", 2)
    await page.goto(f"{visitor.url}/console/collections/{versions[0]}/delete")
    await page.get_by_role("textbox").fill(versions[0])
    await page.get_by_role("button", name="Delete the collection").click()
    await expect(page.get_by_role("alert")).to_contain_text("is what alias 'books' stands for")
    assert versions[0] in world.qdrant.collections


async def test_objects_are_browsed_by_folder_and_filtered(visitor: Visitor, world: World) -> None:
    """Down into a folder and up again; by state, by warnings, all keys; names of any form."""
    write_collection(world, "notes", failed=[HANDBOOK[5]], warned=[TRAINS])
    page = await visitor.visit("/console/collections/notes/objects")
    assert await _list_keys(page) == ["handbook/", "reports/", "ümläut & more/", "readme.md"]
    await page.get_by_role("link", name="handbook/").click()
    await page.get_by_role("link", name="travel/").click()
    assert await _list_keys(page) == ["planes.txt", "trains.html"]
    await page.get_by_role("navigation", name="Folders").get_by_role("link", name="handbook").click()
    assert await _list_keys(page) == ["people/", "travel/", "index.txt"]
    await page.get_by_label("Keys that begin with").fill("")
    await page.get_by_label("State").select_option("Failed")
    await page.get_by_label("Show").select_option("All keys")
    await page.get_by_role("button", name="Show").click()
    assert await _list_keys(page) == ["reports/2026/q1.pdf"]
    await expect(page.get_by_role("cell", name="parse_failed")).to_be_visible()
    await page.get_by_label("State").select_option("Any")
    await page.get_by_label("Warnings").select_option("Only with")
    await page.get_by_role("button", name="Show").click()
    assert await _list_keys(page) == [TRAINS]
    await visitor.check(page)
    odd = await visitor.visit(f"/console/collections/notes/objects?prefix={quote('ümläut & more/')}", page=page)
    await odd.get_by_role("link", name="ä b?c#d.txt").click()
    await expect(odd.get_by_role("heading", name="ä b?c#d.txt")).to_be_visible()
    await expect(odd.locator(".chunk")).to_have_count(3)


async def test_an_object_shows_its_chunks_as_both_stores_hold_them(visitor: Visitor, world: World) -> None:
    """Equal ones once, different ones side by side with the words marked, missing ones by store."""
    write_collection(world, "notes", warned=[TRAINS])
    text = f"The service desk answers between nine and six. Part 1 of {TRAINS}."
    write_chunk(world.weaviate, "notes", TRAINS, 1, text=text, epoch=3)
    drop_chunk(world.weaviate, "notes", TRAINS, 2)
    page = await visitor.visit(f"/console/collections/notes/object?key={TRAINS}")
    await expect(page.get_by_text("2 chunks of the 3 on this page differ between the stores.")).to_be_visible()
    await expect(page.get_by_text("lines_skipped")).to_be_visible()
    equal, different, missing = (page.locator(f"#chunk-{number}") for number in range(3))
    await expect(equal).to_contain_text("equal")
    await expect(equal.locator(".text")).to_have_count(1)
    await expect(different).to_contain_text("Different: epoch, text")
    assert await different.locator("mark").all_inner_texts() == ["eight", "nine"]
    await expect(missing).to_contain_text("Does not have this chunk")
    await expect(page.get_by_role("link", name=JOB).first).to_have_attribute("href", f"/console/jobs/{JOB}")


async def test_a_failed_object_and_an_unknown_one(visitor: Visitor, world: World) -> None:
    """The reason of the failure with what helps; an object that nobody has is a page with the way back."""
    write_collection(world, "notes", failed=[TRAINS])
    page = await visitor.visit(f"/console/collections/notes/object?key={TRAINS}")
    await expect(page.get_by_text("The PDF has no pages.")).to_be_visible()
    await expect(page.get_by_text("The object has no points in the stores.")).to_be_visible()
    await visitor.visit("/console/collections/notes/object?key=never", status=404, page=page)
    await expect(page.get_by_text("Collection 'notes' has no object 'never'.")).to_be_visible()


async def test_a_long_object_is_paged(visitor: Visitor, world: World) -> None:
    """1,000 chunks in pages of 25; the last page has the last chunk."""
    write_collection(world, "notes", ["long.txt"], chunks=60)
    page = await visitor.visit("/console/collections/notes/object?key=long.txt")
    await expect(page.locator(".chunk")).to_have_count(25)
    for first in ("Chunk 25", "Chunk 50"):
        await page.get_by_role("link", name="Next page").click()
        await expect(page.locator(".chunk h3").first).to_have_text(first)
    await expect(page.locator(".chunk")).to_have_count(10)
    await expect(page.get_by_role("link", name="Next page")).to_have_count(0)


async def test_objects_are_removed_by_a_job(visitor: Visitor, plane: Plane, world: World) -> None:
    """The page counts what is under the prefix; the job has exactly this prefix."""
    write_collection(world, "notes")
    page = await visitor.visit("/console/collections/notes/objects?prefix=handbook/travel/")
    await page.get_by_role("link", name="Remove all under this prefix").click()
    await expect(page.get_by_text("2 objects whose keys begin with handbook/travel/, with 6 chunks")).to_be_visible()
    await visitor.check(page)
    await page.get_by_label("Type notes to confirm").fill("notes")
    await page.get_by_role("button", name="Remove the objects").click()
    await page.wait_for_url("**/console/jobs/job-*")
    (job,) = (await plane.client.get("/jobs")).json()["items"]
    assert (job["mode"], job["request"]["source"]["prefix"]) == ("delete", "handbook/travel/")


async def test_actions_work_without_javascript(browser: Browser, url: str, plane: Plane, world: World) -> None:
    """A form and its confirmation are plain HTML."""
    write_collection(world, "notes")
    async with visiting(browser, url, java_script_enabled=False) as visitor:
        page = await visitor.open()
        await page.goto(f"{url}/console/collections/notes")
        await page.get_by_role("link", name="Repair").click()
        await page.get_by_role("button", name="Repair now").click()
        await page.wait_for_url("**/console/jobs/job-*")
    assert (await plane.client.get("/jobs")).json()["items"][0]["mode"] == "repair"


async def _list_keys(page: Page) -> list[str]:
    await expect(page.locator("tbody td.wrap").first).to_be_visible()
    return await page.locator("tbody td.wrap a").all_inner_texts()
