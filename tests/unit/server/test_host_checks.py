"""Requests under other names and from pages of other sites, and the headers of every response."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.runtime.host_names import HostRules, split_host
from ingestion_engine.runtime.settings import Settings, SettingsError
from ingestion_engine.server.serve import check_exposure, serve
from support.control import BODY, World

HEADERS = (
    "x-content-type-options",
    "content-security-policy",
    "referrer-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "permissions-policy",
    "cache-control",
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "[::1"]
)
async def test_requests_to_another_name_are_refused(world: World, host: str) -> None:
    """A page whose name points at this address reaches nothing: no reading, no job, no page."""
    async with world.serve() as plane:
        for method, path in (("GET", "/jobs"), ("GET", "/"), ("GET", "/docs"), ("GET", "/metrics"), ("DELETE", "/x")):
            answer = await plane.client.request(method, path, headers={"host": host})
            assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed"), path
        answer = await plane.client.post("/ray/jobs", json=BODY, headers={"host": host})
        assert answer.status_code == 421
        assert answer.json()["hint"].startswith("Use the service's address, or add the name to INGEST_API__ALLOWED")
        assert (await plane.client.get("/jobs")).json()["items"] == []


async def test_two_hosts_are_no_host(world: World) -> None:
    """A proxy may read the first of them and the service the last."""
    async with world.serve() as plane:
        answer = await plane.client.get("/jobs", headers=[("host", "localhost"), ("host", "evil.example")])
        assert answer.status_code == 421


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST.", "127.0.0.1:1", "10.9.8.7", "[::1]:8080", "[fe80::1]", "own:8080"],
)
async def test_own_names_are_served(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, ``localhost`` and the name of the machine, with and without a port."""
    monkeypatch.setattr(socket, "gethostname", lambda: "own")
    async with world.serve() as plane:
        assert (await plane.client.get("/jobs", headers={"host": host})).status_code == 200


async def test_names_are_allowed_by_settings(world: World) -> None:
    """By name, by a pattern for the names below another, and by the public URL."""
    api = {"allowed_hosts": "a.example, *.b.example", "public_url": "https://c.example:8443"}
    async with world.serve(api=api) as plane:
        for host in ("a.example", "x.b.example:80", "c.example:8443", "y.x.b.example"):
            assert (await plane.client.get("/jobs", headers={"host": host})).status_code == 200, host
        for host in ("b.example", "x.a.example", "evilb.example", "c.example.evil"):
            assert (await plane.client.get("/jobs", headers={"host": host})).status_code == 421, host
    async with world.serve(api={"allowed_hosts": "*"}) as plane:
        assert (await plane.client.get("/jobs", headers={"host": "evil.example"})).status_code == 200


async def test_probes_need_no_name_but_learn_less(world: World) -> None:
    """Probes go by any name; who came by a foreign one is told no versions."""
    async with world.serve() as plane:
        foreign = {"host": "evil.example"}
        assert (await plane.client.get("/livez", headers=foreign)).status_code == 200
        assert (await plane.client.post("/livez", headers=foreign)).status_code == 421
        known = (await plane.client.get("/readyz")).json()
        hidden = (await plane.client.get("/readyz", headers=foreign)).json()
        assert known["dependencies"]["ray"]["version"] == "ledger-engine 1"
        assert hidden["status"] == known["status"]
        assert hidden["dependencies"]["ray"].get("version") is None


FOREIGN: list[dict[str, str]] = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:9999"},
    {"origin": "http://[::1"},
    {"origin": ""},
    {"origin": "http://localhost", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_pages_of_other_sites_change_nothing(world: World, headers: dict[str, str]) -> None:
    """Also with requests that browsers send without asking first, such as a form or a POST without a body."""
    async with world.serve() as plane:
        for method, path in (("POST", "/aliases/docs/rollback"), ("DELETE", "/collections/notes"), ("PUT", "/drain")):
            answer = await plane.client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed"), path
        answer = await plane.client.post("/ray/jobs", json=BODY, headers=headers)
        assert answer.status_code == 403
        assert (await plane.client.get("/jobs")).json()["items"] == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://evil.example"}, 200),  # the browser shows the answer to no other page
        ({"origin": "http://evil.example", "cookie": "a=b; ingest_session=x"}, 403),
        ({"origin": "http://localhost", "cookie": "ingest_session=x"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),  # an image
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
    ],
)
async def test_reading_from_other_pages(world: World, headers: dict[str, str], expected: int) -> None:
    """Links work; embedding does not, nor does anything with the cookie of a session."""
    async with world.serve() as plane:
        assert (await plane.client.get("/jobs", headers=headers)).status_code == expected


@pytest.mark.parametrize(
    ("host", "origin", "public_url"),
    [
        ("localhost:8080", "http://localhost:8080", None),
        ("[::1]:8080", "http://[::1]:8080", None),
        ("127.0.0.1", "https://127.0.0.1", None),  # a proxy that is not declared ends TLS
        ("127.0.0.1:8080", "https://ingest.example", "https://ingest.example/"),
        ("ingest.example", "https://INGEST.example:443", "https://ingest.example"),
    ],
)
async def test_own_pages_and_programs_go_on(world: World, host: str, origin: str, public_url: str | None) -> None:
    """Forms of the console, also behind proxies; and requests without any header of browsers."""
    async with world.serve(api={"public_url": public_url}) as plane:
        for headers in ({"origin": origin}, {"origin": origin, "sec-fetch-site": "same-origin"}, {}):
            answer = await plane.client.post("/ray/jobs", json=BODY, headers={"host": host, **headers})
            assert answer.status_code == 202, answer.text


