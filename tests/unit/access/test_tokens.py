"""Tokens of an OpenID Connect provider: which count, what their holders may do, and what they cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingestion_engine.access.oidc.provider import FRESH_S, RETRY_S
from ingestion_engine.access.oidc.rules import RuleBook
from ingestion_engine.access.oidc.tokens import LOG_OUT_EVENT, TOKEN_MAX_BYTES
from ingestion_engine.cli import app
from ingestion_engine.cli.output import run_app
from ingestion_engine.runtime.settings import OidcSettings
from support.control import World, bearer, write_keys
from support.live_service import LiveService
from support.token_issuer import AUDIENCE, TokenIssuer, ec_key, issuing, rsa_key
from support.wrong_tokens import MINUTE, WRONG_TOKENS, now, sign_claims

RULES = [
    {"value": "staff", "scopes": ["search", "read"], "collections": ["docs-*"]},
    {"claim": "azp", "value": "robot", "scopes": ["submit", "read"], "buckets": ["in-*"]},
    {"value": "owners", "scopes": ["admin", "read", "delete"]},
]


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with issuing() as one:
        yield one


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def settings(issuer: TokenIssuer, **others: Any) -> dict[str, Any]:
    return {"issuer": issuer.url, "audience": AUDIENCE, "rules": RULES, **others}


async def ask(world: World, issuer: TokenIssuer, token: str, **others: Any) -> httpx.Response:
    """GET /jobs with a token."""
    async with world.serve(oidc=settings(issuer, **others), headers=bearer(token)) as plane:
        return await plane.client.get("/jobs")


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _with_clock(plane: Any) -> Clock:
    clock = Clock()
    plane.app.state.oidc.provider._clock = clock
    return clock


# -- good tokens ------------------------------------------------------------------------------------------------------


async def test_the_holder_of_a_token_may_do_what_the_first_matching_rule_says(
    world: World, issuer: TokenIssuer
) -> None:
    """Rights of two rules are not united: the scopes of one and the globs of the other would allow more than either."""
    both = issuer.sign(issuer.claims(groups=["owners", "staff"]))
    async with world.serve(oidc=settings(issuer), headers=bearer(both)) as plane:
        assert (await plane.client.get("/jobs")).status_code == 200
        refused = await plane.client.delete("/collections/docs-a")
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
        foreign = await plane.client.post("/search", json={"collection": "other", "query": "x"})
        assert (foreign.status_code, foreign.json()["code"]) == (403, "not_allowed")


async def test_a_program_is_known_by_another_claim_than_people(world: World, issuer: TokenIssuer) -> None:
    """A client-credentials token has no groups, but the id of its client."""
    token = issuer.sign(issuer.claims(groups=None, azp="robot", sub="service-account-robot"))
    async with world.serve(oidc=settings(issuer), headers=bearer(token)) as plane:
        assert (await plane.client.get("/jobs")).status_code == 200
        refused = await plane.client.post("/search", json={"collection": "docs-a", "query": "x"})
        assert refused.json()["scope"] == "search"


@pytest.mark.parametrize(
    ("claim", "value", "claims"),
    [
        ("realm_access.roles", "admin", {"realm_access": {"roles": ["user", "admin"]}}),
        ("https://example.com/roles", "admin", {"https://example.com/roles": ["admin"]}),
        ("scope", "ingest.read", {"scope": "openid ingest.read"}),
        ("department", "law", {"department": "law"}),
        ("groups", "*", {"groups": None}),
    ],
)
async def test_values_are_found_where_providers_put_them(
    world: World, issuer: TokenIssuer, claim: str, value: str, claims: dict[str, Any]
) -> None:
    """In nested objects, under names with dots, in texts separated by blanks, and in plain texts."""
    rules = [{"value": value, "scopes": ["read"]}]
    answer = await ask(world, issuer, issuer.sign(issuer.claims(**claims)), claim=claim, rules=rules)
    assert answer.status_code == 200, answer.text


async def test_a_token_that_no_rule_names_may_do_nothing(world: World, issuer: TokenIssuer) -> None:
    """The answer names the claim; where the provider left it out as too long, it says so."""
    for claims in ({"groups": ["guests"]}, {"groups": None}, {"groups": {"staff": True}}, {"groups": "staff guests"}):
        answer = await ask(world, issuer, issuer.sign(issuer.claims(**claims)))
        assert (answer.status_code, answer.json()["code"]) == (403, "no_rule"), claims
        assert "'groups'" in answer.json()["hint"]
    overage = issuer.claims(groups=None, _claim_names={"groups": "src1"})
    assert "too long" in (await ask(world, issuer, issuer.sign(overage))).json()["hint"]


async def test_jobs_belong_to_the_holder_under_a_name_that_no_key_has(
    world: World, issuer: TokenIssuer, tmp_path: Path
) -> None:
    """Whoever may choose a name at the provider does not become the owner of a key's jobs."""
    keys = write_keys(tmp_path, {"name": "ada"})
    async with world.serve(oidc=settings(issuer), api={"keys_file": keys}) as plane:
        identities = plane.app.state.identities
        by_key = await identities.identify("ada", None, address="")
        by_token = await identities.identify(issuer.sign(), None, address="")
        assert (by_key.name, by_token.name) == ("ada", "oidc:ada")
        assert by_token.expires_at is not None


