"""Fixtures of the tests with a browser. Chromium starts once; all tests here share its event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from support.browser import Visitor, listen, run_chromium, visiting
from support.control import Plane, World

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this directory in the browser's event loop."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    async with run_chromium() as running:
        yield running


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest_asyncio.fixture(loop_scope="session")
async def plane(world: World) -> AsyncIterator[Plane]:
    """A service whose dispatcher makes a round when a test says so."""
    async with world.serve() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def url(plane: Plane) -> AsyncIterator[str]:
    """URL of the service, as a browser reaches it."""
    async with listen(plane.app) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, url: str) -> AsyncIterator[Visitor]:
    """A reader of pages; the test fails on errors of any page that it opens."""
    async with visiting(browser, url) as one:
        yield one
