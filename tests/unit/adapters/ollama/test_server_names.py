"""Servers found by resolving names, with an injected resolver and clock."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from ingestion_engine.adapters.ollama.server_urls import RESOLVE_EVERY_S, ServerAddress, ServerNames, resolve_name
from ingestion_engine.runtime.server_urls import parse_servers


class Names:
    """A resolver and a clock."""

    def __init__(self) -> None:
        self.addresses: dict[str, Sequence[str]] = {}
        self.asked: list[tuple[str, int]] = []
        self.now = 100.0

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if host not in self.addresses:
            raise OSError("Name or service not known")
        return self.addresses[host]

    def open(self, *urls: str) -> ServerNames:
        return ServerNames(parse_servers(urls), resolve=self.resolve, clock=lambda: self.now)


@pytest.fixture
def names() -> Names:
    return Names()


async def test_every_address_is_a_server(names: Names) -> None:
    """In the order of the list, sorted by address; port, path, capacity and name are kept."""
    names.addresses["ollama"] = ["10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.1"]
    servers = names.open("http://first:1", "dns+https://ollama/api#2", "http://last:1#8")
    assert [server.url for server in servers.list()] == ["http://first:1", "http://last:1"]
    assert await servers.refresh() == (
        ServerAddress("http://first:1"),
        ServerAddress("https://10.0.0.1:443/api", 2, "ollama"),
        ServerAddress("https://10.0.0.2:443/api", 2, "ollama"),
        ServerAddress("https://[fd00::1]:443/api", 2, "ollama"),
        ServerAddress("http://last:1", 8),
    )
    assert names.asked == [("ollama", 443)]


async def test_names_are_resolved_again(names: Names) -> None:
    """Every ten seconds: servers join and leave."""
    names.addresses["ollama"] = ["10.0.0.1"]
    servers = names.open("dns+http://ollama:11434")
    assert [server.url for server in await servers.refresh()] == ["http://10.0.0.1:11434"]
    names.addresses["ollama"] = ["10.0.0.2", "10.0.0.3"]
    names.now += RESOLVE_EVERY_S - 0.1
    assert [server.url for server in await servers.refresh()] == ["http://10.0.0.1:11434"]
    names.now = servers.due_at
    assert [server.url for server in await servers.refresh()] == ["http://10.0.0.2:11434", "http://10.0.0.3:11434"]
    assert len(names.asked) == 2


async def test_former_addresses_stay_while_a_name_does_not_resolve(
    names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage of DNS is none of the servers; it is logged once, and its end too."""
    caplog.set_level(logging.INFO)
    names.addresses["ollama"] = ["10.0.0.1"]
    servers = names.open("dns+http://ollama:11434")
    await servers.refresh()
    for answer in (None, [], None):
        if answer is None:
            names.addresses.pop("ollama", None)
        else:
            names.addresses["ollama"] = answer
        names.now += RESOLVE_EVERY_S
        assert [server.url for server in await servers.refresh()] == ["http://10.0.0.1:11434"]
        assert servers.unresolved == ["http://ollama:11434"]
    names.addresses["ollama"] = ["10.0.0.1"]
    names.now += RESOLVE_EVERY_S
    await servers.refresh()
    assert servers.unresolved == []
    messages = [record.message for record in caplog.records]
    assert messages == [
        "name of servers resolved",
        "name of servers not resolved; its former addresses stay",
        "name of servers resolved",
    ]


async def test_servers_without_a_name_never_change(names: Names) -> None:
    """Nothing is looked up."""
    servers = names.open("http://a:1", "http://b:1#2")
    assert servers.due_at == float("inf")
    assert len(await servers.refresh()) == 2
    assert names.asked == []


async def test_the_systems_resolver() -> None:
    """Loopback has an address everywhere."""
    assert set(await resolve_name("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r".+"):
        await resolve_name("host.invalid", 80)
