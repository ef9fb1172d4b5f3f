"""The frame of all pages: navigation, errors, static files, times."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.async_api import Browser, expect

from support.browser import Visitor, visiting
from support.control import Plane


async def test_the_list_of_jobs_is_the_first_page(visitor: Visitor, plane: Plane) -> None:
    """Empty, it says what to do first; with jobs, it lists them. Moments are in the reader's zone."""
    page = await visitor.visit("/")
    await expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    await expect(page.get_by_text("No job yet")).to_be_visible()
    await expect(page.locator("#zone")).to_have_text("Europe/Berlin")
    job_id = await plane.submit()
    await visitor.visit("/", page=page)
    await expect(page.get_by_role("link", name=job_id)).to_be_visible()


async def test_errors_of_pages_are_pages(visitor: Visitor) -> None:
    """A program receives problem+json from the API; a browser a page with the way back."""
    page = await visitor.visit("/console/nothing", status=404)
    await expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
    await page.get_by_role("link", name="Go to the jobs").click()
    await expect(page.get_by_role("heading", name="Jobs")).to_be_visible()


async def test_the_first_stop_of_the_keyboard_skips_the_navigation(visitor: Visitor) -> None:
    """A reader with a keyboard needs not pass the sections on every page."""
    page = await visitor.visit("/")
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#content")).to_be_focused()


async def test_pages_can_be_read_without_javascript(browser: Browser, url: str, plane: Plane) -> None:
    """Everything is in the page as it comes from the server; moments are in UTC then."""
    job_id = await plane.submit()
    async with visiting(browser, url, java_script_enabled=False) as visitor:
        page = await visitor.open()
        await page.goto(url)
        await expect(page.get_by_text(job_id)).to_be_visible()
        await expect(page.locator("time").first).to_have_text(re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$"))


async def test_static_files_are_kept_for_ever_under_their_hash(url: str) -> None:
    """The URL changes with the content; under another hash, as of another copy during an upgrade, nothing is kept."""
    async with httpx.AsyncClient(base_url=url) as client:
        page = (await client.get("/")).text
        paths = re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page)
        assert len(paths) >= 5
        for path in paths:
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert answer.headers["content-encoding"] == "gzip"
        other = await client.get(re.sub(r"static/[^/]+", "static/0123", paths[0]))
        assert other.headers["cache-control"] == "no-store"
        assert (await client.get("/console/static/0123/../console.py")).status_code == 404


async def test_the_checks_of_pages_find_faults(browser: Browser, url: str) -> None:
    """Pale text in light and dark, an image without a text, a request elsewhere, and an error of a script."""
    faulty = """<html lang="en"><title>x</title><style>p { color: #ccc } @media (prefers-color-scheme: dark) {
        body { background: #000 } p { color: #333 } }</style><main><h1>x</h1><p>pale</p><table></table>
        <img src="http://127.0.0.1:9/x.png"><script>console.error("broken")</script></main></html>"""

    async def visit() -> None:
        async with visiting(browser, url) as visitor:
            page = await visitor.open()
            await page.set_content(faulty)
            await visitor.check(page)

    with pytest.raises(AssertionError) as found:
        await visit()
    text = str(found.value)
    for fault in ("image-alt", "request to http://127.0.0.1:9/x.png", "broken"):
        assert fault in text
    for look in ("light", "dark"):
        assert re.search(rf"^{look} .*color-contrast", text, flags=re.MULTILINE)
