"""The page of the system."""

from __future__ import annotations

from playwright.async_api import Browser, expect

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.records import GatewayFlow, GatewayServer, GatewayStatus
from support.browser import Visitor, listen, visiting
from support.control import Plane, ScriptedGateway, World, make_collection


async def test_a_broken_dependency_is_named_with_its_reason(visitor: Visitor, world: World) -> None:
    """What works, what does not and why, and what it means for jobs; the page refreshes itself."""
    page = await visitor.visit("/console/system")
    await expect(page.get_by_text("Everything that the service depends on is available.")).to_be_visible()

    def away(_kind: str) -> None:
        raise TransientError("weaviate_unavailable", "Weaviate at http://weaviate refuses connections.")

    world.weaviate.before_read = away
    row = page.get_by_role("row", name="Weaviate")
    await expect(row).to_contain_text("refuses connections", timeout=30_000)
    await expect(page.get_by_text("Jobs are accepted, but may have to wait")).to_be_visible()
    await expect(page.get_by_role("row", name="Qdrant")).to_contain_text("available")
    for name in ("Job database · required", "State store · required", "Ollama"):
        await expect(page.get_by_role("rowheader", name=name, exact=True)).to_be_visible()
    await visitor.check(page)


async def test_gateways_show_their_servers_and_flows(browser: Browser, world: World) -> None:
    """Which server does what, who embeds now with a link to the job, and a gateway that cannot be reached."""
    servers = (
        GatewayServer("http://ollama-1:11434", "up", in_flight=4, limit=8, done=1234, failed=2),
        GatewayServer("http://ollama-2:11434", "cooling", "The server refuses connections.", in_flight=0, limit=1),
    )
    flows = (GatewayFlow("job-1", "job", 5, 7, 4, 0.75, 2.5), GatewayFlow("search", "search", 5, 0, 1, 0.25, 0.0))
    gateway = ScriptedGateway(
        status=[
            GatewayStatus("http://gateway-1:11430", "degraded", None, servers, flows),
            GatewayStatus("http://gateway-2:11430", "unreachable", "The gateway refuses connections."),
        ]
    )
    async with (
        world.serve(parts=world.parts(gateway=gateway)) as plane,
        listen(plane.app) as url,
        visiting(browser, url) as visitor,
    ):
        page = await visitor.visit("/console/system")
        await expect(page.get_by_role("rowheader", name="Gateway http://gateway:11430")).to_be_visible()
        await expect(page.get_by_role("row", name="http://ollama-1:11434")).to_contain_text("1,234")
        await expect(page.get_by_role("row", name="http://ollama-2:11434")).to_contain_text("refuses connections")
        await expect(page.get_by_role("row", name="job-1")).to_contain_text("75 %")
        await expect(page.get_by_role("link", name="job-1")).to_have_attribute("href", "/console/jobs/job-1")
        await expect(page.get_by_text("The gateway refuses connections.")).to_be_visible()


async def test_a_copy_whose_lease_has_ended_is_no_other_copy(visitor: Visitor, plane: Plane, world: World) -> None:
    """Its name stays in the database until another one, or it again, dispatches."""
    await plane.look()
    page = await visitor.visit("/console/system")
    section = page.locator("section", has=page.get_by_role("heading", name="Dispatcher"))
    await expect(section).to_contain_text("this copy")
    dispatcher = plane.services.dispatcher
    assert dispatcher is not None
    dispatcher.leadership._lose("the lease has ended")
    await visitor.visit("/console/system", page=page)
    await expect(section).not_to_contain_text("another copy")
    await expect(section).to_contain_text("no copy at the moment")


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


async def test_the_audit_log_is_read_and_filtered(visitor: Visitor, plane: Plane, world: World) -> None:
    """Who did what on what, newest first; of one collection only, on request."""
    make_collection(world, "old")
    await plane.client.delete("/collections/old")
    await plane.submit()
    await plane.services.audit.flush()
    page = await visitor.visit("/console/system")
    await page.get_by_role("link", name="Audit log").click()
    await expect(page.locator("tbody tr")).to_have_count(2)
    await expect(page.locator("tbody tr").first).to_contain_text("Submit a job to Ray")
    await page.get_by_label("Collection, alias or key").fill("old")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_role("row", name="Delete a collection")).to_contain_text("done")
    await visitor.check(page)
    await page.get_by_label("Collection, alias or key").fill("")
    await page.get_by_label("Operation").fill("submit_ray_job")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_role("row", name="Submit a job to Ray")).to_be_visible()
