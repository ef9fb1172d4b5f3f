"""Streams of a caller whose credential ends meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import Scope
from ingestion_engine.api import streams
from support.control import BODY, World, bearer, write_keys


async def test_events_end_when_the_key_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although nothing happens to the job; a stream of another key goes on."""
    monkeypatch.setattr(streams, "CHECK_S", 0.02)
    world = World(tmp_path)
    keys = write_keys(tmp_path, {"name": "admin"}, {"name": "team"})
    async with world.serve(api={"keys_file": keys}) as plane:
        begun = asyncio.Semaphore(0)
        follow = plane.services.jobs.follow

        async def noted(*arguments: Any) -> AsyncIterator[Any]:
            begun.release()
            async for seen in follow(*arguments):
                yield seen

        monkeypatch.setattr(plane.services.jobs, "follow", noted)
        job_id = (await plane.client.post("/ray/jobs", json=BODY, headers=bearer("team"))).json()["job_id"]
        answers = {
            name: asyncio.create_task(plane.client.get(f"/jobs/{job_id}/events", headers=bearer(name)))
            for name in ("admin", "team")
        }
        await begun.acquire()
        await begun.acquire()
        write_keys(tmp_path, {"name": "admin"})
        async with asyncio.timeout(10):
            ended = await answers["team"]
        assert ended.status_code == 200
        assert not answers["admin"].done()
        assert (await plane.client.get("/jobs", headers=bearer("team"))).status_code == 401
        plane.services.closing.set()
        async with asyncio.timeout(10):
            assert (await answers["admin"]).status_code == 200


class Verdicts:
    """Says of each look in turn whether the credential counts."""

    def __init__(self, *verdicts: bool) -> None:
        self._verdicts = list(verdicts)

    async def is_still_valid(self, principal: Principal) -> bool:
        return self._verdicts.pop(0)


async def test_a_stream_that_is_silent_is_closed() -> None:
    """The wait for its next event is ended, and what it holds is released."""
    released = False

    async def silent() -> AsyncIterator[bytes]:
        nonlocal released
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            released = True

    seen = streams.end_with_credential(
        silent(),
        Verdicts(True, True, False),  # type: ignore[arg-type]  # only this method is used
        Principal(scopes=frozenset({Scope.READ})),
        every_s=0.01,
    )
    async with asyncio.timeout(10):
        assert [item async for item in seen] == [b"first"]
    assert released
