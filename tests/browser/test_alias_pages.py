"""Pages of aliases, and the actions that they confirm."""

from __future__ import annotations

from playwright.async_api import expect

from ingestion_engine.domain.errors import TransientError
from support.browser import Visitor
from support.control import Plane, World
from support.stored_objects import write_versions


async def test_an_alias_is_rolled_back_to_a_chosen_version(visitor: Visitor, plane: Plane, world: World) -> None:
    """From the list to the page that names both versions, and back to the alias, which stands for the chosen one."""
    page = await visitor.visit("/console/aliases")
    await expect(page.get_by_text("No alias yet")).to_be_visible()
    newest, middle, oldest = write_versions(world, "books", 3)
    await visitor.visit("/console/aliases", page=page)
    await page.get_by_role("link", name="books", exact=True).click()
    await expect(page.get_by_role("row", name=newest).first).to_contain_text("current")
    await visitor.check(page)
    await page.get_by_role("link", name=f"Move to this version, {oldest}").click()
    await expect(page.get_by_text(f"Searches of 'books' use '{oldest}' at once, in every store.")).to_be_visible()
    await expect(page.get_by_text(f"'{newest}' is kept as a former version")).to_be_visible()
    await visitor.check(page)
    form = await page.evaluate("Object.fromEntries(new FormData(document.querySelector('main form')))")
    await page.get_by_role("button", name="Move the alias").click()
    await expect(page.get_by_text(f"The alias stands for '{oldest}' now.")).to_be_visible()
    alias = (await plane.client.get("/aliases/books")).json()
    assert (alias["collection"], alias["previous"]) == (oldest, [newest, middle])
    assert world.qdrant.aliases["books"] == world.weaviate.aliases["books"] == oldest
    await plane.client.post("/aliases/books/rollback", json={"to": newest})
    await page.request.post(f"{visitor.url}/console/aliases/books/rollback", form=form)
    assert (await plane.client.get("/aliases/books")).json()["collection"] == newest, "a form moves the alias once"


async def test_former_versions_are_dropped_by_name(visitor: Visitor, world: World) -> None:
    """The page names every version that goes and every one that stays; versions that changed meanwhile stay."""
    newest, middle, oldest = write_versions(world, "books", 3)
    page = await visitor.visit("/console/aliases/books")
    await page.get_by_role("link", name="Drop former versions").click()
    await expect(page.get_by_text(f"{oldest} (9 points in Qdrant, 9 points in Weaviate")).to_be_visible()
    await expect(page.get_by_text(f"Kept: {newest}, {middle}.")).to_be_visible()
    await visitor.check(page)
    form = await page.evaluate("Object.fromEntries(new FormData(document.querySelector('main form')))")
    changed = await page.request.post(
        f"{visitor.url}/console/aliases/books/prune", form={**form, "typed": "books", "listed": middle}
    )
    assert changed.status == 409
    assert oldest in world.qdrant.collections
    await page.get_by_label("Type books to confirm").fill("books")
    await page.get_by_role("button", name="Drop 1 version").click()
    await expect(page.get_by_role("heading", name="books")).to_be_visible()
    await expect(page.get_by_text(oldest)).to_have_count(0)
    assert list(world.qdrant.collections) == list(world.weaviate.collections)
    assert set(world.qdrant.collections) == {newest, middle}


async def test_an_alias_is_removed_and_its_collections_stay(visitor: Visitor, world: World) -> None:
    """The name is typed; the collections that stay are named."""
    newest, former = write_versions(world, "books", 2)
    page = await visitor.visit("/console/aliases/books/remove")
    await expect(page.get_by_text(f"can be searched by their own names: {newest}, {former}.")).to_be_visible()
    await page.get_by_label("Type books to confirm").fill("books")
    await page.get_by_role("button", name="Remove the alias").click()
    await expect(page.get_by_text("Alias 'books' is removed.")).to_be_visible()
    assert (world.qdrant.aliases, set(world.qdrant.collections)) == ({}, {newest, former})
    await page.goto(f"{visitor.url}/console/collections/{newest}")
    await expect(page.get_by_role("heading", name=newest)).to_be_visible()


async def test_a_version_that_is_gone_and_a_store_that_is_away(visitor: Visitor, world: World) -> None:
    """The page shows what is known; a move to a version that a store has lost is refused with the reason."""
    _, former = write_versions(world, "books", 2)
    del world.weaviate.collections[former]

    async def away() -> dict[str, str]:
        raise TransientError("qdrant_unavailable", "Qdrant is unavailable.")

    world.qdrant.list_aliases = away  # type: ignore[method-assign]  # a double of one test
    page = await visitor.visit("/console/aliases/books")
    await expect(page.get_by_text("Qdrant is unavailable.")).to_be_visible()
    await page.get_by_role("link", name=f"Roll back to this version, {former}").click()
    visitor.expected.append("status of 409")
    await page.get_by_role("button", name="Move the alias").click()
    await expect(page.get_by_role("alert")).to_contain_text(f"'{former}' no longer exists in weaviate")
    await visitor.check(page)