async def test_keys_count_beside_tokens(world: World, issuer: TokenIssuer, tmp_path: Path) -> None:
    """A service may have both; what is missing is asked for by its name."""
    keys = write_keys(tmp_path, {"name": "team"})
    async with world.serve(oidc=settings(issuer), api={"keys_file": keys}) as plane:
        assert (await plane.client.get("/jobs", headers=bearer("team"))).status_code == 200
        assert (await plane.client.get("/jobs", headers=bearer(issuer.sign()))).status_code == 200
        assert (await plane.client.get("/jobs")).json()["detail"] == "An API key or access token is required."


# -- wrong tokens -----------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[TokenIssuer], str], str]] = {
    **WRONG_TOKENS,
    "no subject": (lambda one: one.sign(one.claims(sub=None)), "lacks the claim 'sub'"),
    "subject that is no text": (lambda one: sign_claims(one, sub=7), "cannot be read"),
    "subject with control characters": (lambda one: one.sign(one.claims(sub="a\nb")), "no text in the claim"),
    "subject of a lone surrogate": (lambda one: sign_claims(one, sub="\ud800"), "no text in the claim"),
    "log-out token": (lambda one: one.sign(headers={"typ": "logout+jwt"}), "another kind"),
    "ID token": (lambda one: one.sign(one.claims(nonce="n")), "ID token"),
    "ID token of Keycloak": (lambda one: one.sign(one.claims(typ="ID")), "ID token"),
    "refresh token of Keycloak": (lambda one: one.sign(one.claims(typ="Refresh")), "'refresh'"),
    "large": (lambda one: one.sign(one.claims(groups=["g" * TOKEN_MAX_BYTES])), "more than 16384 bytes"),
    "log-out token without a type": (lambda one: one.sign(one.claims(events={LOG_OUT_EVENT: {}})), "about an event"),
}


