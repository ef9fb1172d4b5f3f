"""Log-outs that a provider reports: which tokens count, whose sessions end, and what nobody else can do with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingestion_engine.access import sessions
from ingestion_engine.access.oidc.tokens import LOG_OUT_AGE_S, LOG_OUT_EVENT, TOKEN_MAX_BYTES
from ingestion_engine.api import streams
from support.control import BODY, Plane, World, bearer, write_keys
from support.log_ins import begin_by_id_token, log_in_by_id_token, log_in_with_key
from support.token_issuer import LogOutTokens, TokenIssuer, issuing
from support.waiting import eventually
from support.wrong_tokens import MINUTE, WRONG_TOKENS, now, sign_claims

PATH = "/console/oidc/backchannel-logout"
CLIENT = "console"
RULES = [{"value": "staff", "scopes": ["read", "submit"]}]


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with issuing() as one:
        yield one


@pytest.fixture
def tokens(issuer: TokenIssuer) -> LogOutTokens:
    return LogOutTokens(issuer, CLIENT)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def settings(issuer: TokenIssuer, **others: Any) -> dict[str, Any]:
    return {"issuer": issuer.url, "client_id": CLIENT, "audience": "ingest", "rules": RULES, **others}


async def report(plane: Plane, token: str, **headers: str) -> httpx.Response:
    """The provider reports a log-out: a request without cookies."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(plane.app), base_url="http://localhost") as provider:
        return await provider.post(PATH, data={"logout_token": token}, headers=headers)


class People:
    """Browsers of one service, by name."""

    def __init__(self, plane: Plane, issuer: TokenIssuer) -> None:
        self._plane = plane
        self._issuer = issuer
        self._cookies: dict[str, str] = {}

    async def log_in(self, name: str, **claims: Any) -> None:
        client = self._plane.client
        client.cookies.clear()
        answer = await log_in_by_id_token(client, self._issuer, **claims)
        assert answer.status_code == 200, answer.text
        self._cookies[name] = client.cookies["ingest_session"]
        client.cookies.clear()

    async def find_logged_in(self, plane: Plane | None = None) -> set[str]:
        """The names of those whose session counts."""
        found = set()
        for name, cookie in self._cookies.items():
            answer = await (plane or self._plane).client.get("/", headers={"cookie": f"ingest_session={cookie}"})
            assert answer.status_code in (200, 303)
            if answer.status_code == 200:
                found.add(name)
        return found


# -- whose sessions end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "ended"),
    [
        ({"sub": None, "sid": "first"}, {"ada here"}),
        ({"sub": "ada", "sid": "first"}, {"ada here", "ada unnamed"}),
        ({"sub": "ada", "sid": None}, {"ada here", "ada there", "ada unnamed"}),
        ({"sub": "ada", "sid": "another"}, {"ada unnamed"}),
        ({"sub": "eve", "sid": None}, set()),
        ({"sub": None, "sid": "ada"}, set()),
        ({"sub": "first", "sid": None}, set()),
    ],
)
async def test_the_sessions_that_are_named_end_and_no_others(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, named: dict[str, Any], ended: set[str]
) -> None:
    """A session by its id, all of a person by the subject; the answer is the same where there are none."""
    async with world.serve(oidc=settings(issuer)) as plane:
        people = People(plane, issuer)
        await people.log_in("ada here", sub="ada", sid="first")
        await people.log_in("ada there", sub="ada", sid="second")
        await people.log_in("ada unnamed", sub="ada")
        await people.log_in("bob", sub="bob", sid="third")
        everybody = await people.find_logged_in()
        assert len(everybody) == 4
        answer = await report(plane, tokens.sign(tokens.claims(**named)))
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["cache-control"] == "no-store"
        assert await people.find_logged_in() == everybody - ended


async def test_sessions_of_keys_and_of_another_issuer_stay(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, tmp_path: Path
) -> None:
    """A key whose name is the subject of the token, and a person of the same subject at the provider of before."""
    keys = write_keys(tmp_path, {"name": "ada"})
    with issuing() as former:
        async with world.serve(oidc=settings(former), api={"keys_file": keys}) as plane:
            people = People(plane, former)
            await people.log_in("of before", sub="ada", sid="first")
    async with world.serve(oidc=settings(issuer), api={"keys_file": keys}) as plane:
        await log_in_with_key(plane.client, "ada")
        assert (await report(plane, tokens.sign(tokens.claims(sid=None)))).status_code == 200
        assert (await plane.client.get("/")).status_code == 200
        assert await people.find_logged_in(plane) == {"of before"}


