"""Log-ins to the console as a browser without scripts makes them, and a provider for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from oidc_provider_mock import User, run_server_in_thread

from support.token_issuer import TokenIssuer

RULES = [
    {"value": "operators", "scopes": ["search", "read", "submit", "delete", "admin"]},
    {"value": "readers", "scopes": ["read"], "collections": ["docs-*"]},
]


@contextmanager
def provider() -> Iterator[str]:
    """A provider with people in groups; its issuer."""
    people = {"ada": ["operators"], "bob": ["readers"], "eve": []}
    users = [User(sub=name, claims={"groups": groups}) for name, groups in people.items()]
    with run_server_in_thread(user_claims=users, require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


def provider_settings(issuer: str, **others: Any) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "client_id": "console",
        "client_secret": "a:b/c",
        "rules": RULES,
        "title": "Example ID",
        **others,
    }


def csrf_token(page: httpx.Response) -> str:
    """The token in the forms of a page."""
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page.text)
    assert found is not None, page.text
    return found[1]


async def log_in_with_key(client: httpx.AsyncClient, key: str, **fields: str) -> httpx.Response:
    """Open the log-in page, and send its form."""
    page = await client.get("/console/login")
    return await client.post("/console/login", data={"csrf_token": csrf_token(page), "key": key, **fields})


async def log_in_at_provider(client: httpx.AsyncClient, name: str, *, next_page: str = "/") -> httpx.Response:
    """Go to the provider, log in there, and come back; the answer of the callback."""
    begun = await client.get("/console/oidc/login", params={"next": next_page})
    assert begun.status_code == 303, begun.text
    callback = await authorize(begun.headers["location"], name)
    return await client.get(callback, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})


async def log_in_by_id_token(client: httpx.AsyncClient, issuer: TokenIssuer, **claims: Any) -> httpx.Response:
    """Log in at a provider whose ID token has these claims, for example ``sid``; the answer of the callback."""
    callback = await begin_by_id_token(client, issuer, **claims)
    return await client.get(callback)


async def begin_by_id_token(client: httpx.AsyncClient, issuer: TokenIssuer, **claims: Any) -> str:
    """Begin such a log-in; the address to which the provider sends the browser back."""
    begun = await client.get("/console/oidc/login")
    assert begun.status_code == 303, begun.text
    query = dict(parse_qsl(urlsplit(begun.headers["location"]).query))
    token = issuer.sign(issuer.claims(**{"aud": query["client_id"], "nonce": query["nonce"], **claims}))
    issuer.answer = lambda: (200, {"id_token": token, "access_token": "a"})
    return f"/console/oidc/callback?{urlencode({'code': 'c0de', 'state': query['state']})}"


async def authorize(url: str, name: str) -> str:
    """Log in at the provider; the address to which it sends the browser back."""
    async with httpx.AsyncClient() as browser:
        answer = await browser.post(url, data={"sub": name})
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]
