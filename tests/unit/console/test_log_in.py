"""Log-in to the console: cookies, tokens of forms, where it leads, and what a session may do."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from ingestion_engine.console.returning import choose_page
from support.control import World, bearer, write_keys
from support.log_ins import authorize, csrf_token, log_in_at_provider, log_in_with_key, provider, provider_settings

KEYS = ({"name": "team"}, {"name": "reader", "scopes": ["read"]})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    return {"keys_file": write_keys(tmp_path, *KEYS)}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as url:
        yield url


def cookies_of(answer: httpx.Response) -> dict[str, Any]:
    """The cookies that an answer sets, with their attributes."""
    found: dict[str, Any] = {}
    for line in answer.headers.get_list("set-cookie"):
        found |= dict(SimpleCookie(line))
    return found


def plant(client: httpx.AsyncClient, **values: str) -> None:
    """Put cookies into the browser that no answer has set."""
    for name, value in values.items():
        client.cookies.set(name, value, domain="localhost.local")  # what http.cookiejar calls it


@pytest.mark.parametrize(
    "charset",
    ["punycode", "unicode_escape", '"idna"', "utf-8; charset=punycode", "utf-16", "utf-8x", "utf-8; charset*0=puny"],
)
@pytest.mark.parametrize("path", ["/console/login", "/console/jobs/new", "/console/logout"])
async def test_a_form_is_read_as_utf8_only(world: World, keys: dict[str, Any], path: str, charset: str) -> None:
    """Half a megabyte of Punycode, from anybody, takes minutes, and an escape makes surrogates."""
    body = b'--b\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n\\ud800a-a\r\n--b--\r\n'
    async with world.serve(api=keys) as plane:
        plant(plane.client, ingest_session="a" * 43)
        headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
        answer = await plane.client.post(path, content=body, headers=headers)
        assert answer.status_code == 415
        assert "form_not_utf8" in answer.text


async def test_a_form_may_say_that_it_is_utf8(world: World, keys: dict[str, Any]) -> None:
    """As some programs do."""
    async with world.serve(api=keys) as plane:
        page = await plane.client.get("/console/login")
        headers = {"content-type": 'application/x-www-form-urlencoded; Charset="UTF-8"'}
        body = f"csrf_token={csrf_token(page)}&key=team"
        answer = await plane.client.post("/console/login", content=body.encode(), headers=headers)
        assert answer.status_code == 303


@pytest.mark.parametrize(("path", "most"), [("/console/login", 16), ("/console/logout", 16), ("/console/search", 256)])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_form_is_small(world: World, keys: dict[str, Any], path: str, most: int, declared: bool) -> None:
    """It is read before its sender is known, so a large one would cost everybody else time."""

    async def stream(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"&" * 1024

    async with world.serve(api=keys) as plane:
        plant(plane.client, ingest_session="a" * 43)
        answers = []
        for size in (most, most + 1):
            content = b"&" * (size * 1024) if declared else stream(size)
            headers = {"content-type": "application/x-www-form-urlencoded"}
            answers.append((await plane.client.post(path, content=content, headers=headers)).status_code)
        assert answers[1] == 413
        assert answers[0] in (303, 403)


# -- by a key ---------------------------------------------------------------------------------------------------------


async def test_a_page_leads_to_the_log_in_and_back(world: World, keys: dict[str, Any]) -> None:
    """With a key, to the page that was wanted, query included."""
    async with world.serve(api=keys) as plane:
        asked = await plane.client.get("/?cursor=x")
        assert (asked.status_code, asked.headers["location"]) == (303, "/console/login?next=%2F%3Fcursor%3Dx")
        page = await plane.client.get(asked.headers["location"])
        assert page.status_code == 200
        assert 'name="next" value="/?cursor=x"' in page.text
        answer = await plane.client.post(
            "/console/login", data={"csrf_token": csrf_token(page), "key": " team \n", "next": "/?cursor=x"}
        )
        assert (answer.status_code, answer.headers["location"]) == (303, "/?cursor=x")
        assert answer.headers["cache-control"] == page.headers["cache-control"] == "no-store"
        home = await plane.client.get("/")
        assert home.status_code == 200
        assert "team" in home.text
        again = await plane.client.get("/console/login")
        assert (again.status_code, again.headers["location"]) == (303, "/")


async def test_a_wrong_key_is_refused_on_the_page(
    world: World, keys: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """401, with the reason at the field; what was pasted is neither in the page nor in the log."""
    async with world.serve(api=keys) as plane:
        with caplog.at_level(logging.DEBUG, "ingestion_engine"):
            answer = await log_in_with_key(plane.client, "wrong-secret")
            empty = await log_in_with_key(plane.client, " ")
        assert (answer.status_code, empty.status_code) == (401, 401)
        assert "The API key is unknown." in answer.text
        assert "Paste an API key." in empty.text
        assert "wrong-secret" not in answer.text + caplog.text
        assert set(cookies_of(answer)) == set()
        too_long = await log_in_with_key(plane.client, "k" * 5000)
        assert too_long.status_code == 422
        assert "kkkk" not in too_long.text


@pytest.mark.parametrize(
    ("base_url", "names"),
    [
        ("https://localhost", ("__Host-ingest-csrf", "__Host-ingest")),
        ("http://localhost", ("ingest_csrf", "ingest_session")),
    ],
)
async def test_cookies_are_for_this_host_and_not_for_scripts(
    world: World, keys: dict[str, Any], base_url: str, names: tuple[str, str]
) -> None:
    """Over https they are Secure and have the prefix that browsers bind to the host."""
    async with world.serve(api=keys) as plane:
        plane.client.base_url = httpx.URL(base_url)
        page = await plane.client.get("/console/login")
        answer = await plane.client.post("/console/login", data={"csrf_token": csrf_token(page), "key": "team"})
        found = cookies_of(page) | cookies_of(answer)
        assert tuple(found) == names
        for name, same_site in zip(names, ("lax", "strict"), strict=True):
            cookie = found[name]
            assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, same_site, "/")
            assert (cookie["domain"], cookie["max-age"], cookie["expires"]) == ("", "", "")
            assert bool(cookie["secure"]) is base_url.startswith("https")


async def test_the_public_url_tells_that_browsers_use_https(world: World, keys: dict[str, Any]) -> None:
    """Behind a proxy that is not declared; under another name, such as a forwarded port, it does not."""
    async with world.serve(api={**keys, "public_url": "https://ingest.example.com"}) as plane:
        own = await plane.client.get("/console/login", headers={"host": "ingest.example.com"})
        other = await plane.client.get("/console/login", headers={"host": "localhost"})
        assert (list(cookies_of(own)), list(cookies_of(other))) == (["__Host-ingest-csrf"], ["ingest_csrf"])


async def test_a_session_that_somebody_else_has_planted_is_not_used(world: World, keys: dict[str, Any]) -> None:
    """Every log-in makes a new one, and ends the former one of the browser."""
    async with world.serve(api=keys) as plane:
        planted = "a" * 43
        plant(plane.client, ingest_session=planted)
        assert (await plane.client.get("/")).status_code == 303
        first = cookies_of(await log_in_with_key(plane.client, "team"))["ingest_session"].value
        page = await plane.client.get("/")
        token = csrf_token(page)
        await plane.client.post("/console/logout", data={"csrf_token": token})
        plant(plane.client, ingest_session=first)
        assert (await plane.client.get("/")).status_code == 303
        second = cookies_of(await log_in_with_key(plane.client, "team"))["ingest_session"].value
        assert len({planted, first, second}) == 3


async def test_a_second_log_in_ends_the_first_session_of_the_browser(world: World, keys: dict[str, Any]) -> None:
    async with world.serve(api=keys) as plane:
        page = await plane.client.get("/console/login")
        fields = {"csrf_token": csrf_token(page), "key": "team"}
        seed = plane.client.cookies["ingest_csrf"]
        first = cookies_of(await plane.client.post("/console/login", data=fields))["ingest_session"].value
        plane.client.cookies.clear()
        plant(plane.client, ingest_session=first, ingest_csrf=seed)
        assert (await plane.client.get("/")).status_code == 200
        await plane.client.post("/console/login", data={**fields, "key": "reader"})
        plane.client.cookies.clear()
        plant(plane.client, ingest_session=first, ingest_csrf=seed)
        assert (await plane.client.get("/")).status_code == 303


async def test_a_session_ends_with_its_key(world: World, keys: dict[str, Any], tmp_path: Path) -> None:
    """And has its present scopes."""
    async with world.serve(api=keys) as plane:
        await log_in_with_key(plane.client, "team")
        assert (await plane.client.get("/")).status_code == 200
        write_keys(tmp_path, {"name": "team", "scopes": ["search"]}, {"name": "reader"})
        assert (await plane.client.get("/")).status_code == 403
        write_keys(tmp_path, {"name": "reader"})
        assert (await plane.client.get("/")).status_code == 303


async def test_a_log_out_ends_the_session(world: World, keys: dict[str, Any]) -> None:
    """The cookie goes, and its value counts no more."""
    async with world.serve(api=keys) as plane:
        secret = cookies_of(await log_in_with_key(plane.client, "team"))["ingest_session"].value
        page = await plane.client.get("/")
        forged = await plane.client.post("/console/logout", data={"csrf_token": "0" * 64})
        assert (forged.status_code, "csrf_token_invalid" in forged.text) == (403, True)
        answer = await plane.client.post("/console/logout", data={"csrf_token": csrf_token(page)})
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/login?out=1")
        assert "ingest_session" not in plane.client.cookies
        assert "You have logged out." in (await plane.client.get(answer.headers["location"])).text
        plant(plane.client, ingest_session=secret)
        assert (await plane.client.get("/")).status_code == 303


async def test_the_api_takes_no_cookie(world: World, keys: dict[str, Any]) -> None:
    """So no page of another site can use a session there; and a page takes a bearer key without a session."""
    async with world.serve(api=keys) as plane:
        await log_in_with_key(plane.client, "team")
        assert (await plane.client.get("/jobs")).status_code == 401
        plane.client.cookies.clear()
        assert (await plane.client.get("/", headers=bearer("team"))).status_code == 200
        refused = await plane.client.get("/", headers=bearer("stranger"))
        assert (refused.status_code, "location" in refused.headers) == (401, False)


async def test_parts_of_pages_have_the_whole_page_loaded(world: World, keys: dict[str, Any]) -> None:
    """A redirect would put the log-in page into the part that htmx replaces."""
    async with world.serve(api=keys) as plane:
        headers = {"hx-request": "true", "hx-current-url": "http://localhost/console/search?q=a"}
        answer = await plane.client.get("/", headers=headers)
        assert (answer.status_code, answer.headers["hx-redirect"]) == (
            401,
            "/console/login?next=%2Fconsole%2Fsearch%3Fq%3Da",
        )


async def test_refusals_of_pages_are_recorded_with_their_code(world: World, tmp_path: Path) -> None:
    """As those of the API: a wrong key, a missing scope, a form without its token."""
    keys = write_keys(tmp_path, {"name": "searcher", "scopes": ["search"]}, {"name": "boss"})
    async with world.serve(api={"keys_file": keys}) as plane:
        await log_in_with_key(plane.client, "wrong")
        assert (await plane.client.get("/", headers=bearer("searcher"))).status_code == 403
        assert (await plane.client.post("/console/login", data={"key": "x"})).status_code == 403

        await plane.services.audit.flush()
        listed = await plane.client.get("/audit?outcome=refused", headers=bearer("boss"))
        codes = {entry["code"] for entry in listed.json()["items"]}
        assert codes == {"unauthenticated", "scope_missing", "csrf_token_invalid"}


# -- tokens of forms --------------------------------------------------------------------------------------------------


async def test_a_log_in_needs_the_token_of_this_browser(world: World, keys: dict[str, Any]) -> None:
    """So nobody can log somebody else in under a key of theirs."""
    async with world.serve(api=keys) as plane:
        page = await plane.client.get("/console/login")
        token = csrf_token(page)
        for data in ({"key": "team"}, {"key": "team", "csrf_token": "0" * 64}, {"key": "team", "csrf_token": "é"}):
            answer = await plane.client.post("/console/login", data=data)
            assert (answer.status_code, "csrf_token_invalid" in answer.text) == (403, True), data
        plane.client.cookies.clear()
        other = await plane.client.post("/console/login", data={"key": "team", "csrf_token": token})
        assert other.status_code == 403


async def test_an_open_service_has_no_log_in_but_tokens(world: World) -> None:
    """The browser's own cookie makes them; the log-in leads on."""
    async with world.serve() as plane:
        home = await plane.client.get("/")
        assert home.status_code == 200
        assert list(cookies_of(home)) == ["ingest_csrf"]
        assert cookies_of(await plane.client.get("/")) == {}
        answer = await plane.client.get("/console/login?next=/console/search")
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/search")
        assert (await plane.client.post("/console/login", data={"key": "x"})).headers["location"] == "/"


