"""Several copies of the service as processes on one PostgreSQL, what clients do with them, and what must hold.

A trigger records every change of every job's row with the copy that made it, so that nothing between two looks is
missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.states import FINAL_STATES
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_store import JobStore
from support.file_engine import DriverHost
from support.servers import RunningServer, answers, free_port, start_command
from support.waiting import wait_for

MAIN = Path(__file__).with_name("replica_main.py")
BODY: dict[str, Any] = {"source": {"bucket": "docs"}, "parallelism": 1}
FINAL = {state.value for state in FINAL_STATES}

AUDIT = """
CREATE TABLE audit (copy text, job_id text, before_state text, after_state text, before_attempt int, after_attempt int,
    revisions int);
CREATE FUNCTION note() RETURNS trigger AS $$ BEGIN
    INSERT INTO audit VALUES (current_setting('application_name'), NEW.id, OLD.state, NEW.state, OLD.attempt,
        NEW.attempt, NEW.revision - OLD.revision);
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER note AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION note()
"""


@dataclass
class Findings:
    """What a drill has found; all but the first two must be empty."""

    accepted: int = 0
    attempts: int = 0
    lost: list[str] = field(default_factory=list)
    """Accepted jobs that have not succeeded."""
    doubled: list[str] = field(default_factory=list)
    """Keys with several jobs, jobs with more drivers than deaths of drivers, drivers of one job at the same time."""
    set_back: list[str] = field(default_factory=list)
    """Changes that lowered a job's attempt, left a final state, or skipped a revision."""


