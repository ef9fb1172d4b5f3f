"""Who sends a request, by the headers of proxies that are trusted."""

from __future__ import annotations

from typing import Any

import pytest

from ingestion_engine.server.client_address import ClientAddress


async def read(trusted: tuple[str, ...], peer: str, *headers: tuple[str, str]) -> tuple[str, str]:
    """Return address and scheme as the application sees them."""
    seen: dict[str, Any] = {}

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.update(scope)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "client": (peer, 5), "scheme": "http", "headers": raw}
    await ClientAddress(app, trusted)(scope, None, None)  # type: ignore[arg-type]  # neither is used
    return seen["client"][0], seen["scheme"]


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"),
    [
        ((), "127.0.0.1", "9.9.9.9", "127.0.0.1"),  # nobody is trusted unless a setting says so
        (("10.0.0.0/8",), "127.0.0.1", "9.9.9.9", "127.0.0.1"),
        (("10.0.0.0/8",), "10.1.2.3", "9.9.9.9", "9.9.9.9"),
        (("10.0.0.0/8",), "10.1.2.3", "1.1.1.1, 9.9.9.9", "9.9.9.9"),  # the client itself wrote the first
        (("10.0.0.0/8",), "10.1.2.3", "1.1.1.1, 9.9.9.9, 10.0.0.9", "9.9.9.9"),
        (("10.0.0.0/8",), "10.1.2.3", "10.0.0.8, 10.0.0.9", "10.0.0.8"),
        (("10.0.0.0/8",), "10.1.2.3", "1.1.1.1, evil\x1b", "10.1.2.3"),
        (("10.0.0.0/8",), "10.1.2.3", "9.9.9.9:4711", "9.9.9.9"),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", "[2001:db8::1]:80", "2001:db8::1"),
        (("::1",), "::1", "2001:db8::2", "2001:db8::2"),
    ],
)
async def test_only_trusted_proxies_name_their_clients(
    trusted: tuple[str, ...], peer: str, forwarded: str, expected: str
) -> None:
    """From the end of the list: the first address that is not trusted is the client."""
    assert (await read(trusted, peer, ("x-forwarded-for", forwarded)))[0] == expected


async def test_several_headers_are_one_list() -> None:
    """As RFC 9110 says; a client cannot hide behind a header of its own."""
    both = ("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "9.9.9.9")
    assert (await read(("10.0.0.1",), "10.0.0.1", *both))[0] == "9.9.9.9"


async def test_the_scheme_is_the_clients() -> None:
    """As the trusted proxy says; anything but http and https is ignored."""
    assert (await read(("10.0.0.1",), "10.0.0.1", ("x-forwarded-proto", "https")))[1] == "https"
    assert (await read(("10.0.0.1",), "10.0.0.1", ("x-forwarded-proto", "gopher")))[1] == "http"
    assert (await read((), "10.0.0.1", ("x-forwarded-proto", "https")))[1] == "http"
