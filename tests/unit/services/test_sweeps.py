"""Sweeps go on whatever happens in one of them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.services.sweeps import sweep_regularly


async def test_a_sweep_that_fails_is_followed_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """An outage of the state store is one line for each sweep; only a defect has a traceback."""
    outcomes = iter([TransientError("state_unavailable", "The state store is unavailable."), ValueError("a defect")])
    swept = asyncio.Event()

    async def sweep() -> None:
        if (error := next(outcomes, None)) is not None:
            raise error
        swept.set()

    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(sweep_regularly("aliases", sweep, may_act=lambda: True, every_s=0.0))
        async with asyncio.timeout(20):
            await swept.wait()
        task.cancel()
    lines = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
    assert lines == [("sweep failed", False), ("sweep failed unexpectedly", True)]


async def test_a_copy_that_does_not_dispatch_sweeps_nothing() -> None:
    """It goes on as soon as it dispatches."""
    answers, swept = iter([False, False]), asyncio.Event()

    async def sweep() -> None:
        assert next(answers, None) is None
        swept.set()

    task = asyncio.create_task(sweep_regularly("aliases", sweep, may_act=lambda: next(answers, True), every_s=0.0))
    async with asyncio.timeout(20):
        await swept.wait()
    task.cancel()
