"""Chromium for tests: every page that is visited is checked for errors, foreign requests and accessibility."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import axe_playwright_python
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

from support.waiting import eventually

AXE: Final = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

WIDE: Final = {"width": 1280, "height": 800}
NARROW: Final = {"width": 390, "height": 844}
"""A phone."""


RULES: Final[dict[str, dict[str, Any]]] = {
    "light": {},
    "dark": {"runOnly": ["color-contrast"]},
    "narrow": {"rules": {"color-contrast": {"enabled": False}}},
}
"""Rules of axe-core by look: dark differs from light in colours only, and narrow in everything else; contrast costs as
much as all other rules together."""


def find_chromium() -> str:
    """Return the path of Chromium. Raises FileNotFoundError with what to do."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    raise FileNotFoundError("No Chromium found. On Debian or Ubuntu: sudo apt-get install chromium")


@contextlib.asynccontextmanager
async def run_chromium() -> AsyncIterator[Browser]:
    """A Chromium without a window."""
    # as root, as in containers, Chromium has no sandbox; its profile and caches are temporary
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find_chromium(), args=[*arguments, "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def listen(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application that runs already on loopback; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@dataclass
class Visitor:
    """A reader of pages with a browser; ``finish`` fails on everything that went wrong on any page."""

    url: str
    context: BrowserContext
    faults: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Parts of messages of the browser that a test provokes."""

    async def open(self) -> Page:
        """Return a new, empty page."""
        page = await self.context.new_page()
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("request", self._note_request)
        return page

    async def visit(self, path: str, *, page: Page | None = None, status: int = 200) -> Page:
        """Open a page of the console, and check it in light, dark and narrow."""
        if status >= 400:
            self.expected.append(f"status of {status}")
        page = page or await self.open()
        answer = await page.goto(self.url + path)
        assert answer is not None
        assert answer.status == status, await page.inner_text("body")
        await self.check(page)
        return page

    async def check(self, page: Page) -> None:
        """Check the page as it is now for accessibility, and that it fits a phone."""
        await page.evaluate(AXE)
        for look in ("light", "dark", "narrow"):
            await page.emulate_media(color_scheme="dark" if look == "dark" else "light", reduced_motion="reduce")
            await page.set_viewport_size(NARROW if look == "narrow" else WIDE)
            self.faults += [f"{look} {page.url}: {fault}" for fault in await _find_violations(page, RULES[look])]
        width = await page.evaluate("document.documentElement.scrollWidth")
        if width > NARROW["width"]:
            self.faults.append(f"narrow {page.url}: {width} pixels wide")
        await page.set_viewport_size(WIDE)

    def finish(self) -> None:
        """Fail on all faults of all pages."""
        found = [fault for fault in self.faults if not any(part in fault for part in self.expected)]
        assert not found, "\n".join(found)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(f"{message.location}: {message.text}")

    def _note_request(self, request: Request) -> None:
        if urlsplit(request.url).scheme != "data" and not request.url.startswith(self.url + "/"):
            self.faults.append(f"request to {request.url}")


async def _find_violations(page: Page, rules: dict[str, Any]) -> list[str]:
    options = {"resultTypes": ["violations"], **rules}
    found: dict[str, Any] = await page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@contextlib.asynccontextmanager
async def visiting(browser: Browser, url: str, **options: Any) -> AsyncIterator[Visitor]:
    """A visitor with a browser context of its own; the end of the block fails on faults of its pages.

    Args:
        browser: The browser.
        url: URL of the service.
        **options: Options of the context, such as ``java_script_enabled``.
    """
    defaults: dict[str, Any] = {"viewport": WIDE, "locale": "en-GB", "timezone_id": "Europe/Berlin"}
    context = await browser.new_context(**{**defaults, **options})
    context.set_default_timeout(15_000)
    visitor = Visitor(url, context)
    try:
        yield visitor
    finally:
        await context.close()
    visitor.finish()