# -- where it leads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", ["/", "/?state=failed", "/console/jobs/01J", "/console/search?q=a%20b&x=/", "/console", "/console/x/"]
)
def test_a_log_in_leads_to_pages_of_the_console(page: str) -> None:
    assert choose_page(page) == page


@pytest.mark.parametrize(
    "page",
    [
        *("//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "evil"),
        *(
            "/console//evil.example",
            "/console\\..\\evil",
            "/console/\n//evil.example",
            "/\t/evil.example",
            "/console\r\nx",
        ),
        *("javascript:alert(1)", "/jobs", "/docs", "/console/../jobs?\n", "/consolex", "", "/console/é", None),
        *(
            "/console/login",
            "/console/login?next=/",
            "/console/logout",
            "/console/oidc/callback?code=x",
            "/?" + "a" * 3000,
        ),
    ],
)
def test_a_log_in_leads_nowhere_else(page: str | None) -> None:
    """To no other host, and to none of its own steps."""
    assert choose_page(page) == "/"


# -- by the provider --------------------------------------------------------------------------------------------------


async def test_a_person_logs_in_at_the_provider(world: World, issuer: str) -> None:
    """By a code with PKCE, state and nonce; the callback answers with a page that goes on, not with a redirect."""
    async with world.serve(oidc=provider_settings(issuer)) as plane:
        page = await plane.client.get("/console/login?next=/console/search")
        assert "Log in with Example ID" in page.text
        assert 'name="key"' not in page.text
        assert 'href="/console/oidc/login?next=%2Fconsole%2Fsearch"' in page.text
        begun = await plane.client.get("/console/oidc/login?next=/console/search")
        query = {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["location"]).query).items()}
        assert query["redirect_uri"] == "http://localhost/console/oidc/callback"
        assert (query["response_type"], query["code_challenge_method"], query["scope"]) == (
            "code",
            "S256",
            "openid profile",
        )
        assert {len(query[name]) for name in ("state", "nonce", "code_challenge")} == {43}
        cookie = cookies_of(begun)["ingest_login"]
        assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "lax", "600")
        assert not any(query[name] in cookie.value for name in ("state", "nonce", "code_challenge"))
        answer = await plane.client.get(await authorize(begun.headers["location"], "ada"))
        assert answer.status_code == 200
        assert 'http-equiv="refresh" content="0; url=/console/search"' in answer.text
        assert cookies_of(answer)["ingest_session"]["samesite"] == "strict"
        assert "ingest_login" not in plane.client.cookies
        home = await plane.client.get("/")
        assert home.status_code == 200
        assert "oidc:ada" in home.text


