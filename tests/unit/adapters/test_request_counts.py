"""Requests of a piece of work are counted for it alone, with what they took and how they ended."""

from __future__ import annotations

import asyncio

import pytest

from ingestion_engine.adapters.request_counts import RequestCounts, count_requests, counted
from ingestion_engine.adapters.transport import HttpClient
from ingestion_engine.domain.errors import ObjectGone, TransientError
from support.answering import serving


async def test_partitions_that_run_at_the_same_time_count_apart() -> None:
    """Tasks and threads that they begin count for them; requests outside of any count for nobody."""

    async def request() -> None:
        with counted("ollama"):
            await asyncio.sleep(0)

    async def work(number: int) -> RequestCounts:
        with count_requests() as counts:
            await asyncio.gather(*(asyncio.create_task(request()) for _ in range(number)))
        return counts

    await request()
    one, two = await asyncio.gather(work(1), work(2))
    assert [counts.of_system["embedder"].done for counts in (one, two)] == [1, 2]


def test_errors_of_the_system_fail_and_those_of_an_object_are_answers() -> None:
    """A canceled request does not count."""
    with count_requests() as counts:
        for error in (TransientError("s3_unavailable", "x"), ObjectGone("object_gone", "x"), asyncio.CancelledError()):
            with pytest.raises(type(error)), counted("s3"):
                raise error
    shown = counts.to_json()["s3"]
    assert (shown["done"], shown["failed"]) == (1, 1)


async def test_statuses_of_a_server_in_trouble_are_failures() -> None:
    """Also of one that requests to be left alone; a refusal is an answer."""
    client = HttpClient("gateway", connect_timeout_s=5)
    answers = {f"/{status}": lambda _, status=status: (status, {}) for status in (200, 404, 429, 500, 503)}
    with serving(answers) as url, count_requests() as counts:
        for path in answers:
            await client.request("GET", url, path, timeout_s=5)
    await client.close()
    shown = counts.to_json()["embedder"]
    assert (shown["done"], shown["failed"]) == (2, 3)
    assert shown["seconds"] > 0
