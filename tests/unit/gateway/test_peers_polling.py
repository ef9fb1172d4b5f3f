"""Gateways that poll one another over HTTP, and what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import httpx

from ingestion_engine.gateway.assembly import Gateway
from ingestion_engine.gateway.peers.polling import Peers
from ingestion_engine.gateway.serve import open_gateway
from support.gateway import gateway_settings, running_group
from support.scripted_ollama import ScriptedOllama, serving_all
from support.waiting import eventually

QUICK_S = 1.0
"""Silence that means death; the machine of the tests may stand still for a moment."""


def owned(gateway: Gateway) -> frozenset[str]:
    servers = gateway.peers.membership.rights().servers
    assert servers is not None
    return servers


async def get(url: str, path: str) -> Any:
    async with httpx.AsyncClient(timeout=10) as http:
        return (await http.get(url + path)).json()


async def embed(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as http:
        return await http.post(f"{url}/api/embed", json={"model": "m", "input": ["text"]})


async def test_two_share_the_servers_and_one_that_stops_hands_over() -> None:
    """Each says who owns what; the one that stays serves everything."""
    async with (
        serving_all(*(ScriptedOllama() for _ in range(4))) as servers,
        running_group(2, servers, dead_s=2.0) as [(one, first, _), (other, second, ending)],
    ):
        await eventually(lambda: len(owned(first)) == len(owned(second)) == 2)
        assert owned(first) | owned(second) == set(servers)
        shown = {each["url"]: each for each in (await get(one, "/gateway/servers"))["servers"]}
        assert {url for url, each in shown.items() if each["owned"]} == owned(first)
        assert {each["owner"] for each in shown.values()} == {one, other}
        ready = await get(one, "/readyz")
        assert (ready["status"], ready["gateways"]["alive"]) == ("ok", sorted([one, other]))
        assert (await embed(one)).headers["ingest-server"] in owned(first)
        statement = await get(other, "/gateway/id")
        assert (statement["url"], statement["view"]) == (other, sorted([one, other]))
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{one}/metrics")).text.splitlines()
        assert {"ingest_gateway_peers_alive 2.0", "ingest_gateway_peers_missing 0.0"} <= set(metrics)
        assert "ingest_gateway_owned_servers 2.0" in metrics
        leaving = asyncio.create_task(ending.aclose())
        await eventually(lambda: owned(first) == set(servers))
        refused = await embed(other)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        await leaving


async def test_one_that_dies_is_replaced_and_its_requests_are_not_waited_for() -> None:
    """Death is silence: here for a second."""
    async with (
        serving_all(ScriptedOllama(), ScriptedOllama()) as servers,
        running_group(2, servers, dead_s=QUICK_S) as [(_, first, _), (_, second, _)],
    ):
        await eventually(lambda: len(owned(first)) == len(owned(second)) == 1)
        await second.peers.close()
        second.peers.membership.statement = dict  # type: ignore[method-assign]  # it answers nothing of sense
        await eventually(lambda: owned(first) == set(servers))
        assert "does not answer as a gateway" in str(first.peers.view()["silent"])
        await eventually(lambda: not owned(second))


async def test_a_gateway_on_standby_is_ready_and_refuses() -> None:
    """With one request in flight in all, one gateway does everything; which one is the same for both."""
    async with (
        serving_all(ScriptedOllama(), ScriptedOllama()) as servers,
        running_group(2, servers, dead_s=2.0, embed={"in_flight": 1}) as [(one, first, _), (other, second, _)],
    ):
        await eventually(lambda: bool(owned(first)) != bool(owned(second)))
        active, standby = (one, other) if owned(first) else (other, one)
        await eventually(lambda: (second if standby == other else first).peers.membership.is_standby)
        refused = await embed(standby)
        assert refused.status_code == 503
        assert "has nothing to do at present" in refused.json()["error"]
        assert (await embed(active)).status_code == 200
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{standby}/readyz")).status_code == 200


async def test_a_server_that_is_down_for_one_goes_to_another() -> None:
    """The one that cannot reach it does not state it, so that its part of the limits is of use elsewhere."""
    async with (
        serving_all(ScriptedOllama(), ScriptedOllama()) as servers,
        running_group(2, servers, dead_s=2.0) as [(_, first, _), (_, second, _)],
    ):
        await eventually(lambda: len(owned(first)) == len(owned(second)) == 1)
        [lost] = owned(first)
        [server] = [each for each in first.pool.servers if each.url == lost]
        for _ in range(3):
            first.pool.note_unreachable(server, "no route")
        await eventually(lambda: lost in owned(second))
        assert lost not in owned(first)


async def test_the_only_gateway_of_a_list_serves_requests_that_come_at_once() -> None:
    """They wait until it has found itself, some milliseconds; it never refuses."""
    async with serving_all(ScriptedOllama()) as servers:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with open_gateway(gateway_settings(servers, gateway={"url": url}), listener):
                assert (await embed(url)).status_code == 200


async def test_a_name_stands_for_all_gateways() -> None:
    """The gateway finds itself at one of the addresses; before the name resolves it serves nothing."""
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(serving_all(ScriptedOllama()))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        settings = gateway_settings(servers, gateway={"url": f"dns+http://localhost:{port}"})
        unresolved = Peers(settings, in_flight=lambda: 0, servers=lambda: dict.fromkeys(servers, 1))
        assert unresolved.membership.rights().servers == frozenset()
        await unresolved.close()
        gateway = await stack.enter_async_context(open_gateway(settings, listener, dead_s=QUICK_S))
        await eventually(lambda: owned(gateway) == set(servers))
        assert gateway.peers.membership.name == f"http://127.0.0.1:{port}"


async def test_the_addresses_of_a_name_come_and_go() -> None:
    """A new one is polled at once; one that is gone counts until it has been silent for long enough."""
    now = [100.0]
    addresses = ["127.0.0.1"]

    async def resolve(_host: str, _port: int) -> list[str]:
        return list(addresses)

    def pass_time() -> None:
        now[0] += 0.1

    settings = gateway_settings(["http://ollama:11434"], gateway={"url": "dns+http://gateways:1"})
    peers = Peers(settings, in_flight=lambda: 0, servers=dict, clock=lambda: now[0], resolve=resolve)
    first, second = "http://127.0.0.1:1", "http://127.0.0.2:1"
    assert peers.membership.waits_for == ["http://gateways:1"]
    await peers.start()
    await eventually(lambda: first in peers.membership.urls)
    addresses.append("127.0.0.2")
    await eventually(lambda: pass_time() or second in peers.membership.urls)
    await eventually(lambda: second in str(peers.view()["silent"]))
    addresses.remove("127.0.0.2")
    await eventually(lambda: pass_time() or peers.membership.urls == [first])
    await peers.close()
