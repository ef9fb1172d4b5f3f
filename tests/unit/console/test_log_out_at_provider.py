"""Log-out at the provider: offered after a log-out of the console, to people who have logged in by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from support.control import World, write_keys
from support.log_ins import (
    csrf_token,
    log_in_at_provider,
    log_in_by_id_token,
    log_in_with_key,
    provider,
    provider_settings,
)
from support.token_issuer import issuing

OFFER = 'href="/console/oidc/logout"'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as url:
        yield url


async def log_out(client: httpx.AsyncClient) -> httpx.Response:
    """Press the button; the page that follows."""
    home = await client.get("/")
    answer = await client.post("/console/logout", data={"csrf_token": csrf_token(home)})
    assert answer.status_code == 303
    return await client.get(answer.headers["location"])


async def test_a_person_who_has_logged_in_by_the_provider_can_log_out_there(world: World, issuer: str) -> None:
    """The session here ends first; the link leads to the provider with all that it needs but no token."""
    async with world.serve(oidc=provider_settings(issuer)) as plane:
        client = plane.client
        await log_in_at_provider(client, "ada")
        page = await log_out(client)
        assert "You have logged out." in page.text
        assert OFFER in page.text
        assert (await client.get("/")).status_code == 303
        begun = await client.get("/console/oidc/logout")
        assert begun.status_code == 303
        location = urlsplit(begun.headers["location"])
        assert f"{location.scheme}://{location.netloc}{location.path}" == f"{issuer}/oauth2/end_session"
        query = {name: values[0] for name, values in parse_qs(location.query).items()}
        state = query.pop("state")
        assert query == {
            "client_id": "console",
            "post_logout_redirect_uri": "http://localhost/console/oidc/logged-out",
        }
        cookie = begun.headers["set-cookie"]
        assert state not in cookie
        assert all(part in cookie for part in ("ingest_logout=", "HttpOnly", "SameSite=lax", "Max-Age=600"))
        async with httpx.AsyncClient() as browser:
            asked = await browser.get(begun.headers["location"])
            assert asked.status_code == 200
            target = f"{query['post_logout_redirect_uri']}?state={state}"
            back = await browser.post(f"{issuer}/oauth2/end_session/confirm", data={"redirect_uri": target})
        came = await client.get(back.headers["location"], headers={"sec-fetch-site": "cross-site", **NAVIGATION})
        assert (came.status_code, "You have logged out, also of Example ID." in came.text) == (200, True)
        assert "ingest_logout" not in client.cookies


NAVIGATION = {"sec-fetch-mode": "navigate"}


@pytest.mark.parametrize("query", ["", "?state=", "?state=guessed", "?state=é"])
async def test_only_the_browser_that_has_asked_is_told_of_a_log_out(world: World, issuer: str, query: str) -> None:
    """A link of somebody else shows the log-in page, without a word about what the provider has done."""
    async with world.serve(oidc=provider_settings(issuer)) as plane:
        for has_asked in (False, True):
            if has_asked:
                await plane.client.get("/console/oidc/logout")
            answer = await plane.client.get(f"/console/oidc/logged-out{query}")
            assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")


async def test_who_is_logged_in_here_is_not_sent_away(world: World, issuer: str) -> None:
    """The session here ends by its button first."""
    async with world.serve(oidc=provider_settings(issuer)) as plane:
        await log_in_at_provider(plane.client, "ada")
        answer = await plane.client.get("/console/oidc/logout")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_a_key_has_no_provider_to_log_out_of(world: World, issuer: str, tmp_path: Path) -> None:
    keys = write_keys(tmp_path, {"name": "team"})
    async with world.serve(oidc=provider_settings(issuer), api={"keys_file": keys}) as plane:
        await log_in_with_key(plane.client, "team")
        page = await log_out(plane.client)
        assert "You have logged out." in page.text
        assert OFFER not in page.text


@pytest.mark.parametrize(
    ("endpoint", "settings"),
    [
        (None, {}),
        ("javascript:alert(1)", {}),
        ("https://[::1/logout", {}),
        ("https://id.example.com/logout", {"offer_logout": False}),
    ],
)
async def test_a_log_out_that_the_provider_does_not_have_is_not_offered(
    world: World, endpoint: str | None, settings: dict[str, Any]
) -> None:
    """No endpoint, one that is no address, or one that the operator has turned off; the rest works."""
    with issuing() as issuer:
        issuer.document = {} if endpoint is None else {"end_session_endpoint": endpoint}
        oidc = provider_settings(issuer.url, rules=[{"value": "staff", "scopes": ["read"]}], **settings)
        async with world.serve(oidc=oidc) as plane:
            assert (await log_in_by_id_token(plane.client, issuer)).status_code == 200
            page = await log_out(plane.client)
            assert "You have logged out." in page.text
            assert OFFER not in page.text
            assert (await plane.client.get("/console/oidc/logout")).status_code == 404


async def test_the_session_here_ends_whatever_the_provider_does(world: World) -> None:
    """Nobody waits for a provider that is down: it is not offered."""
    with issuing() as issuer:
        oidc = provider_settings(issuer.url, rules=[{"value": "staff", "scopes": ["read"]}])
        async with world.serve(oidc=oidc) as plane:
            assert (await log_in_by_id_token(plane.client, issuer)).status_code == 200
            issuer.is_down = True
            plane.app.state.oidc.provider._documents = None
            page = await log_out(plane.client)
            assert (page.status_code, OFFER in page.text) == (200, False)
            assert (await plane.client.get("/")).status_code == 303
            assert (await plane.client.get("/console/oidc/logout")).status_code == 503


async def test_the_endpoint_may_have_a_query_of_its_own(world: World) -> None:
    """And the way back is under the public name of the service."""
    with issuing() as issuer:
        issuer.document = {"end_session_endpoint": f"{issuer.url}/logout?tenant=a"}
        api = {"public_url": "https://ingest.example.com/"}
        async with world.serve(oidc=provider_settings(issuer.url), api=api) as plane:
            begun = await plane.client.get("/console/oidc/logout")
            assert begun.headers["location"].startswith(f"{issuer.url}/logout?tenant=a&client_id=console&")
            assert "ingest.example.com%2Fconsole%2Foidc%2Flogged-out&" in begun.headers["location"]