async def test_sessions_end_on_every_copy_and_their_streams_too(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider reaches one copy; a stream on another one ends, and that of somebody else goes on."""
    monkeypatch.setattr(streams, "CHECK_S", 0.02)
    monkeypatch.setattr(sessions, "KNOWN_S", 0.02)
    async with world.serve(oidc=settings(issuer)) as here, world.serve(oidc=settings(issuer)) as there:
        job_id = (await here.client.post("/ray/jobs", json=BODY, headers=bearer(issuer.sign()))).json()["job_id"]
        answers = {}
        for name in ("ada", "bob"):
            there.client.cookies.clear()
            await log_in_by_id_token(there.client, issuer, sub=name, sid=f"of {name}")
            cookie = f"ingest_session={there.client.cookies['ingest_session']}"
            request = there.client.get(f"/console/jobs/{job_id}/events", headers={"cookie": cookie})
            answers[name] = asyncio.create_task(request)
        load = there.services.metrics.load
        await eventually(lambda: load.streams == 2)
        assert (await report(here, tokens.sign(tokens.claims(sub=None, sid="of ada")))).status_code == 200
        async with asyncio.timeout(10):
            assert (await answers["ada"]).status_code == 200
        assert not answers["bob"].done()
        there.services.closing.set()
        async with asyncio.timeout(10):
            await answers["bob"]


@pytest.mark.parametrize("named", [{"sub": None}, {"sid": None}])
async def test_a_log_in_that_is_being_completed_ends_too(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, named: dict[str, Any]
) -> None:
    """The provider may report the log-out before the browser comes back; a log-in after it counts."""
    async with world.serve(oidc=settings(issuer)) as plane:
        callback = await begin_by_id_token(plane.client, issuer, sub="ada", sid="first", iat=now() - 5)
        assert (await report(plane, tokens.sign(tokens.claims(iat=now() - 2, **named)))).status_code == 200
        answer = await plane.client.get(callback)
        assert (answer.status_code, "has ended the log-in" in answer.text) == (401, True)
        assert "ingest_session" not in plane.client.cookies
        assert (await log_in_by_id_token(plane.client, issuer, sub="ada", sid="first")).status_code == 200
        assert (await plane.client.get("/")).status_code == 200


# -- which tokens count -----------------------------------------------------------------------------------------------

EVENTS: list[Any] = [None, {}, [], LOG_OUT_EVENT, [LOG_OUT_EVENT], {LOG_OUT_EVENT: True}, {LOG_OUT_EVENT + "/": {}}]

WRONG: dict[str, tuple[Callable[[LogOutTokens], str], str]] = {
    **WRONG_TOKENS,  # type: ignore[dict-item]  # a log-out token is made as others are
    "access token": (lambda one: one.issuer.sign(one.issuer.claims(aud=CLIENT)), "lacks the claim 'jti'"),
    "access token by its type": (lambda one: one.sign(headers={"typ": "at+jwt"}), "another kind"),
    "security event": (lambda one: one.sign(headers={"typ": "secevent+jwt"}), "another kind"),
    "ID token": (lambda one: one.issuer.sign(one.issuer.claims(aud=CLIENT, nonce="n", jti="a")), "the claim 'events'"),
    **{
        f"events {value!r}": (lambda one, value=value: sign_claims(one, events=value), "")  # type: ignore[misc]
        for value in EVENTS
    },
    "nonce": (lambda one: one.sign(one.claims(nonce="n")), "has a nonce"),
    "empty nonce": (lambda one: one.sign(one.claims(nonce="")), "has a nonce"),
    "nobody": (lambda one: one.sign(one.claims(sub=None, sid=None)), "neither a subject nor a session"),
    "empty subject": (lambda one: one.sign(one.claims(sub="", sid=None)), "have to be texts"),
    "subject that is no text": (lambda one: sign_claims(one, sub=7), "cannot be read"),
    "empty session": (lambda one: one.sign(one.claims(sid="")), "have to be texts"),
    "session that is no text": (lambda one: one.sign(one.claims(sid=["first"])), "have to be texts"),
    "no id": (lambda one: one.sign(one.claims(jti=None)), "lacks the claim 'jti'"),
    "empty id": (lambda one: one.sign(one.claims(jti="")), "have to be texts"),
    "id that is no text": (lambda one: sign_claims(one, jti=7), "cannot be read"),
    "no time": (lambda one: one.sign(one.claims(iat=None)), "lacks the claim 'iat'"),
    "time that is no number": (lambda one: sign_claims(one, iat="now"), "cannot be read"),
    "old": (lambda one: one.sign(one.claims(iat=now() - LOG_OUT_AGE_S - 2 * MINUTE)), "issued more than 600 s ago"),
    "another client": (lambda one: one.sign(one.claims(aud=[CLIENT, "mobile"])), "another client"),
    "another party": (lambda one: one.sign(one.claims(azp="mobile")), "another client"),
    "audience of the API": (lambda one: one.sign(one.claims(aud="ingest")), "another audience"),
    "encrypted": (lambda _: "ey.ey.ey.ey.ey", "not a JSON Web Token"),
    "empty": (lambda _: "", "must have the field"),
}


async def test_a_wrong_token_ends_nothing(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, caplog: pytest.LogCaptureFixture
) -> None:
    """400 with the fields of OAuth errors; nothing of the token reaches the log, the answer or the audit log."""
    limits = {"failed_logins_per_minute": 10_000}
    async with world.serve(oidc=settings(issuer), limits=limits) as plane:
        people = People(plane, issuer)
        await people.log_in("ada", sub="ada", sid="first")
        for name, (make, reason) in WRONG.items():
            token = make(tokens)
            caplog.clear()
            with caplog.at_level(logging.DEBUG, "ingestion_engine"):
                answer = await report(plane, token)
            assert answer.status_code == 400, (name, answer.text)
            assert answer.headers["cache-control"] == "no-store"
            body = answer.json()
            assert (body.pop("error"), list(body)) == ("invalid_request", ["error_description"]), name
            assert reason in body["error_description"], (name, answer.text)
            for part in (part for part in token.split(".") if len(part) > 8):
                assert part not in answer.text + caplog.text, name
        assert await people.find_logged_in() == {"ada"}
        assert (await report(plane, tokens.sign())).status_code == 200
        assert await people.find_logged_in() == set()


async def test_tokens_of_providers_of_every_kind_count(world: World, issuer: TokenIssuer, tokens: LogOutTokens) -> None:
    """With and without a type, for one audience in a list, with further events and claims, with another clock."""
    events = {LOG_OUT_EVENT: {}, "https://schemas.example.com/other": {}}
    good = [
        issuer.sign(tokens.claims()),
        tokens.sign(headers={"typ": "JWT"}),
        tokens.sign(headers={"typ": "application/logout+jwt"}),
        tokens.sign(tokens.claims(aud=[CLIENT], azp=CLIENT, typ="Logout", events=events)),
        tokens.sign(tokens.claims(aud=[CLIENT, "mobile"], azp=CLIENT)),
        tokens.sign(tokens.claims(iat=now() + MINUTE // 2)),
        tokens.sign(tokens.claims(iat=now() - MINUTE, exp=now() - MINUTE // 2)),
    ]
    async with world.serve(oidc=settings(issuer)) as plane:
        people = People(plane, issuer)
        for number, token in enumerate(good):
            await people.log_in(f"ada {number}", sub="ada", sid="first", iat=now() + MINUTE // 2 + 1)
            answer = await report(plane, token)
            assert answer.status_code == 200, (number, answer.text)
            assert await people.find_logged_in() == set(), number


async def test_a_token_is_used_once(world: World, issuer: TokenIssuer, tokens: LogOutTokens) -> None:
    """On any copy: who has seen one cannot log the person out for the rest of its life."""
    token = tokens.sign(tokens.claims(iat=now() - 5))
    async with world.serve(oidc=settings(issuer)) as here, world.serve(oidc=settings(issuer)) as there:
        people = People(here, issuer)
        assert (await report(here, token)).status_code == 200
        await people.log_in("ada", sub="ada", sid="first")
        for plane in (here, there):
            again = await report(plane, token)
            assert (again.status_code, again.json()["error_description"]) == (
                400,
                "The log-out token was used already.",
            )
        assert await people.find_logged_in() == {"ada"}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"logout_token": "TOKEN"}'),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="logout_token"\r\n\r\nTOKEN'),
        ("", b"logout_token=TOKEN"),
        ("application/x-www-form-urlencoded", b"logout_token=TOKEN&logout_token=TOKEN"),
        ("application/x-www-form-urlencoded", b"Logout_Token=TOKEN"),
        ("application/x-www-form-urlencoded", b"logout_token=TOKEN" + b"&a=b" * 16),
        ("application/x-www-form-urlencoded", b"logout_token=TOKEN\xff"),
        ("application/x-www-form-urlencoded", b""),
    ],
)
async def test_the_token_is_in_the_form_once(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, content_type: str, body: bytes
) -> None:
    """Neither in another body, nor in the address, nor twice."""
    token = tokens.sign()
    async with world.serve(oidc=settings(issuer)) as plane:
        answer = await plane.client.post(
            f"{PATH}?logout_token={token}",
            content=body.replace(b"TOKEN", token.encode()),
            headers={"content-type": content_type},
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        form = {"logout_token": token, "other": "é"}
        assert (await plane.client.post(PATH, data=form)).status_code == 200


async def test_a_large_form_is_not_read(world: World, issuer: TokenIssuer) -> None:
    async with world.serve(oidc=settings(issuer)) as plane:
        assert (await report(plane, "e" * TOKEN_MAX_BYTES)).status_code == 413


# -- who may send them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oidc", [{}, {"client_id": None}])
async def test_without_a_log_in_by_a_provider_there_are_no_log_outs(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, oidc: dict[str, Any]
) -> None:
    """Not even for tokens that would count."""
    async with world.serve(**({"oidc": settings(issuer, **oidc)} if oidc else {})) as plane:
        answer = await report(plane, tokens.sign())
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_page_of_another_site_cannot_send_one(world: World, issuer: TokenIssuer, tokens: LogOutTokens) -> None:
    """A provider is no page: its requests have neither header, and need no token of a form."""
    async with world.serve(oidc=settings(issuer)) as plane:
        token = tokens.sign()
        for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = await report(plane, token, **headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
        assert (await report(plane, token)).status_code == 200


async def test_who_guesses_tokens_is_kept_out_and_keeps_out_nobody_else(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, tmp_path: Path
) -> None:
    """Failed log-outs and failed log-ins of one address are counted apart: both may come through one proxy."""
    keys = write_keys(tmp_path, {"name": "team"})
    serving = {"oidc": settings(issuer), "api": {"keys_file": keys}, "limits": {"failed_logins_per_minute": 2}}
    async with world.serve(**serving) as plane:
        assert (await report(plane, tokens.sign())).status_code == 200
        for _ in range(2):
            assert (await report(plane, "guess")).status_code == 400
        limited = await report(plane, tokens.sign())
        assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
        assert (await log_in_with_key(plane.client, "team")).status_code == 303
    async with world.serve(**serving) as plane:
        for _ in range(2):
            assert (await log_in_with_key(plane.client, "wrong")).status_code == 401
        assert (await log_in_with_key(plane.client, "team")).status_code == 429
        assert (await report(plane, tokens.sign())).status_code == 200


async def test_a_provider_whose_keys_are_not_known_is_answered_as_the_standard_says(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens
) -> None:
    """400 for whatever was not carried out; the same token counts later, and the address is not at fault."""
    issuer.is_down = True
    async with world.serve(oidc=settings(issuer), limits={"failed_logins_per_minute": 1}) as plane:
        token = tokens.sign()
        for _ in range(3):
            answer = await report(plane, token)
            assert (answer.status_code, answer.json()["error"]) == (400, "temporarily_unavailable")
            assert issuer.url not in answer.text
        issuer.is_down = False
        plane.app.state.oidc.provider._tried_at = None
        assert (await report(plane, token)).status_code == 200


async def test_log_outs_are_recorded_with_whose_sessions_ended(
    world: World, issuer: TokenIssuer, tokens: LogOutTokens, tmp_path: Path
) -> None:
    """And refused ones with the address that has sent them."""
    keys = write_keys(tmp_path, {"name": "boss"})
    async with world.serve(oidc=settings(issuer), api={"keys_file": keys}) as plane:
        people = People(plane, issuer)
        await people.log_in("ada here", sub="ada", sid="first")
        await people.log_in("ada there", sub="ada", sid="second")
        assert (await report(plane, tokens.sign(tokens.claims(sid=None)))).status_code == 200
        assert (await report(plane, "wrong")).status_code == 400
        await plane.services.audit.flush()
        query = "/audit?operation=console.log_out_by_provider"
        entries = (await plane.client.get(query, headers=bearer("boss"))).json()["items"]
        found = {entry["outcome"]: entry for entry in entries}
        assert set(found) == {"done", "refused"}
        done, refused = found["done"], found["refused"]
        assert (done["who"], done["kind"], done["status"], done["details"]) == (
            "oidc:ada",
            "oidc",
            200,
            {"sessions": 2},
        )
        assert (refused["who"], refused["status"], refused["code"]) == ("", 400, "logout_token_invalid")
        assert refused["address"]