@dataclass
class Copies:
    """The copies of the service, the cluster behind them, and what clients were promised."""

    url: str
    folder: Path
    host: DriverHost
    hold_s: float
    source: Path | None = None
    """``src`` of another release for copies that are started with ``former=True``."""
    copies: list[RunningServer] = field(default_factory=list)
    keys: dict[str, set[str]] = field(default_factory=dict)
    """Ids that were answered, by idempotency key."""
    ready: set[str] = field(default_factory=set)
    """Names of the copies that have answered once: a load balancer knows no others."""
    refused: Counter[str] = field(default_factory=Counter)

    def start(
        self, number: int = 1, *, skew_s: float = 0.0, former: bool = False, wait: bool = True, **env: str
    ) -> list[RunningServer]:
        """Start copies at the same time; return them when all answer."""
        started = []
        for _ in range(number):
            port = free_port()
            name = f"copy-{len(self.copies) + len(started)}"
            variables = {
                "INGEST_DATABASE_URL": f"{self.url}?application_name={name}",
                "INGEST_STATE_URL": self.host.state.url,
                "INGEST_API__PORT": str(port),
                "INGEST_EMBED__IN_FLIGHT": "64",
                "INGEST_DISPATCH__POLL_S": "0.2",
                "INGEST_DATA_DIR": str(self.folder),
                "DRILL_ENGINE": str(self.host.folder),
                "DRILL_SKEW_S": str(skew_s),
                "DRILL_HOLD_S": str(self.hold_s),
                **env,
            }
            url = f"http://127.0.0.1:{port}"
            command = [sys.executable, str(MAIN)]
            paths = [*([str(self.source)] if former and self.source else []), str(MAIN.parents[1])]
            started.append(
                start_command(
                    name,
                    ["env", f"PYTHONPATH={os.pathsep.join([*paths, str(MAIN.parents[2] / 'src')])}", *command],
                    url=url,
                    log=self.folder / f"{name}.log",
                    env=variables,
                    is_ready=lambda: True,
                )
            )
        self.copies += started
        if wait:
            for copy in started:
                self.wait_ready(copy)
        return started

    def wait_ready(self, copy: RunningServer) -> None:
        def ready() -> bool:
            assert copy.process.poll() is None, copy.log.read_text()[-3000:]
            with contextlib.suppress(httpx.HTTPError):
                return answers(copy.url + "/livez")()
            return False

        wait_for(ready, 240, every_s=0.1)
        self.ready.add(copy.name)

    def running(self) -> list[RunningServer]:
        return [copy for copy in self.copies if copy.process.poll() is None]

    def find_leader(self) -> RunningServer | None:
        """The copy that says that it dispatches; copies that do not answer say nothing."""
        leaders = []
        for copy in self.running():
            with contextlib.suppress(httpx.HTTPError):
                ready = httpx.get(f"{copy.url}/readyz", timeout=1).json()
                if (ready.get("dispatcher") or {}).get("leading"):
                    leaders.append(copy)
        assert len(leaders) <= 1, [copy.name for copy in leaders]
        return leaders[0] if leaders else None

    def wait_leader(self, *, other_than: RunningServer | None = None) -> RunningServer:
        def found() -> RunningServer | None:
            leader = self.find_leader()
            return None if leader is other_than else leader

        return wait_for(found, 120, every_s=0.05)

    async def submit(self, number: int, *, name: str = "k", pause_s: float = 0.0, twice: bool = True) -> None:
        """Submit jobs to all copies at once, some with the same key to two; each is repeated until it is accepted."""
        chance = random.Random(name)
        async with httpx.AsyncClient() as client:

            async def submit_one(key: str, index: int) -> None:
                await asyncio.sleep(pause_s * index)
                begin = time.monotonic()
                while True:
                    copies = [copy for copy in self.running() if copy.name in self.ready]
                    copy = copies[chance.randrange(len(copies))]
                    try:
                        body = {**BODY, "collection": key}
                        answer = await client.post(
                            f"{copy.url}/ray/jobs", json=body, headers={"Idempotency-Key": key}, timeout=10
                        )
                        if answer.status_code in {200, 202}:
                            self.keys.setdefault(key, set()).add(answer.json()["job_id"])
                            return
                        self.refused[str(answer.json()["code"])] += 1
                        assert answer.status_code == 503, answer.text
                    except httpx.HTTPError as error:
                        self.refused[type(error).__name__] += 1
                    assert time.monotonic() - begin < 120, (key, self.refused)
                    await asyncio.sleep(0.1)

            tasks = [(f"{name}_{index}", index) for index in range(number)]
            if twice:
                tasks += tasks[::3]
            await asyncio.gather(*(submit_one(key, index) for key, index in tasks))

    async def query(self, text: str) -> list[Any]:
        database = Database.open(self.url)
        try:
            async with database.reading() as connection:
                return list((await connection.execute(sa.text(text))).all())
        finally:
            await database.close()

    async def prepare(self) -> None:
        """Make the tables and record every change of a row from now on."""
        await (await JobStore.open(self.url)).close()
        await self.watch_rows()

    async def watch_rows(self) -> None:
        """Record every change of a row from now on."""
        await self._execute(AUDIT)

    async def empty(self) -> None:
        """Remove all tables."""
        await self._execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    async def _execute(self, script: str) -> None:
        database = Database.open(self.url)
        try:
            async with database.reading() as connection:
                raw = await connection.get_raw_connection()
                assert raw.driver_connection is not None
                await raw.driver_connection.execute(script)
        finally:
            await database.close()

    async def settle(self, timeout_s: float = 90.0) -> Findings:
        """Wait until every job has ended, and return what was found."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not await self.query(f"SELECT 1 FROM jobs WHERE state NOT IN {tuple(FINAL)} LIMIT 1"):
                break
            await asyncio.sleep(0.1)
        return await self.check()

    async def check(self) -> Findings:
        rows = await self.query("SELECT id, idempotency_key, state, attempt FROM jobs")
        by_key = Counter(key for _, key, _, _ in rows if key is not None)
        state_of = {job_id: state for job_id, _, state, _ in rows}
        (changes,) = (await self.query("SELECT count(*) FROM audit"))[0]
        assert changes >= 3 * len(rows), "the trigger has not noted the changes"
        promised = {job_id for ids in self.keys.values() for job_id in ids}
        found = Findings(accepted=len(promised), attempts=sum(attempt for *_, attempt in rows))
        found.lost = [f"{job}: {state_of.get(job)}" for job in sorted(promised) if state_of.get(job) != "succeeded"]
        found.doubled = [f"{key}: {ids}" for key, ids in self.keys.items() if len(ids) > 1]
        found.doubled += [f"{key}: {count} rows" for key, count in by_key.items() if count > 1]
        found.doubled += [
            f"{job}: {count} drivers" for job, count in self.host.started.items() if count > 1 + self.host.killed[job]
        ]
        found.doubled += self.host.overlaps
        found.set_back = [
            str(tuple(row))
            for row in await self.query(
                "SELECT * FROM audit "
                f"WHERE after_attempt < before_attempt OR before_state IN {tuple(FINAL)} OR revisions <> 1"
            )
        ]
        return found

    def close(self) -> None:
        for copy in self.copies:
            with contextlib.suppress(ProcessLookupError):
                copy.process.send_signal(signal.SIGCONT)
            copy.kill()


@contextlib.contextmanager
def running_copies(
    url: str, folder: Path, *, hold_s: float = 1.5, source: Path | None = None, **host: Any
) -> Iterator[Copies]:
    """Yield the world of a drill on an empty database; end all processes at the end."""
    engine = folder / "engine"
    engine.mkdir(parents=True)
    state = LocalStateStore((folder / "state").as_uri())
    with DriverHost(engine, state, **host) as drivers:
        copies = Copies(url, folder, drivers, hold_s, source)
        try:
            yield copies
        finally:
            copies.close()


def stop_during(copy: RunningServer, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Freeze a copy for some time, as a suspended machine would be."""
    copy.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    meanwhile()
    copy.process.send_signal(signal.SIGCONT)
