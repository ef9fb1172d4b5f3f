"""`ingest doctor`: the OpenID Connect provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ingestion_engine.doctor.findings import State
from ingestion_engine.runtime.settings import Settings
from support.doctoring import diagnose
from support.token_issuer import AUDIENCE, TokenIssuer, issuing

RULES = ({"value": "staff", "scopes": ["read"]},)


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    with issuing() as one:
        yield one


def settings(issuer: TokenIssuer, **others: Any) -> Settings:
    return Settings(oidc={"issuer": issuer.url, "audience": AUDIENCE, "rules": RULES, **others})


async def test_the_provider_is_read_as_the_service_reads_it(issuer: TokenIssuer) -> None:
    """Its documents, keys and rules; what is wrong is named."""
    (found,) = await diagnose(settings(issuer), "oidc")
    assert (found.state, found.facts["keys"]) == (State.OK, 1)
    assert found.detail == f"{issuer.url}: 1 keys, 1 rules"
    (found,) = await diagnose(settings(issuer, rules=()), "oidc")
    assert (found.state, "allow nothing" in found.detail) == (State.WARNING, True)
    (found,) = await diagnose(settings(issuer, rules=({"value": "x", "scopes": ["root"]},)), "oidc")
    assert (found.state, "INGEST_OIDC__RULES" in found.detail) == (State.FAILED, True)
    issuer.public = lambda: [{"kty": "oct", "k": "c2VjcmV0"}]
    (found,) = await diagnose(settings(issuer), "oidc")
    assert (found.state, "no key" in found.detail) == (State.FAILED, True)
    issuer.document = {"issuer": "https://other.example"}
    (found,) = await diagnose(settings(issuer), "oidc")
    assert (found.state, found.code, "other.example" in found.detail) == (State.FAILED, "oidc_answer_invalid", True)


async def test_a_provider_that_cannot_be_reached_is_named() -> None:
    """And one that is not configured is no failure."""
    absent = {"issuer": "http://localhost:1", "audience": AUDIENCE, "rules": RULES}
    (found,) = await diagnose(Settings(oidc=absent), "oidc")
    assert (found.state, found.code) == (State.FAILED, "oidc_unavailable")
    assert found.detail == "The OpenID Connect provider at http://localhost:1 refuses connections."
    assert (await diagnose(Settings(), "oidc"))[0].state is State.NOT_CONFIGURED


async def test_a_service_whose_callers_have_tokens_needs_no_keys(issuer: TokenIssuer) -> None:
    """It may listen beyond loopback."""
    open_to_tokens = settings(issuer).model_copy(update={"api": Settings(api={"host": "0.0.0.0"}).api})
    (found,) = await diagnose(open_to_tokens, "api-keys")
    assert found.state is State.NOT_CONFIGURED
