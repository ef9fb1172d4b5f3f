"""Writes the screenshots of docs/console.md: every page of the console, over a world of doubles, in a real Chromium.

Usage: .venv/bin/python scripts/screenshots.py [FOLDER [NAME…]]
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from PIL import Image
from playwright.async_api import Page

from ingestion_engine.domain.records import GatewayFlow, GatewayServer, GatewayStatus
from support.browser import NARROW, WIDE, listen, run_chromium, visiting
from support.console_jobs import fill
from support.control import ScriptedGateway, World, write_keys
from support.stored_objects import HANDBOOK, drop_chunk, write_chunk, write_collection, write_versions

FOLDER = ROOT / "docs" / "images" / "console"
LOOKS = ("light", "dark", "narrow")
MOST_PIXELS = 1_500
"""Height of a screenshot; what is below it looks the same as what is above."""

TRAINS = "handbook/travel/trains.html"


async def save(page: Page, path: Path, look: str) -> None:
    """Save a page in one of the three looks, with at most 256 colours."""
    await page.emulate_media(color_scheme="dark" if look == "dark" else "light", reduced_motion="reduce")
    await page.set_viewport_size(NARROW if look == "narrow" else WIDE)
    image = Image.open(io.BytesIO(await page.screenshot(full_page=True)))
    image = image.crop((0, 0, image.width, min(image.height, MOST_PIXELS))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def write_data(world: World) -> None:
    """Make collections, one of which differs between the stores, and versions of an alias."""
    write_collection(world, "handbook", failed=[HANDBOOK[5]], warned=[HANDBOOK[2]])
    write_collection(world, "contracts")
    drop_chunk(world.weaviate, "handbook", TRAINS, 2)
    write_chunk(world.weaviate, "handbook", TRAINS, 1, text="The service desk is open from nine.")
    write_versions(world, "docs", 3)


def describe_gateway(job_id: str) -> GatewayStatus:
    """Return a gateway one of whose servers does not answer."""
    servers = (
        GatewayServer("http://ollama-1:11434", "up", in_flight=6, limit=8, done=48_213, failed=3),
        GatewayServer("http://ollama-2:11434", "cooling", "The server refuses connections.", in_flight=0, limit=1),
    )
    flows = (GatewayFlow(job_id, "job", 5, 12, 5, 0.82, 3.4), GatewayFlow("search", "search", 5, 0, 1, 0.18, 0.0))
    return GatewayStatus("http://gateway-1:11430", "degraded", None, servers, flows)


async def search(page: Page) -> None:
    """Fill and send the form for a search."""
    await page.get_by_label("Question or phrase").fill("When does the service desk answer?")
    await page.get_by_role("button", name="Search").click()
    await page.locator(".passages").wait_for()


async def main(folder: Path, names: list[str]) -> None:
    """Make all screenshots, or those of some pages."""
    with tempfile.TemporaryDirectory() as data:
        world = World(Path(data))
        gateway = ScriptedGateway()
        parts = world.parts(now=world.clock, gateway=gateway)
        async with (
            world.serve(parts, embed={"in_flight": 64}) as plane,
            listen(plane.app) as url,
            run_chromium() as browser,
        ):
            made = await fill(world, plane)
            write_data(world)
            gateway.status = [describe_gateway(made["running"])]
            await plane.services.audit.flush()
            alias = "/console/aliases/docs"
            pages = {
                "jobs": "/",
                "job": f"/console/jobs/{made['running']}",
                "job-failures": f"/console/jobs/{made['partial']}",
                "failures": f"/console/jobs/{made['partial']}/failures?code=no_text",
                "new-job": "/console/jobs/new",
                "plan": f"/console/jobs/{made['plan']}/plan",
                "collections": "/console/collections",
                "collection": "/console/collections/handbook",
                "objects": "/console/collections/handbook/objects",
                "object": f"/console/collections/handbook/object?key={TRAINS}",
                "search": "/console/search?collection=handbook",
                "aliases": "/console/aliases",
                "alias": alias,
                "rollback": f"{alias}/rollback?to=docs_{2:026d}",
                "system": "/console/system",
                "audit": "/console/system/audit",
                "delete": "/console/collections/handbook/delete",
            }
            async with visiting(browser, url) as visitor:
                page = await visitor.open()
                for name, path in pages.items():
                    if names and name not in names:
                        continue
                    await plane.look(times=0)  # keeps the lease of the dispatcher
                    await page.goto(url + path)
                    if name == "search":
                        await search(page)
                    for look in LOOKS:
                        await save(page, folder / f"{name}-{look}.png", look)
            if names and "log-in" not in names:
                return
        keys = write_keys(Path(data), {"name": "operator"})
        async with (
            World(Path(data)).serve(api={"keys_file": keys}) as plane,
            listen(plane.app) as url,
            run_chromium() as browser,
            visiting(browser, url) as visitor,
        ):
            page = await visitor.open()
            await page.goto(url)
            for look in LOOKS:
                await save(page, folder / f"log-in-{look}.png", look)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target, sys.argv[2:]))
