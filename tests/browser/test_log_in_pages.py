"""Log-in and log-out in a real browser: strict cookies, the way to the provider and back, links of other sites."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from support.browser import Visitor, visiting
from support.control import Plane, World, write_keys
from support.log_ins import provider, provider_settings

STYLES = "pico.min.css"
"""What the pages of the provider load."""


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def plane(world: World, issuer: str, tmp_path: Path) -> AsyncIterator[Plane]:
    """A service with keys and a provider."""
    keys = write_keys(tmp_path, {"name": "team"}, {"name": "other"})
    async with world.serve(oidc=provider_settings(issuer), api={"keys_file": keys}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, url: str, issuer: str) -> AsyncIterator[Visitor]:
    async with visiting(browser, url) as one:
        await leave_provider_alone(one, issuer)
        yield one


async def leave_provider_alone(visitor: Visitor, issuer: str) -> None:
    """The provider's pages are not ours to check, and what they load from the Internet is empty here."""
    visitor.expected += [issuer, STYLES]
    await visitor.context.route(f"**/{STYLES}", lambda route: route.fulfill(content_type="text/css", body=""))


async def log_in(page: Page) -> None:
    await page.get_by_label("API key").fill("team")
    await page.get_by_role("button", name="Log in with the key").click()


async def log_in_at_provider(page: Page, name: str = "ada") -> None:
    await page.get_by_role("link", name="Log in with Example ID").click()
    await page.get_by_role("button", name=name, exact=True).first.click()


async def test_a_key_opens_the_console_until_the_log_out(visitor: Visitor, url: str) -> None:
    """A wrong one is refused on the page; scripts cannot read the cookie."""
    page = await visitor.visit("/?state=failed")
    await expect(page).to_have_url(f"{url}/console/login?next=%2F%3Fstate%3Dfailed")
    visitor.expected.append("status of 401")
    await page.get_by_label("API key").fill("wrong")
    await page.get_by_role("button", name="Log in with the key").click()
    await expect(page.get_by_text("The API key or access token is unknown.")).to_be_visible()
    await visitor.check(page)
    await log_in(page)
    await expect(page).to_have_url(f"{url}/?state=failed")
    await expect(page.get_by_text("Logged in as team")).to_be_visible()
    assert await page.evaluate("document.cookie") == ""
    (session,) = [one for one in await visitor.context.cookies() if one["name"] == "ingest_session"]
    assert (session["httpOnly"], session["sameSite"], session["expires"]) == (True, "Strict", -1)
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_text("You have logged out.")).to_be_visible()
    await visitor.check(page)
    await page.goto(url)
    await expect(page.get_by_role("heading", name="Log in")).to_be_visible()


async def test_a_person_comes_back_from_the_provider_logged_in(visitor: Visitor, url: str) -> None:
    """The navigation begins on another site, so the strict cookie would not be sent along a redirect."""
    page = await visitor.visit("/console/login?next=/?state=failed")
    await log_in_at_provider(page)
    await expect(page).to_have_url(f"{url}/?state=failed")
    await expect(page.get_by_text("Logged in as oidc:ada")).to_be_visible()


@pytest.mark.parametrize("java_script_enabled", [True, False])
async def test_a_person_logs_out_here_and_then_at_the_provider(
    browser: Browser, url: str, issuer: str, java_script_enabled: bool
) -> None:
    """By a link: the policy of the pages forbids a form that leads to another site."""
    async with visiting(browser, url, java_script_enabled=java_script_enabled) as visitor:
        await leave_provider_alone(visitor, issuer)
        page = await visitor.open()
        await page.goto(url)
        await log_in_at_provider(page)
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_text("You have logged out.")).to_be_visible()
        if java_script_enabled:
            await visitor.check(page)
        await page.get_by_role("link", name="Log out of Example ID").click()
        await expect(page).to_have_url(re.compile(f"^{re.escape(issuer)}/oauth2/end_session"))
        await page.locator("form button[type=submit], form input[type=submit]").first.click()
        await expect(page.get_by_text("You have logged out, also of Example ID.")).to_be_visible()
        await page.goto(url)
        await expect(page.get_by_role("heading", name="Log in")).to_be_visible()


async def test_a_person_comes_back_without_javascript(browser: Browser, url: str, issuer: str) -> None:
    async with visiting(browser, url, java_script_enabled=False) as visitor:
        await leave_provider_alone(visitor, issuer)
        page = await visitor.open()
        await page.goto(url)
        await log_in_at_provider(page)
        await expect(page.get_by_text("Logged in as oidc:ada")).to_be_visible()


async def test_who_may_do_nothing_is_told_so(visitor: Visitor) -> None:
    """A page with the reason, not a circle of redirects."""
    page = await visitor.visit("/")
    visitor.expected.append("status of 403")
    await log_in_at_provider(page, "eve")
    await expect(page.get_by_text("No rule allows 'oidc:eve' anything in this service.")).to_be_visible()
    await visitor.check(page)


async def test_a_link_on_another_site_finds_the_session(visitor: Visitor, url: str, issuer: str) -> None:
    """From a chat or a mail the browser sends no strict cookie with the first request."""
    page = await visitor.visit("/")
    await log_in(page)
    await expect(page.get_by_text("Logged in as team")).to_be_visible()
    await page.goto(issuer)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.headers.get("cookie", "")))
    await page.evaluate("url => { location.href = url }", f"{url}/?state=failed")
    await expect(page).to_have_url(f"{url}/?state=failed")
    await expect(page.get_by_text("Logged in as team")).to_be_visible()
    assert "ingest_session" not in sent[0]
    assert "ingest_session" in sent[-1]


async def test_a_form_of_another_site_changes_nothing(visitor: Visitor, url: str, issuer: str) -> None:
    """Neither a log-out nor a log-in under somebody else's key."""
    page = await visitor.visit("/")
    await log_in(page)
    await expect(page.get_by_text("Logged in as team")).to_be_visible()
    visitor.expected.append("status of 403")
    for path, fields in (("/console/logout", ""), ("/console/login", '<input name="key" value="other">')):
        await page.goto(issuer)
        form = f'<form method="post" action="{url}{path}">{fields}</form>'
        await page.evaluate("html => { document.body.innerHTML = html; document.forms[0].submit() }", form)
        await expect(page.locator("body")).to_contain_text("origin_not_allowed")
    await page.goto(url)
    await expect(page.get_by_text("Logged in as team")).to_be_visible()


async def test_a_session_that_ends_leads_to_the_log_in(visitor: Visitor, plane: Plane, tmp_path: Path) -> None:
    """The next click after the key was revoked, and back to the same page after another log-in."""
    page = await visitor.visit("/")
    await log_in(page)
    await expect(page.get_by_text("Logged in as team")).to_be_visible()
    write_keys(tmp_path, {"name": "other"})
    await page.reload()
    await expect(page).to_have_url(re.compile("/console/login$"))
