"""The drills of several copies of the service: what is done to them while jobs run. ``Copies.check`` judges each.

Each takes seconds with a short lease, so that the tests run each once; the nightly test runs them again and again.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

from support.postgres import Postgres
from support.replicas import Copies

Drill = Callable[[Copies, Postgres, random.Random], Awaitable[None]]


async def under_load(
    copies: Copies, what: Callable[[], Awaitable[None]], *, jobs: int = 24, pause_s: float = 0.1
) -> None:
    """Do something to the copies while clients submit jobs to all of them."""
    load = asyncio.create_task(copies.submit(jobs, pause_s=pause_s))
    try:
        await asyncio.sleep(0.3)
        await what()
    finally:
        await load


async def submissions_on_all(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """Nothing happens but submissions, a third of them twice with the same key."""
    await asyncio.to_thread(copies.start, 3)

    async def nothing() -> None: ...

    await under_load(copies, nothing, pause_s=0.02)


async def killed_leader(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """SIGKILL of the copy that dispatches, twice, each replaced by a new copy."""
    await asyncio.to_thread(copies.start, 2)

    async def kill() -> None:
        for _ in range(2):
            leader = await asyncio.to_thread(copies.wait_leader)
            await asyncio.sleep(chance.uniform(0, 0.5))
            leader.kill()
            copies.host.kill_one()
            await asyncio.to_thread(copies.start)
            await asyncio.to_thread(copies.wait_leader)

    await under_load(copies, kill)


async def frozen_leader(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """SIGSTOP of the copy that dispatches, for longer than its lease, and SIGCONT while its successor works."""
    await asyncio.to_thread(copies.start, 2)

    async def freeze() -> None:
        leader = await asyncio.to_thread(copies.wait_leader)
        await asyncio.sleep(chance.uniform(0, 0.5))
        leader.process.send_signal(signal.SIGSTOP)
        copies.host.kill_one()
        await asyncio.to_thread(lambda: copies.wait_leader(other_than=leader))
        await asyncio.sleep(chance.uniform(0, 1))
        leader.process.send_signal(signal.SIGCONT)

    await under_load(copies, freeze)


async def skewed_clocks(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """One copy's clock is a minute ahead, another's a minute behind; the one that dispatches dies."""
    await asyncio.to_thread(lambda: [copies.start(skew_s=skew_s, wait=False) for skew_s in (60, -60, 0)])
    for copy in copies.copies:
        await asyncio.to_thread(copies.wait_ready, copy)

    async def kill() -> None:
        for _ in range(2):
            leader = await asyncio.to_thread(copies.wait_leader)
            copies.host.kill_one()
            await asyncio.sleep(chance.uniform(0, 0.5))
            leader.kill()
        await asyncio.to_thread(copies.wait_leader)

    await under_load(copies, kill)


async def restarted_database(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """PostgreSQL ends at once, as in a crash, and comes back."""
    await asyncio.to_thread(copies.start, 2)

    async def restart() -> None:
        await asyncio.to_thread(copies.wait_leader)
        await asyncio.sleep(chance.uniform(0, 0.5))
        await asyncio.to_thread(postgres.stop)
        await asyncio.sleep(chance.uniform(0, 1))
        copies.host.kill_one()
        await asyncio.to_thread(postgres.start)

    await under_load(copies, restart)


async def few_connections(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """Each copy has a single connection, which all submissions, lists and the dispatcher share; one copy dies."""
    await asyncio.to_thread(lambda: copies.start(2, INGEST_DATABASE__POOL_SIZE="1", INGEST_DATABASE__MAX_OVERFLOW="0"))

    async def kill() -> None:
        leader = await asyncio.to_thread(copies.wait_leader)
        await asyncio.sleep(chance.uniform(0, 0.5))
        leader.kill()
        await asyncio.to_thread(copies.wait_leader)

    await under_load(copies, kill, jobs=60, pause_s=0.0)


async def everything_at_once(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """Three copies with other clocks are killed, frozen and replaced in any order, drivers die."""
    for skew_s in (60, -60, 0):
        await asyncio.to_thread(copies.start, skew_s=skew_s)

    async def trouble() -> None:
        frozen = []
        for _ in range(4):
            leader = await asyncio.to_thread(copies.wait_leader)
            await asyncio.sleep(chance.uniform(0, 0.4))
            copies.host.kill_one()
            if chance.random() < 0.5:
                leader.process.send_signal(signal.SIGSTOP)
                frozen.append(leader)
            else:
                leader.kill()
            if len(copies.running()) - len(frozen) < 2:
                await asyncio.to_thread(copies.start, skew_s=chance.choice([60, -60, 0]))
            await asyncio.to_thread(lambda was=leader: copies.wait_leader(other_than=was))
            if frozen and chance.random() < 0.7:
                frozen.pop().process.send_signal(signal.SIGCONT)
        for copy in frozen:
            copy.process.send_signal(signal.SIGCONT)

    await under_load(copies, trouble, jobs=40)


async def migrated_by_three(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """Three copies start at once on a database without tables."""
    await copies.empty()
    await asyncio.to_thread(lambda: [copies.start(wait=False) for _ in range(3)])
    for copy in copies.copies:
        await asyncio.to_thread(copies.wait_ready, copy)
    await copies.watch_rows()
    await copies.submit(24)


async def rolling_upgrade(copies: Copies, postgres: Postgres, chance: random.Random) -> None:
    """Two copies of the former release are replaced one by one, the first by SIGTERM, the second by SIGKILL."""
    await copies.empty()
    await asyncio.to_thread(lambda: copies.start(2, former=True))
    await copies.watch_rows()
    version = "SELECT version_num FROM alembic_version"
    before = await copies.query(version)

    async def roll() -> None:
        former = list(copies.copies)
        await asyncio.to_thread(copies.wait_leader)
        await asyncio.to_thread(copies.start)
        await asyncio.sleep(chance.uniform(0, 1))
        copies.host.kill_one()
        await asyncio.to_thread(former[0].stop)
        await asyncio.to_thread(copies.start)
        await asyncio.sleep(chance.uniform(0, 1))
        former[1].kill()
        await asyncio.to_thread(copies.wait_leader)

    await under_load(copies, roll, jobs=40)
    assert await copies.query(version) != before, "both releases have the same schema"


DRILLS: dict[str, Drill] = {
    drill.__name__: drill
    for drill in (
        submissions_on_all,
        killed_leader,
        frozen_leader,
        skewed_clocks,
        restarted_database,
        few_connections,
        everything_at_once,
        migrated_by_three,
    )
}
