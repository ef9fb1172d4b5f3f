"""The page of the system."""

from __future__ import annotations

from playwright.async_api import expect

from ingestion_engine.domain.errors import TransientError
from support.browser import Visitor
from support.control import Plane, World


async def test_a_broken_dependency_is_named_with_its_reason(visitor: Visitor, world: World) -> None:
    """What works, what does not and why, and what it means for jobs; the page refreshes itself."""
    page = await visitor.visit("/console/system")
    await expect(page.get_by_text("Everything that the service depends on is available.")).to_be_visible()

    def away(_kind: str) -> None:
        raise TransientError("weaviate_unavailable", "Weaviate at http://weaviate refuses connections.")

    world.weaviate.before_read = away
    row = page.get_by_role("row", name="weaviate")
    await expect(row).to_contain_text("refuses connections", timeout=30_000)
    await expect(page.get_by_text("Jobs are accepted, but may have to wait")).to_be_visible()
    await expect(page.get_by_role("row", name="qdrant")).to_contain_text("available")
    await visitor.check(page)


async def test_the_service_is_drained_and_goes_on(visitor: Visitor, plane: Plane) -> None:
    """The page says what waits; the order shows until it is taken back."""
    await plane.submit()
    page = await visitor.visit("/console/system")
    await page.get_by_role("link", name="Drain the service").click()
    await expect(page.get_by_text("1 job waits")).to_be_visible()
    await visitor.check(page)
    await page.get_by_label("Reason, for the notes of jobs that wait").fill("Ray is being upgraded.")
    await page.get_by_role("button", name="Drain the service").click()
    await expect(
        page.get_by_text("The service is drained: no waiting job starts. Ray is being upgraded.")
    ).to_be_visible()
    assert (await plane.client.get("/drain")).json()["draining"] is True
    await visitor.check(page)
    await page.get_by_role("link", name="End draining").click()
    await page.get_by_role("button", name="Let jobs start").click()
    await expect(page.get_by_role("link", name="Drain the service")).to_be_visible()
    assert (await plane.client.get("/drain")).json()["draining"] is False