async def test_what_a_person_may_do_follows_the_rules(world: World, issuer: str) -> None:
    """Nothing without one; and sessions follow rules that change."""
    async with world.serve(oidc=provider_settings(issuer)) as plane:
        refused = await log_in_at_provider(plane.client, "eve")
        assert refused.status_code == 403
        assert "No rule allows" in refused.text
        assert "ingest_session" not in cookies_of(refused)
        assert (await log_in_at_provider(plane.client, "bob")).status_code == 200
        assert (await plane.client.get("/")).status_code == 200
        cookies = dict(plane.client.cookies)
    rules = [{"value": "operators", "scopes": ["read"]}]
    async with world.serve(oidc=provider_settings(issuer, rules=rules)) as plane:
        plant(plane.client, **cookies)
        assert (await plane.client.get("/")).status_code == 303


async def test_only_the_browser_that_began_a_log_in_completes_it(world: World, issuer: str) -> None:
    """A callback with a stranger's code and state, without the cookie, or used a second time, logs nobody in."""
    async with world.serve(oidc=provider_settings(issuer)) as plane:
        client = plane.client
        begun = await client.get("/console/oidc/login")
        callback = await authorize(begun.headers["location"], "ada")
        kept = client.cookies["ingest_login"]
        client.cookies.clear()
        assert (await client.get(callback)).status_code == 401
        await client.get("/console/oidc/login")  # this browser's own log-in, another state
        assert "This browser has begun no such log-in" in (await client.get(callback)).text
        client.cookies.clear()
        plant(client, ingest_login=kept)
        assert (await client.get(callback)).status_code == 200
        client.cookies.clear()
        plant(client, ingest_login=kept)
        again = await client.get(callback)
        assert (again.status_code, "invalid_grant" in again.text) == (401, True)