async def test_every_response_has_the_headers(world: World) -> None:
    """Pages, files, data, refusals of every kind, and unexpected errors."""

    async def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    async with world.serve(api={"keys_file": None}) as plane:
        plane.services.search.search = fail  # type: ignore[method-assign,assignment]
        search = {"collection": "notes", "query": "cats"}
        seen = set()
        for method, path, sent in (
            ("GET", "/", {}),
            ("GET", "/docs", {}),
            ("GET", "/docs/start.js", {}),
            ("GET", "/static-offline-docs/swagger-ui.css", {}),
            ("GET", "/openapi.json", {}),
            ("GET", "/livez", {}),
            ("GET", "/metrics", {}),
            ("GET", "/nowhere", {}),
            ("PATCH", "/jobs", {}),
            ("POST", "/ray/jobs", {"json": {}}),
            ("POST", "/ray/jobs", {"content": b"a" * 2_000_000}),
            ("GET", "/jobs", {"headers": {"host": "evil.example"}}),
            ("POST", "/drain", {"headers": {"origin": "null"}}),
            ("POST", "/search", {"json": search}),
        ):
            answer = await plane.client.request(method, path, **sent)
            seen.add(answer.status_code)
            assert [name for name in HEADERS if name not in answer.headers] == [], f"{method} {path}"
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'unsafe" not in policy
            assert "strict-transport-security" not in answer.headers
        assert {200, 403, 404, 405, 413, 421, 422, 500} <= seen


async def test_https_is_remembered(world: World) -> None:
    """By browsers, where they reach the service by https: as its public URL says, or a trusted proxy."""
    async with world.serve(api={"public_url": "https://ingest.example"}) as plane:
        assert "max-age=" in (await plane.client.get("/jobs")).headers["strict-transport-security"]
    forwarded = {"x-forwarded-proto": "https"}
    async with world.serve(api={"trusted_proxies": "127.0.0.0/8"}) as plane:
        assert "strict-transport-security" in (await plane.client.get("/jobs", headers=forwarded)).headers
    async with world.serve() as plane:
        assert "strict-transport-security" not in (await plane.client.get("/jobs", headers=forwarded)).headers


async def test_the_documentation_has_no_script_in_the_page(world: World) -> None:
    """Its policy allows files of the service only."""
    async with world.serve() as plane:
        page = (await plane.client.get("/docs")).text
        assert "<script>" not in page
        for part in page.split('"'):
            if part.startswith("/"):
                assert (await plane.client.get(part)).status_code == 200, part


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.7", "ingest.example"])
def test_open_to_everybody_only_in_words(host: str) -> None:
    """Beyond loopback, without authentication and without the setting that allows it, the service does not start."""
    with pytest.raises(SettingsError, match=r"without any authentication.*INGEST_API__KEYS_FILE.*ALLOW_ANONYMOUS=true"):
        serve(Settings(api={"host": host}))
    check_exposure(Settings(api={"host": host, "allow_anonymous": True}))
    check_exposure(Settings(api={"host": host, "keys_file": "keys.json"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_needs_no_keys(host: str) -> None:
    """As ever, on a machine of one's own."""
    check_exposure(Settings(api={"host": host}))


def test_hosts_are_split_as_they_are_written() -> None:
    """Name and port; what is neither is no host."""
    assert split_host("[2001:DB8::1]:80") == ("[2001:db8::1]", 80)
    assert split_host("a_b.example.") == ("a_b.example", None)
    assert [split_host(text) for text in ("a:b", "a/b", "a@b", "[::1]x", "a:123456", "é")] == [None] * 6


def test_private_names_are_those_that_nobody_can_register() -> None:
    """For the gateway, whose clients use names of containers and services."""
    rules = HostRules(accepts_private=True)
    accepted = [
        "gateway:11430",
        "gateway.ingest.svc",
        "gateway.ingest.svc.cluster.local",
        "nas.home.arpa",
        "a.internal",
    ]
    assert [host for host in accepted if not rules.accepts(host)] == []
    assert [host for host in ("evil.example", "local.evil.com", "svc.evil.com") if rules.accepts(host)] == []
    assert not HostRules().accepts("gateway")


@pytest.mark.parametrize(
    "api",
    [
        {"allowed_hosts": "http://a.example"},
        {"allowed_hosts": "a.example:80"},
        {"allowed_hosts": "a.*.example"},
        {"public_url": "ingest.example"},
        {"public_url": "https://ingest.example/path"},
        {"trusted_proxies": "proxy.example"},
        {"trusted_proxies": "10.0.0.1/8"},
    ],
)
def test_settings_that_could_not_work_are_refused(api: dict[str, str]) -> None:
    """With the form that they have."""
    with pytest.raises(ValueError, match=r"no host name|must (be|have)|no address or network"):
        Settings(api=api)
