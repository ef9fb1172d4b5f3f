"""Concurrent items share one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.runtime.coalesce import RequestCoalescer


class Server:
    """Records its requests, and responds when ``may_respond`` is set."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self.may_respond = asyncio.Event()

    async def respond(self, items: Sequence[str]) -> dict[str, str]:
        self.requests.append(list(items))
        await self.may_respond.wait()
        if "bad" in items:
            raise TransientError("unavailable", "The server is unavailable.")
        return {item: item.upper() for item in items}


async def request_all(
    coalescer: RequestCoalescer[str, dict[str, str]], items: Sequence[str]
) -> list[asyncio.Task[dict[str, str]]]:
    tasks = [asyncio.create_task(coalescer.request(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_one_request_at_a_time_and_the_next_gathers() -> None:
    """The first item is sent immediately; later ones share the second request, and each gets its result."""
    server = Server()
    tasks = await request_all(RequestCoalescer(server.respond), ["a", "b", "c"])
    assert server.requests == [["a"]]
    server.may_respond.set()
    results = await asyncio.gather(*tasks)
    assert server.requests == [["a"], ["b", "c"]]
    assert [result[item] for result, item in zip(results, "abc", strict=True)] == ["A", "B", "C"]


async def test_a_failed_request_fails_all_in_it_and_no_other() -> None:
    """Every item of the failed request gets the error; items of other requests do not."""
    server = Server()
    coalescer = RequestCoalescer(server.respond)
    tasks = await request_all(coalescer, ["a", "bad", "c"])
    server.may_respond.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == {"a": "A"}
    assert [type(outcome) for outcome in outcomes[1:]] == [TransientError, TransientError]
    assert await coalescer.request("d") == {"d": "D"}


@pytest.mark.parametrize("canceled", [0, 1, 2])
async def test_a_canceled_task_does_not_affect_the_others(canceled: int) -> None:
    """The canceled task may be the one that sent the request."""
    server = Server()
    tasks = await request_all(RequestCoalescer(server.respond), ["a", "b", "c"])
    tasks[canceled].cancel()
    await asyncio.sleep(0)
    server.may_respond.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes.pop(canceled), asyncio.CancelledError)
    left = [item for number, item in enumerate("abc") if number != canceled]
    assert all(isinstance(result, dict) and result[i] == i.upper() for i, result in zip(left, outcomes, strict=True))