async def test_a_wrong_token_is_refused_with_the_reason(
    world: World, issuer: TokenIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    """401 with a sentence and the challenge of RFC 6750; nothing of the token reaches the log or the answer."""
    async with world.serve(oidc=settings(issuer), limits={"failed_logins_per_minute": 10_000}) as plane:
        for name, (make, reason) in WRONG.items():
            token = make(issuer)
            caplog.clear()
            with caplog.at_level(logging.DEBUG, "ingestion_engine"):
                answer = await plane.client.get("/jobs", headers=bearer(token))
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (name, answer.text)
            assert reason in answer.json()["detail"], (name, answer.text)
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            for part in (part for part in token.split(".") if len(part) > 8):
                assert part not in answer.text + caplog.text, name


async def test_a_request_without_a_token_is_challenged_without_an_error(world: World, issuer: TokenIssuer) -> None:
    """RFC 6750 section 3.1: a request that has no credential is told no error code."""
    async with world.serve(oidc=settings(issuer)) as plane:
        answer = await plane.client.get("/jobs")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["detail"] == "An access token is required."


@pytest.mark.parametrize("seconds", [-MINUTE // 2, MINUTE // 2])
async def test_clocks_may_differ_by_less_than_a_minute(world: World, issuer: TokenIssuer, seconds: int) -> None:
    """A token that expired half a minute ago, or begins in half a minute, counts."""
    claims = issuer.claims(nbf=now() + seconds, iat=now() + seconds, exp=now() + min(seconds, 0))
    assert (await ask(world, issuer, issuer.sign(claims | {"exp": now() + seconds + 1}))).status_code == 200


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
async def test_short_keys_and_keys_for_encryption_check_nothing(world: World, issuer: TokenIssuer) -> None:
    """1024 bits of RSA are too few; `use: enc`, private and symmetric keys are not for signatures."""
    issuer.keys = {"first": (rsa_key("short", 1024), "RS256")}
    assert "too short" in (await ask(world, issuer, issuer.sign())).json()["detail"]
    issuer.keys = {"first": (rsa_key("first"), "RS256")}
    (good,) = issuer.public_keys()
    for changed in ({"use": "enc"}, {"key_ops": ["encrypt"]}, {"d": "AQAB"}, {"kty": "oct", "k": "c2VjcmV0"}):
        issuer.public = lambda changed=changed: [{**good, **changed}, "no key", 7]  # type: ignore[misc]
        answer = await ask(world, issuer, issuer.sign())
        assert "no key" in answer.json()["detail"], changed


async def test_tokens_of_elliptic_curves_count(world: World, issuer: TokenIssuer) -> None:
    """ES256, and a token without a key id where the provider has one key that fits."""
    issuer.keys = {"first": (ec_key("first"), "ES256"), "other": (rsa_key("first"), "RS256")}
    assert (await ask(world, issuer, issuer.sign())).status_code == 200
    assert (await ask(world, issuer, issuer.sign(kid=None))).status_code == 200


# -- the provider's keys ----------------------------------------------------------------------------------------------


async def test_a_new_key_counts_at_once_and_a_withdrawn_one_no_longer(world: World, issuer: TokenIssuer) -> None:
    """An unknown key id has the keys read again; a key that has gone counts until the next regular reading."""
    async with world.serve(oidc=settings(issuer)) as plane:
        clock = _with_clock(plane)
        old = bearer(issuer.sign())
        assert (await plane.client.get("/jobs", headers=old)).status_code == 200
        issuer.keys = {"second": (rsa_key("second"), "RS256")}
        new = bearer(issuer.sign(kid="second"))
        clock.now += RETRY_S
        assert (await plane.client.get("/jobs", headers=new)).status_code == 200
        assert (await plane.client.get("/jobs", headers=old)).status_code == 401


async def test_old_keys_are_read_again_without_anybody_waiting(world: World, issuer: TokenIssuer) -> None:
    """A withdrawn key counts for at most ``FRESH_S`` and one request."""
    async with world.serve(oidc=settings(issuer)) as plane:
        clock = _with_clock(plane)
        old = bearer(issuer.sign())
        assert (await plane.client.get("/jobs", headers=old)).status_code == 200
        issuer.keys = {"second": (rsa_key("second"), "RS256")}
        clock.now += FRESH_S + 1
        assert (await plane.client.get("/jobs", headers=old)).status_code == 200
        await plane.app.state.oidc.provider._reading
        assert (await plane.client.get("/jobs", headers=old)).status_code == 401


async def test_invented_key_ids_make_no_request_storm(world: World, issuer: TokenIssuer) -> None:
    """Two hundred tokens with invented ids cost the provider no more than one reading per pause."""
    async with world.serve(oidc=settings(issuer), limits={"failed_logins_per_minute": 10_000}) as plane:
        clock = _with_clock(plane)
        assert (await plane.client.get("/jobs", headers=bearer(issuer.sign()))).status_code == 200
        before = len(issuer.requests)
        for number in range(200):
            token = issuer.sign(kid=f"invented-{number}", key=rsa_key("stranger"))
            assert (await plane.client.get("/jobs", headers=bearer(token))).status_code == 401
        assert len(issuer.requests) == before
        clock.now += RETRY_S
        for number in range(20):
            token = issuer.sign(kid=f"more-{number}", key=rsa_key("stranger"))
            assert (await plane.client.get("/jobs", headers=bearer(token))).status_code == 401
        assert len(issuer.requests) == before + 2


async def test_known_keys_count_while_the_provider_is_down(world: World, issuer: TokenIssuer) -> None:
    """Whose key is not known cannot be told from a stranger: 503, not 401."""
    async with world.serve(oidc=settings(issuer)) as plane:
        clock = _with_clock(plane)
        assert (await plane.client.get("/jobs", headers=bearer(issuer.sign()))).status_code == 200
        issuer.is_down = True
        clock.now += FRESH_S + 1
        for _ in range(3):
            assert (await plane.client.get("/jobs", headers=bearer(issuer.sign()))).status_code == 200
        issuer.keys["second"] = (rsa_key("second"), "RS256")
        unknown = await plane.client.get("/jobs", headers=bearer(issuer.sign(kid="second")))
        assert (unknown.status_code, unknown.json()["code"]) == (503, "oidc_unavailable")
        issuer.is_down = False
        clock.now += RETRY_S
        assert (await plane.client.get("/jobs", headers=bearer(issuer.sign(kid="second")))).status_code == 200


async def test_the_service_starts_without_the_provider(world: World, issuer: TokenIssuer, tmp_path: Path) -> None:
    """API keys count meanwhile; tokens count as soon as it is up."""
    issuer.is_down = True
    keys = write_keys(tmp_path, {"name": "team"})
    async with world.serve(oidc=settings(issuer), api={"keys_file": keys}) as plane:
        clock = _with_clock(plane)
        assert (await plane.client.get("/jobs", headers=bearer("team"))).status_code == 200
        answer = await plane.client.get("/jobs", headers=bearer(issuer.sign()))
        assert (answer.status_code, answer.json()["code"]) == (503, "oidc_unavailable")
        assert "503" in answer.json()["detail"]
        issuer.is_down = False
        clock.now += RETRY_S
        assert (await plane.client.get("/jobs", headers=bearer(issuer.sign()))).status_code == 200


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"issuer": "https://evil.example"}, "its issuer is another than INGEST_OIDC__ISSUER"),
        ({"jwks_uri": None}, "jwks_uri"),
        ({"jwks_uri": "file:///etc/passwd"}, "is no address that starts with https://"),
        ({"token_endpoint": "gopher://x"}, "is no address that starts with https://"),
        ({"jwks_uri": "https://[::1/keys"}, "is no address that starts with https://"),
        ({"padding": "x" * 1024 * 1024}, "more than 1048576 bytes"),
    ],
)
async def test_a_document_that_is_not_the_providers_is_not_used(
    world: World, issuer: TokenIssuer, document: dict[str, Any], reason: str
) -> None:
    """Of another issuer, incomplete, with addresses of another kind, or far too large."""
    issuer.document = document
    answer = await ask(world, issuer, issuer.sign())
    assert (answer.status_code, answer.json()["code"]) == (503, "oidc_unavailable")
    assert reason in answer.json()["detail"]