async def test_the_answer_of_the_provider_is_checked(world: World, issuer: str) -> None:
    """A refusal, an answer of another provider, one without a code; nothing of it is repeated as markup."""
    async with world.serve(oidc=provider_settings(issuer)) as plane:

        async def come_back(**parameters: str) -> httpx.Response:
            begun = await plane.client.get("/console/oidc/login")
            state = parse_qs(urlsplit(begun.headers["location"]).query)["state"][0]
            return await plane.client.get("/console/oidc/callback", params={"state": state, **parameters})

        denied = await come_back(error="access_denied", error_description="no")
        assert (denied.status_code, "denied the log-in" in denied.text) == (403, True)
        odd = await come_back(error="<script>alert(1)</script>")
        assert (odd.status_code, "<script>alert" in odd.text) == (401, False)
        assert "another provider" in (await come_back(code="x", iss="https://evil.example")).text
        assert "has no code" in (await come_back()).text


async def test_a_provider_that_is_down_is_named(world: World) -> None:
    """503 on a page; keys still count."""
    settings = provider_settings("http://localhost:1")
    async with world.serve(oidc=settings) as plane:
        answer = await plane.client.get("/console/oidc/login")
        assert answer.status_code == 503
        assert "<p>The OpenID Connect provider refuses connections.</p>" in answer.text


async def test_a_link_on_another_site_does_not_look_like_a_log_out(world: World, keys: dict[str, Any]) -> None:
    """Browsers send a strict cookie only from pages of this site, so the log-in first goes on to itself."""
    async with world.serve(api=keys) as plane:
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        page = await plane.client.get("/console/login?next=/console/search", headers=headers)
        assert 'content="0; url=/console/login?next=%2Fconsole%2Fsearch&amp;here=1"' in page.text
        assert 'name="key"' in (await plane.client.get("/console/login?next=/&here=1", headers=headers)).text
