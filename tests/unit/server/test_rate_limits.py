"""Rates per address, per credential and of failed log-ins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingestion_engine.access.principal import Principal
from ingestion_engine.api.dependencies import LOG_IN_FAILED
from ingestion_engine.api.metrics import HttpLoad
from ingestion_engine.runtime.settings import LimitsSettings
from ingestion_engine.server import rate_limits
from ingestion_engine.server.rate_limits import BURST_S, Buckets, RateLimits, name_address
from support.control import World, bearer, write_keys


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_fills_at_its_rate() -> None:
    """Up to its burst; it says when there is a token again."""
    clock = Clock()
    buckets = Buckets(2.0, 3.0, clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now = 0.5
    assert (buckets.wait_s("a"), buckets.take("a"), buckets.take("a")) == (0, 0, 0.5)
    clock.now = 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was unused longest is forgotten, however many names are invented."""
    monkeypatch.setattr(rate_limits, "BUCKETS", 100)
    buckets = Buckets(1.0, 2.0, Clock())
    for number in range(1000):
        buckets.take("used")
        buckets.take(str(number))
    assert len(buckets) == 100
    assert buckets.take("used") > 0


class Service:
    """The middleware before an application that accepts the keys ``good`` and ``other``."""

    def __init__(self, **limits: float) -> None:
        self.clock, self.load = Clock(), HttpLoad()
        self.served = 0
        self._app = RateLimits(self._serve, LimitsSettings(**limits), self.load, self.clock)  # type: ignore[arg-type]

    async def _serve(self, scope: Any, _receive: Any, send: Any) -> None:
        self.served += 1
        headers = dict(scope["headers"])
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        is_known = (scheme.lower() == b"bearer" and given.strip() in (b"good", b"other")) or (
            b"=mine" in headers.get(b"cookie", b"") and scope["path"] != "/console/login"
        )
        if is_known:
            scope.setdefault("state", {})["caller"] = Principal(name="somebody", kind="key")
        status = 200 if is_known or scope["path"] in ("/metrics", "/readyz") else 401
        if scope["path"] == "/readyz" and given and not is_known:
            scope.setdefault("state", {})[LOG_IN_FAILED] = True
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    async def ask(self, key: str | None = None, *, address: str = "192.0.2.1", path: str = "/jobs", **rest: Any) -> Any:
        headers = {} if key is None else bearer(key)
        transport = httpx.ASGITransport(self._app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(rest.pop("method", "GET"), path, headers={**headers, **rest.pop("headers", {})})


async def test_an_address_has_a_rate() -> None:
    """Refused with a problem that says when; others, and probes from there, are served."""
    service = Service(address_requests_per_second=0.5)
    for _ in range(int(0.5 * BURST_S)):
        assert (await service.ask()).status_code == 401
    refused = await service.ask()
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "rate_limited", "2")
    assert "INGEST_LIMITS__ADDRESS_REQUESTS_PER_SECOND" in refused.json()["hint"]
    assert (await service.ask(address="192.0.2.2")).status_code == 401
    assert (await service.ask(path="/livez")).status_code == 401
    assert service.load.limited["address"] == 1
    service.clock.now = 2
    assert (await service.ask()).status_code == 401


async def test_a_key_has_a_rate_from_all_addresses() -> None:
    """And another key another one."""
    service = Service(requests_per_second=0.5)
    for number in range(int(0.5 * BURST_S)):
        assert (await service.ask("good", address=f"192.0.2.{number}")).status_code == 200
    assert (await service.ask("good", address="198.51.100.1")).status_code == 429
    assert (await service.ask("other", address="192.0.2.1")).status_code == 200
    assert service.load.limited["caller"] == 1


async def test_who_is_known_does_not_share_the_rate_of_an_address() -> None:
    """Behind a proxy that is not trusted all clients have one address, and strangers there use its rate up."""
    service = Service(address_requests_per_second=0.5)
    assert (await service.ask("good")).status_code == 200
    answers = [(await service.ask()).status_code for _ in range(int(0.5 * BURST_S))]
    assert answers[-1] == 429
    assert (await service.ask("good")).status_code == 200
    assert (await service.ask("other")).status_code == 429  # it may be anybody


