"""The page of searches."""

from __future__ import annotations

import re

from playwright.async_api import Browser, expect

from ingestion_engine.domain.errors import TransientError
from support.browser import Visitor, visiting
from support.control import Plane, World
from support.stored_objects import drop_chunk, write_chunk, write_collection, write_versions

TRAINS = "handbook/travel/trains.html"
QUERY = "When does the service desk answer?"


async def test_passages_of_both_stores_are_side_by_side(visitor: Visitor, world: World) -> None:
    """Where the stores agree, each passage is shown once; what differs is side by side, and marked."""
    write_collection(world, "notes")
    page = await visitor.visit("/console/search?collection=notes")
    await page.get_by_label("Passages per store").select_option("50")
    await page.get_by_label("Question or phrase").fill(QUERY)
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_text("Both stores found the same 24 passages in the same order.")).to_be_visible()
    await expect(page.locator(".hit")).to_have_count(24)
    await expect(page.locator(".passages > li")).to_have_count(24)
    assert page.url.endswith("/console/search?collection=notes"), "what was searched for is not in the URL"
    await visitor.check(page)
    write_chunk(world.weaviate, "notes", TRAINS, 1, text="Another text.")
    drop_chunk(world.weaviate, "notes", TRAINS, 2)
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_text("2 passages differ between the stores.")).to_be_visible()
    await expect(page.locator(".hit")).to_have_count(25)
    other = page.locator(".passages > li.differs", has_text="Another text.")
    await expect(other.get_by_text("other text", exact=True)).to_have_count(2)
    assert await other.get_by_role("heading").all_inner_texts() == ["Qdrant", "Weaviate"]
    assert "Another" in await other.locator("mark").all_inner_texts()
    lost = page.locator(".passages > li.differs", has_text="Weaviate did not find this passage")
    await expect(lost.get_by_text("only in Qdrant")).to_be_visible()
    await visitor.check(page)
    await lost.get_by_role("link", name=TRAINS).click()
    await expect(page.get_by_text("Does not have this chunk")).to_be_visible()


async def test_names_are_offered_while_typing(visitor: Visitor, world: World) -> None:
    """Aliases, collections and buckets, by lists of the page itself."""
    write_versions(world, "books", 1)
    page = await visitor.visit("/console/search")
    offered = "(id) => [...document.getElementById(id).list.options].map((option) => option.value)"
    assert await page.evaluate(offered, "collection") == ["books", *world.qdrant.collections]
    assert await page.evaluate(offered, "bucket") == ["docs"]
    await visitor.visit("/console/jobs/new", page=page)
    assert await page.evaluate(offered, "bucket") == ["docs"]
    assert await page.evaluate(offered, "collection") == list(world.qdrant.collections)
    assert await page.evaluate(offered, "alias") == ["books"]


async def test_filters_and_aliases(visitor: Visitor, world: World) -> None:
    """Every filter must match; nothing that fulfils them is said; an alias names its collection."""
    (newest,) = write_versions(world, "books", 1)
    page = await visitor.visit("/console/search")
    await page.get_by_label("Collection or alias").fill("books")
    await page.get_by_label("Question or phrase").fill(QUERY)
    await page.get_by_text("Filters", exact=True).click()
    await page.get_by_label("Key begins with").fill("handbook/people/")
    await page.get_by_label("Metadata").fill("team=travel\n")
    await page.get_by_label("Content type").fill("text/plain")
    await page.get_by_label("Bucket").fill("docs")
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_role("heading", name=f"books ({newest})")).to_be_visible()
    await expect(page.locator(".passages > li")).to_have_count(3)
    await page.get_by_label("Metadata").fill("team=other")
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_text("No passage fulfils the filters.")).to_be_visible()
    await visitor.check(page)


async def test_what_is_wrong_is_said_where_it_happens(visitor: Visitor, plane: Plane, world: World) -> None:
    """A collection that does not exist, or not yet; one store that is unavailable; then all of them."""
    job_id = await plane.submit()
    page = await visitor.visit("/console/search")
    for name, said in (("never", "Collection 'never' does not exist."), ("notes", f"job '{job_id}', which creates it")):
        await page.get_by_label("Collection or alias").fill(name)
        await page.get_by_label("Question or phrase").fill(QUERY)
        await page.get_by_role("button", name="Search").click()
        await expect(page.get_by_role("alert")).to_contain_text(said)
        way = page.get_by_role("link", name="Look for its name among the collections")
        await expect(way).to_have_count(1 if name == "never" else 0)
    write_collection(world, "books")

    async def away(*_arguments: object, **_named: object) -> list[object]:
        raise TransientError("weaviate_unavailable", "Weaviate is unavailable.")

    world.weaviate.search = away  # type: ignore[assignment,method-assign]  # a double of one test
    await page.get_by_label("Collection or alias").fill("books")
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_role("alert")).to_contain_text("Weaviate could not be searched: Weaviate is unavailable.")
    await expect(page.locator(".passages > li")).to_have_count(10)
    await visitor.check(page)
    world.qdrant.search = away  # type: ignore[assignment,method-assign]  # a double of one test
    await page.get_by_role("button", name="Search").click()
    await expect(page.get_by_role("alert")).to_contain_text("No store could be searched.")
    await visitor.check(page)


async def test_a_search_works_without_javascript(browser: Browser, url: str, world: World) -> None:
    """The page comes back whole, with the form as it was sent."""
    write_collection(world, "notes")
    async with visiting(browser, url, java_script_enabled=False) as visitor:
        page = await visitor.open()
        await page.goto(f"{url}/console/search")
        await page.get_by_label("Collection or alias").fill("notes")
        await page.get_by_label("Question or phrase").fill(QUERY)
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator(".passages > li")).to_have_count(10)
        await expect(page.get_by_label("Question or phrase")).to_have_value(QUERY)
        assert re.search(r"/console/search$", page.url)
