"""An alias that two copies of the service move at once: each key has one effect, and both stores follow the last one.

Two copies on one PostgreSQL, over one state store and two vector stores whose requests overtake each other by chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ingestion_engine.domain.audit import Outcome
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.services.job_records import audit_log
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.state.aliases import Alias, read_alias, record_move, settle_alias, write_alias
from ingestion_engine.state.collections import alias_path, delete_collection_state, read_contract
from support.control import Plane, World, make_collection
from support.postgres import Postgres
from support.shared_world import SharedState, SlowStore

NAME = "docs"
VERSIONS = ("docs_3", "docs_2", "docs_1")
NEW = "docs_4"
FIRST, LATER = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


@dataclass
class Answer:
    """One answer to a request that changes the alias."""

    id: str
    key: str | None
    to: str | None
    status: int
    body: dict[str, Any]
    replayed: bool


@dataclass
class Office:
    """Two copies and what they were asked for."""

    world: World
    planes: tuple[Plane, Plane]
    chance: random.Random
    round: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def state(self) -> SharedState:
        assert isinstance(self.world.state, SharedState)
        return self.world.state

    @property
    def stores(self) -> dict[StoreName, SlowStore]:
        assert isinstance(self.world.qdrant, SlowStore)
        assert isinstance(self.world.weaviate, SlowStore)
        return {StoreName.QDRANT: self.world.qdrant, StoreName.WEAVIATE: self.world.weaviate}

    def begin(self) -> None:
        """Make the alias anew: it stands for docs_3; docs_2 and docs_1 are former versions, NEW is none yet."""
        self.round += 1
        self.answers.clear()
        self.state.delete(alias_path(NAME))
        self.state.history.clear()
        for name in (*VERSIONS, NEW):
            delete_collection_state(self.state, name)
            for store in self.stores.values():
                store.collections.pop(name, None)
            make_collection(self.world, name)
        for store in self.stores.values():
            store.aliases[NAME] = VERSIONS[0]
        times: dict[str, Any] = {"job_created_at": FIRST, "moved_at": FIRST}
        write_alias(self.state, Alias(NAME, VERSIONS[0], VERSIONS[1:], settled=True, job_id="job-1", **times))

    async def ask(self, copy: int, method: str, path: str, key: str | None = None, **body: Any) -> Answer:
        number = f"r{self.round}-{len(self.answers)}-{self.chance.getrandbits(32)}"
        headers = {"X-Request-Id": number} | ({} if key is None else {"Idempotency-Key": key})
        answer = await self.planes[copy].client.request(method, f"/aliases/{NAME}{path}", headers=headers, **body)
        replayed = answer.headers.get("idempotency-replayed") == "true"
        kept = Answer(number, key, (body.get("json") or {}).get("to"), answer.status_code, answer.json(), replayed)
        self.answers.append(kept)
        return kept

    async def roll_back(self, copy: int, to: str | None = None, key: str | None = None) -> Answer:
        body: dict[str, Any] = {} if to is None else {"json": {"to": to}}
        return await self.ask(copy, "POST", "/rollback", key, **body)

    async def prune(self, copy: int, keep: int) -> Answer:
        return await self.ask(copy, "DELETE", f"/versions?keep={keep}")

    async def move_by_job(self) -> None:
        """What the driver of a job does at its end."""
        await asyncio.to_thread(
            lambda: record_move(
                self.state, NAME, NEW, job_id="job-2", job_created_at=LATER, now=LATER, check=lambda: None
            )
        )
        await settle_alias(self.state, self.stores, NAME)

    def moves(self) -> list[Alias]:
        """The alias as it was written, each time that its collection or its keys changed."""
        kept: list[Alias] = []
        for data in self.state.history[alias_path(NAME)]:
            state = SharedState()
            state.put(alias_path(NAME), data)
            alias = read_alias(state, NAME)
            assert alias is not None
            if not kept or (alias.collection, alias.rollbacks) != (kept[-1].collection, kept[-1].rollbacks):
                kept.append(alias)
        return kept

    async def check(self) -> Alias:
        """Check what holds after every race; return the alias."""
        alias = read_alias(self.state, NAME)
        assert alias is not None
        assert alias.settled
        for name, store in self.stores.items():
            assert store.aliases.get(NAME) == alias.collection, name
            assert {alias.collection, *alias.previous} <= store.collections.keys(), name
        assert read_contract(self.state, alias.collection) is not None
        assert len(set(alias.all_versions())) == len(alias.all_versions())
        self._check_keys(alias)
        await self._check_audit()
        return alias

    def _check_keys(self, alias: Alias) -> None:
        """Each key that was answered with success is remembered, once; each other one has had no effect."""
        accepted = {answer.key for answer in self.answers if answer.key is not None and answer.status == 200}
        assert len({one.key for one in alias.rollbacks}) == len(alias.rollbacks) == len(accepted)
        moves = self.moves()
        effects = Counter(
            key for last, move in zip([None, *moves], moves, strict=False) for key in keys_of(move) - keys_of(last)
        )
        assert list(effects.values()) == [1] * len(accepted)
        fresh = [one.key for one in self.answers if one.status == 200 and one.key is not None and not one.replayed]
        assert sorted(fresh) == sorted(accepted), "one answer for each key says that it has moved the alias"

    async def _check_audit(self) -> None:
        """Each request that began a change has one intent and one outcome, which say what happened."""
        database = self.planes[0].services.store.database
        async with database.reading() as connection:
            rows = (await connection.execute(sa.select(audit_log))).mappings().all()
        for answer in self.answers:
            own = [row for row in rows if row["request_id"] == answer.id]
            begun = [row for row in own if row["outcome"] == Outcome.BEGUN.value]
            ends = [row for row in own if row["outcome"] != Outcome.BEGUN.value]
            assert len(begun) <= 1
            if begun or answer.status == 200:
                (end,) = ends
                assert end["begun"] == (begun[0]["id"] if begun else None)
                assert end["outcome"] == (Outcome.DONE if answer.status == 200 else Outcome.FAILED).value
                assert end["status"] == answer.status
                assert end["details"].get("replayed", False) == answer.replayed
            if answer.status == 200 and answer.to is not None and not answer.replayed:
                assert end["details"].get("to_collection", answer.to) == answer.to


def keys_of(alias: Alias | None) -> set[str]:
    """The rollbacks that an alias remembers."""
    return set() if alias is None else {one.key for one in alias.rollbacks}


async def same_key(office: Office) -> None:
    """Four requests with one key on both copies: one moves the alias, the others say that they are repetitions."""
    to = office.chance.choice([None, "docs_1", "docs_2"])
    answers = await asyncio.gather(*(office.roll_back(number % 2, to, "monday") for number in range(4)))
    assert [answer.status for answer in answers] == [200] * 4
    alias = await office.check()
    expected = to or "docs_2"
    assert (alias.collection, alias.previous[0]) == (expected, "docs_3")


async def different_keys(office: Office) -> None:
    """Different keys and targets: what was refused has done nothing, and can be repeated."""
    targets = [None, *VERSIONS, office.chance.choice(VERSIONS)]
    orders = [(number % 2, to, f"key-{number}") for number, to in enumerate(targets)]
    office.chance.shuffle(orders)
    for answer in await asyncio.gather(*(office.roll_back(*order) for order in orders)):
        assert answer.status == 200 or answer.body["code"] == "alias_moving"
    alias = await office.check()
    assert {alias.collection, *alias.previous} == set(VERSIONS)
    for copy, to, key in orders:
        known = any(one.key == key and one.status == 200 for one in office.answers)
        again = await office.roll_back(1 - copy, to, key)
        assert (again.status, again.replayed) == (200, known)
    await office.check()


async def while_a_job_moves(office: Office) -> None:
    """The alias ends at the job's version or at that of the rollback, whichever came last; neither is lost."""
    to = office.chance.choice([None, "docs_1", "docs_2"])
    answer, *_ = await asyncio.gather(office.roll_back(0, to, "monday"), office.move_by_job(), office.roll_back(1, to))
    alias = await office.check()
    assert NEW in alias.all_versions()
    assert {alias.collection, *alias.previous} == {NEW, *VERSIONS}
    assert answer.status == 200 or answer.body["code"] == "alias_moving"
    if answer.status != 200 and all(one.status != 200 for one in office.answers):
        assert alias.collection == NEW


