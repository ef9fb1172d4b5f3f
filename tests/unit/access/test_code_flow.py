"""The log-in at a provider: what is sent to it, and which ID tokens count."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from ingestion_engine.access.oidc.connect import Oidc, open_oidc
from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.runtime.settings import Settings
from support.token_issuer import TokenIssuer, issuing, rsa_key

CLIENT = "console"
BACK = "https://ingest.example.com/console/oidc/callback"


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with issuing() as one:
        yield one


@pytest.fixture
async def oidc(issuer: TokenIssuer) -> AsyncIterator[Oidc]:
    """A public client of the provider."""
    opened = open_oidc(Settings(oidc={"issuer": issuer.url, "client_id": CLIENT}))
    assert opened is not None
    yield opened
    await opened.close()


class Browser:
    """A log-in that a browser has begun."""

    def __init__(self, oidc: Oidc, issuer: TokenIssuer, begun: tuple[str, str]) -> None:
        self.url, self.secret = begun
        self.query = dict(parse_qsl(urlsplit(self.url).query))
        self._oidc, self._issuer = oidc, issuer

    @classmethod
    async def begin(cls, oidc: Oidc, issuer: TokenIssuer) -> Browser:
        assert oidc.flow is not None
        return cls(oidc, issuer, await oidc.flow.begin(BACK))

    def id_claims(self, **others: Any) -> dict[str, Any]:
        return self._issuer.claims(**{"aud": CLIENT, "nonce": self.query["nonce"], **others})

    async def come_back(self, token: Any, **parameters: str) -> dict[str, Any]:
        """Complete the log-in; the provider answers the code with this ID token."""
        self._issuer.answer = lambda: (200, {"id_token": token, "access_token": "a"})
        assert self._oidc.flow is not None
        query = {"state": self.query["state"], "code": "c0de", **parameters}
        return dict(await self._oidc.flow.complete(self.secret, query, redirect_uri=BACK))


async def test_the_code_is_exchanged_with_the_verifier_of_the_challenge(oidc: Oidc, issuer: TokenIssuer) -> None:
    """Without a secret, the client is a public one; what the browser sees of the verifier is its hash."""
    browser = await Browser.begin(oidc, issuer)
    claims = await browser.come_back(issuer.sign(browser.id_claims()))
    assert claims["sub"] == "ada"
    (form,) = issuer.exchanges
    digest = hashlib.sha256(form.pop("code_verifier").encode()).digest()
    assert urlsafe_b64encode(digest).rstrip(b"=").decode() == browser.query["code_challenge"]
    assert form == {"grant_type": "authorization_code", "code": "c0de", "redirect_uri": BACK, "client_id": CLIENT}


async def test_every_log_in_has_values_of_its_own(oidc: Oidc, issuer: TokenIssuer) -> None:
    """None can be told from another, or from the address that the browser is sent to."""
    one, other = await Browser.begin(oidc, issuer), await Browser.begin(oidc, issuer)
    names = ("state", "nonce", "code_challenge")
    assert len({browser.query[name] for browser in (one, other) for name in names}) == 6
    assert one.secret not in one.url


async def test_only_the_id_token_of_this_log_in_counts(oidc: Oidc, issuer: TokenIssuer) -> None:
    """Of another log-in, for another client or audience, an access token, or signed by somebody else."""
    browser = await Browser.begin(oidc, issuer)
    wrong = {
        "belongs to another log-in": issuer.sign(browser.id_claims(nonce="other")),
        "belongs to another log-in ": issuer.sign(browser.id_claims(nonce=None)),
        "another audience": issuer.sign(browser.id_claims(aud="ingest")),
        "another client": issuer.sign(browser.id_claims(azp="mobile")),
        "another client ": issuer.sign(browser.id_claims(aud=[CLIENT, "mobile"])),
        "another issuer": issuer.sign(browser.id_claims(iss="https://evil.example")),
        "expired": issuer.sign(browser.id_claims(exp=1)),
        "lacks the claim 'iat'": issuer.sign(browser.id_claims(iat=None)),
        "another kind": issuer.sign(browser.id_claims(), headers={"typ": "at+jwt"}),
        "signature": issuer.sign(browser.id_claims(), key=rsa_key("stranger")),
    }
    for reason, token in wrong.items():
        with pytest.raises(SubmissionError, match=reason.strip()) as refused:
            await browser.come_back(token)
        assert refused.value.status == 401
    assert (await browser.come_back(issuer.sign(browser.id_claims(aud=[CLIENT, "x"], azp=CLIENT))))["sub"] == "ada"


@pytest.mark.parametrize(
    ("status", "body", "error", "reason"),
    [
        (400, {"error": "invalid_grant"}, SubmissionError, "'invalid_grant'"),
        (401, {"error": ["<odd>"]}, SubmissionError, "odd"),
        (200, {"access_token": "a"}, SubmissionError, "sends no ID token"),
        (200, {"id_token": 7}, SubmissionError, "sends no ID token"),
        (200, b"<html>", SubmissionError, "sends no ID token"),
        (302, {}, SubmissionError, "sends no ID token"),
        (503, {}, TransientError, "status 503"),
        (200, b"x" * 2_000_000, TransientError, "more than 1048576 bytes"),
    ],
)
async def test_what_the_token_endpoint_answers_is_named(
    oidc: Oidc, issuer: TokenIssuer, status: int, body: Any, error: type[Exception], reason: str
) -> None:
    """Refusals are the log-in's; failures are the provider's."""
    browser = await Browser.begin(oidc, issuer)
    issuer.answer = lambda: (status, body)
    assert oidc.flow is not None
    query = {"state": browser.query["state"], "code": "c0de"}
    with pytest.raises(error, match=reason):
        await oidc.flow.complete(browser.secret, query, redirect_uri=BACK)


async def test_a_provider_that_names_itself_must_do_so(oidc: Oidc, issuer: TokenIssuer) -> None:
    """RFC 9207: where the provider says that it adds `iss` to its answers, one without it is another's."""
    issuer.document = {"authorization_response_iss_parameter_supported": True}
    browser = await Browser.begin(oidc, issuer)
    token = issuer.sign(browser.id_claims())
    with pytest.raises(SubmissionError, match="another provider"):
        await browser.come_back(token)
    assert (await browser.come_back(token, iss=issuer.url))["sub"] == "ada"


async def test_the_secret_of_a_client_is_sent_as_the_provider_takes_it(issuer: TokenIssuer) -> None:
    """In the form where it takes no Basic authentication; in the header otherwise, percent-encoded."""
    issuer.document = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    oidc = open_oidc(Settings(oidc={"issuer": issuer.url, "client_id": CLIENT, "client_secret": "s: /"}))
    assert oidc is not None
    browser = await Browser.begin(oidc, issuer)
    await browser.come_back(issuer.sign(browser.id_claims()))
    assert issuer.exchanges[0]["client_secret"] == "s: /"
    await oidc.close()
