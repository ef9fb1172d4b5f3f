"""Requests that arrive at once begin a few at a time, clients in turn, probes at once."""

from __future__ import annotations

import asyncio
from typing import Any

from ingestion_engine.server.turns import STARTS, Turns


async def run(*arrivals: tuple[str, str]) -> list[tuple[int, str]]:
    """Return round of the loop and name of each request, in the order in which they began.

    Args:
        arrivals: Address and path of each, all in the same round.
    """
    begun: list[tuple[int, str]] = []
    rounds = 0

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        begun.append((rounds, f"{scope['client'][0]}{scope['path']}"))

    turns = Turns(app)
    tasks = [
        asyncio.create_task(
            turns({"type": "http", "path": path, "client": (address, 1)}, None, None)  # type: ignore[arg-type]
        )
        for address, path in arrivals
    ]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        rounds += 1
    return begun


async def test_a_few_begin_in_each_round() -> None:
    """In the order in which they came, and none waits for longer than its place requires."""
    begun = await run(*(("a", f"/{number}") for number in range(3 * STARTS)))
    assert [name for _, name in begun] == [f"a/{number}" for number in range(3 * STARTS)]
    for number in {one for one, _ in begun}:
        assert sum(one == number for one, _ in begun) <= STARTS
    assert begun[-1][0] <= 6


async def test_probes_do_not_wait() -> None:
    """Whatever else has arrived."""
    begun = await run(*(("a", f"/{number}") for number in range(100)), ("b", "/livez"))
    assert begun[STARTS] == (0, "b/livez")


async def test_clients_take_turns() -> None:
    """One with a single request does not wait for the hundred of another."""
    begun = await run(*(("a", f"/{number}") for number in range(100)), ("b", "/one"))
    assert [name for _, name in begun].index("b/one") <= 2 * STARTS


async def test_who_has_gone_takes_no_turn() -> None:
    """A request whose task was canceled while it waited."""
    begun: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        begun.append(scope["path"])

    turns = Turns(app)
    tasks = [
        asyncio.create_task(turns({"type": "http", "path": f"/{n}", "client": None}, None, None))  # type: ignore[arg-type]
        for n in range(STARTS + 3)
    ]
    await asyncio.sleep(0)
    tasks[STARTS].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert begun == [f"/{n}" for n in range(STARTS + 3) if n != STARTS]