async def while_versions_are_dropped(office: Office) -> None:
    """Either the rollback or the version is there; never an alias of what is dropped."""
    to = office.chance.choice([None, "docs_1", "docs_2"])
    answer, pruned = await asyncio.gather(
        office.roll_back(0, to, "monday"), office.prune(1, keep=office.chance.choice([0, 1]))
    )
    alias = await office.check()
    assert answer.status == 200 or answer.body["code"] in {
        *("alias_moving", "version_missing", "version_unknown", "no_previous_version"),
    }
    assert pruned.status == 200 or pruned.body["code"] == "alias_moving"
    dropped = set(pruned.body.get("dropped", ()))
    assert not dropped & {alias.collection, *alias.previous}
    assert {alias.collection, *alias.previous} == set(VERSIONS) - dropped
    if answer.status == 200:
        assert alias.collection == (to or "docs_2")
    else:
        assert alias.collection == "docs_3"


RACES: dict[str, Callable[[Office], Awaitable[None]]] = {
    race.__name__: race for race in (same_key, different_keys, while_a_job_moves, while_versions_are_dropped)
}


@contextlib.asynccontextmanager
async def two_copies(postgres: Postgres, folder: Path, seed: int) -> AsyncIterator[Office]:
    """Two copies of the service that share everything but their processes."""
    chance = random.Random(seed)
    stores = {name: SlowStore(name, chance=chance) for name in StoreName}
    world = World(folder, state=SharedState(), qdrant=stores[StoreName.QDRANT], weaviate=stores[StoreName.WEAVIATE])
    url = postgres.url(postgres.create_database())
    await (await JobStore.open(url)).close()
    unlimited = {"requests_per_second": 100_000, "address_requests_per_second": 100_000}
    given: dict[str, Any] = {"database_url": url, "limits": unlimited}
    async with world.serve(**given) as first, world.serve(**given) as second:
        yield Office(world, (first, second), chance)


async def run(race: str, postgres: Postgres, folder: Path, *, rounds: int, seed: int) -> None:
    async with two_copies(postgres, folder, seed) as office:
        for _ in range(rounds):
            office.begin()
            await RACES[race](office)


@pytest.mark.parametrize("race", RACES)
async def test_two_copies_move_an_alias_at_once(race: str, postgres: Postgres, tmp_path: Path) -> None:
    """A few rounds of each race."""
    await run(race, postgres, tmp_path, rounds=6, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("race", RACES)
async def test_two_copies_move_an_alias_again_and_again(race: str, postgres: Postgres, tmp_path: Path) -> None:
    """Many rounds, with other chances each."""
    await run(race, postgres, tmp_path, rounds=200, seed=random.SystemRandom().getrandbits(32))
