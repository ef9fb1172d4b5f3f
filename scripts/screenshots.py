"""Writes the screenshots of docs/console.md: every page of the console, over a world of doubles, in a real Chromium.

Usage: .venv/bin/python scripts/screenshots.py [FOLDER] [NAME…]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from playwright.async_api import Page  # noqa: E402  # after the path of the tests' support

from support.browser import NARROW, WIDE, listen, run_chromium, visiting  # noqa: E402
from support.console_jobs import fill  # noqa: E402
from support.control import World  # noqa: E402

FOLDER = ROOT / "docs" / "images" / "console"
LOOKS = ("light", "dark", "narrow")


async def show(page: Page, look: str) -> None:
    """Set a page to one of the three looks."""
    await page.emulate_media(color_scheme="dark" if look == "dark" else "light", reduced_motion="reduce")
    await page.set_viewport_size(NARROW if look == "narrow" else WIDE)


async def main(folder: Path, names: list[str]) -> None:
    """Make all screenshots, or those of some pages."""
    with tempfile.TemporaryDirectory() as data:
        world = World(Path(data))
        async with world.serve(embed={"in_flight": 64}) as plane, listen(plane.app) as url, run_chromium() as browser:
            made = await fill(world, plane)
            pages = {
                "jobs": "/",
                "job": f"/console/jobs/{made['running']}",
                "job-failures": f"/console/jobs/{made['partial']}",
                "failures": f"/console/jobs/{made['partial']}/failures?code=no_text",
                "job-failed": f"/console/jobs/{made['refused']}",
                "job-waiting": f"/console/jobs/{made['waiting']}",
                "new-job": "/console/jobs/new",
                "plan": f"/console/jobs/{made['plan']}/plan",
                "nothing": "/console/nothing",
            }
            async with visiting(browser, url) as visitor:
                visitor.expected.append("status of 404")
                page = await visitor.open()
                for name, path in pages.items():
                    if names and name not in names:
                        continue
                    await page.goto(url + path)
                    for look in LOOKS:
                        await show(page, look)
                        await page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target, sys.argv[2:]))
