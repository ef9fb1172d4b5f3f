"""Streams of a caller whose credential ends meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest

from ingestion_engine.access import identity as access_identity
from ingestion_engine.access import sessions
from ingestion_engine.access.keys.file import KeyFile, KeyRing
from ingestion_engine.access.keys.management import create_key, rotate_key
from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import Scope
from ingestion_engine.api import streams
from ingestion_engine.api.metrics import HttpLoad
from support.control import BODY, World, bearer, write_keys
from support.log_ins import log_in_with_key
from support.waiting import eventually


async def test_events_end_when_the_key_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although nothing happens to the job; a stream of another key goes on."""
    monkeypatch.setattr(streams, "CHECK_S", 0.02)
    world = World(tmp_path)
    keys = write_keys(tmp_path, {"name": "admin"}, {"name": "team"})
    async with world.serve(api={"keys_file": keys}) as plane:
        job_id = (await plane.client.post("/ray/jobs", json=BODY, headers=bearer("team"))).json()["job_id"]
        answers = {
            name: asyncio.create_task(plane.client.get(f"/jobs/{job_id}/events", headers=bearer(name)))
            for name in ("admin", "team")
        }
        load = plane.services.metrics.load
        await eventually(lambda: load.streams == 2)
        write_keys(tmp_path, {"name": "admin"})
        async with asyncio.timeout(10):
            ended = await answers["team"]
        assert ended.status_code == 200
        assert not answers["admin"].done()
        assert load.streams == 1
        assert (await plane.client.get("/jobs", headers=bearer("team"))).status_code == 401
        plane.services.closing.set()
        async with asyncio.timeout(10):
            assert (await answers["admin"]).status_code == 200
        assert load.streams == 0


SOON = "2020-01-01T00:00:00Z"


@pytest.mark.parametrize("change", [{"expires_at": SOON}, {"scopes": ["search"]}, {"collections": ["other*"]}])
@pytest.mark.parametrize("by_session", [False, True])
async def test_events_end_when_the_key_gets_an_end_or_loses_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], by_session: bool
) -> None:
    """Which it did not have when the stream began: a stream never shows more than a request would."""
    monkeypatch.setattr(streams, "CHECK_S", 0.02)
    monkeypatch.setattr(sessions, "KNOWN_S", 0.02)
    world = World(tmp_path)
    keys = write_keys(tmp_path, {"name": "team", "scopes": ["read", "submit"]})
    async with world.serve(api={"keys_file": keys}) as plane:
        job_id = (await plane.client.post("/ray/jobs", json=BODY, headers=bearer("team"))).json()["job_id"]
        if by_session:
            await log_in_with_key(plane.client, "team")
            request = plane.client.get(f"/console/jobs/{job_id}/events")
        else:
            request = plane.client.get(f"/jobs/{job_id}/events", headers=bearer("team"))
        answer = asyncio.create_task(request)
        load = plane.services.metrics.load
        await eventually(lambda: load.streams == 1)
        write_keys(tmp_path, {"name": "team", "scopes": ["read", "submit"], **change})
        async with asyncio.timeout(10):
            assert (await answer).status_code == 200


async def test_events_end_when_the_former_secret_of_a_rotated_key_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the overlap, which the stream's caller did not have yet."""
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    path = tmp_path / "keys.json"
    made = await create_key(KeyFile(path), "team", scopes=frozenset({Scope.READ}), now=lambda: now)
    moments = [now]
    ring = KeyRing(path, now=lambda: moments[-1])
    identities = access_identity.Identities([ring], now=lambda: moments[-1])
    caller = await identities.identify(made.key, None, address="")
    await rotate_key(KeyFile(path), "team", overlap=dt.timedelta(hours=1), now=lambda: now)
    assert await identities.is_still_valid(caller)
    moments.append(now + dt.timedelta(hours=1))
    assert not await identities.is_still_valid(caller)


class Identities:
    """Counts the looks at each caller; those of ``revoked`` do not count, those of ``broken`` cannot be looked up."""

    def __init__(self) -> None:
        self.looks: dict[str, int] = {}
        self.revoked: set[str] = set()
        self.broken: set[str] = set()

    async def is_still_valid(self, principal: Principal) -> bool:
        self.looks[principal.name] = self.looks.get(principal.name, 0) + 1
        if principal.name in self.broken:
            raise OSError
        return principal.name not in self.revoked


class Stream:
    """In place of a follower."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


async def test_a_credential_is_looked_up_once_for_all_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; one that cannot be looked up ends its own only."""
    monkeypatch.setattr(streams, "CHECK_S", 0.001)
    identities, opened = Identities(), streams.OpenStreams(HttpLoad())
    one, two, three = (Principal(name=name) for name in ("one", "two", "three"))
    followers = {caller: [Stream() for _ in range(100)] for caller in (one, two, three)}
    for caller, members in followers.items():
        for member in members:
            opened.add(member, caller, identities)  # type: ignore[arg-type]  # what is used of both
    await eventually(lambda: identities.looks.get("three", 0) >= 3)
    assert identities.looks["one"] <= identities.looks["three"] + 1
    identities.revoked.add("one")
    identities.broken.add("two")
    await eventually(lambda: all(member.is_closed for caller in (one, two) for member in followers[caller]))
    assert not any(member.is_closed for member in followers[three])
    for caller, members in followers.items():
        for member in members:
            opened.remove(member, caller)  # type: ignore[arg-type]  # as above
    looks = identities.looks["three"]
    await asyncio.sleep(0.01)
    assert identities.looks["three"] <= looks + 1  # nobody is left to be looked up