# -- declarations and clients -----------------------------------------------------------------------------------------


async def test_openapi_declares_the_provider(world: World, issuer: TokenIssuer) -> None:
    """Wherever a key counts, a token does too; without a provider nothing is said of one."""
    async with world.serve(oidc=settings(issuer)) as plane:
        document = (await plane.client.get("/openapi.json")).json()
    scheme = document["components"]["securitySchemes"]["openIdConnect"]
    assert (scheme["type"], scheme["openIdConnectUrl"]) == (
        "openIdConnect",
        f"{issuer.url}/.well-known/openid-configuration",
    )
    assert document["paths"]["/jobs"]["get"]["security"] == [{"apiKey": ["read"]}, {"openIdConnect": []}]
    assert {} in document["paths"]["/readyz"]["get"].get("security", [{}])
    async with world.serve() as plane:
        text = (await plane.client.get("/openapi.json")).text
    assert "openIdConnect" not in text


def test_the_command_line_sends_a_token_as_it_sends_a_key(
    world: World, issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """INGEST_API_KEY may hold one; a token that has expired is named."""
    with LiveService(world, oidc=settings(issuer)) as service:
        monkeypatch.setenv("INGEST_API_URL", service.url)
        monkeypatch.setenv("INGEST_API_KEY", issuer.sign())
        assert run_app(app, ["jobs"]) == 0
        monkeypatch.setenv("INGEST_API_KEY", issuer.sign(issuer.claims(exp=1)))
        assert run_app(app, ["jobs"]) != 0
        assert "The token has expired." in capsys.readouterr().err


def test_nobody_is_called_like_the_short_form_of_another() -> None:
    """A name that is too long is cut and ends with its hash; whoever can choose a name cannot choose that form."""
    rules = [{"value": "*", "scopes": ["read"]}]
    book = RuleBook(OidcSettings.model_validate({"issuer": "https://id.example.com", "audience": "i", "rules": rules}))
    long = book.make_principal({"sub": "a" * 300}, expires_at=None).name
    copied = book.make_principal({"sub": long.removeprefix("oidc:")}, expires_at=None).name
    assert len(long) <= 128
    assert len(copied) <= 128
    assert copied != long