async def test_who_guesses_is_not_heard_any_more() -> None:
    """Nothing is looked up for them; who is known, and other addresses, go on."""
    service = Service(failed_logins_per_minute=6)
    assert (await service.ask("good")).status_code == 200
    for number in range(6):
        assert (await service.ask(f"guess-{number}")).status_code == 401
    served = service.served
    for number in range(100):
        assert (await service.ask(f"another-{number}")).status_code == 429
    assert (await service.ask(path="/console/login", method="POST")).status_code == 429
    assert (await service.ask(headers={"cookie": "a=b; ingest_session=guess"})).status_code == 429
    assert service.served == served
    assert (await service.ask("good")).status_code == 200
    assert (await service.ask("other")).status_code == 429  # not known from before
    assert (await service.ask("other", address="192.0.2.2")).status_code == 200
    assert (await service.ask()).status_code == 401  # without a credential nothing is guessed
    service.clock.now = 10
    assert (await service.ask("other")).status_code == 200


async def test_routes_for_everybody_accept_no_credential() -> None:
    """A guess that `/metrics` has not looked at is a guess; so is one on `/readyz`, which shows details for a key."""
    service = Service(failed_logins_per_minute=6)
    answers = []
    for number in range(12):
        await service.ask(f"guess-{number}", path="/metrics")
        answers.append((await service.ask(f"guess-{number}")).status_code)
    assert answers == [401] * 6 + [429] * 6
    assert (await service.ask("guess-20", path="/readyz", address="192.0.2.3")).status_code == 200
    for number in range(6):
        await service.ask(f"guess-{number}", path="/readyz", address="192.0.2.3")
    assert (await service.ask("good", path="/readyz", address="192.0.2.3")).status_code == 429
    assert (await service.ask(path="/readyz", address="192.0.2.3")).status_code == 200  # as orchestrators ask


async def test_a_session_is_no_help_for_guessing_keys() -> None:
    """The form of the log-in is limited for who is logged in, too; the session goes on."""
    service = Service(failed_logins_per_minute=6)
    session = {"cookie": "ingest_session=mine"}
    answers = []
    for _ in range(12):
        assert (await service.ask(headers=session)).status_code == 200
        answers.append((await service.ask(path="/console/login", method="POST", headers=session)).status_code)
    assert answers == [401] * 6 + [429] * 6
    assert (await service.ask(headers=session)).status_code == 200


async def test_a_credential_has_one_rate_however_it_is_written() -> None:
    """Not one per spelling of the scheme, per header that is not used, or per form of a cookie."""
    forms: list[dict[str, str]] = [
        {"authorization": "bearer good"},
        {"authorization": "BEARER   good "},
        {"authorization": "Bearer good", "cookie": "ingest_session=x"},
    ]
    cookies: list[dict[str, str]] = [
        {"cookie": "ingest_session=mine"},
        {"cookie": "ingest_session=mine", "authorization": "Basic eDp5"},
        {"cookie": 'ingest_session=other; ingest_session="mine"'},
        {"cookie": "__Host-ingest=other; ingest_session=mine"},
    ]
    for kind in (forms, cookies):
        service = Service(requests_per_second=0.5)
        for _ in range(int(0.5 * BURST_S)):
            assert (await service.ask(headers=kind[0])).status_code == 200
        for headers in kind:
            assert (await service.ask(headers=headers)).status_code == 429, headers


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("socket", "socket"),
    ],
)
def test_addresses_of_one_network_are_one(address: str, expected: str) -> None:
    """A client of IPv6 has as many addresses as it likes."""
    assert name_address({"client": (address, 1)}) == expected


async def test_the_service_limits_by_the_clients_of_proxies(tmp_path: Path) -> None:
    """As a trusted proxy names them; the refusal has the headers of every response, and the metrics count it."""
    world = World(tmp_path)
    keys = write_keys(tmp_path, {"name": "admin"})
    api = {"keys_file": keys, "trusted_proxies": "127.0.0.1"}
    async with world.serve(api=api, limits={"failed_logins_per_minute": 2}) as plane:

        async def ask(key: str, address: str) -> httpx.Response:
            return await plane.client.get("/jobs", headers={**bearer(key), "x-forwarded-for": address})

        assert [(await ask("guess", "192.0.2.1")).status_code for _ in range(3)] == [401, 401, 429]
        refused = await ask("guess", "192.0.2.1")
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert refused.headers["x-request-id"]
        assert (await ask("admin", "192.0.2.2")).status_code == 200
        text = (await plane.client.get("/metrics")).text
        assert 'ingest_http_requests_limited_total{limit="failed_logins"} 2.0' in text
